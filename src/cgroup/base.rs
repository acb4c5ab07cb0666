//! Finds the hierarchies of this host, and makes the cgroup in which all pods are.
//!
//! Where systemd is PID 1 and cgroups are unified, it is a transient scope with delegation in
//! `roost.slice`: systemd owns the tree and would undo what it does not know of. There is one scope
//! for all pods, and a parked process in a leaf keeps it alive, so that D-Bus is not on the path of
//! each start. Never inside the agent's own unit: systemd 252 can't restart a service whose cgroup
//! has children with controllers. Elsewhere it is a directory at the top.
//!
//! The only module that uses cgroups-rs.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cgroups_rs::fs::Controllers;
use cgroups_rs::fs::hierarchies::{UNIFIED_MOUNTPOINT, V1, is_cgroup2_unified_mode};
use cgroups_rs::systemd::SystemdClient;
use cgroups_rs::systemd::props::PropertiesBuilder;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::process::{Pid, Signal};

use super::limits::Controller;
use super::tree::hand_down;
use super::{CgroupBase, CgroupError, Entry, Hierarchy, files};
use crate::sys::{self, SpawnRequest};

/// The slice of the scope.
const SLICE: &str = "roost.slice";
/// The leaf of the process that keeps the scope alive.
const HOLDER: &str = "holder";
/// How long systemd may take for the scope. Only the first start after a boot waits for it.
const SCOPE_TIMEOUT: Duration = Duration::from_secs(20);

/// A program that does nothing until it is killed, to keep a systemd scope alive.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// The opened executable.
    pub exe: BorrowedFd<'a>,
    /// Its arguments, with its name first.
    pub argv: &'a [CString],
}

impl CgroupBase {
    /// Finds the base of that name, or makes it. Blocks for as long as systemd takes, at the first
    /// call after a boot. Without a holder no systemd scope is used.
    ///
    /// # Errors
    /// If the host has no cgroup2 hierarchy with `cgroup.kill`, or the base can't be made there.
    /// A missing controller is no error: see [`CgroupBase::unsupported`].
    pub fn open(name: &str, holder: Option<&Holder<'_>>) -> Result<Self, CgroupError> {
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(valid) {
            return Err(CgroupError::InvalidName { name: name.to_owned() });
        }
        let mount = unified_mount().ok_or(CgroupError::NoUnifiedHierarchy)?;
        let systemd = is_cgroup2_unified_mode() && Path::new("/run/systemd/system").is_dir();
        let directory = match holder.filter(|_| systemd) {
            Some(holder) => Scope::new(name, &mount).open(holder)?,
            None => {
                offer(&mount)?;
                let directory = mount.join(name);
                files::make_directory(&directory)?;
                directory
            }
        };
        if !directory.join("cgroup.kill").exists() {
            return Err(CgroupError::NoKill { directory });
        }
        let controllers = offer(&directory)?;
        let legacy = legacy(name, &controllers)?;
        Ok(Self { unified: Hierarchy { directory, controllers }, legacy })
    }
}

/// Where cgroup2 is mounted: alone, or beside cgroup v1.
fn unified_mount() -> Option<PathBuf> {
    if is_cgroup2_unified_mode() {
        return Some(UNIFIED_MOUNTPOINT.into());
    }
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(cgroup2_mount)
}

/// The mount point of a line of mountinfo (proc_pid_mountinfo(5)), if it is one of cgroup2.
fn cgroup2_mount(line: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    let is_cgroup2 = file_system.split(' ').next() == Some("cgroup2");
    is_cgroup2.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
}

/// Offers all controllers in use to the children of a cgroup2 directory, and says which of them
/// they have. One at a time, and a refusal is an answer: in a container the root may have
/// processes, or lack a controller.
fn offer(directory: &Path) -> Result<BTreeSet<Controller>, CgroupError> {
    let listed = |file: &str| -> Result<BTreeSet<Controller>, CgroupError> {
        let text = files::read(&directory.join(file))?;
        let words: BTreeSet<&str> = text.split_whitespace().collect();
        Ok(Controller::ALL.into_iter().filter(|c| words.contains(c.as_str())).collect())
    };
    let offered = listed("cgroup.subtree_control")?;
    for controller in listed("cgroup.controllers")?.difference(&offered) {
        if let Err(error) = hand_down(directory, std::iter::once(*controller)) {
            let reason: &dyn std::error::Error = &error;
            tracing::warn!(controller = %controller, error = reason, "controller is not available");
        }
    }
    listed("cgroup.subtree_control")
}

/// The base in the cgroup v1 hierarchies of those controllers that cgroup2 does not have.
fn legacy(name: &str, unified: &BTreeSet<Controller>) -> Result<Vec<Hierarchy>, CgroupError> {
    let mounts = V1::new();
    let mut found: Vec<Hierarchy> = Vec::new();
    for controller in Controller::ALL.into_iter().filter(|c| !unified.contains(c)) {
        let wanted = match controller {
            Controller::Cpu => Controllers::Cpu,
            Controller::Memory => Controllers::Mem,
            Controller::Pids => Controllers::Pids,
        };
        let Some((mount, _)) = mounts.get_mount_point(wanted) else { continue };
        let directory = mount.join(name);
        // Several controllers may share a hierarchy.
        if let Some(known) = found.iter_mut().find(|known| known.directory == directory) {
            known.controllers.insert(controller);
            continue;
        }
        match files::make_directory(&directory) {
            Ok(_) => found.push(Hierarchy { directory, controllers: [controller].into() }),
            // Inside a container cgroup v1 is often there to look at only.
            Err(CgroupError::Io { source, .. }) if is_forbidden(&source) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn is_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// The systemd scope of all pods.
///
/// ```text
/// no process in it ──► holder started ──► StartTransientUnit ──► systemd moves the holder in
///                                                                        │
///      ready ◄── holder moved into its leaf ◄────────────────────────────┘
/// ```
///
/// The agent may be killed between any two of these; the next start goes on from what it finds.
struct Scope<'a> {
    unit: String,
    directory: PathBuf,
    mount: &'a Path,
}

impl<'a> Scope<'a> {
    fn new(name: &str, mount: &'a Path) -> Self {
        let unit = format!("{name}-pods.scope");
        Self { directory: mount.join(SLICE).join(&unit), unit, mount }
    }

    fn open(&self, holder: &Holder<'_>) -> Result<PathBuf, CgroupError> {
        let leaf = self.directory.join(HOLDER);
        if !files::is_populated(&self.directory)? {
            let own = files::open_directory(&self.mount.join(own_cgroup()))?;
            let (pid, pidfd) = self.start_holder(holder, own)?;
            if let Err(error) = self.start(pid).and_then(|()| self.wait_for(pid, pidfd.as_fd())) {
                rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).ok();
                return Err(error);
            }
        }
        files::make_directory(&leaf)?;
        // A cgroup with processes can't hand controllers down.
        for pid in files::read(&self.directory.join("cgroup.procs"))?.lines() {
            files::write(&leaf.join("cgroup.procs"), pid)?;
        }
        if !files::is_populated(&leaf)? {
            self.start_holder(holder, files::open_directory(&leaf)?)?;
        }
        Ok(self.directory.clone())
    }

    fn start_holder(
        &self,
        holder: &Holder<'_>,
        into: OwnedFd,
    ) -> Result<(Pid, OwnedFd), CgroupError> {
        let failed = |source| CgroupError::Holder { unit: self.unit.clone(), source };
        let null = File::options().write(true).open("/dev/null").map_err(failed)?;
        sys::spawn_detached(&SpawnRequest {
            exe: holder.exe,
            argv: holder.argv,
            env: &[],
            fds: &[],
            stderr: null.as_fd(),
            entry: Some(&Entry { into, tasks: Vec::new() }),
        })
        .map_err(failed)
    }

    /// Asks systemd for the scope; it answers before the scope is there.
    fn start(&self, pid: Pid) -> Result<(), CgroupError> {
        let properties = PropertiesBuilder::default_cgroup(SLICE, &self.unit)
            .description("Pods of Roost".to_owned())
            .pids(vec![pid.as_raw_nonzero().get().unsigned_abs()])
            .build();
        let failed =
            |error| CgroupError::Scope { unit: self.unit.clone(), source: Box::new(error) };
        let client = SystemdClient::new(&self.unit, properties).map_err(failed)?;
        // It has no process, so that this is a unit that failed, and its name is taken.
        if client.exists() {
            client.stop().map_err(failed)?;
        }
        client.start().map_err(failed)
    }

    /// Waits until systemd has moved the holder into the scope.
    fn wait_for(&self, pid: Pid, pidfd: BorrowedFd<'_>) -> Result<(), CgroupError> {
        let failed = |error: rustix::io::Errno| CgroupError::Io {
            action: "watch",
            path: self.directory.clone(),
            source: error.into(),
        };
        let deadline = Instant::now() + SCOPE_TIMEOUT;
        let procs = self.directory.join("cgroup.procs");
        let pid = pid.as_raw_nonzero().to_string();
        loop {
            let watch = inotify::init(CreateFlags::CLOEXEC).map_err(failed)?;
            // From the top down: what does not exist yet is created under a watch.
            let watched = [
                self.mount.to_owned(),
                self.mount.join(SLICE),
                self.directory.clone(),
                self.directory.join("cgroup.events"),
            ];
            for path in watched {
                match inotify::add_watch(&watch, &path, WatchFlags::CREATE | WatchFlags::MODIFY) {
                    Ok(_) => {}
                    Err(rustix::io::Errno::NOENT) => break,
                    Err(error) => return Err(failed(error)),
                }
            }
            if fs::read_to_string(&procs).is_ok_and(|text| text.lines().any(|line| line == pid)) {
                return Ok(());
            }
            // systemd does not tell of a scope whose only process is gone before it began.
            if has_ended(pidfd).map_err(failed)? {
                let source = io::Error::other("it ended at once");
                return Err(CgroupError::Holder { unit: self.unit.clone(), source });
            }
            let changed = files::poll_until(&[watch.as_fd(), pidfd], PollFlags::IN, deadline);
            if !changed.is_ok_and(|changed| changed) {
                let seconds = SCOPE_TIMEOUT.as_secs();
                return Err(CgroupError::ScopeTimeout { unit: self.unit.clone(), seconds });
            }
        }
    }
}

/// Whether the process of a pidfd has ended (pidfd_open(2): it can be read from then on).
fn has_ended(pidfd: BorrowedFd<'_>) -> Result<bool, rustix::io::Errno> {
    let mut polled = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&Timespec::default())).map(|ready| ready > 0)
}

/// The cgroup2 directory of this process, relative to the mount.
fn own_cgroup() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_cgroup2_is_told_from_others() {
        let line = |kind: &str| format!("38 30 0:33 / /a/unified rw shared:9 - {kind} none rw");
        assert_eq!(cgroup2_mount(&line("cgroup2")), Some("/a/unified".into()));
        assert_eq!(cgroup2_mount(&line("cgroup")), None);
        assert_eq!(cgroup2_mount("cgroup2"), None);
    }

    #[test]
    fn a_name_that_would_lead_elsewhere_is_refused() {
        for name in ["", "..", "a/b", "a.b", "a b"] {
            let error = CgroupBase::open(name, None).unwrap_err();
            assert!(matches!(error, CgroupError::InvalidName { .. }), "{name}: {error}");
        }
    }

    /// Does nothing where there is no systemd with unified cgroups.
    #[test]
    fn a_holder_that_ends_at_once_is_named_instead_of_waited_for() {
        if !is_cgroup2_unified_mode() || !Path::new("/run/systemd/system").is_dir() {
            return;
        }
        let name = format!("roost-test-short-{}", std::process::id());
        let (exe, argv) = (File::open("/bin/true").unwrap(), [c"true".into()]);
        let holder = Holder { exe: exe.as_fd(), argv: &argv };
        let error = CgroupBase::open(&name, Some(&holder)).unwrap_err();
        let is_named = matches!(error, CgroupError::Holder { .. } | CgroupError::Scope { .. });
        assert!(is_named, "{error}");
    }

    /// Does nothing where there is no systemd with unified cgroups.
    #[test]
    fn a_systemd_scope_is_made_found_again_and_gets_a_new_holder() {
        if !is_cgroup2_unified_mode() || !Path::new("/run/systemd/system").is_dir() {
            return;
        }
        let name = format!("roost-test-{}", std::process::id());
        let (exe, argv) = (File::open("/bin/sleep").unwrap(), [c"sleep".into(), c"999".into()]);
        let holder = Holder { exe: exe.as_fd(), argv: &argv };
        let base = CgroupBase::open(&name, Some(&holder)).unwrap();
        let directory = base.unified.directory.clone();
        assert!(directory.ends_with(format!("roost.slice/{name}-pods.scope")));
        assert_eq!(base.unsupported(), BTreeSet::new());
        let procs = || files::read(&directory.join("holder/cgroup.procs")).unwrap();
        let before = procs();
        assert_eq!(before.lines().count(), 1);
        assert_eq!(CgroupBase::open(&name, Some(&holder)).unwrap(), base);
        assert_eq!(procs(), before);

        // A pod keeps the scope while the holder is dead.
        let pod = base.pod(crate::ids::PodId::from_random(1));
        pod.create().unwrap();
        let entry = pod.executor_entry().unwrap();
        let (_, pidfd) = sys::spawn_detached(&SpawnRequest {
            exe: holder.exe,
            argv: &argv,
            env: &[],
            fds: &[],
            stderr: sys::testing::stderr(),
            entry: Some(&entry),
        })
        .unwrap();
        files::write(&directory.join("holder/cgroup.kill"), "1").unwrap();
        assert!(files::wait_empty(&directory.join(HOLDER), SCOPE_TIMEOUT).unwrap());
        CgroupBase::open(&name, Some(&holder)).unwrap();
        assert_ne!(procs(), before);
        pod.kill_all().unwrap();
        assert!(pod.wait_empty(SCOPE_TIMEOUT).unwrap());
        sys::testing::wait_pidfd(pidfd);
        pod.destroy().unwrap();
        files::write(&directory.join("holder/cgroup.kill"), "1").unwrap();
    }
}
