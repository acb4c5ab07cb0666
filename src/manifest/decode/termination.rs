//! `terminationMessagePath` and `terminationMessagePolicy` of a container.

use std::path::Path;

use super::fields::{At, Fields};
use crate::manifest::diagnostic::Faults;
use crate::manifest::pod::{AbsolutePath, MessagePolicy, TerminationMessage, VolumeMount};

/// Reads both. Where volumes are mounted is known.
pub(super) fn decode(
    container: &Fields<'_>,
    mounts: &[VolumeMount],
    faults: &mut Faults,
) -> TerminationMessage {
    // An empty text is how tools write that there is none.
    let at = container.get("terminationMessagePath").filter(|at| at.node.as_text() != Some(""));
    let path = match at {
        Some(at) => message_path(at, mounts, faults),
        None => {
            let default = Path::new(TerminationMessage::PATH_DEFAULT);
            if let Some(mount) = mount_over(default, mounts) {
                let VolumeMount { volume, path, .. } = mount;
                let message =
                    format!("volume `{volume}` is mounted on {path}, where its messages go");
                let help = "set `terminationMessagePath` to a file elsewhere";
                faults.push(container.at.error(&message).with_help(help));
            }
            None
        }
    };
    let own_path = path.filter(|path| path.as_str() != TerminationMessage::PATH_DEFAULT);
    let words = [
        ("File", MessagePolicy::File),
        ("FallbackToLogsOnError", MessagePolicy::FallbackToLogsOnError),
    ];
    let at = container.get("terminationMessagePolicy");
    let policy = at.and_then(|at| at.choice(&words, faults)).unwrap_or_default();
    TerminationMessage { own_path, policy }
}

fn message_path(at: At<'_>, mounts: &[VolumeMount], faults: &mut Faults) -> Option<AbsolutePath> {
    let path: AbsolutePath = at.parse(faults)?;
    let own = Path::new(path.as_str());
    if path.is_root() {
        faults.push(at.error("must be the path of a file"));
        return None;
    }
    // Directories of the kernel, in which no file can be made.
    if let Some(taken) = ["/proc", "/sys"].into_iter().find(|taken| own.starts_with(taken)) {
        faults.push(at.error(&format!("no file can be made in `{taken}`")));
        return None;
    }
    // The file would hide the volume, or have no place.
    if let Some(mount) = mount_over(own, mounts) {
        let message = format!("volume `{}` is mounted on {}", mount.volume, mount.path);
        let fault = at.error(&message).with_help("name a file in it, or one elsewhere");
        faults.push(fault);
        return None;
    }
    Some(path)
}

/// A volume at the file's place, or below it.
fn mount_over<'m>(file: &Path, mounts: &'m [VolumeMount]) -> Option<&'m VolumeMount> {
    mounts.iter().find(|mount| Path::new(mount.path.as_str()).starts_with(file))
}
