//! What a pod asks for of its life: probes, hooks, rules, deadlines, order, priority and trials.

use roost::clock::Millis;
use roost::manifest::pod::{
    After, Check, ContainerRestart, ContainerSpec, ExitCodes, Handler, Lifecycle, PodSpec, Probe,
    RestartAction, RestartPolicy, RestartRule, TerminationPolicy, Until,
};

use crate::specs::{POD_NAMES, POLICIES};
use crate::world::Rng;

/// How often in a hundred the answer to a probe is good.
const GOOD: [u64; 5] = [0, 50, 90, 99, 100];
const PERIODS: [u64; 4] = [100, 1000, 3000, 10_000];
const DELAYS: [u64; 4] = [0, 0, 700, 20_000];

fn some<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    *rng.pick(of).expect("not empty")
}

/// What is asked says how often the answer is good.
fn handler(rng: &mut Rng) -> Handler {
    Handler::Exec { command: vec!["good".to_owned(), some(rng, &GOOD).to_string()] }
}

fn probe(rng: &mut Rng, is_readiness: bool) -> Probe {
    let mut handler = handler(rng);
    // What is never alive is through with being asked soon.
    if !is_readiness && rng.chance(60) {
        handler = Handler::Exec { command: vec!["good".to_owned(), "100".to_owned()] };
    }
    Probe {
        handler,
        initial_delay: Millis(some(rng, &DELAYS)),
        period: Millis(some(rng, &PERIODS)),
        timeout: Millis(some(rng, &[50, 1000, 5000])),
        success_threshold: if is_readiness { some(rng, &[1, 1, 3]) } else { 1 },
        failure_threshold: some(rng, &[1, 2, 3]),
        termination_grace: (!is_readiness && rng.chance(20))
            .then(|| Millis(some(rng, &[0, 1000, 20_000]))),
    }
}

/// Gives a container probes, hooks and the rest, or takes them away.
pub(crate) fn live(rng: &mut Rng, container: &mut ContainerSpec) {
    container.startup = rng.chance(15).then(|| probe(rng, false));
    container.liveness = rng.chance(25).then(|| probe(rng, false));
    container.readiness = rng.chance(30).then(|| probe(rng, true));
    container.check = rng.chance(10).then(|| Check {
        handler: handler(rng),
        delay: Millis(some(rng, &DELAYS)),
        interval: Millis(some(rng, &PERIODS)),
        timeout: Millis(some(rng, &[50, 5000])),
    });
    // Hooks take their time; how long, and whether they succeed, is found out when they are asked.
    let hook = Handler::Sleep(Millis(1));
    container.lifecycle = Lifecycle {
        post_start: rng.chance(15).then(|| hook.clone()),
        pre_stop: rng.chance(25).then_some(hook),
        stop_signal: None,
        stop_grace: rng.chance(15).then(|| Millis(some(rng, &[0, 500, 8000, 60_000]))),
        max_run_time: rng.chance(8).then(|| Millis(some(rng, &[300, 5000, 90_000]))),
    };
}

/// What a container that is no sidecar does when it ends.
pub(crate) fn restart(rng: &mut Rng) -> Option<ContainerRestart> {
    let rule = |rng: &mut Rng| RestartRule {
        action: some(rng, &[RestartAction::Restart, RestartAction::RestartAllContainers]),
        when: some(rng, &[ExitCodes::In, ExitCodes::NotIn]),
        values: some(rng, &[&[1_u8][..], &[0, 143], &[137]]).to_vec(),
    };
    rng.chance(15).then(|| ContainerRestart {
        // Of an init container, `Always` would be another kind of container.
        policy: some(rng, &[RestartPolicy::OnFailure, RestartPolicy::Never]),
        rules: (0..rng.between(0, 2)).map(|_| rule(rng)).collect(),
    })
}

/// What is asked for of the pod as a whole.
pub(crate) fn of_pod(rng: &mut Rng, spec: &mut PodSpec) {
    spec.termination_policy = match rng.between(0, 5) {
        0 => TerminationPolicy::Group,
        _ => TerminationPolicy::Container,
    };
    spec.active_deadline =
        rng.chance(8).then(|| Millis(some(rng, &[1000, 30_000, 400_000, 4_000_000])));
    spec.priority = some(rng, &[0, 0, 0, 7, -7]);
    spec.after.clear();
    if rng.chance(12) {
        let other = some(rng, &POD_NAMES);
        if other != spec.name.name.as_str() {
            let until = some(rng, &[Until::Ready, Until::Ready, Until::Succeeded]);
            spec.after.push(After { pod: other.parse().expect("a name"), until });
        }
    }
    spec.rollback_after = rng.chance(25).then(|| Millis(some(rng, &[1000, 10_000, 60_000])));
    spec.restart_on_config_change = rng.chance(40);
    annotate(spec);
}

/// What of it comes from annotations stands there, where it is hashed.
fn annotate(spec: &mut PodSpec) {
    let after = (!spec.after.is_empty()).then(|| format!("{:?}", spec.after));
    let trial = spec.rollback_after.map(|after| after.to_string());
    for (name, text) in [("roost/after", after), ("roost/rollback-after", trial)] {
        match text {
            Some(text) => spec.annotations.insert(name.to_owned(), text),
            None => spec.annotations.remove(name),
        };
    }
}

/// Changes one thing of the life of a pod.
pub(crate) fn edit(rng: &mut Rng, spec: &mut PodSpec) {
    let which = usize::try_from(rng.next() % spec.containers.len() as u64).expect("small");
    match rng.between(0, 3) {
        0 => spec.containers[which].restart = restart(rng),
        1 => of_pod(rng, spec),
        2 => {
            let sidecar =
                spec.init_containers.iter_mut().find(|c| c.name.as_str().starts_with('s'));
            if let Some(sidecar) = sidecar {
                live(rng, sidecar);
            }
        }
        _ => live(rng, &mut spec.containers[which]),
    }
    let policy = some(rng, &POLICIES);
    if rng.chance(10) {
        spec.restart_policy = policy;
    }
}
