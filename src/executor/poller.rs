//! [`Poller`]: everything that the executor waits for, in one epoll instance.
//!
//! The executor's loop is this and nothing else: one thread, whatever is ready is handled to its
//! end, and between two events all state lies in plain structs, so that it can be handed over at
//! any of them. Level-triggered: what was handled in part is ready again. Not here: what the
//! events mean (`shell`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::clock::BootTime;

pub(super) use rustix::event::epoll::EventFlags;

/// Events taken from the kernel at once.
const BATCH_LEN: usize = 32;

/// One epoll instance.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
}

/// A descriptor that a [`Poller`] waits for, until this is dropped.
///
/// It is deregistered then: closing alone would not do, because a child that was forked meanwhile
/// may have a copy of it (epoll(7), questions and answers). For the same reason a forked child
/// must end without dropping it: both share the epoll instance.
#[derive(Debug)]
pub(super) struct Watched<F: AsFd = OwnedFd> {
    fd: F,
    poller: Rc<Poller>,
}

impl Poller {
    /// A new instance.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub(super) fn new() -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? }))
    }

    /// Waits for one of `events` on a descriptor; they come with the token.
    ///
    /// # Errors
    /// If the descriptor can't be waited for.
    pub(super) fn watch<F: AsFd>(
        self: &Rc<Self>,
        fd: F,
        token: u64,
        events: EventFlags,
    ) -> io::Result<Watched<F>> {
        epoll::add(&self.epoll, &fd, EventData::new_u64(token), events)?;
        Ok(Watched { fd, poller: Rc::clone(self) })
    }

    /// Waits until something is ready, and names the tokens.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn wait(&self, ready: &mut Vec<u64>) -> io::Result<()> {
        ready.clear();
        let none = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut events = [none; BATCH_LEN];
        match epoll::wait(&self.epoll, &mut events, None) {
            Ok(count) => {
                ready.extend(events.iter().take(count).map(|event| event.data.u64()));
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl<F: AsFd> Watched<F> {
    /// What is waited for.
    pub(super) fn get(&self) -> &F {
        &self.fd
    }

    /// Waits for other events from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn change(&self, token: u64, events: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.poller.epoll, &self.fd, EventData::new_u64(token), events)?)
    }
}

impl<F: AsFd> AsFd for Watched<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: AsFd> Drop for Watched<F> {
    fn drop(&mut self) {
        // It is registered, so this can't fail in a way that matters.
        epoll::delete(&self.poller.epoll, &self.fd).ok();
    }
}

/// A timer on the clock of [`BootTime`], which counts on through suspend.
#[derive(Debug)]
pub(super) struct Timer {
    fd: Watched,
    set: Option<BootTime>,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub(super) fn new(poller: &Rc<Poller>, token: u64) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self { fd: poller.watch(fd, token, EventFlags::IN)?, set: None })
    }

    /// Goes off at `at`, never before; not at all with `None`.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn set(&mut self, at: Option<BootTime>) -> io::Result<()> {
        if self.set == at {
            return Ok(());
        }
        // All zero would disarm it (timerfd_create(2)).
        let millis = at.map_or(0, |at| at.0.max(1));
        let value = Timespec {
            tv_sec: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(millis % 1000).unwrap_or(0) * 1_000_000,
        };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let new = Itimerspec { it_interval: interval, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &new)?;
        self.set = at;
        Ok(())
    }

    /// Takes note that it went off.
    pub(super) fn clear(&mut self) {
        let mut count = [0; 8];
        // Nothing to read means that it was set anew meanwhile.
        if rustix::io::read(&self.fd, &mut count).is_ok() {
            self.set = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Millis;

    #[test]
    fn a_timer_goes_off_once_and_never_early() {
        let poller = Poller::new().unwrap();
        let mut timer = Timer::new(&poller, 7).unwrap();
        let at = BootTime::now().plus(Millis(30));
        timer.set(Some(at)).unwrap();
        let mut ready = Vec::new();
        while ready.is_empty() {
            poller.wait(&mut ready).unwrap();
        }
        assert_eq!(ready, [7]);
        assert!(BootTime::now() >= at);
        timer.clear();
        let past = Some(BootTime(0));
        timer.set(past).unwrap();
        ready.clear();
        while ready.is_empty() {
            poller.wait(&mut ready).unwrap();
        }
    }

    #[test]
    fn what_was_dropped_is_not_waited_for_although_a_copy_is_open() {
        let poller = Poller::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let copy = read.try_clone().unwrap();
        let watched = poller.watch(read, 1, EventFlags::IN).unwrap();
        let (other, _end) = rustix::pipe::pipe().unwrap();
        drop(watched);
        rustix::io::write(&write, b"x").unwrap();
        drop(_end);
        let _other = poller.watch(other, 2, EventFlags::IN).unwrap();
        let mut ready = Vec::new();
        poller.wait(&mut ready).unwrap();
        assert_eq!(ready, [2]);
        drop(copy);
    }
}
