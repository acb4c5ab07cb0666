//! What a pod shows to registries: its `imagePullSecrets`. PURE.
//!
//! As with the kubelet, a Secret that is missing or holds nothing of the kind is no reason not to
//! try: the image may be here, or public.

use crate::ids::PodName;
use crate::manifest::document::{DocumentKind, DocumentName};
use crate::manifest::library::Library;
use crate::manifest::pod::PodSpec;
use crate::provisioner::auth::Credentials;

/// Types of Secrets with credentials, and the key of these (Kubernetes, "Docker config Secrets").
const TYPES: [(&str, &str); 2] = [
    ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
    ("kubernetes.io/dockercfg", ".dockercfg"),
];

/// What a pod shows to registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PullSecrets {
    pub(super) credentials: Credentials,
    /// Why some can't be used.
    pub(super) problems: Vec<String>,
}

/// What a pod shows to registries, with the documents as they are.
pub(super) fn of(spec: &PodSpec, library: &Library) -> PullSecrets {
    let mut shown = PullSecrets::default();
    for name in &spec.image_pull_secrets {
        let name = PodName { namespace: spec.name.namespace.clone(), name: name.clone() };
        let name = DocumentName { kind: DocumentKind::Secret, name };
        if let Err(problem) = add(&mut shown.credentials, &name, library) {
            shown.problems.push(format!("imagePullSecrets: {problem}"));
        }
    }
    shown
}

fn add(
    credentials: &mut Credentials,
    name: &DocumentName,
    library: &Library,
) -> Result<(), String> {
    let document = library.get(name).ok_or_else(|| format!("there is no {name}"))?;
    let found = document.secret_type.as_deref().unwrap_or_default();
    let (_, key) = TYPES.iter().find(|(known, _)| *known == found).ok_or_else(|| {
        format!("{name} is of type `{found}`; `kubernetes.io/dockerconfigjson` is needed")
    })?;
    let value = document.data.get(*key).map(|data| data.bytes.as_slice()).unwrap_or_default();
    let text = std::str::from_utf8(value).map_err(|_| format!("`{key}` of {name} is not text"))?;
    credentials.add(&name.to_string(), text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::manifest::file::parse;
    use crate::manifest::library::Shelf;
    use crate::state::record::ManifestFile;

    const TEXT: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: good}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{"auths":{"r.example":{"username":"me","password":"hunter2"}}}'}
---
apiVersion: v1
kind: Secret
metadata: {name: old}
type: kubernetes.io/dockercfg
stringData: {.dockercfg: '{"old.example":{"username":"me","password":"hunter2"}}'}
---
apiVersion: v1
kind: Secret
metadata: {name: broken}
type: kubernetes.io/dockerconfigjson
stringData: {.dockerconfigjson: '{"auths":{"hunter2'}
---
apiVersion: v1
kind: Secret
metadata: {name: other}
stringData: {a: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  imagePullSecrets: [{name: missing}, {name: good}, {name: broken}, {name: other}, {name: old}]
  containers: [{name: main, image: r.example/a}]
"#;

    #[test]
    fn the_secrets_of_a_pod_are_shown_and_what_is_wrong_with_the_others_is_told() {
        let parsed = parse(TEXT.as_bytes());
        assert!(parsed.complete, "{:?}", parsed.diagnostics);
        let file = ManifestFile { directory: "/m".to_owned(), file: "a".to_owned() };
        let good = parsed.documents.iter().map(|it| it.document.clone()).collect();
        let shelf = Shelf { good, ..Shelf::default() };
        let mut library = Library::default();
        library.update(&BTreeMap::from([(file, shelf)]), |_| false);
        let PullSecrets { credentials, problems } = of(&parsed.pods[0].spec, &library);
        for host in ["r.example", "old.example"] {
            assert_eq!(credentials.logins(host, "a").unwrap().len(), 1, "{host}");
        }
        let text = problems.join("\n");
        assert_eq!(problems.len(), 3, "{text}");
        for part in ["no Secret default/missing", "default/broken", "of type `Opaque`"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }
}
