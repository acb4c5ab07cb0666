//! `spec.containers[].volumeMounts`.

use std::collections::{BTreeMap, BTreeSet};

use super::fields::{At, Fields};
use super::pod::VOLUMES_MAX;
use super::schema;
use super::suggest::closest;
use crate::ids::VolumeName;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::expansion::references;
use crate::manifest::node::{Kind, Node};
use crate::manifest::pod::{AbsolutePath, Propagation, RelativePath, SubPath, VolumeMount};

/// Longest `subPathExpr`, in bytes: what it becomes is a path, and those have this limit.
const EXPRESSION_LEN_MAX: usize = 4096;

/// The pod's volumes, and whether each outlives the pod on the host's disk: what others are is the
/// pod's alone, and goes with all that is in it.
pub(super) type Volumes = BTreeMap<VolumeName, bool>;

/// Reads the mounts of a container.
pub(super) fn decode(
    container: &Fields<'_>,
    is_privileged: bool,
    volumes: &Volumes,
    faults: &mut Faults,
) -> Vec<VolumeMount> {
    let Some(at) = container.get("volumeMounts") else { return Vec::new() };
    let variables = Variables::of(container.at.node);
    let mut seen: BTreeMap<AbsolutePath, u32> = BTreeMap::new();
    let mut found = Vec::new();
    for item in at.items(VOLUMES_MAX, faults) {
        let Some(fields) = item.fields(&schema::VOLUME_MOUNT, faults) else { continue };
        let name_at = fields.required("name", faults);
        let volume: Option<VolumeName> = name_at.and_then(|at| at.parse(faults));
        if let (Some(at), Some(name)) = (name_at, &volume)
            && !volumes.contains_key(name)
        {
            let fault = at.error(&format!("there is no volume `{name}` in `spec.volumes`"));
            faults.push(match closest(name.as_str(), volumes.keys().map(VolumeName::as_str)) {
                Some(near) => fault.with_help(&format!("did you mean `{near}`?")),
                None => fault,
            });
        }
        let path_at = fields.required("mountPath", faults);
        let path = path_at.and_then(|at| mount_path(at, faults));
        if let (Some(at), Some(path)) = (path_at, &path) {
            if let Some(line) = seen.get(path) {
                let message = format!("`{path}` is mounted twice; first in line {line}");
                faults.push(at.error(&message));
            }
            seen.insert(path.clone(), at.position().line);
        }
        let read_only = fields.flag("readOnly", faults);
        let propagation = propagation(&fields, read_only, faults);
        let sub_path = sub_path(&fields, &variables, faults);
        if let (Some(at), Propagation::Bidirectional) =
            (fields.get("mountPropagation"), propagation)
        {
            let outlives = volume.as_ref().and_then(|name| volumes.get(name));
            two_ways(at, is_privileged, outlives != Some(&false), faults);
        }
        if let (Some(volume), Some(path)) = (volume, path) {
            found.push(VolumeMount { volume, path, read_only, sub_path, propagation });
        }
    }
    found
}

fn mount_path(at: At<'_>, faults: &mut Faults) -> Option<AbsolutePath> {
    let path: AbsolutePath = at.parse(faults)?;
    if path.is_root() {
        faults.push(at.error("nothing can be mounted over `/`"));
        return None;
    }
    // A mount there could take away the protection of the kernel's own files (runc refuses it
    // for the same reason: CVE-2019-16884).
    if path.as_str() == "/proc" || path.as_str().starts_with("/proc/") {
        faults.push(at.error("nothing can be mounted over `/proc`"));
        return None;
    }
    Some(path)
}

/// `mountPropagation`, and `recursiveReadOnly`, which goes with it. Every read-only mount here is
/// read-only with all below it, so that nothing of the latter has to be kept.
fn propagation(fields: &Fields<'_>, read_only: bool, faults: &mut Faults) -> Propagation {
    let words = [
        ("None", Propagation::None),
        ("HostToContainer", Propagation::HostToContainer),
        ("Bidirectional", Propagation::Bidirectional),
    ];
    let at = fields.get("mountPropagation");
    let propagation = at.and_then(|at| at.choice(&words, faults)).unwrap_or_default();
    let recursive = [("Disabled", false), ("IfPossible", true), ("Enabled", true)];
    if let Some(at) = fields.get("recursiveReadOnly")
        && at.choice(&recursive, faults) == Some(true)
    {
        if !read_only {
            faults.push(at.error("needs `readOnly: true` beside it"));
        } else if propagation != Propagation::None {
            let message = "can't be together with `mountPropagation`: what is mounted later would \
                           not be read-only";
            faults.push(at.error(message));
        }
    }
    propagation
}

/// As in Kubernetes, only who may mount on the host anyway may do so by a volume.
fn two_ways(at: At<'_>, is_privileged: bool, outlives: bool, faults: &mut Faults) {
    if !is_privileged {
        let fault = at.error("`Bidirectional` needs `securityContext.privileged: true`");
        faults.push(fault.with_help("`HostToContainer` shows what is mounted on the host later"));
    }
    if !outlives {
        let message = "`Bidirectional` needs a volume that stays on the host: a hostPath, or a \
                       persistentVolumeClaim";
        faults.push(at.error(message));
    }
}

fn sub_path(fields: &Fields<'_>, variables: &Variables, faults: &mut Faults) -> Option<SubPath> {
    let (path_at, expression_at) = (fields.get("subPath"), fields.get("subPathExpr"));
    // An empty text is how tools write that there is none.
    let set = |at: &At<'_>| at.node.as_text() != Some("");
    let (path_at, expression_at) = (path_at.filter(set), expression_at.filter(set));
    if let (Some(_), Some(at)) = (path_at, expression_at) {
        faults.push(at.error("can't be set together with `subPath`"));
        return None;
    }
    if let Some(at) = path_at {
        return at.parse::<RelativePath>(faults).map(SubPath::Path);
    }
    let at = expression_at?;
    let text = at.c_text(faults)?;
    if text.len() > EXPRESSION_LEN_MAX {
        faults.push(at.error(&format!("must be at most {EXPRESSION_LEN_MAX} bytes")));
        return None;
    }
    // What variables bring in is looked at when they are known.
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        faults.push(at.error("must be relative to the volume, without `..` in it"));
        return None;
    }
    for name in references(text).filter(|name| !variables.may_have(name)) {
        let message = format!("there is no variable {} in `env`", quote(name));
        let fault = at.error(&message);
        faults.push(match closest(name, variables.names.iter().map(String::as_str)) {
            Some(near) => fault.with_help(&format!("did you mean `$({near})`?")),
            None => fault,
        });
    }
    Some(SubPath::Expression(text.to_owned()))
}

/// The names of a container's variables.
struct Variables {
    names: BTreeSet<String>,
    /// More may come from elsewhere.
    is_open: bool,
}

impl Variables {
    fn of(container: &Node) -> Self {
        let names = match container.get("env").map(|env| &env.kind) {
            Some(Kind::Sequence(items)) => {
                let name = |item: &Node| item.get("name")?.as_text().map(str::to_owned);
                items.iter().filter_map(name).collect()
            }
            Some(Kind::Scalar(_) | Kind::Mapping(_)) | None => BTreeSet::new(),
        };
        let is_open = container.get("envFrom").is_some_and(|from| !from.is_null());
        Self { names, is_open }
    }

    fn may_have(&self, name: &str) -> bool {
        self.is_open || self.names.contains(name)
    }
}
