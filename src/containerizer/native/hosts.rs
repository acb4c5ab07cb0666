//! What `/etc/hosts` of a container says of the pods of the node: `name.namespace.pod.roost`.
//!
//! It is a part of the file between two lines, and all else is the container's. A container has the
//! file itself and not its name, so another can't take its place: that part is written anew where it
//! is. Who reads in that moment may see half of it, and asks again. Not here: who is called what,
//! which the agent writes into a file of its own (`network`), and the rest of the file
//! (`isolators::names`).

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::ids::ContainerName;
use crate::state::paths::PodPaths;

/// The lines that the part is between.
const BEGIN: &str = "# Pods of this node, kept up to date by Roost.\n";
const END: &str = "# End of the pods of this node.\n";
/// Longest file that is read, the agent's or a container's: both may be full of names.
const LEN_MAX: u64 = 1 << 20;

/// The part of the file; nothing if it is not known who is called what.
#[must_use]
pub(super) fn part(names: Option<&str>) -> String {
    names.map(|names| format!("{BEGIN}{names}{END}")).unwrap_or_default()
}

/// What the pods of the node are called, as lines of hosts(5); none if the agent does not say.
pub(super) fn names(paths: &PodPaths) -> Option<String> {
    read(&File::open(paths.names()?).ok()?).ok()
}

/// Writes that part anew in the files of those containers that have one. It is left alone where the
/// container has taken it out.
///
/// # Errors
/// If a file can't be read or written; the first such, after all the others were done.
pub fn renew<'a>(
    paths: &PodPaths,
    containers: impl Iterator<Item = &'a ContainerName>,
) -> io::Result<()> {
    let Some(names) = names(paths) else { return Ok(()) };
    // What one container has done to its file is not the others' fault.
    let failures =
        containers.map(|container| renew_one(&paths.name_file(container, "hosts"), &names));
    let failures: Vec<_> = failures.filter_map(Result::err).collect();
    failures.into_iter().next().map_or(Ok(()), Err)
}

fn renew_one(path: &Path, names: &str) -> io::Result<()> {
    // A container may hold a lease on its file (F_SETLEASE in fcntl(2)), which would keep whoever
    // opens it waiting for /proc/sys/fs/lease-break-time.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        file => File::from(file?),
    };
    let before = read(&file)?;
    if let Some(text) = replaced(&before, names).filter(|text| *text != before) {
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}

/// A file with that part in place of the one it has.
fn replaced(text: &str, names: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{}{after}", part(Some(names))))
}

fn read(file: &File) -> io::Result<String> {
    let mut text = String::new();
    file.take(LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LEN_MAX {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("more than {LEN_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn neither_a_lease_nor_rubbish_of_one_container_holds_up_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = crate::state::paths::Paths::under(dir.path());
        let paths = root.pod(crate::ids::PodId::from_random(1), &"default/web".parse().unwrap());
        let names = ["a", "b", "c"].map(|name| name.parse::<ContainerName>().unwrap());
        let file = |name: &ContainerName| paths.name_file(name, "hosts");
        for name in &names {
            fs::create_dir_all(file(name).parent().unwrap()).unwrap();
            fs::write(file(name), part(Some("10.213.0.2\told\n"))).unwrap();
        }
        fs::create_dir_all(root.runtime.clone()).unwrap();
        fs::write(root.names(), "10.213.0.3\tnew\n").unwrap();
        fs::write(file(&names[1]), [0xff]).unwrap();
        let mut holder = lease(&file(&names[0]));
        renew(&paths, names.iter()).unwrap_err();
        let text = |name| fs::read_to_string(file(name)).unwrap();
        assert!(text(&names[0]).contains("old"), "it was waited for");
        assert!(text(&names[2]).contains("new"));
        drop(holder.stdin.take());
        holder.wait().unwrap();
        renew(&paths, names.iter()).unwrap_err();
        assert!(text(&names[0]).contains("new"));
    }

    /// A process that has a lease on the file until its standard input ends.
    fn lease(path: &Path) -> Child {
        const SCRIPT: &str = "import fcntl, signal, sys\n\
            signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
            file = open(sys.argv[1])\n\
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)\n\
            print('held', flush=True)\n\
            sys.stdin.read()\n";
        let mut holder = Command::new("python3")
            .args(["-c", SCRIPT])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = io::BufReader::new(holder.stdout.take().unwrap());
        io::BufRead::read_line(&mut lines, &mut said).unwrap();
        assert_eq!(said, "held\n");
        holder
    }

    #[test]
    fn the_part_is_written_anew_in_the_same_file_and_all_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let root = crate::state::paths::Paths::under(dir.path());
        let paths = root.pod(crate::ids::PodId::from_random(1), &"default/web".parse().unwrap());
        let container: ContainerName = "main".parse().unwrap();
        let hosts = paths.name_file(&container, "hosts");
        fs::create_dir_all(hosts.parent().unwrap()).unwrap();
        fs::create_dir_all(root.runtime.clone()).unwrap();
        let long = "10.213.0.2\tlonger-than-before.default.pod.roost\n".repeat(100);
        fs::write(&hosts, format!("127.0.0.1\tlocalhost\n{}own\n", part(Some(&long)))).unwrap();
        let open = File::open(&hosts).unwrap();

        renew(&paths, [&container].into_iter()).unwrap();
        assert!(fs::read_to_string(&hosts).unwrap().contains("longer"), "nobody has said anything");
        fs::write(root.names(), "10.213.0.3\tdb.default.pod.roost\n").unwrap();
        renew(&paths, [&container].into_iter()).unwrap();
        let expected =
            format!("127.0.0.1\tlocalhost\n{BEGIN}10.213.0.3\tdb.default.pod.roost\n{END}own\n");
        assert_eq!(read(&open).unwrap(), expected, "who has it open sees it");

        fs::write(&hosts, "127.0.0.1\tlocalhost\n").unwrap();
        renew(&paths, [&container].into_iter()).unwrap();
        assert_eq!(fs::read_to_string(&hosts).unwrap(), "127.0.0.1\tlocalhost\n");
    }
}
