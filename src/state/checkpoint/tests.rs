use std::fmt::Debug;
use std::os::unix::fs::MetadataExt;

use std::collections::BTreeMap;

use super::*;
use crate::clock::BootTime;
use crate::ids::Attempt;
use crate::manifest::document::Data;
use crate::manifest::resolve::{Content, NodeFacts};
use crate::state::record::{Exit, LastRun};
use crate::state::samples;

fn exit() -> ExitFile {
    ExitFile::of(samples::run(4, Exit::Code(3)))
}

fn attempt() -> AttemptFile {
    AttemptFile {
        format: Format,
        attempt: Attempt(4),
        container_hash: samples::hash(77),
        boot: samples::moment().boot,
        announced: BootTime(12_345),
        announced_at: samples::AT,
        backoff_count: 2,
        pod_since: Some(BootTime(345)),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

fn config() -> ConfigFile {
    let values = |key: &str, data| BTreeMap::from([(key.to_owned(), data)]);
    let binary = Data { bytes: vec![0, 1, 2], binary: true };
    let content = Content {
        config_maps: BTreeMap::from([("app".parse().unwrap(), values("a", binary))]),
        secrets: BTreeMap::from([("db".parse().unwrap(), values("b", Data::text("c")))]),
        node: Some(NodeFacts {
            name: "edge-1".to_owned(),
            addresses: vec!["192.0.2.7".to_owned()],
            cpu_milli: 4000,
            memory_bytes: 1 << 30,
            storage_bytes: 0,
        }),
    };
    ConfigFile { format: Format, content }
}

/// The golden file of that name is still read as `value`; if it is of the newest format, `value`
/// is still written so.
#[track_caller]
fn check_golden<T: Checkpoint + PartialEq + Debug>(name: &str, value: &T) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fact.json");
    write(&path, value).unwrap();
    let fresh = fs::read(&path).unwrap();
    let kept = samples::golden(name, &fresh);
    fs::write(&path, &kept).unwrap();
    assert_eq!(read::<T>(&path).unwrap().as_ref(), Some(value), "{name}");
    let Head { format } = serde_json::from_slice(&kept).unwrap();
    if format == T::FORMAT {
        let [fresh, kept] = [fresh, kept].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(fresh, kept, "{name}: the format changed, its number did not");
    }
}

#[test]
fn golden_checkpoints_of_every_format_are_read_and_the_newest_is_written_as_ever() {
    check_golden("v1/spec.json", &SpecFile::of(&samples::record(1), samples::spec()));
    let held = samples::later_records()[0].1.clone();
    check_golden("v2/spec.json", &SpecFile::of(&held, samples::spec()));
    check_golden("v1/config.json", &config());
    check_golden("v1/config-key.json", &ConfigKeyFile { format: Format, key: [7; 32] });
    check_golden("v1/attempt.json", &AttemptFile { pod_since: None, ..attempt() });
    check_golden("v2/attempt.json", &attempt());
    for (n, exit) in samples::exits().into_iter().enumerate() {
        for version in ["v1", "v2"] {
            let name = format!("{version}/exit-{n}.json");
            check_golden(&name, &ExitFile::of(samples::run(4, exit.clone())));
        }
    }
    let message = Some("düsk \u{fffd} full\n".to_owned());
    let said = LastRun { message, ..samples::run(4, Exit::Code(3)) };
    check_golden("v2/exit-with-message.json", &ExitFile::of(said));
}

#[test]
fn a_record_can_be_made_anew_from_the_specification_file() {
    let record = samples::record(1);
    assert_eq!(SpecFile::of(&record, samples::spec()).to_record(), record);
}

#[test]
fn a_checkpoint_replaces_the_one_before_it_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exit-4.json");
    assert_eq!(read::<ExitFile>(&path).unwrap(), None);
    for code in [1, 2] {
        let exit = ExitFile::of(samples::run(4, Exit::Code(code)));
        write(&path, &exit).unwrap();
        assert_eq!(read(&path).unwrap(), Some(exit));
    }
    assert_eq!(names(dir.path()), ["exit-4.json"]);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn a_checkpoint_that_can_not_be_written_leaves_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spec.json");
    let good = SpecFile::of(&samples::record(1), samples::spec());
    write(&path, &good).unwrap();
    let mut huge = good.clone();
    huge.spec.hostname = "x".repeat(5 << 20);
    assert!(matches!(write(&path, &huge), Err(CheckpointError::Refused { .. })));
    assert_eq!(read(&path).unwrap(), Some(good.clone()));
    // Its name is taken by what can't be replaced.
    let taken = dir.path().join("taken");
    fs::create_dir_all(taken.join("full")).unwrap();
    assert!(matches!(write(&taken, &good), Err(CheckpointError::Io { .. })));
    assert!(matches!(
        write(&dir.path().join("nowhere/spec.json"), &good),
        Err(CheckpointError::Io { .. })
    ));
    assert_eq!(names(dir.path()), ["spec.json", "taken"]);
}

#[test]
fn what_is_damaged_is_not_taken_for_missing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exit.json");
    write(&path, &exit()).unwrap();
    let good = fs::read(&path).unwrap();
    // The line's end carries nothing.
    for len in 0..good.len() - 1 {
        fs::write(&path, &good[..len]).unwrap();
        let found = read::<ExitFile>(&path);
        assert!(matches!(found, Err(CheckpointError::Damaged { .. })), "{len}: {found:?}");
    }
    let twice = good.repeat(2);
    for bad in [vec![0; good.len()], twice, b"{}".to_vec(), b"{\"format\":0}".to_vec()] {
        fs::write(&path, &bad).unwrap();
        let found = read::<ExitFile>(&path);
        assert!(matches!(found, Err(CheckpointError::Damaged { .. })), "{found:?}");
    }
    File::create(&path).unwrap().set_len(CHECKPOINT_LEN_MAX + 1).unwrap();
    assert!(matches!(read::<ExitFile>(&path), Err(CheckpointError::Damaged { .. })));
    // Another kind of fact, and a fact about nothing known.
    write(&path, &attempt()).unwrap();
    assert!(matches!(read::<ExitFile>(&path), Err(CheckpointError::Damaged { .. })));
    assert!(matches!(read::<ExitFile>(dir.path()), Err(CheckpointError::Io { .. })));
}

#[test]
fn a_newer_format_is_told_apart_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exit.json");
    fs::write(&path, r#"{"format":3,"novelty":[1,2]}"#).unwrap();
    let error = read::<ExitFile>(&path).unwrap_err();
    assert!(matches!(error, CheckpointError::Newer { found: 3, known: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("written by a newer Roost"), "{error}");
}

#[test]
fn a_sweep_removes_what_writers_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exit-4.json");
    write(&path, &exit()).unwrap();
    let (left, _) = create_temp(dir.path(), OsStr::new("exit-5.json")).unwrap();
    assert!(left.exists());
    for other in [".hidden.tmp", ".a.1-x.tmp", "exit.1-2.tmp"] {
        fs::write(dir.path().join(other), "").unwrap();
    }
    assert_eq!(sweep(dir.path()).unwrap(), 1);
    assert_eq!(names(dir.path()), [".a.1-x.tmp", ".hidden.tmp", "exit-4.json", "exit.1-2.tmp"]);
}

#[test]
fn a_left_over_of_an_earlier_process_with_our_pid_is_stepped_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("exit.json");
    let (left, _) = create_temp(dir.path(), OsStr::new("exit.json")).unwrap();
    let text = left.to_str().unwrap();
    let (before, count) = text.strip_suffix(TEMP_SUFFIX).unwrap().rsplit_once('-').unwrap();
    let count: u64 = count.parse().unwrap();
    for n in count + 1..count + 50 {
        fs::write(format!("{before}-{n}{TEMP_SUFFIX}"), "").unwrap();
    }
    write(&path, &exit()).unwrap();
    assert_eq!(read(&path).unwrap(), Some(exit()));
}

#[test]
fn directories_are_made_with_their_parents() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    create_dir_durable(&deep).unwrap();
    create_dir_durable(&deep).unwrap();
    assert!(deep.is_dir());
    fs::write(dir.path().join("file"), "").unwrap();
    create_dir_durable(&dir.path().join("file")).unwrap_err();
    create_dir_durable(&dir.path().join("file/below")).unwrap_err();
}
