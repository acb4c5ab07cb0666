//! What revisions of pods use of ConfigMaps and Secrets, in files for root alone: written before
//! the specification that refers to it, and kept as long as the pod may go back to it.
//!
//! A file is named by the digest of its revision, so that an instance, its successor and a
//! roll-back find it. Blocks until the disk has it.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::ids::PodName;
use crate::manifest::pod::Carried;
use crate::manifest::resolve::NodeFacts;
use crate::reconciler::Node;
use crate::state::checkpoint::{
    self, CheckpointError, ConfigFile, ConfigKeyFile, Format, sync_dir,
};
use crate::state::paths::{Paths, config_file};
use crate::state::record::PodRecord;

/// Keeps what the accepted revision uses. Without content it must be there already.
pub(super) fn keep(
    paths: &Paths,
    record: &PodRecord,
    content: Carried,
) -> Result<(), CheckpointError> {
    let directory = paths.configs(&record.name);
    let path = directory.join(config_file(record.accepted.digest));
    let failed = |attempted, path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Io { attempted, path, source }
    };
    let Some(content) = content.0 else {
        return match path.try_exists() {
            Ok(true) => Ok(()),
            Ok(false) => Err(failed("find", &path)(ErrorKind::NotFound.into())),
            Err(source) => Err(failed("look for", &path)(source)),
        };
    };
    if matches!(checkpoint::read::<ConfigFile>(&path), Ok(Some(file)) if file.content == *content) {
        return Ok(());
    }
    for (made, above) in
        [(paths.all_configs(), paths.data.clone()), (directory, paths.all_configs())]
    {
        match fs::DirBuilder::new().mode(0o700).create(&made) {
            Ok(()) => sync_dir(&above).map_err(failed("sync", &above))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", &made)(error)),
        }
    }
    let content = Arc::unwrap_or_clone(content);
    checkpoint::create(&path, &ConfigFile { format: Format, content })
}

/// Removes what no revision uses that the pod may go back to.
pub(super) fn sweep(paths: &Paths, record: &PodRecord) {
    let all = record.history.iter().chain([&record.accepted]).chain(&record.successor);
    let wanted: Vec<String> = all.map(|accepted| config_file(accepted.digest)).collect();
    let entries = fs::read_dir(paths.configs(&record.name)).into_iter().flatten().flatten();
    for entry in entries.filter(|it| !wanted.iter().any(|name| it.file_name() == **name)) {
        if let Err(error) = fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "can't remove it");
        }
    }
}

/// Removes what pods have left that are not there any more.
pub(super) fn sweep_all<'a>(paths: &Paths, pods: impl Iterator<Item = &'a PodName>) {
    let wanted: Vec<_> = pods.map(|name| paths.configs(name)).collect();
    let entries = fs::read_dir(paths.all_configs()).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| !wanted.contains(&entry.path())) {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "can't remove it");
        }
    }
}

/// The key of hashes over content; a new one if there is none.
pub(super) fn key(paths: &Paths) -> Result<[u8; 32], CheckpointError> {
    let path = paths.config_key();
    match checkpoint::read::<ConfigKeyFile>(&path) {
        Ok(Some(file)) => return Ok(file.key),
        Ok(None) => {}
        Err(error @ CheckpointError::Damaged { .. }) => {
            tracing::warn!(error = super::chain(&error), "a new key is made");
        }
        Err(error) => return Err(error),
    }
    let mut key = [0_u8; 32];
    let drawn = rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty());
    drawn.map_err(|errno| CheckpointError::Io {
        attempted: "draw random bytes for",
        path: path.clone(),
        source: errno.into(),
    })?;
    checkpoint::write(&path, &ConfigKeyFile { format: Format, key })?;
    Ok(key)
}

/// What pods can ask of this node.
pub(super) fn node_facts(node: &Node, paths: &Paths) -> NodeFacts {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let all = node.allocatable();
    NodeFacts {
        name,
        addresses: addresses(),
        cpu_milli: all.cpu_milli,
        memory_bytes: all.memory_bytes,
        storage_bytes: rustix::fs::statvfs(&paths.data)
            .map_or(0, |found| found.f_blocks.saturating_mul(found.f_frsize)),
    }
}

/// The addresses that this host has towards others, that of version 4 first. To connect a socket
/// for datagrams sends nothing: the kernel looks up the route, and with it the address (udp(7)).
/// The addresses asked for are kept for documentation (RFC 5737, RFC 3849).
fn addresses() -> Vec<String> {
    let ways: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()),
    ];
    let own = |(from, to): (IpAddr, IpAddr)| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    };
    let found: Vec<String> = ways.into_iter().filter_map(own).collect();
    // A machine without a network has itself.
    if found.is_empty() { vec![Ipv4Addr::LOCALHOST.to_string()] } else { found }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::manifest::document::Data;
    use crate::manifest::resolve::Content;
    use crate::state::samples;

    #[test]
    fn what_a_revision_uses_is_for_root_alone_and_goes_with_it() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        fs::create_dir_all(&paths.data).unwrap();
        let mut record = samples::record(1);
        record.history.clear();
        record.successor = None;
        let mut content = Content::default();
        let values = [("password".to_owned(), Data::text("hunter2"))].into();
        content.secrets.insert("db".parse().unwrap(), values);
        keep(&paths, &record, Carried::default()).unwrap_err();
        keep(&paths, &record, Carried(Some(Arc::new(content)))).unwrap();
        keep(&paths, &record, Carried::default()).unwrap();
        let path = paths.configs(&record.name).join(config_file(record.accepted.digest));
        for (path, mode) in [(path.as_path(), 0o600), (&paths.all_configs(), 0o700)] {
            let found = fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
        sweep(&paths, &record);
        assert!(path.exists());
        sweep_all(&paths, [&record.name].into_iter());
        assert!(path.exists());
        sweep_all(&paths, std::iter::empty());
        assert!(!paths.configs(&record.name).exists());
    }

    #[test]
    fn the_key_stays() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        fs::create_dir_all(&paths.data).unwrap();
        let made = key(&paths).unwrap();
        assert_eq!(key(&paths).unwrap(), made);
        assert_ne!(made, [0; 32]);
    }
}
