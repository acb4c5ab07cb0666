//! The Unix socket of the API: made by the agent, connected to by clients.
//!
//! Its path may be longer than the 108 bytes of unix(7): both sides go through a descriptor of its
//! directory.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, socket};
use nix::unistd::{Gid, Group};

/// Who is in this group may use the API, which makes him root on this machine.
pub const GROUP: &str = "roost";
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// The name under which a socket is made ready before it takes its place.
const DRAFT_SUFFIX: &str = ".draft";

/// Why the API can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Somebody answers at the socket.
    #[error("another agent listens on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket can't be made.
    #[error("can't {attempted} for the socket {}", path.display())]
    Socket {
        /// What was attempted.
        attempted: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The socket of the API, listening; nobody is answered yet.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    /// The group whose members may use it.
    pub(super) group: Option<u32>,
}

/// Makes the socket. One that an agent left behind is replaced.
///
/// # Errors
/// When another agent listens on it, and when it can't be made.
pub fn listen(path: &Path) -> Result<Listener, ServeError> {
    let failed = |attempted| {
        move |source: io::Error| ServeError::Socket { attempted, path: path.to_owned(), source }
    };
    let place = Place::of(path).map_err(failed("open the directory"))?;
    match UnixStream::connect(place.path()) {
        Ok(_) => return Err(ServeError::InUse { path: path.to_owned() }),
        Err(error) if is_stale(&error) => {}
        Err(error) => return Err(failed("find out whether another agent listens")(error)),
    }
    let draft = place.draft();
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove an old draft")(error));
        }
        Ok(()) | Err(_) => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|error| failed("make a descriptor")(error.into()))?;
    let group = admit(&socket, &draft).map_err(failed("bind a draft"))?;
    // From here on it can be connected to, but only by those who may.
    let backlog = Backlog::new(BACKLOG).expect("the backlog is below SOMAXCONN");
    nix::sys::socket::listen(&socket, backlog).map_err(|error| failed("listen")(error.into()))?;
    // No client finds no socket, or one that is not ready.
    std::fs::rename(&draft, place.path()).map_err(failed("put it into its place"))?;
    Ok(Listener { socket: socket.into(), group })
}

/// Connects to the socket of an agent.
///
/// # Errors
/// What open(2) says of its directory, and connect(2) of the socket.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Place::of(path)?.path())
}

/// Binds the socket at a name, and sets who may connect: root, and the group if there is one.
fn admit(socket: &OwnedFd, draft: &Path) -> io::Result<Option<u32>> {
    bind(socket.as_raw_fd(), &UnixAddr::new(draft)?)?;
    let group = Group::from_name(GROUP)?.map(|group| group.gid.as_raw());
    let mode = match group {
        Some(gid) => {
            nix::unistd::chown(draft, None, Some(Gid::from_raw(gid)))?;
            0o660
        }
        None => 0o600,
    };
    std::fs::set_permissions(draft, std::fs::Permissions::from_mode(mode))?;
    Ok(group)
}

/// Whether nobody listens there.
fn is_stale(error: &io::Error) -> bool {
    let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    nobody.contains(&error.kind())
}

/// Where a socket is, by a descriptor of its directory.
struct Place<'a> {
    directory: File,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    fn of(path: &'a Path) -> io::Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let directory = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(directory)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { directory, name })
    }

    fn directory(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.directory.as_raw_fd()).into()
    }

    fn path(&self) -> PathBuf {
        self.directory().join(self.name)
    }

    fn draft(&self) -> PathBuf {
        let mut name = self.name.to_owned();
        name.push(DRAFT_SUFFIX);
        self.directory().join(name)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_socket_may_lie_deeper_than_an_address_is_long() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("roost.sock");
        let listener = listen(&path).unwrap();
        connect(&path).unwrap();
        listener.socket.accept().unwrap();
        let names: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
        assert_eq!(names.len(), 1, "no draft is left: {names:?}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("roost.sock");
        drop(listen(&path).unwrap());
        assert!(path.exists(), "as after `kill -9`");
        let _live = listen(&path).unwrap();
        let error = listen(&path).unwrap_err();
        assert!(matches!(error, ServeError::InUse { .. }), "{error}");
        connect(&path).unwrap();
    }

    #[test]
    fn nobody_but_root_and_the_group_can_connect() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("roost.sock");
        let listener = listen(&path).unwrap();
        let expected = if listener.group.is_some() { 0o660 } else { 0o600 };
        assert_eq!(path.metadata().unwrap().mode() & 0o777, expected);
    }
}
