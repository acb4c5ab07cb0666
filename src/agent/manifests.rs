//! What the manifest directories ask for: observations of the watcher, parsed once per content.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::service::{Fault, Notice};
use crate::ids::PodName;
use crate::manifest::desired::{Claim, DesiredState, DirectoryView};
use crate::manifest::diagnostic::{Diagnostic, Position};
use crate::manifest::file::{ParseOptions, ParsedFile, ParsedPod, parse_with};
use crate::manifest::library::{Library, Shelf};
use crate::manifest::pod::PodSpec;
use crate::manifest::resolve::{NodeFacts, Resolver};
use crate::manifest::revision::Revision;
use crate::manifest::watcher::{DirectoryObservation, DirectoryState};
use crate::state::record::ManifestFile;

/// The newest observation of every directory.
#[derive(Debug)]
pub(super) struct Manifests {
    /// The directory that what the API creates goes to.
    first: Option<String>,
    views: BTreeMap<String, DirectoryView>,
    files: BTreeMap<ManifestFile, File>,
    options: ParseOptions,
    library: Library,
    resolver: Resolver,
    /// What pods ask for that take something from documents.
    resolved: BTreeMap<(ManifestFile, PodName), Resolution>,
}

/// What a pod asks for with the documents as they are.
#[derive(Debug)]
struct Resolution {
    /// Of which specification, and of which documents.
    of: Arc<PodSpec>,
    generation: u64,
    claim: Claim,
}

#[derive(Debug)]
enum File {
    Parsed { content: Arc<[u8]>, parsed: ParsedFile },
    Unreadable { fault: String },
}

impl Manifests {
    /// Nothing read yet.
    pub(super) fn unread(directories: &[String], strict: bool, resolver: Resolver) -> Self {
        let views = directories.iter().map(|name| (name.clone(), DirectoryView::Unread)).collect();
        let first = directories.first().cloned();
        Self {
            first,
            views,
            files: BTreeMap::new(),
            options: ParseOptions { strict },
            library: Library::default(),
            resolver,
            resolved: BTreeMap::new(),
        }
    }

    /// How manifests are read now.
    pub(super) fn options(&self) -> ParseOptions {
        self.options
    }

    /// Whether unknown fields are errors from now on. What is there is parsed anew if that changes;
    /// tells whether it did.
    pub(super) fn set_strict(&mut self, strict: bool) -> bool {
        if self.options.strict == strict {
            return false;
        }
        self.options.strict = strict;
        for file in self.files.values_mut() {
            if let File::Parsed { content, parsed } = file {
                *parsed = parse_with(content, self.options);
            }
        }
        self.resolve();
        true
    }

    /// The ConfigMaps and Secrets that count.
    pub(super) fn library(&self) -> &Library {
        &self.library
    }

    /// What claims are resolved with.
    pub(super) fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// What every file has of documents.
    pub(super) fn shelves(&self) -> BTreeMap<ManifestFile, Shelf> {
        let shelf = |file: &File| match file {
            File::Unreadable { .. } => Shelf::default(),
            File::Parsed { parsed, .. } => shelf_of(parsed),
        };
        self.files.iter().map(|(source, file)| (source.clone(), shelf(file))).collect()
    }

    /// The node has other addresses, or something else for pods: tells whether that is so.
    pub(super) fn set_node(&mut self, node: NodeFacts) -> bool {
        if self.resolver.node == node {
            return false;
        }
        self.resolver.node = node;
        self.resolved.clear();
        self.resolve();
        true
    }

    /// Finds out what pods take from documents, of those for which it may be something else now.
    fn resolve(&mut self) {
        let views = &self.views;
        let is_unread = |directory: &str| match views.get(directory) {
            Some(DirectoryView::Unread | DirectoryView::Unavailable { .. }) => true,
            Some(DirectoryView::Read { .. }) | None => false,
        };
        let shelves = self.shelves();
        self.library.update(&shelves, is_unread);
        let generation = self.library.generation();
        let mut old = std::mem::take(&mut self.resolved);
        for (source, file) in &self.files {
            let File::Parsed { parsed, .. } = file else { continue };
            for pod in parsed.pods.iter().filter(|pod| pod.spec.takes_config()) {
                let key = (source.clone(), pod.name.clone());
                let same = old.remove(&key).filter(|known| {
                    known.generation == generation && Arc::ptr_eq(&known.of, &pod.spec)
                });
                let resolution = same.unwrap_or_else(|| Resolution {
                    of: pod.spec.clone(),
                    generation,
                    claim: claim(source, pod, &self.library, &self.resolver),
                });
                self.resolved.insert(key, resolution);
            }
        }
    }

    /// Takes in what the watcher saw. What can't be read any more asks for nothing; that it is
    /// not taken for a deletion is the reconciler's business.
    pub(super) fn observe(&mut self, observation: DirectoryObservation) {
        let DirectoryObservation { directory, state } = observation;
        let mut known = std::mem::take(&mut self.files);
        let (view, files) = match state {
            DirectoryState::Unavailable { fault } => {
                (DirectoryView::Unavailable { fault: fault.to_string() }, BTreeMap::new())
            }
            DirectoryState::Read { handle, files, ignored: _ } => {
                (DirectoryView::Read { handle, empty: files.is_empty() }, files)
            }
        };
        for (name, content) in files {
            let name = ManifestFile { directory: directory.clone(), file: name };
            let file = match (content, known.remove(&name)) {
                (Err(fault), _) => File::Unreadable { fault: fault.to_string() },
                (Ok(new), Some(File::Parsed { content, parsed })) if content == new => {
                    File::Parsed { content, parsed }
                }
                (Ok(content), _) => {
                    let parsed = parse_with(&content, self.options);
                    File::Parsed { content, parsed }
                }
            };
            self.files.insert(name, file);
        }
        known.retain(|name, _| name.directory != directory);
        self.files.append(&mut known);
        self.views.insert(directory, view);
        self.resolve();
    }

    /// The directory that what the API creates goes to.
    pub(super) fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// What all of them ask for together.
    pub(super) fn desired(&self) -> DesiredState {
        let mut desired =
            DesiredState { directories: self.views.clone(), ..DesiredState::default() };
        for (source, file) in &self.files {
            match file {
                File::Unreadable { .. } => {
                    desired.faulty.insert(source.clone());
                }
                File::Parsed { parsed, .. } => {
                    if !parsed.complete {
                        desired.faulty.insert(source.clone());
                    }
                    for pod in &parsed.pods {
                        let resolved = self.resolved.get(&(source.clone(), pod.name.clone()));
                        let claim = resolved.map_or_else(
                            || Claim {
                                source: source.clone(),
                                spec: pod.spec.clone(),
                                revision: pod.revision.clone(),
                                lacks: None,
                            },
                            |resolved| resolved.claim.clone(),
                        );
                        desired.claims.entry(pod.name.clone()).or_default().push(claim);
                    }
                }
            }
        }
        desired
    }

    /// What is to be said of each file.
    pub(super) fn notices(&self) -> BTreeMap<ManifestFile, Vec<Notice>> {
        let mut all = BTreeMap::new();
        for (source, file) in &self.files {
            let notices: Vec<Notice> = match file {
                File::Unreadable { fault } => {
                    let text = format!("{source}: {fault}");
                    vec![Notice { is_fault: true, pod: None, line: text.clone(), text }]
                }
                File::Parsed { parsed, .. } => {
                    parsed.diagnostics.iter().map(|found| notice(source, found)).collect()
                }
            };
            if !notices.is_empty() {
                all.insert(source.clone(), notices);
            }
        }
        all
    }

    /// What is wrong in the files, without what is only odd.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let found = self.files.iter().flat_map(|(source, file)| {
            let diagnostics = match file {
                File::Unreadable { fault } => {
                    vec![Diagnostic::error(Position::START, "", fault)]
                }
                File::Parsed { parsed, .. } => {
                    parsed.diagnostics.iter().filter(|found| found.is_error()).cloned().collect()
                }
            };
            let file = source.to_string();
            diagnostics.into_iter().map(move |diagnostic| Fault { file: file.clone(), diagnostic })
        });
        found.collect()
    }

    /// Whether the file holds this pod and nothing else.
    pub(super) fn is_alone(&self, source: &ManifestFile) -> bool {
        match self.files.get(source) {
            Some(File::Parsed { parsed, .. }) => {
                parsed.complete && parsed.pods.len() == 1 && parsed.documents.is_empty()
            }
            Some(File::Unreadable { .. }) | None => false,
        }
    }
}

/// What a file has of documents.
pub(super) fn shelf_of(parsed: &ParsedFile) -> Shelf {
    Shelf {
        good: parsed.documents.iter().map(|it| it.document.clone()).collect(),
        faulty: parsed.faulty_documents.clone(),
        complete: parsed.complete,
    }
}

/// What a pod asks for with these documents.
pub(super) fn claim(
    source: &ManifestFile,
    pod: &ParsedPod,
    library: &Library,
    resolver: &Resolver,
) -> Claim {
    let source = source.clone();
    match resolver.resolve(&pod.spec, library) {
        Ok(spec) => {
            let revision = Revision::of(&spec);
            Claim { source, spec: Arc::new(spec), revision, lacks: None }
        }
        Err(lack) => {
            let lacks = Some(lack.to_string().into());
            Claim { source, spec: pod.spec.clone(), revision: pod.revision.clone(), lacks }
        }
    }
}

fn notice(source: &ManifestFile, diagnostic: &Diagnostic) -> Notice {
    let text = diagnostic.in_file(&source.to_string()).to_string();
    let mut line = text.lines().next().unwrap_or_default().to_owned();
    if let Some(help) = &diagnostic.help {
        line = format!("{line} (help: {help})");
    }
    Notice { is_fault: diagnostic.is_error(), pod: diagnostic.pod.clone(), text, line }
}
