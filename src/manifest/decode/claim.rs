//! A PersistentVolumeClaim: what its document asks for is looked at here, and nothing of it is kept.
//!
//! A claim is a directory of this node, made when a pod first uses it: there is nothing to be
//! chosen, and no pod waits for the document. So the document only has to ask for what such a
//! directory is.

use super::fields::At;
use super::{container, metadata, schema};
use crate::manifest::diagnostic::{Faults, quote};

/// Entries of `accessModes`: there are four.
const MODES_MAX: usize = 8;

/// Looks at a document.
pub(super) fn check(at: At<'_>, faults: &mut Faults) {
    let Some(fields) = at.fields(&schema::CLAIM_DOCUMENT, faults) else { return };
    if let Some(version) = fields.required("apiVersion", faults)
        && let Some(found) = version.text(faults).filter(|found| *found != "v1")
    {
        let message = format!("must be `v1`, but this is {}", quote(found));
        faults.push(version.error(&message));
    }
    fields.get("kind");
    fields.required("metadata", faults).and_then(|at| metadata::decode(at, faults));
    let Some(spec) = fields.required("spec", faults) else { return };
    let Some(spec) = spec.fields(&schema::CLAIM_DOCUMENT_SPEC, faults) else { return };
    if let Some(list) = spec.get("accessModes") {
        let modes = [
            ("ReadWriteOnce", true),
            ("ReadOnlyMany", true),
            ("ReadWriteMany", true),
            ("ReadWriteOncePod", false),
        ];
        for item in list.items(MODES_MAX, faults) {
            if item.choice(&modes, faults) == Some(false) {
                let fault = item.error("`ReadWriteOncePod` is not supported yet");
                let help = "`ReadWriteOnce` lets every pod of this node use the volume";
                faults.push(fault.with_help(help));
            }
        }
    }
    if let Some(at) = spec.get("volumeMode") {
        at.choice(&[("Filesystem", ())], faults);
    }
    let resources = spec.get("resources");
    let resources = resources.and_then(|at| at.fields(&schema::CLAIM_DOCUMENT_RESOURCES, faults));
    let requests = resources.as_ref().and_then(|fields| fields.get("requests"));
    let requests = requests.and_then(|at| at.fields(&schema::CLAIM_DOCUMENT_REQUESTS, faults));
    let storage = requests.as_ref().and_then(|fields| fields.get("storage"));
    if let Some(at) = storage
        && container::bytes(&at, 1, faults).is_some()
    {
        let message = "is not enforced: the volume may take what its file system has";
        faults.push(at.warning(message));
    }
}
