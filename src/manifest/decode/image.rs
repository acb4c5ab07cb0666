//! `image` and `imagePullPolicy`, of containers and volumes.

use super::fields::{At, Fields};
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::pod::Image;
use crate::provisioner::reference::{ImageSource, PullPolicy};

const POLICIES: [(&str, PullPolicy); 3] = [
    ("Always", PullPolicy::Always),
    ("IfNotPresent", PullPolicy::IfNotPresent),
    ("Never", PullPolicy::Never),
];

/// Reads the image of a container, if it has one.
pub(super) fn decode(fields: &Fields<'_>, faults: &mut Faults) -> Option<Image> {
    let policy_at = fields.get("imagePullPolicy");
    let policy = policy_at.and_then(|at| at.choice(&POLICIES, faults));
    let Some(at) = fields.get("image") else {
        if let Some(at) = policy_at {
            let why = "has no effect: there is no `image` to pull";
            faults.push(at.warning(why));
        }
        return None;
    };
    read(at, policy, faults)
}

/// Reads the image of a volume.
pub(super) fn decode_volume(fields: &Fields<'_>, faults: &mut Faults) -> Option<Image> {
    let policy = fields.get("pullPolicy").and_then(|at| at.choice(&POLICIES, faults));
    read(fields.required("reference", faults)?, policy, faults)
}

fn read(at: At<'_>, policy: Option<PullPolicy>, faults: &mut Faults) -> Option<Image> {
    let text = at.text(faults)?;
    match text.parse::<ImageSource>() {
        Ok(source) => {
            let pull = policy.unwrap_or_else(|| PullPolicy::default_for(&source));
            Some(Image { source, pull, resolved: None })
        }
        Err(error) => {
            faults.push(at.error(&format!("{} names no image: {}", quote(text), error.fault())));
            None
        }
    }
}
