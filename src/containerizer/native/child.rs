//! The child's side of a launch: from the clone to the user's program.
//!
//! ```text
//! descriptors, signals, session ─► cgroup ─► mounts ─► limits, user, capabilities
//!   ─► parent-death signal ─► no_new_privs, seccomp ─► gate ─► execve
//! ```
//!
//! It has one thread and a copy of the executor's memory, so ordinary Rust works. It never returns
//! into the executor's code and drops nothing of it. What fails is told through the status pipe.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::fs::{Access, AtFlags, CWD, Mode};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::launcher::STATUS_LEN_MAX;
use super::mounts;
use super::prepared::{Prepared, Program, UserStep};
use super::users::{self, User};
use crate::cgroup::Entry;
use crate::sys;

/// The byte that opens the gate.
pub(super) const GO: u8 = 1;
/// Exit code of a child that executed nothing: what the kubelet reports for such containers.
const EXIT_NOT_STARTED: i32 = 128;

/// The ends of a launch's pipes that the child has.
#[derive(Debug)]
pub(super) struct ChildEnds {
    pub(super) gate: OwnedFd,
    pub(super) status: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// A step that failed, in words for the pod's status.
#[derive(Debug)]
pub(super) struct Failure {
    what: String,
    source: Option<io::Error>,
}

impl Failure {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.source {
            None => Ok(()),
            // The kernel's words, without Rust's ` (os error 2)`.
            Some(source) => match source.raw_os_error() {
                Some(code) => write!(f, ": {}", nix::errno::Errno::from_raw(code).desc()),
                None => write!(f, ": {source}"),
            },
        }
    }
}

/// Says what was attempted, for a [`Failure`].
pub(super) trait Attempt<T> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn to(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|source| Failure { what: what(), source: Some(source.into()) })
    }
}

/// Namespaces that begin with the clone. The cgroup namespace is not among them: its root is where
/// the process is when it is made, and on cgroup v1 the child moves itself afterwards.
pub(super) fn clone_flags(prepared: &Prepared) -> u64 {
    let mut flags = CloneFlags::CLONE_NEWNS;
    if prepared.own_pids {
        flags |= CloneFlags::CLONE_NEWPID;
    }
    u64::from(flags.bits().unsigned_abs())
}

/// Becomes the container's program.
pub(super) fn run(prepared: &Prepared, ends: &ChildEnds, entry: &Entry) -> ! {
    report_failure(&ends.status, || start(prepared, ends, entry))
}

/// Does what ends in another program; tells if that fails, and ends.
pub(super) fn report_failure(
    report: &OwnedFd,
    start: impl FnOnce() -> Result<Infallible, Failure>,
) -> ! {
    let failure = match catch_unwind(AssertUnwindSafe(start)) {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => "the set-up of the container panicked".to_owned(),
    };
    let mut len = failure.len().min(STATUS_LEN_MAX);
    while !failure.is_char_boundary(len) {
        len -= 1;
    }
    // Nobody else can be told that nobody is there to be told.
    rustix::io::write(report, failure.as_bytes().get(..len).unwrap_or_default()).ok();
    sys::exit_now(EXIT_NOT_STARTED)
}

fn start(prepared: &Prepared, ends: &ChildEnds, entry: &Entry) -> Result<Infallible, Failure> {
    let own = [&ends.gate, &ends.status, &ends.stdout, &ends.stderr];
    let keep: Vec<BorrowedFd<'_>> = own.into_iter().chain(&entry.tasks).map(AsFd::as_fd).collect();
    sys::close_all_but(&keep).to(|| "close the executor's descriptors".to_owned())?;
    sys::reset_signals();
    // Until exec it is the executor's program; nobody shall read or trace it meanwhile.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .to(|| "make the set-up untraceable".to_owned())?;
    rustix::process::setsid().to(|| "begin a session".to_owned())?;
    enter_cgroup(prepared, entry)?;
    if let Some(score) = prepared.oom_score_adj {
        set_oom_score(score);
    }
    rustix::process::umask(Mode::empty());
    let kept = mounts::set_up(prepared)?;
    rustix::process::umask(Mode::from_raw_mode(prepared.umask));
    let user = match &prepared.user {
        UserStep::Ids { uid, gid } => User::by_number(*uid, *gid),
        UserStep::OfImage(wanted) => users::look_up(wanted)?,
    };
    if let Some(sandbox) = &kept.sandbox {
        let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
        rustix::fs::chownat(sandbox, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
            .to(|| "give the sandbox to the user".to_owned())?;
    }
    place_standard_streams(&kept.null, ends, &user)?;
    become_user(prepared, &user)?;
    wait_at(&ends.gate)?;
    execute(&prepared.program, user.home.as_deref())
}

/// Gives up what the container's program is not to have, in its working directory.
pub(super) fn become_user(prepared: &Prepared, user: &User) -> Result<(), Failure> {
    limit_open_files(prepared);
    // It needs no_new_privs or CAP_SYS_ADMIN, which the user will not have (seccomp(2)).
    if !prepared.no_new_privs {
        load_filter(prepared)?;
    }
    change_user(prepared, user)?;
    let cwd = &prepared.program.cwd;
    rustix::process::chdir(cwd.as_str()).to(|| format!("change to working directory {cwd}"))?;
    // After the change of user, which clears it (prctl(2)). If the executor has ended before, the
    // gate tells, or the kill of the pod's cgroup ends it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .to(|| "ask to be killed with the executor".to_owned())?;
    if prepared.no_new_privs {
        rustix::thread::set_no_new_privs(true).to(|| "set no_new_privs".to_owned())?;
        load_filter(prepared)?;
    }
    Ok(())
}

fn load_filter(prepared: &Prepared) -> Result<(), Failure> {
    let Some(filter) = &prepared.seccomp else { return Ok(()) };
    sys::load_seccomp(filter).to(|| "load the system call filter".to_owned())
}

/// Lowering it needs CAP_SYS_RESOURCE, which an executor may not have. The pod's memory limit
/// holds either way.
pub(super) fn set_oom_score(score: i32) {
    std::fs::write("/proc/self/oom_score_adj", score.to_string()).ok();
}

/// Enters the cgroups that a clone does not begin in.
pub(super) fn enter_tasks(entry: &Entry) -> Result<(), Failure> {
    for tasks in &entry.tasks {
        rustix::io::write(tasks, b"0").to(|| "enter the container's cgroup".to_owned())?;
    }
    Ok(())
}

fn enter_cgroup(prepared: &Prepared, entry: &Entry) -> Result<(), Failure> {
    enter_tasks(entry)?;
    if prepared.own_cgroups {
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
            .to(|| "make a cgroup namespace".to_owned())?;
    }
    Ok(())
}

fn place_standard_streams(null: &OwnedFd, ends: &ChildEnds, user: &User) -> Result<(), Failure> {
    for stream in [&ends.stdout, &ends.stderr] {
        // So that /dev/stdout, which opens the pipe anew, works for the user.
        std::os::unix::fs::fchown(stream, Some(user.uid), Some(user.gid))
            .to(|| "give the output to the user".to_owned())?;
    }
    nix::unistd::dup2_stdin(null)
        .and_then(|()| nix::unistd::dup2_stdout(&ends.stdout))
        .and_then(|()| nix::unistd::dup2_stderr(&ends.stderr))
        .to(|| "place the standard streams".to_owned())
}

/// Best effort: a hard limit can't be raised without CAP_SYS_RESOURCE.
fn limit_open_files(prepared: &Prepared) {
    let Some((soft, hard)) = prepared.nofile else { return };
    let wanted = Rlimit { current: Some(soft), maximum: Some(hard) };
    if rustix::process::setrlimit(Resource::Nofile, wanted).is_err() {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let current = maximum.map_or(Some(soft), |maximum| Some(soft.min(maximum)));
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current, maximum }).ok();
    }
}

fn change_user(prepared: &Prepared, user: &User) -> Result<(), Failure> {
    let User { uid, gid, groups, home: _ } = user;
    let (uid, gid) = (*uid, *gid);
    drop_bounding_set(prepared.bounding)?;
    let groups: Vec<Gid> =
        groups.iter().chain(&prepared.groups).copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).to(|| "enter the user's groups".to_owned())?;
    let group = Gid::from_raw(gid);
    nix::unistd::setresgid(group, group, group).to(|| format!("become group {gid}"))?;
    let user = Uid::from_raw(uid);
    nix::unistd::setresuid(user, user, user).to(|| format!("become user {uid}"))?;
    let held = rustix::thread::capabilities(None).to(|| "read capabilities".to_owned())?;
    // The executor may lack some itself.
    let permitted = prepared.permitted & held.permitted;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: none };
    rustix::thread::set_capabilities(None, sets).to(|| "set capabilities".to_owned())?;
    rustix::thread::clear_ambient_capability_set().to(|| "clear ambient capabilities".to_owned())
}

fn drop_bounding_set(keep: CapabilitySet) -> Result<(), Failure> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error).to(|| format!("drop capability {bit}")),
        }
    }
    Ok(())
}

fn wait_at(gate: &OwnedFd) -> Result<(), Failure> {
    let mut byte = [0];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(gate, &mut byte));
    match read.to(|| "wait for the executor".to_owned())? {
        0 => Err(Failure::new("the launch was given up before the program was executed")),
        _ => Ok(()),
    }
}

/// Looks the program up as execvp(3) does, in the container's PATH, but takes nothing for a shell
/// script that does not say so.
///
/// A program that is told of no HOME has that of its user.
pub(super) fn execute(program: &Program, home: Option<&str>) -> Result<Infallible, Failure> {
    let mut env = program.env.clone();
    if let Some(home) = home.filter(|_| !env.iter().any(|v| v.as_bytes().starts_with(b"HOME="))) {
        env.extend(CString::new(format!("HOME={home}")));
    }
    let program = &Program {
        argv: program.argv.clone(),
        env,
        search: program.search.clone(),
        cwd: program.cwd.clone(),
    };
    let name = program.argv.first().map(CString::as_c_str).unwrap_or_default();
    let shown = name.to_string_lossy().into_owned();
    if name.to_bytes().contains(&b'/') {
        let error = exec(name, program);
        return Err(error).to(|| explain(&shown, name, error));
    }
    let mut refused = None;
    for directory in program.search.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let Ok(path) = CString::new(format!("{directory}/{shown}")) else { continue };
        let error = exec(&path, program);
        let absent = matches!(error, nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR);
        if error == nix::errno::Errno::EACCES {
            // Another directory may have one that may be executed.
            refused = Some((path, error));
        } else if !absent || exists(&path) {
            let found = path.to_string_lossy().into_owned();
            return Err(error).to(|| explain(&found, &path, error));
        }
    }
    match refused {
        Some((path, error)) => Err(error).to(|| format!("exec {}", path.to_string_lossy())),
        None => {
            let search = &program.search;
            Err(Failure::new(format!("exec {shown}: no such program in PATH ({search})")))
        }
    }
}

fn exec(path: &CStr, program: &Program) -> nix::errno::Errno {
    match nix::unistd::execve(path, &program.argv, &program.env) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn explain(shown: &str, path: &CStr, error: nix::errno::Errno) -> String {
    if error == nix::errno::Errno::ENOENT && exists(path) {
        // Else the message would be that a file which is plainly there is not.
        return format!("exec {shown}: it exists, but the interpreter or loader it names does not");
    }
    format!("exec {shown}")
}

fn exists(path: &CStr) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}
