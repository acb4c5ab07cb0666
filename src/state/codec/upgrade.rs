//! The chain from each stored version to the next. PURE.
//!
//! ```text
//! BeforeFirst ◄── V1 ◄── V2 ◄── … ◄── what `codec::Value::Stored` names
//! ```
//!
//! A value is read in the version that its head states, and handed up link by link. A new version
//! is a new module of plain structs that name the old ones as `Previous`; old modules are never
//! changed again and never removed, and neither are their golden files (`state/golden`).

use std::cmp::Ordering;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{CodecError, parse};

/// One version of the stored form of one kind of value.
pub(in crate::state) trait Version: DeserializeOwned {
    /// Its number: one more than that of [`Version::Previous`].
    const NUMBER: u8;
    /// The version before it; [`BeforeFirst`] for the first.
    type Previous: Version;
    /// The same value in this version. What the older version could not say gets the meaning that
    /// it had then.
    fn upgrade(previous: Self::Previous) -> Self;
}

/// The end of every chain: no value ever had version 0.
#[derive(Debug, Deserialize)]
pub(in crate::state) enum BeforeFirst {}

impl Version for BeforeFirst {
    const NUMBER: u8 = 0;
    type Previous = Self;
    fn upgrade(previous: Self) -> Self {
        previous
    }
}

/// Reads a body of version `number` as version `V`.
pub(super) fn read<V: Version>(number: u8, body: &[u8]) -> Result<V, CodecError> {
    const { assert!(V::NUMBER == 0 || V::NUMBER == V::Previous::NUMBER + 1) };
    match number.cmp(&V::NUMBER) {
        Ordering::Equal => parse(body),
        Ordering::Less => read::<V::Previous>(number, body).map(V::upgrade),
        Ordering::Greater => Err(CodecError::Newer { found: number, known: V::NUMBER }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bincode::Options;
    use serde::Serialize;

    #[derive(Debug, Serialize, Deserialize)]
    struct Lamp1 {
        lit: bool,
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Lamp2 {
        percent: u8,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Lamp3 {
        percent: u8,
        colour: String,
    }

    impl Version for Lamp1 {
        const NUMBER: u8 = 1;
        type Previous = BeforeFirst;
        fn upgrade(previous: BeforeFirst) -> Self {
            match previous {}
        }
    }

    impl Version for Lamp2 {
        const NUMBER: u8 = 2;
        type Previous = Lamp1;
        fn upgrade(Lamp1 { lit }: Lamp1) -> Self {
            Self { percent: if lit { 100 } else { 0 } }
        }
    }

    impl Version for Lamp3 {
        const NUMBER: u8 = 3;
        type Previous = Lamp2;
        fn upgrade(Lamp2 { percent }: Lamp2) -> Self {
            Self { percent, colour: "white".into() }
        }
    }

    fn bytes(value: &impl Serialize) -> Vec<u8> {
        super::super::bincode(1000).serialize(value).unwrap()
    }

    #[test]
    fn a_value_climbs_the_chain_from_the_version_it_was_written_in() {
        let white = |percent| Lamp3 { percent, colour: "white".into() };
        assert_eq!(read::<Lamp3>(1, &bytes(&Lamp1 { lit: true })), Ok(white(100)));
        assert_eq!(read::<Lamp3>(2, &bytes(&Lamp2 { percent: 7 })), Ok(white(7)));
        let red = Lamp3 { percent: 7, colour: "red".into() };
        assert_eq!(read::<Lamp3>(3, &bytes(&red)), Ok(red));
    }

    #[test]
    fn a_newer_version_is_told_apart_from_nonsense() {
        assert_eq!(read::<Lamp3>(4, b"anything"), Err(CodecError::Newer { found: 4, known: 3 }));
        assert!(matches!(read::<Lamp3>(0, b""), Err(CodecError::Meaningless { .. })));
        assert!(matches!(read::<Lamp3>(1, b""), Err(CodecError::Meaningless { .. })));
        assert!(matches!(read::<Lamp3>(1, &[1, 0]), Err(CodecError::Meaningless { .. })));
    }
}
