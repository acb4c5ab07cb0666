//! The fake executor behind the contract: the simulation's world without an agent.

use roost::clock::Millis;
use roost::executor::protocol::{PodReport, WantedPod};
use roost::ids::{ContainerName, PodId};
use roost::manifest::pod::{PodSpec, RestartPolicy};
use roost::state::record::Exit;

use crate::contract::{Behaviour, PodHost, SCENARIOS};
use crate::executor::ExecutorEvent;
use crate::specs::{FOR_EVER, Program, container, pod};
use crate::world::{Options, World};

struct FakeHost {
    world: World,
    id: PodId,
    pid: Option<u64>,
}

impl FakeHost {
    fn new() -> Self {
        let mut world = World::new(7, Options::default());
        world.faults = false;
        Self { world, id: PodId::from_random(1), pid: None }
    }

    fn event(&mut self, what: ExecutorEvent) {
        let pid = self.pid.expect("started");
        self.world.executor_event(pid, what);
        assert_eq!(self.world.failure, None);
    }
}

impl PodHost for FakeHost {
    fn pod(&self, policy: RestartPolicy, behaviours: &[Behaviour]) -> PodSpec {
        let program = |behaviour: &Behaviour| Program {
            starts: *behaviour != Behaviour::Missing,
            setup: 5,
            lasts: if let Behaviour::ExitsWith(_) = behaviour { 1 } else { FOR_EVER },
            code: if let Behaviour::ExitsWith(code) = behaviour { *code } else { 0 },
            heeds: (*behaviour != Behaviour::IgnoresStop).then_some(1),
        };
        let containers = behaviours
            .iter()
            .enumerate()
            .map(|(n, behaviour)| container(&format!("c{n}"), program(behaviour)))
            .collect();
        let mut spec = pod("contract", containers);
        spec.restart_policy = policy;
        spec.termination_grace = Millis::from_secs(1);
        spec
    }

    fn start(&mut self) {
        self.world.kill_all(self.id);
        self.pid = Some(self.world.spawn(self.id));
    }

    fn set_spec(&mut self, wanted: WantedPod) {
        self.event(ExecutorEvent::Deliver(wanted));
    }

    fn report(&mut self) -> Option<PodReport> {
        self.world.executors.get(&self.pid?)?.machine.report()
    }

    fn kill_container(&mut self, name: &ContainerName) {
        let run = self.world.runs.iter().find(|(_, run)| run.container == *name);
        let run = *run.expect("it runs").0;
        self.event(ExecutorEvent::Exits { run, exit: Exit::Signal(9) });
    }

    fn kill_executor(&mut self) {
        self.world.executor_dies(self.pid.expect("started"));
    }

    fn upgrade(&mut self) {
        self.event(ExecutorEvent::Upgrade { build: 2 });
    }

    fn is_gone(&mut self) -> bool {
        self.world.executors.is_empty() && self.world.runs.is_empty()
    }

    fn now(&mut self) -> Millis {
        Millis(self.world.now)
    }

    fn wait(&mut self, until: Millis) -> bool {
        let happened = self.world.advance(until.0);
        if !happened {
            self.world.run_until(until.0);
        }
        assert_eq!(self.world.failure, None);
        happened
    }
}

#[test]
fn the_fake_executor_keeps_the_contract() {
    for (name, scenario) in SCENARIOS {
        // The name of a scenario that fails is in the output of the test.
        eprintln!("scenario: {name}");
        scenario(&mut FakeHost::new());
    }
}
