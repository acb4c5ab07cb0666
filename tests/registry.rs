//! Pulls from a real registry on loopback, of images that other tools made. Needs root and
//! Debian's packages docker-registry, skopeo, umoci, apache2-utils and openssl (`tests/run`
//! installs them); leaves nothing behind.
#![expect(
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "the whole file is tests; what they stand on panics when it is not there"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use roost::provisioner::auth::Credentials;
use roost::provisioner::failure::{PullReason, Retry};
use roost::provisioner::pull::{Had, Provisioner, PullOptions};
use roost::provisioner::reference::{ImageSource, PullPolicy};
use roost::provisioner::registry::RegistryOptions;
use roost::provisioner::store::{Contention, Store};
use tempfile::TempDir;

#[path = "registry/server.rs"]
mod server;

use server::{Kind, Registry, make_layout, tool};

impl Registry {
    fn source(&self) -> ImageSource {
        self.image("team/web:1").parse().unwrap()
    }
}

struct Node {
    directory: TempDir,
    provisioner: Provisioner,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("images"), Contention::Refuse).unwrap();
        let registry = RegistryOptions {
            auth_files: vec![directory.path().join("auth.json")],
            hosts_dirs: vec![directory.path().join("hosts")],
            ..RegistryOptions::default()
        };
        let options = PullOptions { registry, ..PullOptions::default() };
        Self { provisioner: Provisioner::new(store, options), directory }
    }

    fn hosts(&self, registry: &Registry, text: &str) {
        let place =
            self.directory.path().join("hosts").join(format!("127.0.0.1:{}", registry.port));
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("hosts.toml"), text).unwrap();
    }

    /// What was pulled is what umoci made.
    async fn holds(&self, source: &ImageSource) {
        let always = PullPolicy::Always;
        let had = self.provisioner.resolve(source, always, &Credentials::default()).await.unwrap();
        assert!(matches!(had.had, Had::Pulled { bytes } if bytes > 0), "{:?}", had.had);
        let (image, store) = (had.image, self.provisioner.store());
        assert_eq!(image.config.entrypoint, ["/bin/hello"]);
        assert_eq!((image.config.user.as_str(), image.layers.len()), ("1000:1000", 2));
        let [low, high] = [&image.layers[0], &image.layers[1]].map(|layer| store.layer_fs(layer));
        assert_eq!(fs::read_to_string(low.join("bin/hello")).unwrap(), "#!/bin/sh\necho hello\n");
        assert_eq!(fs::read(low.join("gone")).unwrap(), vec![7; 300_000]);
        assert_eq!(fs::read_link(high.join("link")).unwrap(), Path::new("bin/hello"));
        let again =
            self.provisioner.resolve(source, always, &Credentials::default()).await.unwrap();
        assert_eq!(again.had, Had::Unchanged);
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(test);
}

#[test]
fn an_image_of_other_tools_is_pulled_by_plain_http() {
    run(async {
        let (registry, node) = (Registry::with_web(Kind::Plain), Node::new());
        node.holds(&registry.source()).await;
        let missing = format!("127.0.0.1:{}/team/nothing:1", registry.port).parse().unwrap();
        let policy = PullPolicy::IfNotPresent;
        let credentials = Credentials::default();
        let wrong = node.provisioner.resolve(&missing, policy, &credentials).await.unwrap_err();
        assert_eq!((wrong.reason, wrong.retry), (PullReason::ErrImagePull, Retry::Unlikely));
        assert!(wrong.text.contains("does not have it"), "{}", wrong.text);
    });
}

#[test]
fn a_registry_with_passwords_wants_the_right_one() {
    run(async {
        let (registry, node) = (Registry::with_web(Kind::Password), Node::new());
        let source = registry.source();
        let get = async |credentials: &Credentials| {
            node.provisioner.resolve(&source, PullPolicy::IfNotPresent, credentials).await
        };
        let wrong = get(&Credentials::default()).await.unwrap_err().text;
        assert!(wrong.contains("imagePullSecrets"), "{wrong}");
        let host = format!("127.0.0.1:{}", registry.port);
        let secret = |password: &str| {
            let mut credentials = Credentials::default();
            let entry = format!(r#"{{"username":"me","password":"{password}"}}"#);
            let text = format!(r#"{{"auths":{{"{host}/team":{entry}}}}}"#);
            credentials.add("the Secret `pull`", &text).unwrap();
            credentials
        };
        let wrong = get(&secret("hunter2")).await.unwrap_err().text;
        assert!(wrong.contains("refuses the credentials from the Secret `pull`"), "{wrong}");
        assert!(!wrong.contains("hunter2"), "{wrong}");
        // The first is wrong, and the node's own is right.
        let auth = format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6czNjcmV0"}}}}}}"#);
        fs::write(node.directory.path().join("auth.json"), auth).unwrap();
        get(&secret("hunter2")).await.unwrap();
        let other = Node::new();
        let policy = PullPolicy::IfNotPresent;
        other.provisioner.resolve(&source, policy, &secret("s3cret")).await.unwrap();
    });
}

#[test]
fn a_private_image_is_not_had_with_the_credentials_of_another() {
    run(async {
        let (registry, node) = (Registry::with_web(Kind::Password), Node::new());
        let mut credentials = Credentials::default();
        let entry = r#"{"username":"me","password":"s3cret"}"#;
        let text = format!(r#"{{"auths":{{"127.0.0.1:{}":{entry}}}}}"#, registry.port);
        credentials.add("the Secret `pull`", &text).unwrap();
        let get = async |source: &ImageSource, credentials: &Credentials| {
            node.provisioner.resolve(source, PullPolicy::Always, credentials).await
        };
        let by_tag = registry.source();
        let had = get(&by_tag, &credentials).await.unwrap();
        let by_digest = by_tag.reference().unwrap().at(had.image.manifest.clone());
        for source in [by_tag, ImageSource::Registry(by_digest)] {
            let wrong = get(&source, &Credentials::default()).await.unwrap_err();
            assert_eq!(wrong.retry, Retry::Unlikely, "{}", wrong.text);
            get(&source, &credentials).await.unwrap();
        }
    });
}

#[test]
fn a_private_certificate_is_trusted_where_the_configuration_says_so() {
    run(async {
        let (registry, node) = (Registry::with_web(Kind::Certificate), Node::new());
        let server = format!("server = \"https://127.0.0.1:{}\"\n", registry.port);
        node.hosts(&registry, &server);
        let (source, credentials) = (registry.source(), Credentials::default());
        let policy = PullPolicy::IfNotPresent;
        let wrong = node.provisioner.resolve(&source, policy, &credentials).await.unwrap_err();
        assert!(wrong.text.contains("certificate that can't be trusted"), "{}", wrong.text);
        let authority = registry.directory.path().join("ca.crt");
        node.hosts(&registry, &format!("{server}ca = \"{}\"\n", authority.display()));
        node.holds(&source).await;
        let other = Node::new();
        other.hosts(&registry, &format!("{server}skip_verify = true\n"));
        other.holds(&source).await;
        // Who speaks plain HTTP to it is told that there is nobody.
        let third = Node::new();
        third.hosts(&registry, &server.replace("https", "http"));
        third.provisioner.resolve(&source, policy, &credentials).await.unwrap_err();
    });
}

#[test]
fn a_certificate_that_is_its_own_authority_is_trusted_where_exactly_that_one_is_configured() {
    run(async {
        let (registry, node) = (Registry::with_web(Kind::SelfSigned), Node::new());
        let server = format!("server = \"https://127.0.0.1:{}\"\n", registry.port);
        let authority = registry.directory.path().join("ca.crt");
        node.hosts(&registry, &format!("{server}ca = \"{}\"\n", authority.display()));
        node.holds(&registry.source()).await;
        // Another one of the same name and kind is not it.
        let (other, stranger) = (Registry::start(Kind::SelfSigned), Node::new());
        let authority = other.directory.path().join("ca.crt");
        stranger.hosts(&registry, &format!("{server}ca = \"{}\"\n", authority.display()));
        let (policy, credentials) = (PullPolicy::IfNotPresent, Credentials::default());
        let source = registry.source();
        let wrong = stranger.provisioner.resolve(&source, policy, &credentials).await.unwrap_err();
        assert!(wrong.text.contains("certificate"), "{}", wrong.text);
    });
}

#[test]
fn a_registry_of_plain_http_that_is_asked_by_tls_is_recognised() {
    run(async {
        let (registry, node) = (Registry::with_web(Kind::Plain), Node::new());
        node.hosts(&registry, &format!("server = \"https://127.0.0.1:{}\"\n", registry.port));
        let policy = PullPolicy::IfNotPresent;
        let credentials = Credentials::default();
        let source = registry.source();
        let wrong = node.provisioner.resolve(&source, policy, &credentials).await.unwrap_err();
        assert!(wrong.text.contains("speaks no TLS"), "{}", wrong.text);
    });
}

/// A small file system of its own, gone when it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().to_str().unwrap();
        tool("mount", "mount", &["-t", "tmpfs", "-o", options, "roost-test", place]);
        Self(directory)
    }

    fn used(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(self.0.path()).unwrap();
        (found.blocks() - found.blocks_free()) * found.fragment_size()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_given_back() {
    run(async {
        let (registry, disk) = (Registry::with_web(Kind::Plain), SmallDisk::new("size=200k"));
        let store = Store::open(&disk.0.path().join("images"), Contention::Refuse).unwrap();
        let provisioner = Provisioner::new(store, PullOptions::default());
        let (source, policy) = (registry.source(), PullPolicy::IfNotPresent);
        let wrong = provisioner.resolve(&source, policy, &Credentials::default()).await;
        let wrong = wrong.unwrap_err();
        assert!(wrong.text.contains("make room"), "{}", wrong.text);
        assert_ne!(wrong.retry, Retry::Unlikely);
        assert!(provisioner.store().images().is_empty());
        provisioner.store().empty_trash().unwrap();
        assert!(disk.used() < 100 << 10, "{} bytes are still used", disk.used());
        drop(provisioner);
    });
}

#[test]
fn archives_of_other_tools_are_loaded() {
    run(async {
        let place = tempfile::tempdir().unwrap();
        let layout = make_layout(place.path());
        let from = format!("oci:{}:1", layout.display());
        let to = |kind: &str, file: &str| format!("{kind}:{}", place.path().join(file).display());
        let docker = to("docker-archive", "docker.tar");
        tool("skopeo", "skopeo", &["copy", "-q", &from, &format!("{docker}:web:1")]);
        let oci = to("oci-archive", "oci.tar");
        tool("skopeo", "skopeo", &["copy", "-q", &from, &format!("{oci}:1")]);
        for source in [from.clone(), docker, format!("{oci}:1")] {
            Node::new().holds(&source.parse().unwrap()).await;
        }
        let mut zipped = Vec::new();
        let mut tar = fs::File::open(place.path().join("docker.tar")).unwrap();
        tar.read_to_end(&mut zipped).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&zipped).unwrap();
        let path = place.path().join("docker.tar.gz");
        fs::write(&path, gzip.finish().unwrap()).unwrap();
        let node = Node::new();
        let loaded = node.provisioner.load(&path).await.unwrap();
        assert!(loaded[0].pinned && loaded[0].names == ["web:1".parse().unwrap()]);
    });
}
