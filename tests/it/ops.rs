//! What those who run nodes live by: configuration, metrics, status files, log volume, backups.

use crate::harness::{Node, send};

#[test]
fn a_configuration_is_reloaded_where_it_can_be_and_a_fault_in_it_stops_nothing() {
    let mut node = Node::new();
    let file = node.dir.path().join("agent.toml");
    std::fs::write(&file, "max-pods = 10\n").unwrap();
    node.set_env("ROOST_CONFIG", file.to_str().unwrap());
    node.start();
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        send(node.agent_pid(), libc::SIGHUP);
    };
    let until = |what: &str, holds: &dyn Fn(&serde_json::Value) -> bool| {
        node.until(what, |_| holds(&node.status()).then_some(()));
    };

    reload("log = 'debug'\nmax-pod = 5\nrelist = 3\n");
    until("an alarm with the place of the fault", &|status| {
        let alarms = status["alarms"].to_string();
        alarms.contains("agent.toml:2:1: `max-pod` is not known; did you mean `max-pods`?")
            && alarms.contains("agent.toml:3:10: `relist`")
    });
    assert!(!node.agent_log().contains("DEBUG"), "nothing of a faulty file is taken over");

    reload("log = 'info,roost::agent=debug'\nrelist = '1h'\nexecutor = '/bin/true'\n");
    until("the executor's change is named", &|status| {
        status["alarms"].as_array().unwrap().is_empty()
            && status["restartFor"] == serde_json::json!(["executor"])
    });
    let said = node.said(&["status"]);
    assert!(said.contains("Restart for:  executor"), "{said}");
    let events = node.ask("GET", "/api/v1/events").1.to_string();
    assert!(events.contains("ConfigInvalid") && events.contains("ConfigReloaded"), "{events}");

    reload("max-pods = 20\n");
    until("nothing waits any more", &|status| status["restartFor"].as_array().unwrap().is_empty());
    node.end();
}
