//! Budget 16: images from a registry on loopback, pulled and unpacked, and from nothing to a running
//! program, in turn with containerd and podman on the same images; and the memory that it takes.
//! `benches/README.md` says how to run it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program")]

#[path = "../budgets/measure.rs"]
#[allow(dead_code, reason = "the other bench needs more of it")]
mod measure;
mod pullers;
mod registry;
#[path = "../budgets/scene.rs"]
#[allow(dead_code, reason = "the other bench needs more of it")]
mod scene;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use measure::{Outcome, Samples, background, nanos, pause, read};
use pullers::{Agent, Containerd, Podman, Puller};
use registry::{Content, Registry};
use scene::{Fifo, Scene};

/// Debian's packages of what is compared, and of what comparing needs.
const PACKAGES: [&str; 7] =
    ["containerd", "runc", "podman", "crun", "busybox-static", "skopeo", "docker-registry"];
/// What the image of the rounds is made of: layers of this machine's own files, one for each list.
const LAYERS: [&[&str]; 3] =
    [&["usr/share/doc"], &["usr/lib/gcc"], &["usr/share/perl", "usr/lib/python3.11"]];
/// One layer that is larger than anything that may be kept in memory.
const LARGE: [&[&str]; 1] = [&["usr/bin", "usr/share/locale"]];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("images: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    rounds: usize,
    pulls: bool,
    running: bool,
    memory: bool,
}

fn options() -> Outcome<Option<Options>> {
    let mut options = Options { rounds: 5, pulls: true, running: true, memory: true };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--install" => return install().map(|()| None),
            "--rounds" => {
                let value = arguments.next().and_then(|text| text.parse().ok());
                options.rounds = value.ok_or("--rounds takes a number")?;
            }
            "--only" => {
                let what = arguments.next().unwrap_or_default();
                let wanted: Vec<&str> = what.split(',').collect();
                options.pulls = wanted.contains(&"pulls");
                options.running = wanted.contains(&"running");
                options.memory = wanted.contains(&"memory");
            }
            _ => return Err(format!("{argument} is not known; see benches/README.md")),
        }
    }
    Ok(Some(options))
}

fn run() -> Outcome<()> {
    let Some(options) = options()? else { return Ok(()) };
    if !rustix::process::getuid().is_root() {
        return Err("it has to run as root".into());
    }
    let scene = Scene::new().map_err(|error| format!("no scene: {error}"))?;
    let mut begun = scene.fifo("begun").map_err(|error| error.to_string())?;
    let registry = Registry::start(&scene)?;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let busy = background(Duration::from_secs(2));
    println!("{cpus} processors, {busy:.2} of them busy before it began, load {}", load());
    if options.pulls || options.running {
        let content = registry.put("apps:1", &LAYERS)?;
        println!("The image: {content}");
        rounds(&options, &scene, &registry, &content, &mut begun)?;
    }
    if options.memory {
        memory(&scene, &registry)?;
    }
    println!("load at the end: {}", load());
    Ok(())
}

/// Every engine in turn in each round.
fn rounds(
    options: &Options,
    scene: &Scene,
    registry: &Registry,
    content: &Content,
    begun: &mut Fifo,
) -> Outcome<()> {
    let mut engines: Vec<Box<dyn Puller>> = Vec::new();
    for engine in [Agent::boxed(scene), Containerd::boxed(scene), Podman::boxed(scene)] {
        match engine {
            Ok(engine) => engines.push(engine),
            Err(error) => eprintln!("left out: {error}"),
        }
    }
    let image = registry.name("apps:1");
    let mut pulls: BTreeMap<String, Samples> = BTreeMap::new();
    let mut running: BTreeMap<String, Samples> = BTreeMap::new();
    for round in 0..options.rounds {
        for engine in &mut engines {
            let name = engine.name();
            if options.pulls {
                rest(scene)?;
                let begin = nanos();
                engine.pull(&image)?;
                let taken = nanos() - begin;
                eprintln!("round {round}: {name} pulled in {:.0} ms", measure::ms(taken));
                pulls.entry(name.clone()).or_default().push(taken);
                engine.forget(&image)?;
            }
            if options.running {
                rest(scene)?;
                begun.drain();
                let begin = nanos();
                engine.begin(&image, scene)?;
                let taken = begun.wait(1)?.saturating_sub(begin);
                eprintln!("round {round}: {name} ran after {:.0} ms", measure::ms(taken));
                running.entry(name).or_default().push(taken);
                engine.end()?;
                engine.forget(&image)?;
            }
        }
    }
    println!("\n| what | who | median | best | unpacked MiB/s |\n|---|---|---|---|---|");
    for (what, all) in [("pull", &pulls), ("nothing → its program runs", &running)] {
        for (who, samples) in all {
            let (Some(median), Some(best)) = (samples.median(), samples.percentile(0)) else {
                continue;
            };
            let speed = content.mib() / median * 1000.0;
            println!("| {what} | {who} | {median:.0} ms | {best:.0} ms | {speed:.0} |");
        }
    }
    Ok(())
}

/// What one left to be written must not be paid for by the next.
fn rest(scene: &Scene) -> Outcome<()> {
    let directory = std::fs::File::open(&scene.dir).map_err(|error| error.to_string())?;
    rustix::fs::syncfs(directory).map_err(|error| error.to_string())?;
    pause();
    Ok(())
}

/// The most memory that an agent has had, new for each image: with a small layer, and a large one.
fn memory(scene: &Scene, registry: &Registry) -> Outcome<()> {
    let small = registry.put("small:1", &[])?;
    let large = registry.put("large:1", &LARGE)?;
    for (name, content) in [("nothing", None), ("small:1", Some(small)), ("large:1", Some(large))] {
        let mut agent = Agent::start(scene)?;
        if content.is_some() {
            agent.pull(&registry.name(name))?;
        }
        let (peak, anonymous) = (agent.status("VmHWM"), agent.status("RssAnon"));
        let what = content.map_or_else(|| "no image".to_owned(), |content| content.to_string());
        println!("agent at most {peak} (anonymous at the end: {anonymous}): {what}");
    }
    Ok(())
}

fn load() -> String {
    read("/proc/loadavg").trim().to_owned()
}

fn install() -> Outcome<()> {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends"]).args(PACKAGES);
    output(apt.env("DEBIAN_FRONTEND", "noninteractive")).map(|_| ())
}

/// What a command prints; if it can't be run or fails, why.
fn output(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} can't be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed ({}): {}", output.status, said.trim()))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
