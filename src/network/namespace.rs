//! Making a pod's network namespace.
//!
//! It has no name anywhere: it lives as long as a process is in it or a descriptor of it is open
//! (namespaces(7)), so nothing can be left of it. The agent holds one, and the executor is in it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, setns, unshare};

use crate::sys;

/// What a thread sees as its own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A new network namespace, whose loopback interface is up. Blocks for a moment.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn make() -> io::Result<OwnedFd> {
    // On a thread of its own, which ends with it: the others stay where they are.
    let thread = std::thread::Builder::new().name("netns".into()).spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        sys::set_interface_up("lo")?;
        Ok(File::open(OWN)?.into())
    })?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes it panicked")))
}

/// Does something in another network namespace. Blocks for that long.
///
/// # Errors
/// If that can't be entered, or those of what is done.
pub(super) fn within(
    namespace: &OwnedFd,
    work: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        // On a thread of its own, as above.
        let thread =
            std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                work()
            })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in it panicked")))
    })
}

/// The network namespace of another process.
///
/// # Errors
/// If it is gone.
pub(super) fn of_process(pid: u32) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/net"))?.into())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Whether two descriptors are of the same namespace.
    fn is_same(one: impl AsFd, other: impl AsFd) -> bool {
        let id = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).map(|it| (it.st_dev, it.st_ino));
        matches!((id(&one), id(&other)), (Ok(one), Ok(other)) if one == other)
    }

    #[test]
    fn a_new_namespace_is_another_one_and_the_maker_stays_where_it_was() {
        let before = File::open(OWN).unwrap();
        let (first, second) = (make().unwrap(), make().unwrap());
        assert!(is_same(&before, File::open(OWN).unwrap()));
        assert!(!is_same(&before, &first) && !is_same(&first, &second));
        let own = of_process(std::process::id()).unwrap();
        assert!(is_same(&own, &before));
    }
}
