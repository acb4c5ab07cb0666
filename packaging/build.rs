//! Links `roost-executor`, of which every pod has one, without shared libraries and at a fixed
//! address. Twenty parked ones then take 162 KiB each instead of 257 (PSS), because there are no
//! relocated pages of its own, of libc and of the dynamic linker. `roost` stays dynamic: it looks
//! up users and groups. Cargo has no per-program form of `crt-static`, so the libraries that
//! rustc names are answered by linker scripts which name the archives. Without the archives, or
//! when cross-compiling (where they are not known), the executor is linked as everything else.

use std::process::Command;

const SCRIPTS: [(&str, &str); 3] = [
    ("libgcc_s.so", "INPUT(-l:libgcc_eh.a -lgcc)"),
    ("libm.so", "INPUT(-l:libm.a)"),
    ("libc.so", "GROUP(-l:libc.a -l:libgcc_eh.a -lgcc)"),
];

fn main() {
    println!("cargo::rerun-if-changed=packaging/build.rs");
    let variable = |name| std::env::var(name).unwrap_or_default();
    let glibc = variable("CARGO_CFG_TARGET_OS") == "linux"
        && variable("CARGO_CFG_TARGET_ENV") == "gnu"
        && !variable("CARGO_CFG_TARGET_FEATURE").contains("crt-static");
    let known = variable("HOST") == variable("TARGET");
    if !(glibc && known && ["libc.a", "libm.a", "libgcc_eh.a"].into_iter().all(cc_has)) {
        return;
    }
    let directory = variable("OUT_DIR");
    for (name, text) in SCRIPTS {
        std::fs::write(format!("{directory}/{name}"), text).expect("OUT_DIR can be written");
    }
    // The last one is for lld, which goes by the mode that is in force at the end.
    for argument in ["-no-pie", "-static", &format!("-L{directory}"), "-Wl,-Bstatic"] {
        println!("cargo::rustc-link-arg-bin=roost-executor={argument}");
    }
}

/// Whether the compiler that links finds the archive: it prints the bare name if not.
fn cc_has(archive: &str) -> bool {
    let found = Command::new("cc").arg(format!("-print-file-name={archive}")).output();
    found.is_ok_and(|output| output.stdout.starts_with(b"/"))
}
