//! A world that carries out the plans of the reconciler perfectly.

use super::super::*;
use crate::clock::Millis;
use crate::executor::protocol::{ContainerReport, ContainerStatus, Goal};
use crate::manifest::desired::{Claim, DirectoryView};
use crate::manifest::pod::{
    BackoffPolicy, ContainerSpec, HostNamespaces, Resources, RestartPolicy,
};
use crate::state::record::{Accepted, KeptRevision, Losses, ManifestFile, RecordPhase};

pub(in crate::reconciler) const BUILD: &str = "b1";

pub(in crate::reconciler) fn file(directory: &str, file: &str) -> ManifestFile {
    ManifestFile { directory: directory.to_owned(), file: file.to_owned() }
}

pub(in crate::reconciler) fn pod(name: &str, hostname: &str) -> PodSpec {
    let container = ContainerSpec {
        name: "a".parse().unwrap(),
        image: None,
        command: vec!["sleep".to_owned()],
        args: Vec::new(),
        env: vec![],
        env_from: Vec::new(),
        working_dir: None,
        resources: Resources::default(),
        user: Some(0),
        group: Some(0),
        read_only_root: false,
        security: Default::default(),
        mounts: vec![],
        ports: Vec::new(),
        liveness: None,
        readiness: None,
        startup: None,
        check: None,
        restart: None,
        lifecycle: Default::default(),
        termination: Default::default(),
        restarts_for: Default::default(),
    };
    PodSpec {
        name: name.parse().unwrap(),
        labels: BTreeMap::new(),
        node_selector: Default::default(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: BTreeMap::new(),
        hostname: hostname.to_owned(),
        host: HostNamespaces::default(),
        share_process_namespace: false,
        restart_policy: RestartPolicy::Always,
        termination_grace: Millis(5000),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 10,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: vec![],
        init_containers: vec![],
        containers: vec![container],
    }
}

pub(in crate::reconciler) fn labelled(value: &str) -> PodSpec {
    let mut spec = pod("p", "p");
    spec.labels.insert("v".to_owned(), value.to_owned());
    spec
}

/// What a directory asks for, and what is there; [`World::act`] carries plans out perfectly.
pub(in crate::reconciler) struct World {
    pub(in crate::reconciler) desired: DesiredState,
    pub(in crate::reconciler) actual: ActualState,
    pub(in crate::reconciler) now: u64,
    pub(in crate::reconciler) ids: u128,
    pub(in crate::reconciler) kept: Vec<KeptRevision>,
}

impl World {
    pub(in crate::reconciler) fn new() -> Self {
        let mut world = Self {
            desired: DesiredState::default(),
            actual: ActualState {
                boot: "boot".parse().unwrap(),
                executor_build: BUILD.to_owned(),
                directories: BTreeMap::from([("/m".to_owned(), vec![1])]),
                node: Node::default(),
                under_way: BTreeMap::new(),
                images: Images::default(),
                asked: BTreeMap::new(),
                pressure: Default::default(),
                verdicts: Default::default(),
                pods: BTreeMap::new(),
            },
            now: 1000,
            ids: 0,
            kept: Vec::new(),
        };
        world.see("/m", 1, false);
        world
    }

    /// With the pod `p` of `/m/1`, running.
    pub(in crate::reconciler) fn running() -> Self {
        let mut world = Self::new();
        world.claim("1", &pod("p", "p"));
        world.settle();
        world
    }

    pub(in crate::reconciler) fn see(&mut self, directory: &str, handle: u8, empty: bool) {
        let view = DirectoryView::Read { handle: vec![handle], empty };
        self.desired.directories.insert(directory.to_owned(), view);
    }

    pub(in crate::reconciler) fn claim_in(&mut self, source: ManifestFile, spec: &PodSpec) {
        let claims = self.desired.claims.entry(spec.name.clone()).or_default();
        claims.retain(|claim| claim.source != source);
        let revision = Revision::of(spec);
        claims.push(Claim { source, spec: Arc::new(spec.clone()), revision, lacks: None });
        claims.sort_by(|a, b| a.source.cmp(&b.source));
    }

    pub(in crate::reconciler) fn claim(&mut self, name: &str, spec: &PodSpec) {
        self.claim_in(file("/m", name), spec);
    }

    /// Carries a plan out up to the action that is meant, and that one too.
    #[track_caller]
    pub(in crate::reconciler) fn act_until(&mut self, is_it: impl Fn(&Action) -> bool) {
        for _ in 0..40 {
            for step in self.plan().work.into_values().flatten() {
                let found = is_it(&step.action);
                self.act(step.action);
                if found {
                    return;
                }
            }
        }
        panic!("it did not come: {:?}", self.plan());
    }

    pub(in crate::reconciler) fn unclaim(&mut self) {
        self.desired.claims.clear();
    }

    pub(in crate::reconciler) fn plan(&self) -> Plan {
        let now = Now { boot: BootTime(self.now), wall: WallTime(5) };
        let plan = reconcile(&self.desired, &self.actual, now);
        assert!(plan.wake_at.is_none_or(|at| at > now.boot), "{plan:?}");
        plan
    }

    /// The only action, and why.
    #[track_caller]
    pub(in crate::reconciler) fn only(&self) -> (Action, Reason) {
        let plan = self.plan();
        let steps: Vec<Step> = plan.work.into_values().flatten().collect();
        let [step] = steps.as_slice() else { panic!("not one step: {steps:?}") };
        (step.action.clone(), step.reason.clone())
    }

    #[track_caller]
    pub(in crate::reconciler) fn nothing(&self) {
        let plan = self.plan();
        assert!(plan.work.is_empty(), "{:?}", plan.work);
    }

    pub(in crate::reconciler) fn one(&mut self) -> &mut ActualPod {
        assert_eq!(self.actual.pods.len(), 1);
        self.actual.pods.values_mut().next().unwrap()
    }

    pub(in crate::reconciler) fn record(&mut self) -> &mut PodRecord {
        self.one().record.as_mut().unwrap()
    }

    pub(in crate::reconciler) fn id(&self) -> PodId {
        *self.actual.pods.keys().next().unwrap()
    }

    pub(in crate::reconciler) fn settle(&mut self) {
        for _ in 0..40 {
            let plan = self.plan();
            self.actual.directories.extend(plan.remember);
            if plan.work.is_empty() {
                return;
            }
            for step in plan.work.into_values().flatten() {
                self.act(step.action);
            }
        }
        panic!("no rest: {:?}", self.plan());
    }

    pub(in crate::reconciler) fn act(&mut self, action: Action) {
        let pods = &mut self.actual.pods;
        match action {
            Action::Create(creation) => {
                self.ids += 1;
                let Creation { source, spec, number, history, held, trial, eviction, is_first } =
                    *creation;
                self.kept.retain(|kept| !is_first || kept.name != spec.name);
                let mut record = new_record(PodId::from_random(self.ids), source, &spec);
                record.accepted.number = number;
                (record.history, record.held, record.trial) = (history, held, trial);
                record.eviction = eviction;
                pods.insert(record.id, actual_pod(record, &spec));
            }
            Action::Retire { record, keeps, successor } => {
                self.kept.extend(keeps);
                let pod = pods.get_mut(&record.id).unwrap();
                pod.successor = successor;
                pod.record = Some(*record);
            }
            Action::Accept { record, spec, before } => {
                self.kept.extend(before.map(|before| *before));
                let pod = pods.get_mut(&record.id).unwrap();
                pod.spec = Some(stored(&spec));
                pod.record = Some(*record);
            }
            Action::Record(record) => {
                let pod = pods.get_mut(&record.id).unwrap();
                pod.adoptable = None;
                pod.record = Some(*record);
            }
            Action::NoteLoss(record) => {
                let pod = pods.get_mut(&record.id).unwrap();
                pod.executor = ExecutorState::Absent;
                pod.record = Some(*record);
            }
            Action::Start(id) => {
                let pod = pods.get_mut(&id).unwrap();
                pod.has_runtime = true;
                pod.executor = connected(None);
            }
            Action::SetSpec { id, goal } => {
                let pod = pods.get_mut(&id).unwrap();
                pod.executor = match goal {
                    Goal::Run => connected(Some(report(pod.record.as_ref().unwrap(), goal))),
                    Goal::Stop { .. } => ExecutorState::Absent,
                };
            }
            Action::Upgrade(id) => pods.get_mut(&id).unwrap().executor = connected(None),
            Action::Kill(id) => pods.get_mut(&id).unwrap().executor = ExecutorState::Absent,
            Action::Release(id) => pods.get_mut(&id).unwrap().has_runtime = false,
            Action::Destroy(id) => {
                let pod = pods.get_mut(&id).unwrap();
                pod.executor = ExecutorState::Absent;
                (pod.spec, pod.has_runtime) = (None, false);
                if pod.record.is_none() {
                    pods.remove(&id);
                }
            }
            Action::Forget { id, revisions_of } => {
                self.kept.retain(|kept| Some(&kept.name) != revisions_of.as_ref());
                pods.remove(&id);
            }
        }
    }
}

pub(in crate::reconciler) fn stored(spec: &PodSpec) -> StoredSpec {
    StoredSpec { spec: Arc::new(spec.clone()), revision: Revision::of(spec) }
}

pub(in crate::reconciler) fn new_record(
    id: PodId,
    source: ManifestFile,
    spec: &PodSpec,
) -> PodRecord {
    let revision = Revision::of(spec);
    let (digest, shared) = (revision.digest(), revision.shared);
    PodRecord {
        id,
        name: spec.name.clone(),
        source,
        accepted: Accepted { number: 1, digest, shared, at: WallTime(0) },
        history: vec![],
        phase: RecordPhase::Active,
        created_at: WallTime(0),
        losses: Losses::default(),
        held: None,
        trial: None,
        successor: None,
        eviction: None,
    }
}

pub(in crate::reconciler) fn actual_pod(record: PodRecord, spec: &PodSpec) -> ActualPod {
    ActualPod {
        record: Some(record),
        adoptable: None,
        spec: Some(stored(spec)),
        successor: None,
        executor: ExecutorState::Absent,
        has_runtime: false,
    }
}

pub(in crate::reconciler) fn connected(report: Option<PodReport>) -> ExecutorState {
    ExecutorState::Connected { build: BUILD.to_owned(), refused_upgrade: false, report }
}

pub(in crate::reconciler) fn report(record: &PodRecord, goal: Goal) -> PodReport {
    let Accepted { number, digest, .. } = record.accepted;
    PodReport {
        number,
        digest,
        goal,
        finished: None,
        because: None,
        ready_since: None,
        initializing: false,
        containers: vec![],
    }
}

/// A report of an executor on what was accepted, with one container that stands there.
pub(in crate::reconciler) fn report_on(record: &PodRecord, status: ContainerStatus) -> PodReport {
    let container = ContainerReport {
        name: "a".parse().unwrap(),
        attempt: None,
        status,
        last: None,
        update_fault: None,
        health: None,
    };
    PodReport { containers: vec![container], ..report(record, Goal::Run) }
}

pub(in crate::reconciler) fn running() -> ContainerStatus {
    ContainerStatus::Running { pid: 1, started_at: WallTime(0) }
}
