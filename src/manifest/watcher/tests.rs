use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::*;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// A time that never comes in a test: what is waited for must not depend on it.
const NEVER: Millis = Millis::from_secs(3600);
/// How long it is waited for what must not happen. Too short a time can only hide a fault.
const SILENCE: Duration = Duration::from_millis(120);

/// A temporary directory with a watch on the directory `pods` in it.
struct Field {
    root: tempfile::TempDir,
    seen: Receiver<DirectoryState>,
    watcher: Option<Watcher>,
}

impl Field {
    /// Short waits for confirmation, none of the others ever ends: only events can help.
    fn heard() -> Self {
        let options = WatchOptions { relist: NEVER, settle: NEVER, ..Self::options() };
        Self::new("pods", options, |root| fs::create_dir(root.join("pods")).unwrap())
    }

    fn options() -> WatchOptions {
        WatchOptions { confirm: Millis(40), ..WatchOptions::new(Vec::new()) }
    }

    fn new(watched: &str, mut options: WatchOptions, prepare: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        prepare(root.path());
        options.directories = vec![root.path().join(watched).to_str().unwrap().to_owned()];
        let (sender, seen) = channel();
        let watcher = Watcher::start(options, move |observation: DirectoryObservation| {
            // The test may have ended.
            sender.send(observation.state).ok();
        });
        Self { root, seen, watcher: Some(watcher.unwrap()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes beside the directory and renames into it.
    fn place(&self, name: &str, text: &str) {
        self.write("aside", text);
        fs::rename(self.path("aside"), self.path(name)).unwrap();
    }

    /// The next report, as text: `a.yaml=x b.yaml!fault`.
    #[track_caller]
    fn next(&self) -> String {
        text(&self.seen.recv_timeout(PATIENCE).expect("a report"))
    }

    #[track_caller]
    fn next_is(&self, expected: &str) {
        assert_eq!(self.next(), expected);
    }

    /// Passes over reports up to the expected one; all of them.
    #[track_caller]
    fn until(&self, expected: &str) -> Vec<String> {
        let mut passed = Vec::new();
        loop {
            let Ok(state) = self.seen.recv_timeout(PATIENCE) else {
                panic!("{expected:?} never came, but {passed:?}");
            };
            passed.push(text(&state));
            if passed.last().is_some_and(|last| last == expected) {
                return passed;
            }
        }
    }

    #[track_caller]
    fn silent(&self) {
        assert_eq!(
            self.seen.recv_timeout(SILENCE).map(|s| text(&s)),
            Err(RecvTimeoutError::Timeout)
        );
    }
}

fn text(state: &DirectoryState) -> String {
    match state {
        DirectoryState::Unavailable { fault } => fault.to_string(),
        DirectoryState::Read { files, .. } => {
            let word = |(name, content): (&String, &Content)| match content {
                Ok(bytes) => format!("{name}={}", String::from_utf8_lossy(bytes)),
                Err(fault) => format!("{name}!{fault}"),
            };
            files.iter().map(word).collect::<Vec<_>>().join(" ")
        }
    }
}

fn handle(state: &DirectoryState) -> Vec<u8> {
    match state {
        DirectoryState::Read { handle, .. } => handle.clone(),
        DirectoryState::Unavailable { fault } => panic!("{fault}"),
    }
}

#[test]
fn a_file_renamed_into_place_is_reported_at_once() {
    let field = Field::heard();
    field.next_is("");
    field.place("pods/a.yaml", "1");
    field.next_is("a.yaml=1");
    let mut delays = Vec::new();
    for round in 0..20 {
        field.write("aside", &format!("round {round}"));
        let start = Instant::now();
        fs::rename(field.path("aside"), field.path("pods/a.yaml")).unwrap();
        field.next_is(&format!("a.yaml=round {round}"));
        delays.push(start.elapsed());
    }
    delays.sort_unstable();
    // Measured: well below a millisecond. The bound only tells an event from a timer.
    assert!(delays[10] < Duration::from_millis(20), "half of them took {:?}", delays[10]);
}

#[test]
fn a_file_copied_over_another_is_held_back_until_it_is_closed() {
    let field = Field::heard();
    field.next_is("");
    field.place("pods/a.yaml", "old");
    field.next_is("a.yaml=old");
    let mut file = fs::File::create(field.path("pods/a.yaml")).unwrap();
    file.write_all(b"first half, ").unwrap();
    field.place("pods/b.yaml", "2");
    field.next_is("a.yaml=old b.yaml=2");
    file.write_all(b"second half").unwrap();
    field.silent();
    drop(file);
    field.next_is("a.yaml=first half, second half b.yaml=2");
}

#[test]
fn a_new_file_is_not_seen_until_it_is_closed() {
    let field = Field::heard();
    field.next_is("");
    let mut file = fs::File::create(field.path("pods/a.yaml")).unwrap();
    file.write_all(b"x").unwrap();
    field.silent();
    drop(file);
    field.next_is("a.yaml=x");
}

#[test]
fn a_file_that_stays_open_counts_when_it_was_quiet_for_the_settle_time() {
    let options = WatchOptions { relist: NEVER, settle: Millis(30), ..Field::options() };
    let field = Field::new("pods", options, |root| fs::create_dir(root.join("pods")).unwrap());
    field.next_is("");
    let mut file = fs::File::create(field.path("pods/a.yaml")).unwrap();
    file.write_all(b"open").unwrap();
    field.next_is("a.yaml=open");
    drop(file);
}

#[test]
fn a_save_as_vim_does_it_is_never_seen_as_a_deletion() {
    let options = WatchOptions { relist: NEVER, settle: NEVER, confirm: NEVER, ..Field::options() };
    let field = Field::new("pods", options, |root| fs::create_dir(root.join("pods")).unwrap());
    field.next_is("");
    field.place("pods/a.yaml", "0");
    field.next_is("a.yaml=0");
    for round in 1..50 {
        let (name, backup) = (field.path("pods/a.yaml"), field.path("pods/a.yaml~"));
        field.write("pods/4913", "");
        fs::remove_file(field.path("pods/4913")).unwrap();
        fs::rename(&name, &backup).unwrap();
        fs::write(&name, round.to_string()).unwrap();
        fs::remove_file(&backup).unwrap();
        for passed in field.until(&format!("a.yaml={round}")) {
            assert!(passed.starts_with("a.yaml="), "saw {passed:?}");
        }
    }
}

#[test]
fn deleted_files_are_reported_once_confirmed_and_a_rename_keeps_the_bytes() {
    let field = Field::heard();
    field.next_is("");
    field.place("pods/a.yaml", "1");
    field.next_is("a.yaml=1");
    fs::rename(field.path("pods/a.yaml"), field.path("pods/b.yaml")).unwrap();
    field.until("b.yaml=1");
    fs::remove_file(field.path("pods/b.yaml")).unwrap();
    field.next_is("");
}

#[test]
fn names_that_are_no_manifests_are_ignored_but_named() {
    let field = Field::heard();
    field.next_is("");
    for name in ["README", "a.yaml.bak", ".a.yaml.swp", "a.yaml~"] {
        field.write(&format!("pods/{name}"), "x");
    }
    field.silent();
    field.watcher.as_ref().unwrap().relist();
    let state = field.seen.recv_timeout(PATIENCE).unwrap();
    let DirectoryState::Read { ignored, .. } = state else { panic!("{state:?}") };
    assert_eq!(ignored, ["README", "a.yaml.bak", "a.yaml~"]);
}

#[test]
fn reading_the_directory_makes_no_hints() {
    let field = Field::heard();
    field.next_is("");
    field.place("pods/a.yaml", "1");
    field.next_is("a.yaml=1");
    let inbox = Arc::clone(&field.watcher.as_ref().unwrap().inbox);
    field.silent();
    let before = inbox.rings();
    fs::read(field.path("pods/a.yaml")).unwrap();
    assert_eq!(fs::read_dir(field.path("pods")).unwrap().count(), 1);
    field.watcher.as_ref().unwrap().relist();
    field.silent();
    assert_eq!(inbox.rings(), before, "an idle watcher is not woken");
}

#[test]
fn a_directory_behind_a_link_is_followed_when_the_link_is_switched() {
    let options = WatchOptions { relist: NEVER, settle: NEVER, ..Field::options() };
    let field = Field::new("pods", options, |root| {
        for version in ["v1", "v2"] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), version).unwrap();
        }
        symlink("current", root.join("pods")).unwrap();
        symlink("v1", root.join("current")).unwrap();
    });
    let first = field.seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(text(&first), "a.yaml=v1");
    symlink("v2", field.path("new")).unwrap();
    fs::rename(field.path("new"), field.path("current")).unwrap();
    let second = field.seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(text(&second), "a.yaml=v2");
    assert_ne!(handle(&first), handle(&second));
    field.place("v2/b.yaml", "heard in the new one");
    field.next_is("a.yaml=v2 b.yaml=heard in the new one");
}

#[test]
fn links_to_files_follow_the_switch_of_the_directory_they_lead_through() {
    let options = WatchOptions { relist: NEVER, settle: NEVER, ..Field::options() };
    let field = Field::new("pods", options, |root| {
        for version in ["..1", "..2"] {
            fs::create_dir_all(root.join("pods").join(version)).unwrap();
            fs::write(root.join("pods").join(version).join("a.yaml"), version).unwrap();
        }
        symlink("..1", root.join("pods/..data")).unwrap();
        symlink("..data/a.yaml", root.join("pods/a.yaml")).unwrap();
    });
    field.next_is("a.yaml=..1");
    symlink("..2", field.path("pods/..data_tmp")).unwrap();
    fs::rename(field.path("pods/..data_tmp"), field.path("pods/..data")).unwrap();
    field.next_is("a.yaml=..2");
    symlink("a.yaml", field.path("pods/b.yaml")).unwrap();
    field.next_is("a.yaml=..2 b.yaml=..2");
}

#[test]
fn a_directory_that_is_renamed_away_and_back_is_watched_again() {
    let field = Field::heard();
    let first = field.seen.recv_timeout(PATIENCE).unwrap();
    field.place("pods/a.yaml", "1");
    field.next_is("a.yaml=1");
    fs::rename(field.path("pods"), field.path("elsewhere")).unwrap();
    field.next_is("the directory does not exist");
    fs::rename(field.path("elsewhere"), field.path("pods")).unwrap();
    let back = field.seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(text(&back), "a.yaml=1");
    assert_eq!(handle(&first), handle(&back));
    field.place("pods/b.yaml", "2");
    field.next_is("a.yaml=1 b.yaml=2");
}

#[test]
fn a_directory_replaced_by_an_empty_one_is_another_directory() {
    let options = WatchOptions { relist: NEVER, settle: Millis(100), ..Field::options() };
    let field = Field::new("pods", options, |root| fs::create_dir(root.join("pods")).unwrap());
    let first = field.seen.recv_timeout(PATIENCE).unwrap();
    field.place("pods/a.yaml", "1");
    field.next_is("a.yaml=1");
    fs::rename(field.path("pods"), field.path("elsewhere")).unwrap();
    fs::create_dir(field.path("pods")).unwrap();
    let state = loop {
        let state = field.seen.recv_timeout(PATIENCE).unwrap();
        if matches!(state, DirectoryState::Read { .. }) {
            break state;
        }
    };
    assert_eq!(text(&state), "");
    assert_ne!(handle(&first), handle(&state));
    field.place("pods/b.yaml", "2");
    field.next_is("b.yaml=2");
}

#[test]
fn a_directory_that_appears_later_is_found_and_one_that_is_removed_is_missed() {
    let options = WatchOptions { relist: NEVER, settle: NEVER, ..Field::options() };
    let field = Field::new("a/b/pods", options, |_| ());
    field.next_is("the directory does not exist");
    fs::create_dir_all(field.path("a/b/pods")).unwrap();
    field.next_is("");
    field.place("a/b/pods/x.yaml", "1");
    field.next_is("x.yaml=1");
    fs::remove_dir_all(field.path("a")).unwrap();
    assert!(field.until("the directory does not exist").len() <= 2);
}

#[test]
fn a_path_that_leads_to_no_directory_is_unavailable() {
    for (make, expected) in [
        (
            (|path| fs::write(path, "x").unwrap()) as fn(PathBuf),
            "the path does not lead to a directory",
        ),
        (|path| symlink("nowhere", path).unwrap(), "the directory does not exist"),
        (
            |path| symlink(path.clone(), path).unwrap(),
            "the directory can't be opened: Too many levels of symbolic links (os error 40)",
        ),
    ] {
        let options = WatchOptions { relist: NEVER, ..Field::options() };
        let field = Field::new("pods", options, |root| make(root.join("pods")));
        field.next_is(expected);
    }
}

#[test]
fn things_that_are_no_files_are_faults_of_their_own_and_block_nobody() {
    let options = WatchOptions { relist: NEVER, ..Field::options() };
    let field = Field::new("pods", options, |root| {
        let pods = root.join("pods");
        fs::create_dir(&pods).unwrap();
        assert!(Command::new("mkfifo").arg(pods.join("a.yaml")).status().unwrap().success());
        fs::create_dir(pods.join("b.yaml")).unwrap();
        symlink("nowhere", pods.join("c.yaml")).unwrap();
        let large = fs::File::create(pods.join("d.yaml")).unwrap();
        large.set_len(MAX_FILE_BYTES + 1).unwrap();
        fs::write(pods.join("e.yaml"), "fine").unwrap();
    });
    field.next_is(
        "a.yaml!is a pipe, not a regular file b.yaml!is a directory, not a regular file \
         c.yaml!is a symbolic link that leads nowhere \
         d.yaml!has 10485761 bytes; at most 10485760 are read e.yaml=fine",
    );
}

#[test]
fn a_directory_with_too_many_manifests_is_unavailable_rather_than_read_in_part() {
    let options = WatchOptions { relist: NEVER, ..Field::options() };
    let field = Field::new("pods", options, |root| {
        let pods = root.join("pods");
        fs::create_dir(&pods).unwrap();
        fs::write(pods.join("0.yaml"), "x").unwrap();
        for number in 1..=MAX_FILES {
            fs::hard_link(pods.join("0.yaml"), pods.join(format!("{number}.yaml"))).unwrap();
        }
    });
    field.next_is("the directory holds more than 4096 manifests");
    fs::remove_file(field.path("pods/1.yaml")).unwrap();
    assert_eq!(field.next().split(' ').count(), MAX_FILES);
}

#[test]
fn without_hints_a_relist_finds_every_change() {
    let options = WatchOptions {
        relist: Millis(20),
        settle: Millis(40),
        hints: HintSource::Off,
        ..Field::options()
    };
    let field = Field::new("pods", options, |root| fs::create_dir(root.join("pods")).unwrap());
    field.next_is("");
    field.place("pods/a.yaml", "1");
    field.next_is("a.yaml=1");
    fs::rename(field.path("pods"), field.path("elsewhere")).unwrap();
    field.next_is("the directory does not exist");
    fs::rename(field.path("elsewhere"), field.path("pods")).unwrap();
    field.next_is("a.yaml=1");
    fs::remove_file(field.path("pods/a.yaml")).unwrap();
    field.next_is("");
}

#[test]
fn directories_are_reported_each_by_its_configured_name() {
    let root = tempfile::tempdir().unwrap();
    let names: Vec<String> =
        ["x", "y"].map(|name| root.path().join(name).to_str().unwrap().to_owned()).into();
    fs::create_dir(&names[1]).unwrap();
    let (sender, seen) = channel();
    let options = WatchOptions { relist: NEVER, ..WatchOptions::new(names.clone()) };
    let watcher = Watcher::start(options, move |observation| sender.send(observation).unwrap());
    let mut first = [(); 2].map(|()| seen.recv_timeout(PATIENCE).unwrap());
    first.sort_by(|a, b| a.directory.cmp(&b.directory));
    assert_eq!(first.each_ref().map(|o| &o.directory), [&names[0], &names[1]]);
    assert_eq!(text(&first[0].state), "the directory does not exist");
    drop(watcher);
    assert!(seen.recv().is_err(), "dropping the watcher ends its thread, and with it the sink");
}

#[test]
fn many_files_at_once_are_all_reported() {
    let field = Field::heard();
    field.next_is("");
    for number in 0..1000 {
        field.place(&format!("pods/{number}.yaml"), "x");
    }
    loop {
        let state = field.seen.recv_timeout(PATIENCE).expect("the last of them");
        if text(&state).split(' ').count() == 1000 {
            break;
        }
    }
}
