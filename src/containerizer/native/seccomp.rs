//! From the names of an OCI seccomp list to a program for the kernel.
//!
//! The program is a binary search over ranges of system call numbers. At its load the kernel runs
//! it for every number there is, to remember which are always allowed (Linux 5.11), so the number
//! of instructions on the way matters: a filter of one comparison per system call, as seccompiler
//! makes it, takes 2.1 ms to load, more than the rest of a container's set-up. Not here: which
//! calls are allowed (`isolators::seccomp`), and the load (`sys`).

use std::collections::BTreeMap;
use std::rc::Rc;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use seccompiler::sock_filter;

use super::facts::Arch;

mod aarch64;
mod x86_64;

/// Why a list can't be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A name that is not in the table of the architecture.
    #[error("system call `{0}` is unknown")]
    UnknownCall(String),
    /// Not exactly one architecture, or one without a table.
    #[error("a filter must be for x86-64 or 64-bit ARM alone")]
    Architecture,
    /// A comparison that no isolator uses.
    #[error("comparison {0} of an argument is not supported")]
    Comparison(LinuxSeccompOperator),
    /// An argument of a system call that can't have it.
    #[error("argument {0} of a system call does not exist")]
    Argument(usize),
    /// The program would be longer than the kernel takes.
    #[error("the filter has {0} instructions, more than the kernel takes")]
    TooLong(usize),
}

/// The last compiled program: pods rarely need two.
#[derive(Debug, Default)]
pub(super) struct FilterCache(Option<(LinuxSeccomp, Rc<[sock_filter]>)>);

impl FilterCache {
    pub(super) fn get(&mut self, list: &LinuxSeccomp) -> Result<Rc<[sock_filter]>, FilterError> {
        match &self.0 {
            Some((known, program)) if known == list => Ok(Rc::clone(program)),
            Some(_) | None => {
                let program: Rc<[sock_filter]> = compile(list)?.into();
                self.0 = Some((list.clone(), Rc::clone(&program)));
                Ok(program)
            }
        }
    }
}

/// The number of a system call; none if the architecture does not have it, or no list may name it.
pub(super) fn number(arch: Arch, name: &str) -> Option<u32> {
    let table = match arch {
        Arch::X86_64 => x86_64::TABLE,
        Arch::Aarch64 => aarch64::TABLE,
    };
    let index = table.binary_search_by_key(&name, |(known, _)| known).ok()?;
    table.get(index).map(|(_, number)| *number)
}

/// `BPF_MAXINSNS` of `linux/bpf_common.h`.
const INSTRUCTIONS_MAX: usize = 4096;
/// Offsets in `struct seccomp_data` of `linux/seccomp.h`.
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGS_OFFSET: u32 = 16;
const ARG_SIZE: u32 = 8;
/// A system call has six arguments.
const ARGS: usize = 6;
/// `AUDIT_ARCH_*` of `linux/audit.h`.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
/// `SECCOMP_RET_KILL_PROCESS`: for calls of another architecture (32-bit programs), whose numbers
/// mean something else.
const KILL: u32 = 0x8000_0000;

/// Classic BPF (`linux/filter.h`).
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
/// What a conditional jump can skip.
const SHORT_JUMP_MAX: usize = u8::MAX as usize;

/// What happens to a range of numbers. Conditions are tried in order.
#[derive(Debug, Clone, PartialEq)]
struct Verdict<'a> {
    conditions: Vec<(&'a [LinuxSeccompArg], u32)>,
    otherwise: u32,
}

fn compile(list: &LinuxSeccomp) -> Result<Vec<sock_filter>, FilterError> {
    let (arch, audit) = match list.architectures().as_deref() {
        Some([OciArch::ScmpArchX86_64]) => (Arch::X86_64, AUDIT_X86_64),
        Some([OciArch::ScmpArchAarch64]) => (Arch::Aarch64, AUDIT_AARCH64),
        Some(_) | None => return Err(FilterError::Architecture),
    };
    let mut program = vec![
        statement(LOAD, ARCH_OFFSET),
        branch(JUMP_IF_EQUAL, audit, 1, 0),
        statement(RETURN, KILL),
        statement(LOAD, NUMBER_OFFSET),
    ];
    program.extend(search(&ranges(list, arch)?)?);
    if program.len() > INSTRUCTIONS_MAX {
        return Err(FilterError::TooLong(program.len()));
    }
    Ok(program)
}

/// The first number of each range, from 0, with what happens to it up to the next.
fn ranges(list: &LinuxSeccomp, arch: Arch) -> Result<Vec<(u32, Verdict<'_>)>, FilterError> {
    let default = Verdict {
        conditions: Vec::new(),
        otherwise: list.default_action().as_u32(list.default_errno_ret()),
    };
    let mut verdicts: BTreeMap<u32, Verdict<'_>> = BTreeMap::new();
    for entry in list.syscalls().iter().flatten() {
        for name in entry.names() {
            let number =
                number(arch, name).ok_or_else(|| FilterError::UnknownCall(name.clone()))?;
            let verdict = verdicts.entry(number).or_insert_with(|| default.clone());
            add(verdict, entry);
        }
    }
    let mut ranges = vec![(0, default.clone())];
    for (number, verdict) in &verdicts {
        extend(&mut ranges, *number, verdict.clone());
        if !verdicts.contains_key(&(number + 1)) {
            extend(&mut ranges, number + 1, default.clone());
        }
    }
    Ok(ranges)
}

/// Adds a range, or lengthens the one before it.
fn extend<'a>(ranges: &mut Vec<(u32, Verdict<'a>)>, start: u32, verdict: Verdict<'a>) {
    match ranges.last_mut() {
        Some((_, known)) if *known == verdict => {}
        Some((last, known)) if *last == start => *known = verdict,
        Some(_) | None => ranges.push((start, verdict)),
    }
}

fn add<'a>(verdict: &mut Verdict<'a>, entry: &'a LinuxSyscall) {
    let action = entry.action().as_u32(entry.errno_ret());
    match entry.args().as_deref() {
        None | Some([]) => verdict.otherwise = action,
        Some(args) => verdict.conditions.push((args, action)),
    }
}

/// The search for a number in ranges; every path through it ends in a return.
fn search(ranges: &[(u32, Verdict<'_>)]) -> Result<Vec<sock_filter>, FilterError> {
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let Some((middle, verdict)) = upper.first() else { return Ok(Vec::new()) };
    if lower.is_empty() {
        return decide(verdict);
    }
    let left = search(lower)?;
    let mut program = match u8::try_from(left.len()) {
        Ok(skip) => vec![branch(JUMP_IF_AT_LEAST, *middle, skip, 0)],
        Err(_) => {
            let skip = u32::try_from(left.len()).map_err(|_| FilterError::TooLong(left.len()))?;
            vec![branch(JUMP_IF_AT_LEAST, *middle, 0, 1), statement(JUMP, skip)]
        }
    };
    program.extend(left);
    program.extend(search(upper)?);
    Ok(program)
}

fn decide(verdict: &Verdict<'_>) -> Result<Vec<sock_filter>, FilterError> {
    let mut program = Vec::new();
    for (args, action) in &verdict.conditions {
        let mut tests = Vec::new();
        for arg in *args {
            tests.extend(compare(arg)?);
        }
        // Each test that fails skips what remains of the condition, its return included.
        let len = tests.len();
        for (index, test) in tests.into_iter().enumerate() {
            let rest = len - index;
            program.push(match test {
                Step::Plain(instruction) => instruction,
                Step::Equal(value) => {
                    debug_assert!(rest <= SHORT_JUMP_MAX, "at most 6 arguments of 6 steps");
                    let skip = u8::try_from(rest).map_err(|_| FilterError::TooLong(rest))?;
                    branch(JUMP_IF_EQUAL, value, 0, skip)
                }
            });
        }
        program.push(statement(RETURN, *action));
    }
    program.push(statement(RETURN, verdict.otherwise));
    Ok(program)
}

/// A step of a comparison.
enum Step {
    Plain(sock_filter),
    /// Goes on if the accumulator is that.
    Equal(u32),
}

/// The tests of an argument: the kernel's words are of 32 bits, the lower one first, since both
/// architectures are little-endian.
fn compare(arg: &LinuxSeccompArg) -> Result<Vec<Step>, FilterError> {
    let (mask, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => (u64::MAX, arg.value()),
        // OCI: `value` is the mask, `valueTwo` what remains.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (arg.value(), arg.value_two().unwrap_or(0)),
        other @ (LinuxSeccompOperator::ScmpCmpNe
        | LinuxSeccompOperator::ScmpCmpLt
        | LinuxSeccompOperator::ScmpCmpLe
        | LinuxSeccompOperator::ScmpCmpGe
        | LinuxSeccompOperator::ScmpCmpGt) => return Err(FilterError::Comparison(other)),
    };
    let index = arg.index();
    let position = u32::try_from(index).ok().filter(|_| index < ARGS);
    let offset = ARGS_OFFSET + ARG_SIZE * position.ok_or(FilterError::Argument(index))?;
    let mut steps = Vec::new();
    for (offset, shift) in [(offset, 0), (offset + ARG_SIZE / 2, 32)] {
        let half = |word: u64| u32::try_from((word >> shift) & 0xffff_ffff).unwrap_or(u32::MAX);
        if half(mask) == 0 && half(value) == 0 {
            continue;
        }
        steps.push(Step::Plain(statement(LOAD, offset)));
        if half(mask) != u32::MAX {
            steps.push(Step::Plain(statement(AND, half(mask))));
        }
        steps.push(Step::Equal(half(value)));
    }
    Ok(steps)
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests;
