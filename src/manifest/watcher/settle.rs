//! Which files of a listing can be believed now, and which are still being changed. PURE: listings,
//! events, contents and the time come in as arguments.
//!
//! One file:
//! ```text
//!            close after write, rename into place, link made
//!          ┌───────────────────────────────────────────────► read now ─► shown
//!  changed ┤                                                    ▲
//!          └─ anything else ─► Unsettled ── quiet for `settle` ─┘
//!  absent, or not readable ─► Gone, Faulty ── still so after `confirm` ─► shown
//! ```
//! - A write that was seen to begin holds the file at what was shown before until it is closed, or
//!   nothing happened to it for the settle time, or twice that (a program may keep it open for
//!   ever).
//! - A change that no event announced (events were lost, or the file system has none) counts when
//!   two looks at it a settle time apart agree.
//! - An empty file is never believed at once: nearly every writer truncates first, and an empty
//!   manifest means that its pods are gone.
//! - Appearance is immediate, absence needs confirmation: an editor that saves by renaming the old
//!   file away and writing a new one leaves a gap.
//!
//! One directory: at the first listing a file is believed if it did not change while it was read
//! and no event was seen for it; the watch is armed before. Times of files are only ever compared
//! for equality, because the clock that made them may have stepped. What is not believed yet is
//! shown as [`FileFault::BeingWritten`], never as absent. When another directory is found at the
//! path it is shown at once if it has every file that was shown before (an atomic switch);
//! otherwise only once it was quiet for the settle time, because it may still be being filled.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::observation::{Content, DirectoryFault, DirectoryState, FileFault, MAX_DIRECTORY_BYTES};
use crate::clock::{BootTime, Millis};

/// How long a stamp must have stood before equal stamps prove equal content. File systems count in
/// ticks (FAT: two seconds), and a write in the tick of our read leaves the stamp as it was.
pub(super) const STAMP_GRAIN: Millis = Millis(2000);

/// What the system says about a regular file. Equal stamps mean an unchanged file, with the doubt
/// that [`STAMP_GRAIN`] removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) device: (u32, u32),
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
    /// Reached through a symbolic link, or has several names: making such a name is atomic.
    pub(super) link: bool,
}

/// A directory, listed without reading files.
#[derive(Debug, Clone)]
pub(super) struct Scan {
    pub(super) handle: Vec<u8>,
    pub(super) entries: BTreeMap<String, Result<Stamp, FileFault>>,
    pub(super) ignored: Vec<String>,
}

/// The last that was heard of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// A name was made: a link, or a file whose content is still to come.
    Created,
    /// It was written to and not closed since.
    Writing,
    /// It was closed after writing, or moved here.
    Complete,
    /// It went away, or something but its content changed.
    Touched,
}

/// What was heard since the listing before.
#[derive(Debug, Clone, Default)]
pub(super) struct Hints {
    pub(super) names: BTreeMap<String, (Hint, BootTime)>,
    /// Something that links may lead through was moved (`..data`).
    pub(super) links_moved: bool,
    /// The directory itself, the way to it, or events that were lost: look again.
    pub(super) look: bool,
}

impl Hints {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && !self.links_moved && !self.look
    }

    /// Whether the directory must be listed, rather than only [`Settle::note`]d.
    pub(super) fn need_listing(&self) -> bool {
        let listing = |(hint, _): &(Hint, BootTime)| *hint != Hint::Writing;
        self.look || self.links_moved || self.names.values().any(listing)
    }
}

/// What reading a file came to.
#[derive(Debug, Clone)]
pub(super) enum Reading {
    /// The stamp was this both before and after.
    Whole {
        stamp: Stamp,
        bytes: Vec<u8>,
    },
    /// It changed while it was read.
    Unstable,
    Vanished,
    Fault(FileFault),
}

/// The two waiting times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tuning {
    /// How long a file must be quiet when nobody said that it is complete.
    pub(super) settle: Millis,
    /// How long bad news about a file or directory must stand.
    pub(super) confirm: Millis,
}

/// The memory of one manifest directory.
///
/// A round is: [`Settle::observe`], [`Settle::fill`] for each name it asks for, then
/// [`Settle::conclude`].
#[derive(Debug)]
pub(super) struct Settle {
    tuning: Tuning,
    current: Option<Current>,
    lost: Option<Lost>,
    published: Option<DirectoryState>,
    /// Files of the last [`DirectoryState::Read`]: outlives a time without the directory.
    last_files: BTreeMap<String, Content>,
}

/// The directory that is there.
#[derive(Debug)]
struct Current {
    handle: Vec<u8>,
    files: BTreeMap<String, File>,
    ignored: Vec<String>,
    /// Sum of the contents in `files`.
    bytes: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nothing of this directory was shown.
    New {
        entries: BTreeMap<String, Result<Stamp, FileFault>>,
        quiet_since: BootTime,
    },
    Shown,
}

/// The directory can't be listed.
#[derive(Debug)]
struct Lost {
    fault: DirectoryFault,
    since: BootTime,
}

#[derive(Debug, Default)]
struct File {
    /// What observers see; nothing for a file that was never complete.
    shown: Option<Content>,
    read: Option<ReadMark>,
    phase: Phase,
}

/// The stamp that `shown` was read at.
#[derive(Debug, Clone, Copy)]
struct ReadMark {
    stamp: Stamp,
    first_seen: BootTime,
    trust: Trust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Not read, or within [`STAMP_GRAIN`] of the stamp's first sight: to be read once more in a
    /// later round. It makes no round due: the next relist will do.
    Young,
    Firm,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Steady,
    /// To be read in this round.
    Due {
        stamp: Stamp,
    },
    /// May still be being written; quiet since then. Without a stamp it was only heard
    /// of: the time begins anew when a listing takes the stamp.
    Unsettled {
        stamp: Option<Stamp>,
        since: BootTime,
    },
    Gone {
        since: BootTime,
    },
    Faulty {
        fault: FileFault,
        since: BootTime,
    },
}

/// What a round knows while it judges one file.
#[derive(Clone, Copy)]
struct Round {
    now: BootTime,
    tuning: Tuning,
    /// The directory is listed for the first time.
    first: bool,
    /// The directory was shown, so that absence and faults need confirmation.
    shown: bool,
    links_moved: bool,
}

impl Settle {
    pub(super) fn new(tuning: Tuning) -> Self {
        Self { tuning, current: None, lost: None, published: None, last_files: BTreeMap::new() }
    }

    /// Takes in hints that need no listing ([`Hints::need_listing`]).
    pub(super) fn note(&mut self, hints: &Hints) {
        let Some(current) = &mut self.current else { return };
        for (name, (_, at)) in &hints.names {
            let file = current.files.entry(name.clone()).or_default();
            file.phase = Phase::Unsettled { stamp: None, since: *at };
        }
    }

    /// Takes in a listing made after `hints` were taken, and says which files to read now.
    pub(super) fn observe(
        &mut self,
        now: BootTime,
        scan: Result<Scan, DirectoryFault>,
        hints: &Hints,
    ) -> Vec<String> {
        let scan = match scan {
            Ok(scan) => scan,
            Err(fault) => {
                let since = self.lost.as_ref().map_or(now, |lost| lost.since);
                self.lost = Some(Lost { fault, since });
                return Vec::new();
            }
        };
        self.lost = None;
        let known = self.current.take().filter(|current| current.handle == scan.handle);
        let first = known.is_none();
        let mut current = known.unwrap_or_else(|| Current::new(scan.handle.clone(), now));
        current.watch_quiet(now, &scan, hints);
        let round = Round {
            now,
            tuning: self.tuning,
            first,
            shown: matches!(current.stage, Stage::Shown),
            links_moved: hints.links_moved,
        };
        let due = current.take_in(scan, hints, round);
        self.current = Some(current);
        due
    }

    /// Takes in what reading a file came to.
    pub(super) fn fill(&mut self, now: BootTime, name: &str, reading: Reading) {
        let Some(current) = &mut self.current else { return };
        let shown = matches!(current.stage, Stage::Shown);
        let Some(file) = current.files.get_mut(name) else { return };
        let Phase::Due { stamp: expected } = file.phase else { return };
        let unsettled = |stamp| Phase::Unsettled { stamp, since: now };
        match reading {
            Reading::Whole { stamp, bytes } if stamp == expected => {
                let size = bytes.len() as u64;
                if current.bytes - size_of(file.shown.as_ref()) + size > MAX_DIRECTORY_BYTES {
                    let fault = FileFault::DirectoryTooLarge { limit: MAX_DIRECTORY_BYTES };
                    file.refuse(now, stamp, fault, &mut current.bytes);
                } else {
                    let content = reuse(file.shown.as_ref(), self.last_files.get(name), bytes);
                    file.mark_read(now, stamp);
                    file.phase = Phase::Steady;
                    file.show(&mut current.bytes, Ok(content));
                }
            }
            // It was replaced between the listing and the reading: judge the new one by itself.
            Reading::Whole { stamp, .. } => file.phase = unsettled(Some(stamp)),
            Reading::Unstable => file.phase = unsettled(None),
            Reading::Vanished if shown => file.phase = Phase::Gone { since: now },
            Reading::Vanished => current.remove(name),
            Reading::Fault(fault) => file.refuse(now, expected, fault, &mut current.bytes),
        }
    }

    /// Ends a round: the new state, if it differs from the one before. Names that are ignored are
    /// worth no news of their own but at a `relist`.
    pub(super) fn conclude(&mut self, now: BootTime, relist: bool) -> Option<DirectoryState> {
        if let Some(lost) = &self.lost {
            if self.published.is_some() && now.since(lost.since) < self.tuning.confirm {
                return None;
            }
            let state = DirectoryState::Unavailable { fault: lost.fault.clone() };
            self.current = None;
            return self.publish(state);
        }
        let current = self.current.as_mut()?;
        if let Stage::New { quiet_since, .. } = &current.stage {
            let missing = self.last_files.keys().any(|name| !current.files.contains_key(name));
            if missing && now.since(*quiet_since) < self.tuning.settle {
                return None;
            }
            current.stage = Stage::Shown;
            for file in current.files.values_mut() {
                file.shown.get_or_insert(Err(FileFault::BeingWritten));
            }
        }
        let files = current.shown_files();
        if let Some(DirectoryState::Read { handle, files: before, ignored }) = &self.published {
            let ignored_changed = relist && *ignored != current.ignored;
            if *handle == current.handle && *before == files && !ignored_changed {
                return None;
            }
        }
        self.last_files.clone_from(&files);
        let (handle, ignored) = (current.handle.clone(), current.ignored.clone());
        self.publish(DirectoryState::Read { handle, files, ignored })
    }

    /// When the next round is due if nothing is heard before; never, if all is settled.
    pub(super) fn deadline(&self) -> Option<BootTime> {
        if let Some(lost) = &self.lost {
            let waiting = !matches!(self.published, Some(DirectoryState::Unavailable { .. }));
            return waiting.then(|| lost.since.plus(self.tuning.confirm));
        }
        let current = self.current.as_ref()?;
        let files = current.files.values().filter_map(|file| match &file.phase {
            Phase::Steady | Phase::Due { .. } => None,
            Phase::Unsettled { since, .. } => Some(since.plus(self.tuning.settle)),
            Phase::Gone { since } | Phase::Faulty { since, .. } => {
                Some(since.plus(self.tuning.confirm))
            }
        });
        let whole = match &current.stage {
            Stage::New { quiet_since, .. } => Some(quiet_since.plus(self.tuning.settle)),
            Stage::Shown => None,
        };
        files.chain(whole).min()
    }

    fn publish(&mut self, state: DirectoryState) -> Option<DirectoryState> {
        if self.published.as_ref() == Some(&state) {
            return None;
        }
        self.published = Some(state.clone());
        Some(state)
    }
}

impl Current {
    fn new(handle: Vec<u8>, now: BootTime) -> Self {
        let stage = Stage::New { entries: BTreeMap::new(), quiet_since: now };
        Self { handle, files: BTreeMap::new(), ignored: Vec::new(), bytes: 0, stage }
    }

    /// Restarts the quiet time of a new directory when anything in it changed.
    fn watch_quiet(&mut self, now: BootTime, scan: &Scan, hints: &Hints) {
        if let Stage::New { entries, quiet_since } = &mut self.stage
            && (*entries != scan.entries || !hints.names.is_empty())
        {
            entries.clone_from(&scan.entries);
            *quiet_since = now;
        }
    }

    /// Judges every file; the names to read now.
    fn take_in(&mut self, scan: Scan, hints: &Hints, round: Round) -> Vec<String> {
        self.ignored = scan.ignored;
        let absent = self.files.keys().filter(|name| !scan.entries.contains_key(*name));
        for name in absent.cloned().collect::<Vec<_>>() {
            self.miss(&name, round);
        }
        let mut due = Vec::new();
        for (name, seen) in scan.entries {
            let hint = hints.names.get(&name).copied();
            let file = self.files.entry(name.clone()).or_default();
            match seen {
                Ok(stamp) => {
                    file.phase = file.judge(stamp, hint, round);
                    if matches!(file.phase, Phase::Due { .. }) {
                        due.push(name);
                    }
                }
                Err(fault) => file.doubt(fault, round, &mut self.bytes),
            }
        }
        due
    }

    /// The file is not in the listing.
    fn miss(&mut self, name: &str, round: Round) {
        let Some(file) = self.files.get_mut(name) else { return };
        let since = if let Phase::Gone { since } = file.phase { since } else { round.now };
        let confirmed = round.now.since(since) >= round.tuning.confirm;
        if !round.shown || file.shown.is_none() || confirmed {
            self.remove(name);
        } else {
            file.phase = Phase::Gone { since };
        }
    }

    fn remove(&mut self, name: &str) {
        if let Some(file) = self.files.remove(name) {
            self.bytes -= size_of(file.shown.as_ref());
        }
    }

    fn shown_files(&self) -> BTreeMap<String, Content> {
        let shown = |(name, file): (&String, &File)| Some((name.clone(), file.shown.clone()?));
        self.files.iter().filter_map(shown).collect()
    }
}

impl File {
    /// What to do about a regular file.
    fn judge(&self, stamp: Stamp, hint: Option<(Hint, BootTime)>, round: Round) -> Phase {
        let known = self.read.filter(|read| read.stamp == stamp);
        let complete = match hint {
            Some((Hint::Writing, at)) => {
                return Phase::Unsettled { stamp: Some(stamp), since: at };
            }
            Some((Hint::Created, at)) if !stamp.link => {
                return Phase::Unsettled { stamp: Some(stamp), since: at };
            }
            Some((Hint::Created | Hint::Complete, _)) => true,
            Some((Hint::Touched, _)) | None => {
                round.first || (round.links_moved && stamp.link && known.is_none())
            }
        };
        if complete && stamp.size > 0 {
            return Phase::Due { stamp };
        }
        match (&self.phase, known) {
            (Phase::Unsettled { stamp: Some(before), since }, _) if *before == stamp => {
                if round.now.since(*since) >= round.tuning.settle {
                    Phase::Due { stamp }
                } else {
                    Phase::Unsettled { stamp: Some(stamp), since: *since }
                }
            }
            (Phase::Unsettled { .. }, _) | (_, None) => {
                Phase::Unsettled { stamp: Some(stamp), since: round.now }
            }
            (
                Phase::Steady | Phase::Due { .. } | Phase::Gone { .. } | Phase::Faulty { .. },
                Some(read),
            ) => {
                let aged = round.now.since(read.first_seen) >= STAMP_GRAIN;
                if read.trust == Trust::Young && aged {
                    Phase::Due { stamp }
                } else {
                    Phase::Steady
                }
            }
        }
    }

    /// Something that can't be read stands there.
    fn doubt(&mut self, fault: FileFault, round: Round, bytes: &mut u64) {
        if matches!(&self.shown, Some(Err(shown)) if *shown == fault) {
            self.phase = Phase::Steady;
            return;
        }
        let since = match &self.phase {
            Phase::Faulty { fault: before, since } if *before == fault => *since,
            Phase::Faulty { .. }
            | Phase::Steady
            | Phase::Due { .. }
            | Phase::Unsettled { .. }
            | Phase::Gone { .. } => round.now,
        };
        if !round.shown || round.now.since(since) >= round.tuning.confirm {
            self.read = None;
            self.phase = Phase::Steady;
            self.show(bytes, Err(fault));
        } else {
            self.phase = Phase::Faulty { fault, since };
        }
    }

    /// Reading it failed. It is tried again at a later round, as one that was read too early is.
    fn refuse(&mut self, now: BootTime, stamp: Stamp, fault: FileFault, bytes: &mut u64) {
        self.read = Some(ReadMark { stamp, first_seen: now, trust: Trust::Young });
        self.phase = Phase::Steady;
        self.show(bytes, Err(fault));
    }

    fn show(&mut self, bytes: &mut u64, content: Content) {
        *bytes -= size_of(self.shown.as_ref());
        *bytes += size_of(Some(&content));
        self.shown = Some(content);
    }

    fn mark_read(&mut self, now: BootTime, stamp: Stamp) {
        let before = self.read.filter(|read| read.stamp == stamp);
        let first_seen = before.map_or(now, |read| read.first_seen);
        let aged = now.since(first_seen) >= STAMP_GRAIN;
        let trust = if aged { Trust::Firm } else { Trust::Young };
        self.read = Some(ReadMark { stamp, first_seen, trust });
    }
}

fn size_of(content: Option<&Content>) -> u64 {
    match content {
        Some(Ok(bytes)) => bytes.len() as u64,
        Some(Err(_)) | None => 0,
    }
}

/// The allocation that holds these bytes already, or a new one.
fn reuse(shown: Option<&Content>, last: Option<&Content>, bytes: Vec<u8>) -> Arc<[u8]> {
    let same = [shown, last].into_iter().flatten().flatten().find(|held| held[..] == bytes[..]);
    same.map_or_else(|| bytes.into(), Arc::clone)
}

#[cfg(test)]
mod tests;
