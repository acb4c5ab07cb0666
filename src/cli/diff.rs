//! `roost diff`: what manifests would change. Nothing is touched.

mod lines;

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::answers::{Change, Difference, DifferenceItem, Fault};
use super::args::DiffArgs;
use super::client::Client;
use super::failure::Failure;
use super::files::{self, Manifest};
use super::get::{structured, understood};
use super::screen::{Screen, Tone};
use super::{output, yaml};
use lines::Line;

/// Says what would change.
pub(super) async fn run(client: &Client, screen: Screen, args: &DiffArgs) -> Result<(), Failure> {
    let files = files::read(&args.files.paths())?;
    let found = files::check(screen, &files);
    let value = ask(client, &files).await?;
    let difference: Difference = understood(&value)?;
    if let Some(text) = structured(args.output, &value) {
        output::print(&text)?;
    } else {
        if difference.items.iter().any(|item| item.change != Change::None) {
            output::print(&text(screen, &difference.items))?;
        } else if found.is_ok() && !difference.faults.iter().any(Fault::is_error) {
            output::print("Nothing would change.\n")?;
        }
        let held = difference.items.iter().filter_map(|it| Some(held_text(&it.pod, it.held_at?)));
        output::print(&held.map(|text| format!("{}\n", output::clean(&text))).collect::<String>())?;
    }
    found?;
    tell(&files, &difference.faults)
}

/// Asks what the files would change; without any, what those in the manifest directory would.
pub(super) async fn ask(client: &Client, files: &[Manifest]) -> Result<Value, Failure> {
    let file = |file: &Manifest| {
        let name = file.file.as_deref().unwrap_or(&file.name);
        json!({ "name": name, "text": file.lossy_text() })
    };
    let files: Vec<Value> = files.iter().map(file).collect();
    client.post("/roost/v1/diff", &json!({ "files": files })).await
}

/// That a pod does not follow its manifest, and how that ends.
pub(super) fn held_text(pod: &str, revision: u64) -> String {
    let short = pod.strip_prefix("default/").unwrap_or(pod);
    format!(
        "pod {pod} is held at revision {revision}: it was rolled back from what its manifest asks \
         for\n  help: `roost rollback {short} --release` follows the manifest again, and so does \
         changing it"
    )
}

/// Says what the agent finds wrong, but for what has been found, and said, here already.
pub(super) fn tell(files: &[Manifest], faults: &[Fault]) -> Result<(), Failure> {
    let is_known = |fault: &Fault| {
        let mut known = files.iter().flat_map(|file| &file.parsed.diagnostics);
        known.any(|it| it.message == fault.message && it.position.line == fault.position.line)
    };
    for fault in faults.iter().filter(|fault| !is_known(fault)) {
        output::note(&output::clean(&fault.text()));
    }
    if faults.iter().any(Fault::is_error) { Err(Failure::told()) } else { Ok(()) }
}

fn text(screen: Screen, items: &[DifferenceItem]) -> String {
    let mut out = String::new();
    for item in items.iter().filter(|item| item.change != Change::None) {
        if !out.is_empty() {
            out.push('\n');
        }
        let head = output::clean_line(&head(item));
        writeln!(out, "{}", screen.paint(Tone::Strong, &head)).expect("a string takes everything");
        if item.change != Change::Delete {
            out.push_str(&changes(screen, &shown(&item.before), &shown(&item.after)));
        }
    }
    out
}

/// Which pod, and what happens to it.
fn head(item: &DifferenceItem) -> String {
    let DifferenceItem { pod, change, containers, before: _, after: _, held_at: _ } = item;
    let containers = containers.join(", ");
    match change {
        Change::Create => format!("{pod} will be created"),
        Change::Replace => format!("{pod} will be replaced: all of its containers start anew"),
        Change::Restart if containers.is_empty() => format!("{pod} will be restarted"),
        Change::Restart => format!("{pod}: these containers will be restarted: {containers}"),
        Change::Update if containers.is_empty() => format!("{pod} will be changed as it runs"),
        Change::Update => format!("{pod}: these containers are changed as they run: {containers}"),
        Change::Delete => format!("{pod} will be deleted"),
        Change::None => format!("{pod} stays as it is"),
    }
}

/// A specification as text.
fn shown(spec: &Value) -> String {
    if spec.is_null() { String::new() } else { yaml::of(spec) }
}

fn changes(screen: Screen, before: &str, after: &str) -> String {
    let mut out = String::new();
    for (at, hunk) in lines::hunks(before, after).iter().enumerate() {
        if at > 0 {
            writeln!(out, "{}", screen.paint(Tone::Dim, "  ...")).expect("a string");
        }
        for line in hunk {
            let (tone, mark, text) = match line {
                Line::Kept(text) => (Tone::Plain, ' ', text),
                Line::Removed(text) => (Tone::Bad, '-', text),
                Line::Added(text) => (Tone::Good, '+', text),
            };
            let line = format!("{mark} {}", output::clean_line(text));
            writeln!(out, "{}", screen.paint(tone, line.trim_end())).expect("a string");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(pod: &str, change: &str, before: &Value, after: &Value) -> DifferenceItem {
        let value = json!({
            "pod": pod, "change": change, "containers": ["web"], "before": before, "after": after,
        });
        understood(&value).unwrap()
    }

    #[test]
    fn a_difference_is_shown_pod_by_pod_as_lines_of_yaml() {
        let spec = |image: &str| {
            json!({ "containers": [{
                "args": ["a", "b"], "command": ["/bin/x"], "image": image, "name": "web",
            }] })
        };
        let items = [
            item("default/idle", "none", &spec("a"), &spec("a")),
            item("default/new", "create", &Value::Null, &json!({ "hostname": "x" })),
            item("default/web", "restart", &spec("nginx:1"), &spec("nginx:\u{1b}2")),
            item("shop/old", "delete", &spec("a"), &Value::Null),
        ];
        insta::assert_snapshot!(text(Screen::default(), &items), @r#"
        default/new will be created
        + hostname: x

        default/web: these containers will be restarted: web
            - b
            command:
            - /bin/x
        -   image: nginx:1
        +   image: "nginx:\u001b2"
            name: web

        shop/old will be deleted
        "#);
        let colors = Screen { colors: true, ..Screen::default() };
        let text = text(colors, &items[1..2]);
        assert_eq!(
            text,
            "\u{1b}[1mdefault/new will be created\u{1b}[0m\n\u{1b}[32m+ hostname: x\u{1b}[0m\n"
        );
    }

    #[test]
    fn a_pod_that_is_held_is_told_with_the_way_out() {
        assert_eq!(
            held_text("default/web", 2),
            "pod default/web is held at revision 2: it was rolled back from what its manifest asks \
             for\n  help: `roost rollback web --release` follows the manifest again, and so does \
             changing it"
        );
        assert!(held_text("shop/db", 2).contains("`roost rollback shop/db --release`"));
    }

    #[test]
    fn errors_fail_and_warnings_do_not() {
        let fault = |severity: &str| Fault { severity: severity.to_owned(), ..Fault::default() };
        tell(&[], &[fault("warning")]).unwrap();
        assert_eq!(tell(&[], &[fault("error")]).unwrap_err().code(), 1);
    }
}
