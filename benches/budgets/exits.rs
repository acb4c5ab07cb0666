//! Budget 14: how soon the end of a container is noticed, and how soon it is reported.
//!
//! - A container *ends* when a pidfd of its process says so; the executor has one as well.
//! - It is *noticed* when the executor begins to write its checkpoint, which is seen in the
//!   container's directory.
//! - It is *reported* when a client that watches pods is told, which is after the checkpoint is
//!   durable. So beside each the time is taken that such a write takes.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::measure::{LIMIT, Outcome, Samples, durable_write, nanos, read, rest};
use crate::node::{Node, connect};
use crate::scene::{BUSYBOX, Fifo};
use crate::table::{Goal, Key, Table, Who};

/// How many containers are killed, at most: enough for a percentile of 99.
const EXITS: usize = 100;
/// Between two of them.
const BETWEEN: Duration = Duration::from_millis(50);

/// Kills the containers of pods that [`crate::starts::serial`] started.
/// `begun` is where programs say that they run.
pub(crate) fn measure(
    node: &mut Node,
    begun: &mut Fifo,
    count: usize,
    table: &mut Table,
) -> Outcome<()> {
    let mut watch = Watch::open(node)?;
    let programs = node.processes(&format!("{BUSYBOX} sh -c"));
    let (mut noticed, mut reported, mut writes) =
        (Samples::default(), Samples::default(), Samples::default());
    for n in 0..count.min(EXITS) {
        let pod = format!("serial-{n}");
        let id = node.id(&pod);
        let program = programs
            .iter()
            .find(|pid| read(format!("/proc/{pid}/cgroup")).contains(&id))
            .ok_or(format!("{pod} has no process"))?;
        let container = node.pod_directory(&id).join("containers/c0");
        rest(BETWEEN);
        begun.drain();
        let exit = one(&mut watch, &pod, *program, &container)?;
        noticed.push(exit.noticed.saturating_sub(exit.ended));
        reported.push(exit.reported.saturating_sub(exit.ended));
        // It is started again after its back-off, which takes the disk and a processor, too.
        begun.wait(1)?;
        rest(BETWEEN);
        writes.push(durable_write(&node.dir).map_err(|error| error.to_string())?);
    }
    let put = |table: &mut Table, what: &str, samples: &Samples, goal: Option<f64>| {
        for (percent, name) in [(50, "median"), (99, "p99")] {
            let key =
                Key::new(14, format!("exit of a container of {count} → {what}, {name}"), "ms");
            if let Some(goal) = goal.filter(|_| percent == 99) {
                table.goal(&key, &[Goal::AtMost(goal)]);
            }
            table.put(&key, Who::Roost, samples.percentile(percent));
        }
    };
    put(table, "noticed", &noticed, Some(10.0));
    let goal = writes.percentile(99).map(|write| (write * 15.0).round() / 10.0);
    put(table, "reported (goal: 1.5 × a durable write)", &reported, goal);
    put(table, "a durable write beside it", &writes, None);
    Ok(())
}

/// When what happened.
#[derive(Default)]
struct Exit {
    ended: u64,
    noticed: u64,
    reported: u64,
}

fn one(watch: &mut Watch, pod: &str, program: u32, container: &std::path::Path) -> Outcome<Exit> {
    let failed = |error: rustix::io::Errno| error.to_string();
    let pid = i32::try_from(program).ok().and_then(Pid::from_raw).ok_or("no pid")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
    let changes: OwnedFd = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(failed)?;
    inotify::add_watch(&changes, container, inotify::WatchFlags::CREATE).map_err(failed)?;
    watch.skip()?;
    pidfd_send_signal(&process, Signal::KILL).map_err(failed)?;
    let mut exit = Exit::default();
    let end = nanos() + u64::try_from(LIMIT.as_nanos()).expect("minutes");
    while exit.reported == 0 {
        // What was seen already is not waited for again: it stays readable.
        let sources = [
            (exit.ended == 0, process.as_fd()),
            (exit.noticed == 0, changes.as_fd()),
            (true, watch.as_fd()),
        ];
        let ready = ready(&sources, Duration::from_secs(1))?;
        let now = nanos();
        if ready[0] {
            exit.ended = now;
        }
        if ready[1] {
            exit.noticed = now;
        }
        if ready[2] && watch.tells_of_the_end_of(pod)? {
            exit.reported = now;
        }
        if now > end {
            return Err(format!("the end of {pod} is not reported"));
        }
    }
    // Whatever was seen together with the report.
    exit.ended = if exit.ended == 0 { exit.reported } else { exit.ended };
    exit.noticed = if exit.noticed == 0 { exit.reported } else { exit.noticed };
    Ok(exit)
}

/// Which of them can be read, of those that are asked about.
fn ready<const N: usize>(
    sources: &[(bool, BorrowedFd<'_>); N],
    most: Duration,
) -> Outcome<[bool; N]> {
    let mut polled: Vec<_> = sources
        .iter()
        .map(|(asked, fd)| {
            PollFd::from_borrowed_fd(*fd, if *asked { PollFlags::IN } else { PollFlags::empty() })
        })
        .collect();
    let most = Timespec {
        tv_sec: i64::try_from(most.as_secs()).expect("seconds"),
        tv_nsec: i64::from(most.subsec_nanos()),
    };
    poll(&mut polled, Some(&most)).map_err(|error| error.to_string())?;
    let mut answer = [false; N];
    for (at, (asked, _)) in sources.iter().enumerate() {
        answer[at] = *asked && polled[at].revents().contains(PollFlags::IN);
    }
    Ok(answer)
}

/// A client that watches all pods.
struct Watch {
    stream: BufReader<UnixStream>,
    pending: String,
}

impl Watch {
    fn open(node: &mut Node) -> Outcome<Self> {
        let list = node.ask("/api/v1/pods");
        let version = list["metadata"]["resourceVersion"].as_str().ok_or("a list has a version")?;
        let mut stream = connect(&node.dir).map_err(|error| error.to_string())?;
        write!(
            stream,
            "GET /api/v1/pods?watch=true&resourceVersion={version} HTTP/1.1\r\nHost: roost\r\n\r\n"
        )
        .map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        Ok(Self { stream: BufReader::new(stream), pending: String::new() })
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }

    /// Whatever came before.
    fn skip(&mut self) -> Outcome<()> {
        while self.line()?.is_some() {}
        Ok(())
    }

    /// Reads what is there; each change of a pod is one line of it.
    fn tells_of_the_end_of(&mut self, pod: &str) -> Outcome<bool> {
        let name = format!("\"name\":\"{pod}\"");
        let mut told = false;
        while let Some(line) = self.line()? {
            told |= line.contains(&name) && line.contains("\"terminated\"");
        }
        Ok(told)
    }

    /// The next whole line that is there; the beginning of one is kept until its end comes.
    fn line(&mut self) -> Outcome<Option<String>> {
        match self.stream.read_line(&mut self.pending) {
            Ok(0) => Err("the watch ended".to_owned()),
            Ok(_) => Ok(Some(std::mem::take(&mut self.pending))),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}
