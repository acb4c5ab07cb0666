//! [`Space`]: namespaces for one engine, with which everything that it started ends.
//!
//! crun and podman refuse hosts with both kinds of cgroups, so cgroup2 is hidden from them where v1
//! is beside it. The network namespace keeps what engines do to firewalls and interfaces away from
//! the host; the pid namespace is how their daemons, shims and containers are found and ended.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::measure::{Outcome, command_line, pids, read};

/// The first process of the namespaces. It collects whatever loses its parent, which is what
/// `wait` of a shell does, and is what engines expect of an init.
const INIT: &str = "mount -t proc proc /proc; \
    umount /sys/fs/cgroup/unified 2>/dev/null; \
    ip link set lo up 2>/dev/null; \
    echo ready; exec >/dev/null; \
    sleep 2147483 & while :; do wait; done";

#[derive(Debug)]
pub(super) struct Space {
    /// It dies with the thread that made it (`PDEATHSIG`), and the namespaces with it.
    unshare: Child,
    init: u32,
    /// Which pid namespace it is.
    namespace: String,
}

impl Space {
    pub(super) fn new() -> Outcome<Self> {
        let mut unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork"])
            .args(["--kill-child", "sh", "-c", INIT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("setpriv and unshare can't be run: {error}"))?;
        let mut line = String::new();
        let stdout = unshare.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).map_err(|error| error.to_string())?;
        let pid = unshare.id();
        let children = read(format!("/proc/{pid}/task/{pid}/children"));
        let init = children.trim().parse().map_err(|_| "no namespaces".to_owned())?;
        Ok(Self { unshare, init, namespace: namespace_of(init) })
    }

    /// A command inside.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args(["--target", &target, "--mount", "--net", "--pid", "--", program]);
        command
    }

    /// The processes inside, but not inside of containers, with that in their command line.
    pub(super) fn processes(&self, what: &str) -> Vec<u32> {
        pids()
            .filter(|pid| command_line(*pid).contains(what) && namespace_of(*pid) == self.namespace)
            .collect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // Its child is killed with it, and when the first process of a pid namespace has ended all
        // others have; which is waited for, since they keep files and cgroups.
        self.unshare.kill().ok();
        self.unshare.wait().ok();
        while is_alive(self.init) {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
    }
}

/// A process that nobody has collected yet is not.
fn is_alive(pid: u32) -> bool {
    // proc_pid_stat(5): the state follows the name, which stands in parentheses.
    let stat = read(format!("/proc/{pid}/stat"));
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn namespace_of(pid: u32) -> String {
    std::fs::read_link(format!("/proc/{pid}/ns/pid"))
        .map(|link| link.display().to_string())
        .unwrap_or_default()
}

/// A shell inside that takes commands, so that a start does not pay for entering.
#[derive(Debug)]
pub(super) struct Shell {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    shell: Child,
}

impl Shell {
    pub(super) fn new(space: &Space, log: &Path) -> Outcome<Self> {
        let log = File::options().create(true).append(true).open(log).map_err(|e| e.to_string())?;
        let mut shell = space
            .command("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("nsenter can't be run: {error}"))?;
        let stdin = shell.stdin.take().expect("it is piped");
        let stdout = BufReader::new(shell.stdout.take().expect("it is piped"));
        Ok(Self { stdin, stdout, shell })
    }

    /// Has it run a command, whose output goes to the log.
    pub(super) fn begin(&mut self, command: &str) -> Outcome<()> {
        writeln!(self.stdin, "{{ {command}; }} </dev/null >&2; echo $?").map_err(|e| e.to_string())
    }

    /// Waits for the command to succeed.
    pub(super) fn finish(&mut self, what: &str) -> Outcome<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).map_err(|error| error.to_string())?;
        match line.trim() {
            "0" => Ok(()),
            status => Err(format!("{what} ended with {status}")),
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // A child may have kept the pipe, so it is not the end of input that ends it.
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}
