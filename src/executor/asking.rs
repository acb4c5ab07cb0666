//! [`Asking`]: the questions that are being asked of containers, and their answers.
//!
//! ```text
//!   Effect::Ask ─► begin ─┬─► Request: over the network, in this very loop
//!                         ├─► Program: in the container, as a process
//!                         └─► nothing but time
//!   poller, timer ─► look, expire ─► Event::Answered, at the latest when the time is over
//! ```
//!
//! Nothing of it is handed over when the executor goes on as another program: the machine asks
//! again. Not here: when something is asked, and what follows from the answer (`machine`).

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

use self::program::Program;
use self::request::Request;
use super::machine::Event;
use super::poller::Poller;
use super::question::{Answer, Observed, Purpose, Seen, TEXT_LEN_MAX};
use crate::cgroup::SessionCgroup;
use crate::clock::{BootTime, Millis};
use crate::ids::{Attempt, ContainerName};
use crate::manifest::pod::Handler;

mod grpc;
mod http;
mod program;
mod request;
mod socket;
mod tls;

/// Most programs that were killed and do not die, as where a file system hangs: with as many, no
/// other is executed.
const DYING_MAX: usize = 16;
/// Most cgroups of programs that wait for their last process to be gone.
const EMPTY_MAX: usize = 256;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) container: ContainerName,
    pub(super) attempt: Attempt,
    pub(super) purpose: Purpose,
    pub(super) handler: Handler,
    pub(super) timeout: Millis,
}

impl Question {
    fn answered(self, answer: Answer) -> Event {
        let Self { container, attempt, purpose, handler: _, timeout: _ } = self;
        Event::Answered { container, attempt, purpose, answer: bounded(answer) }
    }
}

/// A program that was executed for a question.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) executed: crate::containerizer::native::Executed,
    /// What it writes, to standard output and error.
    pub(super) output: std::os::fd::OwnedFd,
    pub(super) cgroup: SessionCgroup,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    give_up_at: BootTime,
    way: Way,
}

/// How it is asked.
#[derive(Debug)]
enum Way {
    Network(Request),
    Program(Program),
    Sleep,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Asking {
    poller: Rc<Poller>,
    /// The pod's own address, if it has one.
    pub(super) address: Option<IpAddr>,
    asked: BTreeMap<u32, Asked>,
    next: u32,
    /// Programs that were killed and not reaped yet.
    dying: BTreeMap<u32, Program>,
    /// Cgroups of programs that are over, to be removed.
    empty: VecDeque<SessionCgroup>,
    /// What is not to be asked yet.
    held: VecDeque<Question>,
    /// What was answered and not told yet.
    events: VecDeque<Event>,
}

impl Asking {
    /// Nothing is asked yet.
    #[must_use]
    pub(super) fn new(poller: &Rc<Poller>) -> Self {
        let (asked, dying, empty, held, events) = Default::default();
        let poller = Rc::clone(poller);
        Self { poller, address: None, asked, next: 0, dying, empty, held, events }
    }

    /// Asks over the network, or waits.
    pub(super) fn begin(&mut self, question: Question, now: BootTime) {
        let id = self.take_id();
        let request = Request::new(&question.handler, &self.poller, id, self.address);
        let way = request.map_or(Way::Sleep, Way::Network);
        self.add(id, question, way, now);
    }

    /// Goes on with a program that was executed.
    pub(super) fn begin_program(&mut self, question: Question, begun: Begun, now: BootTime) {
        let id = self.take_id();
        let Begun { executed, output, cgroup } = begun;
        match Program::watch(executed, output, cgroup, &self.poller, id) {
            Ok(program) => self.add(id, question, Way::Program(program), now),
            Err(error) => {
                self.refuse(question, format!("waiting for its process failed: {error}"));
            }
        }
    }

    /// Whether no further program is to be executed.
    #[must_use]
    pub(super) fn is_full(&self) -> bool {
        self.dying.len() >= DYING_MAX
    }

    /// Answers that it could not be asked.
    pub(super) fn refuse(&mut self, question: Question, why: String) {
        self.events.push_back(question.answered(Answer::NotAsked { why }));
    }

    /// Keeps a question for later: see [`Self::release`].
    pub(super) fn hold(&mut self, question: Question) {
        self.held.push_back(question);
    }

    /// What was kept for later.
    pub(super) fn release(&mut self) -> VecDeque<Question> {
        std::mem::take(&mut self.held)
    }

    fn take_id(&mut self) -> u32 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        id
    }

    fn add(&mut self, id: u32, question: Question, way: Way, now: BootTime) {
        let give_up_at = match (&way, &question.handler) {
            // It is over in time, but for a shorter time-out.
            (Way::Sleep, Handler::Sleep(span)) => now.plus((*span).min(question.timeout)),
            (Way::Sleep | Way::Network(_) | Way::Program(_), _) => now.plus(question.timeout),
        };
        self.asked.insert(id, Asked { question, give_up_at, way });
        // A connection may be made, or refused, at once.
        self.look(id);
    }

    /// Something of a question is ready.
    pub(super) fn look(&mut self, id: u32) {
        if let Some(program) = self.dying.get_mut(&id)
            && program.look().is_some()
            && let Some(program) = self.dying.remove(&id)
        {
            self.empty.push_back(program.into_cgroup());
        }
        let Some(asked) = self.asked.get_mut(&id) else { return };
        let answer = match &mut asked.way {
            Way::Network(request) => request.poll(),
            Way::Program(program) => program.look(),
            Way::Sleep => None,
        };
        let Some(answer) = answer else { return };
        let Some(Asked { question, give_up_at: _, way }) = self.asked.remove(&id) else { return };
        if let Way::Program(program) = way {
            if !question.purpose.is_hook() {
                // What a probe leaves behind would add up.
                program.kill();
            }
            self.empty.push_back(program.into_cgroup());
        }
        self.events.push_back(question.answered(answer));
    }

    /// Gives up what is due.
    pub(super) fn expire(&mut self, now: BootTime) {
        let due = self.asked.iter().filter(|(_, asked)| asked.give_up_at <= now);
        let due: Vec<u32> = due.map(|(id, _)| *id).collect();
        for id in due {
            // What has come until now counts.
            self.look(id);
            let Some(Asked { question, way, .. }) = self.asked.remove(&id) else { continue };
            let answer = match (&way, &question.handler) {
                (Way::Sleep, Handler::Sleep(span)) if *span <= question.timeout => {
                    Answer::Success(Observed { seen: Seen::Slept, text: String::new() })
                }
                (Way::Sleep | Way::Network(_) | Way::Program(_), _) => {
                    let text = format!("no answer within {}", question.timeout);
                    Answer::Failure(Observed { seen: Seen::Nothing, text })
                }
            };
            self.drop_way(id, way);
            self.events.push_back(question.answered(answer));
        }
    }

    /// Does not ask any more.
    pub(super) fn unask(&mut self, container: &ContainerName, attempt: Attempt, purpose: Purpose) {
        self.give_up(|question| {
            question.container == *container
                && question.attempt == attempt
                && question.purpose == purpose
        });
    }

    /// A run is over: nobody is there to answer.
    pub(super) fn forget(&mut self, container: &ContainerName, attempt: Attempt) {
        self.give_up(|question| question.container == *container && question.attempt == attempt);
    }

    fn give_up(&mut self, which: impl Fn(&Question) -> bool) {
        self.held.retain(|question| !which(question));
        let ids = self.asked.iter().filter(|(_, asked)| which(&asked.question));
        let ids: Vec<u32> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(Asked { way, .. }) = self.asked.remove(&id) {
                self.drop_way(id, way);
            }
        }
    }

    fn drop_way(&mut self, id: u32, way: Way) {
        match way {
            Way::Network(_) | Way::Sleep => {}
            Way::Program(program) => {
                program.kill();
                self.dying.insert(id, program);
                // It may have ended before.
                self.look(id);
            }
        }
    }

    /// The next answer.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::expire`] is due next.
    #[must_use]
    pub(super) fn wake_at(&self) -> Option<BootTime> {
        self.asked.values().map(|asked| asked.give_up_at).min()
    }

    /// Whether all that goes on can be forgotten and asked again by another program: there is no
    /// process, and nothing that is done once.
    #[must_use]
    pub(super) fn is_quiet(&self) -> bool {
        let may_go = |asked: &Asked| match asked.way {
            Way::Network(_) | Way::Sleep => !asked.question.purpose.is_hook(),
            Way::Program(_) => false,
        };
        self.dying.is_empty() && self.events.is_empty() && self.asked.values().all(may_go)
    }

    /// Removes the cgroups of programs of which nothing is left. Those that a hook has left
    /// processes in go with the container.
    pub(super) fn remove_empty(&mut self) {
        self.empty.retain(|cgroup| !program::remove(cgroup));
        while self.empty.len() > EMPTY_MAX {
            self.empty.pop_front();
        }
    }
}

fn bounded(mut answer: Answer) -> Answer {
    let text = match &mut answer {
        Answer::Success(observed) | Answer::Doubtful(observed) | Answer::Failure(observed) => {
            &mut observed.text
        }
        Answer::NotAsked { why } => why,
    };
    let mut len = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    text.truncate(len);
    answer
}

#[cfg(test)]
mod tests;
