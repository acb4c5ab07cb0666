//! Whether an absence may be taken for a deletion: invariants 3 and 4 of the design. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{ActualState, Plan};
use crate::manifest::desired::{DesiredState, DirectoryView};
use crate::state::record::ManifestFile;

/// Something is wrong with a manifest directory; everything of it keeps running.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The directory, as configured.
    pub directory: String,
    /// What is wrong.
    pub kind: AlarmKind,
}

/// What is wrong with a manifest directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// It can't be read.
    Unavailable(String),
    /// It is another directory than before, and empty: perhaps an empty mount point.
    ReplacedByEmpty,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { directory, kind } = self;
        match kind {
            AlarmKind::Unavailable(fault) => write!(
                f,
                "manifest directory {directory} can't be read ({fault}); its pods keep running"
            ),
            AlarmKind::ReplacedByEmpty => write!(
                f,
                "manifest directory {directory} is another one than before, and empty; its pods \
                 keep running until a manifest is in it or the old directory is back"
            ),
        }
    }
}

/// Which absences count as deletions.
#[derive(Debug)]
pub(super) struct Trust<'a> {
    /// Configured directories whose content can't be trusted now.
    distrusted: BTreeSet<&'a str>,
    desired: &'a DesiredState,
}

impl Trust<'_> {
    /// Whether every directory has been looked at.
    pub(super) fn is_complete(&self) -> bool {
        self.desired.is_read()
    }

    /// Whether a pod that `source` had, and that it does not ask for now, was deleted.
    pub(super) fn is_deleted(&self, source: &ManifestFile) -> bool {
        let directories = &self.desired.directories;
        // It may have been moved to a directory that was not looked at yet.
        if directories.values().any(|view| *view == DirectoryView::Unread) {
            return false;
        }
        if directories.contains_key(&source.directory) {
            !self.distrusted.contains(source.directory.as_str())
                && !self.desired.faulty.contains(source)
        } else {
            // A directory that is not configured any more was taken away on purpose, or is spelt
            // in another way: only when all the others are seen clearly is that known.
            self.distrusted.is_empty()
        }
    }
}

/// Judges every directory; adds alarms and handles to be remembered to the plan.
pub(super) fn judge<'a>(
    desired: &'a DesiredState,
    actual: &ActualState,
    plan: &mut Plan,
) -> Trust<'a> {
    let mut distrusted = BTreeSet::new();
    let in_use: BTreeSet<&str> = actual
        .pods
        .values()
        .filter_map(|pod| pod.record.as_ref().or(pod.adoptable.as_ref()))
        .map(|record| record.source.directory.as_str())
        .collect();
    // Perhaps one of the configured ones is meant to be the same.
    let displaced = in_use.iter().any(|name| !desired.directories.contains_key(*name));
    for (directory, view) in &desired.directories {
        let mut alarm = |kind| {
            plan.alarms.push(Alarm { directory: directory.clone(), kind });
        };
        match view {
            DirectoryView::Unread => {
                distrusted.insert(directory.as_str());
            }
            DirectoryView::Unavailable { fault } => {
                distrusted.insert(directory.as_str());
                alarm(AlarmKind::Unavailable(fault.clone()));
            }
            DirectoryView::Read { handle, empty } => {
                let known = actual.directories.get(directory);
                if known == Some(handle) {
                    continue;
                }
                // With the store lost there is no handle; then an empty directory proves nothing
                // as long as there are pods that came from it, or may have.
                let bereft = displaced || in_use.contains(directory.as_str());
                if *empty && (known.is_some() || bereft) {
                    distrusted.insert(directory.as_str());
                    alarm(AlarmKind::ReplacedByEmpty);
                } else {
                    plan.remember.insert(directory.clone(), handle.clone());
                }
            }
        }
    }
    Trust { distrusted, desired }
}

/// The handles that are remembered once `plan` is carried out.
#[must_use]
pub fn remembered(actual: &ActualState, plan: &Plan) -> BTreeMap<String, Vec<u8>> {
    let mut all = actual.directories.clone();
    all.extend(plan.remember.clone());
    all
}
