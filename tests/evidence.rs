//! `evidence.md` says which test shows what; here it is held to the truth. Needs nothing but the
//! sources.

#![allow(clippy::tests_outside_test_module, reason = "all of it is a test")]

use std::path::Path;

/// Rows of tables with the tests that they name: the first cell, the file, the function.
fn named(text: &str) -> Vec<(&str, &str, &str)> {
    let rows = text.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let (file, test) = cells.last()?.trim_matches('`').split_once(" :: ")?;
        Some((*cells.first()?, file, test))
    })
    .collect()
}

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("tests/evidence.md")).expect("it is beside this");
    let named = named(&text);
    assert!(named.len() > 80, "only {} rows name a test", named.len());
    let mut lost = Vec::new();
    for (row, file, test) in named {
        let source = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        if !source.contains(&format!("fn {test}(")) {
            lost.push(format!("{row}: there is no {test} in {file}"));
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}
