//! [`Course`]: what is wanted of each container, from where the pod as a whole stands. PURE.
//!
//! ```text
//!   initialization                         going on              ending
//!   i0 ─► s1 has started ─► i2 ─► over ──► s1, a, b run ──► a, b stop ─► s1 stops ─► ended
//!    └── fails for good ───────────────────────────────────────────────▲
//! ```
//!
//! The initialization is done once by an executor: it is not undone by whatever restarts later.
//! Another executor finds other namespaces, so it does it again before it starts anything, but
//! only if something is to be started. An ending has one grace period for all, from the first wish
//! on. Not here: where a container stands (`container`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Wanted;
use super::container::{Container, Next, Stop, Want};
use crate::clock::BootTime;
use crate::executor::protocol::Goal;
use crate::ids::ContainerName;
use crate::manifest::pod::{Role, TerminationPolicy};
use crate::state::record::{EndCause, Outcome};

/// The containers of a pod by name.
type Containers = BTreeMap<ContainerName, Container>;

/// Where the pod as a whole stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Course {
    initialization: Initialization,
    ending: Option<Ending>,
    /// Since when the pod shall run, of which the deadline is counted.
    #[serde(default)]
    since: Option<BootTime>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Initialization {
    /// Init containers have to be done before others are started.
    Pending {
        /// Those that are: an init container has succeeded, a sidecar was started.
        done: BTreeSet<ContainerName>,
    },
    /// All are.
    Over,
}

impl Default for Initialization {
    fn default() -> Self {
        Self::Pending { done: BTreeSet::new() }
    }
}

/// Everything is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ending {
    why: Why,
    stop: Stop,
    /// Whether the grace period is over: nobody waits for anybody any more.
    is_overdue: bool,
}

/// Why everything is being stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Why {
    /// The agent wants it.
    Wanted,
    /// The containers that the pod is there for are through.
    Through,
    /// An init container has failed and is not started again.
    InitFailed,
    /// A rule of a container wants everything to begin anew.
    Again,
    /// The pod has had its time.
    DeadlineExceeded,
    /// A container has failed for good, and with it all have.
    GroupFailed,
}

impl Course {
    /// That of a pod which has run since then, in this boot.
    pub(super) fn since(since: Option<BootTime>) -> Self {
        Self { since, ..Self::default() }
    }

    /// Since when the pod shall run.
    pub(super) fn begun(&self) -> Option<BootTime> {
        self.since
    }

    /// A run has ended, durably: the initialization may have got further, or a rule may want
    /// everything to begin anew.
    pub(super) fn ended(
        &mut self,
        wanted: &Wanted,
        name: &ContainerName,
        container: &Container,
        now: BootTime,
    ) {
        let Some(spec) = wanted.spec.container(name) else { return };
        if let Initialization::Pending { done } = &mut self.initialization
            && wanted.spec.role(name) == Some(Role::Init)
            && container.has_succeeded()
        {
            done.insert(name.clone());
        }
        if self.ending.is_none() && container.restarts_all(spec) {
            let stop = Stop::from(now, wanted.spec.termination_grace);
            self.ending = Some(Ending { why: Why::Again, stop, is_overdue: false });
        }
    }

    /// Compares what is wanted with where the containers stand.
    pub(super) fn advance(&mut self, wanted: &Wanted, containers: &mut Containers, now: BootTime) {
        let is_gone = !containers.values().any(Container::is_live);
        if self.ending.is_some_and(|ending| ending.why == Why::Again) && is_gone {
            *self = Self { since: self.since, ..Self::default() };
            containers.values_mut().for_each(Container::begin_anew);
        }
        if wanted.goal == Goal::Run {
            self.since.get_or_insert(now);
        }
        self.initialize(wanted, containers);
        let grace = match wanted.goal {
            Goal::Stop { grace } => grace,
            Goal::Run => wanted.spec.termination_grace,
        };
        let Some(why) = self.why(wanted, containers, now) else {
            self.ending = None;
            return;
        };
        let mut stop = Stop::from(now, grace);
        if let Some(before) = &self.ending {
            stop = before.stop.with(stop);
        }
        self.ending = Some(Ending { why, stop, is_overdue: stop.by <= now });
    }

    fn initialize(&mut self, wanted: &Wanted, containers: &Containers) {
        let Initialization::Pending { done } = &mut self.initialization else { return };
        for sidecar in wanted.spec.sidecars() {
            if containers.get(&sidecar.name).is_some_and(Container::has_started) {
                done.insert(sidecar.name.clone());
            }
        }
        if wanted.spec.init_containers.iter().all(|container| done.contains(&container.name)) {
            self.initialization = Initialization::Over;
        }
    }

    /// Why everything has to stop, if so.
    fn why(&self, wanted: &Wanted, containers: &Containers, now: BootTime) -> Option<Why> {
        let before = self.ending.map(|ending| ending.why);
        if matches!(wanted.goal, Goal::Stop { .. }) {
            Some(Why::Wanted)
        } else if let Some(Why::Again | Why::DeadlineExceeded) = before {
            before
        } else if wanted.spec.termination_policy == TerminationPolicy::Group
            && wanted.spec.containers.iter().any(|c| {
                self.is_through(wanted, containers, &c.name)
                    && !containers.get(&c.name).is_some_and(Container::has_succeeded)
            })
        {
            Some(Why::GroupFailed)
        } else if wanted
            .spec
            .containers
            .iter()
            .all(|c| self.is_through(wanted, containers, &c.name))
        {
            Some(Why::Through)
        } else if wanted.spec.init_containers.iter().any(|container| {
            !self.is_done(&container.name) && self.is_through(wanted, containers, &container.name)
        }) {
            Some(Why::InitFailed)
        } else {
            let is_over = self.deadline(wanted).is_some_and(|at| at <= now);
            is_over.then_some(Why::DeadlineExceeded)
        }
    }

    /// When the pod has had its time.
    fn deadline(&self, wanted: &Wanted) -> Option<BootTime> {
        Some(self.since?.plus(wanted.spec.active_deadline?))
    }

    /// Why the pod ends, if there is more to say than that it does.
    pub(super) fn cause(&self) -> Option<EndCause> {
        match self.ending?.why {
            Why::DeadlineExceeded => Some(EndCause::DeadlineExceeded),
            Why::GroupFailed => Some(EndCause::GroupFailed),
            Why::Wanted | Why::Through | Why::InitFailed | Why::Again => None,
        }
    }

    /// Whether the container has ended and would not be started again.
    fn is_through(&self, wanted: &Wanted, containers: &Containers, name: &ContainerName) -> bool {
        let container = containers.get(name);
        let next = wanted.run(name, self.runs_anew(wanted, name)).zip(container);
        next.is_some_and(|(run, container)| container.next(&wanted.spec, run) == Some(Next::Never))
    }

    fn is_done(&self, name: &ContainerName) -> bool {
        match &self.initialization {
            Initialization::Pending { done } => done.contains(name),
            Initialization::Over => true,
        }
    }

    /// Whether a success of it was for another executor.
    fn runs_anew(&self, wanted: &Wanted, name: &ContainerName) -> bool {
        wanted.spec.role(name) == Some(Role::Init) && !self.is_done(name)
    }

    /// What is wanted of a container.
    pub(super) fn want<'a>(
        &self,
        wanted: &'a Wanted,
        containers: &Containers,
        name: &ContainerName,
    ) -> Want<'a> {
        let role = wanted.spec.role(name);
        if let Some(Ending { why: _, stop, is_overdue }) = self.ending {
            let waits = role == Some(Role::Sidecar)
                && !is_overdue
                && must_outlive(wanted, name)
                    .any(|other| containers.get(other).is_some_and(Container::has_process));
            // Those that left the specification are waited for by nobody.
            return if waits { Want::Hold(None) } else { Want::Stop(stop) };
        }
        let Some(run) = wanted.run(name, self.runs_anew(wanted, name)) else {
            return Want::Leave { grace: wanted.spec.termination_grace };
        };
        let mut init = wanted.spec.init_containers.iter().map(|container| &container.name);
        let is_its_turn = match role {
            Some(Role::Init) if self.is_done(name) => return Want::Hold(None),
            Some(Role::Init | Role::Sidecar) => {
                init.take_while(|before| *before != name).all(|before| self.is_done(before))
            }
            Some(Role::Main) | None => init.all(|before| self.is_done(before)),
        };
        if is_its_turn { Want::Run(run) } else { Want::Hold(Some(run)) }
    }

    /// When there is something to be done about the pod as a whole.
    pub(super) fn wake_at(&self, wanted: &Wanted, containers: &Containers) -> Option<BootTime> {
        let Some(ending) = self.ending else { return self.deadline(wanted) };
        if ending.is_overdue {
            return None;
        }
        let mut sidecars = wanted.spec.sidecars();
        let waits = |name| {
            containers.get(name).is_some_and(Container::has_process)
                && matches!(self.want(wanted, containers, name), Want::Hold(_))
        };
        sidecars.any(|sidecar| waits(&sidecar.name)).then_some(ending.stop.by)
    }

    /// Whether the others wait for init containers, or did in vain.
    pub(super) fn is_initializing(&self, wanted: &Wanted) -> bool {
        let through = self.ending.is_some_and(|ending| ending.why == Why::Through);
        let is_pending = matches!(self.initialization, Initialization::Pending { .. });
        is_pending && !through && !wanted.spec.init_containers.is_empty()
    }

    /// Whether everything is being stopped because it is through.
    #[cfg(test)]
    pub(super) fn outcome_is_near(&self) -> bool {
        self.ending.is_some_and(|ending| ending.why != Why::Wanted)
    }

    /// How the pod ended, if everything is through by its restart policy.
    pub(super) fn outcome(&self, wanted: &Wanted, containers: &Containers) -> Option<Outcome> {
        let ending = self.ending?;
        if containers.values().any(Container::is_live) {
            return None;
        }
        match ending.why {
            Why::Wanted | Why::Again => None,
            Why::InitFailed | Why::DeadlineExceeded | Why::GroupFailed => Some(Outcome::Failed),
            Why::Through => {
                let mut main = wanted.spec.containers.iter();
                // How sidecars end does not matter: they were stopped.
                let succeeded =
                    main.all(|c| containers.get(&c.name).is_some_and(Container::has_succeeded));
                Some(if succeeded { Outcome::Succeeded } else { Outcome::Failed })
            }
        }
    }
}

/// Those that a sidecar has to outlive: everything but the sidecars before it.
fn must_outlive<'a>(
    wanted: &'a Wanted,
    sidecar: &ContainerName,
) -> impl Iterator<Item = &'a ContainerName> {
    let spec = &wanted.spec;
    let at = spec.init_containers.iter().position(|container| container.name == *sidecar);
    let before = spec.init_containers.get(..at.map_or(0, |at| at + 1)).unwrap_or_default();
    let sidecars = before.iter().filter(|it| spec.role(&it.name) == Some(Role::Sidecar));
    let shorter: BTreeSet<&ContainerName> = sidecars.map(|container| &container.name).collect();
    spec.all_containers().map(|it| &it.name).filter(move |name| !shorter.contains(name))
}
