use super::*;
use crate::containerizer::native::isolators::seccomp::filter;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// Runs a program as the kernel does.
fn verdict(program: &[sock_filter], audit: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        NUMBER_OFFSET => number,
        ARCH_OFFSET => audit,
        _ => {
            let arg = args[((offset - ARGS_OFFSET) / ARG_SIZE) as usize];
            let shift = if offset.is_multiple_of(ARG_SIZE) { 0 } else { 32 };
            u32::try_from((arg >> shift) & 0xffff_ffff).unwrap()
        }
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let step = &program[at];
        at += 1;
        match step.code {
            LOAD => accumulator = word(step.k),
            AND => accumulator &= step.k,
            JUMP => at += step.k as usize,
            JUMP_IF_EQUAL => {
                at += usize::from(if accumulator == step.k { step.jt } else { step.jf });
            }
            JUMP_IF_AT_LEAST => {
                at += usize::from(if accumulator >= step.k { step.jt } else { step.jf });
            }
            RETURN => return step.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[track_caller]
fn check(arch: Arch, name: &str, args: [u64; 6], expected: u32) {
    let audit = match arch {
        Arch::X86_64 => AUDIT_X86_64,
        Arch::Aarch64 => AUDIT_AARCH64,
    };
    let program = compile(&filter(arch, &Default::default())).unwrap();
    let number = number(arch, name).unwrap();
    assert_eq!(verdict(&program, audit, number, args), expected, "{name} {args:x?}");
}

#[test]
fn tables_are_sorted_and_agree_with_the_c_library() {
    for table in [x86_64::TABLE, aarch64::TABLE] {
        assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
    #[cfg(target_arch = "x86_64")]
    let arch = Arch::X86_64;
    #[cfg(target_arch = "aarch64")]
    let arch = Arch::Aarch64;
    for (name, expected) in [
        ("read", libc::SYS_read),
        ("clone3", libc::SYS_clone3),
        ("openat2", libc::SYS_openat2),
        ("execve", libc::SYS_execve),
        ("mseal", libc::SYS_mseal),
        ("writev", libc::SYS_writev),
    ] {
        assert_eq!(number(arch, name).map(i64::from), Some(expected), "{name}");
    }
}

#[test]
fn each_number_of_the_list_is_allowed_and_no_other() {
    for (arch, audit, table) in [
        (Arch::X86_64, AUDIT_X86_64, x86_64::TABLE),
        (Arch::Aarch64, AUDIT_AARCH64, aarch64::TABLE),
    ] {
        let list = filter(arch, &Default::default());
        let program = compile(&list).unwrap();
        let plain: Vec<u32> = list.syscalls().as_ref().unwrap()[0]
            .names()
            .iter()
            .map(|name| number(arch, name).unwrap())
            .collect();
        let named: Vec<u32> = table.iter().map(|(_, number)| *number).collect();
        for number in 0..600 {
            let found = verdict(&program, audit, number, [u64::MAX; 6]);
            if plain.contains(&number) {
                assert_eq!(found, ALLOW, "{number}");
            } else if !named.contains(&number) {
                assert_eq!(found, EPERM, "{number}");
            }
        }
        // x32, and another architecture.
        assert_eq!(verdict(&program, audit, 0x4000_0000, [0; 6]), EPERM);
        assert_eq!(verdict(&program, 0x4000_0003, 1, [0; 6]), KILL);
    }
}

#[test]
fn namespaces_devices_and_odd_sockets_are_refused_by_argument() {
    for arch in [Arch::X86_64, Arch::Aarch64] {
        check(arch, "clone3", [0; 6], ENOSYS);
        check(arch, "clone", [0x11, 0, 0, 0, 0, 0], ALLOW);
        check(arch, "clone", [0x1000_0011, 0, 0, 0, 0, 0], EPERM);
        check(arch, "mknodat", [0, 0, 0x1000 | 0o644, 0, 0, 0], ALLOW);
        check(arch, "mknodat", [0, 0, 0x2000 | 0o644, 0, 0, 0], EPERM);
        check(arch, "mknodat", [0, 0, 0x6000 | 0o644, 0, 0, 0], EPERM);
        check(arch, "socket", [2, 1, 0, 0, 0, 0], ALLOW);
        check(arch, "socket", [40, 1, 0, 0, 0, 0], EPERM);
        check(arch, "socket", [0x1_0000_0026, 1, 0, 0, 0, 0], EPERM);
        check(arch, "personality", [0xffff_ffff, 0, 0, 0, 0, 0], ALLOW);
        check(arch, "personality", [0x40_0000, 0, 0, 0, 0, 0], EPERM);
    }
}

#[test]
fn a_number_is_decided_in_few_steps() {
    let program = compile(&filter(Arch::X86_64, &Default::default())).unwrap();
    assert!(program.len() < 400, "{}", program.len());
}

#[test]
fn a_name_without_a_number_is_an_error() {
    let mut list = filter(Arch::Aarch64, &Default::default());
    list.set_architectures(Some(vec![OciArch::ScmpArchX86_64]));
    compile(&list).unwrap();
    let mut list = filter(Arch::X86_64, &Default::default());
    list.set_architectures(Some(vec![OciArch::ScmpArchAarch64]));
    assert_eq!(compile(&list), Err(FilterError::UnknownCall("access".to_owned())));
}

#[test]
fn a_list_is_compiled_once() {
    let mut cache = FilterCache::default();
    let list = filter(Arch::X86_64, &Default::default());
    let first = cache.get(&list).unwrap();
    assert!(Rc::ptr_eq(&first, &cache.get(&list).unwrap()));
}
