//! The terminal of a program that is executed in a container (pty(7)).
//!
//! It is made in the container's own devpts, so that the program finds its terminal by name; in a
//! container that has none it is one of the host. The side of the program becomes its standard
//! streams; the other side is passed to whoever talks to it. Not here: what goes through it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::pty::OpenptFlags;
use serde::{Deserialize, Serialize};

use super::child::{Attempt as _, Failure};
use super::users::User;

/// Where terminals are, in a container as on the host.
const DIRECTORY: &str = "/dev/pts";
/// `DEVPTS_SUPER_MAGIC` of `linux/magic.h`.
const DEVPTS: u32 = 0x1cd1;
/// Room for one descriptor.
const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(1));

/// How large a terminal is. 0 by 0 is one of which nobody has said so yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl TerminalSize {
    /// As the kernel takes it.
    #[must_use]
    pub fn winsize(self) -> rustix::termios::Winsize {
        let Self { rows, columns } = self;
        rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
    }
}

/// The other side of a terminal, which comes from the process that becomes the program.
#[derive(Debug)]
pub struct Master(OwnedFd);

impl Master {
    /// A way for it, and where it is put in.
    pub(super) fn channel() -> Result<(Self, OwnedFd), Errno> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), theirs))
    }

    /// It, once the program was executed.
    ///
    /// # Errors
    /// If the process has not sent it.
    pub fn take(self) -> std::io::Result<OwnedFd> {
        let mut byte = [0];
        let mut control = [MaybeUninit::uninit(); CONTROL_LEN];
        let mut control = RecvAncillaryBuffer::new(&mut control);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let buffers = &mut [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(&self.0, buffers, &mut control, flags)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut fds) = part
                && let Some(master) = fds.next()
            {
                return Ok(master);
            }
        }
        Err(std::io::Error::other("its terminal did not come"))
    }
}

/// Where terminals of the host are made; to be opened before the container's root is entered.
pub(super) fn of_host() -> Option<OwnedFd> {
    directory().ok()
}

/// Makes a terminal, makes it the standard streams and the controlling terminal of this process,
/// which leads a session, and passes the other side on.
pub(super) fn become_terminal(
    host: Option<OwnedFd>,
    size: TerminalSize,
    user: &User,
    to: BorrowedFd<'_>,
) -> Result<(), Failure> {
    // Whatever is mounted there instead, terminals are made of devpts alone: nobody can make other
    // files in that.
    let terminals = match (directory(), host) {
        (Ok(own), _) => own,
        (Err(_), Some(host)) => host,
        (Err(error), None) => return Err(error).to(|| format!("open {DIRECTORY}")),
    };
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = rustix::fs::openat(&terminals, c"ptmx", flags, Mode::empty())
        .to(|| format!("open {DIRECTORY}/ptmx"))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::unlockpt(&master)
        .and_then(|()| rustix::pty::ioctl_tiocgptpeer(&master, flags))
        .to(|| "open a terminal".to_owned())?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(user.uid)), None::<Gid>)
        .to(|| "give the terminal to the user".to_owned())?;
    rustix::termios::tcsetwinsize(&master, size.winsize())
        .to(|| "set the size of the terminal".to_owned())?;
    send(to, master.as_fd()).to(|| "pass on the terminal".to_owned())?;
    rustix::process::ioctl_tiocsctty(&slave)
        .to(|| "make the terminal the controlling one".to_owned())?;
    nix::unistd::dup2_stdin(&slave)
        .and_then(|()| nix::unistd::dup2_stdout(&slave))
        .and_then(|()| nix::unistd::dup2_stderr(&slave))
        .to(|| "place the standard streams".to_owned())
}

fn directory() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let directory = rustix::fs::openat2(CWD, DIRECTORY, flags, Mode::empty(), resolve)?;
    let kind = rustix::fs::fstatfs(&directory)?.f_type;
    if kind == rustix::fs::FsWord::from(DEVPTS) { Ok(directory) } else { Err(Errno::NODEV) }
}

fn send(to: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut control = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = SendAncillaryBuffer::new(&mut control);
    let fds = [master];
    let fits = control.push(SendAncillaryMessage::ScmRights(&fds));
    debug_assert!(fits, "the buffer has room for one descriptor");
    let flags = SendFlags::NOSIGNAL;
    rustix::net::sendmsg(to, &[IoSlice::new(&[0])], &mut control, flags).map(drop)
}
