//! System calls that no safe crate offers, each as one small safe function.
//!
//! The only module with `unsafe`. What rustix or nix do safely is called there directly. Not here:
//! any decision; a function takes what it needs and does one thing.
//!
//! There are two ways to make a process. [`clone_process`] is fork with namespaces, for the
//! executor, which has one thread: the child may go on with ordinary Rust. [`spawn_detached`] is
//! for the agent, which has many threads and more memory: until exec its child shares that memory
//! (`shared`), and makes system calls only, on what was laid out before.
#![expect(unsafe_code, reason = "the one place where system calls are made by hand")]

use std::convert::Infallible;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint};
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{SigSet, SigmaskHow};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::OpenTreeFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use seccompiler::sock_filter;

use crate::cgroup::Entry;

mod removal;
mod shared;
mod text;

pub use removal::remove_tree;
pub use text::let_go_of_text;

/// `CLONE_INTO_CGROUP`. The constant of libc is 0: it does not fit into its `c_int`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_PIDFD` (clone(2)).
const CLONE_PIDFD: u64 = 0x1000;
/// `CLONE_NEWTIME`: only clone3 has it.
const CLONE_NEWTIME: u64 = 0x80;
/// The flags that a [`CloneRequest`] may have: namespaces and nothing else.
const NAMESPACES: u64 = CLONE_NEWTIME
    | libc::CLONE_NEWNS as u64
    | libc::CLONE_NEWCGROUP as u64
    | libc::CLONE_NEWUTS as u64
    | libc::CLONE_NEWIPC as u64
    | libc::CLONE_NEWUSER as u64
    | libc::CLONE_NEWPID as u64
    | libc::CLONE_NEWNET as u64;

/// `struct clone_args` of `linux/sched.h`, up to `cgroup` (Linux 5.7).
#[repr(C, align(8))]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What [`clone_process`] makes.
#[derive(Debug, Clone, Copy)]
pub struct CloneRequest<'a> {
    /// New namespaces: `CLONE_NEW*` flags, anything else is refused.
    pub flags: u64,
    /// The cgroup2 directory the child begins its life in; the caller's own without it.
    pub into_cgroup: Option<BorrowedFd<'a>>,
}

/// Which of the two processes this is, after [`clone_process`].
#[derive(Debug)]
pub enum Cloned {
    /// The caller.
    Parent {
        /// The child's id in the caller's PID namespace.
        pid: Pid,
        /// The child; close-on-exec.
        pidfd: OwnedFd,
    },
    /// The new process. It must end by exec or `_exit`, and must not drop what belongs to the
    /// parent (an async runtime would unregister the parent's descriptors from the shared epoll).
    Child,
}

/// Makes a child as fork(2) does, in the namespaces and the cgroup that are asked for. The child's
/// end is told to the parent by SIGCHLD and by the pidfd.
///
/// # Errors
/// If the process has more than one thread, if `flags` has others than `CLONE_NEW*`, and what
/// clone3(2) says.
pub fn clone_process(request: &CloneRequest<'_>) -> io::Result<Cloned> {
    if request.flags & !NAMESPACES != 0 {
        let flags = request.flags & !NAMESPACES;
        let text = format!("clone flags {flags:#x} are not namespaces");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let threads = own_thread_count()?;
    if threads != 1 {
        let text = format!("this process has {threads} threads; one with a single thread can fork");
        return Err(io::Error::other(text));
    }
    // SAFETY: there is no other thread, so nothing that the child will use (locks, the heap) can
    // be in the middle of a change that will never be finished.
    let cloned = unsafe { clone3(request.flags, request.into_cgroup) }?;
    Ok(cloned.map_or(Cloned::Child, |(pid, pidfd)| Cloned::Parent { pid, pidfd }))
}

/// How many threads the process has: proc_pid_task(5) gives the directory 2 + threads links.
fn own_thread_count() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

impl CloneArgs {
    /// Those of a child that tells its end by SIGCHLD, and whose descriptor goes to `pidfd`.
    fn new(flags: u64, into: Option<BorrowedFd<'_>>, pidfd: &mut c_int) -> Self {
        let mut args = Self {
            flags: flags | CLONE_PIDFD,
            pidfd: (&raw mut *pidfd).expose_provenance() as u64,
            exit_signal: u64::from(libc::SIGCHLD.unsigned_abs()),
            ..Self::default()
        };
        if let Some(cgroup) = into {
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        }
        args
    }
}

/// clone3(2) without shared memory; `None` in the child.
///
/// # Safety
/// With more than one thread the child may only make system calls until it executes a program.
unsafe fn clone3(flags: u64, into: Option<BorrowedFd<'_>>) -> io::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: c_int = -1;
    let mut args = CloneArgs::new(flags, into, &mut pidfd);
    // SAFETY: the arguments live through the call, their size is given, and without CLONE_VM and
    // with no stack the child goes on with a copy of everything. What the child does then is the
    // caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    if checked(result)? == 0 {
        return Ok(None);
    }
    // SAFETY: CLONE_PIDFD has just made this descriptor (close-on-exec) for us alone.
    Ok(Some((pid_of(result), unsafe { OwnedFd::from_raw_fd(pidfd) })))
}

/// The process that clone3 says it has made.
fn pid_of(result: c_long) -> Pid {
    let pid = i32::try_from(result).ok().and_then(Pid::from_raw);
    pid.expect("clone3 returns a positive id that fits a pid_t")
}

/// A program that [`spawn_detached`] executes.
#[derive(Debug, Clone, Copy)]
pub struct SpawnRequest<'a> {
    /// The opened executable (not a script: its interpreter could not open it).
    pub exe: BorrowedFd<'a>,
    /// Its arguments, with its name first.
    pub argv: &'a [CString],
    /// Its whole environment, `NAME=value`.
    pub env: &'a [CString],
    /// What it finds as descriptors 3, 4, 5 and so on. All others are closed.
    pub fds: &'a [BorrowedFd<'a>],
    /// What it finds as descriptor 2; 0 and 1 are `/dev/null` (see [`spawn_filter`]).
    pub stderr: BorrowedFd<'a>,
    /// The cgroup it runs in; that of the caller without one.
    pub entry: Option<&'a Entry>,
}

/// The score of a process that [`spawn_detached`] makes, if the caller may set it: killed for want
/// of memory after everything but the agent. Its children inherit it and have to reset it.
const DETACHED_OOM_SCORE: &CStr = c"-998";
/// The first descriptor after the standard ones.
const FIRST_FD: RawFd = 3;

/// Executes a program in a session and a cgroup of its own, in `/`, with default signal
/// dispositions, the usual priority, nothing blocked and no descriptors but those given. May be called with any number
/// of threads; returns once the program is executed, or could not be.
///
/// The child shares the caller's memory until then. A copy would cost 16 us/MiB and, worse, hold
/// up all threads of the caller: while the kernel copies the page tables none of them may fault,
/// and afterwards each faults at its first write to every page.
///
/// # Errors
/// What failed on the way to the program, the child's steps included; no child is left then.
pub fn spawn_detached(request: &SpawnRequest<'_>) -> io::Result<(Pid, OwnedFd)> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    spawn_filter(request, null.as_fd(), null.as_fd())
}

/// Like [`spawn_detached`], with `stdin` and `stdout` as its descriptors 0 and 1.
///
/// # Errors
/// As there.
pub fn spawn_filter(
    request: &SpawnRequest<'_>,
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
) -> io::Result<(Pid, OwnedFd)> {
    let stdio = [stdin, stdout];
    let into = request.entry.map(|entry| entry.into.as_fd());
    let (mut outcome, mut pid, mut pidfd) = spawn_into(request, stdio, into, &[])?;
    if let (Outcome::Stillborn, Some(entry)) = (&outcome, request.entry) {
        // Linux 6.14 and later compare how often the cgroups of the parent and of the target were
        // killed as a whole (`kill_seq`, cgroup_css_set_fork() in kernel/cgroup/cgroup.c), and
        // kill what is cloned from one into the other if that differs. It does for good once the
        // agent's own cgroup was killed and used again. Entering it afterwards is slow, and works.
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs = rustix::fs::openat(&entry.into, c"cgroup.procs", flags, Mode::empty())?;
        (outcome, pid, pidfd) = spawn_into(request, stdio, None, &[procs.as_raw_fd()])?;
    }
    match outcome {
        Outcome::Executed => Ok((pid, pidfd)),
        Outcome::Failed(error) => Err(error),
        Outcome::Stillborn => Err(io::Error::other("the process was killed before it began")),
    }
}

/// What became of a child of [`spawn_detached`].
enum Outcome {
    Executed,
    Failed(io::Error),
    /// It was killed before its first instruction.
    Stillborn,
}

/// `more` are files like [`Entry::tasks`].
fn spawn_into(
    request: &SpawnRequest<'_>,
    [stdin, stdout]: [BorrowedFd<'_>; 2],
    into: Option<BorrowedFd<'_>>,
    more: &[RawFd],
) -> io::Result<(Outcome, Pid, OwnedFd)> {
    let argv = pointers(request.argv);
    let env = pointers(request.env);
    let (failure, report) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let stdio = [stdin, stdout, request.stderr];
    let wanted = stdio.iter().chain(request.fds);
    let mut placed: Vec<RawFd> = wanted.map(AsRawFd::as_raw_fd).collect();
    let tasks = request.entry.iter().flat_map(|entry| &entry.tasks).map(AsRawFd::as_raw_fd);
    let tasks: Vec<RawFd> = tasks.chain(more.iter().copied()).collect();
    let mut plan = ChildPlan {
        exe: request.exe.as_raw_fd(),
        argv: &argv,
        env: &env,
        placed: &mut placed,
        tasks: &tasks,
        report: report.as_raw_fd(),
    };
    // No handler of ours may run in the child: it would write into the parent's self-pipes.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    // SAFETY: `ChildPlan::run` makes system calls, changes the plan and nothing else.
    let cloned = unsafe { shared::clone(into, &mut plan, ChildPlan::run) };
    before.thread_set_mask()?;
    drop(report);
    let (pid, pidfd) = cloned?;
    let outcome = read_outcome(failure)?;
    if !matches!(outcome, Outcome::Executed) {
        // Somebody else in the process may reap all children, and be first.
        rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).ok();
    }
    Ok((outcome, pid, pidfd))
}

/// Pointers to the strings, with the null at the end that exec wants.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// What a child that could not execute its program was doing.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
struct ChildFailure {
    step: &'static str,
    // Part of the text, because `io::Error` hands on only the source of what it wraps.
    source: io::Error,
}

/// What a [`ChildPlan`] does, in the words of its errors.
const STEPS: [&str; 6] = [
    "entering the cgroup",
    "moving a descriptor out of the way",
    "placing a descriptor",
    "closing other descriptors",
    "making a session",
    "executing the program",
];

/// The first byte of what a child reports.
const BEGUN: u8 = b'+';

/// Reads what the child wrote: that it began, and why it gave up if it did.
fn read_outcome(pipe: OwnedFd) -> io::Result<Outcome> {
    let mut message = Vec::new();
    File::from(pipe).read_to_end(&mut message)?;
    let (step, errno) = match message.as_slice() {
        [] => return Ok(Outcome::Stillborn),
        [_] => return Ok(Outcome::Executed),
        [_, step, errno @ ..] => (step, errno),
    };
    let errno = errno.try_into().map_or(libc::EIO, i32::from_ne_bytes);
    let source = io::Error::from_raw_os_error(errno);
    let step = STEPS.get(usize::from(*step)).copied().unwrap_or("starting");
    Ok(Outcome::Failed(io::Error::new(source.kind(), ChildFailure { step, source })))
}

/// Everything the child of [`spawn_detached`] needs, laid out before the clone. The child may not
/// allocate, lock or panic: the memory is the parent's, whose other threads go on.
struct ChildPlan<'a> {
    exe: RawFd,
    argv: &'a [*const c_char],
    env: &'a [*const c_char],
    /// What goes to 0, 1, 2, 3 and so on; overwritten with where it is meanwhile.
    placed: &'a mut [RawFd],
    tasks: &'a [RawFd],
    report: RawFd,
}

/// Index into [`STEPS`] and errno.
type Failed = (u8, c_int);

impl ChildPlan<'_> {
    /// Executes the program, or reports why not.
    fn run(&mut self) -> ! {
        let begun = [BEGUN];
        // SAFETY: the buffer is as long as said. It can't fail: the pipe is empty and has a reader.
        unsafe { libc::write(self.report, begun.as_ptr().cast(), begun.len()) };
        let (step, errno) = match self.execute() {
            Ok(never) => match never {},
            Err(failed) => failed,
        };
        let [a, b, c, d] = errno.to_ne_bytes();
        let message = [step, a, b, c, d];
        // SAFETY: the buffer is as long as said. A failed write can't be told to anybody.
        unsafe { libc::write(self.report, message.as_ptr().cast(), message.len()) };
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(127) }
    }

    fn execute(&mut self) -> Result<Infallible, Failed> {
        for task in self.tasks {
            write_all(*task, c"0").map_err(|errno| (0, errno))?;
        }
        reset_signals();
        lower_oom_score();
        // Whatever the agent's is. To raise it may be refused, which is nothing to fail for.
        // SAFETY: no memory is involved.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
        self.place().map_err(|(step, errno)| (1 + step, errno))?;
        // SAFETY: no memory is involved.
        step(c_long::from(unsafe { libc::setsid() })).map_err(|errno| (4, errno))?;
        // A detached process must not keep the caller's directory busy. `/` is always there.
        // SAFETY: the path is a string with a null at its end.
        unsafe { libc::chdir(c"/".as_ptr()) };
        // SAFETY: both arrays end with a null and point to strings, which the parent keeps alive.
        let result = unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.exe,
                c"".as_ptr(),
                self.argv.as_ptr(),
                self.env.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        match step(result) {
            Ok(_) => Err((5, libc::EIO)),
            Err(errno) => Err((5, errno)),
        }
    }

    /// Brings the descriptors into place and marks all others close-on-exec. All are moved above
    /// the places first, because any of them may stand where another belongs.
    fn place(&mut self) -> Result<(), Failed> {
        let free = c_int::try_from(self.placed.len()).unwrap_or(c_int::MAX).max(FIRST_FD);
        let own = [&mut self.exe, &mut self.report];
        for fd in own.into_iter().chain(self.placed.iter_mut()) {
            // SAFETY: duplicating a descriptor involves no memory.
            let moved = unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, free) };
            step(c_long::from(moved)).map_err(|errno| (0, errno))?;
            *fd = moved;
        }
        for (place, fd) in (0..).zip(self.placed.iter()) {
            // SAFETY: as above; the new one is not close-on-exec.
            step(c_long::from(unsafe { libc::dup2(*fd, place) })).map_err(|errno| (1, errno))?;
        }
        // SAFETY: no memory is involved.
        let result = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                free.unsigned_abs(),
                c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        step(result).map_err(|errno| (2, errno))?;
        Ok(())
    }
}

/// Default dispositions (exec keeps ignored signals ignored, and Rust ignores SIGPIPE), then an
/// empty mask. For a process that is about to execute a program. System calls only.
pub fn reset_signals() {
    /// `_NSIG`: signals are 1 to 64.
    const SIGNAL_MAX: c_int = 64;
    /// `struct sigaction` of the kernel with a handler of 0, which is SIG_DFL, and no flags. Not
    /// sigaction(3), because glibc refuses the signals it uses itself, and those can be inherited
    /// as ignored.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: the structure is as long as the kernel's, and no handler is installed. SIGKILL
        // and SIGSTOP are refused.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: makes the set that the next call reads.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set is initialised; the old one is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// Best effort: needs CAP_SYS_RESOURCE.
fn lower_oom_score() {
    let path = c"/proc/self/oom_score_adj";
    // SAFETY: the path is a string with a null at its end.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    if fd >= 0 {
        // A refusal changes nothing that anybody relies on.
        write_all(fd, DETACHED_OOM_SCORE).ok();
        // SAFETY: opened above, used by nobody else.
        unsafe { libc::close(fd) };
    }
}

/// Writes the text in one call, as the files of the kernel want it. System calls only.
fn write_all(fd: RawFd, text: &CStr) -> Result<(), c_int> {
    // SAFETY: the buffer is as long as said.
    let written = unsafe { libc::write(fd, text.as_ptr().cast(), text.count_bytes()) };
    step(written as c_long).map(|_| ())
}

/// The result of a system call, with errno as the error. Does not allocate.
fn step(result: c_long) -> Result<c_long, c_int> {
    checked(result).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
}

fn checked(result: c_long) -> io::Result<c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Closes every descriptor but the standard ones and `keep`. For the child of [`clone_process`],
/// which otherwise holds copies of all that its parent has open, other children's pipes included.
///
/// Values that own a descriptor which is not in `keep` must not be used or dropped afterwards:
/// the child ends by exec or [`exit_now`] and never returns to the code that owns them.
///
/// # Errors
/// What close_range(2) says.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<c_uint> = keep.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let mut first = FIRST_FD.unsigned_abs();
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, c_uint::MAX)
}

fn close_range(first: c_uint, last: c_uint) -> io::Result<()> {
    // SAFETY: no memory is involved. That nobody uses the descriptors any more is what the
    // documentation of the only caller asks for.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    checked(result).map(|_| ())
}

/// Ends the process at once: no destructor, no exit handler, no flush. For the child of
/// [`clone_process`].
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process without running anything of it.
    unsafe { libc::_exit(code) }
}

/// Replaces the program of this process in place: it keeps its id, its children and every
/// descriptor that is not close-on-exec.
///
/// # Errors
/// It only returns if it failed, with the reason.
pub fn execve_self(
    exe: BorrowedFd<'_>,
    argv: &[CString],
    env: &[CString],
) -> io::Result<Infallible> {
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    Ok(nix::unistd::execveat(exe, c"", argv, env, flags)?)
}

/// Takes over a descriptor that the program was executed with, and makes it close-on-exec.
///
/// What is close-on-exec already is refused: it was opened by this process and belongs to
/// somebody else in it. That also makes it impossible to take the same one twice.
///
/// # Errors
/// If there is no such descriptor, or it was not inherited.
pub fn inherited_fd(number: RawFd) -> io::Result<OwnedFd> {
    let refused = |why: &str| {
        let text = format!("descriptor {number} {why}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    };
    if number < FIRST_FD {
        return refused("is a standard one, which belongs to the process");
    }
    // SAFETY: asking for the flags involves no memory and is an error for what is not open.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    checked(c_long::from(flags))?;
    if flags & libc::FD_CLOEXEC != 0 {
        return refused("was not inherited at exec, or has been taken over before");
    }
    // SAFETY: it is open, and since all that Rust opens is close-on-exec, it came with exec.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// `MOUNT_ATTR_RDONLY`
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;

/// mount_setattr(2) of the mount (`recursive`: and all below it) whose root `mount` is: sets and
/// clears `MOUNT_ATTR_*`, and changes the propagation to one of `MS_PRIVATE`, `MS_SLAVE`,
/// `MS_SHARED`, `MS_UNBINDABLE`, or not at all with 0.
///
/// # Errors
/// What mount_setattr(2) says.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    let attr = MountAttr { set, clear, propagation, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a string, and the structure is as long as said and only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    checked(result).map(|_| ())
}

/// The same file on a detached read-only mount of its own: a descriptor that can be executed
/// ([`spawn_detached`], [`execve_self`]) and opened for reading (`/proc/self/fd/<n>`), while
/// nobody can write the file through it or through `/proc/<pid>/exe` of what is executed (while
/// it runs ETXTBSY protects it anyway, but a descriptor of it can outlive the process).
///
/// # Errors
/// What open_tree(2) and mount_setattr(2) say.
pub fn detached_read_only(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(file, c"", flags)?;
    let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
    mount_setattr(mount.as_fd(), false, set, 0, libc::MS_PRIVATE)?;
    Ok(mount)
}

/// Puts the process (its one thread and all it makes from here on) under a seccomp filter. Unlike
/// seccompiler's `apply_filter` it leaves NO_NEW_PRIVS alone, so that setuid programs work where
/// the manifest allows them; without that flag CAP_SYS_ADMIN is needed.
///
/// # Errors
/// If the program is longer than the kernel's `BPF_MAXINSNS`, and what seccomp(2) says.
pub fn load_seccomp(program: &[sock_filter]) -> io::Result<()> {
    /// `struct sock_fprog` of `linux/filter.h`.
    #[repr(C)]
    struct SockFprog {
        len: u16,
        filter: *const sock_filter,
    }
    let len = u16::try_from(program.len())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let fprog = SockFprog { len, filter: program.as_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the structure points to as many instructions as it says; the kernel copies them.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const fprog) };
    checked(result).map(|_| ())
}

/// Brings a network interface of the caller's network namespace up (netdevice(7)).
///
/// # Errors
/// If the name is too long, or there is no such interface.
pub fn set_interface_up(name: &str) -> io::Result<()> {
    // SAFETY: the structure consists of plain numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the null that ends the name.
    if name.len() >= request.ifr_name.len() || name.contains('\0') {
        let text = format!("`{name}` is not the name of a network interface");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of this structure.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    checked(c_long::from(result))?;
    // SAFETY: the call above filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags =
        flags | libc::c_short::try_from(libc::IFF_UP).expect("IFF_UP is 1");
    // SAFETY: SIOCSIFFLAGS only reads the structure.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    checked(c_long::from(result)).map(|_| ())
}

/// Sends a signal to the process of a pidfd (pidfd_send_signal(2)). Like rustix's, which takes no
/// real-time signals.
///
/// # Errors
/// ESRCH if it has ended; EINVAL if there is no such signal.
pub fn signal_process(pidfd: BorrowedFd<'_>, signal: u8) -> io::Result<()> {
    let (fd, signal) = (pidfd.as_raw_fd(), c_int::from(signal));
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and without an information the kernel makes one.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) };
    checked(result).map(|_| ())
}

/// Most groups of a peer that are looked at: more are an error. The kernel allows 65536
/// (`NGROUPS_MAX`), of which nobody has more than a few.
const PEER_GROUPS_MAX: usize = 1024;

/// The supplementary groups of the process at the other end of a Unix socket, as they were when it
/// connected (`SO_PEERGROUPS`, Linux 4.13; nix has `SO_PEERCRED` only, which knows one group).
///
/// # Errors
/// What getsockopt(2) says; ERANGE if there are too many.
pub fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = [0_u32; PEER_GROUPS_MAX];
    let mut len = libc::socklen_t::try_from(size_of_val(&groups)).expect("4 KiB fit");
    // SAFETY: the kernel writes at most `len` bytes into the array, which has as many, and then
    // how many it wrote into `len`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    checked(c_long::from(result))?;
    let count = usize::try_from(len).map_or(0, |len| len / size_of::<u32>());
    Ok(groups.into_iter().take(count).collect())
}

/// First byte of a [`directory_handle`] that is a file handle of the kernel.
const HANDLE_BY_KERNEL: u8 = b'h';
/// First byte of a [`directory_handle`] made from inode number and time of birth.
const HANDLE_BY_BIRTH: u8 = b'b';
/// `MAX_HANDLE_SZ` (name_to_handle_at(2)).
const HANDLE_SIZE_MAX: usize = 128;

/// What tells a directory from any other that was or will be at its place, also after a reboot:
/// the id of the file system and the file handle, whose generation changes when an inode number is
/// used again. Where the file system gives no handles: inode number and time of birth.
///
/// # Errors
/// If the descriptor can't be examined.
pub fn directory_handle(directory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // Roots of two file systems of one type may have equal handles, so that the handle alone
    // would take an empty mount point for the directory that was there.
    let file_system = rustix::fs::fstatvfs(directory)?.f_fsid.to_le_bytes();
    let (tag, identity) = match file_handle(directory) {
        Ok(handle) => (HANDLE_BY_KERNEL, handle),
        Err(error) if has_no_handles(&error) => (HANDLE_BY_BIRTH, birth_identity(directory)?),
        Err(error) => return Err(error),
    };
    Ok([&[tag], file_system.as_slice(), &identity].concat())
}

/// ENOSYS and EPERM are what seccomp filters of container engines make of the call.
fn has_no_handles(error: &io::Error) -> bool {
    let none = [libc::EOPNOTSUPP, libc::EOVERFLOW, libc::ENOSYS, libc::EPERM];
    error.raw_os_error().is_some_and(|errno| none.contains(&errno))
}

/// Type and bytes of the file handle (name_to_handle_at(2)).
fn file_handle(directory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    /// `struct file_handle` with room for the longest one.
    #[repr(C)]
    struct FileHandle {
        bytes: u32,
        kind: i32,
        handle: [u8; HANDLE_SIZE_MAX],
    }
    let bytes = u32::try_from(HANDLE_SIZE_MAX).expect("128 fits");
    let mut handle = FileHandle { bytes, kind: 0, handle: [0; HANDLE_SIZE_MAX] };
    let mut mount_id: c_int = 0;
    // SAFETY: the structure has room for as many bytes as it says, and the path is a string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_raw_fd(),
            c"".as_ptr(),
            &raw mut handle,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    checked(result)?;
    let used = usize::try_from(handle.bytes).map_or(HANDLE_SIZE_MAX, |n| n.min(HANDLE_SIZE_MAX));
    Ok([handle.kind.to_le_bytes().as_slice(), &handle.handle[..used]].concat())
}

/// Inode number and time of birth; zero where the file system does not record it.
fn birth_identity(directory: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mask = StatxFlags::INO | StatxFlags::BTIME;
    let stat = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, mask)?;
    let birth = stat.stx_btime;
    let mut identity = stat.stx_ino.to_le_bytes().to_vec();
    identity.extend(birth.tv_sec.to_le_bytes());
    identity.extend(birth.tv_nsec.to_le_bytes());
    Ok(identity)
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
