//! Checks of `securityContext`, of names and of volumes that outlive their pods.

use std::os::unix::fs::{MetadataExt, chown};

use roost::manifest::pod::{
    Capabilities, DnsBase, Domain, FsGroupChange, HostAlias, SeccompProfile,
};

use super::*;

pub(super) const CHECKS: &[Check] = checks![
    capabilities_are_added_and_dropped,
    a_capability_brings_the_system_calls_that_it_is_for,
    a_privileged_container_has_everything,
    set_user_id_programs_work_only_if_asked_for,
    a_filter_can_be_left_out_or_be_a_file_of_the_node,
    the_groups_of_a_pod_are_those_of_its_processes,
    volumes_of_the_pod_belong_to_its_group_and_those_of_the_host_do_not,
    settings_of_the_kernel_are_the_pods_own,
    a_setting_that_the_kernel_refuses_is_named,
    aliases_and_dns_settings_are_in_the_files,
    the_full_name_can_be_the_name_of_the_host,
    a_claim_outlives_its_pod_and_is_shared,
];

fn capabilities(names: &[&str]) -> Capabilities {
    Capabilities {
        all: names.contains(&"ALL"),
        names: names.iter().filter_map(|name| name.parse().ok()).collect(),
    }
}

/// The sets that the kernel says, and whether there is a filter.
const STATUS: &str = "grep -E '^(CapPrm|CapEff|CapBnd|NoNew|Seccomp:)' /proc/self/status \
                      | tr '\\t' ' ' | tr '\\n' ' '";

fn capabilities_are_added_and_dropped(scene: &Scene) {
    let mut pod = pod(shell(STATUS));
    let mut native = scene.enter(&pod);
    pod.containers[0].security.drop = capabilities(&["ALL"]);
    scene.run_in(&mut native, &pod, 0).expect(
        "CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 \
         NoNewPrivs: 1 Seccomp: 2 ",
    );
    pod.containers[0].security.add = capabilities(&["NET_ADMIN", "CHOWN"]);
    scene.run_in(&mut native, &pod, 0).expect(
        "CapPrm: 0000000000001001 CapEff: 0000000000001001 CapBnd: 0000000000001001 \
         NoNewPrivs: 1 Seccomp: 2 ",
    );
    // Another user has none, as in Kubernetes.
    pod.containers[0].user = Some(1234);
    scene.run_in(&mut native, &pod, 0).expect(
        "CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000001001 \
         NoNewPrivs: 1 Seccomp: 2 ",
    );
}

fn a_capability_brings_the_system_calls_that_it_is_for(scene: &Scene) {
    let mut pod = pod(shell("mount -t tmpfs t /tmp 2>/dev/null && echo mounted; true"));
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("");
    pod.containers[0].security.add = capabilities(&["SYS_ADMIN"]);
    scene.run_in(&mut native, &pod, 0).expect("mounted\n");
}

fn a_privileged_container_has_everything(scene: &Scene) {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let set = |name: &str| own.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let (permitted, bounding) = (set("CapPrm:"), set("CapBnd:"));
    // A device that no other container has.
    let mut devices = ["kmsg", "loop-control", "fuse", "kvm", "null"].into_iter();
    let device = devices.find(|name| Path::new("/dev").join(name).exists()).unwrap();
    let script = format!(
        "{STATUS}; mount -t tmpfs t /tmp && echo mounted; test -c /dev/{device} && echo device
         awk '$2 == \"/sys\" {{ print substr($4, 1, 2) }}' /proc/self/mounts | tail -1
         echo renamed >/proc/sys/kernel/hostname; cat /proc/sys/kernel/hostname"
    );
    let mut pod = pod(shell(&script));
    pod.containers[0].security.privileged = true;
    scene.run(&pod).expect(&format!(
        "CapPrm: {permitted} CapEff: {permitted} CapBnd: {bounding} NoNewPrivs: 0 Seccomp: 0 \
         mounted\ndevice\nrw\nrenamed\n"
    ));
}

fn set_user_id_programs_work_only_if_asked_for(scene: &Scene) {
    let mut pod = pod(shell(
        "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '
         awk '$2 == \"/\" && $4 ~ /nosuid/ { print \"nosuid\" }' /proc/self/mounts | tail -1",
    ));
    pod.containers[0].user = Some(1234);
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("NoNewPrivs: 1\nSeccomp: 2\nnosuid\n");
    pod.containers[0].security.allow_escalation = true;
    // The filter is on all the same.
    scene.run_in(&mut native, &pod, 0).expect("NoNewPrivs: 0\nSeccomp: 2\n");
}

fn a_filter_can_be_left_out_or_be_a_file_of_the_node(scene: &Scene) {
    let mut pod =
        pod(shell("grep Seccomp: /proc/self/status | tr '\\t' ' '; mkdir /tmp/x || true"));
    let mut native = scene.enter(&pod);
    pod.containers[0].security.seccomp = SeccompProfile::Unconfined;
    scene.run_in(&mut native, &pod, 0).expect("Seccomp: 0\n");
    let localhost = |file: &str| SeccompProfile::Localhost(file.parse().unwrap());
    pod.containers[0].security.seccomp = localhost("profiles/no-mkdir.json");
    let profiles = scene.pod_paths(&pod).seccomp_profiles().unwrap();
    fs::create_dir_all(profiles.join("profiles")).unwrap();
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"],
        "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}"#;
    fs::write(profiles.join("profiles/no-mkdir.json"), text).unwrap();
    let outcome = scene.run_in(&mut native, &pod, 0);
    assert_eq!(outcome.stdout, "Seccomp: 2\n");
    assert!(outcome.stderr.contains("not supported"), "{outcome:?}");
    pod.containers[0].security.seccomp = localhost("gone.json");
    let mut facts = HostFacts::read(scene.pod_paths(&pod), &[]).unwrap();
    facts.read_files(&pod, &pod.containers[0]);
    let error = plan(&pod, &pod.containers[0], &facts).unwrap_err().to_string();
    assert!(error.contains("seccomp/gone.json: No such file"), "{error}");
}

fn the_groups_of_a_pod_are_those_of_its_processes(scene: &Scene) {
    let mut pod = pod(shell("id -G"));
    (pod.containers[0].user, pod.containers[0].group) = (Some(1234), Some(4321));
    pod.security.groups = vec![50, 60];
    pod.security.fs_group = Some(70);
    scene.run(&pod).expect("4321 50 60 70\n");
}

fn volumes_of_the_pod_belong_to_its_group_and_those_of_the_host_do_not(scene: &Scene) {
    let host = scene.host_directory("host");
    fs::set_permissions(&host, fs::Permissions::from_mode(0o700)).unwrap();
    let script =
        "stat -c '%g %a' /v /m; touch /v/x /m/x && stat -c %g /v/x; ls /h 2>&1 | head -c 3";
    let mut pod = pod(shell(script));
    (pod.containers[0].user, pod.containers[0].group) = (Some(1234), Some(4321));
    pod.security.fs_group = Some(70);
    add_volume(&mut pod, "v", VolumeSource::EmptyDir { size_limit: None }, "/v", false);
    add_volume(&mut pod, "m", VolumeSource::Memory { size_limit: None }, "/m", false);
    add_volume(&mut pod, "h", host_path(&host, HostPathType::Directory), "/h", false);
    scene.run(&pod).expect("70 2777\n70 2777\n70\nls:");
    assert_eq!(fs::metadata(&host).unwrap().gid(), 0);
}

fn settings_of_the_kernel_are_the_pods_own(scene: &Scene) {
    let read = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap();
    let before = (read("net/ipv4/ip_unprivileged_port_start"), read("kernel/msgmax"));
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    let mut pod = pod(shell(script));
    let all = [("net.ipv4.ip_unprivileged_port_start", "17"), ("kernel.msgmax", "4711")];
    pod.security.sysctls =
        all.map(|(name, value)| (name.parse().unwrap(), value.to_owned())).into();
    // The host's are looked at from outside.
    let mut host = std::process::Command::new("/bin/sh")
        .args(["-c", "read go; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    scene.run(&pod).expect("17\n4711\n");
    drop(host.stdin.take());
    let mut text = String::new();
    host.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    host.wait().unwrap();
    assert_eq!(text, before.0);
    assert_ne!(before.1, "4711\n");
}

fn a_setting_that_the_kernel_refuses_is_named(scene: &Scene) {
    for (name, value) in [("net.ipv4.gone", "1"), ("net.ipv4.tcp_syncookies", "many")] {
        let mut pod = pod(shell("true"));
        pod.security.sysctls = [(name.parse().unwrap(), value.to_owned())].into();
        fs::create_dir_all(scene.pod_paths(&pod).data).unwrap();
        let error = enter_pod(&pod, &scene.pod_paths(&pod), Network::New).unwrap_err();
        let wanted = format!("setting `{name}` of the kernel to `{value}` failed");
        assert_eq!(error.to_string(), wanted);
    }
}

fn aliases_and_dns_settings_are_in_the_files(scene: &Scene) {
    let script = "tail -2 /etc/hosts; cat /etc/resolv.conf; touch /etc/hosts 2>&1 | head -c 5";
    let mut pod = pod(shell(script));
    pod.names.aliases =
        vec![HostAlias { ip: "10.1.2.3".parse().unwrap(), hostnames: vec!["db".to_owned()] }];
    pod.names.dns.base = DnsBase::Nothing;
    pod.names.dns.nameservers = vec!["10.0.0.53".parse().unwrap()];
    pod.names.dns.searches = vec!["lan".to_owned()];
    let expected =
        "# `hostAliases` of the pod.\n10.1.2.3\tdb\nnameserver 10.0.0.53\nsearch lan\ntouch";
    scene.run(&pod).expect(expected);
}

fn the_full_name_can_be_the_name_of_the_host(scene: &Scene) {
    let mut pod = pod(shell("cat /proc/sys/kernel/hostname; echo $HOSTNAME"));
    let name = "sub".to_owned();
    pod.names.domain = Domain::Subdomain { name, in_hostname: true };
    let full = "pod-of-check.sub.check.svc.cluster.local";
    scene.run(&pod).expect(&format!("{full}\n{full}\n"));
}

fn a_claim_outlives_its_pod_and_is_shared(scene: &Scene) {
    let claim = |read_only| VolumeSource::Claim { claim: "data".parse().unwrap(), read_only };
    let mut first = pod(shell("echo kept >/data/file; mkdir /data/d"));
    add_volume(&mut first, "v", claim(false), "/data", false);
    scene.run(&first).expect("");
    let data = scene.pod_paths(&first).data;
    nix::mount::umount(&data.join("shm")).unwrap();
    fs::remove_dir_all(data).unwrap();
    let place = scene.paths().data.join("claims/check/data");
    assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "kept\n");
    // Another pod of the namespace, which may only read and whose group it becomes.
    chown(place.join("d"), None, Some(9)).unwrap();
    let mut second =
        pod(shell("cat /data/file; stat -c %g /data/d; touch /data/x 2>&1 | head -c 5"));
    second.name = "check/other".parse().unwrap();
    second.security.fs_group = Some(70);
    second.security.fs_group_change = FsGroupChange::Always;
    add_volume(&mut second, "v", claim(true), "/data", false);
    scene.run(&second).expect("kept\n70\ntouch");
}
