//! [`Library`]: the ConfigMaps and Secrets of all manifest files, each of one file only. PURE.
//!
//! As with pods, the file that has a name keeps it, also while its document is faulty; at first it
//! is the first in lexical order. What was good last stays until its document is gone from a file
//! that can be read as a whole. Not here: what pods take from it (`manifest::resolve`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::document::{Document, DocumentName};
use crate::state::record::ManifestFile;

/// What one manifest file has of documents.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    /// Those without an error.
    pub good: Vec<Arc<Document>>,
    /// Those with one.
    pub faulty: Vec<DocumentName>,
    /// Whether nothing else can be in the file.
    pub complete: bool,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Library {
    entries: BTreeMap<DocumentName, Entry>,
    contested: BTreeMap<DocumentName, Vec<ManifestFile>>,
    /// Those that are faulty in every file that has them, and never were good.
    never_good: BTreeMap<DocumentName, ManifestFile>,
    generation: u64,
}

/// A document that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file that has it.
    pub source: ManifestFile,
    /// What was good last.
    pub document: Arc<Document>,
    /// Whether the file says something else now, which is faulty.
    pub is_stale: bool,
}

impl Library {
    /// Takes in what all files have now. `is_unread` tells of the directories that can't be looked
    /// at: what was in them stays.
    pub fn update(
        &mut self,
        files: &BTreeMap<ManifestFile, Shelf>,
        is_unread: impl Fn(&str) -> bool,
    ) {
        let mut claims: BTreeMap<&DocumentName, Vec<(&ManifestFile, &Arc<Document>)>> =
            BTreeMap::new();
        for (source, shelf) in files {
            for document in &shelf.good {
                claims.entry(&document.name).or_default().push((source, document));
            }
        }
        let mut entries = BTreeMap::new();
        for (name, entry) in &self.entries {
            if let Some(kept) = entry.kept(name, files, &is_unread) {
                entries.insert(name.clone(), kept);
            }
        }
        for (name, claims) in &claims {
            if let (None, Some((source, document))) = (entries.get(*name), claims.first()) {
                let (source, document) = ((*source).clone(), Arc::clone(document));
                let entry = Entry { source, document, is_stale: false };
                entries.insert((*name).clone(), entry);
            }
        }
        let several = claims.iter().filter(|(_, claims)| claims.len() > 1);
        let files_of = |claims: &Vec<(&ManifestFile, _)>| {
            claims.iter().map(|(source, _)| (*source).clone()).collect::<Vec<_>>()
        };
        self.contested =
            several.map(|(name, claims)| ((*name).clone(), files_of(claims))).collect();
        let faulty = files.iter().flat_map(|(source, shelf)| {
            shelf.faulty.iter().map(move |name| (name.clone(), source.clone()))
        });
        let never_good: BTreeMap<_, _> =
            faulty.filter(|(name, _)| !entries.contains_key(name)).collect();
        if (&entries, &never_good) != (&self.entries, &self.never_good) {
            (self.entries, self.never_good) = (entries, never_good);
            self.generation += 1;
        }
    }

    /// The document of that name.
    #[must_use]
    pub fn get(&self, name: &DocumentName) -> Option<&Document> {
        self.entries.get(name).map(|entry| &*entry.document)
    }

    /// The file that has a document.
    #[must_use]
    pub fn owner(&self, name: &DocumentName) -> Option<&ManifestFile> {
        self.entries.get(name).map(|entry| &entry.source)
    }

    /// Why there is no such document, if a file has it that is faulty.
    #[must_use]
    pub fn faulty_source(&self, name: &DocumentName) -> Option<&ManifestFile> {
        self.never_good.get(name)
    }

    /// All documents that count.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Counts the changes of what [`Self::get`] gives.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Documents that several files have, in words.
    #[must_use]
    pub fn contested(&self) -> Vec<String> {
        let of = |(name, files): (&DocumentName, &Vec<ManifestFile>)| {
            let owner = &self.entries.get(name)?.source;
            let others = files.iter().filter(|file| *file != owner).map(ToString::to_string);
            let others: Vec<String> = others.collect();
            Some(format!(
                "{name} is also in {}; the one in {owner} counts: remove it from all files but one",
                others.join(", ")
            ))
        };
        self.contested.iter().filter_map(of).collect()
    }

    /// The documents that count of a file.
    #[must_use]
    pub fn of_file(&self, source: &ManifestFile) -> BTreeSet<&DocumentName> {
        let own = self.entries.iter().filter(|(_, entry)| entry.source == *source);
        own.map(|(name, _)| name).collect()
    }
}

impl Entry {
    /// What becomes of it; nothing if its document is gone.
    fn kept(
        &self,
        name: &DocumentName,
        files: &BTreeMap<ManifestFile, Shelf>,
        is_unread: impl Fn(&str) -> bool,
    ) -> Option<Self> {
        let stale = || Some(Self { is_stale: true, ..self.clone() });
        let Some(shelf) = files.get(&self.source) else {
            return if is_unread(&self.source.directory) { stale() } else { None };
        };
        match shelf.good.iter().find(|document| document.name == *name) {
            Some(document) => {
                // The same one, so that it can be seen that nothing changed.
                let same = self.document == *document;
                let document = if same { &self.document } else { document };
                Some(Self { document: Arc::clone(document), is_stale: false, ..self.clone() })
            }
            None if shelf.faulty.contains(name) || !shelf.complete => stale(),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::document::{Data, DocumentKind};

    fn name() -> DocumentName {
        DocumentName { kind: DocumentKind::ConfigMap, name: "default/app".parse().unwrap() }
    }

    fn file(name: &str) -> ManifestFile {
        ManifestFile { directory: "/m".to_owned(), file: name.to_owned() }
    }

    fn holds(value: &str) -> Shelf {
        let data = BTreeMap::from([("a".to_owned(), Data::text(value))]);
        let document = Document { name: name(), secret_type: None, data };
        Shelf { good: vec![Arc::new(document)], faulty: vec![], complete: true }
    }

    /// The value that counts after these files, one after the other state.
    #[track_caller]
    fn check(library: &mut Library, files: &[(&str, Shelf)], expected: Option<(&str, &str)>) {
        let files = files.iter().map(|(name, shelf)| (file(name), shelf.clone())).collect();
        library.update(&files, |_| false);
        let entry = library.entries.get(&name());
        let value = library.get(&name()).map(|it| String::from_utf8(it.data["a"].bytes.clone()));
        let found = entry.map(|entry| entry.source.file.as_str()).zip(value);
        let expected = expected.map(|(file, value)| (file, Ok(value.to_owned())));
        assert_eq!(found, expected);
    }

    #[test]
    fn the_file_that_has_a_document_keeps_it() {
        let mut library = Library::default();
        check(&mut library, &[("b", holds("1")), ("c", holds("2"))], Some(("b", "1")));
        check(&mut library, &[("a", holds("0")), ("b", holds("1"))], Some(("b", "1")));
        assert!(library.contested()[0].contains("also in /m/a; the one in /m/b counts"));
        check(&mut library, &[("a", holds("0"))], Some(("a", "0")));
        assert!(library.contested().is_empty());
        check(&mut library, &[], None);
    }

    #[test]
    fn a_faulty_edit_keeps_what_was_good_last() {
        let mut library = Library::default();
        check(&mut library, &[("b", holds("1"))], Some(("b", "1")));
        let faulty = Shelf { good: vec![], faulty: vec![name()], complete: false };
        let before = library.generation();
        check(&mut library, &[("a", holds("0")), ("b", faulty)], Some(("b", "1")));
        // What can't be read at all may have it.
        check(&mut library, &[("b", Shelf::default())], Some(("b", "1")));
        library.update(&BTreeMap::new(), |directory| directory == "/m");
        assert!(library.get(&name()).is_some());
        assert!(library.generation() > before, "it is stale now");
        let complete = Shelf { complete: true, ..Shelf::default() };
        check(&mut library, &[("b", complete)], None);
    }

    #[test]
    fn a_document_that_was_never_good_is_told_by_its_file() {
        let mut library = Library::default();
        let faulty = Shelf { good: vec![], faulty: vec![name()], complete: false };
        check(&mut library, &[("b", faulty)], None);
        assert_eq!(library.faulty_source(&name()), Some(&file("b")));
    }
}
