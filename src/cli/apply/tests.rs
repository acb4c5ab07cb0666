use super::*;
use crate::api::kubernetes;
use crate::api::samples::{context, pod as sample};

const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: main\n    command: [/bin/true]\n";

fn shown(name: &str, number: u32) -> Pod {
    kubernetes::pod::of(&sample(name, number), &context())
}

fn input(text: &str) -> Manifest {
    let parsed = crate::manifest::file::parse(text.as_bytes());
    assert!(parsed.complete, "{:?}", parsed.diagnostics);
    Manifest { name: "<stdin>".to_owned(), file: None, text: text.into(), parsed }
}

#[test]
fn what_comes_from_standard_input_gets_a_name() {
    let nothing = Before::of(&[]);
    assert_eq!(nothing.place(&input(WEB)).unwrap(), "web.yaml");
    let shop = WEB.replace("{name: web}", "{name: web, namespace: shop}");
    assert_eq!(nothing.place(&input(&shop)).unwrap(), "shop_web.yaml");
    nothing.place(&input("# nothing\n")).unwrap_err();
    // The file that has it already, unless it has others too.
    assert_eq!(Before::of(&[shown("web", 1)]).place(&input(WEB)).unwrap(), "hello.yaml");
    let both = Before::of(&[shown("web", 1), shown("db", 2)]);
    assert_eq!(both.place(&input(WEB)).unwrap(), "web.yaml");
    let named = Manifest { file: Some("mine.yaml".to_owned()), ..input(WEB) };
    assert_eq!(both.place(&named).unwrap(), "mine.yaml");
}

#[test]
fn pods_that_nobody_spoke_of_do_not_end_unasked() {
    let item = |pod: &str, change: &str| serde_json::json!({ "pod": pod, "change": change });
    let difference = |items: Vec<Value>| -> Difference {
        serde_json::from_value(serde_json::json!({ "items": items })).unwrap()
    };
    keep_all(&difference(vec![item("default/web", "replace")])).unwrap();
    let items = vec![item("default/web", "update"), item("shop/db", "delete")];
    let failure = keep_all(&difference(items)).unwrap_err();
    assert!(failure.text(false).contains("shop/db"), "{failure}");
    assert!(failure.text(false).contains("--prune"), "{failure}");
}

#[test]
fn two_files_of_one_name_are_refused() {
    let named = || Manifest { file: Some("mine.yaml".to_owned()), ..input(WEB) };
    unique(&[named()]).unwrap();
    let failure = unique(&[named(), named()]).unwrap_err();
    assert!(failure.to_string().contains("mine.yaml"), "{failure}");
}

#[test]
fn a_change_is_through_when_what_it_made_is_ready() {
    let name: PodName = "web".parse().unwrap();
    let old = shown("web", 1);
    let before = Instance::of(&old);
    let check = |change, before: Option<&Instance>, pods: &[Pod]| {
        !matches!(settled(&name, change, before, pods).unwrap(), Step::Waits(_))
    };
    assert!(!check(Change::Create, None, &[]));
    assert!(check(Change::Create, None, std::slice::from_ref(&old)));
    assert!(check(Change::None, Some(&before), std::slice::from_ref(&old)));
    assert!(!check(Change::Replace, Some(&before), std::slice::from_ref(&old)));
    assert!(check(Change::Replace, Some(&before), &[old.clone(), shown("web", 2)]));
    assert!(!check(Change::Restart, Some(&before), std::slice::from_ref(&old)));
    let mut newer = old.clone();
    newer.metadata.generation = 3;
    assert!(!check(Change::Restart, Some(&before), std::slice::from_ref(&newer)));
    newer.status.observed_generation = 3;
    assert!(check(Change::Update, Some(&before), std::slice::from_ref(&newer)));
    assert!(!check(Change::Delete, Some(&before), std::slice::from_ref(&newer)));
    assert!(check(Change::Delete, Some(&before), &[]));
}

#[test]
fn a_restart_is_seen_in_the_runs_of_all_containers() {
    let old = shown("web", 1);
    let before = Instance::of(&old);
    assert!(!before.is_all_anew(&old));
    let mut new = old.clone();
    new.status.container_statuses[0].container_id = Some("roost://1/web/7".to_owned());
    assert!(!before.is_all_anew(&new));
    new.status.container_statuses[1].container_id = Some("roost://1/sidecar/7".to_owned());
    assert!(before.is_all_anew(&new));
    assert!(before.is_all_anew(&shown("web", 2)));
}
