//! [`parse`]: the text of a manifest file → its pods, and a diagnostic for every fault.
//!
//! Not here: reading files and noticing changes (`manifest::watcher`), and what happens when two
//! files claim one pod.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::decode::{self, Decoded, Named};
use super::diagnostic::{Diagnostic, Faults, Position};
use super::document::{Document, DocumentName};
use super::node;
use super::pod::PodSpec;
use super::revision::Revision;
use super::snippet;
use crate::ids::PodName;

/// Largest file (the kubelet's `maxConfigLength`). A reader may stop one byte after it.
pub const FILE_LEN_MAX: usize = 10 << 20;
/// Largest document.
pub const DOCUMENT_LEN_MAX: usize = 1 << 20;
/// Largest specification of a pod, as JSON: what executors are sent must stay well below their
/// protocol's limit, whatever aliases and variables grow to.
pub const SPEC_LEN_MAX: usize = 4 << 20;
/// All specifications of a file together, as JSON: they are kept in memory.
pub const SPECS_LEN_MAX: usize = 32 << 20;
/// Documents of a file; comments and empty ones do not count.
pub const DOCUMENTS_MAX: usize = 1000;

/// What a manifest file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedFile {
    /// The pods of the documents without an error, in the order of the file; names are unique.
    pub pods: Vec<ParsedPod>,
    /// The ConfigMaps and Secrets without an error, likewise.
    pub documents: Vec<ParsedDocument>,
    /// All faults, in the order of the file, each with the pod that it is about if that is known.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether there was no error. If so, a pod that is not in `pods` is not wanted; if not, it
    /// may have been in what could not be read.
    pub complete: bool,
    /// The pods whose documents are faulty, as far as their names could be read; none of `pods`.
    pub faulty: Vec<PodName>,
    /// The same for ConfigMaps and Secrets.
    pub faulty_documents: Vec<DocumentName>,
}

/// A ConfigMap or Secret of a manifest file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedDocument {
    /// What it holds.
    pub document: Arc<Document>,
    /// Where it begins.
    pub position: Position,
}

/// A pod of a manifest file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedPod {
    /// The pod's key.
    pub name: PodName,
    /// What it asks for.
    pub spec: Arc<PodSpec>,
    /// The hashes of that.
    pub revision: Revision,
    /// Where its document begins.
    pub position: Position,
}

/// How manifests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParseOptions {
    /// Whether a document is refused for a field that nobody knows, instead of a warning.
    pub strict: bool,
}

/// Parses the bytes of a manifest file. Any bytes will do: what is wrong is in the diagnostics.
#[must_use]
pub fn parse(text: &[u8]) -> ParsedFile {
    parse_with(text, ParseOptions::default())
}

/// Parses the bytes of a manifest file in a certain way.
#[must_use]
pub fn parse_with(text: &[u8], options: ParseOptions) -> ParsedFile {
    let ParseOptions { strict } = options;
    let mut faults = Faults::new(strict);
    let start = faults.mark();
    let mut found = Found::default();
    if let Some(fault) = unreadable(text) {
        faults.push(fault);
    } else {
        let documents = node::documents(text);
        for document in documents.iter().take(DOCUMENTS_MAX) {
            read(*document, &mut found, &mut faults);
        }
        if let Some(document) = documents.get(DOCUMENTS_MAX) {
            let message = format!("the file has more than {DOCUMENTS_MAX} documents");
            faults.push(Diagnostic::error(first_character(document), "", &message));
        }
    }
    let complete = !faults.any_error_since(start);
    let Found { pods, documents, lines, document_lines, specs_len: _ } = found;
    let good: BTreeSet<&PodName> = pods.iter().map(|pod| &pod.name).collect();
    let faulty = lines.into_keys().filter(|name| !good.contains(name)).collect();
    let good: BTreeSet<&DocumentName> = documents.iter().map(|it| &it.document.name).collect();
    let faulty_documents = document_lines.into_keys().filter(|name| !good.contains(name)).collect();
    let mut diagnostics = faults.into_diagnostics();
    snippet::add(&mut diagnostics, text);
    ParsedFile { pods, documents, diagnostics, complete, faulty, faulty_documents }
}

/// What has been found in a file so far.
#[derive(Debug, Default)]
struct Found {
    pods: Vec<ParsedPod>,
    documents: Vec<ParsedDocument>,
    /// Where each pod stands first, the faulty ones included.
    lines: BTreeMap<PodName, u32>,
    /// Where each ConfigMap and Secret stands first, likewise.
    document_lines: BTreeMap<DocumentName, u32>,
    /// The length of their specifications.
    specs_len: usize,
}

/// Why the file as a whole can't be read, if so.
fn unreadable(text: &[u8]) -> Option<Diagnostic> {
    if text.iter().all(u8::is_ascii_whitespace) {
        // What a power cut leaves of a file that was not synced, or an editor of one it could not
        // write; nobody deletes pods that way.
        let fault = Diagnostic::error(Position::START, "", "the file is empty");
        return Some(fault.with_help("remove the file to delete its pods"));
    }
    if text.len() > FILE_LEN_MAX {
        let message = format!("the file is larger than {FILE_LEN_MAX} bytes");
        return Some(Diagnostic::error(Position::START, "", &message));
    }
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        let fault = Diagnostic::error(Position::START, "", "the file is in the encoding UTF-16");
        return Some(fault.with_help("save it in the encoding UTF-8"));
    }
    None
}

/// Reads one document.
fn read(document: node::Document<'_>, found: &mut Found, faults: &mut Faults) {
    if document.bytes.len() > DOCUMENT_LEN_MAX {
        let message = format!("the document is larger than {DOCUMENT_LEN_MAX} bytes");
        faults.push(Diagnostic::error(first_character(&document), "", &message));
        return;
    }
    let Some(text) = document.text(faults) else { return };
    let mark = faults.mark();
    let tree = node::parse(text, document.first_line, faults);
    let Some(root) = tree.root else { return };
    if !tree.whole {
        let names = decode::names_of(&root);
        // Of a List it can't be told which item the fault is in.
        if let [Named::Pod(name)] = names.as_slice() {
            faults.attribute_since(mark, name);
        }
        for name in names {
            found.add_faulty(name, document.first_line);
        }
        return;
    }
    // `---` with nothing but a comment after it.
    if root.is_null() {
        return;
    }
    let broken = faults.any_error_since(mark);
    for decoded in decode::document(&root, faults) {
        match decoded {
            Decoded::Pod { spec, position } if broken => {
                found.add_faulty(Named::Pod(spec.name), position.line);
            }
            Decoded::Pod { spec, position } => found.add(*spec, position, faults),
            Decoded::Faulty { name, position } => {
                found.add_faulty(Named::Pod(name), position.line);
            }
            Decoded::Document { document, position } if broken => {
                found.add_faulty(Named::Document(document.name), position.line);
            }
            Decoded::Document { document, position } => {
                found.add_document(document, position, faults);
            }
            Decoded::FaultyDocument { name, position } => {
                found.add_faulty(Named::Document(name), position.line);
            }
            Decoded::Nameless => {}
        }
    }
}

impl Found {
    fn add_faulty(&mut self, name: Named, line: u32) {
        match name {
            Named::Pod(name) => self.lines.entry(name).or_insert(line),
            Named::Document(name) => self.document_lines.entry(name).or_insert(line),
        };
    }

    /// Adds a ConfigMap or Secret. Of two of one name the first counts, as with pods.
    fn add_document(&mut self, document: Document, position: Position, faults: &mut Faults) {
        if let Some(line) = self.document_lines.get(&document.name) {
            let message = format!("{} is in this file already, in line {line}", document.name);
            faults.push(Diagnostic::error(position, "metadata.name", &message));
            return;
        }
        self.document_lines.insert(document.name.clone(), position.line);
        self.documents.push(ParsedDocument { document: Arc::new(document), position });
    }

    /// Adds a pod. The first document of a file that asks for a pod counts, also if it is faulty:
    /// otherwise to mend it would take the pod from the second.
    fn add(&mut self, spec: PodSpec, position: Position, faults: &mut Faults) {
        let name = spec.name.clone();
        if let Some(line) = self.lines.get(&name) {
            let message = format!("pod {name} is in this file already, in line {line}");
            let mut fault = Diagnostic::error(position, "metadata.name", &message);
            fault.pod = Some(name);
            faults.push(fault);
            return;
        }
        self.lines.insert(name.clone(), position.line);
        let len = json_len(&spec);
        if len > SPEC_LEN_MAX || self.specs_len + len > SPECS_LEN_MAX {
            let message = if len > SPEC_LEN_MAX {
                format!("the pod is larger than {SPEC_LEN_MAX} bytes")
            } else {
                format!("the file's pods are larger than {SPECS_LEN_MAX} bytes together")
            };
            let mut fault = Diagnostic::error(position, "", &message)
                .with_help("aliases and `$(NAME)` count as often as they are used");
            fault.pod = Some(name);
            faults.push(fault);
            return;
        }
        self.specs_len += len;
        let revision = Revision::of(&spec);
        self.pods.push(ParsedPod { name, spec: Arc::new(spec), revision, position });
    }
}

/// How long a specification is as JSON.
fn json_len(spec: &PodSpec) -> usize {
    /// Counts and keeps nothing.
    struct Counter(usize);

    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, spec).expect("a specification has only string keys");
    counter.0
}

fn first_character(document: &node::Document<'_>) -> Position {
    Position { line: document.first_line, column: 1 }
}

#[cfg(test)]
mod tests;
