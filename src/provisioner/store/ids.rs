//! What things in the store are called.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::provisioner::hash::hex;

/// Why a name or an id of the store was refused; the text names the rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{found}` {rule}")]
pub struct InvalidStoreId {
    what: &'static str,
    found: String,
    rule: &'static str,
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// The digest that it is.
            #[must_use]
            pub fn digest(&self) -> &Digest {
                &self.0
            }
        }

        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                Self(digest)
            }
        }

        impl FromStr for $name {
            type Err = InvalidStoreId;
            fn from_str(text: &str) -> Result<Self, InvalidStoreId> {
                let rule = "must be a digest, as in sha256:<64 hexadecimal digits>";
                let refused = |_| InvalidStoreId { what: $what, found: text.to_owned(), rule };
                Digest::from_str(text).map(Self).map_err(refused)
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.0.as_ref().cmp(other.0.as_ref())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

digest_id!(
    /// An image: the digest of its config blob (OCI image specification, config.md, "ImageID").
    ImageId, "image id"
);
digest_id!(
    /// The digest of a layer's tar file as it is without compression (`rootfs.diff_ids`).
    DiffId, "diff id"
);
digest_id!(
    /// A layer together with all those below it (OCI image specification, config.md, "ChainID").
    ChainId, "chain id"
);

impl ChainId {
    /// The chain of these layers, the lowest first; none for no layer.
    #[must_use]
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (first, above) = layers.split_first()?;
        let chain = above.iter().fold(first.digest().clone(), |below, layer| {
            sha256(format!("{below} {layer}").as_bytes())
        });
        Some(Self(chain))
    }
}

/// The SHA-256 digest of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    let text = format!("sha256:{}", hex(&Sha256::digest(bytes)));
    Digest::from_str(&text).expect("64 hexadecimal digits are a digest")
}

/// Characters of a [`LayerId`]: 100 bits. A collision is noticed, because the whole chain id stands
/// in `layer.json`.
pub const LAYER_ID_LEN: usize = 20;
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The directory of an unpacked layer: the beginning of its chain id, in base32. The same on every
/// machine, and so short that 127 of them fit into the one page that mount(2) takes for options.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(String);

impl LayerId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&ChainId> for LayerId {
    fn from(chain: &ChainId) -> Self {
        // Digests of the SHA family have only hexadecimal digits; any other can only collide.
        let digits: Vec<u32> =
            chain.0.digest().chars().map(|c| c.to_digit(16).unwrap_or_default()).collect();
        let bit = |at: usize| digits.get(at / 4).map_or(0, |digit| (digit >> (3 - at % 4)) & 1);
        let character = |at: usize| {
            let value = (0..5).fold(0, |value, i| value << 1 | bit(5 * at + i));
            char::from(BASE32[value as usize])
        };
        Self((0..LAYER_ID_LEN).map(character).collect())
    }
}

impl FromStr for LayerId {
    type Err = InvalidStoreId;
    fn from_str(text: &str) -> Result<Self, InvalidStoreId> {
        if text.len() == LAYER_ID_LEN && text.bytes().all(|b| BASE32.contains(&b)) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "must be 20 characters of a-z and 2-7";
        Err(InvalidStoreId { what: "layer id", found: text.to_owned(), rule })
    }
}

impl TryFrom<String> for LayerId {
    type Error = InvalidStoreId;
    fn try_from(text: String) -> Result<Self, InvalidStoreId> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> String {
        id.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Longest [`ImageName`] in bytes: a path (`oci:DIR:tag`) and a tag.
pub const IMAGE_NAME_LEN_MAX: usize = 4096 + 256;

/// What an image is called: whatever was asked for, in its one normal form (a reference with its
/// registry and tag, `oci:…`, `docker-archive:…`). The store looks names up and does not read them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = InvalidStoreId;
    fn from_str(text: &str) -> Result<Self, InvalidStoreId> {
        let length = (1..=IMAGE_NAME_LEN_MAX).contains(&text.len());
        if length && !text.contains(|c: char| c.is_control()) {
            return Ok(Self(text.to_owned()));
        }
        let rule = "must be text without control characters, 1 to 4352 bytes long";
        let found = text.chars().filter(|c| !c.is_control()).take(80).collect();
        Err(InvalidStoreId { what: "image name", found, rule })
    }
}

impl TryFrom<String> for ImageName {
    type Error = InvalidStoreId;
    fn try_from(text: String) -> Result<Self, InvalidStoreId> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> String {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(byte: u8) -> DiffId {
        sha256(&[byte]).into()
    }

    #[test]
    fn a_chain_is_hashed_from_its_lowest_layer_up() {
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[diff(1)]).unwrap().digest(), diff(1).digest());
        let two = sha256(format!("{} {}", diff(1), diff(2)).as_bytes());
        assert_eq!(ChainId::of(&[diff(1), diff(2)]).unwrap().digest(), &two);
        let three = sha256(format!("{two} {}", diff(3)).as_bytes());
        assert_eq!(ChainId::of(&[diff(1), diff(2), diff(3)]).unwrap().digest(), &three);
    }

    #[test]
    fn layer_ids_are_short_and_one_spelling_each() {
        let id = LayerId::from(&ChainId::of(&[diff(1)]).unwrap());
        assert_eq!(id.as_str().parse::<LayerId>().unwrap(), id);
        let other = LayerId::from(&ChainId::of(&[diff(1), diff(2)]).unwrap());
        assert_ne!(id, other);
        // 127 of `<id>/fs` and the colons between them, and what else overlay is told.
        assert!(127 * (LAYER_ID_LEN + "/fs:".len()) + 200 < 4096);
        for bad in ["", "..", "abc", "aaaaaaaaaaaaaaaaaaa1", "AAAAAAAAAAAAAAAAAAAA"] {
            bad.parse::<LayerId>().unwrap_err();
        }
    }

    #[test]
    fn names_are_text_without_control_characters() {
        "docker.io/library/debian:12".parse::<ImageName>().unwrap();
        for bad in ["", "a\nb", &"a".repeat(IMAGE_NAME_LEN_MAX + 1)] {
            bad.parse::<ImageName>().unwrap_err();
        }
    }
}
