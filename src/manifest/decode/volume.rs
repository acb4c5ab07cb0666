//! `spec.volumes[]`.

use super::config::{self, Around};
use super::fields::{At, Fields};
use super::{container, image, schema};
use crate::ids::VolumeName;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::node::{Kind, Node};
use crate::manifest::pod::{HostPathType, ProjectedForm, Volume, VolumeSource};

/// Sources that work.
const SOURCES: [&str; 8] = [
    "emptyDir",
    "hostPath",
    "image",
    "persistentVolumeClaim",
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
];
/// What Kubernetes calls the volume that it adds to every pod for its own API.
const API_ACCESS: &str = "kube-api-access-";
/// Smallest `sizeLimit`: a page. Less is a slip, such as `64m` (milli) for `64M`.
const SIZE_LIMIT_MIN: u64 = 4096;

/// Whether it is the volume that Kubernetes adds to every pod for its own API, which is not here:
/// it is left out, and the pod runs without it.
pub(super) fn is_api_access(at: At<'_>, faults: &mut Faults) -> bool {
    let name = at.node.get("name").and_then(Node::as_text).unwrap_or_default();
    let sources = at.node.get("projected").and_then(|it| it.get("sources"));
    let has_token = match sources.map(|sources| &sources.kind) {
        Some(Kind::Sequence(items)) => {
            items.iter().any(|item| item.get("serviceAccountToken").is_some())
        }
        Some(Kind::Scalar(_) | Kind::Mapping(_)) | None => false,
    };
    let is_it = name.starts_with(API_ACCESS) && has_token;
    if is_it {
        let message = format!(
            "volume {} and its mounts have no effect: there is no API of Kubernetes to talk to",
            quote(name)
        );
        faults.push(at.warning(&message));
    }
    is_it
}

/// Reads a volume.
pub(super) fn decode(at: At<'_>, around: Around<'_>, faults: &mut Faults) -> Option<Volume> {
    let fields = at.fields(&schema::VOLUME, faults)?;
    let name: Option<VolumeName> = fields.required("name", faults).and_then(|at| at.parse(faults));
    let source = source(&fields, around, faults);
    Some(Volume { name: name?, source: source? })
}

fn source(fields: &Fields<'_>, around: Around<'_>, faults: &mut Faults) -> Option<VolumeSource> {
    // A source that does not work has been refused by name; then none is missing.
    let named = match &fields.at.node.kind {
        Kind::Mapping(entries) => {
            entries.iter().filter(|(key, node)| key.text != "name" && !node.is_null()).count()
        }
        Kind::Scalar(_) | Kind::Sequence(_) => 0,
    };
    let found = SOURCES.map(|name| Some((name, fields.get(name)?)));
    let mut found = found.into_iter().flatten();
    let Some((first, at)) = found.next() else {
        if named == 0 {
            let help = "add `emptyDir: {}`, `configMap`, `secret`, `hostPath`, \
                        `persistentVolumeClaim` or `image`";
            faults.push(fields.at.error("this volume has no source").with_help(help));
        }
        return None;
    };
    if let Some((_, second)) = found.next() {
        let message = format!("a volume has one source, but `{first}` is set as well");
        faults.push(second.error(&message));
        return None;
    }
    let projected = |form, faults: &mut Faults| {
        let found = config::projected(at, form, around, faults)?;
        Some(VolumeSource::Projected(Box::new(found)))
    };
    match first {
        "emptyDir" => empty_dir(at, faults),
        "hostPath" => host_path(at, faults),
        "persistentVolumeClaim" => {
            let fields = at.fields(&schema::CLAIM, faults)?;
            let read_only = fields.flag("readOnly", faults);
            let claim = fields.required("claimName", faults)?.parse(faults)?;
            Some(VolumeSource::Claim { claim, read_only })
        }
        "configMap" => projected(ProjectedForm::ConfigMap, faults),
        "secret" => projected(ProjectedForm::Secret, faults),
        "downwardAPI" => projected(ProjectedForm::DownwardApi, faults),
        "projected" => projected(ProjectedForm::Projected, faults),
        _ => {
            let fields = at.fields(&schema::IMAGE, faults)?;
            Some(VolumeSource::Image(Box::new(image::decode_volume(&fields, faults)?)))
        }
    }
}

fn empty_dir(at: At<'_>, faults: &mut Faults) -> Option<VolumeSource> {
    let fields = at.fields(&schema::EMPTY_DIR, faults)?;
    let media = [("", false), ("Memory", true)];
    let medium = fields.get("medium");
    let in_memory = match medium {
        Some(at) => at.choice(&media, faults),
        None => Some(false),
    };
    let limit_at = fields.get("sizeLimit");
    let size_limit = limit_at.and_then(|at| container::bytes(&at, SIZE_LIMIT_MIN, faults));
    if !in_memory? {
        return Some(VolumeSource::EmptyDir { size_limit });
    }
    Some(VolumeSource::Memory { size_limit })
}

fn host_path(at: At<'_>, faults: &mut Faults) -> Option<VolumeSource> {
    let fields = at.fields(&schema::HOST_PATH, faults)?;
    let kinds = [
        ("", HostPathType::Unchecked),
        ("DirectoryOrCreate", HostPathType::DirectoryOrCreate),
        ("Directory", HostPathType::Directory),
        ("FileOrCreate", HostPathType::FileOrCreate),
        ("File", HostPathType::File),
        ("Socket", HostPathType::Socket),
        ("CharDevice", HostPathType::CharDevice),
        ("BlockDevice", HostPathType::BlockDevice),
    ];
    let path = fields.required("path", faults).and_then(|at| at.parse(faults));
    let kind = match fields.get("type") {
        Some(at) => at.choice(&kinds, faults),
        None => Some(HostPathType::Unchecked),
    };
    Some(VolumeSource::HostPath { path: path?, kind: kind? })
}
