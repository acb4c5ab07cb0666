//! What would be done, without doing it: for `plan` and `diff`. PURE but for the parsing that it
//! has done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::manifests::shelf_of;
use super::service::{Change, Difference, Differences, Fault, Planned, PlannedAction, Plans};
use crate::ids::{ContainerName, PodName};
use crate::manifest::desired::{Claim, DesiredState, DirectoryView};
use crate::manifest::file::{ParseOptions, ParsedFile, SPECS_LEN_MAX, parse_with};
use crate::manifest::library::{Library, Shelf};
use crate::manifest::pod::PodSpec;
use crate::manifest::resolve::Resolver;
use crate::manifest::revision::Revision;
use crate::reconciler::{ActualState, Key, Now, StoredSpec, reconcile};
use crate::state::record::{ManifestFile, PodRecord, RecordPhase};

/// What the reconciler decides on, at one moment.
#[derive(Debug, Clone)]
pub struct Inspection {
    pub(super) desired: DesiredState,
    pub(super) actual: ActualState,
    /// The directory that what the API creates goes to.
    pub(super) directory: Option<String>,
    /// How manifests are read.
    pub(super) options: ParseOptions,
    /// What is wrong in the manifest directories.
    pub(super) faults: Vec<Fault>,
    /// What each file has of ConfigMaps and Secrets.
    pub(super) shelves: BTreeMap<ManifestFile, Shelf>,
    /// Those that count.
    pub(super) library: Library,
    pub(super) resolver: Resolver,
    pub(super) now: Now,
}

/// A file that somebody thinks of putting into the manifest directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its name.
    pub name: String,
    /// What is to be in it.
    pub text: Vec<u8>,
}

/// What the reconciler would do now.
pub(super) fn plan(inspection: Inspection) -> Plans {
    let Inspection { desired, actual, faults, now, .. } = inspection;
    let mut plan = reconcile(&desired, &actual, now);
    let held = held(&desired, &actual);
    let mut names: BTreeSet<Key> = plan.work.keys().cloned().collect();
    names.extend(plan.waits.keys().chain(held.keys()).cloned().map(Key::Pod));
    let planned = names.into_iter().map(|key| {
        let steps = plan.work.remove(&key).unwrap_or_default();
        let actions = steps.into_iter().map(|step| PlannedAction {
            action: step.action.name().replace(' ', "-"),
            reason: step.reason.to_string(),
        });
        let actions = actions.collect();
        let (waits, held) = match &key {
            Key::Pod(name) => {
                (plan.waits.remove(name).map(|wait| wait.why), held.get(name).copied())
            }
            Key::Instance(_) => (None, None),
        };
        Planned { pod: key.to_string(), actions, waits, held }
    });
    Plans { items: planned.collect(), faults }
}

/// Pods that don't follow their manifest because they were rolled back from it, with the revision
/// that they were rolled back to.
fn held(desired: &DesiredState, actual: &ActualState) -> BTreeMap<PodName, u64> {
    let held = records(actual).filter_map(|(record, _)| {
        let claims = desired.claims.get(&record.name).map_or(&[][..], Vec::as_slice);
        let own = claims.iter().find(|claim| claim.source == record.source)?;
        Some((record.name.clone(), held_from(record, own)?))
    });
    held.collect()
}

/// The revision that a pod was rolled back to, if it was from this claim.
fn held_from(record: &PodRecord, claim: &Claim) -> Option<u64> {
    record.held.filter(|held| held.refused == claim.revision.digest()).map(|held| held.to)
}

/// The pods of the files are larger than [`SPECS_LEN_MAX`] bytes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pods of the files are larger than {SPECS_LEN_MAX} bytes together")]
pub struct TooLarge;

/// Bytes of a specification as JSON.
fn written_len(spec: &PodSpec) -> usize {
    serde_json::to_vec(spec).map_or(usize::MAX >> 1, |text| text.len())
}

/// What would change if these files were in the manifest directory; without any, what the
/// manifests as they are would change.
pub(super) fn diff(mut inspection: Inspection, drafts: &[Draft]) -> Result<Differences, TooLarge> {
    let mut faults = Vec::new();
    let mut len = 0;
    let mut names = BTreeSet::new();
    let directory = inspection.directory.clone().unwrap_or_default();
    for draft in drafts {
        let source = ManifestFile { directory: directory.clone(), file: draft.name.clone() };
        let parsed = parse_with(&draft.text, inspection.options);
        // Aliases make much of little.
        len += parsed.pods.iter().map(|pod| written_len(&pod.spec)).sum::<usize>();
        if len > SPECS_LEN_MAX {
            return Err(TooLarge);
        }
        let found = parsed.diagnostics.iter().cloned();
        faults.extend(found.map(|diagnostic| Fault { file: draft.name.clone(), diagnostic }));
        names.extend(replace(&mut inspection.desired, &source, &parsed));
        inspection.shelves.insert(source.clone(), shelf_of(&parsed));
        let records = records(&inspection.actual);
        names.extend(records.filter(|(r, _)| r.source == source).map(|(r, _)| r.name.clone()));
    }
    if !drafts.is_empty() {
        names.extend(resolve(&mut inspection));
    }
    let Inspection { desired, actual, faults: found, .. } = inspection;
    let (desired, actual) = (&desired, &actual);
    if drafts.is_empty() {
        faults = found;
        names.extend(desired.claims.keys().cloned());
        names.extend(records(actual).map(|(record, _)| record.name.clone()));
    }
    let items = names.into_iter().map(|name| difference(name, desired, actual)).collect();
    Ok(Differences { items, faults })
}

/// Finds out what claims take from documents as they would be; says of which that is something
/// else than it was.
fn resolve(inspection: &mut Inspection) -> Vec<PodName> {
    let Inspection { desired, shelves, library, resolver, .. } = inspection;
    let directories = &desired.directories;
    library.update(shelves, |directory| {
        !matches!(directories.get(directory), Some(DirectoryView::Read { .. }))
    });
    let mut others = Vec::new();
    for (name, claims) in &mut desired.claims {
        for claim in claims.iter_mut().filter(|claim| claim.spec.takes_config()) {
            let old = claim.revision.digest();
            match resolver.resolve(&claim.spec, library) {
                Ok(spec) => {
                    claim.revision = Revision::of(&spec);
                    (claim.spec, claim.lacks) = (Arc::new(spec), None);
                }
                Err(lack) => claim.lacks = Some(lack.to_string().into()),
            }
            if claim.revision.digest() != old || claim.lacks.is_some() {
                others.push(name.clone());
            }
        }
    }
    others
}

/// Puts a file in the place of the one of that name; says which pods it is about, and was.
fn replace(
    desired: &mut DesiredState,
    source: &ManifestFile,
    parsed: &ParsedFile,
) -> BTreeSet<PodName> {
    let mut names: BTreeSet<PodName> = parsed.faulty.iter().cloned().collect();
    for (name, claims) in &mut desired.claims {
        if claims.iter().any(|claim| claim.source == *source) {
            names.insert(name.clone());
            claims.retain(|claim| claim.source != *source);
        }
    }
    for pod in &parsed.pods {
        names.insert(pod.name.clone());
        let claims = desired.claims.entry(pod.name.clone()).or_default();
        claims.push(Claim {
            source: source.clone(),
            spec: pod.spec.clone(),
            revision: pod.revision.clone(),
            lacks: None,
        });
        claims.sort_by(|a, b| a.source.cmp(&b.source));
    }
    if parsed.complete {
        desired.faulty.remove(source);
    } else {
        desired.faulty.insert(source.clone());
    }
    names
}

/// What shall run or is through.
fn records(actual: &ActualState) -> impl Iterator<Item = (&PodRecord, Option<&StoredSpec>)> {
    actual.pods.values().filter_map(|pod| {
        let record = pod.record.as_ref()?;
        match record.phase {
            RecordPhase::Active | RecordPhase::Finished { .. } => Some((record, pod.spec.as_ref())),
            RecordPhase::Terminating { .. } | RecordPhase::Destroying { .. } => None,
        }
    })
}

fn difference(name: PodName, desired: &DesiredState, actual: &ActualState) -> Difference {
    let claims = desired.claims.get(&name).map_or(&[][..], Vec::as_slice);
    let is_here = |claim: &&Claim| actual.node.mismatch(&claim.spec).is_none();
    let found = records(actual).find(|(record, _)| record.name == name);
    let own = |source: &ManifestFile| claims.iter().find(|claim| claim.source == *source);
    let Some((record, stored)) = found else {
        let after = claims.iter().find(is_here);
        let change = if after.is_some() { Change::Create } else { Change::Nothing };
        let containers =
            after.map(|claim| claim.spec.all_containers().map(|c| c.name.clone()).collect());
        let after = after.map(|claim| claim.spec.clone());
        return Difference {
            pod: name,
            change,
            containers: containers.unwrap_or_default(),
            before: None,
            after,
            held: None,
        };
    };
    let before = stored.map(|stored| stored.spec.clone());
    let is_elsewhere = own(&record.source).is_some_and(|own| !is_here(&own));
    let is_kept = is_elsewhere || desired.faulty.contains(&record.source);
    let claim = match own(&record.source).filter(is_here) {
        Some(own) => Some(own),
        None if is_kept => None,
        None => claims.iter().find(is_here),
    };
    let (change, containers, after) = match claim {
        None if is_kept => (Change::Nothing, Vec::new(), before.clone()),
        None => (Change::Delete, Vec::new(), None),
        Some(claim) => {
            let after = Some(claim.spec.clone());
            let (change, containers) = change(record, stored, claim);
            (change, containers, after)
        }
    };
    let held = claim.and_then(|claim| held_from(record, claim));
    Difference { pod: name, change, containers, before, after, held }
}

fn change(
    record: &PodRecord,
    stored: Option<&StoredSpec>,
    claim: &Claim,
) -> (Change, Vec<ContainerName>) {
    let new = &claim.revision;
    if new.digest() == record.accepted.digest || held_from(record, claim).is_some() {
        return (Change::Nothing, Vec::new());
    }
    let all = || new.containers.keys().cloned().collect();
    if new.shared != record.accepted.shared {
        return (Change::Replace, all());
    }
    let Some(StoredSpec { revision: old, .. }) = stored else { return (Change::Replace, all()) };
    let other = other_containers(old, new);
    match (&record.phase, other.is_empty()) {
        (_, true) => (Change::Update, other),
        // What is through runs again as a new instance.
        (RecordPhase::Finished { .. }, false) => (Change::Replace, other),
        (_, false) => (Change::Restart, other),
    }
}

/// Those that are changed, added or removed.
fn other_containers(old: &Revision, new: &Revision) -> Vec<ContainerName> {
    let names: BTreeSet<&ContainerName> =
        old.containers.keys().chain(new.containers.keys()).collect();
    let differs = |name: &&&ContainerName| old.containers.get(**name) != new.containers.get(**name);
    names.iter().filter(differs).map(|name| (*name).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootTime, WallTime};
    use crate::ids::PodId;
    use crate::manifest::diagnostic::{Diagnostic, Position};
    use crate::manifest::file::parse;
    use crate::reconciler::{ActualPod, ExecutorState, Node};
    use crate::state::record::{Accepted, Held, Losses};

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  \
                       - name: main\n    command: [/bin/true]\n  - name: side\n    \
                       command: [/bin/true]\n";

    fn source(file: &str) -> ManifestFile {
        ManifestFile { directory: "/m".to_owned(), file: file.to_owned() }
    }

    /// `web.yaml` asks for the pod, and it runs.
    fn inspection() -> Inspection {
        let pod = parse(POD.as_bytes()).pods.remove(0);
        let id = PodId::from_random(1);
        let (digest, shared) = (pod.revision.digest(), pod.revision.shared);
        let record = PodRecord {
            id,
            name: pod.name.clone(),
            source: source("web.yaml"),
            accepted: Accepted { number: 1, digest, shared, at: WallTime(0) },
            history: vec![],
            phase: RecordPhase::Active,
            created_at: WallTime(0),
            losses: Losses::default(),
            held: None,
            trial: None,
            successor: None,
            eviction: None,
        };
        let actual = ActualPod {
            record: Some(record),
            adoptable: None,
            spec: Some(StoredSpec::new(pod.spec.clone())),
            successor: None,
            executor: ExecutorState::Silent,
            has_runtime: true,
        };
        let mut desired = DesiredState::default();
        let view = DirectoryView::Read { handle: vec![1], empty: false };
        desired.directories.insert("/m".to_owned(), view);
        replace(&mut desired, &source("web.yaml"), &parse(POD.as_bytes()));
        let actual = ActualState {
            boot: "boot".parse().unwrap(),
            executor_build: String::new(),
            directories: BTreeMap::from([("/m".to_owned(), vec![1])]),
            node: Node::default(),
            under_way: BTreeMap::new(),
            images: Default::default(),
            asked: BTreeMap::new(),
            pressure: Default::default(),
            verdicts: Default::default(),
            pods: BTreeMap::from([(id, actual)]),
        };
        let now = Now { boot: BootTime(1), wall: WallTime(1) };
        Inspection {
            desired,
            actual,
            directory: Some("/m".to_owned()),
            options: ParseOptions::default(),
            faults: vec![],
            shelves: BTreeMap::new(),
            library: Library::default(),
            resolver: Resolver { key: Arc::new([7; 32]), node: Default::default() },
            now,
        }
    }

    #[track_caller]
    fn check(drafts: &[(&str, &str)], expected: &[(&str, Change, &str)]) -> Differences {
        let draft = |(name, text): &(&str, &str)| Draft {
            name: (*name).to_owned(),
            text: text.as_bytes().to_vec(),
        };
        let drafts: Vec<Draft> = drafts.iter().map(draft).collect();
        let made = diff(inspection(), &drafts).unwrap();
        let found: Vec<(String, Change, String)> = made
            .items
            .iter()
            .map(|item| {
                let names: Vec<String> = item.containers.iter().map(ToString::to_string).collect();
                (item.pod.name.to_string(), item.change, names.join(" "))
            })
            .collect();
        let expected: Vec<(String, Change, String)> = expected
            .iter()
            .map(|(pod, change, names)| ((*pod).to_owned(), *change, (*names).to_owned()))
            .collect();
        assert_eq!(found, expected);
        made
    }

    #[test]
    fn a_difference_says_what_it_costs() {
        let changed = |old: &str, new: &str| POD.replacen(old, new, 1);
        check(&[], &[("web", Change::Nothing, "")]);
        check(&[("web.yaml", POD)], &[("web", Change::Nothing, "")]);
        let labelled = changed("name: web", "name: web\n  labels: {a: b}");
        check(&[("web.yaml", &labelled)], &[("web", Change::Update, "")]);
        let other = changed("/bin/true", "/bin/false");
        check(&[("web.yaml", &other)], &[("web", Change::Restart, "main")]);
        let shared = changed("spec:", "spec:\n  hostname: x");
        check(&[("web.yaml", &shared)], &[("web", Change::Replace, "main side")]);
        let renamed = changed("name: web", "name: new");
        let expected = [("new", Change::Create, "main side"), ("web", Change::Delete, "")];
        check(&[("web.yaml", &renamed)], &expected);
        check(&[("new.yaml", &renamed)], &[("new", Change::Create, "main side")]);
        // Another file that claims the pod does not get it.
        check(&[("a.yaml", &shared)], &[("web", Change::Nothing, "")]);
        let made = check(&[("web.yaml", "kind: [")], &[("web", Change::Nothing, "")]);
        assert_eq!(
            (made.faults[0].file.as_str(), made.items[0].after.is_some()),
            ("web.yaml", true)
        );
        let elsewhere = changed("spec:", "spec:\n  nodeSelector: {a: b}");
        check(&[("web.yaml", &elsewhere)], &[("web", Change::Nothing, "")]);
    }

    #[test]
    fn a_plan_tells_what_waits() {
        let mut inspection = inspection();
        let text = POD.replace("name: web", "name: big").replacen(
            "command:",
            "resources: {requests: {cpu: 3}}\n    command:",
            1,
        );
        inspection.actual.node.capacity.cpu_milli = 2000;
        replace(&mut inspection.desired, &source("big.yaml"), &parse(text.as_bytes()));
        let planned = plan(inspection).items;
        let waits = planned[0].waits.as_deref();
        assert_eq!(waits, Some("needs 3 cpu, 2 of 2 are free (reserve 0)"));
        assert_eq!((planned.len(), planned[0].pod.as_str()), (1, "default/big"));
    }

    #[test]
    fn a_pod_that_was_rolled_back_is_held_and_nobody_is_left_to_wonder() {
        let mut inspection = inspection();
        let other = POD.replacen("/bin/true", "/bin/false", 1);
        replace(&mut inspection.desired, &source("web.yaml"), &parse(other.as_bytes()));
        let refused = inspection.desired.claims.values().next().unwrap()[0].revision.digest();
        let held = Some(Held { refused, to: 1 });
        for pod in inspection.actual.pods.values_mut() {
            pod.record.as_mut().unwrap().held = held;
        }
        let fault = Diagnostic::error(Position::START, "", "is wrong");
        inspection.faults = vec![Fault { file: "/m/b.yaml".to_owned(), diagnostic: fault }];
        let made = diff(inspection.clone(), &[]).unwrap();
        assert_eq!((made.items[0].change, made.items[0].held), (Change::Nothing, Some(1)));
        assert_eq!(made.faults.len(), 1);
        let draft = |text: &str| Draft { name: "web.yaml".to_owned(), text: text.into() };
        let made = diff(inspection.clone(), &[draft(&other)]).unwrap();
        assert_eq!((made.items[0].held, made.faults.len()), (Some(1), 0));
        let third = POD.replacen("/bin/true", "/bin/third", 1);
        let made = diff(inspection.clone(), &[draft(&third)]).unwrap();
        assert_eq!((made.items[0].change, made.items[0].held), (Change::Restart, None));
        let planned = plan(inspection);
        let held = planned.items.iter().find(|item| item.pod == "default/web").unwrap();
        assert_eq!((held.held, planned.faults.len()), (Some(1), 1));
    }
}
