//! The bytes of the values in the store, and the only user of bincode.
//!
//! ```text
//! version u8 │ crc32 u32 │ sequence u64 │ body                       (integers little-endian)
//! ```
//!
//! The head is the same for ever; the body is bincode of the plain structs of that version
//! (`v1` and so on), never of the types that the rest of Roost works with: bincode has no field names, so a
//! field added to a stored struct would make every older value unreadable. The checksum covers the
//! place of the value too (tree and key), so that a sound value in a wrong place is noticed; it is
//! checked before the version is believed, so that damage does not look like a newer Roost.
//!
//! Not here: where values lie and what becomes of doubtful ones (`store`).

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(super) mod upgrade;
mod v1;
mod v2;
mod v3;
mod v4;
mod v5;

use upgrade::Version;

/// Longest value, its head counted, unless its type says otherwise. Far above what a pod of many
/// containers needs.
pub(super) const VALUE_LEN_MAX: usize = 64 * 1024;

const HEAD_LEN: usize = 1 + 4 + 8;

/// Why bytes are not a value, or a value can't be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// Nothing of that size is ever written.
    #[error("it has {found} bytes; such a value has {HEAD_LEN} to {most}")]
    Size {
        /// How many there are.
        found: usize,
        /// The most that are allowed.
        most: usize,
    },
    /// The bytes are not those that were written.
    #[error("its checksum is wrong")]
    Checksum,
    /// The bytes are sound, and of a version that this program does not know.
    #[error("it has format {found}, and {known} is the newest known here")]
    Newer {
        /// The version of the value.
        found: u8,
        /// The newest version known for such values.
        known: u8,
    },
    /// The bytes are sound, and mean nothing.
    #[error("it can't be understood: {why}")]
    Meaningless {
        /// What is wrong with it.
        why: String,
    },
}

/// Where a value lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The tree.
    pub(super) tree: &'a str,
    /// The key in it.
    pub(super) key: &'a [u8],
}

/// A type with a stored form.
pub(super) trait Value: Sized {
    /// The newest stored form: the one that is written.
    type Stored: Version + Serialize;
    /// Longest value of this kind, its head counted.
    const LEN_MAX: usize = VALUE_LEN_MAX;
    /// The stored form of this value.
    fn to_stored(&self) -> Self::Stored;
    /// The value of a stored form; the error says what is wrong with it.
    fn from_stored(stored: Self::Stored) -> Result<Self, String>;
}

/// The bytes of `value` for `place`, written by commit `sequence`.
pub(super) fn encode<V: Value>(
    place: Place<'_>,
    sequence: u64,
    value: &V,
) -> Result<Vec<u8>, CodecError> {
    let stored = value.to_stored();
    let body = bincode(V::LEN_MAX).serialize(&stored).map_err(meaningless)?;
    let bytes = envelope(place, <V::Stored as Version>::NUMBER, sequence, &body);
    if bytes.len() > V::LEN_MAX {
        return Err(CodecError::Size { found: bytes.len(), most: V::LEN_MAX });
    }
    Ok(bytes)
}

/// The value in `bytes`, found at `place`, and the commit that wrote it.
pub(super) fn decode<V: Value>(place: Place<'_>, bytes: &[u8]) -> Result<(u64, V), CodecError> {
    let (version, sequence, body) = open_envelope(place, bytes, V::LEN_MAX)?;
    let stored = upgrade::read::<V::Stored>(version, body)?;
    let value = V::from_stored(stored).map_err(|why| CodecError::Meaningless { why })?;
    Ok((sequence, value))
}

pub(super) fn envelope(place: Place<'_>, version: u8, sequence: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_LEN + body.len());
    bytes.push(version);
    bytes.extend_from_slice(&checksum(place, version, sequence, body).to_le_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn open_envelope<'a>(
    place: Place<'_>,
    bytes: &'a [u8],
    most: usize,
) -> Result<(u8, u64, &'a [u8]), CodecError> {
    let size = || CodecError::Size { found: bytes.len(), most };
    if bytes.len() > most {
        return Err(size());
    }
    let (&version, rest) = bytes.split_first().ok_or_else(size)?;
    let (crc, rest) = rest.split_first_chunk().ok_or_else(size)?;
    let (sequence, body) = rest.split_first_chunk().ok_or_else(size)?;
    let sequence = u64::from_le_bytes(*sequence);
    if u32::from_le_bytes(*crc) != checksum(place, version, sequence, body) {
        return Err(CodecError::Checksum);
    }
    Ok((version, sequence, body))
}

fn checksum(place: Place<'_>, version: u8, sequence: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in [place.tree.as_bytes(), place.key] {
        // The length first, so that no two places read the same.
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(&[version]);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    // The length of the body is known to be within the limit of its kind.
    bincode(body.len()).deserialize(body).map_err(meaningless)
}

/// Numbers of variable length, little-endian; bytes that are left over are an error.
fn bincode(len_max: usize) -> impl Options {
    bincode::DefaultOptions::new().with_limit(len_max as u64)
}

// By value, so that it can be given to `map_err`.
#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err wants")]
fn meaningless(error: bincode::Error) -> CodecError {
    CodecError::Meaningless { why: error.to_string() }
}

#[cfg(test)]
mod tests;
