//! `roost status`.

use std::fmt::Write as _;

use serde_json::Value;

use super::args::StatusArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{structured, understood};
use super::screen::{Screen, Tone};
use super::{output, time};
use crate::api::overview::Overview;

/// Says how the agent is; a failure if somebody must act.
pub(super) async fn run(client: &Client, screen: Screen, args: &StatusArgs) -> Result<(), Failure> {
    let value: Value = client.get("/roost/v1/status").await?;
    let overview: Overview = understood(&value)?;
    match structured(args.output, &value) {
        Some(text) => output::print(&text)?,
        None => output::print(&text(screen, &overview))?,
    }
    if overview.needs_somebody() { Err(Failure::told()) } else { Ok(()) }
}

fn text(screen: Screen, overview: &Overview) -> String {
    let mut out = String::new();
    let mut toned = |tone: Tone, name: &str, value: &str| {
        let value = screen.paint(tone, &output::clean_line(value));
        writeln!(out, "{:<14}{value}", format!("{name}:")).expect("a string takes everything");
    };
    let state = if overview.recovered { "running" } else { "taking up the pods that it found" };
    let up = time::span(overview.uptime_seconds);
    let tone = if overview.recovered { Tone::Good } else { Tone::Warning };
    toned(tone, "Agent", &format!("{state}, version {}, for {up}", overview.version));
    let counts = overview.pods;
    let parts = [
        (counts.running, "running"),
        (counts.pending, "pending"),
        (counts.succeeded, "succeeded"),
        (counts.failed, "failed"),
        (counts.unknown, "unknown"),
        (counts.terminating, "terminating"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, name)| format!("{count} {name}")).collect();
    let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    toned(Tone::Plain, "Pods", &format!("{}{parts}", counts.total));
    toned(Tone::Plain, "Manifests", &overview.directories.join(", "));
    let tone = if overview.is_store_sound() { Tone::Plain } else { Tone::Bad };
    toned(tone, "Store", &overview.store);
    if let Some(fault) = &overview.store_fault {
        toned(Tone::Bad, "Store fault", fault);
    }
    let mut line = |name: &str, value: &str| toned(Tone::Plain, name, value);
    if !overview.restart_for.is_empty() {
        line("Restart for", &overview.restart_for.join(", "));
    }
    line("Cgroups", &format!("{}; all pods in `{}`", overview.cgroups, overview.cgroup));
    line("Data", &overview.paths.data);
    line("Runtime", &overview.paths.runtime);
    line("Logs", &overview.paths.logs);
    let mut list = |tone: Tone, title: &str, items: &mut dyn Iterator<Item = &String>| {
        let mut items = items.peekable();
        if items.peek().is_some() {
            let title = screen.paint(tone, &format!("{title}:"));
            writeln!(out, "{title}").expect("a string takes everything");
        }
        for item in items {
            let item = output::clean(item.trim_end()).replace('\n', "\n  ");
            writeln!(out, "  {item}").expect("a string takes everything");
        }
    };
    list(Tone::Bad, "Alarms", &mut overview.alarms.iter());
    let pressed = overview.conditions.iter().filter(|condition| condition.status == "True");
    let pressed = pressed.map(|condition| {
        format!("{}: {}", condition.kind, condition.message.as_deref().unwrap_or_default())
    });
    let pressed: Vec<String> = pressed.collect();
    list(Tone::Bad, "Pressure", &mut pressed.iter());
    list(Tone::Bad, "Pods in several manifests", &mut overview.contested.iter());
    list(Tone::Bad, "Faults in manifests", &mut overview.faults.values().flatten());
    list(Tone::Warning, "Warnings in manifests", &mut overview.warnings.values().flatten());
    list(Tone::Plain, "For other nodes", &mut overview.passed_over.iter());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::overview::{Counts, NodeCondition, Places};

    fn pressure() -> NodeCondition {
        NodeCondition {
            kind: "DiskPressure".to_owned(),
            status: "True".to_owned(),
            reason: "NodeHasDiskPressure".to_owned(),
            message: Some("1Gi of ephemeral-storage are left".to_owned()),
        }
    }

    #[test]
    fn the_state_of_the_agent_is_told_with_what_is_wrong() {
        let fault = "pods.d/a.yaml:1:1: error: x\n  help: y".to_owned();
        let overview = Overview {
            version: "0.1.0".to_owned(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            uptime_seconds: 200,
            recovered: true,
            resource_version: "7".to_owned(),
            store: "sound".to_owned(),
            store_fault: Some("disk full".to_owned()),
            cgroup: "roost".to_owned(),
            cgroups: "cgroup v2".to_owned(),
            directories: vec!["pods.d".to_owned()],
            paths: Places {
                data: "/d".to_owned(),
                runtime: "/r".to_owned(),
                logs: "/l".to_owned(),
            },
            alarms: vec!["gone".to_owned()],
            contested: vec!["pod default/a is also in pods.d/b.yaml".to_owned()],
            restart_for: vec!["pods".to_owned(), "cgroup".to_owned()],
            faults: [("pods.d/a.yaml".to_owned(), vec![fault])].into(),
            warnings: [("pods.d/c.yaml".to_owned(), vec!["odd".to_owned()])].into(),
            passed_over: vec!["pods.d/b.yaml: pod default/b".to_owned()],
            conditions: vec![pressure()],
            pods: Counts { total: 2, running: 1, failed: 1, ..Counts::default() },
        };
        insta::assert_snapshot!(text(Screen::default(), &overview), @r"
        Agent:        running, version 0.1.0, for 3m20s
        Pods:         2 (1 running, 1 failed)
        Manifests:    pods.d
        Store:        sound
        Store fault:  disk full
        Restart for:  pods, cgroup
        Cgroups:      cgroup v2; all pods in `roost`
        Data:         /d
        Runtime:      /r
        Logs:         /l
        Alarms:
          gone
        Pressure:
          DiskPressure: 1Gi of ephemeral-storage are left
        Pods in several manifests:
          pod default/a is also in pods.d/b.yaml
        Faults in manifests:
          pods.d/a.yaml:1:1: error: x
            help: y
        Warnings in manifests:
          odd
        For other nodes:
          pods.d/b.yaml: pod default/b
        ");
        assert!(overview.needs_somebody());
        let calm = Overview {
            store_fault: None,
            alarms: vec![],
            contested: vec![],
            faults: [].into(),
            ..overview
        };
        assert!(!calm.needs_somebody());
        for wrong in [
            Overview { store: "it was rebuilt".to_owned(), ..calm.clone() },
            Overview { alarms: vec!["gone".to_owned()], ..calm.clone() },
            Overview { contested: vec!["twice".to_owned()], ..calm.clone() },
            Overview { store_fault: Some("full".to_owned()), ..calm.clone() },
        ] {
            assert!(wrong.needs_somebody(), "{wrong:?}");
        }
    }
}
