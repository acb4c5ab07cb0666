//! The real executor behind the contract that the simulation's fake keeps as well.

use std::time::Duration;

use roost::clock::{BootTime, Millis};
use roost::executor::protocol::{ContainerStatus, PodReport, ToAgent, ToExecutor, WantedPod};
use roost::ids::ContainerName;
use roost::manifest::pod::{PodSpec, RestartPolicy};
use rustix::process::{Pid, Signal, kill_process};

use crate::contract::{Behaviour, PodHost, SCENARIOS};
use crate::fixture::{TestPod, container, spec};

struct RealHost {
    runtime: tokio::runtime::Runtime,
    pod: Option<TestPod>,
    report: Option<PodReport>,
    /// Whether the executor may still say something.
    connected: bool,
}

impl RealHost {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, pod: None, report: None, connected: false }
    }

    fn pod(&mut self) -> &mut TestPod {
        self.pod.as_mut().expect("started")
    }

    /// Hears what the executor says within that time; whether it said anything.
    fn hear(&mut self, limit: Duration) -> bool {
        let agent = self.pod.as_mut().expect("started").agent();
        let next = self.runtime.block_on(async { tokio::time::timeout(limit, agent.next()).await });
        match next {
            Ok(Ok(Some(ToAgent::Report(report)))) => self.report = Some(report),
            Ok(Ok(Some(ToAgent::Welcome { .. }))) => {}
            Ok(Ok(Some(ToAgent::NotUpgraded { why }))) => panic!("not upgraded: {why}"),
            Ok(Ok(None) | Err(_)) => self.connected = false,
            Err(_) => return false,
        }
        true
    }
}

impl PodHost for RealHost {
    fn pod(&self, policy: RestartPolicy, behaviours: &[Behaviour]) -> PodSpec {
        let mut pod = spec(&[]);
        pod.restart_policy = policy;
        pod.termination_grace = Millis::from_secs(1);
        pod.containers = behaviours
            .iter()
            .enumerate()
            .map(|(n, behaviour)| {
                let path = "PATH=/usr/bin:/bin;";
                let script = match behaviour {
                    Behaviour::Sleeps => {
                        format!("trap 'exit 0' TERM; {path} while :; do sleep 1000 & wait $!; done")
                    }
                    Behaviour::IgnoresStop => {
                        format!("trap '' TERM; {path} while :; do sleep 1000; done")
                    }
                    Behaviour::ExitsWith(code) => format!("exit {code}"),
                    Behaviour::Missing => {
                        return container(&format!("c{n}"), &["/there/is/no/such/program"]);
                    }
                };
                container(&format!("c{n}"), &["/bin/sh", "-c", &script])
            })
            .collect();
        pod
    }

    fn start(&mut self) {
        if let Some(pod) = &mut self.pod {
            // As the agent does it: a cgroup that was killed is not entered again.
            pod.cgroup().kill_all().unwrap();
            pod.wait_empty();
            pod.cgroup().destroy().unwrap();
            pod.cgroup().create().unwrap();
            self.runtime.block_on(pod.spawn());
        } else {
            // A connection has to be made where it is to be used.
            let _entered = self.runtime.enter();
            self.pod = Some(TestPod::start());
        }
        self.report = None;
        self.connected = true;
    }

    fn set_spec(&mut self, wanted: WantedPod) {
        let Self { runtime, pod, .. } = self;
        let agent = pod.as_mut().expect("started").agent();
        runtime.block_on(agent.send(&ToExecutor::SetSpec(wanted), Vec::new())).unwrap();
    }

    fn report(&mut self) -> Option<PodReport> {
        while self.connected && self.hear(Duration::ZERO) {}
        self.report.clone()
    }

    fn kill_container(&mut self, name: &ContainerName) {
        let report = self.report().expect("it runs");
        let found = report.containers.iter().find(|c| c.name == *name).expect("it is there");
        let ContainerStatus::Running { pid, .. } = found.status else { panic!("{found:?}") };
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    fn kill_executor(&mut self) {
        self.pod().kill_executor();
        self.report = None;
    }

    fn upgrade(&mut self) {
        let Self { runtime, pod, .. } = self;
        let pod = pod.as_mut().expect("started");
        let other = pod.other_build(b"other");
        let (message, exe) = other.upgrade().unwrap();
        runtime.block_on(async {
            pod.agent().send(&message, vec![exe]).await.unwrap();
            pod.upgraded(other.build()).await;
        });
    }

    fn is_gone(&mut self) -> bool {
        self.report();
        !self.connected && self.pod().cgroup().wait_empty(Duration::ZERO).unwrap()
    }

    fn now(&mut self) -> Millis {
        Millis(BootTime::now().0)
    }

    fn wait(&mut self, until: Millis) -> bool {
        let left = until.0.saturating_sub(self.now().0);
        let left = Duration::from_millis(left);
        if self.connected { self.hear(left) } else { self.pod().cgroup().wait_empty(left).unwrap() }
    }
}

#[test]
fn the_real_executor_keeps_the_contract() {
    std::thread::scope(|scope| {
        for (name, scenario) in SCENARIOS {
            // The name of a scenario that fails is that of its thread, in the output of the test.
            let run = move || scenario(&mut RealHost::new());
            let thread = std::thread::Builder::new().name(name.to_owned());
            thread.spawn_scoped(scope, run).unwrap();
        }
    });
}
