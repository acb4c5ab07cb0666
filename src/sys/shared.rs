//! A clone that shares its parent's memory until it executes a program, as vfork(2) makes it.
//!
//! The parent's thread is suspended meanwhile (CLONE_VFORK), its other threads go on. The child has
//! a stack of its own: on the parent's it would overwrite what the parent returns to. clone(2) of
//! the C library could do that, but can't make a child in another cgroup, for which there is
//! only the system call clone3. What it takes to begin on another stack is written here for each
//! processor. Not here: what the child does.

use std::arch::asm;
use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

use super::{CloneArgs, pid_of};

/// The child's stack, in units of its alignment. It makes a few dozen system calls.
const STACK_LEN: usize = (64 << 10) / size_of::<u128>();
/// The memory is shared, and the parent waits.
const FLAGS: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;

/// What the child begins with, and what it does with that.
struct Start<'a, T> {
    argument: &'a mut T,
    run: fn(&mut T) -> !,
}

/// A child that runs `run`, in the cgroup if there is one. Returns when the child has executed a
/// program or has ended.
///
/// # Errors
/// What clone3(2) says; there is no child then.
///
/// # Safety
/// `run` may make system calls, read memory and change what `argument` owns. It must not allocate,
/// lock, panic, or use more than half of [`STACK_LEN`]. The caller has all signals blocked: a
/// handler would run in the child as well.
pub(super) unsafe fn clone<T>(
    into: Option<BorrowedFd<'_>>,
    argument: &mut T,
    run: fn(&mut T) -> !,
) -> io::Result<(Pid, OwnedFd)> {
    let mut stack: Box<[MaybeUninit<u128>]> = Box::new_uninit_slice(STACK_LEN);
    let mut pidfd: c_int = -1;
    let mut args = CloneArgs::new(FLAGS, into, &mut pidfd);
    args.stack = stack.as_mut_ptr().expose_provenance() as u64;
    args.stack_size = size_of_val(&*stack) as u64;
    let mut start = Start { argument, run };
    // SAFETY: the arguments say where the stack is, and `begin` gets what it wants. All of it lives
    // until this returns, which is when the child does not share the memory any more.
    let result = unsafe { clone3(&mut args, begin::<T>, (&raw mut start).cast()) };
    if result < 0 {
        let errno = i32::try_from(-result).unwrap_or(libc::EIO);
        return Err(io::Error::from_raw_os_error(errno));
    }
    // SAFETY: CLONE_PIDFD has just made this descriptor (close-on-exec) for us alone.
    Ok((pid_of(result), unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The child's first function.
///
/// # Safety
/// `start` is a [`Start`] of that type, and nobody else's meanwhile.
unsafe extern "C" fn begin<T>(start: *mut c_void) -> ! {
    // SAFETY: that is what the caller promises.
    let Start { argument, run } = unsafe { &mut *start.cast::<Start<'_, T>>() };
    run(argument)
}

/// clone3(2) with a stack, on which the child calls `begin`; the id of the child or the negative
/// number of an error.
///
/// # Safety
/// The arguments have to name a stack, aligned to 16 bytes, and CLONE_VFORK. `begin` gets `start`.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(
    args: &mut CloneArgs,
    begin: unsafe extern "C" fn(*mut c_void) -> !,
    start: *mut c_void,
) -> c_long {
    let result: c_long;
    // SAFETY: the child has the same registers but for the result and the stack (clone(2)), and
    // leaves by a call that does not return. The outermost frame has no base (System V ABI, 3.4.1).
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") &raw mut *args,
            in("rsi") size_of::<CloneArgs>(),
            in("r12") start,
            in("r13") begin,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// See above.
///
/// # Safety
/// The same.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(
    args: &mut CloneArgs,
    begin: unsafe extern "C" fn(*mut c_void) -> !,
    start: *mut c_void,
) -> c_long {
    let result: c_long;
    // SAFETY: as above; the outermost frame has no record (AAPCS64, 6.2.3).
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") &raw mut *args => result,
            in("x1") size_of::<CloneArgs>(),
            in("x20") start,
            in("x21") begin,
        );
    }
    result
}
