use super::*;
use crate::reconciler::pressure::Threshold;

fn with_file(text: &str, layer: Layer) -> Result<AgentConfig, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    load(Given { config: Some(path), layer }).map_err(|error| error.to_string())
}

#[test]
fn flags_override_the_file_and_the_file_the_defaults() {
    let text = "pods = ['/a']\nrelist = '1m'\nlog-format = 'json'\nstrict = true\nmax-pods = 7\n\
                [logs]\nfiles = 2\nnode-bytes = '1Gi'\n[reserve]\ncpu = 0.5\nmemory = '1Gi'\n\
                [labels]\n\"example.com/zone\" = 'a'\n\"kubernetes.io/arch\" = 'mine'\n";
    let config = with_file(text, Layer::default()).unwrap();
    assert_eq!(config.pods, [PathBuf::from("/a")]);
    assert_eq!(config.logs, LogLimits { files: 2, ..LogLimits::default() });
    assert_eq!((config.log_format, config.paths), (LogFormat::Json, Paths::installed()));
    assert_eq!(config.cgroup, "roost");
    assert_eq!(config.executor.file_name().unwrap(), "roost-executor");
    let live = &config.live;
    assert_eq!(live.reserve, Reserve { cpu_milli: 500, memory_bytes: 1 << 30 });
    assert_eq!((live.relist, live.max_pods, live.strict), (Millis::from_secs(60), 7, true));
    assert_eq!(live.log_node_bytes, 1 << 30);
    assert_eq!(config.images.directories, [PathBuf::from(IMAGES_DIRECTORY_DEFAULT)]);
    let label = |name: &str| live.labels.get(name).map(String::as_str);
    assert_eq!(label("example.com/zone"), Some("a"));
    assert_eq!(
        (label("kubernetes.io/arch"), label("kubernetes.io/os")),
        (Some("mine"), Some("linux"))
    );

    let layer = Layer {
        pods: vec!["b".into()],
        relist: Some(Millis::from_secs(2)),
        log_format: Some(LogFormat::Text),
        strict: Some(false),
        ..Layer::default()
    };
    let config = with_file(text, layer).unwrap();
    assert_eq!(config.pods, [PathBuf::from("b")], "as given");
    assert_eq!((config.live.relist, config.log_format), (Millis::from_secs(2), LogFormat::Text));
    assert!(!config.live.strict);
}

#[test]
fn every_fault_of_a_file_is_named_with_its_place_and_what_was_meant() {
    let check = |text: &str, expected: &[&str]| {
        let error = with_file(text, Layer::default()).unwrap_err();
        assert_eq!(error.lines().count(), expected.len(), "{error}");
        for (line, part) in error.lines().zip(expected) {
            assert!(line.contains("agent.toml:") && line.contains(part), "{part}: {error}");
        }
    };
    check(
        "pods = ['/a']\nrelists = '1s'\n\n  strict = 'yes'\n[reserve]\nmem = 1\ncpu = '1 core'\n",
        &[
            "toml:2:1: `relists` is not known; did you mean `relist`?",
            "toml:4:12: `strict` must be true or false, not \"yes\"",
            "toml:6:1: `reserve.mem` is not known; known are cpu, memory",
            "toml:7:7: `reserve.cpu` must be processors such as",
        ],
    );
    check("\n\nrelist = 'soon'\n", &["toml:3:10: `relist` must be a span of time"]);
    check("relist = 20\n", &["toml:1:10: `relist` must be a text in quotes, not the number 20"]);
    check("relist = '1ms'\n", &["`relist` must be at least 1s"]);
    check("[logs]\nfiles = 0\n", &["toml:2:9: `logs.files` must be at least 1"]);
    check("[logs]\nfile-bytes = '1k'\n", &["toml:2:14: `logs.file-bytes` must be at least 4096"]);
    check("logs = 5\n", &["toml:1:8: `logs` must be a table ([logs]), not the number 5"]);
    check("listen = ['0.0.0.0:1']\n", &["toml:1:10: `listen` is not supported yet"]);
    check("[images]\ngc-high-percent = 101\n", &["toml:2:19: `images.gc-high-percent` must be"]);
    check("[images]\nauth-file = []\n", &["did you mean `images.auth-files`?"]);
    check("[images]\nhosts-dirs = '/a'\n", &["`images.hosts-dirs` must be a list such as"]);
    let bad = "allowed-sysctls = ['net.core.*', 'vm.swappiness', 'net/core/*', '*']\n";
    check(bad, &["`vm.swappiness` can't be a pod's own", "written with dots", "no name of a"]);
    check("allowed-host-paths = ['srv', '/a/../b']\n", &["path `srv` must be", "path `/a/../b`"]);
    check("allowed-host-paths = '/srv'\n", &["`allowed-host-paths` must be a list such as"]);
    check("[pressure]\ndisk-available = '101%'\n", &["`pressure.disk-available` must be at most"]);
    check("[pressure]\nmemory-available = 'much'\n", &["a share such as \"10%\", or 0 for none"]);
    check("[pressure]\nmeasure-every = '1ms'\n", &["must be at least 1s"]);
    check("max-pods = -1\n", &["`max-pods` must be a number"]);
    check("cgroup = 'a/b'\n", &["`cgroup` must be letters"]);
    check("[labels]\n'a b' = ''\nc = '-'\n", &["has the name \"a b\"", "has the value \"-\""]);
    check("pods = '/a'\n", &["`pods` must be a list such as"]);
    check("strict = \n", &["toml:1:"]);
}

#[test]
fn images_are_collected_from_a_mark_down_to_a_lower_one() {
    let error = with_file("[images]\ngc-low-percent = 85\n", Layer::default()).unwrap_err();
    assert!(error.contains("(85) must be less than `images.gc-high-percent` (85)"), "{error}");
    let text = "[images]\ngc-high-percent = 50\ngc-low-percent = 49\ngc-min-age = '1h'\n";
    let found = with_file(text, Layer::default()).unwrap().live.image_gc;
    let min_age = Millis::from_secs(3600);
    assert_eq!(found, ImageGc { high_percent: 50, low_percent: 49, min_age });
}

#[test]
fn thresholds_are_amounts_or_shares_or_nothing() {
    let text = "[pressure]\nmemory-available = 0\ndisk-available = '1Gi'\ninodes-free = '7%'\n\
                transition = '1m'\nmeasure-every = '10s'\n";
    let live = with_file(text, Layer::default()).unwrap().live;
    let Thresholds { memory, disk, inodes, transition } = live.pressure.thresholds;
    assert_eq!((memory, disk), (Threshold::Off, Threshold::Bytes(1 << 30)));
    assert_eq!((inodes, transition), (Threshold::Percent(7), Millis::from_secs(60)));
}

#[test]
fn a_root_of_its_own_has_images_dropped_in_it_if_there_is_a_place_for_them() {
    let root = tempfile::tempdir().unwrap();
    let layer = || Layer { root: Some(root.path().to_owned()), ..Layer::default() };
    let directories = |text: &str| with_file(text, layer()).unwrap().images.directories;
    assert_eq!(directories(""), Vec::<PathBuf>::new());
    let own = root.path().join("images.d");
    std::fs::create_dir(&own).unwrap();
    assert_eq!(directories(""), [own]);
    assert_eq!(directories("[images]\ndirectories = ['/a']\n"), [PathBuf::from("/a")]);
    assert_eq!(directories("[images]\ndirectories = []\n"), Vec::<PathBuf>::new());
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let given = Given { config: Some("/nowhere/agent.toml".into()), ..Given::default() };
    assert!(matches!(load(given), Err(ConfigError::Read { .. })));
}

#[test]
fn each_root_has_a_cgroup_of_its_own_whatever_way_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let before = cgroup_name(Some(&root));
    std::fs::create_dir(&root).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&root, &link).unwrap();
    assert_eq!(cgroup_name(Some(&root)), before);
    assert_eq!(cgroup_name(Some(&link)), before);
    assert_ne!(cgroup_name(Some(directory.path())), before);
    assert_eq!(before.len(), "roost-".len() + 8);
}

#[test]
fn what_a_reload_can_change_is_told_from_what_needs_a_restart() {
    let old = with_file("", Layer::default()).unwrap();
    let new = with_file(
        "pods = ['/a']\ncgroup = 'b'\nstrict = true\n[logs]\nfiles = 2\n[labels]\na = 'b'\n\
         [images]\nauth-files = []\ngc-min-age = '1s'\n",
        Layer::default(),
    )
    .unwrap();
    assert_eq!(old.fixed_keys_changed(&new), ["pods", "logs.files", "cgroup", "images.auth-files"]);
    assert_eq!(old.live.keys_changed(&new.live), ["labels", "strict", "images.gc-min-age"]);
    assert_eq!(new.live.keys_changed(&new.live), [""; 0]);
}

#[test]
fn the_packaged_file_has_every_key_at_its_default() {
    let packaged = include_str!("../../packaging/agent.toml");
    let defaults = with_file("", Layer::default()).unwrap();
    assert_eq!(with_file(packaged, Layer::default()), Ok(defaults.clone()), "as it is packaged");

    // A key follows the `#` at once, an explanation does not.
    let is_key = |text: &str| text.starts_with('"') || text.split(" = ").count() == 2;
    let uncommented: String = packaged
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let all: toml::Table = uncommented.parse().unwrap();
    let keys = |table: &toml::Table| table.keys().cloned().collect::<Vec<_>>();
    let sorted = |known: &[&str]| {
        let mut known: Vec<String> = known.iter().map(|key| (*key).to_owned()).collect();
        known.sort();
        known
    };
    assert_eq!(keys(&all), sorted(file::KEYS));
    assert_eq!(keys(all["reserve"].as_table().unwrap()), sorted(file::RESERVE_KEYS));
    assert_eq!(keys(all["logs"].as_table().unwrap()), sorted(file::LOGS_KEYS));
    assert_eq!(keys(all["images"].as_table().unwrap()), sorted(file::IMAGES_KEYS));
    assert_eq!(keys(all["pressure"].as_table().unwrap()), sorted(file::PRESSURE_KEYS));
    assert_eq!(keys(all["network"].as_table().unwrap()), sorted(file::NETWORK_KEYS));

    let found = with_file(&uncommented, Layer::default()).unwrap();
    assert_eq!(found.paths, Paths::under(Path::new("/srv/roost")), "an example: it has no default");
    assert_eq!(found.executor, Path::new("/usr/bin/roost-executor"), "it depends on the agent's");
    assert_eq!(found.live.labels["example.com/site"], "north", "an example");
    let mut rest = found;
    rest.paths = defaults.paths.clone();
    assert_eq!(rest.live.allowed_sysctls, ["net.core.somaxconn", "kernel.msg*"], "an example");
    let paths = rest.live.allowed_host_paths.take().unwrap();
    assert_eq!(paths, [Path::new("/srv"), Path::new("/dev/ttyUSB0")], "an example");
    rest.live.allowed_sysctls.clear();
    rest.executor = defaults.executor.clone();
    rest.live.labels.remove("example.com/site");
    assert_eq!(rest, defaults);
}
