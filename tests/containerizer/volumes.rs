//! Checks of parts of volumes and of what is mounted on the host later.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use roost::manifest::pod::{Propagation, SubPath};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::*;

pub(super) const CHECKS: &[Check] = checks![
    a_part_of_a_volume_is_mounted_and_made_if_it_is_missing,
    a_file_of_a_volume_can_be_mounted_alone,
    a_link_that_a_container_left_leads_no_part_out_of_its_volume,
    a_link_that_changes_all_the_time_leads_no_part_out_of_its_volume,
    a_part_is_named_by_variables,
    what_is_mounted_on_the_host_later_is_seen_if_asked_for,
    what_is_mounted_in_a_container_is_on_the_host_if_asked_for,
    a_volume_that_the_host_has_for_itself_can_t_be_mounted_on,
];

fn part(path: &str) -> Option<SubPath> {
    Some(SubPath::Path(path.parse().unwrap()))
}

/// Adds a volume of which only a part is mounted.
fn add_part(pod: &mut PodSpec, name: &str, source: VolumeSource, mount: &str, path: &str) {
    add_volume(pod, name, source, mount, false);
    for container in &mut pod.containers {
        container.mounts.last_mut().unwrap().sub_path = part(path);
    }
}

fn a_part_of_a_volume_is_mounted_and_made_if_it_is_missing(scene: &Scene) {
    let mut pod = pod(shell("echo x >/mnt/file; ls -A /mnt; stat -c '%a %u' /mnt"));
    add_part(&mut pod, "v", VolumeSource::EmptyDir { size_limit: None }, "/mnt", "a/./b");
    let mut other = shell("ls /mnt /mnt/a; cat /mnt/a/b/file");
    other.name = "other".parse().unwrap();
    other.mounts = pod.containers[0].mounts.clone();
    other.mounts[0].sub_path = None;
    pod.containers.push(other);
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("file\n777 0\n");
    scene.run_in(&mut native, &pod, 1).expect("/mnt:\na\n\n/mnt/a:\nb\nx\n");
}

fn a_file_of_a_volume_can_be_mounted_alone(scene: &Scene) {
    let host = scene.host_directory("host");
    fs::write(host.join("settings"), "set\n").unwrap();
    fs::write(host.join("secret"), "secret\n").unwrap();
    let mut pod = pod(shell("cat /etc/roost-check/settings; ls /etc/roost-check; echo n >>$F"));
    let value = "/etc/roost-check/settings".to_owned();
    pod.containers[0].env.push(EnvVar { name: "F".to_owned(), value, from: None });
    let kind = HostPathType::Directory;
    add_part(&mut pod, "h", host_path(&host, kind), "/etc/roost-check/settings", "settings");
    pod.containers[0].mounts[0].read_only = true;
    let outcome = scene.run(&pod);
    assert_eq!(outcome.stdout, "set\nsettings\n");
    assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    // A file has no parts.
    let kind = HostPathType::File;
    pod.volumes[0].source = host_path(&host.join("settings"), kind);
    let outcome = scene.run_in(&mut scene.enter(&pod), &pod, 0);
    assert!(outcome.status.ends_with(": Not a directory"), "{outcome:?}");
}

fn a_link_that_a_container_left_leads_no_part_out_of_its_volume(scene: &Scene) {
    let secret = scene.host_directory("secret");
    let script = "ln -s /etc /v/absolute; ln -s ../../.. /v/up; ln -s /proc/self/root /v/magic
        ln -s ../made /v/nowhere; mkdir /v/in; ln -s in /v/inside; ln -s round /v/round
        ln -s ../in/../../secret /v/in/sly; echo done";
    let mut pod = pod(shell(script));
    add_volume(&mut pod, "v", VolumeSource::EmptyDir { size_limit: None }, "/v", false);
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("done\n");
    pod.containers[0].command[2] = "touch /v/x; ls /v".to_owned();
    let out = [
        "absolute",
        "absolute/passwd",
        "up",
        "up/etc",
        "magic/etc",
        "nowhere",
        "nowhere/a",
        "round",
        "round/a",
        "in/sly",
        "inside/sly/a",
    ];
    for path in out {
        pod.containers[0].mounts[0].sub_path = part(path);
        let outcome = scene.run_in(&mut native, &pod, 0);
        assert!(outcome.status.contains("of a volume leads out of it"), "{path}: {outcome:?}");
        assert_eq!(outcome.stdout, "", "{path}");
    }
    assert!(!scene.pod_paths(&pod).data.join("volumes/made").exists());
    assert_eq!(fs::read_dir(secret).unwrap().count(), 0);
    // One that stays inside is followed.
    pod.containers[0].mounts[0].sub_path = part("inside/new");
    scene.run_in(&mut native, &pod, 0).expect("x\n");
    let volume = scene.pod_paths(&pod).volume(&"v".parse().unwrap());
    assert!(volume.join("in/new/x").exists());
}

/// CVE-2021-25741: what was looked at and what is mounted must be the same.
fn a_link_that_changes_all_the_time_leads_no_part_out_of_its_volume(scene: &Scene) {
    const ROUNDS: usize = 60;
    let outside = scene.host_directory("outside");
    fs::create_dir(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/secret"), "").unwrap();
    let volume = scene.host_directory("volume");
    fs::create_dir_all(volume.join("part/sub")).unwrap();
    fs::write(volume.join("part/sub/own"), "").unwrap();
    let climb = format!("{}{}", "../".repeat(16), outside.display());
    symlink(climb, volume.join("link")).unwrap();
    let mut pod = pod(shell("ls -A /v; touch /v/x"));
    let kind = HostPathType::Directory;
    add_part(&mut pod, "v", host_path(&volume, kind), "/v", "part/sub");
    let mut native = scene.enter(&pod);
    let swap = CloneRequest { flags: 0, into_cgroup: None };
    let Cloned::Parent { pidfd, .. } = sys::clone_process(&swap).unwrap() else {
        loop {
            let (a, b) = (volume.join("part"), volume.join("link"));
            renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).ok();
        }
    };
    let (mut found, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let outcome = scene.run_in(&mut native, &pod, 0);
        assert!(!outcome.stdout.contains("secret"), "{outcome:?}");
        match outcome.stdout.contains("own") {
            true => found += 1,
            false => refused += 1,
        }
    }
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    wait(&pidfd);
    assert!(!outside.join("sub/x").exists() && !outside.join("x").exists());
    assert!(found > 0 && refused > 0, "{found} found, {refused} refused");
}

fn a_part_is_named_by_variables(scene: &Scene) {
    let mut pod = pod(shell("echo x >/v/file"));
    let variable =
        |name: &str, value: &str| EnvVar { name: name.into(), value: value.into(), from: None };
    pod.containers[0].env = vec![variable("NAME", "web"), variable("UP", "..")];
    add_volume(&mut pod, "v", VolumeSource::EmptyDir { size_limit: None }, "/v", false);
    let expression = |text: &str| Some(SubPath::Expression(text.to_owned()));
    pod.containers[0].mounts[0].sub_path = expression("logs/$(NAME)-$$");
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("");
    let volume = scene.pod_paths(&pod).volume(&"v".parse().unwrap());
    assert!(volume.join("logs/web-$/file").exists());
    let facts = HostFacts::read(scene.pod_paths(&pod), &[]).unwrap();
    for bad in ["logs/$(GONE)", "a/$(UP)/b", "$(UP)"] {
        pod.containers[0].mounts[0].sub_path = expression(bad);
        let error = plan(&pod, &pod.containers[0], &facts).unwrap_err();
        assert!(error.to_string().starts_with("`subPathExpr` of the mount at /v: "), "{error}");
    }
}

/// A directory of what stands for the host, as systemd sets it up: whoever has it has peers.
fn shared_directory(scene: &Scene) -> PathBuf {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    let host = scene.host_directory("host");
    mount(Some("tmpfs"), &host, Some("tmpfs"), MsFlags::empty(), none).unwrap();
    mount(none, &host, none, MsFlags::MS_SHARED, none).unwrap();
    host
}

fn what_is_mounted_on_the_host_later_is_seen_if_asked_for(scene: &Scene) {
    let host = shared_directory(scene);
    fs::create_dir(host.join("later")).unwrap();
    let fifo = host.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = "read go; mount -t tmpfs later \"$1\" && touch \"$1/new\"; echo done; read go";
    let mut there = Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .arg(host.join("later"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "read go </slave/fifo; ls -A /slave/later /private/later";
    let mut pod = pod(shell(script));
    let source = || host_path(&host, HostPathType::Directory);
    add_volume(&mut pod, "slave", source(), "/slave", false);
    pod.containers[0].mounts[0].propagation = Propagation::HostToContainer;
    add_volume(&mut pod, "private", source(), "/private", false);
    let mut native = scene.enter(&pod);
    let launched = scene.launch(&mut native, &pod, 0);
    launched.gate.open().unwrap();
    assert_eq!(read_all(launched.status), "");
    there.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    let mut line = String::new();
    BufReader::new(there.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    fs::write(&fifo, "go\n").unwrap();
    assert_eq!(read_all(launched.stdout), "/private/later:\n\n/slave/later:\nnew\n");
    there.kill().unwrap();
    there.wait().unwrap();
}

fn what_is_mounted_in_a_container_is_on_the_host_if_asked_for(scene: &Scene) {
    let host = shared_directory(scene);
    for name in ["a", "b"] {
        fs::create_dir(host.join(name)).unwrap();
    }
    // It is still in the host's namespace when the executor has left it.
    let mut there = Command::new("/bin/sh")
        .args(["-c", "read go; cd \"$1\" && ls -A a b", "sh"])
        .arg(&host)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let script = "mount -t tmpfs x /two/a && touch /two/a/two; mount -t tmpfs x /none/b && \
                  touch /none/b/none; ls -A /none/a /slave/a /two/b";
    let mut pod = pod(shell(script));
    pod.containers[0].security.privileged = true;
    let source = || host_path(&host, HostPathType::Directory);
    add_volume(&mut pod, "two", source(), "/two", false);
    pod.containers[0].mounts[0].propagation = Propagation::Bidirectional;
    let mut mounts = pod.containers[0].mounts.clone();
    for (path, propagation) in
        [("/none", Propagation::None), ("/slave", Propagation::HostToContainer)]
    {
        let mut other = mounts[0].clone();
        other.path = path.parse().unwrap();
        other.propagation = propagation;
        mounts.push(other);
    }
    pod.containers[0].mounts = mounts;
    let mut native = scene.enter(&pod);
    let outcome = scene.run_in(&mut native, &pod, 0);
    assert_eq!(
        (&*outcome.stdout, &*outcome.stderr),
        ("/none/a:\n\n/slave/a:\ntwo\n\n/two/b:\n", "")
    );
    there.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    // What is mounted stays: it is the host's.
    assert_eq!(read_all(there.stdout.take().unwrap().into()), "a:\ntwo\n\nb:\n");
    there.wait().unwrap();
}

fn a_volume_that_the_host_has_for_itself_can_t_be_mounted_on(scene: &Scene) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
    let mut pod = pod(shell("true"));
    pod.containers[0].security.privileged = true;
    let host = scene.host_directory("host");
    add_volume(&mut pod, "two", host_path(&host, HostPathType::Directory), "/two", false);
    pod.containers[0].mounts[0].propagation = Propagation::Bidirectional;
    fs::create_dir_all(scene.pod_paths(&pod).data).unwrap();
    let error = enter_pod(&pod, &scene.pod_paths(&pod), Network::New).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("is shared on the host"), "{error}: {source}");
}
