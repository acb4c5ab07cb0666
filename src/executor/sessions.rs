//! [`Sessions`]: which programs are executed in containers for somebody outside, where each of them
//! stands, and what follows from what happens to it. PURE: what is done is in `session` and `shell`.
//!
//! ```text
//!   admit ─► Setup ── Executed ──► Running ── Ended(how) ──► Ending(how) ── Empty ──► told, gone
//!              │                      │                          ▲
//!              └─ NotExecuted ─► told, gone     ClientGone: killed; nobody is told
//! ```
//!
//! A session dies with its client and with the run of the container that it is in. What its program
//! started dies with the program. It is no part of the pod: whether it is there changes nothing of
//! what the pod is.

use std::collections::BTreeMap;

use crate::ids::{Attempt, ContainerName};
use crate::state::record::Exit;

/// Most sessions in one pod at a time. A cgroup below each container has room for as many programs,
/// and probes are among them.
pub(super) const SESSIONS_MAX: usize = 224;

/// All sessions of a pod.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<u32, Session>,
    next: u32,
}

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    /// In which container.
    pub(super) container: ContainerName,
    /// In which run of it.
    pub(super) attempt: Attempt,
    stage: Stage,
    client: Client,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Its process becomes the program.
    Setup,
    /// Its program runs.
    Running,
    /// Its program has ended; what it has started is being killed.
    Ending(Exit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Listens,
    Gone,
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    /// Its program was executed.
    Executed,
    /// Its program could not be executed, and its process has ended.
    NotExecuted(String),
    /// Its first process has ended like that.
    Ended(Exit),
    /// No process of it is left.
    Empty,
    /// Nobody is there any more who would hear of it.
    ClientGone,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Say that it has begun.
    SayBegun,
    /// Say why it has not.
    SayRefused(String),
    /// Say how it has ended.
    SayEnded(Exit),
    /// Kill what there is of it.
    Kill,
    /// Find out whether a process of it is left, now and whenever that changes.
    WaitUntilEmpty,
    /// Forget it: it is over.
    Forget,
}

impl Sessions {
    /// Makes a session, which sets itself up.
    ///
    /// # Errors
    /// Why there can't be one more.
    pub(super) fn admit(
        &mut self,
        container: ContainerName,
        attempt: Attempt,
    ) -> Result<u32, String> {
        self.room()?;
        let (stage, client) = (Stage::Setup, Client::Listens);
        Ok(self.add(Session { container, attempt, stage, client }))
    }

    /// Whether there can be one more.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn room(&self) -> Result<(), String> {
        if self.sessions.len() < SESSIONS_MAX {
            return Ok(());
        }
        Err(format!("there are {SESSIONS_MAX} sessions in the pod, which is the most there may be"))
    }

    /// The number of the session that is admitted next.
    #[must_use]
    pub(super) fn next_id(&self) -> u32 {
        self.next
    }

    /// Goes on with a session that another program had, and that runs.
    pub(super) fn resume(&mut self, container: ContainerName, attempt: Attempt) -> u32 {
        let (stage, client) = (Stage::Running, Client::Listens);
        self.add(Session { container, attempt, stage, client })
    }

    fn add(&mut self, session: Session) -> u32 {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.sessions.insert(id, session);
        id
    }

    /// Takes in what has happened; what is to be done for it, in order.
    pub(super) fn step(&mut self, id: u32, happened: Happened) -> Vec<Effect> {
        let Some(session) = self.sessions.get_mut(&id) else { return Vec::new() };
        let effects = session.step(happened);
        if effects.contains(&Effect::Forget) {
            self.sessions.remove(&id);
        }
        effects
    }

    /// Whether there are none.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Those that another program can go on with; none if there is one with which it can't, which
    /// is so for a moment only.
    #[must_use]
    pub(super) fn running(&self) -> Option<Vec<(u32, &Session)>> {
        let is_steady = |session: &Session| {
            session.stage == Stage::Running && session.client == Client::Listens
        };
        let all = self.sessions.iter().map(|(id, session)| (*id, session));
        all.map(|pair| is_steady(pair.1).then_some(pair)).collect()
    }
}

impl Session {
    fn step(&mut self, happened: Happened) -> Vec<Effect> {
        match (&self.stage, happened) {
            (Stage::Setup, Happened::Executed) => {
                self.stage = Stage::Running;
                vec![Effect::SayBegun]
            }
            (Stage::Setup, Happened::NotExecuted(why)) => {
                vec![Effect::SayRefused(why), Effect::Kill, Effect::Forget]
            }
            // The set-up was killed before it could say anything.
            (Stage::Setup | Stage::Running, Happened::Ended(exit)) => {
                self.stage = Stage::Ending(exit);
                vec![Effect::WaitUntilEmpty]
            }
            (Stage::Ending(exit), Happened::Empty) => {
                vec![Effect::SayEnded(exit.clone()), Effect::Forget]
            }
            (_, Happened::ClientGone) if self.client == Client::Listens => {
                self.client = Client::Gone;
                vec![Effect::Kill]
            }
            // Told a second time, or of what is over.
            (
                Stage::Setup | Stage::Running | Stage::Ending(_),
                Happened::Executed
                | Happened::NotExecuted(_)
                | Happened::Ended(_)
                | Happened::Empty
                | Happened::ClientGone,
            ) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> (Sessions, u32) {
        let mut sessions = Sessions::default();
        let id = sessions.admit("web".parse().unwrap(), Attempt(0)).unwrap();
        (sessions, id)
    }

    #[test]
    fn the_end_is_told_when_nothing_is_left_and_not_before() {
        let (mut sessions, id) = begun();
        assert_eq!(sessions.step(id, Happened::Executed), [Effect::SayBegun]);
        assert_eq!(sessions.running().unwrap().len(), 1);
        assert_eq!(sessions.step(id, Happened::Empty), [], "its program runs");
        let ended = Happened::Ended(Exit::Code(3));
        assert_eq!(sessions.step(id, ended.clone()), [Effect::WaitUntilEmpty]);
        assert_eq!(sessions.step(id, ended), []);
        assert!(sessions.running().is_none(), "it is not handed over");
        let told = [Effect::SayEnded(Exit::Code(3)), Effect::Forget];
        assert_eq!(sessions.step(id, Happened::Empty), told);
        assert!(sessions.is_empty());
        assert_eq!(sessions.step(id, Happened::ClientGone), []);
    }

    #[test]
    fn a_session_dies_with_its_client_and_is_reaped() {
        for executed in [false, true] {
            let (mut sessions, id) = begun();
            if executed {
                sessions.step(id, Happened::Executed);
            }
            assert_eq!(sessions.step(id, Happened::ClientGone), [Effect::Kill]);
            assert_eq!(sessions.step(id, Happened::ClientGone), [], "once");
            assert!(sessions.running().is_none(), "it is not handed over");
            sessions.step(id, Happened::Ended(Exit::Signal(9)));
            assert_eq!(sessions.step(id, Happened::Empty).last(), Some(&Effect::Forget));
        }
    }

    #[test]
    fn what_was_not_executed_says_why() {
        let (mut sessions, id) = begun();
        let why = || "no such program".to_owned();
        let effects = sessions.step(id, Happened::NotExecuted(why()));
        assert_eq!(effects, [Effect::SayRefused(why()), Effect::Kill, Effect::Forget]);
        assert!(sessions.is_empty());
    }

    #[test]
    fn there_are_no_more_than_there_may_be() {
        let mut sessions = Sessions::default();
        let mut admit = || sessions.admit("web".parse().unwrap(), Attempt(0));
        for _ in 0..SESSIONS_MAX {
            admit().unwrap();
        }
        assert!(admit().unwrap_err().contains("224 sessions"));
    }
}
