//! What would be done, without doing it: for `plan` and `diff`. PURE but for the parsing that it
//! has done.

use std::collections::BTreeSet;

use super::service::{Change, Difference, Differences, Fault, Planned, PlannedAction};
use crate::ids::{ContainerName, PodName};
use crate::manifest::desired::{Claim, DesiredState};
use crate::manifest::file::{ParsedFile, parse};
use crate::manifest::revision::Revision;
use crate::reconciler::{ActualState, Key, Now, StoredSpec, reconcile};
use crate::state::record::{ManifestFile, PodRecord, RecordPhase};

/// What the reconciler decides on, at one moment.
#[derive(Debug)]
pub struct Inspection {
    pub(super) desired: DesiredState,
    pub(super) actual: ActualState,
    /// The directory that what the API creates goes to.
    pub(super) directory: Option<String>,
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
pub(super) fn plan(inspection: &Inspection) -> Vec<Planned> {
    let Inspection { desired, actual, directory: _, now } = inspection;
    let mut plan = reconcile(desired, actual, *now);
    let mut names: BTreeSet<Key> = plan.work.keys().cloned().collect();
    names.extend(plan.waits.keys().cloned().map(Key::Pod));
    let planned = names.into_iter().map(|key| {
        let steps = plan.work.remove(&key).unwrap_or_default();
        let actions = steps.into_iter().map(|step| PlannedAction {
            action: step.action.name().replace(' ', "-"),
            reason: step.reason.to_string(),
        });
        let actions = actions.collect();
        let waits = match &key {
            Key::Pod(name) => plan.waits.remove(name).map(|wait| wait.why),
            Key::Instance(_) => None,
        };
        Planned { pod: key.to_string(), actions, waits }
    });
    planned.collect()
}

/// What would change if these files were in the manifest directory; without any, what the
/// manifests as they are would change.
pub(super) fn diff(mut inspection: Inspection, drafts: &[Draft]) -> Differences {
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    let directory = inspection.directory.clone().unwrap_or_default();
    for draft in drafts {
        let source = ManifestFile { directory: directory.clone(), file: draft.name.clone() };
        let parsed = parse(&draft.text);
        let found = parsed.diagnostics.iter().cloned();
        faults.extend(found.map(|diagnostic| Fault { file: draft.name.clone(), diagnostic }));
        names.extend(replace(&mut inspection.desired, &source, &parsed));
        let records = records(&inspection.actual);
        names.extend(records.filter(|(r, _)| r.source == source).map(|(r, _)| r.name.clone()));
    }
    let Inspection { desired, actual, .. } = &inspection;
    if drafts.is_empty() {
        names.extend(desired.claims.keys().cloned());
        names.extend(records(actual).map(|(record, _)| record.name.clone()));
    }
    let items = names.into_iter().map(|name| difference(name, desired, actual)).collect();
    Differences { items, faults }
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
            after.map(|claim| claim.spec.containers.iter().map(|c| c.name.clone()).collect());
        let after = after.map(|claim| claim.spec.clone());
        return Difference {
            pod: name,
            change,
            containers: containers.unwrap_or_default(),
            before: None,
            after,
        };
    };
    let before = stored.map(|stored| stored.spec.clone());
    let is_kept = desired.faulty.contains(&record.source);
    let claim = match own(&record.source) {
        Some(own) => Some(own),
        None if is_kept => None,
        None => claims.first(),
    };
    let (change, containers, after) = match claim.filter(is_here) {
        None if is_kept => (Change::Nothing, Vec::new(), before.clone()),
        None => (Change::Delete, Vec::new(), None),
        Some(claim) => {
            let after = Some(claim.spec.clone());
            let (change, containers) = change(record, stored, claim);
            (change, containers, after)
        }
    };
    Difference { pod: name, change, containers, before, after }
}

fn change(
    record: &PodRecord,
    stored: Option<&StoredSpec>,
    claim: &Claim,
) -> (Change, Vec<ContainerName>) {
    let new = &claim.revision;
    let is_refused = record.held.is_some_and(|held| held.refused == new.digest());
    if new.digest() == record.accepted.digest || is_refused {
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
