//! What a pod needs of images before it may become what it wants. PURE.
//!
//! A specification names images; which ones these are is found out when it is to be accepted, and
//! stays with it (`manifest::pod::Image::resolved`). As long as one of them is not here, the pod
//! waits, and what ran before runs on. Whose images are sought is decided anew with every plan, so
//! the search for what nobody wants any more ends. Not here: searching (`agent::images`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::plan::WaitReason;
use super::pressure::PressureKind;
use crate::ids::PodName;
use crate::manifest::pod::PodSpec;
use crate::provisioner::store::ImageId;

/// What is known of images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Images {
    /// Those with all their layers.
    pub here: BTreeSet<ImageId>,
    /// How far the search for a pod's images has come; absent while it has said nothing yet.
    pub sought: BTreeMap<PodName, Sought>,
}

/// How far the search for the images of a pod has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// They are not here, and are being got.
    Pulling(String),
    /// They could not be got; it is tried again.
    Failed {
        /// What kind of trouble it is.
        trouble: ImageTrouble,
        /// What was attempted, what came of it, and when it is tried again.
        text: String,
    },
}

/// Why an image could not be got, in Kubernetes' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageTrouble {
    /// The last attempt failed a moment ago.
    ErrImagePull,
    /// It failed, and the next attempt is a while off.
    ImagePullBackOff,
    /// It is not here, and must not be pulled.
    ErrImageNeverPull,
    /// Its source can't name an image after all.
    InvalidImageName,
}

impl fmt::Display for ImageTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ErrImagePull => "ErrImagePull",
            Self::ImagePullBackOff => "ImagePullBackOff",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::InvalidImageName => "InvalidImageName",
        })
    }
}

/// Why a pod can't become what it wants, for now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal<'a> {
    /// There is no room.
    Room(&'a str),
    /// The node is under pressure.
    Pressure(PressureKind, &'a str),
    /// Another pod has to be so far first.
    Order(&'a str),
    /// A ConfigMap or Secret is missing.
    Config(&'a str),
    /// Nobody has looked yet whether its images are here.
    Unclear,
    /// Its images are not here.
    Images(&'a Sought),
}

impl Refusal<'_> {
    pub(super) fn is_of_images(self) -> bool {
        match self {
            Self::Room(_) | Self::Pressure(..) | Self::Order(_) | Self::Config(_) => false,
            Self::Unclear | Self::Images(_) => true,
        }
    }

    pub(super) fn is_unclear(self) -> bool {
        match self {
            Self::Unclear => true,
            Self::Room(_)
            | Self::Pressure(..)
            | Self::Order(_)
            | Self::Config(_)
            | Self::Images(_) => false,
        }
    }

    pub(super) fn in_words(self) -> (String, WaitReason) {
        match self {
            Self::Room(why) => (why.to_owned(), WaitReason::Room),
            Self::Pressure(kind, why) => (why.to_owned(), WaitReason::Pressure(kind)),
            Self::Order(why) => (why.to_owned(), WaitReason::Order),
            Self::Config(why) => (why.to_owned(), WaitReason::Config),
            Self::Unclear => {
                ("looks for its images".to_owned(), WaitReason::Images { is_pulling: false })
            }
            Self::Images(Sought::Pulling(text)) => {
                (text.clone(), WaitReason::Images { is_pulling: true })
            }
            Self::Images(Sought::Failed { trouble, text }) => {
                (text.clone(), WaitReason::Trouble(*trouble))
            }
        }
    }
}

impl Images {
    /// Whether it is unknown which image something is, or that one is not here.
    #[must_use]
    pub fn lacks_any(&self, spec: &PodSpec) -> bool {
        spec.images().any(|image| {
            image.resolved.as_ref().is_none_or(|resolved| !self.here.contains(&resolved.id))
        })
    }

    pub(super) fn refusal(&self, name: &PodName, spec: &PodSpec) -> Option<Refusal<'_>> {
        let sought = || self.sought.get(name).map_or(Refusal::Unclear, Refusal::Images);
        self.lacks_any(spec).then(sought)
    }
}

#[cfg(test)]
mod tests;
