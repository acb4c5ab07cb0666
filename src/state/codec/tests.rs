use std::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::state::record::{KeptRevision, PodRecord};
use crate::state::samples;
use crate::state::store::{DirectoryHandle, EventRecord, Meta, SideNote};

/// Sixteen bytes a line.
fn to_hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    bytes.chunks(16).map(|chunk| line(chunk) + "\n").collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// The golden file of that name still means `value`; if it is of the newest format, `value` is
/// still written so.
#[track_caller]
fn check_golden<V: Value + PartialEq + Debug>(name: &str, place: Place<'_>, value: &V) {
    const SEQUENCE: u64 = 0x0102_0304;
    let fresh = encode(place, SEQUENCE, value).unwrap();
    let hex = samples::golden(name, to_hex(&fresh).as_bytes());
    let kept = from_hex(std::str::from_utf8(&hex).unwrap());
    assert_eq!(decode::<V>(place, &kept), Ok((SEQUENCE, value_of(place, &fresh))), "{name}");
    if kept.first() == Some(&<V::Stored as Version>::NUMBER) {
        assert_eq!(to_hex(&fresh), to_hex(&kept), "{name}: the format changed, its number did not");
    }
    assert_eq!(*value, value_of::<V>(place, &fresh));
}

fn value_of<V: Value>(place: Place<'_>, bytes: &[u8]) -> V {
    decode(place, bytes).unwrap().1
}

#[test]
fn golden_values_of_every_format_are_read_and_the_newest_is_written_as_ever() {
    for (name, record) in samples::records() {
        let key = record.id.as_u128().to_be_bytes();
        for version in ["v1", "v2", "v3", "v4", "v5"] {
            let name = format!("{version}/{name}.hex");
            check_golden(&name, Place { tree: "pods", key: &key }, &record);
        }
    }
    for (name, record) in samples::later_records() {
        let key = record.id.as_u128().to_be_bytes();
        for version in ["v2", "v3", "v4", "v5"] {
            let name = format!("{version}/{name}.hex");
            check_golden(&name, Place { tree: "pods", key: &key }, &record);
        }
    }
    let record = samples::record_on_trial();
    let key = record.id.as_u128().to_be_bytes();
    for version in ["v3", "v4", "v5"] {
        let name = format!("{version}/pod-on-trial.hex");
        check_golden(&name, Place { tree: "pods", key: &key }, &record);
    }
    let record = samples::record_with_messages();
    let key = record.id.as_u128().to_be_bytes();
    for version in ["v4", "v5"] {
        let name = format!("{version}/pod-with-messages.hex");
        check_golden(&name, Place { tree: "pods", key: &key }, &record);
    }
    for (name, record) in samples::evicted_records() {
        let key = record.id.as_u128().to_be_bytes();
        check_golden(&format!("v5/{name}.hex"), Place { tree: "pods", key: &key }, &record);
    }
    check_golden("v2/side.hex", Place { tree: "side", key: b"" }, &SideNote);
    check_golden(
        "v2/revision.hex",
        Place { tree: "revisions", key: b"shop/web-1" },
        &samples::revision(3),
    );
    let place = Place { tree: "events", key: &7_u64.to_be_bytes() };
    check_golden("v1/event-pod.hex", place, &samples::event(7));
    let node = EventRecord { pod: None, id: None, ..samples::event(7) };
    check_golden("v1/event-node.hex", place, &node);
    let place = Place { tree: "directories", key: b"/etc/roost/pods.d" };
    check_golden("v1/directory.hex", place, &DirectoryHandle((0..40).collect()));
    let place = Place { tree: "meta", key: b"meta" };
    check_golden("v1/meta.hex", place, &Meta { values: 300, digest: u128::MAX - 1 });
    check_golden("v1/side.hex", Place { tree: "side", key: b"" }, &SideNote);
}

const PLACE: Place<'static> = Place { tree: "pods", key: b"key" };

fn sealed(version: u8, body: &[u8]) -> Vec<u8> {
    envelope(PLACE, version, 1, body)
}

/// Specifications have fields that older builds do not know: the store is not doubtful for that.
#[test]
fn a_revision_of_another_build_is_read_without_its_specification() {
    let revision = samples::revision(3);
    let bytes = encode(PLACE, 1, &revision).unwrap();
    let at = bytes.windows(9).position(|w| w == b"\"volumes\"").unwrap();
    let mut body = bytes[HEAD_LEN..].to_vec();
    body[at - HEAD_LEN + 1] = b'x';
    let read = decode::<KeptRevision>(PLACE, &sealed(1, &body)).unwrap().1;
    assert_eq!(read, KeptRevision { spec: None, ..revision });
}

#[test]
fn a_newer_format_is_told_apart_from_damage() {
    assert_eq!(
        decode::<PodRecord>(PLACE, &sealed(6, b"who knows")),
        Err(CodecError::Newer { found: 6, known: 5 })
    );
    let mut damaged = encode(PLACE, 1, &samples::record(1)).unwrap();
    damaged[0] = 6;
    assert_eq!(decode::<PodRecord>(PLACE, &damaged), Err(CodecError::Checksum));
}

#[test]
fn a_sound_value_in_a_wrong_place_is_noticed() {
    let bytes = encode(PLACE, 1, &samples::record(1)).unwrap();
    for (tree, key) in [("pods", "yek"), ("events", "key"), ("pod", "skey")] {
        let wrong = Place { tree, key: key.as_bytes() };
        assert_eq!(decode::<PodRecord>(wrong, &bytes), Err(CodecError::Checksum));
    }
}

#[test]
fn what_is_too_long_is_neither_written_nor_read() {
    let mut record = samples::record(1);
    record.source.file = "x".repeat(VALUE_LEN_MAX);
    assert!(matches!(
        encode(PLACE, 1, &record),
        Err(CodecError::Size { .. } | CodecError::Meaningless { .. })
    ));
    let bytes = vec![1; VALUE_LEN_MAX + 1];
    assert!(matches!(decode::<PodRecord>(PLACE, &bytes), Err(CodecError::Size { .. })));
    assert!(matches!(decode::<PodRecord>(PLACE, &[1; 12]), Err(CodecError::Size { .. })));
}

#[test]
fn a_sound_envelope_around_nonsense_is_an_error() {
    let good = encode(PLACE, 1, &samples::record(1)).unwrap();
    let mut longer = good[HEAD_LEN..].to_vec();
    longer.push(0);
    let cut = &good[HEAD_LEN..good.len() - 1];
    let mut bad_name = good[HEAD_LEN..].to_vec();
    let at = bad_name.windows(4).position(|w| w == b"shop").unwrap();
    bad_name[at] = b'/';
    for body in [b"", longer.as_slice(), cut, &bad_name] {
        let read = decode::<PodRecord>(PLACE, &sealed(5, body));
        assert!(matches!(read, Err(CodecError::Meaningless { .. })), "{read:?}");
    }
    let version_zero = decode::<PodRecord>(PLACE, &sealed(0, &good[HEAD_LEN..]));
    assert!(matches!(version_zero, Err(CodecError::Meaningless { .. })));
}

proptest! {
    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<PodRecord>(PLACE, &body);
        let _ = decode::<PodRecord>(PLACE, &sealed(1, &body));
        let _ = decode::<PodRecord>(PLACE, &sealed(2, &body));
        let _ = decode::<EventRecord>(PLACE, &sealed(1, &body));
    }

    #[test]
    fn any_flipped_bit_is_noticed(at in 0..200_usize, bit in 0..8_u32) {
        let mut bytes = encode(PLACE, 1, &samples::record(1)).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1_u8 << bit;
        prop_assert_eq!(decode::<PodRecord>(PLACE, &bytes), Err(CodecError::Checksum));
    }
}
