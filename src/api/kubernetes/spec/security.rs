//! `securityContext` and names of pods, as manifests have them.

use serde_json::{Map, Value, json};

use crate::manifest::pod::{
    Capabilities, Capability, ContainerSecurity, Dns, DnsBase, Domain, FsGroupChange, GroupsPolicy,
    Names, PodSecurity, SeccompProfile,
};

/// Host name, aliases and DNS.
pub(super) fn names_of(hostname: &str, names: &Names, out: &mut Map<String, Value>) {
    let Names { domain, aliases, dns } = names;
    let name = match domain {
        Domain::None => "hostname",
        Domain::Subdomain { name, in_hostname } => {
            out.insert("subdomain".into(), name.as_str().into());
            if *in_hostname {
                out.insert("setHostnameAsFQDN".into(), true.into());
            }
            "hostname"
        }
        Domain::Override => "hostnameOverride",
    };
    out.insert(name.into(), hostname.into());
    if !aliases.is_empty() {
        out.insert("hostAliases".into(), json!(aliases));
    }
    let Dns { base, nameservers, searches, options } = dns;
    match base {
        DnsBase::Host => {}
        DnsBase::Nothing => drop(out.insert("dnsPolicy".into(), "None".into())),
    }
    let mut config = Map::new();
    if !nameservers.is_empty() {
        config.insert("nameservers".into(), json!(nameservers));
    }
    if !searches.is_empty() {
        config.insert("searches".into(), json!(searches));
    }
    if !options.is_empty() {
        config.insert("options".into(), json!(options));
    }
    if !config.is_empty() {
        out.insert("dnsConfig".into(), config.into());
    }
}

/// `securityContext` of a pod.
pub(super) fn pod_security(security: &PodSecurity) -> Map<String, Value> {
    let PodSecurity { groups, groups_policy, fs_group, fs_group_change, sysctls } = security;
    let mut out = Map::new();
    if !groups.is_empty() {
        out.insert("supplementalGroups".into(), json!(groups));
    }
    match groups_policy {
        GroupsPolicy::Merge => {}
        GroupsPolicy::Strict => {
            out.insert("supplementalGroupsPolicy".into(), "Strict".into());
        }
    }
    out.extend(fs_group.map(|group| ("fsGroup".to_owned(), group.into())));
    match fs_group_change {
        FsGroupChange::Always => {}
        FsGroupChange::OnRootMismatch => {
            out.insert("fsGroupChangePolicy".into(), "OnRootMismatch".into());
        }
    }
    if !sysctls.is_empty() {
        let one = |(name, value)| json!({ "name": name, "value": value });
        out.insert("sysctls".into(), sysctls.iter().map(one).collect());
    }
    out
}

/// `securityContext` of a container, but users and the root file system.
pub(super) fn container_security(security: &ContainerSecurity, out: &mut Map<String, Value>) {
    let ContainerSecurity { add, drop, privileged, allow_escalation, non_root, seccomp } = security;
    let mut lists = Map::new();
    for (name, Capabilities { all, names }) in [("add", add), ("drop", drop)] {
        let names = names.iter().copied().map(Capability::name);
        let list: Vec<&str> = all.then_some("ALL").into_iter().chain(names).collect();
        if !list.is_empty() {
            lists.insert(name.into(), json!(list));
        }
    }
    if !lists.is_empty() {
        out.insert("capabilities".into(), lists.into());
    }
    let flags = [
        ("privileged", *privileged),
        ("allowPrivilegeEscalation", *allow_escalation),
        ("runAsNonRoot", *non_root),
    ];
    for (name, _) in flags.into_iter().filter(|(_, is_set)| *is_set) {
        out.insert(name.into(), true.into());
    }
    let profile = match seccomp {
        SeccompProfile::RuntimeDefault => return,
        SeccompProfile::Unconfined => json!({ "type": "Unconfined" }),
        SeccompProfile::Localhost(file) => {
            json!({ "type": "Localhost", "localhostProfile": file })
        }
    };
    out.insert("seccompProfile".into(), profile);
}
