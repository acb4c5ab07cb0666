//! For tests of this and other modules: a child with one thread, because the test runner has many.

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, WaitId, WaitIdOptions};

/// Runs `body` in a forked process, which has one thread, and returns its exit status: what
/// `body` returns, 101 if it panics. `body` may allocate (fork(2) of glibc sees to that), but
/// must not print.
pub(crate) fn in_one_thread(body: impl FnOnce() -> i32) -> i32 {
    report_panics_of_forks();
    // SAFETY: the child leaves by `_exit`, and uses the heap only, which glibc makes usable.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        IS_FORK.store(true, Ordering::Relaxed);
        let status = std::panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or(101);
        exit(status);
    }
    wait(WaitId::Pid(Pid::from_raw(pid).expect("fork failed")))
}

static IS_FORK: AtomicBool = AtomicBool::new(false);

/// A panic of a forked process writes a line. The hook of the test runner would lock what
/// another thread may have held at the fork. It is set before, because that locks as well.
fn report_panics_of_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_FORK.load(Ordering::Relaxed) {
                let text = format!("in the forked process: {info}\n");
                rustix::io::write(stderr(), text.as_bytes()).ok();
            } else {
                usual(info);
            }
        }));
    });
}

/// Waits for a child; 128+n if signal n killed it.
pub(crate) fn wait_pidfd(pidfd: impl AsFd) -> i32 {
    wait(WaitId::PidFd(pidfd.as_fd()))
}

fn wait(id: WaitId<'_>) -> i32 {
    let status = rustix::process::waitid(id, WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap()
}

/// Standard error, as something that can be handed on.
pub(crate) fn stderr() -> BorrowedFd<'static> {
    // SAFETY: nobody closes it.
    unsafe { BorrowedFd::borrow_raw(2) }
}

/// Closes everything from 3 on. Only for a process of [`in_one_thread`], whose body must not
/// own a descriptor then.
pub(crate) fn close_all_but_standard() {
    // SAFETY: what owned the descriptors is in the parent, or leaked with this process.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    assert_eq!(result, 0);
}

/// Ends the process at once.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: runs nothing of this process.
    unsafe { libc::_exit(status) }
}
