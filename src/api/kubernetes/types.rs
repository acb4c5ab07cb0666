//! The objects of Kubernetes' core/v1 as far as Roost speaks them, for both ends of the wire.
//!
//! Fields are those of the API reference, with its documentation; a field that is empty is left
//! out. Unknown fields are passed over when read, as every client of Kubernetes does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

/// A pod. Whoever does not look at what it shall be reads it with [`serde::de::IgnoredAny`] there:
/// of hundreds of pods that is most of the work.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[serde(bound(serialize = "S: Serialize + Default + PartialEq"))]
pub struct Pod<S = Value> {
    /// `Pod`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// What every object has.
    pub metadata: ObjectMeta,
    /// What it shall be.
    #[serde(skip_serializing_if = "is_default")]
    pub spec: S,
    /// What it is.
    pub status: PodStatus,
}

object! {
    /// What every object has.
    ObjectMeta {
        /// Its name.
        name: String,
        /// Where the name counts.
        #[serde(skip_serializing_if = "String::is_empty")]
        namespace: String,
        /// The instance.
        #[serde(skip_serializing_if = "String::is_empty")]
        uid: String,
        /// Changes with every change.
        #[serde(skip_serializing_if = "String::is_empty")]
        resource_version: String,
        /// Counts the changes of what is wanted.
        #[serde(skip_serializing_if = "is_zero")]
        generation: u64,
        /// Since when there is this instance.
        creation_timestamp: Option<String>,
        /// When it will be killed at the latest; set while it ends.
        #[serde(skip_serializing_if = "Option::is_none")]
        deletion_timestamp: Option<String>,
        /// The grace period in seconds; set while it ends.
        #[serde(skip_serializing_if = "Option::is_none")]
        deletion_grace_period_seconds: Option<u64>,
        /// Labels.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        /// Annotations.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
    }
}

object! {
    /// One address.
    AddressEntry {
        /// The address.
        ip: String,
    }
}

object! {
    /// What a pod is.
    PodStatus {
        /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
        phase: String,
        /// The generation that the status is about.
        #[serde(skip_serializing_if = "is_zero")]
        observed_generation: u64,
        /// What holds of it.
        conditions: Vec<Condition>,
        /// What is wrong, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// What is wrong, in one word.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Its first address.
        #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
        pod_ip: Option<String>,
        /// All.
        #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
        pod_ips: Vec<AddressEntry>,
        /// The first address of the node.
        #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
        host_ip: Option<String>,
        /// All.
        #[serde(rename = "hostIPs", skip_serializing_if = "Vec::is_empty")]
        host_ips: Vec<AddressEntry>,
        /// When it was accepted.
        #[serde(skip_serializing_if = "Option::is_none")]
        start_time: Option<String>,
        /// `Guaranteed`, `Burstable` or `BestEffort`.
        #[serde(skip_serializing_if = "Option::is_none")]
        qos_class: Option<String>,
        /// In the order of the manifest.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_container_statuses: Vec<ContainerStatus>,
        /// In the order of the manifest.
        container_statuses: Vec<ContainerStatus>,
        /// What Kubernetes has no word for.
        #[serde(skip_serializing_if = "Option::is_none")]
        roost: Option<PodExtra>,
    }
}

impl PodStatus {
    /// Every container, init containers first.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerStatus> + Clone {
        self.init_container_statuses.iter().chain(&self.container_statuses)
    }

    /// The containers that run as long as the pod does: those and sidecars.
    pub fn lasting_containers(&self) -> impl Iterator<Item = &ContainerStatus> + Clone {
        let init = self.init_container_statuses.iter().filter(|it| it.is_sidecar());
        init.chain(&self.container_statuses)
    }
}

impl ContainerStatus {
    /// Whether it is an init container that goes on running.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        self.roost.as_ref().is_some_and(|extra| extra.sidecar)
    }
}

object! {
    /// What Kubernetes has no word for, of a pod.
    PodExtra {
        /// `absent`, `silent` or `connected`.
        executor: String,
        /// The executor's process.
        #[serde(skip_serializing_if = "Option::is_none")]
        executor_pid: Option<u32>,
        /// Why it ends, while it does: `Removed`, `Replaced` or `Orphaned`.
        #[serde(skip_serializing_if = "Option::is_none")]
        termination_cause: Option<String>,
        /// How often its executor was lost since it last ran long enough.
        #[serde(skip_serializing_if = "is_zero")]
        executor_losses: u64,
    }
}

object! {
    /// One thing that holds of a pod or does not.
    Condition {
        /// What.
        #[serde(rename = "type")]
        kind: String,
        /// `True` or `False`.
        status: String,
        /// Why, in one word.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Why, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// Since when.
        #[serde(skip_serializing_if = "Option::is_none")]
        last_transition_time: Option<String>,
    }
}

object! {
    /// What a container is.
    ContainerStatus {
        /// Its name.
        name: String,
        /// Where its newest run stands.
        state: ContainerState,
        /// How the run before ended.
        last_state: ContainerState,
        /// Whether it runs and does its work.
        ready: bool,
        /// How often it was started again.
        restart_count: u32,
        /// Whether it was started.
        started: bool,
        /// As the manifest names it; empty for the root file system of the host.
        image: String,
        /// Which image that is, once it is known.
        #[serde(rename = "imageID")]
        image_id: String,
        /// `roost://<pod>/<container>/<run>`.
        #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
        container_id: Option<String>,
        /// What Kubernetes has no word for.
        #[serde(skip_serializing_if = "Option::is_none")]
        roost: Option<ContainerExtra>,
    }
}

object! {
    /// What Kubernetes has no word for, of a container.
    ContainerExtra {
        /// Its first process, as the host sees it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// Why changed limits could not be applied to it.
        #[serde(skip_serializing_if = "Option::is_none")]
        update_fault: Option<String>,
        /// Probes whose newest answer was no plain success.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        probe_faults: Vec<ProbeExtra>,
        /// What its check has found (annotation `roost/check.…`).
        #[serde(skip_serializing_if = "Option::is_none")]
        check: Option<CheckExtra>,
        /// Whether it is an init container that goes on running.
        #[serde(skip_serializing_if = "is_false")]
        sidecar: bool,
    }
}

object! {
    /// A probe whose newest answer was no plain success.
    ProbeExtra {
        /// Its field: `livenessProbe`, `readinessProbe` or `startupProbe`.
        probe: String,
        /// Whether that was a failure; else it could not be asked, or is doubtful.
        failed: bool,
        /// How many such answers there were in a row.
        count: i64,
        /// What was seen the last time.
        message: String,
    }
}

object! {
    /// What a check has found: at most one of the first three, none if there was no answer.
    CheckExtra {
        /// Of a program; 128 + n for signal n.
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// Of an answer by HTTP.
        #[serde(skip_serializing_if = "Option::is_none")]
        status_code: Option<i32>,
        /// Whether a TCP connection was made.
        #[serde(skip_serializing_if = "Option::is_none")]
        succeeded: Option<bool>,
        /// What was said when it was first like that.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    }
}

impl CheckExtra {
    /// The result in words, if there is one.
    #[must_use]
    pub fn result(&self) -> Option<String> {
        let Self { exit_code, status_code, succeeded, message: _ } = self;
        let exit_code = exit_code.map(|code| format!("exit code {code}"));
        let status_code = status_code.map(|code| format!("HTTP status {code}"));
        let connected = |yes| if yes { "connected" } else { "not connected" }.to_owned();
        exit_code.or(status_code).or(succeeded.map(connected))
    }
}

object! {
    /// Where a run stands: at most one of the three.
    ContainerState {
        /// It does not run yet, or not again yet.
        #[serde(skip_serializing_if = "Option::is_none")]
        waiting: Option<StateWaiting>,
        /// It runs.
        #[serde(skip_serializing_if = "Option::is_none")]
        running: Option<StateRunning>,
        /// It ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        terminated: Option<StateTerminated>,
    }
}

object! {
    /// It does not run.
    StateWaiting {
        /// Why, in one word.
        reason: String,
        /// Why, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    }
}

object! {
    /// It runs.
    StateRunning {
        /// Since when.
        started_at: String,
    }
}

object! {
    /// It ended.
    StateTerminated {
        /// 128 + n for signal n.
        exit_code: i32,
        /// The signal that ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<u8>,
        /// How, in one word.
        reason: String,
        /// How, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// When it began.
        #[serde(skip_serializing_if = "Option::is_none")]
        started_at: Option<String>,
        /// When it ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        finished_at: Option<String>,
        /// Which run.
        #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
        container_id: Option<String>,
    }
}

object! {
    /// Something that happened.
    Event {
        /// `Event`.
        kind: String,
        /// `v1`.
        api_version: String,
        /// What every object has.
        metadata: ObjectMeta,
        /// What it happened to.
        involved_object: ObjectReference,
        /// What, in one word.
        reason: String,
        /// What, for people.
        message: String,
        /// Who says so.
        source: EventSource,
        /// When it happened first.
        first_timestamp: String,
        /// When it happened last.
        last_timestamp: String,
        /// How often.
        count: u32,
        /// `Normal` or `Warning`.
        #[serde(rename = "type")]
        severity: String,
    }
}

object! {
    /// Which object is meant.
    ObjectReference {
        /// `Pod` or `Node`.
        kind: String,
        /// `v1`.
        api_version: String,
        /// Its name.
        name: String,
        /// Where the name counts.
        #[serde(skip_serializing_if = "String::is_empty")]
        namespace: String,
        /// The instance.
        #[serde(skip_serializing_if = "String::is_empty")]
        uid: String,
    }
}

object! {
    /// Who says that something happened.
    EventSource {
        /// `roost`.
        component: String,
        /// On which machine.
        host: String,
    }
}

object! {
    /// How a request went, where there is nothing else to say.
    Status {
        /// `Status`.
        kind: String,
        /// `v1`.
        api_version: String,
        /// `Success` or `Failure`.
        status: String,
        /// Why, for people.
        message: String,
        /// Why, in one word.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        details: Option<StatusDetails>,
        /// The status of HTTP.
        code: u16,
    }
}

object! {
    /// What a [`Status`] is about.
    StatusDetails {
        /// Its name.
        name: String,
        /// Its kind, in the plural.
        kind: String,
        /// The instance.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
    }
}

/// Several objects of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// `PodList` or `EventList`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// Which state of everything this is.
    pub metadata: ListMeta,
    /// The objects.
    pub items: Vec<T>,
}

object! {
    /// Which state of everything a list is.
    ListMeta {
        /// To watch from.
        resource_version: String,
    }
}

/// One line of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent<T> {
    /// `ADDED`, `MODIFIED`, `DELETED` or `ERROR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object as it is now; of one that is gone as it was last.
    pub object: T,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

fn is_default<S: Default + PartialEq>(value: &S) -> bool {
    *value == S::default()
}
