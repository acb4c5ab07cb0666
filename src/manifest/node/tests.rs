use super::*;
use crate::manifest::diagnostic::Faults;

fn plain(text: &str) -> Meaning {
    Scalar { text: text.to_owned(), quoted: false }.meaning()
}

fn tree(text: &str) -> (Option<Node>, Vec<String>) {
    let mut faults = Faults::default();
    let root = parse(text, 1, &mut faults).root;
    (root, faults.into_diagnostics().iter().map(ToString::to_string).collect())
}

/// The tree as compact text.
fn show(node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(scalar) => scalar.text.clone(),
        Kind::Sequence(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(" "))
        }
        Kind::Mapping(entries) => {
            let entry = |(key, node): &(Key, Node)| format!("{}={}", key.text, show(node));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
        }
    }
}

#[track_caller]
fn check(text: &str, wanted: &str) {
    let (root, faults) = tree(text);
    assert_eq!((root.as_ref().map(show).as_deref(), faults), (Some(wanted), vec![]), "{text}");
}

#[test]
fn plain_scalars_mean_what_yaml_1_1_says() {
    for text in ["", "~", "null", "NULL"] {
        assert_eq!(plain(text), Meaning::Null, "{text}");
    }
    for (text, value) in [
        ("0", 0),
        ("12", 12),
        ("-12", -12),
        ("+12", 12),
        ("1_000", 1000),
        ("0644", 420),
        ("-010", -8),
        ("0o644", 420),
        ("0x1F", 31),
        ("0b101", 5),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(plain(text), Meaning::Int(Some(value)), "{text}");
    }
    assert_eq!(plain("9223372036854775808"), Meaning::Int(None));
    assert_eq!(plain(&"9".repeat(100)), Meaning::Int(None));
    for text in ["1.5", ".5", "1e3", "-1.5E-3", "0899", ".inf", "-.inf", ".nan", "1."] {
        let found = plain(text);
        assert!(matches!(found, Meaning::Float | Meaning::Int(_)), "{text}: {found:?}");
    }
    for text in ["a", "1.2.3", "10.0.0.1", "12:30", "0x", "0b2", "-", "+", ".", "1e", "y", "inf"] {
        assert_eq!(plain(text), Meaning::Text, "{text}");
    }
    assert_eq!((plain("True"), plain("off")), (Meaning::Bool(true), Meaning::OldBool(false)));
    assert_eq!(Scalar { text: "12".to_owned(), quoted: true }.meaning(), Meaning::Text);
}

#[test]
fn aliases_and_merge_keys_are_resolved() {
    check("a: &x [1, 2]\nb: *x", "{a=[1 2] b=[1 2]}");
    check("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", "{a={p=1 q=2} b={q=3 p=1}}");
    check("a: &x {p: 1}\nb: &y {p: 2, q: 2}\nc:\n  <<: [*x, *y]\n", {
        "{a={p=1} b={p=2 q=2} c={p=1 q=2}}"
    });
    check("&k a: 1\nb: *k", "{a=1 b=a}");
    // In quotes it is a key like any other.
    check("'<<': 1", "{<<=1}");
}

#[test]
fn positions_are_lines_and_characters_from_one() {
    let (root, _) = tree("a: 1\nä:\n  - ü: x\n");
    let root = root.unwrap();
    let list = root.get("ä").unwrap();
    let Kind::Sequence(items) = &list.kind else { panic!("{list:?}") };
    assert_eq!(items[0].position, Position { line: 3, column: 5 });
    assert_eq!(items[0].get("ü").unwrap().position, Position { line: 3, column: 8 });
}

#[test]
fn json_with_its_escapes_is_read() {
    check(
        r#"{"a":"\/\u00e4\n","b":[true,null,-1.5e3],"c":{}}"#,
        "{a=/ä\n b=[true null -1.5e3] c={}}",
    );
    check("{\n\t\"a\":\t1\n}", "{a=1}");
    check(r#"{"a": "\ud83d\ude00 \\ud83d"}"#, "{a=😀 \\ud83d}");
}

#[test]
fn a_fault_says_in_which_field_it_is() {
    let (_, faults) = tree("a:\n  - b: 1\n    b: 2\n");
    assert_eq!(faults, ["3:5: error: a[0].b: this key stands twice; first in line 2"]);
}

#[test]
fn text_behind_aliases_is_limited() {
    let text = format!("a: &a {}\nb: [{}]", "x".repeat(10_000), "*a, ".repeat(500));
    let (_, faults) = tree(&text);
    assert!(faults[0].contains("more than 4194304 bytes of text"), "{faults:?}");
}
