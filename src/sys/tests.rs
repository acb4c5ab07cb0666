use std::fs;
use std::io::Write;
use std::os::fd::IntoRawFd;

use seccompiler::{SeccompAction, SeccompFilter, SeccompRule};

use super::testing::{exit, in_one_thread, wait_pidfd};
use super::*;

const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
const NEWPID: u64 = libc::CLONE_NEWPID as u64;
const NEWNET: u64 = libc::CLONE_NEWNET as u64;

/// Clones, runs `body` in the child and returns its exit status.
#[track_caller]
fn cloned(flags: u64, body: impl FnOnce() -> i32) -> i32 {
    match clone_process(&CloneRequest { flags, into_cgroup: None }).unwrap() {
        Cloned::Child => exit(body()),
        Cloned::Parent { pidfd, .. } => wait_pidfd(pidfd),
    }
}

/// The root of the cgroup2 hierarchy as a way in, so that nothing has to be removed.
fn root_entry() -> Entry {
    let unified = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|path| fs::exists(format!("{path}/cgroup.procs")).unwrap())
        .unwrap();
    Entry { into: File::open(unified).unwrap().into(), tasks: Vec::new() }
}

fn arguments(texts: &[&str]) -> Vec<CString> {
    texts.iter().map(|text| CString::new(*text).unwrap()).collect()
}

/// Executes a shell script and returns what it wrote to descriptor 3, and its status.
fn run_script(script: &str, more: &[BorrowedFd<'_>]) -> (String, i32) {
    let exe = File::open("/bin/sh").unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let fds = [&[writer.as_fd()], more].concat();
    let entry = root_entry();
    let request = SpawnRequest {
        exe: exe.as_fd(),
        argv: &arguments(&["script", "-c", script]),
        env: &arguments(&["PATH=/usr/bin:/bin", "COLOUR=red"]),
        fds: &fds,
        stderr: testing::stderr(),
        entry: Some(&entry),
    };
    let (_, pidfd) = spawn_detached(&request).unwrap();
    drop(writer);
    let mut output = String::new();
    File::from(reader).read_to_string(&mut output).unwrap();
    (output, wait_pidfd(pidfd))
}

#[test]
fn a_process_with_many_threads_does_not_fork() {
    let (_stay, stop) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || stop.recv().ok());
    let error = clone_process(&CloneRequest { flags: 0, into_cgroup: None }).unwrap_err();
    assert!(error.to_string().contains("threads"), "{error}");
}

#[test]
fn flags_that_are_not_namespaces_are_refused() {
    let flags = libc::CLONE_VM as u64;
    let error = clone_process(&CloneRequest { flags, into_cgroup: None }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_clone_runs_in_new_namespaces_and_its_exit_is_seen() {
    let status = in_one_thread(|| {
        let outside = nix::unistd::gethostname().unwrap();
        let status = cloned(NEWUTS | NEWPID, || {
            nix::unistd::sethostname("inside").unwrap();
            let first = nix::unistd::getpid().as_raw() == 1;
            // A clone of a clone has one thread as well.
            if first && cloned(0, || 5) == 5 { 7 } else { 1 }
        });
        assert_eq!(nix::unistd::gethostname().unwrap(), outside);
        status
    });
    assert_eq!(status, 7);
}

#[test]
fn the_pidfd_of_a_clone_is_close_on_exec_and_kills_it() {
    let status = in_one_thread(|| {
        let request = CloneRequest { flags: 0, into_cgroup: None };
        let Cloned::Parent { pid, pidfd } = clone_process(&request).unwrap() else {
            loop {
                nix::unistd::pause();
            }
        };
        assert!(rustix::process::test_kill_process(pid).is_ok());
        let flags = rustix::io::fcntl_getfd(&pidfd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
        wait_pidfd(pidfd)
    });
    assert_eq!(status, 128 + 9);
}

#[test]
fn a_detached_program_gets_its_arguments_environment_and_session() {
    let script = "echo $0 $COLOUR $(pwd) $(($(cut -d' ' -f6 /proc/$$/stat) - $$)) >&3; exit 3";
    let (output, status) = run_script(script, &[]);
    assert_eq!((output.trim(), status), ("script red / 0", 3));
}

#[test]
fn a_detached_program_has_the_descriptors_it_was_given_and_no_others() {
    let (file, other) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    // Not close-on-exec: an inherited descriptor must not leak through.
    rustix::io::fcntl_setfd(&other, rustix::io::FdFlags::empty()).unwrap();
    let script = "cd /proc/$$/fd; echo $(readlink 0 1) >&3; n=0; while [ $n -lt 64 ]; do \
                  [ -e $n ] && echo $n >&3; n=$((n+1)); done; exit 0";
    let (output, status) = run_script(script, &[file.as_fd()]);
    assert_eq!(status, 0);
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words, ["/dev/null", "/dev/null", "0", "1", "2", "3", "4"]);
}

#[test]
fn descriptors_that_stand_in_each_others_place_are_swapped() {
    let status = in_one_thread(|| {
        let files = tempfile::tempdir().unwrap();
        testing::close_all_but_standard();
        let write = |name: &str| File::create(files.path().join(name)).unwrap();
        let (at_3, at_4) = (write("was-3"), write("was-4"));
        assert_eq!((at_3.as_raw_fd(), at_4.as_raw_fd()), (3, 4));
        let (exe, entry) = (File::open("/bin/sh").unwrap(), root_entry());
        let request = SpawnRequest {
            exe: exe.as_fd(),
            argv: &arguments(&["sh", "-c", "echo three >&3; echo four >&4"]),
            env: &[],
            fds: &[at_4.as_fd(), at_3.as_fd()],
            stderr: at_3.as_fd(),
            entry: Some(&entry),
        };
        let (_, pidfd) = spawn_detached(&request).unwrap();
        assert_eq!(wait_pidfd(pidfd), 0);
        let read = |name: &str| fs::read_to_string(files.path().join(name)).unwrap();
        assert_eq!((read("was-3").as_str(), read("was-4").as_str()), ("four\n", "three\n"));
        0
    });
    assert_eq!(status, 0);
}

#[test]
fn a_detached_program_blocks_and_ignores_no_signal() {
    // Rust programs ignore SIGPIPE, and the thread of a test may block anything.
    let script = "grep -E '^Sig(Blk|Ign)' /proc/self/status >&3";
    let (output, _) = run_script(script, &[]);
    let zero = "0000000000000000";
    assert_eq!(output, format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\n"));
}

#[test]
fn a_program_that_cannot_be_executed_is_an_error_and_no_process() {
    let (exe, entry) = (tempfile::tempfile().unwrap(), root_entry());
    let request = SpawnRequest {
        exe: exe.as_fd(),
        argv: &arguments(&["x"]),
        env: &[],
        fds: &[],
        stderr: testing::stderr(),
        entry: Some(&entry),
    };
    let error = spawn_detached(&request).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().starts_with("executing the program: "), "{error}");
    let error = spawn_detached(&SpawnRequest {
        entry: Some(&Entry {
            into: root_entry().into,
            tasks: vec![File::open("/dev/null").unwrap().into()],
        }),
        ..request
    });
    let text = error.unwrap_err().to_string();
    assert!(text.starts_with("entering the cgroup: "), "{text}");
}

#[test]
fn an_inherited_descriptor_is_taken_once_and_own_ones_are_refused() {
    let (file, inherited) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    inherited_fd(file.as_raw_fd()).unwrap_err();
    inherited_fd(1).unwrap_err();
    inherited_fd(RawFd::MAX).unwrap_err();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    let number = inherited.into_raw_fd();
    let taken = inherited_fd(number).unwrap();
    inherited_fd(number).unwrap_err();
    let flags = rustix::io::fcntl_getfd(&taken).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn execve_self_keeps_the_process_and_returns_only_errors() {
    let status = in_one_thread(|| {
        let pid = nix::unistd::getpid();
        let exe = File::open("/bin/sh").unwrap();
        let script = format!("test $$ = {pid} && exit 9");
        execve_self(exe.as_fd(), &arguments(&["sh", "-c", &script]), &[]).unwrap_err();
        1
    });
    assert_eq!(status, 9);
    let not_a_program = tempfile::tempfile().unwrap();
    execve_self(not_a_program.as_fd(), &arguments(&["x"]), &[]).unwrap_err();
}

#[test]
fn a_detached_read_only_file_can_be_executed_and_read_but_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    fs::copy("/bin/sleep", &path).unwrap();
    let sealed = detached_read_only(File::open(&path).unwrap().as_fd()).unwrap();
    let own = format!("/proc/self/fd/{}", sealed.as_raw_fd());
    assert_eq!(fs::read(&own).unwrap(), fs::read(&path).unwrap());
    let refused = |path: &str| {
        let error = File::options().append(true).open(path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{path}");
    };
    refused(&own);
    let entry = root_entry();
    let request = SpawnRequest {
        exe: sealed.as_fd(),
        argv: &arguments(&["sleep", "100"]),
        env: &[],
        fds: &[],
        stderr: testing::stderr(),
        entry: Some(&entry),
    };
    let (pid, pidfd) = spawn_detached(&request).unwrap();
    // The descriptor goes, the protection stays, also when the program runs no more.
    drop(sealed);
    let exe = format!("/proc/{}/exe", pid.as_raw_nonzero());
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let stolen = rustix::fs::open(exe, flags, rustix::fs::Mode::empty()).unwrap();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait_pidfd(pidfd), 128 + 9);
    refused(&format!("/proc/self/fd/{}", stolen.as_raw_fd()));
    File::options().append(true).open(&path).unwrap().write_all(b"x").unwrap();
}

#[test]
fn a_seccomp_filter_works_without_forbidding_new_privileges() {
    let rules = [(libc::SYS_sethostname, Vec::<SeccompRule>::new())].into_iter().collect();
    let errno = u32::try_from(libc::ENOTTY).unwrap();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    let status = in_one_thread(|| {
        load_seccomp(&program).unwrap();
        assert_eq!(nix::unistd::sethostname("never"), Err(nix::Error::ENOTTY));
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("NoNewPrivs:\t0\n") && status.contains("Seccomp:\t2\n"));
        0
    });
    assert_eq!(status, 0);
    load_seccomp(&[]).unwrap_err();
}

#[test]
fn the_loopback_of_a_new_network_namespace_is_brought_up() {
    let status = in_one_thread(|| {
        cloned(NEWNET, || {
            let refused = std::net::TcpStream::connect("127.0.0.1:1").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::NetworkUnreachable);
            set_interface_up("lo").unwrap();
            let refused = std::net::TcpStream::connect("127.0.0.1:1").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            set_interface_up("none-such").unwrap_err();
            set_interface_up("a-name-longer-than-allowed").unwrap_err();
            0
        })
    });
    assert_eq!(status, 0);
}

#[test]
fn the_handle_of_a_directory_survives_a_rename_and_differs_from_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let handle =
        |path: &std::path::Path| directory_handle(File::open(path).unwrap().as_fd()).unwrap();
    let (first, second) = (folder.path().join("a"), folder.path().join("b"));
    fs::create_dir(&first).unwrap();
    let before = handle(&first);
    fs::rename(&first, &second).unwrap();
    assert_eq!(handle(&second), before);
    fs::create_dir(&first).unwrap();
    assert_ne!(handle(&first), before);
    fs::remove_dir(&second).unwrap();
    fs::create_dir(&second).unwrap();
    assert_ne!(handle(&second), before, "also if the inode number is used again");
}

#[test]
fn a_directory_without_a_handle_is_known_by_its_birth() {
    // proc has no file handles.
    let handle = directory_handle(File::open("/proc").unwrap().as_fd()).unwrap();
    assert_eq!(handle.first(), Some(&HANDLE_BY_BIRTH));
    let folder = tempfile::tempdir().unwrap();
    let handle = directory_handle(File::open(folder.path()).unwrap().as_fd()).unwrap();
    assert_eq!(handle.first(), Some(&HANDLE_BY_KERNEL));
}

#[test]
fn the_groups_of_a_peer_are_those_that_it_had() {
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut expected: Vec<u32> =
        nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
    let mut found = peer_groups(&ours).unwrap();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn a_child_that_shares_the_memory_is_through_with_it_before_its_parent_goes_on() {
    fn write_and_end(value: &mut u32) -> ! {
        let pause = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        // SAFETY: the time is there, and what is left of it is not asked for.
        unsafe { libc::nanosleep(&raw const pause, std::ptr::null_mut()) };
        *value = 7;
        exit_now(5)
    }
    let mut value = 1;
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
    // SAFETY: the child makes system calls and changes its argument.
    let (pid, pidfd) = unsafe { shared::clone(None, &mut value, write_and_end) }.unwrap();
    before.thread_set_mask().unwrap();
    assert_eq!(value, 7);
    assert_ne!(pid, rustix::process::getpid());
    assert_eq!(wait_pidfd(pidfd), 5);
}
