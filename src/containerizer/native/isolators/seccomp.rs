//! The default system call filter, in the form of OCI: names and conditions.
//!
//! What is not listed fails with EPERM, as in the default profile of container engines. `clone3`
//! fails with ENOSYS, because its flags lie in memory where a filter can't see them; C libraries
//! then use `clone`. Beyond those profiles, devices can't be made and sockets are limited to known
//! families: there is no device cgroup that would stop the opening of a device on cgroup2.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};

use super::capabilities::held;
use crate::containerizer::native::facts::Arch;
use crate::containerizer::native::plan::{Context, Isolator, LaunchPlan, PlanError};
use crate::containerizer::native::seccomp::number;
use crate::manifest::pod::{Capability, SeccompProfile};

/// What the default action returns.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// `CLONE_NEW*` that clone(2) takes: mount, cgroup, UTS, IPC, user, PID and network.
const CLONE_NEW_ANY: u64 = 0x7e02_0000;
/// The argument is an `int`: the upper half of the register means nothing, and must not matter.
const INT: u64 = 0xffff_ffff;
/// `S_IFMT`.
const FILE_TYPE: u64 = 0xf000;
/// Regular (twice: 0 means it as well), FIFO, socket; not character and block devices.
const FILE_TYPES: [u64; 4] = [0, 0x8000, 0x1000, 0xc000];
/// `PER_LINUX` and `PER_LINUX32`, each also with `UNAME26`; and the question which it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// UNIX, INET, INET6, NETLINK, PACKET, CAN, TIPC, BLUETOOTH, IEEE802154, NFC, QIPCRTR, SMC, XDP.
/// Not ALG and VSOCK: the kernel's crypto, and the machine's hypervisor.
const SOCKET_FAMILIES: [u64; 13] = [1, 2, 10, 16, 17, 29, 30, 31, 36, 39, 42, 43, 44];

/// Allowed with any arguments; those that an architecture does not have are left out for it.
#[rustfmt::skip]
const ALLOWED: &[&str] = &[
    "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat",
    "capget", "capset", "chdir", "chmod", "chown", "chroot", "clock_adjtime", "clock_getres",
    "clock_gettime", "clock_nanosleep", "close", "close_range", "connect", "copy_file_range",
    "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
    "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "execve",
    "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate",
    "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl",
    "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat",
    "fstatfs", "fsync", "ftruncate", "futex", "futex_requeue", "futex_wait", "futex_waitv",
    "futex_wake", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd", "getdents",
    "getdents64", "getegid", "geteuid", "getgid", "getgroups", "getitimer", "getpeername",
    "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresuid",
    "getrlimit", "getrusage", "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday",
    "getuid", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1",
    "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_setup",
    "io_submit", "ioctl", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule",
    "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat",
    "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek",
    "lsetxattr", "lstat", "madvise", "map_shadow_stack", "membarrier", "memfd_create",
    "memfd_secret", "mincore", "mkdir", "mkdirat", "mlock", "mlock2", "mlockall", "mmap",
    "modify_ldt", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
    "mq_timedsend", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd", "msync",
    "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "open",
    "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2",
    "prlimit64", "process_mrelease", "process_vm_readv", "process_vm_writev", "pselect6", "ptrace",
    "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat", "readv",
    "recvfrom", "recvmmsg", "recvmsg", "remap_file_pages", "removexattr", "removexattrat", "rename",
    "renameat", "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait",
    "rt_tgsigqueueinfo", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
    "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
    "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "sendfile", "sendmmsg",
    "sendmsg", "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid",
    "setfsuid", "setgid", "setgroups", "setitimer", "setpgid", "setpriority", "setregid",
    "setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setsockopt", "setuid", "setxattr",
    "setxattrat", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "sigaltstack", "signalfd",
    "signalfd4", "socketpair", "splice", "stat", "statfs", "statmount", "statx", "symlink",
    "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time",
    "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime",
    "timerfd_create", "timerfd_gettime", "timerfd_settime", "times", "tkill", "truncate", "umask",
    "uname", "unlink", "unlinkat", "uretprobe", "utime", "utimensat", "utimes", "vfork", "vmsplice",
    "wait4", "waitid", "write", "writev",
];

/// Allowed as well to a root who was given the capability for it: the one is of no use without the
/// other (as in the default profile of container engines).
#[rustfmt::skip]
const UNLOCKED: &[(&str, &[&str])] = &[
    ("BPF", &["bpf"]),
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("PERFMON", &["perf_event_open"]),
    ("SYSLOG", &["syslog"]),
    ("SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick",
        "mount", "mount_setattr", "move_mount", "open_tree", "perf_event_open", "quotactl",
        "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount2", "unshare",
    ]),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_MODULE", &["delete_module", "finit_module", "init_module"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["ioperm", "iopl"]),
    ("SYS_TIME", &["clock_settime", "settimeofday"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
];

/// See the module.
#[derive(Debug)]
pub(super) struct DefaultFilter;

impl Isolator for DefaultFilter {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let security = &context.container.security;
        if security.privileged {
            return Ok(());
        }
        let list = match &security.seccomp {
            SeccompProfile::Unconfined => return Ok(()),
            SeccompProfile::RuntimeDefault => filter(context.facts.arch, &held(security)),
            SeccompProfile::Localhost(file) => match &context.facts.files.profile {
                Some(Ok(list)) => list.clone(),
                Some(Err(why)) => return Err(PlanError::Profile { why: why.clone() }),
                None => {
                    let why = format!("seccomp profile {file} was not read before the launch");
                    return Err(PlanError::Profile { why });
                }
            },
        };
        plan.linux_mut().set_seccomp(Some(list));
        Ok(())
    }
}

/// The architecture in the words of OCI.
pub(in crate::containerizer::native) fn architecture(arch: Arch) -> OciArch {
    match arch {
        Arch::X86_64 => OciArch::ScmpArchX86_64,
        Arch::Aarch64 => OciArch::ScmpArchAarch64,
    }
}

/// The filter for an architecture, for a root who has these capabilities.
pub(in crate::containerizer::native) fn filter(
    arch: Arch,
    held: &BTreeSet<Capability>,
) -> LinuxSeccomp {
    let known = |name: &&str| number(arch, name).is_some();
    let has = |name: &str| held.iter().any(|capability| capability.name() == name);
    let unlocked: BTreeSet<&str> = UNLOCKED
        .iter()
        .filter(|(capability, _)| has(capability))
        .flat_map(|(_, calls)| calls.iter().copied())
        .filter(known)
        .collect();
    let allowed = ALLOWED.iter().copied().filter(known).chain(unlocked.iter().copied());
    let allowed = allowed.map(str::to_owned).collect();
    let mut syscalls = vec![rule(allowed, LinuxSeccompAction::ScmpActAllow, None)];
    let mut allow_if = |name: &str, index: usize, mask: u64, values: &[u64]| {
        // x86-64 has mknod beside mknodat.
        if number(arch, name).is_none() || unlocked.contains(name) {
            return;
        }
        for value in values {
            let mut entry = rule(vec![name.to_owned()], LinuxSeccompAction::ScmpActAllow, None);
            entry.set_args(Some(vec![masked(index, mask, *value)]));
            syscalls.push(entry);
        }
    };
    allow_if("clone", 0, CLONE_NEW_ANY, &[0]);
    allow_if("mknod", 1, FILE_TYPE, &FILE_TYPES);
    allow_if("mknodat", 2, FILE_TYPE, &FILE_TYPES);
    allow_if("personality", 0, INT, &PERSONALITIES);
    allow_if("socket", 0, INT, &SOCKET_FAMILIES);
    if !unlocked.contains("clone3") {
        let clone3 = vec!["clone3".to_owned()];
        syscalls.push(rule(clone3, LinuxSeccompAction::ScmpActErrno, Some(ENOSYS)));
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(vec![architecture(arch)]))
        .set_syscalls(Some(syscalls));
    seccomp
}

fn rule(names: Vec<String>, action: LinuxSeccompAction, errno: Option<u32>) -> LinuxSyscall {
    let mut entry = LinuxSyscall::default();
    entry.set_names(names).set_action(action).set_errno_ret(errno);
    entry
}

fn masked(index: usize, mask: u64, value: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .value(mask)
        .value_two(value)
        .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
        .build()
        .expect("every field has a default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_allowed_name_is_known_for_x86_64() {
        for name in ALLOWED {
            assert!(number(Arch::X86_64, name).is_some(), "{name}");
        }
        assert!(number(Arch::Aarch64, "open").is_none());
    }

    #[test]
    fn what_a_capability_unlocks_is_known_and_not_allowed_anyway() {
        for call in UNLOCKED.iter().flat_map(|(_, calls)| *calls) {
            assert!(number(Arch::X86_64, call).is_some(), "{call}");
            assert!(*call == "clone" || !ALLOWED.contains(call), "{call}");
        }
        for (capability, _) in UNLOCKED {
            capability.parse::<Capability>().unwrap();
        }
        let with = |names: &[&str]| {
            let held = names.iter().map(|name| name.parse().unwrap()).collect();
            filter(Arch::X86_64, &held).syscalls().as_ref().unwrap()[0].names().clone()
        };
        assert!(!with(&[]).contains(&"mount".to_owned()));
        assert!(with(&["SYS_ADMIN"]).contains(&"mount".to_owned()));
    }

    #[test]
    fn what_reaches_the_host_is_not_allowed() {
        for name in ["mount", "unshare", "setns", "bpf", "keyctl", "init_module", "io_uring_setup"]
        {
            assert!(!ALLOWED.contains(&name), "{name}");
        }
    }
}
