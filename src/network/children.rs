//! The agent's children that are plugins, and all the others.
//!
//! The agent reaps every child it has as soon as one has ended: of executors it learns elsewhere.
//! How a plugin has ended is needed, so it is kept here for whoever waits for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitOptions, WaitStatus};

/// What is known of children.
struct Children {
    /// Plugins that run, by process, and how those ended that were reaped already.
    plugins: BTreeMap<i32, Option<WaitStatus>>,
    /// How many are being started. That may take as long as a disk does, and nobody waits for it:
    /// how others ended meanwhile is kept, because one of them may be the one.
    starting: usize,
    /// Those; there are never more than there are ids of processes.
    meanwhile: BTreeMap<i32, WaitStatus>,
}

static CHILDREN: Mutex<Children> =
    Mutex::new(Children { plugins: BTreeMap::new(), starting: 0, meanwhile: BTreeMap::new() });

fn children() -> MutexGuard<'static, Children> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reaps all children of this process that have ended. It does not wait for anything.
pub fn reap() {
    let mut children = children();
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let pid = pid.as_raw_pid();
        if let Some(slot) = children.plugins.get_mut(&pid) {
            *slot = Some(status);
        } else if children.starting > 0 {
            children.meanwhile.insert(pid, status);
        }
    }
}

/// Starts a child that is waited for by [`status`], and by nobody else.
pub(super) fn start<T, E>(spawn: impl FnOnce() -> Result<(Pid, T), E>) -> Result<(Pid, T), E> {
    children().starting += 1;
    let spawned = spawn();
    let mut children = children();
    if let Ok((pid, _)) = &spawned {
        let ended = children.meanwhile.remove(&pid.as_raw_pid());
        children.plugins.insert(pid.as_raw_pid(), ended);
    }
    children.starting -= 1;
    if children.starting == 0 {
        children.meanwhile.clear();
    }
    spawned
}

/// How a child has ended, once its pidfd says that it has. To be called once.
pub(super) fn status(pid: Pid) -> Option<WaitStatus> {
    let mut children = children();
    let noted = children.plugins.remove(&pid.as_raw_pid())?;
    // Asked first: what was noted while it was started may be of an earlier process of its id.
    let waited = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    waited.ok().flatten().map(|(_, status)| status).or(noted)
}

/// A child that nobody waits for any more. Whoever reaps all children reaps it.
pub(super) fn forget(pid: Pid) {
    children().plugins.remove(&pid.as_raw_pid());
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn nobody_waits_for_a_child_that_takes_long_to_be_started_and_its_end_is_known() {
        let (begun, begins) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let starting = std::thread::spawn(move || {
            start(|| {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
                let child = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn();
                let pid = Pid::from_child(&child.unwrap());
                Ok::<_, ()>((pid, ()))
            })
        });
        begins.recv().unwrap();
        // Who reaps does not wait; others may have it for a moment.
        let (had, has) = mpsc::channel();
        std::thread::spawn(move || had.send(children().starting).unwrap());
        assert!(has.recv_timeout(core::time::Duration::from_secs(30)).unwrap() > 0);
        go_on.send(()).unwrap();
        let (pid, ()) = starting.join().unwrap().unwrap();
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
        assert_eq!(status(pid).and_then(|status| status.exit_status()), Some(7));
    }
}
