//! The agent's children that are plugins, and all the others.
//!
//! The agent reaps every child it has as soon as one has ended: of executors it learns elsewhere.
//! How a plugin has ended is needed, so it is kept here for whoever waits for it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, WaitOptions, WaitStatus};

/// Plugins that run, by process, and how those ended that were reaped already.
static PLUGINS: Mutex<BTreeMap<i32, Option<WaitStatus>>> = Mutex::new(BTreeMap::new());

/// Reaps all children of this process that have ended.
pub fn reap() {
    let mut plugins = PLUGINS.lock().unwrap_or_else(PoisonError::into_inner);
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if let Some(slot) = plugins.get_mut(&pid.as_raw_pid()) {
            *slot = Some(status);
        }
    }
}

/// Starts a child that is waited for by [`status`], and by nobody else.
pub(super) fn start<T, E>(spawn: impl FnOnce() -> Result<(Pid, T), E>) -> Result<(Pid, T), E> {
    // Held meanwhile, so that nobody can reap the child before it is known.
    let mut plugins = PLUGINS.lock().unwrap_or_else(PoisonError::into_inner);
    let (pid, more) = spawn()?;
    plugins.insert(pid.as_raw_pid(), None);
    Ok((pid, more))
}

/// How a child has ended, once its pidfd says that it has. To be called once.
pub(super) fn status(pid: Pid) -> Option<WaitStatus> {
    let mut plugins = PLUGINS.lock().unwrap_or_else(PoisonError::into_inner);
    match plugins.remove(&pid.as_raw_pid())? {
        Some(status) => Some(status),
        None => {
            let waited = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            waited.ok().flatten().map(|(_, status)| status)
        }
    }
}

/// A child that nobody waits for any more. Whoever reaps all children reaps it.
pub(super) fn forget(pid: Pid) {
    PLUGINS.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid.as_raw_pid());
}
