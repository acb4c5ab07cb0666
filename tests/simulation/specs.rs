//! The user: manifests, the directories they are in, and how the agent's watcher reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use roost::clock::Millis;
use roost::ids::ContainerName;
use roost::manifest::desired::{Claim, DesiredState, DirectoryView};
use roost::manifest::pod::{
    BackoffPolicy, ContainerPort, ContainerRestart, ContainerSpec, HostNamespaces, PodSpec,
    Protocol, Resources, RestartPolicy, UsedConfig,
};
use roost::manifest::revision::{Hash, Revision};
use roost::reconciler::{Node, Requests};
use roost::state::record::ManifestFile;

use crate::life;
use crate::world::{Bug, Rng};

/// How a program behaves; it stands in `argv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    /// Whether it can be executed at all.
    pub(crate) starts: bool,
    /// How long its set-up takes.
    pub(crate) setup: u64,
    /// How long it runs by itself.
    pub(crate) lasts: u64,
    /// What it exits with then.
    pub(crate) code: u8,
    /// How long after the stop signal it ends, if it heeds it.
    pub(crate) heeds: Option<u64>,
}

pub(crate) const FOR_EVER: u64 = 1 << 50;

impl Program {
    pub(crate) fn argv(self) -> Vec<String> {
        let heeds = self.heeds.map_or("-".to_owned(), |after| after.to_string());
        let starts = if self.starts { "run" } else { "missing" };
        let Self { setup, lasts, code, .. } = self;
        vec![starts.to_owned(), format!("{setup} {lasts} {code} {heeds}")]
    }

    pub(crate) fn of(container: &ContainerSpec) -> Self {
        let numbers: Vec<Option<u64>> =
            container.command[1].split(' ').map(|word| word.parse().ok()).collect();
        Self {
            starts: container.command[0] == "run",
            setup: numbers[0].expect("written by argv()"),
            lasts: numbers[1].expect("written by argv()"),
            code: u8::try_from(numbers[2].expect("written by argv()")).expect("a code"),
            heeds: numbers[3],
        }
    }

    fn random(rng: &mut Rng) -> Self {
        let setup = match rng.between(0, 9) {
            0 => rng.between(1000, 40_000),
            1 => rng.between(100_000, 200_000),
            _ => rng.between(1, 50),
        };
        let lasts = match rng.between(0, 5) {
            0 => rng.between(1, 500),
            1 => rng.between(500, 60_000),
            2 => rng.between(500_000, 800_000),
            _ => FOR_EVER,
        };
        Self {
            starts: !rng.chance(5),
            setup,
            lasts,
            code: if rng.chance(60) { 0 } else { 1 },
            heeds: if rng.chance(70) { Some(rng.between(1, 3000)) } else { None },
        }
    }
}

pub(crate) fn container(name: &str, program: Program) -> ContainerSpec {
    ContainerSpec {
        name: name.parse().expect("a label"),
        image: None,
        command: program.argv(),
        args: Vec::new(),
        env: vec![],
        env_from: Vec::new(),
        working_dir: None,
        resources: Resources::default(),
        user: Some(0),
        group: Some(0),
        read_only_root: true,
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
    }
}

pub(crate) fn pod(name: &str, containers: Vec<ContainerSpec>) -> PodSpec {
    PodSpec {
        name: name.parse().expect("a name"),
        labels: BTreeMap::new(),
        node_selector: Default::default(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: BTreeMap::new(),
        hostname: name.to_owned(),
        host: HostNamespaces::default(),
        share_process_namespace: false,
        restart_policy: RestartPolicy::Always,
        termination_grace: Millis::from_secs(5),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 100,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: vec![],
        init_containers: vec![],
        containers,
    }
}

pub(crate) const POLICIES: [RestartPolicy; 3] =
    [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
const GRACES: [u64; 5] = [0, 300, 1000, 5000, 30_000];
pub(crate) const POD_NAMES: [&str; 4] = ["a", "b", "c", "d"];
const CONTAINER_NAMES: [&str; 3] = ["x", "y", "z"];
/// Those of sidecars begin with `s`.
const INIT_NAMES: [&str; 4] = ["s0", "i1", "s2", "i3"];
const FILE_NAMES: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

pub(crate) fn random_pod(rng: &mut Rng) -> PodSpec {
    let name = rng.pick(&POD_NAMES).expect("not empty");
    let count = usize::try_from(rng.between(1, 2)).expect("small");
    let containers =
        CONTAINER_NAMES[..count].iter().map(|name| container(name, Program::random(rng))).collect();
    let mut spec = pod(name, containers);
    spec.restart_policy = *rng.pick(&POLICIES).expect("not empty");
    spec.termination_grace = Millis(*rng.pick(&GRACES).expect("not empty"));
    if rng.chance(40) {
        let names: Vec<&str> = INIT_NAMES.into_iter().filter(|_| rng.chance(60)).collect();
        spec.init_containers = names.into_iter().map(|name| init_container(rng, name)).collect();
    }
    for container in &mut spec.containers {
        life::live(rng, container);
        container.restart = life::restart(rng);
    }
    life::of_pod(rng, &mut spec);
    demand(rng, &mut spec);
    spec
}

fn init_container(rng: &mut Rng, name: &str) -> ContainerSpec {
    let mut program = Program::random(rng);
    if name.starts_with('s') {
        let restart = ContainerRestart { policy: RestartPolicy::Always, rules: vec![] };
        let mut sidecar = ContainerSpec { restart: Some(restart), ..container(name, program) };
        if rng.chance(50) {
            life::live(rng, &mut sidecar);
        }
        return sidecar;
    }
    // Most end, and well.
    if rng.chance(90) {
        program.lasts = program.lasts.min(rng.between(1, 3000));
        program.starts = true;
    }
    program.code = u8::from(rng.chance(20));
    ContainerSpec { restart: life::restart(rng), ..container(name, program) }
}

/// What the node of the simulation has: not enough for all pods.
pub(crate) fn node() -> Node {
    let capacity = Requests { cpu_milli: 2200, memory_bytes: u64::MAX };
    let reserve = Requests { cpu_milli: 200, memory_bytes: 0 };
    Node { capacity, reserve, ..Node::default() }
}

/// Lets a pod ask for a part of the node, and sometimes for a port that others want too.
fn demand(rng: &mut Rng, spec: &mut PodSpec) {
    let container = &mut spec.containers[0];
    let milli = *rng.pick(&[0, 0, 300, 700, 1000, 3000]).expect("not empty");
    container.resources.cpu_request_milli = (milli > 0).then_some(milli);
    let number = u16::try_from(rng.between(80, 81)).expect("small");
    container.ports = if rng.chance(25) {
        vec![ContainerPort {
            name: None,
            container_port: number,
            host_port: Some(number),
            host_ip: None,
            protocol: Protocol::Tcp,
        }]
    } else {
        vec![]
    };
}

/// Changes one thing of a pod.
pub(crate) fn edit(rng: &mut Rng, spec: &PodSpec) -> PodSpec {
    let mut spec = spec.clone();
    let which = usize::try_from(rng.next() % spec.containers.len() as u64).expect("small");
    match rng.between(0, 14) {
        11..=14 => life::edit(rng, &mut spec),
        0 | 1 => spec.containers[which].command = Program::random(rng).argv(),
        2 => {
            spec.containers[which].resources.memory_limit_bytes =
                Some(rng.between(1, 3) * 1_000_000);
        }
        3 if rng.chance(50) && !spec.init_containers.is_empty() => {
            let which = usize::try_from(rng.next() % spec.init_containers.len() as u64);
            let container = &mut spec.init_containers[which.expect("small")];
            *container = init_container(rng, container.name.clone().as_str());
        }
        3 if rng.chance(30) && spec.init_containers.iter().all(|c| c.name.as_str() != "s2") => {
            spec.init_containers.push(init_container(rng, "s2"));
        }
        3 => spec.pids_limit = u32::try_from(rng.between(10, 12)).expect("small"),
        4 => spec.hostname = format!("h{}", rng.between(0, 3)),
        9 | 10 => demand(rng, &mut spec),
        5 => spec.restart_policy = *rng.pick(&POLICIES).expect("not empty"),
        6 => spec.termination_grace = Millis(*rng.pick(&GRACES).expect("not empty")),
        7 => {
            let name: ContainerName =
                rng.pick(&CONTAINER_NAMES).expect("not empty").parse().expect("a label");
            if spec.container(&name).is_none() {
                spec.containers.push(container(name.as_str(), Program::random(rng)));
            } else if spec.containers.len() > 1 {
                spec.containers.retain(|c| c.name != name);
            }
        }
        _ => {
            spec.labels.insert("v".to_owned(), rng.between(0, 3).to_string());
        }
    }
    spec
}

#[derive(Debug, Clone)]
pub(crate) enum File {
    Good(Vec<Claimed>),
    Broken,
}

#[derive(Debug, Clone)]
pub(crate) struct Claimed {
    pub(crate) spec: Arc<PodSpec>,
    revision: Revision,
    /// Which ConfigMap its first container takes variables from.
    uses: Option<usize>,
}

/// A ConfigMap: nothing of it is there, or some content.
pub(crate) type Content = Option<u64>;

impl Claimed {
    pub(crate) fn new(spec: PodSpec, uses: Option<usize>) -> Self {
        let revision = Revision::of(&spec);
        Self { spec: Arc::new(spec), revision, uses }
    }

    fn random(rng: &mut Rng) -> Self {
        let spec = random_pod(rng);
        let uses = rng.chance(30).then(|| usize::from(rng.chance(50)));
        Self::new(spec, uses)
    }

    /// What it asks for with these ConfigMaps; `bug` may spoil it.
    fn claim(&self, source: &ManifestFile, configs: &[Content; 2], bug: Option<Bug>) -> Claim {
        let Self { mut spec, mut revision, uses } = self.clone();
        let content = uses.map(|which| configs[which]);
        let lacks = content == Some(None) && bug != Some(Bug::MissingConfigIsEmpty);
        if let Some(Some(content)) = content {
            let content = if bug == Some(Bug::ConfigIsReadOnce) { 0 } else { content };
            let hash = Hash::try_from(format!("{:x}", content + 1)).expect("hexadecimal");
            let first = spec.containers[0].name.clone();
            let config =
                UsedConfig { variables: BTreeMap::from([(first, hash)]), ..UsedConfig::default() };
            spec = Arc::new(PodSpec { config: Some(config), ..(*spec).clone() });
            revision = Revision::of(&spec);
        }
        // The revision stays that of what is written.
        match bug {
            Some(Bug::OrderIsForgotten) => Arc::make_mut(&mut spec).after.clear(),
            Some(Bug::PriorityIsForgotten) => Arc::make_mut(&mut spec).priority = 0,
            Some(_) | None => {}
        }
        let lacks = lacks.then(|| "ConfigMap m".into());
        Claim { source: source.clone(), spec, revision, lacks }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) handle: Vec<u8>,
    pub(crate) readable: bool,
    pub(crate) files: BTreeMap<String, File>,
    /// What was there before it was replaced.
    pub(crate) stash: Option<(Vec<u8>, BTreeMap<String, File>)>,
}

/// The manifest directories, and how they are called in the agent's configuration.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) directories: Vec<(String, Directory)>,
    configs: [Content; 2],
}

impl User {
    pub(crate) fn new() -> Self {
        let directory = |handle| Directory {
            handle: vec![handle],
            readable: true,
            files: BTreeMap::new(),
            stash: None,
        };
        let directories = vec![("/a".to_owned(), directory(1)), ("/b".to_owned(), directory(2))];
        Self { directories, configs: [Some(0), None] }
    }

    pub(crate) fn unread(&self) -> DesiredState {
        let mut desired = DesiredState::default();
        for (name, _) in &self.directories {
            desired.directories.insert(name.clone(), DirectoryView::Unread);
        }
        desired
    }

    /// What the watcher makes of the directories; `bug` may spoil it.
    pub(crate) fn read(&self, bug: Option<Bug>, known: &BTreeMap<String, Vec<u8>>) -> DesiredState {
        let mut desired = DesiredState::default();
        for (name, directory) in &self.directories {
            if !directory.readable {
                let view = DirectoryView::Unavailable { fault: "gone".to_owned() };
                desired.directories.insert(name.clone(), view);
                continue;
            }
            let empty = directory.files.is_empty();
            let handle = match known.get(name) {
                Some(known) if bug == Some(Bug::TrustEmptyReplacedDirectory) => known.clone(),
                Some(_) | None => directory.handle.clone(),
            };
            desired.directories.insert(name.clone(), DirectoryView::Read { handle, empty });
            for (file, content) in &directory.files {
                let source = ManifestFile { directory: name.clone(), file: file.clone() };
                match content {
                    File::Good(claims) => {
                        for claimed in claims {
                            let claim = claimed.claim(&source, &self.configs, bug);
                            let name = claim.spec.name.clone();
                            desired.claims.entry(name).or_default().push(claim);
                        }
                    }
                    File::Broken if bug == Some(Bug::FaultyFileIsAbsent) => {}
                    File::Broken => {
                        desired.faulty.insert(source);
                    }
                }
            }
        }
        desired
    }

    /// One edit, of the kind that people, scripts and accidents make.
    pub(crate) fn change(&mut self, rng: &mut Rng) -> String {
        if rng.chance(12) {
            let which = usize::from(rng.chance(50));
            self.configs[which] = rng.chance(70).then(|| rng.between(0, 5));
            return format!("ConfigMap {which} is {:?}", self.configs[which]);
        }
        let which = usize::from(rng.chance(30));
        let (name, directory) = &mut self.directories[which];
        let file = (*rng.pick(&FILE_NAMES).expect("not empty")).to_owned();
        let present: Vec<String> = directory.files.keys().cloned().collect();
        let other = rng.pick(&present).cloned();
        match (rng.between(0, 19), other) {
            (0..=4, _) | (5..=14, None) => {
                let pod = Claimed::random(rng);
                let said = format!("{name}/{file} asks for {}", pod.spec.name);
                let mut claims = vec![pod];
                if rng.chance(15) {
                    let second = Claimed::random(rng);
                    if second.spec.name != claims[0].spec.name {
                        claims.push(second);
                    }
                }
                directory.files.insert(file, File::Good(claims));
                said
            }
            (5..=10, Some(other)) => {
                if let Some(File::Good(claims)) = directory.files.get_mut(&other) {
                    let which = usize::try_from(rng.next() % claims.len() as u64).expect("small");
                    let Claimed { spec, uses, .. } = &claims[which];
                    claims[which] = Claimed::new(edit(rng, spec), *uses);
                }
                format!("{name}/{other} is edited")
            }
            (11, Some(other)) => {
                if rng.chance(20) {
                    directory.files.values_mut().for_each(|file| *file = File::Broken);
                    return format!("every file of {name} is broken");
                }
                directory.files.insert(other.clone(), File::Broken);
                format!("{name}/{other} is broken")
            }
            (12, Some(other)) => {
                directory.files.remove(&other);
                format!("{name}/{other} is removed")
            }
            (13, Some(other)) => {
                let content = directory.files.remove(&other).expect("it is present");
                let said = format!("{name}/{other} is moved to {file}");
                directory.files.insert(file, content);
                said
            }
            (14, Some(other)) => {
                let content = directory.files.get(&other).expect("it is present").clone();
                let said = format!("{name}/{other} is copied to {file}");
                directory.files.insert(file, content);
                said
            }
            (what, _) => change_directory(what, name, directory, rng),
        }
    }
}

/// What happens to a directory as a whole.
fn change_directory(what: u64, name: &str, directory: &mut Directory, rng: &mut Rng) -> String {
    let new_handle: Vec<u8> = rng.next().to_be_bytes().to_vec();
    match what {
        15 => {
            directory.readable = !directory.readable;
            format!("{name} readable: {}", directory.readable)
        }
        16 => {
            let files = std::mem::take(&mut directory.files);
            let handle = std::mem::replace(&mut directory.handle, new_handle);
            if directory.stash.is_none() {
                directory.stash = Some((handle, files));
            }
            format!("{name} is replaced by an empty one")
        }
        17 => {
            if let Some((handle, files)) = directory.stash.take() {
                directory.handle = handle;
                directory.files = files;
            }
            format!("{name} is put back")
        }
        18 => {
            directory.handle = new_handle;
            format!("{name} is replaced by a copy")
        }
        _ => {
            if rng.chance(50) {
                directory.files.clear();
                format!("{name} is emptied")
            } else {
                directory.files.retain(|_, file| matches!(file, File::Good(_)));
                format!("{name}: faulty files are removed")
            }
        }
    }
}
