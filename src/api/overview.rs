//! [`Overview`]: how the agent itself is, for `/roost/v1/status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::kubernetes::{Context, pod};
use crate::agent::service::{
    AgentView, ExecutorView, Pressure, PressureKind, RecordPhase, SOUND, Snapshot, Strain,
};

/// How the agent is. New fields may come; none changes its meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The agent's version.
    pub version: String,
    /// Since when it runs.
    pub started_at: String,
    /// How long it has been running, by the steady clock.
    pub uptime_seconds: u64,
    /// Whether every pod found at its start has been dealt with once.
    pub recovered: bool,
    /// Changes since it started.
    pub resource_version: String,
    /// How its store was found at the start.
    pub store: String,
    /// Why it can't write to its store, if so.
    pub store_fault: Option<String>,
    /// Name of the cgroup of all pods.
    pub cgroup: String,
    /// Which kind of cgroups it uses.
    pub cgroups: String,
    /// Its manifest directories.
    pub directories: Vec<String>,
    /// Where it keeps everything.
    pub paths: Places,
    /// What is wrong with manifest directories and the configuration.
    pub alarms: Vec<String>,
    /// Keys of the configuration that were changed and wait for a restart.
    #[serde(default)]
    pub restart_for: Vec<String>,
    /// Pods that several manifest files ask for.
    #[serde(default)]
    pub contested: Vec<String>,
    /// What is wrong in manifest files, by file.
    pub faults: BTreeMap<String, Vec<String>>,
    /// What is odd in manifest files and stops nothing, by file.
    #[serde(default)]
    pub warnings: BTreeMap<String, Vec<String>>,
    /// Manifests that are for other nodes.
    #[serde(default)]
    pub passed_over: Vec<String>,
    /// What the node runs out of: `MemoryPressure` and `DiskPressure`, as conditions of a node.
    #[serde(default)]
    pub conditions: Vec<NodeCondition>,
    /// How many pods there are, by phase; those that are ending are counted apart.
    pub pods: Counts,
}

impl Overview {
    /// Whether something is wrong that somebody must act on. What is odd does not count, nor does
    /// what pods do.
    #[must_use]
    pub fn needs_somebody(&self) -> bool {
        let Self { store_fault, alarms, contested, faults, .. } = self;
        let is_fine = alarms.is_empty() && contested.is_empty() && faults.is_empty();
        !is_fine || store_fault.is_some() || !self.is_store_sound()
    }

    /// Whether the store was found whole at the agent's start.
    #[must_use]
    pub fn is_store_sound(&self) -> bool {
        self.store == SOUND
    }
}

/// A condition of the node, in Kubernetes' words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCondition {
    /// Which.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` or `False`.
    pub status: String,
    /// The kubelet's reason.
    pub reason: String,
    /// What is short.
    #[serde(default)]
    pub message: Option<String>,
}

/// Where an agent keeps everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// What survives reboots.
    pub data: String,
    /// What does not.
    pub runtime: String,
    /// Logs of containers.
    pub logs: String,
}

/// How many pods there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All instances.
    pub total: usize,
    /// Not running yet.
    pub pending: usize,
    /// Running.
    pub running: usize,
    /// Through, well.
    pub succeeded: usize,
    /// Through, not well.
    pub failed: usize,
    /// Not heard of yet.
    pub unknown: usize,
    /// Ending.
    pub terminating: usize,
    /// Executors that answer.
    pub executors: usize,
}

/// What the service shows of the agent.
#[must_use]
pub fn of(snapshot: &Snapshot, context: &Context) -> Overview {
    let AgentView {
        version,
        started_at,
        started,
        store,
        store_fault,
        config_fault,
        restart_for,
        log_node_bytes: _,
        image_gc: _,
        pressure: _,
        cgroups,
        cgroup,
        directories,
        paths,
    } = &snapshot.agent;
    let of_config = config_fault.as_ref().map(|fault| {
        format!("the configuration can't be used, and what it was is in force: {fault}")
    });
    let alarms = snapshot.alarms.iter().map(ToString::to_string).chain(of_config).collect();
    let notices = |of_faults: bool| {
        let texts = snapshot.notices.iter().map(|(file, notices)| {
            let wanted = notices.iter().filter(|notice| notice.is_fault == of_faults);
            (file.to_string(), wanted.map(|notice| notice.text.clone()).collect::<Vec<_>>())
        });
        texts.filter(|(_, texts)| !texts.is_empty()).collect()
    };
    Overview {
        version: version.clone(),
        started_at: started_at.rfc3339(),
        uptime_seconds: context.now.since(*started).0 / 1000,
        recovered: snapshot.recovered,
        resource_version: snapshot.version.to_string(),
        store: store.clone(),
        store_fault: store_fault.clone(),
        cgroup: cgroup.clone(),
        cgroups: cgroups.clone(),
        directories: directories.clone(),
        paths: Places {
            data: paths.data.display().to_string(),
            runtime: paths.runtime.display().to_string(),
            logs: paths.logs.display().to_string(),
        },
        alarms,
        restart_for: restart_for.iter().map(|key| (*key).to_owned()).collect(),
        contested: snapshot.contested.clone(),
        faults: notices(true),
        warnings: notices(false),
        passed_over: snapshot.passed_over.clone(),
        conditions: conditions(snapshot),
        pods: counts(snapshot, context),
    }
}

fn conditions(snapshot: &Snapshot) -> Vec<NodeCondition> {
    let Pressure { memory, disk } = &snapshot.pressure;
    let pairs = [(PressureKind::Memory, memory), (PressureKind::Disk, disk)];
    let condition = |(kind, strain): (PressureKind, &Option<Strain>)| NodeCondition {
        kind: kind.to_string(),
        status: if strain.is_some() { "True" } else { "False" }.to_owned(),
        reason: if strain.is_some() { kind.begun() } else { kind.over() }.to_owned(),
        message: strain.as_ref().map(|strain| {
            if strain.met {
                strain.shortage.to_string()
            } else {
                "there is enough again, and not yet for long enough".to_owned()
            }
        }),
    };
    pairs.map(condition).into()
}

fn counts(snapshot: &Snapshot, context: &Context) -> Counts {
    let mut counts = Counts { total: snapshot.pods.len(), ..Counts::default() };
    for view in &snapshot.pods {
        let ends = match view.record.phase {
            RecordPhase::Active | RecordPhase::Finished { .. } => false,
            RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => true,
        };
        let count = match pod::outline(view, context).0 {
            _ if ends => &mut counts.terminating,
            "Pending" => &mut counts.pending,
            "Running" => &mut counts.running,
            "Succeeded" => &mut counts.succeeded,
            "Failed" => &mut counts.failed,
            _ => &mut counts.unknown,
        };
        *count += 1;
    }
    let answers = |executor: &ExecutorView| matches!(executor, ExecutorView::Connected { .. });
    counts.executors = snapshot.pods.iter().filter(|view| answers(&view.executor)).count();
    counts
}
