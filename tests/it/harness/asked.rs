//! Manifests made for tests. JSON, because it is made from values; what is said about text (lines,
//! comments) is tested with YAML written out.

use std::path::Path;

use serde_json::{Value, json};

/// A script that runs until it is told to stop, and then stops at once.
pub const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";

/// Where containers find the directory that they share with the test.
pub const OUT: &str = "/srv";

/// A pod that a test asks for.
#[derive(Debug, Clone)]
pub struct Asked(pub Value);

impl Asked {
    /// A pod without containers yet. Its grace period is a second.
    pub fn pod(name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [] },
        }))
    }

    /// A pod of one container.
    pub fn one(name: &str, script: &str) -> Self {
        Self::pod(name).container("main", script)
    }

    /// Adds a container that runs a shell script on the host's root.
    pub fn container(mut self, name: &str, script: &str) -> Self {
        let container = json!({ "name": name, "command": ["/bin/sh", "-c", script] });
        self.0["spec"]["containers"].as_array_mut().unwrap().push(container);
        self
    }

    /// Adds an init container.
    pub fn init(mut self, name: &str, script: &str) -> Self {
        let container = json!({ "name": name, "command": ["/bin/sh", "-c", script] });
        push(&mut self.0["spec"]["initContainers"], container);
        self
    }

    /// Adds a sidecar.
    pub fn sidecar(mut self, name: &str, script: &str) -> Self {
        self = self.init(name, script);
        let list = self.0["spec"]["initContainers"].as_array_mut().unwrap();
        list.last_mut().unwrap()["restartPolicy"] = json!("Always");
        self
    }

    pub fn policy(self, policy: &str) -> Self {
        self.with("/spec/restartPolicy", json!(policy))
    }

    /// Sets a field; `/` parts its path, the last part may be new.
    pub fn with(mut self, path: &str, value: Value) -> Self {
        let (parent, last) = path.rsplit_once('/').unwrap();
        let parent = self.0.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
        parent[last] = value;
        self
    }

    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][name] = json!(value);
        self
    }

    /// Mounts a directory of the host at [`OUT`] in every container so far.
    pub fn sharing(self, directory: &Path) -> Self {
        let source =
            json!({ "name": "out", "hostPath": { "path": directory, "type": "Directory" } });
        self.mounting(&source, OUT)
    }

    /// Mounts a volume in every container so far.
    pub fn mounting(mut self, volume: &Value, path: &str) -> Self {
        let spec = &mut self.0["spec"];
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                let mount = json!({ "name": volume["name"], "mountPath": path });
                push(&mut container["volumeMounts"], mount);
            }
        }
        push(&mut spec["volumes"], volume.clone());
        self
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("default/{}", self.0["metadata"]["name"].as_str().unwrap())
    }

    /// The name of its manifest.
    pub fn file(&self) -> String {
        format!("{}.json", self.0["metadata"]["name"].as_str().unwrap())
    }

    pub fn text(&self) -> String {
        self.0.to_string()
    }
}

fn push(list: &mut Value, value: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(value);
}

/// A script that proves that it runs once at a time: for its whole life it, and whatever it starts,
/// holds a lock named `name` in [`OUT`], and writes `DOUBLE` to the trace of that name when the
/// lock is taken. Start and stop are in the trace as well, with what `$VERSION` is.
pub fn alone(name: &str, script: &str) -> String {
    format!(
        "exec 9>{OUT}/{name}.lock; flock -n 9 || echo DOUBLE >> {OUT}/{name}.trace; \
         echo start $VERSION >> {OUT}/{name}.trace; {script}"
    )
}
