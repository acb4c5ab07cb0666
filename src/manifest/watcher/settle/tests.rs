use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const HANDLE: &[u8] = b"one";
const SETTLE: u64 = 1000;
const CONFIRM: u64 = 150;

/// A directory on a disk that does not exist, and a [`Settle`] that watches it.
struct Rig {
    settle: Settle,
    now: BootTime,
    handle: Vec<u8>,
    disk: BTreeMap<String, (Stamp, Vec<u8>)>,
    faults: BTreeMap<String, FileFault>,
    lost: Option<DirectoryFault>,
    stamps: u64,
    reads: usize,
}

impl Rig {
    fn new() -> Self {
        let tuning = Tuning { settle: Millis(SETTLE), confirm: Millis(CONFIRM) };
        Self {
            settle: Settle::new(tuning),
            now: BootTime(10_000),
            handle: HANDLE.to_vec(),
            disk: BTreeMap::new(),
            faults: BTreeMap::new(),
            lost: None,
            stamps: 0,
            reads: 0,
        }
    }

    /// A rig that has shown `files`, long ago.
    fn with(files: &[(&str, &str)]) -> Self {
        let mut rig = Self::new();
        for (name, text) in files {
            rig.write(name, text);
        }
        rig.round(&[]);
        rig.wait(SETTLE * 5);
        rig.round(&[]);
        rig
    }

    fn write(&mut self, name: &str, text: &str) {
        self.stamps += 1;
        let stamp = Stamp {
            device: (8, 1),
            inode: self.stamps,
            size: text.len() as u64,
            modified: (0, 0),
            changed: (0, 0),
            link: false,
        };
        self.disk.insert(name.to_owned(), (stamp, text.into()));
    }

    fn link(&mut self, name: &str, text: &str) {
        self.write(name, text);
        self.disk.get_mut(name).unwrap().0.link = true;
    }

    fn scan(&self) -> Result<Scan, DirectoryFault> {
        if let Some(fault) = &self.lost {
            return Err(fault.clone());
        }
        let regular = self.disk.iter().map(|(name, (stamp, _))| (name.clone(), Ok(*stamp)));
        let faulty = self.faults.iter().map(|(name, fault)| (name.clone(), Err(fault.clone())));
        let entries = regular.chain(faulty).collect();
        Ok(Scan { handle: self.handle.clone(), entries, ignored: Vec::new() })
    }

    fn hints(&self, named: &[(&str, Hint)]) -> Hints {
        let named = named.iter().map(|(name, hint)| ((*name).to_owned(), (*hint, self.now)));
        Hints { names: named.collect(), ..Hints::default() }
    }

    fn round(&mut self, named: &[(&str, Hint)]) -> Option<DirectoryState> {
        let hints = self.hints(named);
        self.round_of(&hints)
    }

    fn round_of(&mut self, hints: &Hints) -> Option<DirectoryState> {
        for name in self.settle.observe(self.now, self.scan(), hints) {
            self.reads += 1;
            let (stamp, bytes) = self.disk[&name].clone();
            self.settle.fill(self.now, &name, Reading::Whole { stamp, bytes });
        }
        let state = self.settle.conclude(self.now, false);
        let deadline = self.settle.deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "a round must not call for itself");
        state
    }

    /// Lets time pass with the rounds that are due in it; what they reported.
    fn wait(&mut self, millis: u64) -> Vec<DirectoryState> {
        let end = self.now.plus(Millis(millis));
        let mut reported = Vec::new();
        while let Some(at) = self.settle.deadline().filter(|at| *at <= end) {
            self.now = at;
            reported.extend(self.round(&[]));
        }
        self.now = end;
        reported
    }
}

/// The state as text: `handle a.yaml=x b.yaml!fault`.
fn text(state: &DirectoryState) -> String {
    match state {
        DirectoryState::Unavailable { fault } => fault.to_string(),
        DirectoryState::Read { handle, files, .. } => {
            let mut text = String::from_utf8_lossy(handle).into_owned();
            for (name, content) in files {
                text += &match content {
                    Ok(bytes) => format!(" {name}={}", String::from_utf8_lossy(bytes)),
                    Err(fault) => format!(" {name}!{fault}"),
                };
            }
            text
        }
    }
}

#[track_caller]
fn check(state: Option<&DirectoryState>, expected: &str) {
    assert_eq!(state.map(text).as_deref(), Some(expected));
}

#[track_caller]
fn check_all(states: &[DirectoryState], expected: &[&str]) {
    assert_eq!(states.iter().map(text).collect::<Vec<_>>(), expected);
}

#[test]
fn a_complete_file_is_shown_at_once_whatever_completed_it() {
    let cases: [(Hint, bool, bool); 6] = [
        (Hint::Complete, false, true),
        (Hint::Created, true, true),
        (Hint::Created, false, false),
        (Hint::Writing, false, false),
        (Hint::Writing, true, false),
        (Hint::Touched, false, false),
    ];
    for (hint, link, at_once) in cases {
        let mut rig = Rig::with(&[("a", "1")]);
        if link {
            rig.link("b", "2");
        } else {
            rig.write("b", "2");
        }
        let shown = rig.round(&[("b", hint)]);
        assert_eq!(shown.is_some(), at_once, "{hint:?}, link {link}");
        let later = rig.wait(SETTLE);
        assert_eq!(later.len(), usize::from(!at_once), "{hint:?}, link {link}");
    }
}

#[test]
fn a_file_that_is_written_keeps_its_former_content_until_closed() {
    let mut rig = Rig::with(&[("a", "old")]);
    rig.write("a", "ne");
    assert_eq!(rig.round(&[("a", Hint::Writing)]), None);
    check_all(&rig.wait(SETTLE - 1), &[]);
    rig.write("a", "new");
    assert_eq!(rig.round(&[("a", Hint::Writing)]), None);
    check_all(&rig.wait(SETTLE - 1), &[]);
    check(rig.round(&[("a", Hint::Complete)]).as_ref(), "one a=new");
    assert_eq!(rig.settle.deadline(), None);
}

#[test]
fn writing_that_needs_no_listing_holds_a_file_back_as_well() {
    let mut rig = Rig::with(&[("a", "old")]);
    rig.write("a", "new");
    let hints = rig.hints(&[("a", Hint::Writing)]);
    assert!(!hints.need_listing());
    rig.settle.note(&hints);
    check_all(&rig.wait(SETTLE - 1), &[]);
    rig.write("a", "newer, and nobody said so");
    check_all(&rig.wait(SETTLE), &[]);
    check_all(&rig.wait(1), &["one a=newer, and nobody said so"]);
}

#[test]
fn a_change_that_nobody_announced_needs_two_equal_looks() {
    let mut rig = Rig::with(&[("a", "old")]);
    rig.write("a", "ne");
    assert_eq!(rig.round(&[]), None);
    rig.now = rig.now.plus(Millis(SETTLE));
    rig.write("a", "new");
    assert_eq!(rig.round(&[]), None);
    check_all(&rig.wait(SETTLE), &["one a=new"]);
}

#[test]
fn a_truncated_file_is_not_an_empty_one_until_it_stays_so() {
    let mut rig = Rig::with(&[("a", "old")]);
    rig.write("a", "");
    assert_eq!(rig.round(&[("a", Hint::Complete)]), None);
    check_all(&rig.wait(SETTLE), &["one a="]);
}

#[test]
fn a_save_by_renaming_away_and_writing_anew_is_one_change() {
    let mut rig = Rig::with(&[("a", "old")]);
    rig.disk.clear();
    assert_eq!(rig.round(&[("a", Hint::Touched)]), None);
    check_all(&rig.wait(CONFIRM - 1), &[]);
    rig.write("a", "");
    assert_eq!(rig.round(&[("a", Hint::Created)]), None);
    check_all(&rig.wait(CONFIRM), &[]);
    rig.write("a", "new");
    check(rig.round(&[("a", Hint::Complete)]).as_ref(), "one a=new");
}

#[test]
fn deletion_is_reported_once_it_is_confirmed() {
    let mut rig = Rig::with(&[("a", "1"), ("b", "2")]);
    rig.disk.clear();
    assert_eq!(rig.round(&[("a", Hint::Touched), ("b", Hint::Touched)]), None);
    check_all(&rig.wait(CONFIRM - 1), &[]);
    check_all(&rig.wait(1), &["one"]);
    assert_eq!(rig.settle.deadline(), None);
}

#[test]
fn a_fault_is_reported_once_it_is_confirmed_and_goes_with_its_cause() {
    let mut rig = Rig::with(&[("a", "1")]);
    rig.disk.clear();
    rig.faults.insert("a".to_owned(), FileFault::DanglingLink);
    assert_eq!(rig.round(&[("a", Hint::Created)]), None);
    check_all(&rig.wait(CONFIRM), &["one a!is a symbolic link that leads nowhere"]);
    rig.faults.clear();
    rig.write("a", "1");
    check(rig.round(&[("a", Hint::Complete)]).as_ref(), "one a=1");
}

#[test]
fn a_move_of_what_links_lead_through_changes_all_of_them_at_once() {
    let mut rig = Rig::new();
    rig.link("a", "1");
    rig.link("b", "2");
    rig.write("c", "3");
    rig.round(&[]);
    rig.link("a", "11");
    rig.link("b", "22");
    rig.write("c", "half");
    let moved = Hints { links_moved: true, ..Hints::default() };
    check(rig.round_of(&moved).as_ref(), "one a=11 b=22 c=3");
}

#[test]
fn at_the_first_listing_a_file_in_doubt_is_a_fault_not_absent() {
    let mut rig = Rig::new();
    rig.write("a", "1");
    rig.write("b", "ha");
    rig.write("empty", "");
    let fault = "is still being written";
    let expected = format!("one a=1 b!{fault} empty!{fault}");
    check(rig.round(&[("b", Hint::Writing)]).as_ref(), &expected);
    rig.write("b", "half");
    let expected = format!("one a=1 b=half empty!{fault}");
    check(rig.round(&[("b", Hint::Complete)]).as_ref(), &expected);
    check_all(&rig.wait(SETTLE), &["one a=1 b=half empty="]);
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again_later() {
    let mut rig = Rig::with(&[("a", "old")]);
    rig.write("a", "new");
    let hints = rig.hints(&[("a", Hint::Complete)]);
    assert_eq!(rig.settle.observe(rig.now, rig.scan(), &hints), ["a"]);
    rig.settle.fill(rig.now, "a", Reading::Unstable);
    assert_eq!(rig.settle.conclude(rig.now, false), None);
    check_all(&rig.wait(2 * SETTLE), &["one a=new"]);
}

#[test]
fn a_file_that_can_not_be_read_is_tried_again_by_later_rounds_only() {
    let mut rig = Rig::with(&[("a", "old")]);
    rig.write("a", "new");
    let hints = rig.hints(&[("a", Hint::Complete)]);
    assert_eq!(rig.settle.observe(rig.now, rig.scan(), &hints), ["a"]);
    let fault = FileFault::Unreadable { attempt: "read", reason: "bad disk".to_owned() };
    rig.settle.fill(rig.now, "a", Reading::Fault(fault));
    check(rig.settle.conclude(rig.now, false).as_ref(), "one a!can't be read: bad disk");
    assert_eq!(rig.settle.deadline(), None, "nobody polls a bad disk");
    rig.now = rig.now.plus(Millis(20_000));
    check(rig.round(&[]).as_ref(), "one a=new");
}

#[test]
fn an_unchanged_file_is_read_twice_and_never_again() {
    let mut rig = Rig::with(&[("a", "1")]);
    assert_eq!(rig.reads, 2, "its stamp was young when it was read first");
    for _ in 0..9 {
        rig.now = rig.now.plus(Millis(20_000));
        assert_eq!(rig.round(&[]), None);
    }
    assert_eq!(rig.reads, 2);
    assert_eq!(rig.settle.deadline(), None);
}

#[test]
fn a_change_within_the_grain_of_the_stamp_is_found_by_the_second_reading() {
    let mut rig = Rig::new();
    rig.write("a", "1");
    rig.round(&[]);
    rig.disk.get_mut("a").unwrap().1 = b"2".to_vec();
    rig.now = rig.now.plus(STAMP_GRAIN);
    check(rig.round(&[]).as_ref(), "one a=2");
}

#[test]
fn bytes_that_did_not_change_stay_where_they_are() {
    let mut rig = Rig::with(&[("a", "1"), ("b", "2")]);
    let before = rig.settle.last_files["a"].clone().unwrap();
    rig.write("a", "1");
    assert_eq!(rig.round(&[("a", Hint::Complete)]), None, "a write of the same is no change");
    rig.handle = b"two".to_vec();
    check(rig.round(&[]).as_ref(), "two a=1 b=2");
    assert!(Arc::ptr_eq(&before, rig.settle.last_files["a"].as_ref().unwrap()));
}

#[test]
fn a_directory_that_is_gone_for_a_moment_is_not_reported() {
    let mut rig = Rig::with(&[("a", "1")]);
    rig.lost = Some(DirectoryFault::Missing);
    assert_eq!(rig.round(&[]), None);
    check_all(&rig.wait(CONFIRM - 1), &[]);
    rig.lost = None;
    assert_eq!(rig.round(&[]), None);
    check_all(&rig.wait(SETTLE), &[]);

    rig.lost = Some(DirectoryFault::Missing);
    rig.round(&[]);
    check_all(&rig.wait(CONFIRM), &["the directory does not exist"]);
    assert_eq!(rig.settle.deadline(), None);
    rig.lost = None;
    check(rig.round(&[]).as_ref(), "one a=1");
}

#[test]
fn without_a_directory_at_the_start_it_is_said_at_once() {
    let mut rig = Rig::new();
    rig.lost = Some(DirectoryFault::NotADirectory);
    check(rig.round(&[]).as_ref(), "the path does not lead to a directory");
}

#[test]
fn a_switch_to_a_complete_directory_is_reported_at_once() {
    let mut rig = Rig::with(&[("a", "1"), ("b", "2")]);
    rig.handle = b"two".to_vec();
    rig.write("a", "11");
    rig.write("c", "3");
    check(rig.round(&[]).as_ref(), "two a=11 b=2 c=3");
}

#[test]
fn a_new_directory_that_lacks_files_is_reported_once_nobody_fills_it_any_more() {
    let mut rig = Rig::with(&[("a", "1"), ("b", "2"), ("c", "3")]);
    rig.handle = b"two".to_vec();
    rig.disk.clear();
    assert_eq!(rig.round(&[]), None);
    check_all(&rig.wait(SETTLE - 1), &[]);
    rig.write("a", "1");
    assert_eq!(rig.round(&[("a", Hint::Complete)]), None);
    check_all(&rig.wait(SETTLE - 1), &[]);
    rig.write("b", "2");
    assert_eq!(rig.round(&[("b", Hint::Complete)]), None);
    check_all(&rig.wait(SETTLE), &["two a=1 b=2"]);
}

#[test]
fn files_that_do_not_fit_together_are_faults_of_their_own() {
    let mut rig = Rig::with(&[("a", "1")]);
    rig.settle.current.as_mut().unwrap().bytes = MAX_DIRECTORY_BYTES;
    rig.write("b", "22");
    let shown = rig.round(&[("b", Hint::Complete)]);
    let expected = FileFault::DirectoryTooLarge { limit: MAX_DIRECTORY_BYTES };
    check(shown.as_ref(), &format!("one a=1 b!{expected}"));
    check_all(&rig.wait(SETTLE), &[]);
}

/// What somebody does to a directory.
#[derive(Debug, Clone)]
enum Deed {
    Replace(usize),
    BeginWriting(usize),
    GoOnWriting(usize),
    Close(usize),
    Delete(usize),
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let file = 0..3_usize;
    prop_oneof![
        file.clone().prop_map(Deed::Replace),
        file.clone().prop_map(Deed::BeginWriting),
        file.clone().prop_map(Deed::GoOnWriting),
        file.clone().prop_map(Deed::Close),
        file.prop_map(Deed::Delete),
        (0..700_u64).prop_map(Deed::Wait),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// A rig with memory of when what was done, to hold reports against it.
struct Deeds {
    rig: Rig,
    open: [bool; 3],
    touched: [BootTime; 3],
    /// Files of which a hint was lost.
    unheard: BTreeSet<&'static str>,
    reported: BTreeMap<String, Content>,
}

impl Deeds {
    /// Does one thing; the hint that the kernel gives for it.
    fn perform(&mut self, deed: &Deed) -> Option<(&'static str, Hint)> {
        let (Deed::Replace(file)
        | Deed::BeginWriting(file)
        | Deed::GoOnWriting(file)
        | Deed::Close(file)
        | Deed::Delete(file)) = deed
        else {
            return None;
        };
        let (file, name) = (*file, NAMES[*file]);
        let whole = format!("whole {}", self.rig.stamps);
        let hint = match deed {
            Deed::Replace(_) => {
                self.rig.write(name, &whole);
                self.open[file] = false;
                Hint::Complete
            }
            Deed::BeginWriting(_) => {
                let known = self.rig.disk.contains_key(name);
                self.rig.write(name, "");
                self.open[file] = true;
                if known { Hint::Writing } else { Hint::Created }
            }
            Deed::GoOnWriting(_) if self.open[file] => {
                self.rig.write(name, &format!("half {}", self.rig.stamps));
                Hint::Writing
            }
            Deed::Close(_) if self.open[file] => {
                self.rig.write(name, &whole);
                self.open[file] = false;
                Hint::Complete
            }
            Deed::Delete(_) if self.rig.disk.remove(name).is_some() => {
                self.open[file] = false;
                Hint::Touched
            }
            Deed::GoOnWriting(_) | Deed::Close(_) | Deed::Delete(_) | Deed::Wait(_) => {
                return None;
            }
        };
        self.touched[file] = self.rig.now;
        Some((name, hint))
    }

    /// Every report must be one that the rules allow at this time.
    fn hold_against(&mut self, state: Option<DirectoryState>) {
        let Some(DirectoryState::Read { files, .. }) = state else { return };
        for (index, name) in NAMES.iter().enumerate() {
            let quiet = self.rig.now.since(self.touched[index]).0;
            match (self.reported.get(*name), files.get(*name)) {
                (Some(_), None) => {
                    assert!(!self.rig.disk.contains_key(*name), "{name} is there");
                    // Between two looks it may have come and gone if nobody told.
                    let told = !self.unheard.contains(name);
                    assert!(quiet >= CONFIRM || !told, "{name} was gone for {quiet} ms only");
                }
                (before, Some(Ok(bytes))) if before != Some(&Ok(bytes.clone())) => {
                    let whole = bytes.starts_with(b"whole");
                    assert!(whole || quiet >= SETTLE, "{name} is half-written, quiet {quiet} ms");
                }
                _ => {}
            }
        }
        self.reported = files;
    }

    fn wait(&mut self, millis: u64) {
        let end = self.rig.now.plus(Millis(millis));
        while let Some(at) = self.rig.settle.deadline().filter(|at| *at <= end) {
            self.rig.now = at;
            let state = self.rig.round(&[]);
            self.hold_against(state);
        }
        self.rig.now = end;
    }
}

proptest! {
    /// Whatever happens and however many hints are lost: nothing half-written, no short absence is
    /// ever reported, and in the end the report is the truth.
    #[test]
    fn reports_are_never_rash_and_end_up_true(
        deeds in proptest::collection::vec((deed(), prop::bool::weighted(0.8)), 1..60),
    ) {
        let start = BootTime(10_000);
        let mut world = Deeds {
            rig: Rig::new(),
            open: [false; 3],
            touched: [start; 3],
            unheard: BTreeSet::new(),
            reported: BTreeMap::new(),
        };
        world.rig.round(&[]);
        for (deed, heard) in deeds {
            if let Deed::Wait(millis) = deed {
                world.wait(millis);
            }
            let Some(named) = world.perform(&deed) else { continue };
            if !heard {
                world.unheard.insert(named.0);
                continue;
            }
            let hints = world.rig.hints(&[named]);
            if hints.need_listing() {
                let state = world.rig.round_of(&hints);
                world.hold_against(state);
            } else {
                world.rig.settle.note(&hints);
            }
        }
        for _ in 0..2 {
            world.wait(20_000);
            let state = world.rig.round(&[]);
            world.hold_against(state);
        }
        world.wait(20_000);
        prop_assert_eq!(world.rig.settle.deadline(), None);
        let disk = &world.rig.disk;
        let truth: BTreeMap<String, Content> =
            disk.iter().map(|(name, (_, bytes))| (name.clone(), Ok(bytes[..].into()))).collect();
        prop_assert_eq!(&world.reported, &truth);
    }
}
