//! [`Document`]: a ConfigMap or a Secret of a manifest file.
//!
//! What a Secret holds must not get into logs, records or answers: [`Data`] shows its length only,
//! whatever it belongs to. Not here: which document of a name counts (`manifest::library`), and
//! what pods take from it (`manifest::resolve`).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::ids::PodName;

/// Most bytes of all values of a document together, as in Kubernetes (`MaxSecretSize`).
pub const DATA_LEN_MAX: usize = 1 << 20;
/// Longest key, in bytes (Kubernetes: `validation.IsConfigMapKey`).
pub const KEY_LEN_MAX: usize = 253;

/// What kind of document it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DocumentKind {
    /// `ConfigMap`.
    ConfigMap,
    /// `Secret`.
    Secret,
}

impl fmt::Display for DocumentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        })
    }
}

/// What a document is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentName {
    /// Its kind.
    pub kind: DocumentKind,
    /// `namespace/name`: documents are named as pods are.
    pub name: PodName,
}

impl fmt::Display for DocumentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// A ConfigMap or a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is known by.
    pub name: DocumentName,
    /// `type` of a Secret; `Opaque` where it has none.
    pub secret_type: Option<String>,
    /// Its values by key. A key is letters, digits, `-`, `_` and `.`, and can be a file's name.
    pub data: BTreeMap<String, Data>,
}

/// One value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Any bytes.
    #[serde(with = "in_base64")]
    pub bytes: Vec<u8>,
    /// Whether it is of `binaryData`: it makes no variables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub binary: bool,
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.bytes.len())
    }
}

impl Data {
    /// A text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self { bytes: text.as_bytes().to_vec(), binary: false }
    }
}

/// Whether it can be the key of a value, and so the name of a file.
#[must_use]
pub fn is_key(text: &str) -> bool {
    let of_key = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    (1..=KEY_LEN_MAX).contains(&text.len())
        && text.bytes().all(of_key)
        && text != "."
        && !text.starts_with("..")
}

mod in_base64 {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        // Not what is wrong with it: that would show a part of it.
        STANDARD.decode(text).map_err(|_| D::Error::custom("a value is not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_shown() {
        let data = Data::text("hunter2");
        assert_eq!(format!("{data:?}"), "(7 bytes)");
        let json = serde_json::to_string(&data).unwrap();
        assert_eq!(serde_json::from_str::<Data>(&json).unwrap(), data);
        let fault = serde_json::from_str::<Data>(r#"{"bytes":"hunter2!"}"#).unwrap_err();
        assert!(!fault.to_string().contains("hunter2"), "{fault}");
    }

    #[test]
    fn keys_can_be_names_of_files() {
        for good in ["a", "A_b-c.d", ".dockerconfigjson", "0"] {
            assert!(is_key(good), "{good}");
        }
        for bad in ["", ".", "..", "..data", "a/b", "a b", "ä", &"a".repeat(254)] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
