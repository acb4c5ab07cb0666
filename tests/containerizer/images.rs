//! Checks of containers with an image: its layers are made by hand, and its programs are the
//! host's, mounted as a volume.

use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;

use roost::ids::Attempt;
use roost::manifest::pod::{DnsBase, GroupsPolicy, Image, ResolvedImage};
use roost::provisioner::reference::PullPolicy;
use roost::provisioner::store::LayerId;

use super::*;

pub(super) const CHECKS: &[Check] = &[
    ("the_layers_of_an_image_lie_on_each_other", the_layers_of_an_image_lie_on_each_other),
    ("what_a_run_writes_is_gone_in_the_next", what_a_run_writes_is_gone_in_the_next),
    ("a_read_only_image_has_its_mount_points", a_read_only_image_has_its_mount_points),
    ("a_user_of_a_read_only_image_leaves_a_message", a_user_of_a_read_only_image_leaves_a_message),
    ("an_image_says_what_is_run_how_and_by_whom", an_image_says_what_is_run_how_and_by_whom),
    ("the_links_of_an_image_do_not_lead_out", the_links_of_an_image_do_not_lead_out),
    ("the_files_of_an_image_can_be_a_volume", the_files_of_an_image_can_be_a_volume),
    ("a_part_of_an_image_can_be_a_volume", a_part_of_an_image_can_be_a_volume),
    ("an_image_that_would_run_as_root_is_refused", an_image_that_would_run_as_root_is_refused),
    ("groups_of_the_image_count_or_not", groups_of_the_image_count_or_not),
    ("names_are_looked_up_in_files_of_the_pods_own", names_are_looked_up_in_files_of_the_pods_own),
    (
        "an_image_has_set_user_id_programs_if_asked_for",
        an_image_has_set_user_id_programs_if_asked_for,
    ),
    ("a_hundred_and_twenty_layers_are_no_problem", a_hundred_and_twenty_layers_are_no_problem),
    ("where_no_overlay_is_possible_it_is_a_copy", where_no_overlay_is_possible_it_is_a_copy),
    ("a_layer_that_is_missing_is_named", a_layer_that_is_missing_is_named),
];

/// A name for the layer of that number.
fn layer_id(number: usize) -> LayerId {
    let digits = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = "a".repeat(18);
    text.push(char::from(digits[number / 32]));
    text.push(char::from(digits[number % 32]));
    text.parse().unwrap()
}

impl Scene {
    /// Layers of the image, each filled by a function; the lowest has what every image here has.
    fn image(&self, fill: &[&dyn Fn(&Path)]) -> ResolvedImage {
        let all = self.paths().images().join("layers");
        let base = |files: &Path| {
            for name in ["bin", "lib", "lib64"] {
                symlink(format!("usr/{name}"), files.join(name)).unwrap();
            }
            fs::create_dir(files.join("etc")).unwrap();
            let passwd = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n";
            fs::write(files.join("etc/passwd"), passwd).unwrap();
            fs::write(files.join("etc/group"), "video:x:44:app\n").unwrap();
        };
        let base: &dyn Fn(&Path) = &base;
        let mut layers = Vec::new();
        for (number, fill) in [base].iter().chain(fill).enumerate() {
            let id = layer_id(number);
            let files = all.join(id.as_str()).join("fs");
            fs::create_dir_all(&files).unwrap();
            fs::set_permissions(&files, fs::Permissions::from_mode(0o755)).unwrap();
            fill(&files);
            layers.push(id);
        }
        let digest = format!("sha256:{}", "a".repeat(64));
        ResolvedImage {
            id: digest.parse().unwrap(),
            manifest: digest.parse().unwrap(),
            layers,
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            user: String::new(),
            working_dir: None,
            stop_signal: None,
        }
    }
}

fn named(resolved: ResolvedImage) -> Image {
    let resolved = Some(Arc::new(resolved));
    Image { source: "check".parse().unwrap(), pull: PullPolicy::IfNotPresent, resolved }
}

/// A pod of one with that image, and the programs of the host.
fn of_image(resolved: ResolvedImage, script: &str) -> PodSpec {
    let mut container =
        if script.is_empty() { program(&[]) } else { program(&["/bin/sh", "-c", script]) };
    (container.user, container.group) = (None, None);
    container.image = Some(named(resolved));
    let mut pod = pod(container);
    add_volume(
        &mut pod,
        "usr",
        host_path(Path::new("/usr"), HostPathType::Directory),
        "/usr",
        true,
    );
    pod
}

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn the_layers_of_an_image_lie_on_each_other(scene: &Scene) {
    let lower = |files: &Path| {
        write(files.join("a"), "lower");
        write(files.join("b"), "lower");
    };
    let upper = |files: &Path| {
        write(files.join("b"), "upper");
        fs::set_permissions(files, fs::Permissions::from_mode(0o751)).unwrap();
    };
    let script = "cat /a /b; stat -c ' %a' /; ls /; id -u; grep -c . /proc/self/mounts >/dev/null";
    let outcome = scene.run(&of_image(scene.image(&[&lower, &upper]), script));
    outcome.expect("lowerupper 751\na\nb\nbin\ndev\netc\nlib\nlib64\nproc\nrun\nsys\nusr\n0\n");
    // Whoever launched it has nothing of it.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("/writable"), "{mounts}");
}

fn what_a_run_writes_is_gone_in_the_next(scene: &Scene) {
    let keep = |files: &Path| write(files.join("kept"), "as it was");
    let script = "ls /new 2>/dev/null; cat /kept; echo changed >/kept; mkdir /new; echo x >/new/x";
    let pod = of_image(scene.image(&[&keep]), script);
    let mut native = scene.enter(&pod);
    for _ in 0..2 {
        scene.run_in(&mut native, &pod, 0).expect("as it was");
    }
    let layers = scene.paths().images().join("layers");
    let kept = layers.join(layer_id(1).as_str()).join("fs/kept");
    assert_eq!(fs::read_to_string(kept).unwrap(), "as it was");
}

fn a_read_only_image_has_its_mount_points(scene: &Scene) {
    let script =
        "touch /x /etc/x 2>/dev/null || echo refused; touch $MESOS_SANDBOX/x /data/x; ls /data";
    let mut pod = of_image(scene.image(&[]), script);
    pod.containers[0].read_only_root = true;
    add_volume(&mut pod, "data", VolumeSource::EmptyDir { size_limit: None }, "/data", false);
    scene.run(&pod).expect("refused\nx\n");
}

fn a_user_of_a_read_only_image_leaves_a_message(scene: &Scene) {
    let mut image = scene.image(&[]);
    image.user = "app".into();
    for path in [None, Some("/var/lib/app/why")] {
        let message = path.unwrap_or("/dev/termination-log");
        let script = format!("echo {message} > {message}; echo x > /var/x || id -u");
        let mut pod = of_image(image.clone(), &script);
        pod.containers[0].read_only_root = true;
        pod.containers[0].termination.own_path = path.map(|path| path.parse().unwrap());
        scene.run(&pod).expect("1000\n");
        let paths = scene.pod_paths(&pod);
        let file = paths.termination_message(&pod.containers[0].name, Attempt(0));
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{message}\n"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o666, 0o700));
        // So that the next one is another run's.
        fs::remove_file(&file).unwrap();
    }
}

fn an_image_says_what_is_run_how_and_by_whom(scene: &Scene) {
    let mut image = scene.image(&[]);
    image.entrypoint = vec!["/bin/sh".into(), "-c".into()];
    let script = "echo $A $B $HOME; pwd; id; stat -c '%u %g' $MESOS_SANDBOX";
    image.cmd = vec![script.into()];
    image.env = vec!["A=image".into(), "B=image".into()];
    image.user = "app".into();
    image.working_dir = Some("/srv/here".parse().unwrap());
    let mut pod = of_image(image.clone(), "");
    pod.containers[0].env.push(EnvVar { name: "B".into(), value: "manifest".into(), from: None });
    let ids = "uid=1000 gid=1001 groups=1001,44";
    let expected =
        |ids: &str, owner: &str| format!("image manifest /srv\n/srv/here\n{ids}\n{owner}\n");
    let outcome = scene.run(&pod);
    // By the image's names or by the host's: `id` shows what it finds.
    let plain = |text: &str| {
        text.chars().filter(|c| !"()abcdefghijklmnopqrstuvwxyz".contains(*c)).collect::<String>()
    };
    assert_eq!(plain(&outcome.stdout), plain(&expected(ids, "1000 1001")), "{outcome:?}");
    pod.containers[0].args = vec!["echo args".into()];
    scene.run(&pod).expect("args\n");
    pod.containers[0].command = vec!["/bin/echo".into()];
    scene.run(&pod).expect("echo args\n");
    pod.containers[0].args.clear();
    scene.run(&pod).expect("\n");
    image.user = "ghost".into();
    let outcome = scene.run(&of_image(image, "true"));
    assert!(outcome.status.contains("`ghost` is not in its /etc/passwd"), "{outcome:?}");
}

fn the_links_of_an_image_do_not_lead_out(scene: &Scene) {
    let secret = scene.host_directory("secret");
    fs::write(secret.join("passwd"), "root:x:0:0::/host:/bin/sh\n").unwrap();
    let away = secret.clone();
    let links = move |files: &Path| {
        fs::create_dir(files.join("etc")).unwrap();
        symlink(away.join("passwd"), files.join("etc/passwd")).unwrap();
        symlink(&away, files.join("data")).unwrap();
        symlink("../../../../..", files.join("proc")).unwrap();
    };
    let pod = of_image(
        scene.image(&[&links]),
        "echo $HOME; ls /data; test -e /proc/self/status && echo proc",
    );
    let outcome = scene.run(&pod);
    assert!(!outcome.stdout.contains("/host"), "{outcome:?}");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
}

fn the_files_of_an_image_can_be_a_volume(scene: &Scene) {
    let lower = |files: &Path| write(files.join("model"), "weights\n");
    let upper = |files: &Path| write(files.join("config"), "set\n");
    let image = scene.image(&[&lower, &upper]);
    let one = ResolvedImage { layers: image.layers[1..2].to_vec(), ..image.clone() };
    let script = "cat /m/model /m/config /one/model; touch /m/x /one/x 2>/dev/null || echo refused";
    let mut pod = pod(shell(script));
    add_volume(&mut pod, "m", VolumeSource::Image(Box::new(named(image))), "/m", false);
    add_volume(&mut pod, "one", VolumeSource::Image(Box::new(named(one))), "/one", false);
    scene.run(&pod).expect("weights\nset\nweights\nrefused\n");
}

fn a_part_of_an_image_can_be_a_volume(scene: &Scene) {
    let files = |files: &Path| {
        write(files.join("models/small"), "weights\n");
        symlink("/models", files.join("current")).unwrap();
        symlink("/../../../../etc/hostname", files.join("sly")).unwrap();
    };
    let image = scene.image(&[&files]);
    let mut pod = pod(shell("cat /m/small /one; touch /m/x 2>/dev/null || echo refused"));
    let source = || VolumeSource::Image(Box::new(named(image.clone())));
    add_volume(&mut pod, "m", source(), "/m", false);
    add_volume(&mut pod, "one", source(), "/one", false);
    let part = |path: &str| Some(roost::manifest::pod::SubPath::Path(path.parse().unwrap()));
    pod.containers[0].mounts[0].sub_path = part("current");
    pod.containers[0].mounts[1].sub_path = part("models/small");
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("weights\nweights\nrefused\n");
    for missing in ["gone", "sly", "models/small/x"] {
        pod.containers[0].mounts[0].sub_path = part(missing);
        let outcome = scene.run_in(&mut native, &pod, 0);
        assert!(outcome.status.starts_with("look for sub-path"), "{outcome:?}");
    }
}

fn an_image_that_would_run_as_root_is_refused(scene: &Scene) {
    let users = "app:x:1000:1001::/srv:/bin/sh\nboss:x:0:0::/:/bin/sh\n";
    let image = scene.image(&[&|files: &Path| write(files.join("etc/passwd"), users)]);
    let as_user = |user: &str| {
        let image = ResolvedImage { user: user.to_owned(), ..image.clone() };
        let mut pod = of_image(image, "id -u");
        pod.containers[0].security.non_root = true;
        pod
    };
    let pod = as_user("app");
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("1000\n");
    let facts = HostFacts::read(scene.pod_paths(&pod), &[]).unwrap();
    for user in ["", "0", "root", "root:app", ":7"] {
        let pod = as_user(user);
        let error = plan(&pod, &pod.containers[0], &facts).unwrap_err().to_string();
        assert!(error.starts_with("`runAsNonRoot` is set, but image"), "{user}: {error}");
    }
    // By another name, which only the image knows.
    let outcome = scene.run_in(&mut native, &as_user("boss"), 0);
    assert!(outcome.status.contains("`runAsNonRoot` is set"), "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

fn groups_of_the_image_count_or_not(scene: &Scene) {
    let image = ResolvedImage { user: "app".to_owned(), ..scene.image(&[&|_: &Path| {}]) };
    let mut pod = of_image(image, "id -G");
    pod.security.groups = vec![50];
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("1001 44 50\n");
    pod.security.groups_policy = GroupsPolicy::Strict;
    scene.run_in(&mut native, &pod, 0).expect("1001 50\n");
}

fn names_are_looked_up_in_files_of_the_pods_own(scene: &Scene) {
    // As images of distributions with systemd have it.
    let lower = |files: &Path| {
        write(files.join("etc/hosts"), "6.6.6.6 of-the-image\n");
        symlink("../run/systemd/resolve/stub.conf", files.join("etc/resolv.conf")).unwrap();
    };
    let script = "cat /etc/hostname; grep -c of-the-image /etc/hosts; tail -1 /etc/hosts
        cat /etc/resolv.conf; echo 9.9.9.9 left >>/etc/hosts; grep -c left /etc/hosts";
    let mut pod = of_image(scene.image(&[&lower]), script);
    pod.names.dns.base = DnsBase::Nothing;
    pod.names.dns.nameservers = vec!["10.0.0.53".parse().unwrap()];
    let mut native = scene.enter(&pod);
    // What a run writes there is gone in the next.
    for _ in 0..2 {
        let expected = "pod-of-check\n0\n127.0.0.1\tpod-of-check\nnameserver 10.0.0.53\n1\n";
        scene.run_in(&mut native, &pod, 0).expect(expected);
    }
    pod.containers[0].read_only_root = true;
    pod.containers[0].command[2] = "echo x >>/etc/hosts || cat /etc/hostname".to_owned();
    scene.run_in(&mut native, &pod, 0).expect("pod-of-check\n");
}

fn an_image_has_set_user_id_programs_if_asked_for(scene: &Scene) {
    let lower = |files: &Path| {
        let program = files.join("who");
        fs::copy("/usr/bin/id", &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    };
    let mut pod = of_image(scene.image(&[&lower]), "/who -u");
    pod.containers[0].user = Some(1234);
    let mut native = scene.enter(&pod);
    scene.run_in(&mut native, &pod, 0).expect("1234\n");
    pod.containers[0].security.allow_escalation = true;
    scene.run_in(&mut native, &pod, 0).expect("0\n");
}

fn a_hundred_and_twenty_layers_are_no_problem(scene: &Scene) {
    let count = |files: &Path| {
        let name = files.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        write(files.join(format!("of-{name}")), "");
        write(files.join("last"), &name);
    };
    let all: Vec<&dyn Fn(&Path)> = (0..120).map(|_| &count as &dyn Fn(&Path)).collect();
    let image = scene.image(&all);
    let last = image.layers.last().unwrap().to_string();
    let outcome = scene.run(&of_image(image, "ls / | grep -c of-; cat /last"));
    outcome.expect(&format!("120\n{last}"));
}

fn a_layer_that_is_missing_is_named(scene: &Scene) {
    let image = scene.image(&[&|_: &Path| {}]);
    let lost = scene.paths().images().join("layers").join(image.layers[0].as_str());
    assert_eq!(fs::metadata(&lost).unwrap().uid(), 0);
    fs::remove_dir_all(lost).unwrap();
    let outcome = scene.run(&of_image(image.clone(), "true"));
    let wanted = format!("find layer {} of the image", image.layers[0]);
    assert!(outcome.status.contains(&wanted), "{outcome:?}");
}

fn where_no_overlay_is_possible_it_is_a_copy(scene: &Scene) {
    let lower = |files: &Path| {
        write(files.join("a"), "lower");
        write(files.join("gone"), "lower");
    };
    let upper = |files: &Path| {
        let device = rustix::fs::makedev(0, 0);
        let kind = rustix::fs::FileType::CharacterDevice;
        let mode = rustix::fs::Mode::empty();
        rustix::fs::mknodat(rustix::fs::CWD, files.join("gone"), kind, mode, device).unwrap();
    };
    let script = "cat /a; ls /gone 2>/dev/null; echo x >/a; touch /new";
    let pod = of_image(scene.image(&[&lower, &upper]), script);
    let mut native = scene.enter(&pod);
    // Nothing on an overlay can be the upper layer of another one.
    let place = scene.pod_paths(&pod).data.join("containers");
    let [low, up, work] = ["low", "up", "work"].map(|name| scene.host_directory(name));
    fs::create_dir(&place).unwrap();
    let data =
        format!("lowerdir={},upperdir={},workdir={}", low.display(), up.display(), work.display());
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("overlay"), &place, Some("overlay"), flags, Some(&*data)).unwrap();
    for _ in 0..2 {
        scene.run_in(&mut native, &pod, 0).expect("lower");
    }
    assert!(up.join("main/writable/root/new").exists());
}
