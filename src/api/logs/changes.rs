//! [`Changes`]: tells that something in a directory may have changed, by inotify(7).

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Bytes of events that are read at a time: what they say is not looked at.
const EVENTS_LEN: usize = 4096;

/// The changes of a directory, which need not be there yet.
#[derive(Debug)]
pub(super) struct Changes {
    directory: PathBuf,
    inotify: AsyncFd<OwnedFd>,
    /// Whether the directory was there.
    has_begun: bool,
}

impl Changes {
    /// Prepares for it; nothing is told yet.
    pub(super) fn of(directory: PathBuf) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "`register` is unsafe for descriptors that may change; an OwnedFd does not"
        )]
        let inotify = AsyncFd::new(inotify)?;
        Ok(Self { directory, inotify, has_begun: false })
    }

    /// Whatever changes after this is told. If there is no such directory, nothing is.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if self.has_begun {
            return Ok(());
        }
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.inotify.get_ref(), &self.directory, flags) {
            Ok(_) => {
                self.has_begun = true;
                Ok(())
            }
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns when something may have changed since the last time. Cancel-safe: what was told is
    /// read in one go with noticing it.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut events = [0_u8; EVENTS_LEN];
            let read =
                ready.try_io(|inotify| Ok(rustix::io::read(inotify.get_ref(), &mut events)?));
            match read {
                // More of them only mean another look.
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}
