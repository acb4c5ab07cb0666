//! Running one plugin: bounded in time, in what it may print, and in how many run at once.
//!
//! A plugin is a stranger: it may hang, crash, print rubbish or for ever, or leave a child behind
//! that keeps its output open. Not here: what it is told, and what its answer means (`request`).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, Signal, WaitStatus};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::children;
use super::request::words;
use crate::cgroup::Entry;
use crate::sys::{self, SpawnRequest};

/// Most bytes that a plugin may print; the rest of what it says of errors is dropped.
const OUTPUT_LEN_MAX: usize = 1 << 20;
const ERRORS_LEN_MAX: usize = 64 << 10;
/// Most plugins that run at once, those not counted that are slow.
const RUNNING_MAX: usize = 32;
/// From then on a plugin is slow: it waits for something, and others need not wait for it.
const SLOW_AFTER: Duration = Duration::from_secs(2);
/// How long after its end or its kill a plugin's output is read.
const REST_TIME_MAX: Duration = Duration::from_millis(200);
/// Longest first line of a script (as the kernel has it, `BINPRM_BUF_SIZE`).
const LINE_LEN_MAX: u64 = 256;

/// Why a plugin has not done what it was told.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such program.
    #[error(
        "there is no such program in {}; install it there, or name its directory by `plugins` of \
         `[network]` in agent.toml", searched.join(":")
    )]
    Missing {
        /// Where.
        searched: Vec<String>,
    },
    /// It could not be executed.
    #[error("it can't be executed")]
    Spawn(#[source] io::Error),
    /// It said that it failed, or ended like that.
    #[error("{0}")]
    Failed(String),
    /// It did not end in time.
    #[error("it did not end within {} s, and was killed", .0.as_secs())]
    TimedOut(Duration),
    /// It printed too much.
    #[error("it printed more than {OUTPUT_LEN_MAX} bytes, and was killed")]
    TooLong,
}

/// Runs plugins.
#[derive(Debug)]
pub(super) struct Runner {
    /// Where they lie, the first that has one wins.
    directories: Vec<PathBuf>,
    time_max: Duration,
    slots: Arc<Semaphore>,
}

/// What one run of a plugin needs.
pub(super) struct Run<'a> {
    pub(super) kind: &'a str,
    pub(super) environment: Vec<String>,
    pub(super) input: Vec<u8>,
    /// The cgroup it runs in.
    pub(super) entry: Option<Arc<Entry>>,
}

impl Runner {
    pub(super) fn new(directories: Vec<PathBuf>, time_max: Duration) -> Self {
        Self { directories, time_max, slots: Arc::new(Semaphore::new(RUNNING_MAX)) }
    }

    /// `CNI_PATH`.
    pub(super) fn path(&self) -> String {
        let all: Vec<String> = self.directories.iter().map(|it| it.display().to_string()).collect();
        all.join(":")
    }

    /// Runs a plugin to its end; what it printed. It is killed, with all that it has started in
    /// its session, when its time is over or this is dropped.
    pub(super) async fn run(&self, run: Run<'_>) -> Result<Vec<u8>, PluginError> {
        let permit = self.slots.clone().acquire_owned().await;
        let Run { kind, environment, input, entry } = run;
        let (directories, kind) = (self.directories.clone(), kind.to_owned());
        // Where they lie may be as slow as a network is.
        let started = spawn_blocking(move || {
            let path = find(&directories, &kind)?;
            start(&path, &environment, &input, entry.as_deref()).map_err(PluginError::Spawn)
        });
        let started = started.await.map_err(|error| PluginError::Spawn(io::Error::other(error)));
        let Started { mut child, stdout, stderr } = started??;
        let (mut printed, mut said) = (Vec::new(), Vec::new());
        let ended = {
            let all = async {
                let read = tokio::join!(
                    read(stdout, &mut printed, OUTPUT_LEN_MAX, Excess::Refused),
                    read(stderr, &mut said, ERRORS_LEN_MAX, Excess::Dropped),
                );
                if read.0.is_err() { Err(PluginError::TooLong) } else { Ok(()) }
            };
            let mut all = std::pin::pin!(all);
            let mut slow = std::pin::pin!(sleep(SLOW_AFTER));
            let mut late = std::pin::pin!(sleep(self.time_max));
            let (mut permit, mut is_read) = (Some(permit), false);
            loop {
                tokio::select! {
                    // Cancel-safe: all are pinned and polled on, and a pidfd only becomes ready.
                    read = &mut all, if !is_read => {
                        read?;
                        is_read = true;
                    }
                    ended = child.ended() => {
                        ended.map_err(PluginError::Spawn)?;
                        if !is_read {
                            // What it has left behind may hold its output open for ever.
                            match timeout(REST_TIME_MAX, &mut all).await {
                                Ok(read) => read?,
                                Err(_elapsed) => {}
                            }
                        }
                        break child.status();
                    }
                    () = &mut slow, if permit.is_some() => drop(permit.take()),
                    () = &mut late => return Err(PluginError::TimedOut(self.time_max)),
                }
            }
        };
        match ended {
            Some(status) if status.exit_status() == Some(0) => Ok(printed),
            Some(status) => Err(PluginError::Failed(failure(status, &printed, &said))),
            None => Err(PluginError::Failed("how it ended is not known".to_owned())),
        }
    }
}

/// The program of a plugin.
fn find(directories: &[PathBuf], kind: &str) -> Result<PathBuf, PluginError> {
    let mut paths = directories.iter().map(|directory| directory.join(kind));
    paths.find(|path| path.is_file()).ok_or_else(|| PluginError::Missing {
        searched: directories.iter().map(|it| it.display().to_string()).collect(),
    })
}

/// How a plugin failed, in words.
fn failure(status: WaitStatus, printed: &[u8], said: &[u8]) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => format!("it was killed by signal {signal}"),
        (Some(code), None) => {
            let is_told = serde_json::from_slice::<serde_json::Value>(printed).is_ok();
            let words = words(printed, said);
            if is_told { words } else { format!("exit code {code}: {words}") }
        }
        (None, None) => words(printed, said),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    Refused,
    Dropped,
}

/// Reads a pipe to its end.
async fn read(
    mut pipe: Receiver,
    into: &mut Vec<u8>,
    most: usize,
    excess: Excess,
) -> Result<(), ()> {
    let mut buffer = vec![0; 4096];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => {
                let room = most.saturating_sub(into.len()).min(count);
                into.extend_from_slice(&buffer[..room]);
                if room < count && excess == Excess::Refused {
                    return Err(());
                }
            }
        }
    }
}

struct Started {
    child: Child,
    stdout: Receiver,
    stderr: Receiver,
}

/// A plugin that runs. It does not survive this.
struct Child {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    is_waited_for: bool,
}

impl Child {
    async fn ended(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    fn status(&mut self) -> Option<WaitStatus> {
        self.is_waited_for = true;
        children::status(self.pid)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.is_waited_for {
            return;
        }
        // It leads a session and with it a process group: what it has started goes with it. Its id
        // can't be another's, because it was not reaped: whoever did that would have noted it.
        let ended = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        if ended.is_ok() {
            rustix::process::kill_process_group(self.pid, Signal::KILL).ok();
        }
        // The agent reaps it. What is noted of it then is of no use to anybody.
        children::forget(self.pid);
    }
}

/// Starts a plugin. Blocks for the time of a clone.
fn start(
    path: &Path,
    environment: &[String],
    input: &[u8],
    entry: Option<&Entry>,
) -> io::Result<Started> {
    let Program { exe, argv } = Program::open(path)?;
    let env = environment.iter().map(|text| CString::new(text.as_str()));
    let env = env.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let mut stdin = File::from(rustix::fs::memfd_create("cni", MemfdFlags::CLOEXEC)?);
    stdin.write_all(input)?;
    stdin.rewind()?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
    let request = SpawnRequest {
        exe: exe.as_fd(),
        argv: &argv,
        env: &env,
        fds: &[],
        stderr: err.as_fd(),
        entry,
    };
    let (pid, pidfd) = children::start(|| sys::spawn_filter(&request, stdin.as_fd(), out.as_fd()))?;
    #[expect(
        deprecated,
        reason = "`register` is unsafe for descriptors that may change; an OwnedFd does not"
    )]
    let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
    let child = Child { pid, pidfd, is_waited_for: false };
    let stdout = Receiver::from_owned_fd(stdout)?;
    Ok(Started { child, stdout, stderr: Receiver::from_owned_fd(stderr)? })
}

/// What is executed.
struct Program {
    exe: File,
    argv: Vec<CString>,
}

impl Program {
    /// A program, or the interpreter of a script: that could not open the script by a descriptor
    /// which is closed when it is executed (execveat(2), BUGS).
    fn open(path: &Path) -> io::Result<Self> {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let exe = File::open(path)?;
        let mut head = Vec::new();
        (&exe).take(LINE_LEN_MAX).read_to_end(&mut head)?;
        let Some(line) = head.strip_prefix(b"#!") else {
            return Ok(Self { exe, argv: vec![name] });
        };
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).trim().to_owned();
        let (interpreter, argument) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let word = |text: &str| CString::new(text).map_err(io::Error::other);
        let mut argv = vec![word(interpreter)?];
        if !argument.trim().is_empty() {
            argv.push(word(argument.trim())?);
        }
        argv.push(name);
        Ok(Self { exe: File::open(interpreter)?, argv })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use super::*;

    /// Runs a script as a plugin, with so much time.
    async fn run(script: &str, time_max: Duration) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let runner = Runner::new(vec!["/nowhere".into(), directory.path().into()], time_max);
        let run = Run {
            kind: "p",
            environment: vec!["WORD=hello".to_owned(), "PATH=/usr/bin:/bin".to_owned()],
            input: b"{\"name\": \"n\"}".to_vec(),
            entry: None,
        };
        let printed = runner.run(run).await;
        printed.map(|it| String::from_utf8(it).unwrap()).map_err(|error| error.to_string())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_plugin_reads_what_it_is_told_and_what_it_prints_is_its_answer() {
        let printed = run("cat; echo $WORD; echo aside >&2", LONG).await.unwrap();
        assert_eq!(printed, "{\"name\": \"n\"}hello\n");
    }

    #[tokio::test]
    async fn a_failing_plugin_is_told_of_in_its_own_words() {
        let error = run(r#"echo '{"code": 11, "msg": "pool is empty"}'; exit 1"#, LONG).await;
        assert_eq!(error.unwrap_err(), "pool is empty");
        let error = run("echo oh no >&2; exit 7", LONG).await.unwrap_err();
        assert_eq!(error, "exit code 7: oh no");
        let error = run("kill -9 $$", LONG).await.unwrap_err();
        assert_eq!(error, "it was killed by signal 9");
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_there_is_named_with_the_places() {
        let runner = Runner::new(vec!["/nowhere".into(), "/neither".into()], LONG);
        let run = Run { kind: "p", environment: vec![], input: vec![], entry: None };
        let error = runner.run(run).await.unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("there is no such program in /nowhere:/neither;"), "{error}");
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_killed_with_what_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        // The child holds the FIFO open for writing for as long as it lives.
        let script = format!("sleep 1000 >{} & wait", fifo.display());
        let opened = fifo.clone();
        let reader = spawn_blocking(move || std::fs::read(opened).unwrap());
        let error = run(&script, Duration::from_millis(300)).await.unwrap_err();
        assert!(error.contains("did not end within"), "{error}");
        assert_eq!(timeout(LONG, reader).await.unwrap().unwrap(), b"");
    }

    #[tokio::test]
    async fn a_child_that_is_left_behind_does_not_keep_anybody_waiting() {
        let begun = Instant::now();
        let printed = run("sleep 20 & echo done", LONG).await.unwrap();
        assert_eq!(printed, "done\n");
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[tokio::test]
    async fn a_plugin_that_prints_without_end_is_stopped() {
        let error = run("exec yes", LONG).await.unwrap_err();
        assert!(error.contains("printed more than"), "{error}");
        let error =
            run("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 3", LONG).await.unwrap_err();
        assert!(error.len() < 5000, "{}", error.len());
    }
}
