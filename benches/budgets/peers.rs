//! The engines that Roost is compared with, from Debian's packages, each in a [`space::Space`] of
//! its own.
//!
//! Which they are, and what to know of each, stands in `benches/README.md`.

mod containerd;
mod crun;
mod podman;
mod space;

use std::path::Path;
use std::process::{Command, Stdio};

use crate::engine::Engine;
use crate::measure::Outcome;
use crate::scene::Scene;
use crate::table::Who;

pub(crate) use containerd::Containerd;
pub(crate) use crun::Crun;
pub(crate) use podman::Podman;

/// The name of the image that peers run.
const IMAGE: &str = "localhost/roost-bench:1";
/// Debian's, which sees Debian's python3-grpcio.
const PYTHON: &str = "/usr/bin/python3";

/// Debian's packages of everything that is compared, and of what comparing needs.
pub(crate) const PACKAGES: [&str; 9] = [
    "crun",
    "podman",
    "catatonit",
    "containerd",
    "runc",
    "busybox-static",
    "python3-grpcio",
    "containernetworking-plugins",
    "iptables",
];

/// Starts one of them, with nothing in it.
pub(crate) fn start(who: Who, scene: &Scene) -> Outcome<Box<dyn Engine>> {
    match who {
        Who::Roost => Ok(Box::new(crate::node::Node::start(scene, "node"))),
        Who::Cri => Ok(Box::new(Containerd::start(scene)?)),
        Who::Podman => Ok(Box::new(Podman::start(scene)?)),
        Who::Crun => Ok(Box::new(Crun::start(scene)?)),
    }
}

/// Makes the image, unless it is there.
fn image(scene: &Scene) -> Outcome<std::path::PathBuf> {
    let path = scene.dir.join("image.tar");
    if !path.exists() {
        let script = helper("image.py");
        let mut command = Command::new(PYTHON);
        command.arg(script).arg(scene.rootfs()).arg(&path).arg(IMAGE);
        output(&mut command)?;
    }
    Ok(path)
}

/// A script that lies beside this file.
fn helper(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/budgets/peers").join(name)
}

/// What a command prints; if it can't be run or fails, why.
fn output(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} failed ({}): {}", output.status, said.trim()))
}

/// The version that a program tells, which is one of the words of its answer.
fn version(program: &str, arguments: &[&str]) -> Outcome<String> {
    let text = output(Command::new(program).args(arguments))?;
    let mut words = text.split_whitespace();
    let word = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Ok(word.unwrap_or("?").to_owned())
}
