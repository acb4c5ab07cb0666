//! [`Token`]: what an event of the poller is about, as the number that epoll carries. PURE.

/// What is ready. The numbers count runs, writers, questions and sessions; those that are gone are never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// Somebody connects.
    Listener,
    /// The agent said something, hung up, or can be told more.
    Connection,
    /// The timer went off.
    Timer,
    /// The pod's PID 1 has ended.
    Reaper,
    /// The program that looks at a handover has ended.
    Check,
    /// A child that writes checkpoints says something or has ended.
    Writer(u32),
    /// The first process of a run has ended.
    Process(u32),
    /// The set-up of a run said something.
    Status(u32),
    /// A run wrote to standard output.
    Stdout(u32),
    /// A run wrote to standard error.
    Stderr(u32),
    /// The last process of a run has ended.
    Cgroup(u32),
    /// The machine is shut down.
    Shutdown,
    /// Something of a question to a container.
    Question(u32),
    /// Something of a session.
    Session(u32),
}

impl Token {
    /// As epoll carries it.
    #[must_use]
    pub(super) fn encode(self) -> u64 {
        let (kind, id) = match self {
            Self::Listener => (0, 0),
            Self::Connection => (1, 0),
            Self::Timer => (2, 0),
            Self::Reaper => (3, 0),
            Self::Check => (4, 0),
            Self::Writer(id) => (5, id),
            Self::Process(id) => (6, id),
            Self::Status(id) => (7, id),
            Self::Stdout(id) => (8, id),
            Self::Stderr(id) => (9, id),
            Self::Cgroup(id) => (10, id),
            Self::Shutdown => (11, 0),
            Self::Question(id) => (12, id),
            Self::Session(id) => (13, id),
        };
        kind << 32 | u64::from(id)
    }

    /// The reverse; none for what [`Self::encode`] does not make.
    #[must_use]
    pub(super) fn decode(number: u64) -> Option<Self> {
        let id = u32::try_from(number & u64::from(u32::MAX)).ok()?;
        Some(match number >> 32 {
            0 => Self::Listener,
            1 => Self::Connection,
            2 => Self::Timer,
            3 => Self::Reaper,
            4 => Self::Check,
            5 => Self::Writer(id),
            6 => Self::Process(id),
            7 => Self::Status(id),
            8 => Self::Stdout(id),
            9 => Self::Stderr(id),
            10 => Self::Cgroup(id),
            11 => Self::Shutdown,
            12 => Self::Question(id),
            13 => Self::Session(id),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for token in [Token::Listener, Token::Check, Token::Writer(0), Token::Cgroup(u32::MAX)] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}
