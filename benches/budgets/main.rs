//! Measures the budgets of the design on the machine it runs on, in turn with crun, podman and
//! containerd's CRI, and prints a table of ratios.
//!
//! `cargo bench --bench budgets` as root. What the options are, how everything is measured and how
//! to read the table stands in `benches/README.md`. Nothing here asserts a time: a machine that is
//! busy makes a bad table, not a failure.
//!
//! ```text
//! main ─► starts (1–6)           ─┐
//!      ─► scrapes (4)             │
//!      ─► density (8–13) ─► exits ├─► engine ◄─ node (ours), peers (theirs) ─► table
//!      ─► manifests (15) ─────────┘       └─► scene: the program, and how it says that it runs
//! ```

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

mod density;
mod engine;
mod exits;
mod manifests;
mod measure;
mod node;
mod peers;
mod scene;
mod scrapes;
mod starts;
mod table;

use std::process::{Command, ExitCode};
use std::time::Duration;

use engine::Engine;
use measure::{Outcome, background, read};
use scene::{BUSYBOX, Fifo, Scene};
use table::{Table, Who};

/// What is measured here. 7 needs `exec`, and comes with that; 16 has a bench of its own.
const BUDGETS: [u8; 14] = [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15];
/// More than this part of a processor busy with other things makes figures worthless.
const BUSY: f64 = 0.1;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => return fail(&error),
    };
    if options.install {
        return install();
    }
    if !rustix::process::getuid().is_root() {
        return fail("it has to run as root");
    }
    let mut scene = match Scene::new() {
        Ok(scene) => scene,
        Err(error) => return fail(&format!("no scene ({BUSYBOX} of busybox-static?): {error}")),
    };
    let mut table = Table::default();
    println!("{}", machine());
    let busy = background(Duration::from_secs(options.background_secs));
    if busy > BUSY {
        println!("The machine is busy ({busy:.2} of a processor): times mean little.");
    }
    let begun = scene.fifo("begun").map_err(|error| error.to_string());
    let result = begun.and_then(|mut begun| run(&mut scene, &options, &mut begun, &mut table));
    println!("\n{}", table.render());
    println!("load at the end: {}", read("/proc/loadavg").trim());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn run(scene: &mut Scene, options: &Options, begun: &mut Fifo, table: &mut Table) -> Outcome<()> {
    if options.wants_any(&[1, 3, 4, 5, 6]) {
        let mut peers = Peers::start(scene, options, table);
        if options.wants_any(&[1, 3, 6]) {
            starts::isolated(options, &mut peers, begun, table);
        }
        if options.wants(4) {
            starts::many(options, &mut peers, begun, table);
        }
        if options.wants(5) {
            starts::processor(options, &mut peers, begun, table);
        }
    }
    if options.wants(2) {
        scene.network = true;
        let mut peers = Peers::start(scene, options, table);
        starts::networked(options, &mut peers, begun, table);
        drop(peers);
        scene.network = false;
    }
    if options.wants(4) {
        scrapes::measure(scene, begun, table)?;
    }
    if options.wants(9) {
        density::empty(scene, options, table);
    }
    if options.wants_any(&[8, 9, 10, 11, 12, 13, 14]) {
        for count in &options.pods {
            density::with(*count, scene, options, begun, table);
        }
    }
    if options.wants(15) {
        manifests::measure(scene, options, begun, table)?;
    }
    Ok(())
}

/// The engines that are there, ours first.
struct Peers(Vec<Box<dyn Engine>>);

impl Peers {
    #[expect(clippy::print_stderr, reason = "whoever is left out has to be known")]
    fn start(scene: &Scene, options: &Options, table: &mut Table) -> Self {
        let mut engines = Vec::new();
        for who in Who::ALL.into_iter().filter(|who| options.has(*who)) {
            match peers::start(who, scene) {
                Ok(engine) => {
                    table.version(who, engine.version());
                    engines.push(engine);
                }
                Err(error) => eprintln!("{} is left out: {error}", who.name()),
            }
        }
        Self(engines)
    }

    /// Does something with each. Who fails is left out from there on; it is not what is tested.
    #[expect(clippy::print_stderr, reason = "whoever is left out has to be known")]
    fn each(&mut self, mut what: impl FnMut(&mut dyn Engine) -> Outcome<()>) {
        self.0.retain_mut(|engine| match what(&mut **engine) {
            Ok(()) => true,
            Err(error) => {
                eprintln!("{} is left out from here on: {error}", engine.who().name());
                false
            }
        });
    }
}

/// What to measure, and how thoroughly.
struct Options {
    only: Vec<u8>,
    peers: Vec<Who>,
    starts: usize,
    many: usize,
    pods: Vec<usize>,
    peer_pods: usize,
    manifests: usize,
    settle_secs: u64,
    idle_secs: u64,
    background_secs: u64,
    install: bool,
}

impl Options {
    fn thorough() -> Self {
        Self {
            only: BUDGETS.to_vec(),
            peers: Who::ALL.to_vec(),
            starts: 20,
            many: 64,
            pods: vec![100, 300, 500],
            peer_pods: 300,
            manifests: 1000,
            // Threads for what may block end 10 s after their last work, and events wait for 30 s for
            // company before they are written.
            settle_secs: 35,
            idle_secs: 20,
            background_secs: 5,
            install: false,
        }
    }

    /// To see that it works; the figures are worth less.
    fn quick() -> Self {
        Self {
            pods: vec![20],
            starts: 5,
            many: 16,
            peer_pods: 20,
            manifests: 50,
            settle_secs: 2,
            idle_secs: 3,
            background_secs: 1,
            ..Self::thorough()
        }
    }

    fn parse(arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let arguments: Vec<String> = arguments.collect();
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let mut options = if quick { Self::quick() } else { Self::thorough() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} takes a value"));
            match argument.as_str() {
                // cargo says so to every bench.
                "--bench" | "--quick" => {}
                "--install" => options.install = true,
                "--only" => options.only = numbers(&value()?)?,
                "--pods" => options.pods = numbers(&value()?)?,
                "--starts" => options.starts = number(&value()?)?,
                "--many" => options.many = number(&value()?)?,
                "--peer-pods" => options.peer_pods = number(&value()?)?,
                "--manifests" => options.manifests = number(&value()?)?,
                "--peers" => options.peers = engines(&value()?)?,
                _ => return Err(format!("{argument} is not known; see benches/README.md")),
            }
        }
        match options.only.iter().find(|budget| !BUDGETS.contains(budget)) {
            Some(unknown) => Err(format!("budget {unknown} is not measured here: {BUDGETS:?} are")),
            None => Ok(options),
        }
    }

    fn wants(&self, budget: u8) -> bool {
        self.only.contains(&budget)
    }

    fn wants_any(&self, budgets: &[u8]) -> bool {
        budgets.iter().any(|budget| self.wants(*budget))
    }

    fn has(&self, who: Who) -> bool {
        self.peers.contains(&who)
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Outcome<T> {
    text.parse().map_err(|_| format!("{text:?} is not such a number"))
}

fn numbers<T: std::str::FromStr>(text: &str) -> Outcome<Vec<T>> {
    text.split(',').map(number).collect()
}

/// The engines of that list; ours always is one.
fn engines(text: &str) -> Outcome<Vec<Who>> {
    let mut engines = vec![Who::Roost];
    for name in text.split(',').filter(|name| *name != "none") {
        let who = Who::ALL.into_iter().find(|who| who.name().eq_ignore_ascii_case(name));
        engines.push(who.ok_or_else(|| format!("{name:?} is none of cri, podman, crun, none"))?);
    }
    Ok(engines)
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let release = read("/proc/sys/kernel/osrelease");
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches(|c: char| c.is_whitespace() || c == ':');
    let load = read("/proc/loadavg");
    format!("{cpus} × {model}, Linux {}, load {}", release.trim(), load.trim())
}

/// The peers, from the distribution's packages.
fn install() -> ExitCode {
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--no-install-recommends"]).args(peers::PACKAGES);
    match apt.env("DEBIAN_FRONTEND", "noninteractive").status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        other => fail(&format!("apt-get: {other:?}")),
    }
}

#[expect(clippy::print_stderr, reason = "it is a program")]
fn fail(error: &str) -> ExitCode {
    eprintln!("budgets: {error}");
    ExitCode::FAILURE
}
