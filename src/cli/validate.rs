//! `roost validate`: every fault of manifests, without an agent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::agent::Format;
use super::args::ValidateArgs;
use super::failure::Failure;
use super::files;
use super::output;
use crate::ids::PodName;
use crate::manifest;
use crate::manifest::diagnostic::{Diagnostic, FileDiagnostic, Position};
use crate::manifest::document::DocumentName;
use crate::manifest::file::{self, FILE_LEN_MAX, ParseOptions, ParsedDocument};

/// Checks manifests. What is wrong is on standard error, what is right on standard output; as JSON
/// all of it is on standard output.
pub(super) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    if args.schema {
        return print_json(&manifest::json_schema());
    }
    let mut report = Report { options: ParseOptions { strict: args.strict }, ..Report::default() };
    for path in &files::listed(&args.files.paths())? {
        let name =
            if is_standard_input(path) { "<stdin>".to_owned() } else { path.display().to_string() };
        match read(path) {
            Ok(text) => report.add(&name, &text),
            Err(error) => report.unreadable(&name, &error),
        }
    }
    match args.output {
        Format::Json => {
            let Report { files, diagnostics, .. } = &report;
            print_json(&json!({ "files": files, "diagnostics": diagnostics }))?;
        }
        Format::Text => {
            if !report.wrong.is_empty() {
                output::note(report.wrong.trim_end());
            }
            output::print(&report.right)?;
        }
    }
    if report.failed { Err(Failure::told()) } else { Ok(()) }
}

#[derive(Debug, Default)]
struct Report {
    options: ParseOptions,
    /// What tools get.
    files: Vec<FileReport>,
    diagnostics: Vec<FileDiagnostic>,
    /// Faults and warnings.
    wrong: String,
    right: String,
    failed: bool,
    /// In which file each pod stands first.
    seen: BTreeMap<PodName, String>,
    /// The same of each ConfigMap and Secret.
    seen_documents: BTreeMap<DocumentName, String>,
}

/// What tools get of a file.
#[derive(Debug, Serialize)]
struct FileReport {
    file: String,
    /// Whether there is no error in it.
    ok: bool,
    /// The pods without an error.
    pods: Vec<PodName>,
    /// The ConfigMaps and Secrets without an error.
    documents: Vec<String>,
}

impl Report {
    fn add(&mut self, name: &str, text: &[u8]) {
        let parsed = file::parse_with(text, self.options);
        for diagnostic in &parsed.diagnostics {
            self.wrong(&diagnostic.in_file(&name).to_string());
            self.diagnostics.push(diagnostic.for_tools(name));
        }
        let mut complete = parsed.complete;
        let named = parsed.pods.iter().map(|pod| (pod.name.clone(), Some(pod.position)));
        for (pod, position) in named.chain(parsed.faulty.into_iter().map(|pod| (pod, None))) {
            let Some(other) = self.seen.get(&pod) else {
                self.seen.insert(pod, name.to_owned());
                continue;
            };
            let message = format!("pod {pod} is in {other} already");
            let mut fault =
                Diagnostic::error(position.unwrap_or(Position::START), "metadata.name", &message);
            fault.pod = Some(pod);
            self.wrong(&fault.in_file(&name).to_string());
            self.diagnostics.push(fault.for_tools(name));
            complete = false;
        }
        complete &= self.add_documents(name, &parsed.documents);
        let documents = parsed.documents.iter().map(|it| it.document.name.to_string());
        let documents: Vec<String> = documents.collect();
        self.files.push(FileReport {
            file: name.to_owned(),
            ok: complete,
            pods: parsed.pods.iter().map(|pod| pod.name.clone()).collect(),
            documents: documents.clone(),
        });
        self.failed |= !complete;
        if complete {
            let pods: Vec<String> = parsed.pods.iter().map(|pod| pod.name.to_string()).collect();
            let what = match pods.len() {
                0 if documents.is_empty() => "no pod in it".to_owned(),
                0 => String::new(),
                1 => format!("pod {}", pods[0]),
                count => format!("{count} pods: {}", pods.join(", ")),
            };
            let parts = [what].into_iter().filter(|what| !what.is_empty()).chain(documents);
            let what = parts.collect::<Vec<_>>().join(", ");
            writeln!(self.right, "{name}: ok, {what}").expect("a string takes everything");
        }
    }

    /// Whether no ConfigMap or Secret of a file is in another one.
    fn add_documents(&mut self, name: &str, documents: &[ParsedDocument]) -> bool {
        let mut complete = true;
        for ParsedDocument { document, position } in documents {
            let Some(other) = self.seen_documents.get(&document.name) else {
                self.seen_documents.insert(document.name.clone(), name.to_owned());
                continue;
            };
            let message = format!("{} is in {other} already", document.name);
            let fault = Diagnostic::error(*position, "metadata.name", &message);
            self.wrong(&fault.in_file(&name).to_string());
            self.diagnostics.push(fault.for_tools(name));
            complete = false;
        }
        complete
    }

    fn unreadable(&mut self, name: &str, error: &io::Error) {
        let message = format!("can't be read: {error}");
        self.wrong(&format!("{name}: error: {message}"));
        let fault = Diagnostic::error(Position::START, "", &message);
        self.diagnostics.push(fault.for_tools(name));
        self.files.push(FileReport {
            file: name.to_owned(),
            ok: false,
            pods: Vec::new(),
            documents: Vec::new(),
        });
        self.failed = true;
    }

    fn wrong(&mut self, text: &str) {
        writeln!(self.wrong, "{text}").expect("a string takes everything");
    }
}

fn print_json(value: &Value) -> Result<(), Failure> {
    // The alternate form is the indented one.
    output::print(&format!("{value:#}\n"))
}

fn is_standard_input(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads no more than is needed to say that it is too much.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = Vec::new();
    if is_standard_input(path) {
        io::stdin().lock().take(limit).read_to_end(&mut text)?;
    } else {
        File::open(path)?.take(limit).read_to_end(&mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  \
                        - name: main\n    command: [/bin/true]\n";

    #[test]
    fn what_is_right_and_what_is_wrong_are_told_apart() {
        let mut report = Report::default();
        report.add("a.yaml", GOOD.as_bytes());
        assert_eq!(
            (report.right.as_str(), report.failed),
            ("a.yaml: ok, pod default/web\n", false)
        );
        report.add("b.yaml", GOOD.replace("command", "comand").as_bytes());
        assert!(report.failed);
        assert!(report.wrong.contains("b.yaml:8:5: warning: "), "{}", report.wrong);
        assert!(!report.right.contains("b.yaml"));
    }

    #[test]
    fn a_pod_in_two_files_is_a_fault_that_names_both() {
        let mut report = Report::default();
        report.add("a.yaml", GOOD.as_bytes());
        report.add("b.yaml", GOOD.as_bytes());
        assert!(report.failed);
        assert_eq!(
            report.wrong,
            "b.yaml:1:1: error: metadata.name: pod default/web is in a.yaml already\n"
        );
    }

    #[test]
    fn a_field_that_nobody_knows_is_a_fault_only_for_the_strict() {
        let text = format!("{GOOD}  frobnicate: 1\n");
        for (strict, severity) in [(false, "warning"), (true, "error")] {
            let options = ParseOptions { strict };
            let mut report = Report { options, ..Report::default() };
            report.add("a.yaml", text.as_bytes());
            assert_eq!((report.failed, report.files[0].ok), (strict, !strict));
            let found = serde_json::to_value(&report.diagnostics).unwrap();
            let wanted = json!([{
                "file": "a.yaml", "line": 9, "column": 3, "severity": severity,
                "pod": "default/web", "path": "spec.frobnicate", "message": "unknown field",
            }]);
            assert_eq!(found, wanted);
        }
    }
}
