//! `securityContext` of pods and containers.

use std::collections::BTreeMap;

use super::fields::{At, Fields};
use super::pod::id;
use super::schema;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::pod::{
    Capabilities, Capability, ContainerSecurity, FsGroupChange, GroupsPolicy, HostNamespaces,
    PodSecurity, SeccompProfile, SysctlName, SysctlNamespace,
};

/// Groups of a pod's processes, and its settings of the kernel.
const GROUPS_MAX: usize = 1024;
const SYSCTLS_MAX: usize = 256;
/// Names in `capabilities.add` and `.drop`, each: more than there are.
const CAPABILITIES_MAX: usize = 256;
/// Longest value of a setting of the kernel, in bytes.
const SYSCTL_VALUE_LEN_MAX: usize = 4096;

/// What a container takes from the pod where it says nothing itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Inherited {
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
    non_root: Option<bool>,
    seccomp: Option<SeccompProfile>,
}

/// Reads `spec.securityContext`.
pub(super) fn of_pod(
    pod: &Fields<'_>,
    host: HostNamespaces,
    faults: &mut Faults,
) -> (PodSecurity, Inherited) {
    let fields = pod.get("securityContext").and_then(|at| at.fields(&schema::POD_SECURITY, faults));
    let Some(fields) = fields else { return Default::default() };
    let inherited = Inherited {
        user: id(&fields, "runAsUser", faults),
        group: id(&fields, "runAsGroup", faults),
        non_root: fields.get("runAsNonRoot").and_then(|at| at.boolean(faults)),
        seccomp: seccomp(&fields, faults),
    };
    let policies = [("Merge", GroupsPolicy::Merge), ("Strict", GroupsPolicy::Strict)];
    let policy = fields.get("supplementalGroupsPolicy");
    let changes =
        [("Always", FsGroupChange::Always), ("OnRootMismatch", FsGroupChange::OnRootMismatch)];
    let change = fields.get("fsGroupChangePolicy");
    let security = PodSecurity {
        groups: groups(&fields, faults),
        groups_policy: policy.and_then(|at| at.choice(&policies, faults)).unwrap_or_default(),
        fs_group: id(&fields, "fsGroup", faults),
        fs_group_change: change.and_then(|at| at.choice(&changes, faults)).unwrap_or_default(),
        sysctls: sysctls(&fields, host, faults),
    };
    (security, inherited)
}

fn groups(fields: &Fields<'_>, faults: &mut Faults) -> Vec<u32> {
    let Some(list) = fields.get("supplementalGroups") else { return Vec::new() };
    let items = list.items(GROUPS_MAX, faults);
    let number = |item: &At<'_>| item.integer(0..=super::pod::ID_MAX, faults);
    let found: Vec<i64> = items.iter().filter_map(number).collect();
    found.into_iter().filter_map(|id| u32::try_from(id).ok()).collect()
}

fn sysctls(
    fields: &Fields<'_>,
    host: HostNamespaces,
    faults: &mut Faults,
) -> BTreeMap<SysctlName, String> {
    let mut found = BTreeMap::new();
    let Some(list) = fields.get("sysctls") else { return found };
    for item in list.items(SYSCTLS_MAX, faults) {
        let Some(fields) = item.fields(&schema::SYSCTL, faults) else { continue };
        let name_at = fields.required("name", faults);
        let name: Option<SysctlName> = name_at.and_then(|at| at.parse(faults));
        let value_at = fields.required("value", faults);
        let value = value_at.and_then(|at| Some((at, at.c_text(faults)?)));
        let (Some(name_at), Some(name)) = (name_at, name) else { continue };
        let of_host = match name.namespace() {
            SysctlNamespace::Network => host.network.then_some("hostNetwork"),
            SysctlNamespace::Ipc => host.ipc.then_some("hostIPC"),
        };
        if let Some(flag) = of_host {
            let message = format!("{name} would be the host's, because of `{flag}: true`");
            faults.push(name_at.error(&message));
        }
        let Some((value_at, value)) = value else { continue };
        if value.len() > SYSCTL_VALUE_LEN_MAX || value.contains('\n') {
            let message = format!("must be one line of at most {SYSCTL_VALUE_LEN_MAX} bytes");
            faults.push(value_at.error(&message));
        }
        if found.insert(name.clone(), value.to_owned()).is_some() {
            faults.push(item.error(&format!("`{name}` is set twice")));
        }
    }
    found
}

/// `seccompProfile.type`.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Default,
    None,
    File,
}

fn seccomp(fields: &Fields<'_>, faults: &mut Faults) -> Option<SeccompProfile> {
    let at = fields.get("seccompProfile")?;
    let fields = at.fields(&schema::SECCOMP, faults)?;
    let file_at = fields.get("localhostProfile");
    let words =
        [("RuntimeDefault", Kind::Default), ("Unconfined", Kind::None), ("Localhost", Kind::File)];
    let kind = fields.required("type", faults).and_then(|at| at.choice(&words, faults))?;
    let profile = match kind {
        Kind::Default => SeccompProfile::RuntimeDefault,
        Kind::None => SeccompProfile::Unconfined,
        Kind::File => {
            let Some(at) = file_at else {
                let message = "`type: Localhost` needs `localhostProfile`, a file of this node";
                faults.push(fields.at.error(message));
                return None;
            };
            return at.parse(faults).map(SeccompProfile::Localhost);
        }
    };
    if let Some(at) = file_at {
        faults.push(at.error("only `type: Localhost` has a file"));
    }
    Some(profile)
}

/// `securityContext` of a container, with what it takes from the pod.
#[derive(Debug, Default)]
pub(super) struct OfContainer {
    pub(super) user: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) read_only_root: bool,
    pub(super) security: ContainerSecurity,
}

/// Reads `securityContext` of a container.
pub(super) fn of_container(
    container: &Fields<'_>,
    inherited: &Inherited,
    faults: &mut Faults,
) -> OfContainer {
    let at = container.get("securityContext");
    let fields = at.and_then(|at| at.fields(&schema::CONTAINER_SECURITY, faults));
    let own = fields.as_ref().map(|fields| own(fields, faults)).unwrap_or_default();
    // Without an image nothing else says who runs it.
    let default = container.at.member("image").is_none().then_some(0);
    let user = own.user.or(inherited.user).or(default);
    let non_root = own.non_root.or(inherited.non_root).unwrap_or(false);
    // One that could not be read has been told of.
    let is_faulty = own.user.is_none() && at.is_some_and(|at| at.member("runAsUser").is_some());
    if non_root && user == Some(0) && !is_faulty {
        let at = fields.as_ref().map_or(container.at, |fields| fields.at);
        let fault = at.error("`runAsNonRoot: true` is set, but it would run as root");
        faults.push(fault.with_help("set `runAsUser` to a number above 0"));
    }
    OfContainer {
        user,
        group: own.group.or(inherited.group).or(default),
        read_only_root: own.read_only_root,
        security: ContainerSecurity {
            add: own.add,
            drop: own.drop,
            privileged: own.privileged,
            allow_escalation: own.allow_escalation,
            non_root,
            seccomp: own.seccomp.or_else(|| inherited.seccomp.clone()).unwrap_or_default(),
        },
    }
}

/// What a container says itself.
#[derive(Debug, Default)]
struct Own {
    user: Option<u32>,
    group: Option<u32>,
    read_only_root: bool,
    non_root: Option<bool>,
    seccomp: Option<SeccompProfile>,
    privileged: bool,
    allow_escalation: bool,
    add: Capabilities,
    drop: Capabilities,
}

fn own(fields: &Fields<'_>, faults: &mut Faults) -> Own {
    let privileged = fields.flag("privileged", faults);
    let escalation_at = fields.get("allowPrivilegeEscalation");
    let escalation = escalation_at.and_then(|at| at.boolean(faults));
    let (mut add, mut drop) = (Capabilities::default(), Capabilities::default());
    let lists = fields.get("capabilities");
    if let Some(lists) = lists.and_then(|at| at.fields(&schema::CAPABILITIES, faults)) {
        for (name, list) in [("add", &mut add), ("drop", &mut drop)] {
            *list = lists.get(name).map(|at| capabilities(at, faults)).unwrap_or_default();
        }
    }
    if let (Some(at), Some(false)) = (escalation_at, escalation) {
        // As the API server of Kubernetes has it: these would be gained already.
        let admin = add.all || add.names.iter().any(|name| name.name() == "SYS_ADMIN");
        let gained = [("privileged: true", privileged), ("SYS_ADMIN in `capabilities.add`", admin)];
        for (what, _) in gained.into_iter().filter(|(_, is_set)| *is_set) {
            faults.push(at.error(&format!("can't be false together with {what}")));
        }
    }
    Own {
        user: id(fields, "runAsUser", faults),
        group: id(fields, "runAsGroup", faults),
        read_only_root: fields.flag("readOnlyRootFilesystem", faults),
        non_root: fields.get("runAsNonRoot").and_then(|at| at.boolean(faults)),
        seccomp: seccomp(fields, faults),
        privileged,
        allow_escalation: escalation.unwrap_or(false),
        add,
        drop,
    }
}

fn capabilities(at: At<'_>, faults: &mut Faults) -> Capabilities {
    let mut found = Capabilities::default();
    for item in at.items(CAPABILITIES_MAX, faults) {
        let Some(text) = item.text(faults) else { continue };
        if text.eq_ignore_ascii_case("ALL") || text.eq_ignore_ascii_case("CAP_ALL") {
            found.all = true;
            continue;
        }
        match text.parse::<Capability>() {
            Ok(capability) => drop(found.names.insert(capability)),
            Err(error) => {
                let fault = item.error(&error.to_string());
                let known = Capability::all().map(Capability::name);
                let near = super::closest(&text.to_ascii_uppercase(), known);
                faults.push(match near {
                    Some(near) => fault.with_help(&format!("did you mean {}?", quote(near))),
                    None => fault,
                });
            }
        }
    }
    found
}
