//! [`Hooks`]: how far the hooks of one run are. PURE.
//!
//! ```text
//!   program runs ─► postStart is asked ─┬─ done ─► started, probes begin
//!                                       └─ failed ─► stopped
//!   wish to stop ─► preStop is asked ─── answered, or the time is over ─► stop signal ─► kill
//! ```
//!
//! What is asked at the end is told by the newest specification that had the container. Not here:
//! when a container is to stop (`container`).

use serde::{Deserialize, Serialize};

use super::probing::Who;
use super::{Effect, POST_START_TIME_MAX};
use crate::clock::Millis;
use crate::executor::protocol::ProbeFault;
use crate::executor::question::{Answer, Observed, Purpose};
use crate::manifest::pod::{ContainerSpec, Lifecycle};

/// How far the hooks of a run are. Builds before it asked nothing: as new, all is done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hooks {
    post_start: PostStart,
    /// As the newest specification has it.
    lifecycle: Lifecycle,
    /// A hook that failed.
    fault: Option<ProbeFault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum PostStart {
    /// It was not asked yet.
    Due,
    /// It was.
    Asking,
    /// It was a success, or there is none.
    #[default]
    Done,
    /// It was none: the run has to stop.
    Failed,
}

impl Hooks {
    /// Those of a run whose program was just executed.
    pub(super) fn new() -> Self {
        Self { post_start: PostStart::Due, ..Self::default() }
    }

    /// Takes over what the specification says.
    pub(super) fn follow(&mut self, spec: &ContainerSpec) {
        if self.lifecycle != spec.lifecycle {
            self.lifecycle = spec.lifecycle.clone();
        }
    }

    /// What happens to a run, as far as is known.
    pub(super) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Asks what is due at the beginning.
    pub(super) fn settle(&mut self, who: Who<'_>, effects: &mut Vec<Effect>) {
        if self.post_start == PostStart::Due {
            self.post_start = match &self.lifecycle.post_start {
                None => PostStart::Done,
                Some(handler) => {
                    effects.push(who.ask(Purpose::PostStart, handler, POST_START_TIME_MAX));
                    PostStart::Asking
                }
            };
        }
    }

    /// Whether the beginning is over, and was no failure.
    pub(super) fn has_begun(&self) -> bool {
        match self.post_start {
            PostStart::Due => self.lifecycle.post_start.is_none(),
            PostStart::Asking | PostStart::Failed => false,
            PostStart::Done => true,
        }
    }

    /// Whether the run has to stop because its beginning failed.
    pub(super) fn has_failed(&self) -> bool {
        self.post_start == PostStart::Failed
    }

    /// The run is to stop: what was asked at its beginning is not waited for.
    pub(super) fn stop(&mut self, who: Who<'_>, effects: &mut Vec<Effect>) {
        if self.post_start == PostStart::Asking {
            effects.push(who.unask(Purpose::PostStart));
        }
        if self.post_start != PostStart::Failed {
            self.post_start = PostStart::Done;
        }
    }

    /// Asks what comes before the stop signal; whether there is something.
    pub(super) fn ask_pre_stop(
        &self,
        who: Who<'_>,
        time: Millis,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let ask = |handler| who.ask(Purpose::PreStop, handler, time);
        effects.extend(self.lifecycle.pre_stop.as_ref().map(ask));
        self.lifecycle.pre_stop.is_some()
    }

    /// What came of the hook at the beginning.
    pub(super) fn answered_post_start(&mut self, answer: Answer) {
        if self.post_start == PostStart::Asking {
            self.fault = fault(Purpose::PostStart, answer);
            let has_failed = self.fault.is_some();
            self.post_start = if has_failed { PostStart::Failed } else { PostStart::Done };
        }
    }

    /// What came of the hook at the end: it ends all the same.
    pub(super) fn answered_pre_stop(&mut self, answer: Answer) {
        self.fault = fault(Purpose::PreStop, answer);
    }

    /// What was asked has no answer to come.
    pub(super) fn repeat(&mut self) {
        if self.post_start == PostStart::Asking {
            self.post_start = PostStart::Due;
        }
    }

    /// The hook that failed.
    pub(super) fn fault(&self) -> Option<&ProbeFault> {
        self.fault.as_ref()
    }
}

/// Whoever can't be asked has not done it either, so that is a failure as well.
fn fault(purpose: Purpose, answer: Answer) -> Option<ProbeFault> {
    let text = match answer {
        Answer::Success(_) | Answer::Doubtful(_) => return None,
        Answer::Failure(Observed { seen, text }) if text.is_empty() => seen.to_string(),
        Answer::Failure(Observed { seen, text }) => format!("{seen}: {text}"),
        Answer::NotAsked { why } => format!("it could not be asked: {why}"),
    };
    Some(ProbeFault { purpose, is_failure: true, text, count: 1 })
}
