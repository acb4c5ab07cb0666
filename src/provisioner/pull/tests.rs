//! Pulls from a registry that is not nice, on loopback; loads from files that are not right.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::provisioner::registry::Patience;
use crate::provisioner::store::{Contention, sha256};

/// What the server does with a path.
#[derive(Clone)]
enum Answer {
    /// The whole answer, as it goes over the wire.
    Raw(Vec<u8>),
    /// The first so many bytes of a content, with the length of all of it; ranges are served whole.
    Cut(Vec<u8>, usize),
    /// Nothing, and the connection stays open.
    Hang,
    /// What a token unlocks.
    Locked(String, Vec<u8>),
}

fn ok(content: &[u8]) -> Answer {
    let mut raw =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", content.len()).into_bytes();
    raw.extend_from_slice(content);
    Answer::Raw(raw)
}

fn status(line: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Raw(
        format!("HTTP/1.1 {line}\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes(),
    )
}

/// A server that answers by a table, and remembers what it was asked.
struct Server {
    address: SocketAddr,
    table: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (table, asked) = (Arc::default(), Arc::default());
        let (answers, log) = (Arc::clone(&table), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&answers), Arc::clone(&log)));
            }
        });
        Self { address, table, asked, task }
    }

    fn set(&self, path: &str, answer: Answer) {
        self.table.lock().unwrap().insert(path.into(), answer);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn source(&self) -> ImageSource {
        format!("{}/web:1", self.address).parse().unwrap()
    }

    /// Puts an image of one layer there; its layer's path and content.
    fn image(&self) -> (String, Vec<u8>) {
        let layer = layer(&[("hello", b"hello world")]);
        let config = config(&[&layer]);
        let manifest = manifest(&config, &[&layer]);
        self.set("/v2/web/manifests/1", ok(&manifest));
        self.set(&format!("/v2/web/blobs/{}", sha256(&config)), ok(&config));
        let path = format!("/v2/web/blobs/{}", sha256(&layer));
        self.set(&path, ok(&layer));
        (path, layer)
    }
}

async fn serve(
    mut stream: TcpStream,
    table: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap().to_lowercase();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default().to_owned();
        let is_head = text.starts_with("head");
        asked.lock().unwrap().push(text.clone());
        let answer = table.lock().unwrap().get(&path).cloned();
        let (bytes, close) = match answer {
            None => (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(), false),
            Some(Answer::Hang) => return std::future::pending().await,
            Some(Answer::Raw(bytes)) => (bytes, false),
            Some(Answer::Cut(content, at)) => match text.split_once("range: bytes=") {
                Some((_, range)) => {
                    let from: usize = range.split('-').next().unwrap().parse().unwrap();
                    let (rest, total) = (&content[from..], content.len());
                    let mut bytes = format!(
                        "HTTP/1.1 206 Partial\r\ncontent-length: {}\r\ncontent-range: bytes \
                         {from}-{}/{total}\r\n\r\n",
                        rest.len(),
                        total - 1
                    )
                    .into_bytes();
                    bytes.extend_from_slice(rest);
                    (bytes, false)
                }
                None => {
                    let Answer::Raw(mut bytes) = ok(&content) else { unreachable!() };
                    bytes.truncate(bytes.len() - content.len() + at.min(content.len()));
                    (bytes, true)
                }
            },
            Some(Answer::Locked(token, content)) => {
                if text.contains(&format!("authorization: {token}")) {
                    let Answer::Raw(bytes) = ok(&content) else { unreachable!() };
                    (bytes, false)
                } else {
                    let host = text.split("host: ").nth(1).unwrap().split("\r\n").next().unwrap();
                    let challenge = format!(
                        "HTTP/1.1 401 No\r\ncontent-length: 0\r\nwww-authenticate: Bearer \
                         realm=\"http://{host}/token\",service=\"s\"\r\n\r\n"
                    );
                    (challenge.into_bytes(), false)
                }
            }
        };
        let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let bytes = if is_head { &bytes[..head_end] } else { &bytes[..] };
        if stream.write_all(bytes).await.is_err() || close {
            return;
        }
    }
}

fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diffs: Vec<_> = layers.iter().map(|layer| sha256(layer)).collect();
    serde_json::json!({
        "architecture": Platform::current().architecture, "os": "linux",
        "config": {"Cmd": ["/hello"]}, "rootfs": {"type": "layers", "diff_ids": diffs},
    })
    .to_string()
    .into_bytes()
}

fn manifest(config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let described = |kind: &str, content: &[u8]| {
        serde_json::json!({
            "mediaType": kind, "digest": sha256(content), "size": content.len(),
        })
    };
    let kind = "application/vnd.oci.image.layer.v1.tar";
    let layers: Vec<_> = layers.iter().map(|layer| described(kind, layer)).collect();
    serde_json::json!({
        "schemaVersion": 2, "layers": layers,
        "config": described("application/vnd.oci.image.config.v1+json", config),
    })
    .to_string()
    .into_bytes()
}

struct Node {
    directory: tempfile::TempDir,
    provisioner: Provisioner,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("images"), Contention::Refuse).unwrap();
        let short = Duration::from_millis(300);
        let patience = Patience {
            connect: short,
            stall: short,
            answer: short,
            pause: Duration::from_secs(1),
            backoff: Duration::from_millis(1),
        };
        let registry = RegistryOptions {
            auth_files: vec![directory.path().join("auth.json")],
            hosts_dirs: vec![directory.path().join("hosts")],
            patience,
        };
        let options = PullOptions { registry, unpack: UnpackOptions::default() };
        Self { provisioner: Provisioner::new(store, options), directory }
    }

    async fn get(&self, source: &ImageSource, policy: PullPolicy) -> Outcome {
        self.provisioner.resolve(source, policy, &Credentials::default()).await
    }

    async fn pull(&self, server: &Server) -> Outcome {
        self.get(&server.source(), PullPolicy::IfNotPresent).await
    }

    /// What a pull that fails says.
    async fn fails(&self, server: &Server) -> ProvisionError {
        let wrong = self.pull(server).await.unwrap_err();
        assert_eq!(wrong.reason, PullReason::ErrImagePull);
        assert!(self.provisioner.store().images().is_empty());
        assert!(self.provisioner.progress().is_empty());
        wrong
    }

    fn hosts(&self, host: &str, text: &str) {
        let place = self.directory.path().join("hosts").join(host);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("hosts.toml"), text).unwrap();
    }
}

#[track_caller]
fn says(wrong: &ProvisionError, part: &str) {
    assert!(wrong.text.contains(part), "{}", wrong.text);
}

#[tokio::test]
async fn an_image_is_pulled_once_and_then_had_without_the_network() {
    let (node, server) = (Node::new(), Server::start().await);
    server.image();
    let first = node.pull(&server).await.unwrap();
    assert!(matches!(first.had, Had::Pulled { bytes } if bytes > 0));
    assert_eq!(first.image.config.cmd, ["/hello"]);
    assert_eq!(first.image.names, [server.source()]);
    let fs = node.provisioner.store().layer_fs(&first.image.layers[0]);
    assert_eq!(fs::read(fs.join("hello")).unwrap(), b"hello world");
    let asked = server.asked().len();
    assert_eq!(node.pull(&server).await.unwrap().had, Had::Present);
    assert_eq!(server.asked().len(), asked);
    let always = node.get(&server.source(), PullPolicy::Always).await.unwrap();
    assert_eq!(always.had, Had::Unchanged);
    let digest = first.image.manifest;
    let by_digest = format!("{}/web@{digest}", server.address).parse().unwrap();
    assert_eq!(node.get(&by_digest, PullPolicy::Never).await.unwrap().had, Had::Present);
    let address = server.address;
    drop(server);
    let gone = format!("{address}/web:1").parse().unwrap();
    let Had::Unreachable { why } = node.get(&gone, PullPolicy::Always).await.unwrap().had else {
        panic!("somebody answered")
    };
    assert!(why.contains(&address.to_string()), "{why}");
}

#[tokio::test]
async fn what_is_not_here_and_must_not_be_pulled_is_not_asked_for() {
    let (node, server) = (Node::new(), Server::start().await);
    let wrong = node.get(&server.source(), PullPolicy::Never).await.unwrap_err();
    assert_eq!(wrong.reason, PullReason::ErrImageNeverPull);
    assert!(server.asked().is_empty());
    let wrong = node.fails(&server).await;
    says(&wrong, "does not have it");
    assert_eq!(wrong.retry, Retry::Unlikely);
}

#[tokio::test]
async fn many_pods_wait_for_one_pull_and_the_last_to_leave_ends_it() {
    let (node, server) = (Node::new(), Server::start().await);
    let (path, _) = server.image();
    let both = async { tokio::join!(node.pull(&server), node.pull(&server)) };
    let (first, second) = both.await;
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(server.asked().iter().filter(|head| head.contains(&path)).count(), 1);
    let other = Server::start().await;
    let (path, _) = other.image();
    other.set("/v2/web/manifests/1", Answer::Hang);
    let mut waiting = Box::pin(node.pull(&other));
    while other.asked().is_empty() {
        tokio::select! { _ = &mut waiting => panic!("it hangs"), () = tokio::task::yield_now() => {} }
    }
    assert_eq!(node.provisioner.progress().len(), 1);
    drop(waiting);
    while !node.provisioner.progress().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!other.asked().iter().any(|head| head.contains(&path)));
}

#[tokio::test]
async fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let (node, server) = (Node::new(), Server::start().await);
    let (path, layer) = server.image();
    server.set(&path, Answer::Cut(layer, 700));
    node.pull(&server).await.unwrap();
    let ranges: Vec<_> =
        server.asked().into_iter().filter(|head| head.contains("range: bytes=")).collect();
    assert!(ranges.len() == 1 && ranges[0].contains("bytes=700-"), "{ranges:?}");
}

#[tokio::test]
async fn a_download_that_can_t_be_resumed_begins_anew() {
    let (node, server) = (Node::new(), Server::start().await);
    let (path, layer) = server.image();
    let ingest = node.provisioner.store().ingest();
    let mut partial = ingest.partial(&sha256(&layer), layer.len() as u64).unwrap();
    partial.append(&layer[..100]).unwrap();
    drop(partial);
    // Ranges are ignored, which is allowed.
    node.pull(&server).await.unwrap();
    assert!(server.asked().iter().any(|head| head.contains("range: bytes=100-")));
    let other = Node::new();
    let mut partial =
        other.provisioner.store().ingest().partial(&sha256(&layer), layer.len() as u64).unwrap();
    partial.append(&[9; 100]).unwrap();
    drop(partial);
    // What an earlier try left is damaged: the whole is wrong, and it is fetched once more.
    server.set(&path, Answer::Cut(layer, 1 << 20));
    other.pull(&server).await.unwrap();
    let third = Node::new();
    server.set(&path, status("416 No", "", ""));
    says(&third.fails(&server).await, "416");
}

#[tokio::test]
async fn a_blob_that_is_not_what_its_digest_says_is_refused() {
    let (node, server) = (Node::new(), Server::start().await);
    let (path, layer) = server.image();
    let mut wrong = layer.clone();
    wrong[0] ^= 1;
    server.set(&path, ok(&wrong));
    says(&node.fails(&server).await, "damaged");
    server.set(&path, ok(&layer[..700]));
    says(&node.fails(&server).await, "700 bytes");
    let mut long = layer.clone();
    long.extend_from_slice(&layer);
    server.set(&path, ok(&long));
    says(&node.fails(&server).await, "does not fit its manifest");
    server.set(&path, ok(&layer));
    node.pull(&server).await.unwrap();
}

#[tokio::test]
async fn a_manifest_that_is_none_is_named() {
    let (node, server) = (Node::new(), Server::start().await);
    let path = "/v2/web/manifests/1";
    server.set(path, status("200 OK", "content-type: text/html; x\r\n", "<html>"));
    says(&node.fails(&server).await, "web page");
    server.set(path, ok(b"<html>"));
    says(&node.fails(&server).await, "HTML");
    server.set(path, ok(b"{\"schemaVersion\":1}"));
    says(&node.fails(&server).await, "schema 1");
    server.set(path, Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n".into()));
    says(&node.fails(&server).await, "more than 4194304 bytes");
    let digest = sha256(b"other");
    server.set(path, status("200 OK", &format!("docker-content-digest: {digest}\r\n"), "{}"));
    says(&node.fails(&server).await, "another manifest");
    let index = r#"{"schemaVersion":2,"manifests":[{"mediaType":"m","size":1,"digest":"D",
        "platform":{"os":"windows","architecture":"amd64"}}]}"#;
    let index = index.replace('D', sha256(b"x").as_ref());
    server.set(path, ok(index.as_bytes()));
    says(&node.fails(&server).await, "there are windows/amd64");
}

#[tokio::test]
async fn trouble_is_told_with_whether_it_may_pass() {
    let (node, server) = (Node::new(), Server::start().await);
    let path = "/v2/web/manifests/1";
    server.set(path, Answer::Hang);
    let wrong = node.fails(&server).await;
    says(&wrong, "answer");
    server.set(path, status("429 Slow", "retry-after: 120\r\n", ""));
    let wrong = node.fails(&server).await;
    says(&wrong, "asks to wait 2m");
    let after = Some(crate::clock::Millis::from_secs(120));
    assert_eq!(wrong.retry, Retry::Later { after });
    server.set(path, status("500 Oops", "", ""));
    assert_ne!(node.fails(&server).await.retry, Retry::Unlikely);
    let denied = r#"{"errors":[{"code":"DENIED","message":"no\nway"}]}"#;
    server.set(path, status("418 Teapot", "", denied));
    let wrong = node.fails(&server).await;
    says(&wrong, "DENIED no way");
    assert_eq!(wrong.retry, Retry::Unlikely);
    server.set(path, Answer::Raw(b"SSH-2.0\r\n\r\n".into()));
    says(&node.fails(&server).await, "broke");
}

#[tokio::test]
async fn a_token_is_got_and_shown_to_nobody_else() {
    let (node, server, elsewhere) = (Node::new(), Server::start().await, Server::start().await);
    let (path, layer) = server.image();
    let manifest = server.table.lock().unwrap()["/v2/web/manifests/1"].clone();
    let Answer::Raw(raw) = manifest else { unreachable!() };
    let start = raw.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    server.set("/v2/web/manifests/1", Answer::Locked("bearer t0k".into(), raw[start..].into()));
    says(&node.fails(&server).await, "no token was given");
    server.set("/token", ok(b"{\"token\":\"T0k\"}"));
    let place = format!("location: http://{}/there\r\n", elsewhere.address);
    server.set(&path, status("307 Go", &place, ""));
    elsewhere.set("/there", ok(&layer));
    let auth = format!(r#"{{"auths":{{"{}":{{"auth":"dTpw"}}}}}}"#, server.address);
    fs::write(node.directory.path().join("auth.json"), auth).unwrap();
    node.pull(&server).await.unwrap();
    let asked = server.asked().join("");
    assert!(asked.contains("/token?scope=repository%3aweb%3apull&service=s"), "{asked}");
    assert!(asked.contains("authorization: basic dtpw"), "{asked}");
    let there = elsewhere.asked().join("");
    assert!(there.contains("/there") && !there.contains("authorization"), "{there}");
}

#[tokio::test]
async fn redirects_are_bounded_and_go_only_to_web_servers() {
    let (node, server) = (Node::new(), Server::start().await);
    let path = "/v2/web/manifests/1";
    server.set(path, status("302 Go", &format!("location: {path}\r\n"), ""));
    says(&node.fails(&server).await, "redirects more than 5 times");
    server.set(path, status("302 Go", "location: file:///etc/shadow\r\n", ""));
    says(&node.fails(&server).await, "which is not followed");
    server.set(path, status("302 Go", "", ""));
    says(&node.fails(&server).await, "no address");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_the_registry_if_it_fails() {
    let (node, mirror, server) = (Node::new(), Server::start().await, Server::start().await);
    server.image();
    let text =
        format!("server = \"http://{}\"\n[host.\"http://{}\"]\n", server.address, mirror.address);
    node.hosts("example.com", &text);
    let source: ImageSource = "example.com/web:1".parse().unwrap();
    node.get(&source, PullPolicy::IfNotPresent).await.unwrap();
    let asked = mirror.asked();
    assert!(asked[0].contains("/v2/web/manifests/1?ns=example.com"), "{asked:?}");
    assert!(!server.asked().join("").contains("ns="));
}

fn tar_of(path: &Path, entries: &[(&str, &[u8])]) {
    fs::write(path, layer(entries)).unwrap();
}

#[tokio::test]
async fn an_archive_of_docker_is_loaded_and_pinned() {
    let node = Node::new();
    let (one, two) = (layer(&[("a", b"1")]), layer(&[("b", b"2")]));
    let config = config(&[&one, &two]);
    let name = format!("{}.json", sha256(&config).digest());
    let table = serde_json::json!([{"Config": name, "RepoTags": ["web:1", "x/y:2"],
        "Layers": ["1/layer.tar", "2/layer.tar"]}]);
    let table = table.to_string();
    let entries: [(&str, &[u8]); 4] = [
        ("manifest.json", table.as_bytes()),
        (&name, &config),
        ("1/layer.tar", &one),
        ("./2/layer.tar", &two),
    ];
    let path = node.directory.path().join("web.tar");
    tar_of(&path, &entries);
    let plain = fs::read(&path).unwrap();
    let loaded = node.provisioner.load(&path).await.unwrap();
    assert_eq!(loaded.len(), 1);
    assert!(loaded[0].pinned && loaded[0].layers.len() == 2);
    let source = "web:1".parse().unwrap();
    assert_eq!(node.get(&source, PullPolicy::Never).await.unwrap().image.id, loaded[0].id);
    let other = Node::new();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    fs::write(&path, gzip.finish().unwrap()).unwrap();
    let source: ImageSource = format!("docker-archive:{}:web:1", path.display()).parse().unwrap();
    let had = other.get(&source, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!((had.image.id, had.image.pinned), (loaded[0].id.clone(), false));
    assert_eq!(other.get(&source, PullPolicy::Always).await.unwrap().had, Had::Unchanged);
    let source = format!("docker-archive:{}:web:3", path.display()).parse().unwrap();
    let wrong = other.get(&source, PullPolicy::Always).await.unwrap_err();
    says(&wrong, "there are web:1, x/y:2");
    fs::remove_file(&path).unwrap();
    says(&other.provisioner.load(&path).await.unwrap_err(), "No such file");
}

#[tokio::test]
async fn a_layout_is_used_in_place_and_its_damage_is_found() {
    let node = Node::new();
    let (layer, dir) = (layer(&[("a", b"1")]), node.directory.path().join("layout"));
    let config = config(&[&layer]);
    let manifest = manifest(&config, &[&layer]);
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    for blob in [&layer, &config, &manifest] {
        fs::write(dir.join("blobs/sha256").join(sha256(blob).digest()), blob).unwrap();
    }
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": manifest.len(),
        "digest": sha256(&manifest), "annotations": {"org.opencontainers.image.ref.name": "v1"}}]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    let source =
        |tag: &str| -> ImageSource { format!("oci:{}{tag}", dir.display()).parse().unwrap() };
    let wrong = node.get(&source(""), PullPolicy::Always).await.unwrap_err();
    says(&wrong, "oci-layout is missing");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let blob = dir.join("blobs/sha256").join(sha256(&layer).digest());
    let mut damaged = layer.clone();
    damaged[0] ^= 1;
    fs::write(&blob, damaged).unwrap();
    let wrong = node.get(&source(":v1"), PullPolicy::Always).await.unwrap_err();
    assert_eq!(wrong.reason, PullReason::ErrImagePull);
    fs::write(&blob, &layer[1..]).unwrap();
    says(&node.get(&source(":v1"), PullPolicy::Always).await.unwrap_err(), "instead of");
    fs::remove_file(&blob).unwrap();
    says(&node.get(&source(":v1"), PullPolicy::Always).await.unwrap_err(), "can't read blobs");
    nix::unistd::mkfifo(&blob, nix::sys::stat::Mode::S_IRWXU).unwrap();
    says(&node.get(&source(":v1"), PullPolicy::Always).await.unwrap_err(), "not a regular file");
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, &layer).unwrap();
    says(&node.get(&source(":v2"), PullPolicy::Always).await.unwrap_err(), "there are v1");
    node.get(&source(":v1"), PullPolicy::Always).await.unwrap();
    let loaded = node.provisioner.load(&dir).await.unwrap();
    assert_eq!(loaded[0].names, [source(":v1")]);
    fs::remove_dir_all(&dir).unwrap();
    let had = node.get(&source(":v1"), PullPolicy::Always).await.unwrap().had;
    assert!(matches!(had, Had::Unreachable { .. }));
}

#[tokio::test]
async fn an_archive_that_is_none_writes_nothing() {
    let node = Node::new();
    let path = node.directory.path().join("x.tar");
    let said = async |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        node.provisioner.load(&path).await.unwrap_err().text
    };
    let empty = said(b"").await;
    assert!(empty.contains("neither"), "{empty}");
    let noise = said(&[7; 4096]).await;
    assert!(noise.contains("no tar archive"), "{noise}");
    let xz = said(b"\xfd7zXZ\0").await;
    assert!(xz.contains("decompress it first"), "{xz}");
    let out = br#"[{"Config":"../../etc/passwd","Layers":[]}]"#;
    let wrong = said(&layer(&[("manifest.json", out)])).await;
    assert!(wrong.contains("leads out"), "{wrong}");
    let many = br#"[{"Config":"c","Layers":["l"]}]"#;
    let wrong = said(&layer(&[("manifest.json", many), ("c", &config(&[]))])).await;
    assert!(wrong.contains("differ about the layers"), "{wrong}");
    let mut cut = layer(&[("manifest.json", many), ("c", &[0; 5000])]);
    cut.truncate(2500);
    let wrong = said(&cut).await;
    assert!(wrong.contains("damaged"), "{wrong}");
    assert!(node.provisioner.store().images().is_empty());
}
