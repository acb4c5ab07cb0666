use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::clock::Millis;
use crate::manifest::node::{Kind, Meaning, Node};
use crate::manifest::pod::{
    DnsBase, Handler, Propagation, Resources, RestartPolicy, SubPath, VolumeSource,
};
use crate::manifest::quantity::Quantity;

const SPECS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/specs");

/// The files of a directory below `specs/` with their names there, those of its directories
/// included.
fn files(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let name = path.strip_prefix(SPECS).unwrap().to_str().unwrap().to_owned();
            found.push((name, path));
        }
    }
    found.sort();
    found
}

fn is_manifest(name: &str) -> bool {
    !name.ends_with(".schema.json")
        && [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}

/// What a user sees of a file.
fn shown(name: &str, parsed: &ParsedFile) -> String {
    let mut text = String::new();
    for diagnostic in &parsed.diagnostics {
        writeln!(text, "{}", diagnostic.in_file(&name)).unwrap();
    }
    let names: Vec<&PodName> = parsed.pods.iter().map(|pod| &pod.name).collect();
    writeln!(text, "pods: {names:?}").unwrap();
    writeln!(text, "faulty: {:?}", parsed.faulty).unwrap();
    writeln!(text, "complete: {}", parsed.complete).unwrap();
    text
}

/// A diagnostic without its line of the manifest.
fn plain(diagnostic: Diagnostic) -> String {
    Diagnostic { snippet: None, ..diagnostic }.to_string()
}

fn messages(text: &str) -> Vec<String> {
    parse(text.as_bytes()).diagnostics.into_iter().map(plain).collect()
}

const HEAD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n";
const MAIN: &str = "  containers: [{name: main, command: [/bin/true]}]\n";

fn one_pod(text: &str) -> Arc<PodSpec> {
    let parsed = parse(text.as_bytes());
    assert_eq!((parsed.diagnostics.as_slice(), parsed.pods.len()), ([].as_slice(), 1));
    parsed.pods[0].spec.clone()
}

#[test]
fn every_sample_parses_without_a_diagnostic() {
    let all = files(Path::new(SPECS));
    let samples: Vec<_> = all.iter().filter(|(name, _)| !name.starts_with("invalid/")).collect();
    for (name, path) in &samples {
        if !is_manifest(name) {
            let known = ["README.md", "pod.schema.json"];
            assert!(known.contains(&name.as_str()), "what is {name} for?");
            continue;
        }
        let parsed = parse(&fs::read(path).unwrap());
        assert_eq!(parsed.diagnostics, [], "{name}");
        assert!(parsed.complete && !parsed.pods.is_empty(), "{name}");
    }
    assert!(samples.len() > 10);
}

/// Whether a value is of a type of JSON Schema.
fn is(value: &serde_json::Value, name: &serde_json::Value) -> bool {
    match name.as_str().unwrap() {
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    }
}

/// What of the keywords of JSON Schema that `pod.schema.json` has does not hold for a value.
fn offends(
    schema: &serde_json::Value,
    root: &serde_json::Value,
    value: &serde_json::Value,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (keyword, wanted) in schema.as_object().unwrap() {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" | "deprecated" | "definitions" | "then"
            | "else" => true,
            "$ref" => {
                let name = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                wrong.extend(offends(root.pointer(name).unwrap(), root, value));
                true
            }
            "if" => {
                let branch = if offends(wanted, root, value).is_empty() { "then" } else { "else" };
                wrong.extend(offends(&schema[branch], root, value));
                true
            }
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "type" => match wanted.as_array() {
                Some(names) => names.iter().any(|name| is(value, name)),
                None => is(value, wanted),
            },
            "minimum" => value.as_i64().is_none_or(|number| number >= wanted.as_i64().unwrap()),
            "maximum" => value.as_i64().is_none_or(|number| number <= wanted.as_i64().unwrap()),
            // Quantities: what they look like is for the parser.
            "pattern" => value.as_str().is_none_or(|text| text.parse::<Quantity>().is_ok()),
            "required" => {
                let names = wanted.as_array().unwrap().iter();
                let mut names = names.map(|name| name.as_str().unwrap());
                !value.is_object() || names.all(|name| value.get(name).is_some())
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    wrong.extend(offends(wanted, root, item));
                }
                true
            }
            "properties" => {
                for (name, inner) in wanted.as_object().unwrap() {
                    wrong.extend(
                        value.get(name).map(|v| offends(inner, root, v)).unwrap_or_default(),
                    );
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(|known| known.as_object());
                let is_known = |name: &String| known.is_some_and(|known| known.contains_key(name));
                let entries = value.as_object().into_iter().flatten();
                for (name, inner) in entries.filter(|(name, _)| !is_known(name)) {
                    if *wanted == serde_json::Value::Bool(false) {
                        wrong.push(format!("{name} is unknown"));
                    } else {
                        wrong.extend(offends(wanted, root, inner));
                    }
                }
                true
            }
            other => panic!("{other} is not checked"),
        };
        if !holds {
            wrong.push(format!("{value}: {keyword} {wanted}"));
        }
    }
    wrong
}

/// A document as the JSON that it is the same as.
fn as_json(node: &Node) -> serde_json::Value {
    use serde_json::Value;
    match &node.kind {
        Kind::Scalar(scalar) => match scalar.meaning() {
            Meaning::Null => Value::Null,
            Meaning::Bool(value) | Meaning::OldBool(value) => value.into(),
            Meaning::Int(value) => value.unwrap().into(),
            Meaning::Float => scalar.text.parse::<f64>().unwrap().into(),
            Meaning::Text => scalar.text.as_str().into(),
        },
        Kind::Sequence(items) => items.iter().map(as_json).collect(),
        Kind::Mapping(entries) => {
            entries.iter().map(|(key, value)| (key.text.clone(), as_json(value))).collect()
        }
    }
}

#[test]
fn every_sample_is_what_the_json_schema_says_and_unsupported_fields_are_not() {
    let schema = crate::manifest::json_schema();
    let check = |path: &Path| {
        let text = fs::read(path).unwrap();
        let mut wrong = Vec::new();
        for document in node::documents(&text) {
            let mut faults = Faults::default();
            let tree = node::parse(document.text(&mut faults).unwrap(), 1, &mut faults);
            wrong.extend(offends(&schema, &schema, &as_json(&tree.root.unwrap())));
        }
        wrong
    };
    for (name, path) in files(Path::new(SPECS)) {
        if is_manifest(&name) && !name.starts_with("invalid/") {
            assert_eq!(check(&path), Vec::<String>::new(), "{name}");
        }
    }
    for (name, count) in [("not-supported-yet", 6), ("unknown-field", 9), ("wrong-types", 5)] {
        let wrong = check(&Path::new(SPECS).join(format!("invalid/{name}.yaml")));
        assert!(wrong.len() >= count, "{name}: {wrong:?}");
    }
}

#[test]
fn every_invalid_sample_gets_the_text_of_its_snapshot() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(SPECS).join("invalid"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut expected = BTreeSet::new();
    let mut found = BTreeSet::new();
    for (name, path) in files(&Path::new(SPECS).join("invalid")) {
        if is_manifest(&name) {
            let text = shown(&name, &parse(&fs::read(&path).unwrap()));
            let stem = path.file_name().unwrap().to_str().unwrap();
            settings.bind(|| insta::assert_snapshot!(stem, text));
            expected.insert(format!("{name}.snap"));
        } else {
            found.insert(name);
        }
    }
    assert!(expected.len() > 60);
    found.retain(|name| !name.ends_with(".snap.new"));
    assert_eq!(found, expected, "each manifest has its snapshot, each snapshot its manifest");
}

#[test]
fn the_samples_have_every_field_that_works_and_it_arrives() {
    let text = fs::read(Path::new(SPECS).join("limits.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    assert_eq!(pod.pids_limit, 64);
    let wanted = Resources {
        cpu_request_milli: Some(50),
        cpu_limit_milli: Some(500),
        memory_request_bytes: Some(16 << 20),
        memory_limit_bytes: Some(64 << 20),
        ..Resources::default()
    };
    assert_eq!(pod.containers[0].resources, wanted);
    assert_eq!(pod.containers[1].resources.memory_request_bytes, Some(32 << 20));

    let text = fs::read(Path::new(SPECS).join("user.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    let ids: Vec<_> = pod.containers.iter().map(|c| (c.user, c.group, c.read_only_root)).collect();
    assert_eq!(ids, [(Some(65534), Some(65534), true), (Some(5), Some(60), false)]);

    let text = fs::read(Path::new(SPECS).join("security.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    assert_eq!((pod.security.groups.as_slice(), pod.security.fs_group), (&[2000][..], Some(3000)));
    assert_eq!(pod.security.sysctls.values().collect::<Vec<_>>(), ["0"]);
    let [tight, clock] = &pod.containers[..] else { panic!("{pod:?}") };
    assert!(tight.security.non_root && tight.security.drop.all && !clock.security.non_root);
    assert_eq!((clock.user, clock.security.add.names.len()), (Some(0), 1));

    let text = fs::read(Path::new(SPECS).join("names.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    assert_eq!(pod.kernel_name(), "web-1.web.default.svc.cluster.local");
    assert_eq!(pod.names.aliases[0].hostnames, ["db", "db.example.org"]);
    assert_eq!((pod.names.dns.base, pod.names.dns.options.len()), (DnsBase::Nothing, 2));

    let text = fs::read(Path::new(SPECS).join("parts-of-volumes.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    let part = &pod.containers[0].mounts[0].sub_path;
    assert_eq!(*part, Some(SubPath::Path("logs/first".parse().unwrap())));
    let mounts = &pod.containers[1].mounts;
    assert_eq!(mounts[0].sub_path, Some(SubPath::Expression("logs/$(NAME)".to_owned())));
    assert_eq!(mounts[1].propagation, Propagation::HostToContainer);

    let text = fs::read(Path::new(SPECS).join("lifecycle.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    let hook = pod.containers.iter().find_map(|container| container.lifecycle.post_start.clone());
    let command = ["/bin/sh", "-c", "echo warmed by $$ > /tmp/warm"].map(str::to_owned).to_vec();
    assert_eq!(hook, Some(Handler::Exec { command }));

    let text = fs::read(Path::new(SPECS).join("mount-propagation.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    assert_eq!(pod.containers[0].mounts[0].propagation, Propagation::Bidirectional);
    assert!(pod.is_two_way(&pod.volumes[0].name));

    let text = fs::read(Path::new(SPECS).join("crash-loop.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    let backoff = pod.backoff;
    let delays = (backoff.initial, backoff.max, backoff.reset);
    assert_eq!(delays, (Millis(500), Millis(10_000), Millis(60_000)));

    let text = fs::read(Path::new(SPECS).join("anchors.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    let names: Vec<_> = pod.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["one", "two", "three"]);
    assert_eq!(pod.containers[0].command, pod.containers[2].command);
    assert_eq!(pod.containers[0].resources, pod.containers[2].resources);
}

#[test]
fn defaults_are_those_of_kubernetes() {
    let pod = one_pod(&format!("{HEAD}{MAIN}"));
    assert_eq!(pod.name.to_string(), "default/a");
    assert_eq!(pod.hostname, "a");
    assert_eq!(pod.restart_policy, RestartPolicy::Always);
    assert_eq!(pod.termination_grace, Millis(30_000));
    assert_eq!((pod.containers[0].user, pod.containers[0].group), (Some(0), Some(0)));
    assert_eq!(pod.containers[0].resources, Resources::default());
    let dotted = format!("{HEAD}{MAIN}").replace("name: a}", "name: web.example.org}");
    assert_eq!(one_pod(&dotted).hostname, "web");
}

#[test]
fn null_means_unset_everywhere() {
    let nulls =
        "  hostNetwork:\n  volumes: null\n  affinity: ~\n  securityContext: {runAsUser: }\n";
    let plain = one_pod(&format!("{HEAD}{MAIN}"));
    assert_eq!(one_pod(&format!("{HEAD}{MAIN}{nulls}status: null\n")), plain);
}

#[test]
fn line_ends_and_byte_order_marks_do_not_matter() {
    let plain = format!("# ä\n{HEAD}{MAIN}---\n{HEAD}{MAIN}").replacen("{name: a}", "{name: b}", 1);
    let want = parse(plain.as_bytes());
    assert_eq!((want.pods.len(), want.complete), (2, true));
    assert_eq!(want.pods[0].position, Position { line: 2, column: 1 });
    assert_eq!(want.pods[1].position, Position { line: 8, column: 1 });
    for text in [
        plain.replace('\n', "\r\n"),
        plain.replace('\n', "\r"),
        format!("\u{feff}{plain}"),
        plain.replace("---\n", "...\n%YAML 1.1\n---\n").replacen("# ä\n", "", 1),
    ] {
        let found = parse(text.as_bytes());
        assert_eq!(found.diagnostics, [], "{text:?}");
        let revisions = |file: &ParsedFile| -> Vec<_> {
            file.pods.iter().map(|pod| pod.revision.clone()).collect()
        };
        assert_eq!(revisions(&found), revisions(&want), "{text:?}");
    }
    let wrong = format!("{plain}  hostPID: 1\n");
    let position = parse(wrong.replace('\n', "\r\n").as_bytes()).diagnostics[0].position;
    assert_eq!(position, Position { line: 13, column: 12 });
}

#[test]
fn a_file_with_nothing_in_it_asks_for_nothing() {
    for text in ["# a comment\n", "---\n---\n# x\n...\n", "--- # x\n"] {
        let parsed = parse(text.as_bytes());
        assert_eq!((parsed.complete, parsed.pods.len()), (true, 0), "{text:?}");
        assert_eq!(parsed.diagnostics, [], "{text:?}");
    }
}

#[test]
fn an_empty_file_deletes_nothing() {
    for text in ["", "\n\n", " \r\n"] {
        let parsed = parse(text.as_bytes());
        assert_eq!((parsed.complete, parsed.pods.len()), (false, 0), "{text:?}");
        assert_eq!(parsed.diagnostics.len(), 1);
    }
}

#[test]
fn what_is_not_text_is_refused_with_its_place() {
    let check = |bytes: &[u8], wanted: &str| {
        let parsed = parse(bytes);
        assert_eq!((parsed.complete, parsed.pods.len()), (false, 0));
        assert_eq!(parsed.diagnostics[0].to_string().lines().next(), Some(wanted));
    };
    check(b"a: 1\nb: \xff\n", "2:4: error: this byte is not UTF-8 text");
    check(b"a: \xc3\xa4\0", "1:5: error: the character U+0000 must not stand in YAML");
    check(b"---\n# a\r\n---\r\n\x1b", "4:1: error: the character U+001B must not stand in YAML");
    check(b"\xff\xfea\0", "1:1: error: the file is in the encoding UTF-16");
    let random: Vec<u8> = (0..128).cycle().take(100_000).collect();
    check(&random, "1:1: error: the character U+0000 must not stand in YAML");
}

#[test]
fn rubbish_in_one_document_leaves_the_others() {
    let mut bytes = format!("{HEAD}{MAIN}---\n").into_bytes();
    bytes.extend(b"\xff\0\n---\n");
    bytes.extend(format!("{HEAD}{MAIN}").replace("name: a", "name: b").into_bytes());
    let parsed = parse(&bytes);
    let names: Vec<String> = parsed.pods.iter().map(|pod| pod.name.to_string()).collect();
    assert_eq!(names, ["default/a", "default/b"]);
    assert!(!parsed.complete);
}

#[test]
fn files_documents_and_their_number_are_limited() {
    let comment = "#".repeat(1000) + "\n";
    let large = format!("{HEAD}{MAIN}{}", comment.repeat(DOCUMENT_LEN_MAX / 1000));
    assert_eq!(messages(&large), ["1:1: error: the document is larger than 1048576 bytes"]);
    let text = format!("{HEAD}{MAIN}---\n{large}");
    let parsed = parse(text.as_bytes());
    assert_eq!((parsed.pods.len(), parsed.diagnostics[0].position.line), (1, 6));

    let huge = large.repeat(11);
    assert_eq!(messages(&huge), ["1:1: error: the file is larger than 10485760 bytes"]);

    let many = "---\na: 1\n".repeat(DOCUMENTS_MAX + 1);
    let parsed = parse(many.as_bytes());
    let last = parsed.diagnostics.last().unwrap();
    assert!(last.message.ends_with("more errors are not shown"), "{last}");
    assert!(parse(&b"---\n".repeat(500_000)).complete);
}

#[test]
fn a_hundred_thousand_levels_of_nesting_do_not_overflow_the_stack() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let parsed = parse(text.as_bytes());
        assert_eq!(parsed.diagnostics.len(), 1);
        assert_eq!(parsed.diagnostics[0].message, "the document is nested deeper than 64 levels");
    }
}

#[test]
fn a_fault_names_its_pod_where_that_can_be_told() {
    let text = format!("{HEAD}{MAIN}  hostPID: 1\n---\n{HEAD}  hostPID: [\n");
    let parsed = parse(text.as_bytes());
    assert_eq!(parsed.faulty, ["a".parse().unwrap()]);
    for diagnostic in &parsed.diagnostics {
        assert_eq!(diagnostic.pod, Some("a".parse().unwrap()), "{diagnostic}");
    }
    // The namespace may come after the fault: better no name than the wrong one.
    let cut = parse(b"kind: Pod\nmetadata:\n  name: a\n  labels: [\n");
    assert_eq!((cut.faulty.len(), cut.complete), (0, false));
}

#[test]
fn a_good_pod_beside_a_faulty_one_of_the_same_name_is_not_faulty() {
    let text = format!("{HEAD}{MAIN}---\n{HEAD}{MAIN}  hostPID: 1\n");
    let parsed = parse(text.as_bytes());
    assert_eq!((parsed.pods.len(), parsed.faulty.len(), parsed.complete), (1, 0, false));
}

#[test]
fn the_first_document_of_a_pod_counts_also_if_it_is_faulty() {
    let text = format!("{HEAD}{MAIN}  hostPID: 1\n---\n{HEAD}{MAIN}");
    let parsed = parse(text.as_bytes());
    assert_eq!((parsed.pods.len(), parsed.faulty), (0, vec!["a".parse().unwrap()]));
    let last = plain(parsed.diagnostics.last().unwrap().clone());
    assert_eq!(last, "8:1: error: metadata.name: pod default/a is in this file already, in line 1");
}

#[test]
fn variables_are_put_in_from_top_to_bottom() {
    let text = fs::read(Path::new(SPECS).join("variables.yaml")).unwrap();
    let pod = parse(&text).pods[0].spec.clone();
    let main = &pod.containers[0];
    assert_eq!(main.env[2].value, "127.0.0.1:8080");
    let script = main.command.iter().chain(&main.args).nth(2).unwrap();
    assert!(script.contains("on 127.0.0.1:8080 since $(date)"), "{script}");
    assert!(script.contains("own: $PORT, as it is: $(PORT)"), "{script}");
}

#[test]
fn variables_in_variables_do_not_fill_the_memory() {
    let bomb = |values: &str, count: usize| {
        let mut text = format!("{HEAD}  containers:\n  - name: main\n    command: [x]\n    env:\n");
        writeln!(text, "    - {{name: V0, value: {}}}", "x".repeat(100)).unwrap();
        for n in 1..=count {
            let value = values.replace('N', &(n - 1).to_string());
            writeln!(text, "    - {{name: V{n}, value: {value}}}").unwrap();
        }
        messages(&text)
    };
    let grown = bomb("$(VN)$(VN)$(VN)$(VN)$(VN)$(VN)$(VN)$(VN)$(VN)$(VN)", 4);
    assert_eq!(grown.len(), 1, "{grown:?}");
    assert!(grown[0].contains("shorter than 131072 bytes"), "{grown:?}");
    let many = bomb(&"$(V0)".repeat(10), 9000);
    assert_eq!(many.len(), 1, "{many:?}");
    assert!(many[0].contains("at most 2097152 bytes together"), "{many:?}");
}

#[test]
fn what_all_pods_of_a_file_grow_to_is_limited() {
    let value = "x".repeat(120_000);
    let pod = |n: usize, copies: usize| {
        let copies = vec!["*v"; copies].join(", ");
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, annotations: {{v: &v {value}}}}}\n\
             spec: {{containers: [{{name: main, command: [x, {copies}]}}]}}\n"
        )
    };
    let many: String = (0..30).map(|n| pod(n, 10)).collect();
    let parsed = parse(many.as_bytes());
    assert!(parsed.pods.len() > 20 && parsed.pods.len() + parsed.faulty.len() == 30);
    let fault = parsed.diagnostics[0].to_string();
    assert!(fault.contains("the file's pods are larger than 33554432 bytes together"), "{fault}");
}

#[test]
fn a_memory_volume_keeps_its_limit() {
    let volumes = "  volumes: [{name: m, emptyDir: {medium: Memory, sizeLimit: 1.5Mi}}]\n";
    let pod = one_pod(&format!("{HEAD}{MAIN}{volumes}"));
    assert_eq!(pod.volumes[0].source, VolumeSource::Memory { size_limit: Some(1_572_864) });
}

#[test]
fn a_document_full_of_one_thing_is_read_or_refused() {
    let pieces = [
        "a",
        "a ",
        "a\n",
        "a: ",
        "a:\n",
        "a: b\n",
        "? ",
        "? a\n",
        "- ",
        "- a\n",
        "[",
        "[a],",
        "[a,",
        "{",
        "{a,",
        "{a: b},",
        "]",
        "}",
        ",",
        "&a ",
        "*a ",
        "&a a\n",
        "!x ",
        "!!str ",
        "'",
        "''",
        "\"",
        "\\",
        "\"\\n",
        "|\n",
        ">\n",
        "# ",
        " ",
        " \n",
        "\t",
        ": ",
        "%a\n",
        "<<: ",
        "ä",
        "\r",
        "<<: {a: b}\n",
        "- {a: b}\n",
        "\"a\" : ",
        "a: [b, *c]\n",
    ];
    for piece in pieces {
        for start in ["", "[", "{", "a: \"", "a: '", "a: |\n ", "a: ", "[&x a,"] {
            check_invariants(format!("{start}{}", piece.repeat(2000)).as_bytes());
        }
    }
}

/// The samples, good and bad, as material for mutations.
fn corpus() -> Vec<Vec<u8>> {
    let manifests = files(Path::new(SPECS)).into_iter().filter(|(name, _)| is_manifest(name));
    manifests.map(|(_, path)| fs::read(path).unwrap()).collect()
}

/// Whatever the text, what comes out hangs together.
fn check_invariants(text: &[u8]) {
    let parsed = parse(text);
    assert_eq!(parsed.complete, !parsed.diagnostics.iter().any(Diagnostic::is_error));
    let names: BTreeSet<&PodName> = parsed.pods.iter().map(|pod| &pod.name).collect();
    assert_eq!(names.len(), parsed.pods.len());
    assert!(parsed.faulty.iter().all(|name| !names.contains(name)));
    let lines = u32::try_from(text.iter().filter(|b| matches!(b, b'\n' | b'\r')).count()).unwrap();
    for diagnostic in &parsed.diagnostics {
        let Position { line, column } = diagnostic.position;
        assert!(line >= 1 && column >= 1 && line <= lines + 2, "{diagnostic}");
        assert!(!diagnostic.message.contains(char::is_control));
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Double(prop::sample::Index, usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..4),
        prop::sample::select(vec![
            "\n",
            "\t",
            " ",
            ": ",
            "- ",
            "&a ",
            "*a",
            "<<: ",
            "[",
            "]",
            "{",
            "}",
            "\"",
            "'",
            "|\n",
            ">-\n",
            "#",
            "? ",
            "!!str ",
            "%YAML 1.1\n",
            "---\n",
            "...\n",
            "\r",
            "null",
            "-1",
            "\\",
            ", ",
            "\u{feff}",
            "\u{85}",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    let edit = prop_oneof![
        3 => (any::<prop::sample::Index>(), piece).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        2 => (any::<prop::sample::Index>(), 1..40_usize).prop_map(|(at, n)| Edit::Remove(at, n)),
        1 => (any::<prop::sample::Index>(), 1..200_usize).prop_map(|(at, n)| Edit::Double(at, n)),
    ];
    prop::collection::vec(edit, 1..8)
}

fn apply(text: &mut Vec<u8>, edits: Vec<Edit>) {
    for edit in edits {
        match edit {
            Edit::Insert(at, piece) => {
                let at = at.index(text.len() + 1);
                text.splice(at..at, piece);
            }
            Edit::Remove(at, n) => {
                let at = at.index(text.len() + 1);
                text.drain(at..(at + n).min(text.len()));
            }
            Edit::Double(at, n) => {
                let at = at.index(text.len() + 1);
                text.extend_from_within(at..(at + n).min(text.len()));
            }
        }
    }
}

/// A tree with the entries of its mappings in another order, as JSON text.
fn rewrite(node: &serde_json::Value, order: &mut impl FnMut(usize) -> usize) -> String {
    match node {
        serde_json::Value::Object(entries) => {
            let mut left: Vec<_> = entries.iter().collect();
            let mut text = String::from("{ # a comment\n");
            while !left.is_empty() {
                let (key, value) = left.swap_remove(order(left.len()));
                let comma = if left.is_empty() { "" } else { "," };
                write!(text, "\"{key}\":  {}{comma}\n  # x\n ", rewrite(value, order)).unwrap();
            }
            text + "}"
        }
        serde_json::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| rewrite(item, order)).collect();
            format!("[{}]", items.join(", "))
        }
        scalar @ (serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_)) => scalar.to_string(),
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_never_too_much(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check_invariants(&bytes);
    }

    #[test]
    fn yaml_like_text_is_never_too_much(
        text in "([ -~]|\n {0,6}|: |- |\\? |&a |\\*a|<<: |[\\[\\]{},\"'|>#!%]|---\n|\t|\r|ä){0,80}"
    ) {
        check_invariants(text.as_bytes());
    }

    #[test]
    fn broken_samples_are_never_too_much(
        sample in prop::sample::select(corpus()), edits in edits()
    ) {
        let mut text = sample;
        apply(&mut text, edits);
        check_invariants(&text);
    }

    #[test]
    fn key_order_and_comments_change_no_revision(
        name in "[a-z]{1,10}", user in 0..100_000_u32, grace in 0..1000_u32, host in any::<bool>(),
        label in "[a-z]{1,5}", seed in any::<u64>()
    ) {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "labels": {"a": label, "b": "x", "c": "y"},
                "annotations": {"roost/backoff-initial": "2s", "roost/pids-limit": "9"},
            },
            "spec": {
                "hostNetwork": host, "terminationGracePeriodSeconds": grace,
                "containers": [{
                    "name": "main", "command": ["/bin/sh"], "args": ["-c", "true"],
                    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                    "securityContext": {"runAsUser": user, "readOnlyRootFilesystem": true},
                    "resources": {"limits": {"cpu": "1", "memory": "64Mi"}},
                    "volumeMounts": [{"name": "v", "mountPath": "/mnt", "readOnly": true}],
                }],
                "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
            },
        });
        let mut state = seed;
        let mut shuffled = |len: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % len
        };
        let plain = parse(pod.to_string().as_bytes());
        let other = parse(rewrite(&pod, &mut shuffled).as_bytes());
        prop_assert_eq!(&plain.diagnostics, &[]);
        prop_assert_eq!(&other.diagnostics, &[]);
        prop_assert_eq!(&plain.pods[0].revision, &other.pods[0].revision);
        prop_assert_eq!(&plain.pods[0].spec, &other.pods[0].spec);
    }
}

#[test]
fn what_kubernetes_writes_by_itself_is_passed_over_without_a_word() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  \
                - name: web\n    command: [/bin/true]\n    resources: {}\n    \
                terminationMessagePath: /dev/termination-log\n    \
                terminationMessagePolicy: File\n    \
                securityContext: {seccompProfile: {type: RuntimeDefault}}\n  \
                dnsPolicy: ClusterFirst\n  enableServiceLinks: true\n  \
                preemptionPolicy: PreemptLowerPriority\n  priority: 0\n  \
                restartPolicy: Always\n  schedulerName: default-scheduler\n  \
                securityContext: {seccompProfile: {type: RuntimeDefault}}\n  \
                serviceAccount: default\n  serviceAccountName: default\n  \
                terminationGracePeriodSeconds: 30\n";
    let parsed = parse(text.as_bytes());
    assert_eq!((parsed.diagnostics, parsed.pods.len()), (vec![], 1));
    let other = |from: &str, to: &str| {
        let parsed = parse(text.replacen(from, to, 1).as_bytes());
        (parsed.diagnostics.len(), parsed.pods.len())
    };
    // What says something else is told of: as without effect, or as what can't be done.
    assert_eq!(other("default-scheduler", "mine"), (1, 1));
    assert_eq!(other("serviceAccountName: default", "serviceAccountName: mine"), (1, 1));
    assert_eq!(other("File", "FallbackToLogsOnError"), (0, 1));
    assert_eq!(other("type: RuntimeDefault", "type: Unconfined"), (0, 1));
    assert_eq!(other("type: RuntimeDefault", "type: Localhost, localhostProfile: a"), (0, 1));
    assert_eq!(other("type: RuntimeDefault", "type: Localhost"), (1, 0));
}

#[test]
fn thousandths_of_a_byte_are_told_from_millions() {
    let check = |side: &str, value: &str, expected: Option<(bool, &str)>| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec:\n  containers:\n  - \
             {{name: web, command: [/bin/true], resources: {{{side}: {{memory: {value}}}}}}}\n"
        );
        let parsed = parse(text.as_bytes());
        let found = parsed.diagnostics.first();
        let found = found.map(|it| (it.is_error(), it.help.as_deref().unwrap_or_default()));
        assert_eq!(found, expected, "{side} {value}");
    };
    let meant = "`m` means thousandths; did you mean `128Mi`?";
    check("limits", "128m", Some((true, meant)));
    check("requests", "128m", Some((false, meant)));
    check("requests", "128Mi", None);
    // As tools write 128 MiB that have computed with it.
    check("requests", "134217728000m", None);
    check("requests", "0m", None);
}
