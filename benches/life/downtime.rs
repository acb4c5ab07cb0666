//! For how long a pod is without service while it is updated: its server is asked every
//! millisecond or two, and the time between the last good answer before a gap and the first after
//! it counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Asked, Node};
use crate::{now, quantile};

const BUSYBOX: &str = "/bin/busybox";
const PORT: u16 = 38_471;
/// Between two questions, and how long an answer may take.
const PACE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(100);
/// How long everything has to be well before an update counts as over.
const QUIET: f64 = 1.5;
const LIMIT: f64 = 60.0;
/// The version of the image that lacks what its probe asks for.
const BAD: u64 = 3;

/// What a page says, if it is served.
fn page(path: &str) -> Option<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], PORT));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    head.contains(" 200 ").then(|| body.trim().to_owned())
}

struct Outage {
    /// Seconds without a good answer.
    without: f64,
    /// From the edit until it counts.
    until: f64,
}

/// Asks until what is expected is served and all is quiet.
fn watch(path: &str, counts: impl Fn(&str, f64) -> bool) -> Outage {
    let begun = now();
    let (mut good, mut without, mut until) = (begun, 0.0, None);
    loop {
        let at = now();
        assert!(at - begun < LIMIT, "the update does not come to its end");
        let answer = page(path);
        let answered = now();
        if let Some(answer) = &answer {
            // Without a gap it is the time between two questions.
            if at - good > 0.02 {
                without += answered - good;
            }
            good = answered;
            if until.is_none() && counts(answer, at - begun) {
                until = Some(answered - begun);
            }
        }
        if until.is_some_and(|until| answered - begun - until > QUIET && answered - good < 0.1) {
            return Outage { without, until: until.unwrap() };
        }
        #[expect(clippy::disallowed_methods, reason = "the pace is part of what is measured")]
        std::thread::sleep(PACE);
    }
}

/// An archive of an image that has a busybox and the page of its version.
fn image(directory: &Path, version: u64) -> String {
    let root = directory.join(format!("root{version}"));
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::create_dir_all(root.join("srv")).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    std::fs::write(root.join("srv/version"), version.to_string()).unwrap();
    if version != BAD {
        std::fs::write(root.join("srv/ok"), "yes").unwrap();
    }
    let archive = directory.join(format!("image{version}.tar"));
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/budgets/peers/image.py");
    let arguments = [root.as_os_str(), archive.as_os_str(), "localhost/bench:1".as_ref()];
    let done = Command::new("python3").arg(tool).args(arguments).status().unwrap();
    assert!(done.success(), "the image can't be made");
    format!("oci-archive:{}", archive.display())
}

fn server(version: u64, directory: &str) -> Asked {
    let command = json!([BUSYBOX, "httpd", "-f", "-p", PORT.to_string(), "-h", directory]);
    let volume = json!({ "name": "pages", "configMap": { "name": "pages" } });
    Asked::pod("served")
        .with(
            "/spec/containers",
            json!([{ "name": "web", "command": command,
                "env": [{ "name": "VERSION", "value": version.to_string() }] }]),
        )
        .with("/spec/hostNetwork", json!(true))
        .mounting(&volume, "/pages")
}

/// The pages; without `ok` the server is not Ready by its probe.
fn put_pages(node: &Node, version: u64, ok: Option<&str>) {
    let mut pages: Value = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "pages" },
        "data": { "version": version.to_string() },
    });
    if let Some(ok) = ok {
        pages["data"]["ok"] = json!(ok);
    }
    node.put("pages.json", &pages.to_string());
}

/// The same, which has to get Ready in three seconds.
fn on_trial(pod: Asked) -> Asked {
    let get = json!({ "path": "/ok", "port": PORT });
    // What is changed in place is Ready at first as it was: that has to be over in time.
    let probe = json!({ "httpGet": get, "periodSeconds": 1, "failureThreshold": 1 });
    pod.with("/spec/containers/0/readinessProbe", probe).annotation("roost/rollback-after", "3s")
}

/// A server that keeps 8 MiB of memory while it serves, and does not start if it can't.
fn large(limit: &str) -> Asked {
    let fill = format!("{BUSYBOX} dd if=/dev/zero of=/pad/file bs=1M count=8");
    let script = format!("{fill} && exec {BUSYBOX} httpd -f -p {PORT} -h /pages");
    let pad = json!({ "name": "pad", "emptyDir": { "medium": "Memory" } });
    server(0, "/pages")
        .with("/spec/containers/0/command", json!([BUSYBOX, "sh", "-c", script]))
        .with("/spec/containers/0/resources", json!({ "limits": { "memory": limit } }))
        // In place the kernel refuses a limit that is less than what is used.
        .with(
            "/spec/containers/0/resizePolicy",
            json!([{ "resourceName": "memory", "restartPolicy": "RestartContainer" }]),
        )
        .mounting(&pad, "/pad")
}

/// A good revision serves, and gives way to one that is never Ready, until it is back.
fn taken_back(node: &Node, good: &Asked, bad: impl FnOnce()) -> Outage {
    node.ask_for(good);
    watch("/ok", |_, since| since > 5.0);
    bad();
    watch("/ok", |_, since| since > 3.0)
}

/// Measures so many rounds of every change.
pub(crate) fn run(rounds: usize) {
    let node = Node::started();
    let mut rows: Vec<(&str, Vec<Outage>)> = [
        "image",
        "command",
        "resources",
        "ConfigMap",
        "image, never Ready, rolled back after 3 s",
        "command, never Ready, rolled back after 3 s",
        "resources, never Ready, rolled back after 3 s",
        "ConfigMap, never Ready, rolled back after 3 s",
    ]
    .map(|what| (what, Vec::new()))
    .into();
    put_pages(&node, 0, Some("yes"));
    node.ask_for(&server(0, "/pages"));
    node.until_running("default/served");
    watch("/version", |answer, _| answer == "0");
    let images = [1, 2, BAD].map(|version| image(node.dir.path(), version));
    for round in 0..u64::try_from(rounds).unwrap() {
        let with_image = |number: usize| {
            server(0, "/srv").with("/spec/containers/0/image", json!(images[number]))
        };
        node.ask_for(&with_image(0));
        watch("/version", |answer, _| answer == "1");
        node.ask_for(&with_image(1));
        rows[0].1.push(watch("/version", |answer, _| answer == "2"));

        let version = 100 * (round + 1);
        put_pages(&node, version, Some("yes"));
        node.ask_for(&server(version, "/pages"));
        watch("/version", |answer, _| answer == version.to_string());
        let before = process(&node);
        node.ask_for(&server(version + 1, "/pages"));
        rows[1].1.push(watch("/version", |_, _| process(&node) != before));

        let limited = server(version + 1, "/pages").with(
            "/spec/containers/0/resources",
            json!({ "limits": { "memory": format!("{}Mi", 64 + round) } }),
        );
        node.ask_for(&limited);
        rows[2].1.push(watch("/version", |_, since| since > 1.0));

        put_pages(&node, version + 2, Some("yes"));
        rows[3].1.push(watch("/version", |answer, _| answer == (version + 2).to_string()));

        let good = on_trial(with_image(0));
        let bad = || node.ask_for(&on_trial(with_image(2)));
        rows[4].1.push(taken_back(&node, &good, bad));
        let good = on_trial(server(version + 1, "/pages"));
        let bad = || node.ask_for(&on_trial(server(version + 3, "/")));
        rows[5].1.push(taken_back(&node, &good, bad));
        let bad = || node.ask_for(&on_trial(large("4Mi")));
        rows[6].1.push(taken_back(&node, &on_trial(large("64Mi")), bad));
        let bad = || put_pages(&node, version + 4, None);
        rows[7].1.push(taken_back(&node, &on_trial(server(version + 5, "/pages")), bad));
        put_pages(&node, version + 6, Some("yes"));
    }
    println!("{rounds} rounds; seconds");
    println!(
        "| change of | without service, median | most | from the edit until it is served, median |"
    );
    println!("|---|---|---|---|");
    for (what, outages) in rows {
        let mut without: Vec<f64> = outages.iter().map(|it| it.without).collect();
        let mut until: Vec<f64> = outages.iter().map(|it| it.until).collect();
        let [median, most] = [0.5, 1.0].map(|part| quantile(&mut without, part));
        println!("| {what} | {median:.3} | {most:.3} | {:.3} |", quantile(&mut until, 0.5));
    }
    node.end();
}

/// The process of the server, which changes with its command.
fn process(node: &Node) -> Option<u32> {
    node.pods().get("default/served")?.pids().get("web").copied()
}
