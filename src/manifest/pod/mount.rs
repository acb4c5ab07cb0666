//! [`VolumeMount`]: where a volume, or a part of one, appears in a container.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{AbsolutePath, PodSpec, is_default};
use crate::ids::VolumeName;

/// One of `volumeMounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeMount {
    /// A volume of the pod.
    pub volume: VolumeName,
    /// Where it appears in the container; never `/`.
    pub path: AbsolutePath,
    /// `readOnly`; with everything that is mounted below it, whatever `recursiveReadOnly` says.
    pub read_only: bool,
    /// `subPath` or `subPathExpr`: only that of the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<SubPath>,
    /// `mountPropagation`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub propagation: Propagation,
}

/// Which part of a volume is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum SubPath {
    /// `subPath`.
    Path(RelativePath),
    /// `subPathExpr`, with `$(NAME)` for variables of the container. It is known when the
    /// container is launched, because not every variable is before.
    Expression(String),
}

/// `mountPropagation`: whether what is mounted later is seen on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither way.
    #[default]
    None,
    /// What is mounted below the volume on the host appears in the container.
    HostToContainer,
    /// And what is mounted there in the container appears on the host, and in other containers with
    /// the volume.
    Bidirectional,
}

impl PodSpec {
    /// Whether a container mounts the volume so that what it mounts there appears on the host.
    #[must_use]
    pub fn is_two_way(&self, volume: &VolumeName) -> bool {
        let mut mounts = self.all_containers().flat_map(|container| &container.mounts);
        mounts
            .any(|mount| mount.volume == *volume && mount.propagation == Propagation::Bidirectional)
    }
}

/// A path below something: without `..` and NUL, and not empty. `.` and empty parts are left out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelativePath(String);

/// A path that is not a [`RelativePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("path `{0}` must be relative (not begin with `/`), without `..` in it")]
pub struct InvalidRelativePath(String);

/// `PATH_MAX` of Linux with its NUL, in bytes.
const RELATIVE_PATH_LEN_MAX: usize = 4095;

impl RelativePath {
    /// The path as text; does neither begin nor end with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RelativePath {
    type Err = InvalidRelativePath;
    fn from_str(text: &str) -> Result<Self, InvalidRelativePath> {
        let parts: Vec<&str> =
            text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let is_bad = |part: &&str| *part == ".." || part.contains('\0');
        let too_long = text.len() > RELATIVE_PATH_LEN_MAX;
        if text.starts_with('/') || parts.is_empty() || too_long || parts.iter().any(is_bad) {
            return Err(InvalidRelativePath(text.chars().take(256).collect()));
        }
        Ok(Self(parts.join("/")))
    }
}

impl TryFrom<String> for RelativePath {
    type Error = InvalidRelativePath;
    fn try_from(text: String) -> Result<Self, InvalidRelativePath> {
        text.parse()
    }
}

impl From<RelativePath> for String {
    fn from(path: RelativePath) -> String {
        path.0
    }
}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_normal_or_refused() {
        for (text, normal) in [("a", "a"), ("./a//b/", "a/b"), ("..a/b..", "..a/b..")] {
            assert_eq!(text.parse::<RelativePath>().unwrap().as_str(), normal);
        }
        for bad in ["", ".", "/a", "..", "a/../b", "a/..", "a\0"] {
            bad.parse::<RelativePath>().unwrap_err();
        }
    }
}
