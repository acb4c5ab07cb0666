//! The command line on a terminal, in a pipe, and with nobody there: what only a real process shows.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use crate::harness::Node;

const RED: &str = "\u{1b}[31m";
const ERASE_LINE: &str = "\r\u{1b}[K";

pub fn roost(root: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost"));
    command.args(["--root", root]).stdin(Stdio::null());
    command.env("TERM", "xterm").env_remove("NO_COLOR").env_remove("ROOST_ROOT");
    command
}

/// What the command writes on a terminal of its own.
pub fn on_terminal(command: &mut Command) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let end = || -> OwnedFd { pty.slave.try_clone().unwrap() };
    let mut child = command.stdout(end()).stderr(end()).spawn().unwrap();
    command.stdout(Stdio::null()).stderr(Stdio::null());
    drop(pty.slave);
    let mut text = Vec::new();
    // When the last end of the other side is closed, reading fails with EIO (pty(7)).
    File::from(pty.master).read_to_end(&mut text).ok();
    child.wait().unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn colours_are_for_terminals_and_can_be_refused() {
    let nowhere = tempfile::tempdir().unwrap();
    let asked = || {
        let mut command = roost(nowhere.path().to_str().unwrap());
        command.args(["get", "pods"]);
        command
    };
    let piped = asked().output().unwrap();
    assert_eq!(piped.status.code(), Some(3));
    assert!(piped.stderr.starts_with(b"error: no agent answers at "));
    assert!(on_terminal(&mut asked()).starts_with(&format!("{RED}error:")));
    assert!(on_terminal(asked().env("NO_COLOR", "1")).starts_with("error:"));
    assert!(on_terminal(asked().env("TERM", "dumb")).starts_with("error:"));
    assert!(on_terminal(asked().args(["--color", "never"])).starts_with("error:"));
    let forced = asked().args(["--color", "always"]).output().unwrap();
    assert!(forced.stderr.starts_with(format!("{RED}error:").as_bytes()));
}

#[test]
fn a_wait_shows_on_a_terminal_how_far_it_is_and_leaves_nothing_of_it() {
    let node = Node::started();
    let root = node.root();
    let ask = || {
        let mut command = roost(root.to_str().unwrap());
        command.args(["wait", "pod", "none", "--for=condition=Ready", "--timeout", "200ms"]);
        command
    };
    let text = on_terminal(&mut ask());
    assert!(text.contains("waiting for default/none, 0s: there is no such pod"), "{text:?}");
    let last = text.rsplit(ERASE_LINE).next().unwrap_or_default();
    assert!(last.starts_with(&format!("{RED}error:")), "{text:?}");
    let piped = ask().output().unwrap();
    let said = "There is no pod default/none yet; waiting for it.\nerror: timed out";
    assert!(piped.stderr.starts_with(said.as_bytes()), "{piped:?}");
    node.end();
}

#[test]
fn completion_is_silent_and_quick_without_an_agent_and_with_one_that_hangs() {
    let root = tempfile::tempdir().unwrap();
    let completed = |words: &[&str]| {
        let mut command = roost(root.path().to_str().unwrap());
        let began = std::time::Instant::now();
        let done = command.args(["__complete", "bash", "--"]).args(words).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        assert!(began.elapsed() < crate::harness::soon());
        String::from_utf8(done.stdout).unwrap()
    };
    assert_eq!(completed(&["get", "po"]), "pods\n");
    assert_eq!(completed(&["logs", ""]), "");
    std::fs::create_dir_all(root.path().join("run")).unwrap();
    let _deaf = UnixListener::bind(root.path().join("run/roost.sock")).unwrap();
    assert_eq!(completed(&["logs", ""]), "");
}

#[test]
fn nobody_reading_is_no_error() {
    let mut command = roost("state");
    let mut child = command
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
}
