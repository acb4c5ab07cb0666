//! What there is, for clients that ask before anything else: `/version`, `/api`, `/apis`,
//! `/api/v1`. PURE.
//!
//! Only what is served is named. Not here: what the resources look like.

use serde_json::{Value, json};

/// The version of the Kubernetes API that the shapes are of.
const MAJOR: &str = "1";
/// The same.
const MINOR: &str = "32";

/// `/version`.
#[must_use]
pub fn version(of_agent: &str) -> Value {
    json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+roost-{of_agent}"),
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "",
        "platform": format!("linux/{}", std::env::consts::ARCH),
    })
}

/// `/api`.
#[must_use]
pub fn versions() -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
}

/// `/apis`.
#[must_use]
pub fn groups() -> Value {
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })
}

/// `/api/v1`.
#[must_use]
pub fn resources() -> Value {
    let resource = |name: &str, kind: &str, verbs: &[&str], short: &[&str]| {
        let singular = if name.contains('/') { "" } else { name.trim_end_matches('s') };
        let mut resource = json!({
            "name": name,
            "singularName": singular,
            "namespaced": true,
            "kind": kind,
            "verbs": verbs,
        });
        if !short.is_empty() {
            resource["shortNames"] = json!(short);
        }
        resource
    };
    json!({
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            resource("configmaps", "ConfigMap", &["list"], &["cm"]),
            resource("events", "Event", &["list", "watch"], &["ev"]),
            resource("pods", "Pod", &["delete", "get", "list", "watch"], &["po"]),
            resource("pods/exec", "PodExecOptions", &["create", "get"], &[]),
            resource("pods/log", "Pod", &["get"], &[]),
            resource("pods/portforward", "PodPortForwardOptions", &["create", "get"], &[]),
            resource("secrets", "Secret", &["list"], &[]),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_as_clients_look_for_them() {
        let found = resources();
        let pods = found["resources"].as_array().unwrap().iter().find(|it| it["name"] == "pods");
        assert_eq!(pods.unwrap()["singularName"], "pod");
        assert_eq!(pods.unwrap()["shortNames"], json!(["po"]));
        assert!(version("0.1.0")["gitVersion"].as_str().unwrap().starts_with("v1.32.0+roost-"));
    }
}
