//! Sessions, as the agent has them: its ends of the pipes, and a socket for each.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use roost::clock::Millis;
use roost::executor::client::ExecutorProgram;
use roost::executor::protocol::{NewSession, OfSession, TerminalSize, ToExecutor};
use roost::executor::wire::{Inbox, Received};
use roost::manifest::pod::PodSpec;
use roost::state::record::Exit;

use crate::fixture::{self, TestPod, run, spec};

fn one() -> PodSpec {
    spec(&[("a", "exec sleep 1000")])
}

/// The agent's ends of a session.
struct Session {
    socket: UnixStream,
    inbox: Inbox,
    stdin: Option<File>,
    output: File,
}

impl Session {
    async fn open(pod: &mut TestPod, script: &str, terminal: Option<TerminalSize>) -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let (their_input, stdin) = std::io::pipe().unwrap();
        let (output, their_output) = std::io::pipe().unwrap();
        let mut fds: Vec<OwnedFd> = vec![theirs.into()];
        if terminal.is_none() {
            let error = their_output.try_clone().unwrap();
            fds.extend([their_input.into(), OwnedFd::from(their_output), error.into()]);
        }
        let path = format!("PATH=/usr/bin:/bin; {script}");
        let command = ["/bin/sh", "-c", &path].map(str::to_owned).into();
        let wanted = NewSession { container: "a".parse().unwrap(), command, terminal };
        pod.agent().send(&ToExecutor::Exec(wanted), fds).await.unwrap();
        let (stdin, output) = (OwnedFd::from(stdin), OwnedFd::from(output));
        let (stdin, output) = (Some(File::from(stdin)), File::from(output));
        Self { socket, inbox: Inbox::default(), stdin, output }
    }

    /// What the executor says next; none when it has closed its end.
    fn said(&mut self) -> Option<(OfSession, Vec<OwnedFd>)> {
        loop {
            if let Some(said) = self.inbox.take().unwrap() {
                return Some(said);
            }
            let mut polled =
                [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut polled, None).unwrap();
            if self.inbox.read(self.socket.as_fd()).unwrap() == Received::End {
                return None;
            }
        }
    }

    fn begun(&mut self) -> Option<OwnedFd> {
        match self.said() {
            Some((OfSession::Begun, mut fds)) => fds.pop(),
            other => panic!("{other:?}"),
        }
    }

    fn ended(&mut self) -> Exit {
        let Some((OfSession::Ended { exit }, _)) = self.said() else { panic!("it has not ended") };
        assert!(self.said().is_none(), "that is the last word");
        exit
    }

    fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while self.output.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

fn exists(pid: &str) -> bool {
    // A zombie has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_session_goes_on_over_an_upgrade_in_place_and_a_new_connection() {
    run(async {
        let mut pod = TestPod::start();
        pod.set(one()).await;
        pod.running("a").await;
        let mut session = Session::open(&mut pod, "cat; exit 7", None).await;
        assert!(session.begun().is_none(), "pipes need no descriptor back");

        let other = pod.other_build(b"other");
        let (message, exe) = other.upgrade().unwrap();
        pod.agent().send(&message, vec![exe]).await.unwrap();
        pod.upgraded(other.build()).await;
        drop(pod.reconnect());
        pod.welcome().await;

        session.stdin.as_mut().unwrap().write_all(b"still here\n").unwrap();
        assert_eq!(session.line(), "still here");
        session.stdin = None;
        assert_eq!(session.ended(), Exit::Code(7));
        let back = ExecutorProgram::open(fixture::EXECUTOR.as_ref()).unwrap();
        let (message, exe) = back.upgrade().unwrap();
        pod.agent().send(&message, vec![exe]).await.unwrap();
        pod.upgraded(back.build()).await;
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn the_end_is_told_when_what_the_program_started_is_gone() {
    run(async {
        let mut pod = TestPod::start();
        let mut wanted = one();
        // So that pids are those of the host.
        wanted.host.pid = true;
        pod.set(wanted).await;
        pod.running("a").await;
        let mut session =
            Session::open(&mut pod, "setsid sleep 1000 & echo $!; exit 5", None).await;
        session.begun();
        let pid = session.line();
        assert_eq!(session.ended(), Exit::Code(5));
        assert!(!exists(&pid), "{pid} is left");

        // And when nobody is there any more.
        let script = "setsid sleep 1000 & echo $!; trap '' TERM HUP; while :; do sleep 1; done";
        let mut session = Session::open(&mut pod, script, None).await;
        session.begun();
        let pid = session.line();
        assert!(exists(&pid));
        let Session { socket, mut output, .. } = session;
        drop(socket);
        // At the end of the last process that has it.
        output.read_to_end(&mut Vec::new()).unwrap();
        assert!(!exists(&pid), "{pid} is left");
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn a_session_ends_with_its_container_which_starts_again() {
    run(async {
        let mut pod = TestPod::start();
        pod.set(one()).await;
        let pid = pod.running("a").await;
        let mut session = Session::open(&mut pod, "exec sleep 1000", None).await;
        session.begun();
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert_eq!(session.ended(), Exit::Signal(9));
        pod.until("a", |a| a.attempt == Some(roost::ids::Attempt(1))).await;
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn a_terminal_is_one_of_the_container_and_has_a_size() {
    run(async {
        let mut pod = TestPod::start();
        pod.set(one()).await;
        pod.running("a").await;
        let size = TerminalSize { rows: 11, columns: 22 };
        let script = "tty; stty size; echo $TERM; read x; stty size";
        let mut session = Session::open(&mut pod, script, Some(size)).await;
        let mut terminal = File::from(session.begun().unwrap());
        rustix::termios::tcsetwinsize(&terminal, TerminalSize { rows: 3, columns: 4 }.winsize())
            .unwrap();
        terminal.write_all(b"\n").unwrap();
        let mut text = Vec::new();
        // EIO when nobody has the other side any more.
        terminal.read_to_end(&mut text).ok();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[0], "/dev/pts/0", "{text:?}");
        assert_eq!(lines.last(), Some(&"3 4"), "{text:?}");
        assert!(lines.contains(&"xterm"), "{text:?}");
        assert_eq!(session.ended(), Exit::Code(0));
        pod.stop(Millis(0)).await;
    });
}

#[test]
fn what_can_not_be_executed_says_why() {
    run(async {
        let mut pod = TestPod::start();
        pod.set(one()).await;
        pod.running("a").await;
        let refused = async |pod: &mut TestPod, container: &str, command: &[&str], fds: usize| {
            let (socket, theirs) = UnixStream::pair().unwrap();
            let null = || File::open("/dev/null").unwrap().into();
            let fds = std::iter::once(theirs.into()).chain((0..fds).map(|_| null()));
            let wanted = NewSession {
                container: container.parse().unwrap(),
                command: command.iter().map(|word| (*word).to_owned()).collect(),
                terminal: None,
            };
            pod.agent().send(&ToExecutor::Exec(wanted), fds.collect()).await.unwrap();
            let (inbox, output) = (Inbox::default(), File::open("/dev/null").unwrap());
            let mut session = Session { socket, inbox, stdin: None, output };
            match session.said() {
                Some((OfSession::Refused { why }, _)) => why,
                other => panic!("{other:?}"),
            }
        };
        let why = refused(&mut pod, "a", &["no-such-program"], 3).await;
        assert!(why.contains("no-such-program: no such program in PATH"), "{why}");
        let why = refused(&mut pod, "a", &["/etc/passwd"], 3).await;
        assert!(why.contains("exec /etc/passwd"), "{why}");
        let why = refused(&mut pod, "b", &["true"], 3).await;
        assert!(why.contains("not in the specification"), "{why}");
        let why = refused(&mut pod, "a", &[], 3).await;
        assert!(why.contains("names no program"), "{why}");
        let why = refused(&mut pod, "a", &["true"], 1).await;
        assert!(why.contains("descriptors"), "{why}");
        // Nothing of them is left: the fixture looks for cgroups.
        pod.stop(Millis(0)).await;
    });
}
