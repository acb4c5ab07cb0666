//! Typed names and ids. Each is parsed once, at the border, and is right from then on.
//!
//! Not here: paths (`state::paths`) and hashes of specifications (`manifest::revision`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name or an id was refused; the text names the rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{found}` {rule}")]
pub struct InvalidId {
    what: &'static str,
    found: String,
    rule: &'static str,
}

/// Longest `metadata.name`: a DNS-1123 subdomain (Kubernetes API conventions).
pub const NAME_LEN_MAX: usize = 253;
/// Longest DNS-1123 label: namespaces, containers, volumes, host names.
pub const LABEL_LEN_MAX: usize = 63;

fn is_label(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_LEN_MAX
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|b| edge(b) || *b == b'-')
}

const LABEL_RULE: &str = "must be a DNS label: lower-case letters, digits and `-`, \
     beginning and ending with a letter or digit, at most 63 characters";
const SUBDOMAIN_RULE: &str = "must be a DNS subdomain: labels of lower-case letters, digits and \
     `-`, joined by `.`, at most 253 characters in all";

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:expr, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId { what: $what, found: text.to_owned(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

text_id!(
    /// `metadata.namespace`: a DNS label.
    Namespace, "namespace", LABEL_RULE, is_label
);
text_id!(
    /// `spec.containers[].name`: a DNS label, unique in its pod.
    ContainerName, "container name", LABEL_RULE, is_label
);
text_id!(
    /// `spec.volumes[].name`: a DNS label, unique in its pod.
    VolumeName, "volume name", LABEL_RULE, is_label
);
text_id!(
    /// `metadata.name`: a DNS subdomain.
    ObjectName, "name", SUBDOMAIN_RULE,
    |text| text.len() <= NAME_LEN_MAX && text.split('.').all(is_label)
);

/// The key of a pod: `namespace/name`. What a manifest asks for; outlives its instances.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodName {
    /// `metadata.namespace`, `default` where the manifest has none.
    pub namespace: Namespace,
    /// `metadata.name`.
    pub name: ObjectName,
}

impl FromStr for PodName {
    type Err = InvalidId;
    /// Accepts `namespace/name`, and `name` alone for the namespace `default`.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl TryFrom<String> for PodName {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<PodName> for String {
    fn from(name: PodName) -> String {
        name.to_string()
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// One incarnation of a pod: a random 128-bit id in UUID form (the Kubernetes UID), never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PodId(u128);

impl PodId {
    /// Makes an id of 128 random bits, with the version and variant of RFC 9562 section 5.4 set.
    #[must_use]
    pub fn from_random(bits: u128) -> Self {
        let cleared = bits & !(0xf << 76) & !(0b11 << 62);
        Self(cleared | (0x4 << 76) | (0b10 << 62))
    }

    /// The id as a number, for codecs.
    #[must_use]
    pub fn as_u128(self) -> u128 {
        self.0
    }
}

impl FromStr for PodId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let refused = || InvalidId {
            what: "pod id",
            found: text.to_owned(),
            rule: "must be a UUID, as in 123e4567-e89b-42d3-a456-426614174000",
        };
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        let id = Self(u128::from_str_radix(&hex, 16).map_err(|_| refused())?);
        // One spelling only, so that a directory's name and the id stand for each other.
        if id.to_string() == text { Ok(id) } else { Err(refused()) }
    }
}

impl TryFrom<String> for PodId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<PodId> for String {
    fn from(id: PodId) -> String {
        id.to_string()
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            n >> 96,
            (n >> 80) & 0xffff,
            (n >> 64) & 0xffff,
            (n >> 48) & 0xffff,
            n & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of a run of one container in one pod instance, from 0. It is also the number in the
/// name of the run's log file, and Kubernetes' `restartCount`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The attempt after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_dns() {
        for good in ["a", "web-1", "0x"] {
            assert_eq!(good.parse::<ContainerName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "..", "a\n", &"a".repeat(64)] {
            bad.parse::<ContainerName>().unwrap_err();
        }
        "a.b-c.d".parse::<ObjectName>().unwrap();
        for bad in ["a..b", ".a", "a.", "a/../b"] {
            bad.parse::<ObjectName>().unwrap_err();
        }
    }

    #[test]
    fn a_pod_name_without_a_namespace_is_in_default() {
        assert_eq!("web".parse::<PodName>().unwrap().to_string(), "default/web");
        assert_eq!("shop/web".parse::<PodName>().unwrap().namespace.as_str(), "shop");
        "a/b/c".parse::<PodName>().unwrap_err();
    }

    #[test]
    fn a_pod_id_is_a_version_4_uuid_and_survives_a_round_trip() {
        let id = PodId::from_random(u128::MAX);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse::<PodId>().unwrap(), id);
        "ffffffffffff4fffbfffffffffffffff".parse::<PodId>().unwrap_err();
    }
}
