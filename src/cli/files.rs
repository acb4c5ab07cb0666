//! [`Manifest`]: manifest files that are given to a command.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::output;
use super::screen::{Screen, Tone};
use crate::ids::PodName;
use crate::manifest::file::{self, FILE_LEN_MAX, ParsedFile};
use crate::manifest::watcher;

/// A manifest file, read and parsed.
#[derive(Debug)]
pub(super) struct Manifest {
    /// As it was given.
    pub(super) name: String,
    /// The last part of its path; none of standard input.
    pub(super) file: Option<String>,
    pub(super) text: Vec<u8>,
    pub(super) parsed: ParsedFile,
}

impl Manifest {
    fn of(path: &Path, text: Vec<u8>) -> Result<Self, Failure> {
        let is_input = path.as_os_str() == "-";
        let name = if is_input { "<stdin>".to_owned() } else { path.display().to_string() };
        let file = match path.file_name() {
            _ if is_input => None,
            Some(file) => {
                let text = file.to_str().ok_or_else(|| {
                    Failure::usage(format!(
                        "the name of {} is not UTF-8",
                        output::clean_line(&name)
                    ))
                })?;
                Some(text.to_owned())
            }
            None => None,
        };
        let parsed = file::parse(&text);
        Ok(Self { name, file, text, parsed })
    }

    /// The text; where it is none, that has been found already.
    pub(super) fn lossy_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.text)
    }

    /// The pods in it.
    pub(super) fn pods(&self) -> impl Iterator<Item = &PodName> {
        self.parsed.pods.iter().map(|pod| &pod.name)
    }
}

/// Reads files; `-` is standard input, and of a directory all manifests are read.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>, Failure> {
    listed(paths)?.iter().map(|path| one(path)).collect()
}

/// The files, with those that are in a directory in its place: what the agent would take for
/// manifests if it watched it, by name.
pub(super) fn listed(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() != "-" && path.is_dir() {
            let found = manifests_in(path).map_err(|error| unreadable(path, &error))?;
            if found.is_empty() {
                let name = output::clean_line(&path.display().to_string());
                let failure = Failure::wrong(format!("there is no manifest in directory {name}"));
                return Err(failure.with_help("their names end in .yaml, .yml or .json"));
            }
            files.extend(found);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn manifests_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        if watcher::is_manifest(&entry.file_name()) && entry.path().is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let name = output::clean_line(&path.display().to_string());
    Failure::wrong(format!("can't read {name}: {error}"))
}

fn one(path: &Path) -> Result<Manifest, Failure> {
    // No more than is needed to say that it is too much.
    let limit = u64::try_from(FILE_LEN_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut text = Vec::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut text))
    };
    read.map_err(|error| unreadable(path, &error))?;
    Manifest::of(path, text)
}

/// Says everything that is wrong with the files, as `roost validate` does.
pub(super) fn check(screen: Screen, files: &[Manifest]) -> Result<(), Failure> {
    let mut is_faulty = false;
    for file in files {
        for diagnostic in &file.parsed.diagnostics {
            let text = diagnostic.in_file(&file.name).to_string();
            let tone = if diagnostic.is_error() { Tone::Bad } else { Tone::Warning };
            let mut lines = text.splitn(2, '\n');
            let first = lines.next().unwrap_or_default();
            output::note(&tone.paint(&output::clean_line(first), screen.error_colors));
            lines.for_each(|rest| output::note(&output::clean(rest)));
        }
        is_faulty |= !file.parsed.complete;
    }
    if is_faulty { Err(Failure::told()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_told_by_its_name() {
        let failure = read(&["no/such.yaml".into()]).unwrap_err();
        assert!(failure.to_string().starts_with("error: can't read no/such.yaml: "), "{failure}");
    }

    #[test]
    fn a_directory_stands_for_the_manifests_in_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let failure = read(&[root.path().to_owned()]).unwrap_err();
        assert!(failure.to_string().contains("no manifest in directory"), "{failure}");
        for name in ["b.yaml", "a.json", ".hidden.yaml", "notes.txt", "c.yml"] {
            std::fs::write(at(name), "").unwrap();
        }
        std::fs::create_dir(at("d.yaml")).unwrap();
        let found = listed(&[at("notes.txt"), root.path().to_owned(), "-".into()]).unwrap();
        assert_eq!(found, [at("notes.txt"), at("a.json"), at("b.yaml"), at("c.yml"), "-".into()]);
    }

    #[test]
    fn files_are_parsed_and_faults_are_failures() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("web.yaml");
        std::fs::write(&path, "kind: Pod\n").unwrap();
        let files = read(&[path]).unwrap();
        assert_eq!(files[0].file.as_deref(), Some("web.yaml"));
        assert_eq!(check(Screen::default(), &files).unwrap_err().code(), 1);
    }
}
