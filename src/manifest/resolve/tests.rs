use super::*;
use crate::manifest::file::parse;
use crate::manifest::library::Shelf;
use crate::manifest::revision::Revision;

const DOCUMENTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {greeting: hello, "a.b": dotted, file: "line 1\n"}
binaryData: {raw: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: db}
data: {user: bWU=}
stringData: {password: hunter2}
"#;

fn library(text: &str) -> Library {
    if text.is_empty() {
        return Library::default();
    }
    let parsed = parse(text.as_bytes());
    assert!(parsed.complete, "{:?}", parsed.diagnostics);
    let file = ManifestFile { directory: "/m".to_owned(), file: "a".to_owned() };
    let good = parsed.documents.iter().map(|it| it.document.clone()).collect();
    let shelf = Shelf { good, faulty: vec![], complete: true };
    let mut library = Library::default();
    library.update(&BTreeMap::from([(file, shelf)]), |_| false);
    library
}

fn pod(spec: &str) -> Arc<PodSpec> {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{b: '2', a: 'x \"y\"'}}, \
         annotations: {{n: \"1\\n2\"}}}}\nspec:\n{spec}"
    );
    let parsed = parse(text.as_bytes());
    assert_eq!(parsed.diagnostics, [], "{text}");
    parsed.pods[0].spec.clone()
}

fn resolver() -> Resolver {
    let node = NodeFacts {
        name: "edge-1".to_owned(),
        addresses: vec!["192.0.2.7".to_owned(), "2001:db8::7".to_owned()],
        cpu_milli: 4000,
        memory_bytes: 8 << 30,
        storage_bytes: 100 << 30,
    };
    Resolver { key: Arc::new([7; 32]), node }
}

/// The variables and the command of the first container.
fn started(spec: &PodSpec, documents: &str) -> (Vec<String>, Vec<String>) {
    let resolved = resolver().resolve(spec, &library(documents)).unwrap();
    let used = resolved.config.clone().unwrap_or_default();
    let content = used.content.0.as_deref().cloned().unwrap_or_default();
    let of =
        Instance { pod: &resolved, content: &content, id: PodId::from_random(1), addresses: &[] };
    let ready = container(of, &resolved.containers[0]).unwrap();
    assert!(!ready.has_open_variables());
    let env = ready.env.iter().map(|var| format!("{}={}", var.name, var.value)).collect();
    (env, [ready.command, ready.args].concat())
}

fn contents(spec: &PodSpec, documents: &str) -> Vec<(String, String, u32)> {
    let resolved = resolver().resolve(spec, &library(documents)).unwrap();
    let used = resolved.config.clone().unwrap_or_default();
    let content = used.content.0.as_deref().cloned().unwrap_or_default();
    let of =
        Instance { pod: &resolved, content: &content, id: PodId::from_random(1), addresses: &[] };
    let VolumeSource::Projected(projected) = &resolved.volumes[0].source else { panic!() };
    let files = files(of, projected).unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    files.iter().map(|(path, file)| (path.clone(), text(&file.bytes), file.mode)).collect()
}

#[test]
fn variables_are_put_in_from_top_to_bottom_and_those_of_documents_first() {
    let spec = pod(r#"
  containers:
    - name: main
      command: [/bin/app, "$(GREETING) $(C_greeting) $(LATE) $(NONE)"]
      args: ["$(PASSWORD)"]
      envFrom:
        - {prefix: C_, configMapRef: {name: app}}
        - {secretRef: {name: db}}
        - {configMapRef: {name: none, optional: true}}
      env:
        - {name: EARLY, value: "$(LATE)-$(user)"}
        - {name: user, value: other}
        - {name: LATE, value: "$(C_greeting)!"}
        - {name: GREETING, valueFrom: {configMapKeyRef: {name: app, key: greeting}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: db, key: password}}}
        - {name: GONE, valueFrom: {secretKeyRef: {name: db, key: gone, optional: true}}}
"#);
    let (env, command) = started(&spec, DOCUMENTS);
    let expected = [
        "C_a.b=dotted",
        "C_file=line 1\n",
        "C_greeting=hello",
        "password=hunter2",
        "user=other",
        "EARLY=$(LATE)-me",
        "LATE=hello!",
        "GREETING=hello",
        "PASSWORD=hunter2",
    ];
    assert_eq!(env, expected);
    assert_eq!(command, ["/bin/app", "hello hello hello! $(NONE)", "hunter2"]);
}

#[test]
fn a_pod_knows_itself_and_its_node() {
    let field = |path: &str| format!("{{name: A, valueFrom: {{fieldRef: {{fieldPath: {path}}}}}}}");
    let resource = |of: &str| format!("{{name: A, valueFrom: {{resourceFieldRef: {{{of}}}}}}}");
    let cases = [
        (field("metadata.name"), "p"),
        (field("metadata.namespace"), "default"),
        (field("metadata.uid"), "00000000-0000-4000-8000-000000000001"),
        (field("\"metadata.labels['b']\""), "2"),
        (field("\"metadata.annotations['none']\""), ""),
        (field("spec.nodeName"), "edge-1"),
        (field("spec.serviceAccountName"), "default"),
        (field("status.hostIP"), "192.0.2.7"),
        (field("status.podIPs"), "192.0.2.7,2001:db8::7"),
        (resource("resource: limits.cpu"), "2"),
        (resource("resource: limits.cpu, divisor: 1m"), "1500"),
        (resource("resource: limits.memory, divisor: 1Mi"), "8192"),
        (resource("resource: requests.memory"), "0"),
        (resource("resource: limits.ephemeral-storage, divisor: 1Gi"), "100"),
        (resource("resource: requests.ephemeral-storage"), "0"),
    ];
    for (var, expected) in cases {
        let spec = pod(&format!(
            "  hostNetwork: true\n  containers:\n    - name: main\n      command: [a]\n      \
             resources: {{limits: {{cpu: 1500m}}}}\n      env: [{var}]\n"
        ));
        assert_eq!(started(&spec, "").0, [format!("A={expected}")], "{var}");
    }
}

#[test]
fn volumes_have_the_files_that_are_asked_for_with_their_modes() {
    let spec = pod(r"
  containers: [{name: main, command: [a]}]
  volumes:
    - name: all
      projected:
        defaultMode: 0440
        sources:
          - configMap: {name: app}
          - secret: {name: db, items: [{key: password, path: secret/password, mode: 0400}]}
          - secret: {name: none, optional: true}
          - downwardAPI:
              items:
                - {path: labels, fieldRef: {fieldPath: metadata.labels}}
                - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
                - {path: cpu, resourceFieldRef: {containerName: main, resource: limits.cpu}}
");
    let file = |path: &str, text: &str, mode| (path.to_owned(), text.to_owned(), mode);
    let expected = [
        file("a.b", "dotted", 0o440),
        file("annotations", "n=\"1\\n2\"", 0o440),
        file("cpu", "4", 0o440),
        file("file", "line 1\n", 0o440),
        file("greeting", "hello", 0o440),
        file("labels", "a=\"x \\\"y\\\"\"\nb=\"2\"", 0o440),
        file("raw", "\0\u{1}\u{2}", 0o440),
        file("secret/password", "hunter2", 0o400),
    ];
    assert_eq!(contents(&spec, DOCUMENTS), expected);
}

#[test]
fn what_is_lacking_is_told_by_name() {
    let lack = |reference: &str, documents: &str| {
        let spec = pod(&format!(
            "  containers: [{{name: main, command: [a], env: [{{name: A, valueFrom: {reference}}}]}}]\n"
        ));
        let lack = resolver().resolve(&spec, &library(documents)).unwrap_err().to_string();
        assert!(!lack.contains("hunter2"), "{lack}");
        lack
    };
    let key = "{secretKeyRef: {name: db, key: password}}";
    assert_eq!(lack(key, ""), "waits for Secret default/db");
    let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: other}\n";
    assert_eq!(lack(key, other), "waits for Secret default/db");
    let without = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {a: hunter2}\n";
    assert_eq!(lack(key, without), "waits for Secret default/db to have the key `password`");
    let binary = "{configMapKeyRef: {name: app, key: raw}}";
    assert_eq!(lack(binary, DOCUMENTS), "waits for ConfigMap default/app to have the key `raw`");
    let nul =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\ndata: {password: AGh1bnRlcjI=}\n";
    assert!(lack(key, nul).contains("NUL"), "{}", lack(key, nul));
}

#[test]
fn only_what_is_used_counts_and_only_its_hash_is_written() {
    let text = |annotation: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {{{annotation}}}}}\nspec:\n  \
             containers:\n    - name: main\n      command: [a]\n      env: [{{name: A, valueFrom: \
             {{secretKeyRef: {{name: db, key: password}}}}}}]\n    - {{name: side, command: [a]}}\n"
        )
    };
    let revision = |annotation: &str, documents: &str, key: u8| {
        let spec = parse(text(annotation).as_bytes()).pods.remove(0).spec;
        let resolver = Resolver { key: Arc::new([key; 32]), ..resolver() };
        let spec = resolver.resolve(&spec, &library(documents)).unwrap();
        let written = serde_json::to_string(&spec).unwrap();
        assert!(!written.contains("hunter2") && !written.contains("aHVudGVyMg"), "{written}");
        assert!(!format!("{spec:?}").contains("hunter2"));
        assert_eq!(serde_json::from_str::<PodSpec>(&written).unwrap(), spec);
        Revision::of(&spec)
    };
    let changed = DOCUMENTS.replace("hunter2", "hunter3");
    let elsewhere = DOCUMENTS.replace("hello", "hi").replace("bWU=", "eW91");
    let before = revision("", DOCUMENTS, 1);
    assert_eq!(revision("", &elsewhere, 1), before);
    assert_ne!(revision("", DOCUMENTS, 2).digest(), before.digest());
    let after = revision("", &changed, 1);
    assert_eq!((after.shared, &after.containers), (before.shared, &before.containers));
    assert_ne!(after.digest(), before.digest());
    let restarts = "roost/restart-on-config-change: 'true'";
    let (before, after) = (revision(restarts, DOCUMENTS, 1), revision(restarts, &changed, 1));
    let differs: Vec<&str> = before
        .containers
        .iter()
        .filter(|(name, hash)| after.containers[*name] != **hash)
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(differs, ["main"]);
}

#[test]
fn texts_are_quoted_as_go_does() {
    assert_eq!(
        go("a\"\\\n\t\r\u{7}\u{1}\u{7f}\u{85}ä "),
        "\"a\\\"\\\\\\n\\t\\r\\a\\x01\\x7f\\u0085ä \""
    );
}
