use super::*;
use crate::clock::Millis;
use crate::containerizer::native::HostFiles;
use crate::containerizer::native::facts::{Arch, CgroupMode};
use crate::ids::{Attempt, ContainerName, PodId};
use crate::manifest::pod::{
    BackoffPolicy, EnvVar, HostNamespaces, HostPathType, Resources, RestartPolicy, Volume,
    VolumeMount, VolumeSource,
};
use crate::state::paths::Paths;

fn container(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.parse::<ContainerName>().unwrap(),
        image: None,
        command: vec!["sleep".to_owned(), "inf".to_owned()],
        args: Vec::new(),
        env: Vec::new(),
        env_from: Vec::new(),
        working_dir: None,
        resources: Resources::default(),
        user: Some(0),
        group: Some(0),
        read_only_root: false,
        security: Default::default(),
        mounts: Vec::new(),
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

fn pod(containers: Vec<ContainerSpec>) -> PodSpec {
    PodSpec {
        name: "shop/web".parse().unwrap(),
        labels: Default::default(),
        node_selector: Default::default(),
        security: Default::default(),
        names: Default::default(),
        network: Default::default(),
        image_pull_secrets: Vec::new(),
        restart_on_config_change: false,
        config: None,
        annotations: Default::default(),
        hostname: "web".to_owned(),
        host: HostNamespaces::default(),
        share_process_namespace: false,
        restart_policy: RestartPolicy::Always,
        termination_grace: Millis::from_secs(30),
        active_deadline: None,
        termination_policy: Default::default(),
        backoff: BackoffPolicy::default(),
        pids_limit: 100,
        resources: Default::default(),
        after: Vec::new(),
        priority: 0,
        rollback_after: None,
        volumes: Vec::new(),
        init_containers: vec![],
        containers,
    }
}

fn facts() -> HostFacts {
    let paths = Paths::installed();
    let masked_dirs = vec![paths.data.clone(), paths.runtime.clone(), paths.logs.clone()];
    let id = PodId::from_random(1);
    HostFacts {
        paths: paths.pod(id, &"shop/web".parse().unwrap()),
        masked_dirs,
        arch: Arch::X86_64,
        hostname: "node".to_owned(),
        memory_bytes: 1 << 30,
        cgroups: CgroupMode::Unified,
        files: HostFiles::default(),
        attempt: Attempt(3),
        addresses: Vec::new(),
    }
}

/// One line per fact; the seccomp list, which would drown the rest, is in its own test.
fn render(plan: &LaunchPlan) -> String {
    let mut value = serde_json::to_value(plan).unwrap();
    let spec = value["spec"].take();
    let mut lines = vec![format!("rootfs: {}", value["rootfs"]), format!("root: {}", spec["root"])];
    lines.extend(plan.effects.iter().map(|effect| format!("{effect:?}")));
    for mount in spec["mounts"].as_array().unwrap() {
        let options: Vec<&str> =
            mount["options"].as_array().unwrap().iter().map(|o| o.as_str().unwrap()).collect();
        lines.push(format!(
            "mount {} {} on {} ({})",
            mount["type"],
            mount["source"],
            mount["destination"],
            options.join(",")
        ));
    }
    let process = &spec["process"];
    for key in ["args", "env", "cwd", "user", "noNewPrivileges", "oomScoreAdj", "rlimits"] {
        lines.push(format!("{key}: {}", process[key]));
    }
    for (set, names) in process["capabilities"].as_object().unwrap() {
        let mut names: Vec<&str> =
            names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        names.sort_unstable();
        lines.push(format!("{set}: {}", names.join(" ")));
    }
    let linux = &spec["linux"];
    for key in ["namespaces", "maskedPaths", "readonlyPaths"] {
        lines.push(format!("{key}: {}", linux[key]));
    }
    lines.join("\n")
}

#[test]
fn a_plain_container_has_the_host_root_and_a_sandbox() {
    let pod = pod(vec![container("main")]);
    insta::assert_snapshot!(render(&plan(&pod, &pod.containers[0], &facts()).unwrap()));
}

#[test]
fn a_user_with_volumes_and_limits_gets_them() {
    let mut main = container("main");
    main.user = Some(1000);
    main.group = Some(1001);
    main.read_only_root = true;
    main.working_dir = Some("/srv".parse().unwrap());
    main.resources.memory_request_bytes = Some(1 << 28);
    main.env = [("A", "1"), ("PATH", "/opt/bin"), ("A", "2")]
        .map(|(name, value)| EnvVar { name: name.to_owned(), value: value.to_owned(), from: None })
        .into();
    let mount = |volume: &str, path: &str, read_only| VolumeMount {
        volume: volume.parse().unwrap(),
        path: path.parse().unwrap(),
        read_only,
        sub_path: None,
        propagation: Default::default(),
    };
    main.mounts = vec![
        mount("disk", "/data/inner/deep", false),
        mount("memory", "/data", true),
        mount("host", "/mnt", false),
        mount("device", "/dev/kvm", false),
    ];
    let mut pod = pod(vec![main]);
    let volume = |name: &str, source| Volume { name: name.parse().unwrap(), source };
    let host = |path: &str, kind| VolumeSource::HostPath { path: path.parse().unwrap(), kind };
    pod.volumes = vec![
        volume("disk", VolumeSource::EmptyDir { size_limit: None }),
        volume("memory", VolumeSource::Memory { size_limit: Some(1 << 20) }),
        volume("host", host("/var/data", HostPathType::Directory)),
        volume("device", host("/dev/kvm", HostPathType::CharDevice)),
    ];
    insta::assert_snapshot!(render(&plan(&pod, &pod.containers[0], &facts()).unwrap()));
}

#[test]
fn host_namespaces_are_not_made() {
    let mut pod = pod(vec![container("main")]);
    pod.host = HostNamespaces { network: true, pid: true, ipc: true };
    let mut facts = facts();
    facts.cgroups = CgroupMode::Hybrid;
    insta::assert_snapshot!(render(&plan(&pod, &pod.containers[0], &facts).unwrap()));
}

#[test]
fn the_seccomp_list_is_the_same_every_time() {
    let pod = pod(vec![container("main")]);
    let plan = plan(&pod, &pod.containers[0], &facts()).unwrap();
    let seccomp = plan.spec.linux().as_ref().unwrap().seccomp();
    insta::assert_snapshot!(serde_json::to_string(seccomp).unwrap().replace("},{", "},\n{"));
}

#[test]
fn a_plan_survives_being_written_as_a_bundle() {
    let pod = pod(vec![container("main")]);
    let plan = plan(&pod, &pod.containers[0], &facts()).unwrap();
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<LaunchPlan>(&json).unwrap(), plan);
}

#[test]
fn proc_can_not_be_replaced_and_volumes_must_exist() {
    let mut main = container("main");
    main.mounts = vec![VolumeMount {
        volume: "v".parse().unwrap(),
        path: "/proc/sys".parse().unwrap(),
        read_only: false,
        sub_path: None,
        propagation: Default::default(),
    }];
    let mut pod = pod(vec![main]);
    let error = plan(&pod, &pod.containers[0], &facts()).unwrap_err();
    assert!(matches!(error, PlanError::UnknownVolume { .. }));
    pod.volumes = vec![Volume {
        name: "v".parse().unwrap(),
        source: VolumeSource::EmptyDir { size_limit: None },
    }];
    let error = plan(&pod, &pod.containers[0], &facts()).unwrap_err();
    assert!(matches!(error, PlanError::MountPathReserved { below: "/proc", .. }));
}

#[test]
fn scores_for_the_out_of_memory_killer_follow_quality_of_service() {
    let score = |request: Option<u64>, limit: Option<u64>, cpu: Option<u64>| {
        let mut main = container("main");
        main.resources = Resources {
            cpu_request_milli: None,
            cpu_limit_milli: cpu,
            memory_request_bytes: request,
            memory_limit_bytes: limit,
            ..Resources::default()
        };
        let pod = pod(vec![main]);
        let plan = plan(&pod, &pod.containers[0], &facts()).unwrap();
        plan.spec.process().as_ref().unwrap().oom_score_adj().unwrap()
    };
    assert_eq!(score(None, None, None), 1000);
    assert_eq!(score(None, Some(1 << 28), Some(100)), -997);
    assert_eq!(score(Some(1 << 27), Some(1 << 28), Some(100)), 875);
    assert_eq!(score(Some(1 << 29), None, None), 500);
    assert_eq!(score(Some(1), None, None), 999);
    assert_eq!(score(Some(1 << 40), None, None), 3);
}
