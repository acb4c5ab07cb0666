//! The cgroups of one pod and of one container in it.
//!
//! Not here: where they begin (`cgroup::base`), and what the limits mean (`cgroup::limits`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limits::{ContainerLimits, Controller, PodLimits, Setting, Version};
use super::{CgroupBase, CgroupError, Entry, Events, Hierarchy, files};
use crate::ids::{Attempt, ContainerName, PodId};

/// The leaf of the executor.
const EXECUTOR: &str = "executor";
/// The cgroup of all containers.
const CONTAINERS: &str = "pod";
/// What the cgroups of programs in a container begin with.
const SESSION: &str = "session-";
/// Most programs that are executed in one container at once, those included that hooks left.
const SESSIONS_MAX: usize = 256;

/// The cgroups of one pod instance.
#[derive(Debug, Clone)]
pub struct PodCgroup {
    base: CgroupBase,
    id: PodId,
}

impl PodCgroup {
    pub(super) fn new(base: CgroupBase, id: PodId) -> Self {
        Self { base, id }
    }

    /// Whose cgroups they are.
    #[must_use]
    pub fn id(&self) -> PodId {
        self.id
    }

    /// Makes them, without limits.
    ///
    /// # Errors
    /// If a directory can't be made, or a controller can't be handed down.
    pub fn create(&self) -> Result<(), CgroupError> {
        for (version, hierarchy) in self.base.hierarchies() {
            let pod = self.directory(hierarchy);
            let containers = pod.join(CONTAINERS);
            files::make_directory(&pod)?;
            files::make_directory(&pod.join(EXECUTOR))?;
            files::make_directory(&containers)?;
            if version == Version::V2 {
                let of_pod = &hierarchy.controllers;
                hand_down(&pod, of_pod.iter().copied())?;
                // The number of processes is limited for all containers together.
                let of_containers = of_pod.iter().copied().filter(|c| *c != Controller::Pids);
                hand_down(&containers, of_containers)?;
            }
        }
        Ok(())
    }

    /// What the executor enters its leaf by.
    ///
    /// # Errors
    /// If the pod's cgroups do not exist.
    pub fn executor_entry(&self) -> Result<Entry, CgroupError> {
        let legacy = self.base.legacy.iter().map(|h| self.directory(h).join(EXECUTOR));
        open_entry(&self.unified().join(EXECUTOR), legacy)
    }

    /// Sets, changes or clears the limits of all containers together. What a missing controller
    /// would do is left out: see [`CgroupBase::unsupported`].
    ///
    /// # Errors
    /// If the kernel refuses a value.
    pub fn set_limits(&self, limits: &PodLimits) -> Result<(), CgroupError> {
        for (version, hierarchy) in self.base.hierarchies() {
            let pod = self.directory(hierarchy);
            apply(&pod, hierarchy, &limits.outer_settings(version))?;
            apply(&pod.join(CONTAINERS), hierarchy, &limits.settings(version))?;
        }
        Ok(())
    }

    /// The cgroup of one run of a container, made or not.
    #[must_use]
    pub fn container(&self, name: &ContainerName, attempt: Attempt) -> ContainerCgroup {
        ContainerCgroup { pod: self.clone(), name: format!("{name}-{attempt}") }
    }

    /// The runs that have a cgroup in any hierarchy, half-removed ones included.
    ///
    /// # Errors
    /// If a directory can't be read.
    pub fn containers(&self) -> Result<BTreeSet<(ContainerName, Attempt)>, CgroupError> {
        let mut found = BTreeSet::new();
        for (_, hierarchy) in self.base.hierarchies() {
            let names = files::directories(&self.directory(hierarchy).join(CONTAINERS))?;
            found.extend(names.iter().filter_map(|name| parse_run(name)));
        }
        Ok(found)
    }

    /// Kills every process of the pod, the executor included. Returns at once: [`Self::wait_empty`]
    /// tells when they are gone.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill_all(&self) -> Result<(), CgroupError> {
        kill(&self.unified())
    }

    /// Kills every process of the containers.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill_containers(&self) -> Result<(), CgroupError> {
        kill(&self.unified().join(CONTAINERS))
    }

    /// Whether any process of the pod is there, the executor included.
    ///
    /// # Errors
    /// If it can't be found out.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        files::is_populated(&self.unified())
    }

    /// What tells an event loop that the pod's last process is gone, the executor included.
    ///
    /// # Errors
    /// If the pod's cgroups do not exist.
    pub fn events_fd(&self) -> Result<Events, CgroupError> {
        Events::open(&self.unified())
    }

    /// Blocks until no process of the pod is there, the executor included; whether that came in
    /// time.
    ///
    /// # Errors
    /// If it can't be found out.
    pub fn wait_empty(&self, timeout: Duration) -> Result<bool, CgroupError> {
        files::wait_empty(&self.unified(), timeout)
    }

    /// Blocks until no process of any container is there; whether that came in time.
    ///
    /// # Errors
    /// If it can't be found out.
    pub fn wait_containers_empty(&self, timeout: Duration) -> Result<bool, CgroupError> {
        files::wait_empty(&self.unified().join(CONTAINERS), timeout)
    }

    /// Removes the pod's cgroups in all hierarchies.
    ///
    /// # Errors
    /// [`CgroupError::Populated`] if there is a process; what had none is gone then.
    pub fn destroy(&self) -> Result<(), CgroupError> {
        // cgroup v1 first: the pod is found again by any directory, but waited for and killed
        // by that of cgroup2.
        let legacy = self.base.legacy.iter();
        legacy.chain([&self.base.unified]).try_for_each(|h| files::remove_tree(&self.directory(h)))
    }

    fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.directory.join(self.id.to_string())
    }

    fn unified(&self) -> PathBuf {
        self.directory(&self.base.unified)
    }
}

/// The cgroup of one run of a container.
#[derive(Debug, Clone)]
pub struct ContainerCgroup {
    pod: PodCgroup,
    name: String,
}

/// What a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Processor time since its start, in microseconds.
    pub cpu_us: u64,
    /// Memory, page cache included; `None` without a memory controller.
    pub memory_bytes: Option<u64>,
    /// Memory without page cache that can be dropped easily: what `kubectl top` shows.
    pub memory_working_set_bytes: Option<u64>,
}

impl ContainerCgroup {
    /// Makes it with its limits, and opens what the container's first process enters it by.
    ///
    /// # Errors
    /// If the pod's cgroups do not exist, or the kernel refuses a value.
    pub fn create(&self, limits: &ContainerLimits) -> Result<Entry, CgroupError> {
        for (version, hierarchy) in self.own_hierarchies() {
            let directory = self.directory(hierarchy);
            let mut settings = limits.settings(version);
            if files::make_directory(&directory)? {
                settings.retain(|setting| !setting.is_default);
            }
            apply(&directory, hierarchy, &settings)?;
        }
        self.entry()
    }

    /// What another process enters it by: that of an exec or debug session.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn entry(&self) -> Result<Entry, CgroupError> {
        let base = &self.pod.base;
        let legacy = base.legacy.iter().map(|hierarchy| {
            if has_containers(hierarchy) {
                self.directory(hierarchy)
            } else {
                self.pod.directory(hierarchy).join(CONTAINERS)
            }
        });
        open_entry(&self.unified(), legacy)
    }

    /// Makes a cgroup below for one program that is executed in it later, and what that enters it
    /// by. It has no limits of its own.
    ///
    /// # Errors
    /// If the container's does not exist, or there are too many.
    pub fn session(&self) -> Result<(SessionCgroup, Entry), CgroupError> {
        let directory = |number: usize| self.unified().join(format!("{SESSION}{number}"));
        for number in 0..SESSIONS_MAX {
            let directory = directory(number);
            // One that was killed is never entered again: Linux 6.14 and later kill what is.
            if files::make_directory(&directory)? {
                let Entry { into: _, tasks } = self.entry()?;
                let into = files::open_directory(&directory)?;
                return Ok((SessionCgroup { directory }, Entry { into, tasks }));
            }
        }
        Err(CgroupError::Populated { path: directory(SESSIONS_MAX) })
    }

    /// One that [`Self::session`] has made, by its [name](SessionCgroup::name).
    #[must_use]
    pub fn session_named(&self, name: &str) -> SessionCgroup {
        SessionCgroup { directory: self.unified().join(name) }
    }

    /// Changes or clears its limits while it runs.
    ///
    /// # Errors
    /// If the kernel refuses a value: cgroup v1 does so when the container uses more memory than
    /// the new limit and it can't be freed, while v2 kills then.
    pub fn update(&self, limits: &ContainerLimits) -> Result<(), CgroupError> {
        self.own_hierarchies().try_for_each(|(version, hierarchy)| {
            apply(&self.directory(hierarchy), hierarchy, &limits.settings(version))
        })
    }

    /// Kills every process in it and below. Returns at once.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill(&self.unified())
    }

    /// What tells an event loop that its last process is gone.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn events_fd(&self) -> Result<Events, CgroupError> {
        Events::open(&self.unified())
    }

    /// Whether it or a cgroup below has a process.
    ///
    /// # Errors
    /// If it can't be found out.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        files::is_populated(&self.unified())
    }

    /// Blocks until it has no process; whether that came in time.
    ///
    /// # Errors
    /// If it can't be found out.
    pub fn wait_empty(&self, timeout: Duration) -> Result<bool, CgroupError> {
        files::wait_empty(&self.unified(), timeout)
    }

    /// How often the kernel killed in it because memory ran out: only whether it grew is exact,
    /// not by how many processes. 0 without a memory controller.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        let Some((version, directory)) = self.with(Controller::Memory) else { return Ok(0) };
        let file = match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        files::read_key(&directory.join(file), "oom_kill")
    }

    /// What it uses now.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn usage(&self) -> Result<Usage, CgroupError> {
        // Every cgroup2 directory counts processor time, with or without the controller.
        let cpu_us = files::read_key(&self.unified().join("cpu.stat"), "usage_usec")?;
        let Some((version, directory)) = self.with(Controller::Memory) else {
            return Ok(Usage { cpu_us, memory_bytes: None, memory_working_set_bytes: None });
        };
        let (current, inactive) = match version {
            Version::V1 => ("memory.usage_in_bytes", "total_inactive_file"),
            Version::V2 => ("memory.current", "inactive_file"),
        };
        let used = files::read_number(&directory.join(current))?;
        let droppable = files::read_key(&directory.join("memory.stat"), inactive)?;
        Ok(Usage {
            cpu_us,
            memory_bytes: Some(used),
            memory_working_set_bytes: Some(used.saturating_sub(droppable)),
        })
    }

    /// How many processes are in it and below.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn processes(&self) -> Result<u64, CgroupError> {
        let mut count = 0;
        let mut left = vec![self.unified()];
        while let Some(directory) = left.pop() {
            let pids = files::read(&directory.join("cgroup.procs"))?;
            count += u64::try_from(pids.lines().count()).unwrap_or(u64::MAX);
            left.extend(files::directories(&directory)?.iter().map(|name| directory.join(name)));
        }
        Ok(count)
    }

    /// Removes it, and what the container made below it, in all hierarchies.
    ///
    /// # Errors
    /// [`CgroupError::Populated`] if it has a process.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let legacy = self.pod.base.legacy.iter();
        legacy
            .chain([&self.pod.base.unified])
            .try_for_each(|hierarchy| files::remove_tree(&self.directory(hierarchy)))
    }

    fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        self.pod.directory(hierarchy).join(CONTAINERS).join(&self.name)
    }

    fn unified(&self) -> PathBuf {
        self.directory(&self.pod.base.unified)
    }

    /// The hierarchies in which a container has a directory of its own.
    fn own_hierarchies(&self) -> impl Iterator<Item = (Version, &Hierarchy)> {
        self.pod
            .base
            .hierarchies()
            .filter(|(version, h)| *version == Version::V2 || has_containers(h))
    }

    /// Where a controller is.
    fn with(&self, controller: Controller) -> Option<(Version, PathBuf)> {
        self.own_hierarchies()
            .find(|(_, hierarchy)| hierarchy.controllers.contains(&controller))
            .map(|(version, hierarchy)| (version, self.directory(hierarchy)))
    }
}

/// The cgroup of a program that was executed in a container. It goes with the container's.
#[derive(Debug)]
pub struct SessionCgroup {
    directory: PathBuf,
}

impl SessionCgroup {
    /// Tells it from others of the same container.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.directory.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// What tells an event loop that its last process is gone.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn events_fd(&self) -> Result<Events, CgroupError> {
        Events::open(&self.directory)
    }

    /// Whether it has a process.
    ///
    /// # Errors
    /// If it can't be found out.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        files::is_populated(&self.directory)
    }

    /// Kills every process in it. Returns at once.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<(), CgroupError> {
        kill(&self.directory)
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`CgroupError::Populated`] if it has a process.
    pub fn remove(&self) -> Result<(), CgroupError> {
        files::remove_tree(&self.directory)
    }
}

/// Whether containers have directories of their own in a cgroup v1 hierarchy. Not if it limits
/// processes only, which the pod does as a whole: each directory costs a start some 20 us.
fn has_containers(legacy: &Hierarchy) -> bool {
    legacy.controllers.iter().any(|controller| *controller != Controller::Pids)
}

/// The reverse of the name in [`PodCgroup::container`].
fn parse_run(directory: &str) -> Option<(ContainerName, Attempt)> {
    let (name, attempt) = directory.rsplit_once('-')?;
    let run = (name.parse().ok()?, Attempt(attempt.parse().ok()?));
    (format!("{}-{}", run.0, run.1) == directory).then_some(run)
}

fn open_entry(unified: &Path, legacy: impl Iterator<Item = PathBuf>) -> Result<Entry, CgroupError> {
    let into = files::open_directory(unified)?;
    let tasks = legacy.map(|directory| files::open_tasks(&directory));
    Ok(Entry { into, tasks: tasks.collect::<Result<_, _>>()? })
}

fn kill(directory: &Path) -> Result<(), CgroupError> {
    files::write_if_present(&directory.join("cgroup.kill"), "1")
}

/// Lets the children of a cgroup2 directory use controllers.
pub(super) fn hand_down(
    directory: &Path,
    controllers: impl Iterator<Item = Controller>,
) -> Result<(), CgroupError> {
    let words: Vec<String> = controllers.map(|controller| format!("+{controller}")).collect();
    if words.is_empty() {
        return Ok(());
    }
    files::write(&directory.join("cgroup.subtree_control"), &words.join(" "))
}

/// Writes those settings whose controller is in this hierarchy.
fn apply(directory: &Path, hierarchy: &Hierarchy, settings: &[Setting]) -> Result<(), CgroupError> {
    let ours = settings.iter().filter(|s| hierarchy.controllers.contains(&s.controller));
    for setting in ours {
        let path = directory.join(setting.file);
        // Most have no limit: to look is much less than to write, for which the kernel may have to
        // go through all that it has charged.
        if setting.is_default
            && fs::read_to_string(&path).is_ok_and(|is| is.trim() == setting.value)
        {
            continue;
        }
        if setting.may_be_missing {
            files::write_if_present(&path, &setting.value)?;
        } else {
            files::write(&path, &setting.value)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_directory_is_a_run_or_something_else() {
        let run = |name: &str| parse_run(name).map(|(name, n)| (name.to_string(), n.0));
        assert_eq!(run("web-0"), Some(("web".into(), 0)));
        assert_eq!(run("web-1-12"), Some(("web-1".into(), 12)));
        for other in ["web", "web-", "-1", "web-01", "web-+1", "web-1.scope", "we b-1"] {
            assert_eq!(run(other), None, "{other}");
        }
    }
}
