//! Values for the tests of this module, and the golden files of what they are on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::record::{
    Accepted, EndCause, Evicted, Eviction, EvictionCause, Exit, Held, KeptRevision, LastRun,
    Losses, ManifestFile, Moment, Outcome, PodRecord, RecordPhase, TerminationCause, Trial,
};
use super::store::{EventKind, EventRecord};
use crate::clock::{BootTime, Millis, WallTime};
use crate::ids::{Attempt, PodId};
use crate::manifest::pod::{
    BackoffPolicy, ContainerSpec, EnvVar, HostNamespaces, HostPathType, PodSpec, Resources,
    RestartPolicy, Volume, VolumeMount, VolumeSource,
};
use crate::manifest::revision::Hash;

pub(super) const AT: WallTime = WallTime(1_795_305_600_123_456_789);

pub(super) fn hash(n: u128) -> Hash {
    Hash::try_from(format!("{n:032x}")).unwrap()
}

pub(super) fn moment() -> Moment {
    Moment { boot: "7c9a6f52-0d1e-4b7e-9d27-8f5a3b1c2d4e".parse().unwrap(), at: BootTime(98_765) }
}

pub(super) fn run(attempt: u32, exit: Exit) -> LastRun {
    let started = !matches!(exit, Exit::NotStarted(_));
    LastRun {
        attempt: Attempt(attempt),
        started_at: started.then_some(AT),
        finished_at: WallTime(AT.0 + 5),
        exit,
        message: None,
    }
}

pub(super) fn exits() -> [Exit; 5] {
    [
        Exit::Code(0),
        Exit::Signal(15),
        Exit::OutOfMemory,
        Exit::NotStarted("no such file: /bin/nöthing".into()),
        Exit::Unknown,
    ]
}

/// An active pod; the same for the same `n`.
pub(crate) fn record(n: u32) -> PodRecord {
    let accepted = |number| Accepted {
        number,
        digest: hash(u128::from(number) << 100),
        shared: hash(u128::MAX - u128::from(number)),
        at: WallTime(AT.0 + number),
    };
    PodRecord {
        id: PodId::from_random(u128::from(n) << 96 | 0x0123_4567_89ab_cdef),
        name: format!("shop/web-{n}").parse().unwrap(),
        source: ManifestFile { directory: "/etc/roost/pods.d".into(), file: "web.yaml".into() },
        accepted: accepted(3),
        history: vec![accepted(1), accepted(2)],
        phase: RecordPhase::Active,
        created_at: AT,
        losses: Losses::default(),
        held: None,
        trial: None,
        successor: None,
        eviction: None,
    }
}

/// What the formats before the third could not say.
pub(super) fn record_on_trial() -> PodRecord {
    PodRecord { trial: Some(Trial { until: moment(), back_to: 2 }), ..record(6) }
}

/// What the formats before the fourth could not say.
pub(super) fn record_with_messages() -> PodRecord {
    let said = |n, text: &str| LastRun { message: Some(text.into()), ..run(n, Exit::Code(3)) };
    let containers = [("a", said(1, "düsk \u{fffd} full\n")), ("b", run(2, Exit::Code(0)))];
    let containers = containers.map(|(name, run)| (name.parse().unwrap(), run)).into();
    let because = Some(EndCause::DeadlineExceeded);
    let phase = RecordPhase::Finished { outcome: Outcome::Failed, because, containers };
    PodRecord { phase, ..record(7) }
}

/// What the formats before the fifth could not say.
pub(super) fn evicted_records() -> [(&'static str, PodRecord); 3] {
    let base = record(7);
    let (cause, message) = (EvictionCause::Disk, "The node was low on resource: x.".to_owned());
    let evicted = Evicted { cause, message, at: AT, count: 2, retry_at: moment() };
    let eviction = Some(Eviction::Evicted(evicted));
    let cause = TerminationCause::Evicted;
    let going = RecordPhase::Terminating { cause, grace: Millis(7), kill_at: moment() };
    let gone =
        RecordPhase::Finished { outcome: Outcome::Failed, because: None, containers: [].into() };
    let back = Some(Eviction::Returned { count: 3, at: moment() });
    [
        (
            "pod-being-evicted",
            PodRecord { phase: going, eviction: eviction.clone(), ..base.clone() },
        ),
        ("pod-evicted", PodRecord { phase: gone, eviction, ..base.clone() }),
        ("pod-back", PodRecord { eviction: back, ..base }),
    ]
}

/// What the first format could not say.
pub(super) fn later_records() -> [(&'static str, PodRecord); 2] {
    let base = record(5);
    let successor = Some(base.history[0].clone());
    let cause = TerminationCause::Restarted;
    let going = RecordPhase::Terminating { cause, grace: Millis(7), kill_at: moment() };
    [
        ("pod-held", PodRecord { held: Some(Held { refused: hash(9), to: 2 }), ..base.clone() }),
        ("pod-restarting", PodRecord { phase: going, successor, ..base }),
    ]
}

/// An earlier revision of the pod of [`record`] 1.
pub(super) fn revision(number: u64) -> KeptRevision {
    let PodRecord { name, source, accepted, .. } = record(1);
    let accepted = Accepted { number, ..accepted };
    KeptRevision { name, accepted, source, spec: Some(Arc::new(spec())) }
}

/// One in every phase.
pub(super) fn records() -> [(&'static str, PodRecord); 4] {
    let finished = exits()
        .into_iter()
        .zip(1..)
        .map(|(exit, n)| (format!("c{n}").parse().unwrap(), run(n, exit)))
        .collect::<BTreeMap<_, _>>();
    let losing = Losses { count: 2, retry_at: Some(moment()) };
    [
        ("pod-active", PodRecord { losses: losing, ..record(1) }),
        (
            "pod-finished",
            PodRecord {
                phase: RecordPhase::Finished {
                    outcome: Outcome::Failed,
                    because: None,
                    containers: finished,
                },
                ..record(2)
            },
        ),
        (
            "pod-terminating",
            PodRecord {
                phase: RecordPhase::Terminating {
                    cause: TerminationCause::Replaced,
                    grace: Millis::from_secs(30),
                    kill_at: moment(),
                },
                ..record(3)
            },
        ),
        (
            "pod-destroying",
            PodRecord {
                phase: RecordPhase::Destroying { cause: TerminationCause::Orphaned },
                ..record(4)
            },
        ),
    ]
}

pub(super) fn event(n: u64) -> EventRecord {
    let pod = record(1);
    EventRecord::once(
        WallTime(AT.0 + n),
        Some((&pod.name, Some(pod.id))),
        EventKind::Warning,
        "BackOff",
        &format!("container web: restart {n} in 8s"),
    )
}

fn scratch() -> Volume {
    let source = VolumeSource::EmptyDir { size_limit: None };
    Volume { name: "scratch".parse().unwrap(), source }
}

pub(crate) fn spec() -> PodSpec {
    PodSpec {
        name: record(1).name,
        labels: BTreeMap::from([("app".into(), "web".into())]),
        node_selector: BTreeMap::new(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: BTreeMap::from([("roost/pids-limit".into(), "64".into())]),
        hostname: "web-1".into(),
        host: HostNamespaces { network: true, ..HostNamespaces::default() },
        share_process_namespace: true,
        restart_policy: RestartPolicy::OnFailure,
        termination_grace: Millis::from_secs(5),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 64,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: vec![
            scratch(),
            Volume {
                name: "fast".parse().unwrap(),
                source: VolumeSource::Memory { size_limit: Some(1 << 20) },
            },
            Volume {
                name: "data".parse().unwrap(),
                source: VolumeSource::HostPath {
                    path: "/srv/data".parse().unwrap(),
                    kind: HostPathType::DirectoryOrCreate,
                },
            },
        ],
        init_containers: vec![],
        containers: vec![container()],
    }
}

fn container() -> ContainerSpec {
    let value = "grüß \"Gott\"\n".into();
    ContainerSpec {
        name: "web".parse().unwrap(),
        image: None,
        command: vec!["/bin/sh".into(), "-c".into(), "exec sleep 1d".into()],
        args: Vec::new(),
        env: vec![EnvVar { name: "GREETING".into(), value, from: None }],
        env_from: Vec::new(),
        working_dir: Some("/srv/data".parse().unwrap()),
        resources: Resources { memory_limit_bytes: Some(1 << 26), ..Resources::default() },
        user: Some(1000),
        group: Some(1000),
        read_only_root: true,
        security: Default::default(),
        ports: vec![],
        liveness: None,
        readiness: None,
        startup: None,
        check: None,
        restart: None,
        lifecycle: Default::default(),
        termination: Default::default(),
        restarts_for: Default::default(),
        mounts: vec![VolumeMount {
            volume: "data".parse().unwrap(),
            path: "/srv/data".parse().unwrap(),
            read_only: false,
            sub_path: None,
            propagation: Default::default(),
        }],
    }
}

/// The golden file of that name, which says what this program's bytes were when their format was
/// new. `fresh` becomes its content if there is none and `ROOST_WRITE_GOLDEN` is set; one that is
/// there is never changed by anyone.
#[track_caller]
pub(crate) fn golden(name: &str, fresh: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("state/golden").join(name);
    if !path.exists() && std::env::var_os("ROOST_WRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, fresh).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
