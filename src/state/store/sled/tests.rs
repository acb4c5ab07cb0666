use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::state::codec::{self, Place};
use crate::state::samples;
use crate::state::store::{MemoryStore, contract};

fn dir() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/state");
    (dir, path)
}

#[track_caller]
fn open(path: &Path) -> SledStore {
    let (store, opening) = open_or_rebuild(path).unwrap();
    assert!(!matches!(opening, Opening::Rebuilt { .. }), "{opening:?}");
    store
}

#[track_caller]
fn rebuilt(path: &Path) -> (SledStore, String, Option<PathBuf>) {
    match open_or_rebuild(path).unwrap() {
        (store, Opening::Rebuilt { why, moved_to }) => (store, why, moved_to),
        (_, other) => panic!("{other:?}"),
    }
}

/// Commit `n` of a run: what is there afterwards says how many there were.
fn batch(n: u32) -> [Change; 2] {
    let mut record = samples::record(n % 50);
    record.losses.count = n;
    [Change::PutPod(record), Change::PutEvent(samples::event(u64::from(n)))]
}

fn commits(store: &mut SledStore, numbers: std::ops::Range<u32>) {
    for n in numbers {
        store.commit(&batch(n)).unwrap();
    }
    store.settle().unwrap();
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// Every file below a directory, with when it was written and what is in it.
fn everything(path: &Path) -> BTreeMap<PathBuf, (i64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(everything(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, (meta.mtime(), meta.mtime_nsec(), bytes));
        }
    }
    found
}

#[test]
fn the_store_on_disk_keeps_the_contract() {
    let (_dir, path) = dir();
    assert_eq!(open_or_rebuild(&path).unwrap().1, Opening::Fresh);
    let reopened = path.clone();
    contract::run(Box::new(open(&path)), &mut |store| {
        drop(store);
        Box::new(open(&reopened))
    });
}

#[test]
fn an_opening_tells_what_was_found() {
    let (_dir, path) = dir();
    let (mut store, opening) = open_or_rebuild(&path).unwrap();
    assert_eq!(opening, Opening::Fresh);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    commits(&mut store, 0..3);
    let contents = store.load().unwrap();
    drop(store);
    assert_eq!(open_or_rebuild(&path).unwrap().1, Opening::Loaded(contents));
}

#[test]
fn an_idle_store_writes_nothing() {
    let (_dir, path) = dir();
    let mut store = open(&path);
    commits(&mut store, 0..3);
    let before = everything(path.parent().unwrap());
    store.load().unwrap();
    store.commit(&[]).unwrap();
    store.settle().unwrap();
    assert!(before == everything(path.parent().unwrap()));
}

#[test]
fn a_second_agent_is_told_so_and_changes_nothing() {
    let (_dir, path) = dir();
    let mut store = open(&path);
    commits(&mut store, 0..3);
    let before = everything(path.parent().unwrap());
    let refused = open_or_rebuild(&path).unwrap_err();
    assert_eq!(refused.to_string(), format!("another agent uses {}", path.display()));
    assert!(before == everything(path.parent().unwrap()));
    commits(&mut store, 3..4);
}

#[test]
fn the_store_of_a_newer_roost_is_refused_and_not_touched() {
    let (_dir, path) = dir();
    commits(&mut open(&path), 0..3);
    let side = Files::beside(&path).side;
    let note = codec::envelope(Place { tree: "side", key: b"" }, 3, 3, b"new things");
    let file = OpenOptions::new().write(true).open(&side).unwrap();
    file.write_all_at(&[u8::try_from(note.len()).unwrap()], 0).unwrap();
    file.write_all_at(&note, 1).unwrap();
    let before = everything(path.parent().unwrap());
    let refused = open_or_rebuild(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 3, known: 2, .. }), "{refused:?}");
    assert!(refused.to_string().contains("written by a newer Roost"), "{refused}");
    assert!(before == everything(path.parent().unwrap()));
}

/// An upgrade that is taken back before anything was committed: the older Roost must see at the side
/// file that the store is not its own any more.
#[test]
fn opening_the_store_of_an_older_roost_marks_its_side_file() {
    let (_dir, path) = dir();
    let files = Files::beside(&path);
    commits(&mut open(&path), 1..3);
    let place = Place { tree: "side", key: b"" };
    let note = codec::envelope(place, 1, 1, &[]);
    let mut bytes = vec![u8::try_from(note.len()).unwrap()];
    bytes.extend(note);
    let side = OpenOptions::new().write(true).open(&files.side).unwrap();
    for slot in [0, 4096] {
        side.write_all_at(&bytes, slot).unwrap();
    }
    assert_eq!(side::read(&files.side).unwrap(), Side::Reached(1));
    drop(open(&path));
    assert_eq!(side::read(&files.side).unwrap(), Side::Reached(1));
    let now = fs::read(&files.side).unwrap();
    let versions = [now[1], now[4097]];
    assert!(versions.contains(&2) && versions.contains(&1), "{versions:?}");
    // Once is enough.
    drop(open(&path));
    assert_eq!(fs::read(&files.side).unwrap(), now);
}

#[test]
fn a_newer_value_is_refused_and_not_moved_aside() {
    let (_dir, path) = dir();
    commits(&mut open(&path), 0..3);
    let db = ::sled::open(&path).unwrap();
    let newer = codec::envelope(Place { tree: "meta", key: b"meta" }, 7, 3, b"new things");
    db.insert("meta", newer).unwrap();
    drop(db);
    for _ in 0..2 {
        let refused = open_or_rebuild(&path).unwrap_err();
        assert!(matches!(refused, StoreError::Newer { found: 7, known: 1, .. }), "{refused:?}");
    }
}

#[test]
fn an_older_store_than_the_side_file_says_is_doubtful() {
    let (dir, path) = dir();
    let mut store = open(&path);
    commits(&mut store, 0..3);
    copy(&path, &dir.path().join("older"));
    commits(&mut store, 3..4);
    drop(store);
    fs::remove_dir_all(&path).unwrap();
    copy(&dir.path().join("older"), &path);
    let (_store, why, moved_to) = rebuilt(&path);
    assert_eq!(why, "it is at commit 3, and commit 4 had been made");
    assert_eq!(moved_to.unwrap(), path.with_file_name("state.doubtful-1"));
}

#[test]
fn a_store_without_its_side_file_is_doubtful_and_so_is_a_side_file_without_its_store() {
    let (_dir, path) = dir();
    commits(&mut open(&path), 0..3);
    fs::remove_file(Files::beside(&path).side).unwrap();
    let (mut store, why, _) = rebuilt(&path);
    assert_eq!(why, "its side file is gone");
    commits(&mut store, 0..3);
    drop(store);
    fs::remove_dir_all(&path).unwrap();
    let (store, why, moved_to) = rebuilt(&path);
    assert_eq!(why, "it is gone, though it has reached commit 4");
    assert_eq!(moved_to, None);
    drop(store);
}

#[test]
fn values_that_no_commit_left_together_are_doubtful() {
    let (_dir, path) = dir();
    commits(&mut open(&path), 0..60);
    // What a page that came back older does: each value is sound, the whole is not.
    let db = ::sled::open(&path).unwrap();
    let pods = db.open_tree("pods").unwrap();
    let (key, _) = pods.first().unwrap().unwrap();
    pods.remove(key).unwrap();
    drop((pods, db));
    let (_store, why, _) = rebuilt(&path);
    assert_eq!(why, "its values are not those of any one commit (109 found, 110 announced)");
}

#[test]
fn a_rebuild_is_told_again_until_something_was_committed() {
    let (_dir, path) = dir();
    commits(&mut open(&path), 0..3);
    fs::write(path.join("db"), "garbage").unwrap();
    for _ in 0..DOUBTFUL_KEPT_MAX + 2 {
        let (store, _, moved_to) = rebuilt(&path);
        assert!(moved_to.unwrap().join("db").exists());
        drop(store);
    }
    assert_eq!(Files::beside(&path).doubtful_stores().unwrap().len(), DOUBTFUL_KEPT_MAX);
    let (mut store, _, _) = rebuilt(&path);
    store.commit(&batch(1)).unwrap();
    assert_eq!(store.load().unwrap().sequence, 4, "its numbers go on");
    drop(store);
    let Opening::Loaded(contents) = open_or_rebuild(&path).unwrap().1 else { panic!() };
    assert_eq!((contents.sequence, contents.pods.len()), (4, 1));
}

/// A generator of numbers from a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// Damages one file of a store in one way; says how.
fn damage(files: &Files, numbers: &mut Numbers) -> String {
    let mut targets: Vec<PathBuf> = fs::read_dir(&files.store)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    targets.push(files.side.clone());
    targets.sort();
    // sled's data file as often as all others together.
    let db = files.store.join("db");
    targets.extend(vec![db.clone(); if db.exists() { targets.len() } else { 0 }]);
    targets.retain(|target| target.exists());
    if targets.is_empty() {
        return "nothing left to damage".into();
    }
    let target = &targets[usize::try_from(numbers.below(targets.len() as u64)).unwrap()];
    let len = fs::metadata(target).unwrap().len();
    let file = OpenOptions::new().read(true).write(true).open(target).unwrap();
    let at = numbers.below(len.max(1));
    let how = match numbers.below(6) {
        0 => {
            file.set_len(at).unwrap();
            "cut"
        }
        1 => {
            let page = at / 4096 * 4096;
            let zeros = vec![0; usize::try_from((len - page).min(4096)).unwrap()];
            file.write_all_at(&zeros, page).unwrap();
            "a page zeroed"
        }
        2 => {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << numbers.below(8))], at).unwrap();
            "a bit flipped"
        }
        3 => {
            let garbage: Vec<u8> = (0..512).map(|_| numbers.below(256).to_le_bytes()[0]).collect();
            file.write_all_at(&garbage, at).unwrap();
            "garbage"
        }
        4 => {
            fs::remove_file(target).unwrap();
            "removed"
        }
        _ => {
            // The newest part, where a power cut does its damage.
            file.set_len(len - numbers.below(len.clamp(1, 8192))).unwrap();
            "cut near its end"
        }
    };
    format!("{} at {at} of {len}: {how}", target.display())
}

/// `ROOST_SEEDS` asks for more.
fn seeds() -> u64 {
    std::env::var("ROOST_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

#[test]
fn a_damaged_store_is_complete_or_moved_aside_and_never_older() {
    let (dir, path) = dir();
    let mut store = open(&path);
    let mut memory = MemoryStore::default();
    let mut history = vec![Contents::default()];
    for n in 0..200 {
        store.commit(&batch(n)).unwrap();
        store.settle().unwrap();
        memory.commit(&batch(n)).unwrap();
        history.push(memory.load().unwrap());
    }
    // Copied while it is open: what a crash leaves.
    let image = dir.path().join("image");
    copy(path.parent().unwrap(), &image);
    drop(store);
    let mut intact = 0;
    for seed in 0..seeds() {
        let case = dir.path().join("case");
        copy(&image, &case);
        let files = Files::beside(&case.join("state"));
        let mut numbers = Numbers(seed);
        let mut what = damage(&files, &mut numbers);
        if numbers.below(4) == 0 {
            what = format!("{what}, {}", damage(&files, &mut numbers));
        }
        let told = side::read(&files.side).unwrap();
        let (mut store, opening) = open_or_rebuild(&files.store).unwrap();
        match opening {
            Opening::Loaded(contents) => {
                // Older only if the side file has lost its newer half as well.
                let Side::Reached(reached) = told else { panic!("seed {seed}: {what}") };
                assert!(contents.sequence >= reached, "seed {seed}: {what}: older");
                let then = &history[usize::try_from(contents.sequence).unwrap()];
                assert!(contents == *then, "seed {seed}: {what}: never was");
                intact += 1;
            }
            Opening::Rebuilt { .. } => {}
            Opening::Fresh => panic!("seed {seed}: {what}: taken for new"),
        }
        // Whatever it is, it is a store.
        commits(&mut store, 200..202);
        drop(store);
        drop(open(&files.store));
        fs::remove_dir_all(&case).unwrap();
    }
    assert!((1..seeds()).contains(&intact), "{intact} intact: the damage is too small or too big");
}

const CHILD_STORE: &str = "ROOST_TEST_CHILD_STORE";

/// Not a test by itself: the process that the next test kills.
#[test]
fn child_that_commits_until_it_is_killed() {
    let Some(path) = std::env::var_os(CHILD_STORE) else {
        return;
    };
    let mut store = open(Path::new(&path));
    let first = u32::try_from(store.load().unwrap().sequence).unwrap();
    for n in first.. {
        store.commit(&batch(n)).unwrap();
        // Not println!, which the test harness would keep to itself.
        writeln!(io::stdout(), "\nacknowledged {}", n + 1).unwrap();
        store.settle().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let (_dir, path) = dir();
    let mut numbers = Numbers(9);
    for _round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::store::sled::tests::child_that_commits_until_it_is_killed"])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD_STORE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        let patience = usize::try_from(numbers.below(150)).unwrap();
        assert!(acknowledged.nth(patience).is_some(), "the child can't commit");
        child.kill().unwrap();
        // What it said before it died counts.
        let last = acknowledged.last();
        child.wait().unwrap();
        let contents = open(&path).load().unwrap();
        assert!(Some(contents.sequence) >= last, "{} < {last:?}", contents.sequence);
        let newest = contents.pods.values().map(|record| record.losses.count).max().unwrap();
        assert_eq!(u64::from(newest) + 1, contents.sequence, "half a commit");
        assert_eq!(contents.events.last(), Some(&samples::event(u64::from(newest))));
    }
}

/// A small file system of its own, gone with the value.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        nix::mount::mount(
            Some("roost-test"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("size=12m"),
        )
        .unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[test]
fn commits_fail_on_a_full_disk_and_go_on_when_there_is_room_again() {
    let disk = SmallDisk::new();
    let path = disk.0.path().join("state");
    let ballast = disk.0.path().join("ballast");
    let mut store = open(&path);
    commits(&mut store, 0..10);
    fs::remove_file(&store.files.reserve).unwrap();
    fill(&ballast);
    let mut acknowledged = 10;
    let failed = (10..5000).find_map(|n| match store.commit(&batch(n)) {
        Ok(()) => {
            acknowledged = u64::from(n) + 1;
            None
        }
        Err(error) => Some(error),
    });
    let error = failed.expect("the disk is full");
    assert!(matches!(error, StoreError::Io { .. } | StoreError::Failed { .. }), "{error:?}");
    fs::remove_file(&ballast).unwrap();
    let contents = store.load().unwrap();
    assert!(contents.sequence >= acknowledged);
    store.commit(&batch(9999)).unwrap();
    store.settle().unwrap();
    drop(store);
    let contents = open(&path).load().unwrap();
    assert!(contents.pods.values().any(|record| record.losses.count == 9999));
}

#[test]
fn a_store_opens_and_takes_commits_on_a_full_disk_by_its_reserve() {
    let disk = SmallDisk::new();
    let path = disk.0.path().join("state");
    let ballast = disk.0.path().join("ballast");
    commits(&mut open(&path), 0..10);
    fill(&ballast);
    let mut store = open(&path);
    commits(&mut store, 10..20);
    let reserve = store.files.reserve.clone();
    assert!(!reserve.exists());
    fs::remove_file(&ballast).unwrap();
    commits(&mut store, 20..21);
    assert!(reserve.exists(), "there is room again");
    assert_eq!(store.load().unwrap().sequence, 21);
}

#[test]
fn a_disk_without_any_room_moves_no_store_aside() {
    let disk = SmallDisk::new();
    let path = disk.0.path().join("state");
    commits(&mut open(&path), 0..10);
    fs::remove_file(Files::beside(&path).reserve).unwrap();
    fill(&disk.0.path().join("ballast"));
    let error = open_or_rebuild(&path).unwrap_err();
    assert!(is_disk_full(&error), "{error:?}");
    // One that can't be believed stays where it is, too.
    let side = fs::read(Files::beside(&path).side).unwrap();
    fs::remove_file(Files::beside(&path).side).unwrap();
    fill(&disk.0.path().join("more"));
    let error = open_or_rebuild(&path).unwrap_err();
    assert!(is_disk_full(&error), "{error:?}");
    fs::remove_file(disk.0.path().join("ballast")).unwrap();
    fs::write(Files::beside(&path).side, side).unwrap();
    assert_eq!(open(&path).load().unwrap().sequence, 10);
}
