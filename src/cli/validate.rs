//! `roost validate`: every fault of manifests, without an agent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::args::ValidateArgs;
use super::failure::Failure;
use super::output;
use crate::ids::PodName;
use crate::manifest::file::{self, FILE_LEN_MAX};

/// Checks manifests. What is wrong is on standard error, what is right on standard output.
pub(super) fn run(args: &ValidateArgs) -> Result<(), Failure> {
    let mut report = Report::default();
    for path in &args.files {
        let name =
            if is_standard_input(path) { "<stdin>".to_owned() } else { path.display().to_string() };
        match read(path) {
            Ok(text) => report.add(&name, &text),
            Err(error) => report.unreadable(&name, &error),
        }
    }
    if !report.wrong.is_empty() {
        output::note(report.wrong.trim_end());
    }
    output::print(&report.right)?;
    if report.failed { Err(Failure::told()) } else { Ok(()) }
}

#[derive(Debug, Default)]
struct Report {
    /// Faults and warnings.
    wrong: String,
    right: String,
    failed: bool,
    /// In which file each pod stands first.
    seen: BTreeMap<PodName, String>,
}

impl Report {
    fn add(&mut self, name: &str, text: &[u8]) {
        let parsed = file::parse(text);
        for diagnostic in &parsed.diagnostics {
            self.wrong(&diagnostic.in_file(&name).to_string());
        }
        let mut complete = parsed.complete;
        let named = parsed.pods.iter().map(|pod| (pod.name.clone(), Some(pod.position)));
        for (pod, position) in named.chain(parsed.faulty.into_iter().map(|pod| (pod, None))) {
            let Some(other) = self.seen.get(&pod) else {
                self.seen.insert(pod, name.to_owned());
                continue;
            };
            let place = position.map(|position| format!(":{position}")).unwrap_or_default();
            let text = format!("{name}{place}: error: pod {pod} is in {other} already");
            self.wrong(&text);
            complete = false;
        }
        self.failed |= !complete;
        if complete {
            let pods: Vec<String> = parsed.pods.iter().map(|pod| pod.name.to_string()).collect();
            let what = match pods.len() {
                0 => "no pod in it".to_owned(),
                1 => format!("pod {}", pods[0]),
                count => format!("{count} pods: {}", pods.join(", ")),
            };
            writeln!(self.right, "{name}: ok, {what}").expect("a string takes everything");
        }
    }

    fn unreadable(&mut self, name: &str, error: &io::Error) {
        self.wrong(&format!("{name}: error: can't be read: {error}"));
        self.failed = true;
    }

    fn wrong(&mut self, text: &str) {
        writeln!(self.wrong, "{text}").expect("a string takes everything");
    }
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
        assert!(report.wrong.contains("b.yaml:8:5: error: "), "{}", report.wrong);
        assert!(!report.right.contains("b.yaml"));
    }

    #[test]
    fn a_pod_in_two_files_is_a_fault_that_names_both() {
        let mut report = Report::default();
        report.add("a.yaml", GOOD.as_bytes());
        report.add("b.yaml", GOOD.as_bytes());
        assert!(report.failed);
        assert_eq!(report.wrong, "b.yaml:1:1: error: pod default/web is in a.yaml already\n");
    }
}
