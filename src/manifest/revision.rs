//! [`Revision`]: what of a pod changed, as hashes.
//!
//! Three kinds, by what a change costs: what the whole pod shares (a new instance), each
//! container (that container restarts), and what changes in place (nothing restarts). A hash is
//! over the meaning, so a rename of the file, comments, key order and no-op writes change none.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::pod::{
    ContainerPort, ContainerRestart, ContainerSpec, Image, Lifecycle, MessagePolicy, PodSpec,
    Resized, Resources, Role, Volume, VolumeSource,
};
use crate::ids::{ContainerName, VolumeName};
use crate::provisioner::reference::PullPolicy;

/// The first 128 bits of a SHA-256, in hexadecimal on paper.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(u128);

impl Hash {
    /// From the first 128 bits of a digest.
    #[must_use]
    pub(crate) fn from_digest(digest: [u8; 32]) -> Self {
        let (first, _) = digest.split_first_chunk::<16>().expect("32 bytes hold 16");
        Self(u128::from_be_bytes(*first))
    }

    fn of(value: &impl Serialize) -> Self {
        let json = serde_json::to_vec(value).expect("a specification has only string keys");
        Self::from_digest(Sha256::digest(&json).into())
    }
}

impl TryFrom<String> for Hash {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        hash.to_string()
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hashes of one [`PodSpec`]. Two specifications that mean the same have equal revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// What the pod's containers share: a change makes a new instance.
    pub shared: Hash,
    /// Each container: a change restarts that container.
    pub containers: BTreeMap<ContainerName, Hash>,
    /// The rest: a change is applied to what runs.
    pub in_place: Hash,
    /// One hash over all three kinds, kept because every decision compares it.
    digest: Hash,
}

impl Revision {
    /// The revision of a specification.
    #[must_use]
    pub fn of(spec: &PodSpec) -> Self {
        // Every field is named, so that a new one can't be forgotten here.
        let PodSpec {
            name,
            labels,
            annotations,
            hostname,
            host,
            share_process_namespace,
            restart_policy,
            termination_grace,
            active_deadline,
            termination_policy,
            backoff,
            pids_limit,
            resources: of_pod,
            // They come from annotations, which are hashed.
            after: _,
            rollback_after: _,
            priority,
            node_selector,
            security,
            names,
            network,
            image_pull_secrets,
            restart_on_config_change,
            config,
            volumes,
            init_containers,
            containers,
        } = spec;
        let resources: BTreeMap<&ContainerName, &Resources> =
            spec.all_containers().map(|c| (&c.name, &c.resources)).collect();
        let order: Vec<&ContainerName> = containers.iter().map(|c| &c.name).collect();
        let volumes: Vec<Volume> = volumes.iter().map(as_written).collect();
        let shared = Hash::of(&(name, hostname, host, share_process_namespace, volumes));
        // What was done before the others began can't be done otherwise any more.
        let is_over = |c: &&ContainerSpec| spec.role(&c.name) == Some(Role::Init);
        let init: Vec<Hash> = init_containers.iter().filter(is_over).map(own_hash).collect();
        let shared = and(and(shared, "initContainers", &init), "Bidirectional", &two_way(spec));
        let shared = and(and(shared, "securityContext", security), "names", names);
        let shared = and(and(shared, "network", network), "hostPorts", &host_ports(spec));
        let containers: BTreeMap<ContainerName, Hash> =
            spec.all_containers().map(|c| (c.name.clone(), container_hash(c, spec))).collect();
        let ports: BTreeMap<&ContainerName, &Vec<ContainerPort>> = containers_with_ports(spec);
        let first = (labels, annotations, restart_policy, termination_grace, backoff, pids_limit);
        let pulls: BTreeMap<&ContainerName, PullPolicy> =
            spec.all_containers().filter_map(|c| Some((&c.name, c.image.as_ref()?.pull))).collect();
        // Fields that came later are hashed only where they are set: see the test.
        let in_place = if !pulls.is_empty() {
            Hash::of(&(first, (order, resources), (node_selector, ports), pulls))
        } else if node_selector.is_empty() && ports.is_empty() {
            Hash::of(&(first, (order, resources)))
        } else {
            Hash::of(&(first, (order, resources), (node_selector, ports)))
        };
        let init_order: Vec<&ContainerName> = init_containers.iter().map(|c| &c.name).collect();
        let in_place = and(in_place, "initContainers", &init_order);
        let in_place = and(in_place, "restartPolicy", &restarts(spec));
        let in_place = and(in_place, "probes", &probes(spec));
        let in_place = and(in_place, "lifecycle", &lifecycles(spec));
        let in_place = and(in_place, "resources", of_pod);
        let in_place = and(in_place, "terminationMessagePolicy", &message_policies(spec));
        let in_place = and(in_place, "activeDeadlineSeconds", active_deadline);
        let in_place = and(in_place, "roost/termination-policy", termination_policy);
        let in_place = and(in_place, "priority", priority);
        let is_unset =
            image_pull_secrets.is_empty() && !restart_on_config_change && config.is_none();
        let in_place = if is_unset {
            in_place
        } else {
            Hash::of(&(in_place, image_pull_secrets, restart_on_config_change, config))
        };
        let digest = Hash::of(&(shared, &containers, in_place));
        Self { shared, containers, in_place, digest }
    }

    /// One hash over all three kinds: equal exactly when the revisions are.
    #[must_use]
    pub fn digest(&self) -> Hash {
        self.digest
    }
}

/// A hash with a field that came later, which counts where it is set: see the test.
fn and<T: Serialize + Default + PartialEq>(hash: Hash, field: &str, value: &T) -> Hash {
    if *value == T::default() { hash } else { Hash::of(&(hash, field, value)) }
}

fn restarts(spec: &PodSpec) -> BTreeMap<&ContainerName, &ContainerRestart> {
    spec.all_containers().filter_map(|c| Some((&c.name, c.restart.as_ref()?))).collect()
}

fn containers_with_ports(spec: &PodSpec) -> BTreeMap<&ContainerName, &Vec<ContainerPort>> {
    let with_ports = spec.all_containers().filter(|container| !container.ports.is_empty());
    with_ports.map(|container| (&container.name, &container.ports)).collect()
}

/// The volumes that are got from the host when the instance begins.
fn two_way(spec: &PodSpec) -> Vec<&VolumeName> {
    let names = spec.volumes.iter().map(|volume| &volume.name);
    names.filter(|name| spec.is_two_way(name)).collect()
}

/// Ports of the host that lead into the pod: they are made with its network.
fn host_ports(spec: &PodSpec) -> Vec<&ContainerPort> {
    let ports = spec.all_containers().flat_map(|container| &container.ports);
    ports.filter(|port| !spec.host.network && port.host_port.is_some()).collect()
}

fn lifecycles(spec: &PodSpec) -> BTreeMap<&ContainerName, &Lifecycle> {
    let with_some = spec.all_containers().filter(|container| !container.lifecycle.is_empty());
    with_some.map(|container| (&container.name, &container.lifecycle)).collect()
}

fn message_policies(spec: &PodSpec) -> BTreeMap<&ContainerName, MessagePolicy> {
    let all =
        spec.all_containers().map(|container| (&container.name, container.termination.policy));
    all.filter(|(_, policy)| *policy != MessagePolicy::default()).collect()
}

/// Probes and checks of the containers that have some.
fn probes(spec: &PodSpec) -> BTreeMap<&ContainerName, [Option<Hash>; 4]> {
    let hashes = |container: &ContainerSpec| {
        let probes = [&container.liveness, &container.readiness, &container.startup];
        let [liveness, readiness, startup] = probes.map(|probe| probe.as_ref().map(Hash::of));
        [liveness, readiness, startup, container.check.as_ref().map(Hash::of)]
    };
    let all = spec.all_containers().map(|container| (&container.name, hashes(container)));
    all.filter(|(_, hashes)| hashes.iter().any(Option::is_some)).collect()
}

/// A volume without what is found out later.
fn as_written(volume: &Volume) -> Volume {
    let mut volume = volume.clone();
    if let VolumeSource::Image(image) = &mut volume.source {
        image.resolved = None;
    }
    volume
}

/// What a container takes from documents counts only where it is to start anew for it.
fn container_hash(container: &ContainerSpec, pod: &PodSpec) -> Hash {
    let own = own_hash(container);
    // What was done before the others began is not done again for it.
    let is_over = pod.role(&container.name) == Some(Role::Init);
    let resized = if is_over { BTreeMap::new() } else { restarting_resources(container) };
    let own = and(own, "resizePolicy", &resized);
    match &pod.config {
        Some(config) if pod.restart_on_config_change && !is_over => {
            let mounted: BTreeMap<&VolumeName, &Hash> = container
                .mounts
                .iter()
                .filter_map(|mount| config.volumes.get_key_value(&mount.volume))
                .collect();
            let variables = config.variables.get(&container.name);
            if mounted.is_empty() && variables.is_none() {
                return own;
            }
            Hash::of(&(own, variables, mounted))
        }
        Some(_) | None => own,
    }
}

/// The resources a change of which restarts the container: request and limit.
fn restarting_resources(container: &ContainerSpec) -> BTreeMap<Resized, [Option<u64>; 2]> {
    let of = &container.resources;
    let values = |resized: &Resized| match resized {
        Resized::Cpu => [of.cpu_request_milli, of.cpu_limit_milli],
        Resized::Memory => [of.memory_request_bytes, of.memory_limit_bytes],
    };
    container.restarts_for.iter().map(|resized| (*resized, values(resized))).collect()
}

fn own_hash(container: &ContainerSpec) -> Hash {
    let hash = and(written_hash(container), "envFrom", &container.env_from);
    and(hash, "terminationMessagePath", &container.termination.own_path)
}

fn written_hash(container: &ContainerSpec) -> Hash {
    let ContainerSpec {
        name,
        image,
        command,
        args,
        env,
        env_from: _hashed_where_it_is_set,
        working_dir,
        resources: _changes_in_place,
        user,
        group,
        read_only_root,
        security,
        mounts,
        // What a program listens on is its own affair; that the host's ports are free is the
        // agent's.
        ports: _changes_in_place_too,
        liveness: _,
        readiness: _,
        startup: _,
        check: _,
        restart: _changes_in_place_as_well,
        lifecycle: _,
        termination: _hashed_where_it_is_set_too,
        restarts_for: _decides_what_else_is_hashed,
    } = container;
    let rest = (env, working_dir, user, group, read_only_root, mounts);
    let Some(Image { source, pull: _changes_in_place, resolved: _not_written }) = image else {
        // As it was before there were images.
        let (env, working_dir, user, group, read_only_root, mounts) = rest;
        let argv: Vec<&String> = command.iter().chain(args).collect();
        let hash = Hash::of(&(name, argv, env, working_dir, user, group, read_only_root, mounts));
        return and(hash, "securityContext", security);
    };
    and(Hash::of(&(name, source, command, args, rest)), "securityContext", security)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::pod::{BackoffPolicy, HostNamespaces, RestartPolicy};

    /// Records and checkpoints hold hashes that older builds made. If a hash of the same
    /// specification changed with the build, an upgrade would replace every pod, and run-once
    /// containers would run again. So a new field is hashed only where it is not its default.
    #[test]
    fn the_hashes_of_a_specification_are_the_same_in_every_build() {
        let Revision { shared, containers, in_place, digest: _of_the_others } =
            Revision::of(&spec());
        let container = containers.values().next().unwrap().to_string();
        assert_eq!(
            [shared.to_string(), container, in_place.to_string()],
            [
                "a75332b3a2ea8fe5ac6dd68a0d5f610e",
                "f5a002ea005d70de4d2c3375f1ef565c",
                "f6f216924f6c0645d1bc96b99d848cf1",
            ],
        );
    }

    #[test]
    fn another_init_container_makes_a_new_instance_and_another_sidecar_restarts_alone() {
        let mut spec = spec();
        spec.init_containers = vec![container("i"), container("s")];
        let policy = RestartPolicy::Always;
        spec.init_containers[1].restart = Some(ContainerRestart { policy, rules: vec![] });
        let before = Revision::of(&spec);
        let command = vec!["true".to_owned()];
        let changed = |name: &str, resources: bool| {
            let mut spec = spec.clone();
            let container = spec.all_containers_mut().find(|c| c.name.as_str() == name).unwrap();
            if resources {
                container.resources.cpu_limit_milli = Some(5);
            } else {
                container.command = command.clone();
            }
            let after = Revision::of(&spec);
            let others = after.containers.iter().filter(|(n, hash)| before.containers[n] != **hash);
            let others: Vec<String> = others.map(|(name, _)| name.to_string()).collect();
            (after.shared != before.shared, others, after.in_place != before.in_place)
        };
        assert_eq!(changed("i", false), (true, vec!["i".to_owned()], false));
        assert_eq!(changed("i", true), (false, vec![], true));
        assert_eq!(changed("s", false), (false, vec!["s".to_owned()], false));
        assert_eq!(changed("a", false), (false, vec!["a".to_owned()], false));
        let mut swapped = spec.clone();
        swapped.init_containers.swap(0, 1);
        let swapped = Revision::of(&swapped);
        assert_eq!((swapped.shared, swapped.in_place == before.in_place), (before.shared, false));
    }

    #[test]
    fn a_change_of_resources_restarts_a_container_that_asks_for_it_and_no_other() {
        let revision = |restarts: &[Resized], cpu, memory| {
            let mut spec = spec();
            spec.containers[0].restarts_for = restarts.iter().copied().collect();
            spec.containers[0].resources.cpu_limit_milli = Some(cpu);
            spec.containers[0].resources.memory_limit_bytes = Some(memory);
            Revision::of(&spec)
        };
        for (restarts, cpu, memory) in [
            (&[][..], false, false),
            (&[Resized::Cpu], true, false),
            (&[Resized::Memory], false, true),
        ] {
            let before = revision(restarts, 5, 5);
            for (after, restart) in
                [(revision(restarts, 6, 5), cpu), (revision(restarts, 5, 6), memory)]
            {
                assert_eq!(after.containers != before.containers, restart, "{restarts:?}");
                assert_eq!(after.shared, before.shared);
                assert_ne!(after.digest(), before.digest());
            }
        }
        let plain = spec();
        let mut spec = plain.clone();
        spec.resources.memory_limit_bytes = Some(1 << 30);
        let (before, after) = (Revision::of(&plain), Revision::of(&spec));
        assert_eq!((after.shared, &after.containers), (before.shared, &before.containers));
        assert_ne!(after.in_place, before.in_place);
    }

    #[test]
    fn where_a_message_is_left_restarts_and_what_may_be_one_does_not() {
        let before = Revision::of(&spec());
        let mut changed = spec();
        changed.containers[0].termination.policy = MessagePolicy::FallbackToLogsOnError;
        let after = Revision::of(&changed);
        assert_eq!(after.containers, before.containers);
        assert_ne!(after.in_place, before.in_place);
        changed.containers[0].termination.own_path = Some("/tmp/why".parse().unwrap());
        assert_ne!(Revision::of(&changed).containers, before.containers);
    }

    fn container(name: &str) -> ContainerSpec {
        ContainerSpec {
            name: name.parse().unwrap(),
            image: None,
            command: vec!["sleep".to_owned()],
            args: vec!["1".to_owned()],
            env: vec![],
            env_from: vec![],
            working_dir: None,
            resources: Resources::default(),
            user: Some(0),
            group: Some(0),
            read_only_root: false,
            security: Default::default(),
            mounts: vec![],
            ports: vec![],
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

    fn spec() -> PodSpec {
        PodSpec {
            name: "default/p".parse().unwrap(),
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            annotations: BTreeMap::new(),
            hostname: "p".to_owned(),
            host: HostNamespaces::default(),
            share_process_namespace: false,
            restart_policy: RestartPolicy::Always,
            termination_grace: crate::clock::Millis(30_000),
            active_deadline: None,
            termination_policy: Default::default(),
            backoff: BackoffPolicy::default(),
            pids_limit: 4096,
            resources: Default::default(),
            after: Vec::new(),
            priority: 0,
            rollback_after: None,
            node_selector: BTreeMap::new(),
            security: Default::default(),
            names: Default::default(),
            network: Default::default(),
            image_pull_secrets: vec![],
            restart_on_config_change: false,
            config: None,
            volumes: vec![],
            init_containers: vec![],
            containers: vec![container("a")],
        }
    }
}
