//! [`HostFiles`]: what files of the host say at the moment of a launch. They may change during the
//! life of a pod, so they are read anew for each.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction};
use serde_json::Value;

use super::facts::Arch;
use super::isolators::seccomp::architecture;
use super::seccomp::number;
use crate::manifest::pod::{ContainerSpec, Names, PodSpec, RelativePath, SeccompProfile};
use crate::state::paths::PodPaths;

/// A profile of system calls, and a file of names, each: in bytes.
const PROFILE_LEN_MAX: u64 = 1 << 20;
const NAMES_LEN_MAX: u64 = 1 << 20;
/// Where systemd-resolved keeps what its own address, which only the host reaches, stands for.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// That address.
const RESOLVED_STUB: &str = "127.0.0.53";

/// What files of the host say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HostFiles {
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// What the pods of the node are called, as lines of hosts(5), if that is told.
    pub pods: Option<String>,
    /// The container's own profile of system calls, or why there is none.
    pub profile: Option<Result<LinuxSeccomp, String>>,
}

impl HostFiles {
    /// Reads what matters for a container.
    pub(super) fn read(
        pod: &PodSpec,
        container: &ContainerSpec,
        paths: &PodPaths,
        arch: Arch,
    ) -> Self {
        let profile = match &container.security.seccomp {
            SeccompProfile::RuntimeDefault | SeccompProfile::Unconfined => None,
            SeccompProfile::Localhost(file) => Some(profile(file, paths, arch)),
        };
        // Most containers without an image see the host's own.
        if container.image.is_none() && pod.names == Names::default() {
            return Self { profile, ..Self::default() };
        }
        Self { hosts: names("/etc/hosts"), resolv_conf: resolv_conf(), pods: None, profile }
    }
}

fn resolv_conf() -> String {
    let text = names("/etc/resolv.conf");
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let is_stub = servers.any(|server| server.trim() == RESOLVED_STUB);
    let real = is_stub.then(|| names(RESOLVED)).filter(|text| !text.is_empty());
    real.unwrap_or(text)
}

/// A file that can't be read says nothing: names are then not found, which programs report.
fn names(path: &str) -> String {
    let bytes = read(Path::new(path), NAMES_LEN_MAX).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // A FIFO must not keep us waiting.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let why = format!("it has more than {most} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(bytes)
}

fn profile(file: &RelativePath, paths: &PodPaths, arch: Arch) -> Result<LinuxSeccomp, String> {
    let path = paths.seccomp_profiles().unwrap_or_default().join(file.as_str());
    let failed = |why: String| format!("seccomp profile {}: {why}", path.display());
    let bytes = read(&path, PROFILE_LEN_MAX).map_err(|error| failed(error.to_string()))?;
    parse(&bytes, arch).map_err(failed)
}

/// Keys of a profile that mean something here. A key that was passed over could have been one that
/// narrows the rule, as in Docker's own form.
const KEYS: [&str; 4] = ["defaultAction", "defaultErrnoRet", "architectures", "syscalls"];
const RULE_KEYS: [&str; 5] = ["names", "action", "errnoRet", "args", "comment"];

/// The text of a profile, for this machine. PURE.
fn parse(bytes: &[u8], arch: Arch) -> Result<LinuxSeccomp, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let unknown = |value: &Value, known: &[&str]| {
        let keys = value.as_object().into_iter().flat_map(|map| map.iter());
        let is_set = |value: &Value| !value.is_null() && *value != serde_json::json!([]);
        let mut strange = keys.filter(|(key, value)| !known.contains(&&***key) && is_set(value));
        strange.next().map(|(key, _)| format!("`{key}` is not supported"))
    };
    let rules = value.get("syscalls").and_then(Value::as_array).into_iter().flatten();
    let strange = unknown(&value, &KEYS).or_else(|| {
        let mut rules = rules.clone();
        rules.find_map(|rule| unknown(rule, &RULE_KEYS))
    });
    if let Some(strange) = strange {
        return Err(strange);
    }
    let mut list: LinuxSeccomp =
        serde_json::from_value(value).map_err(|error| error.to_string())?;
    let own = architecture(arch);
    if list.architectures().as_ref().is_some_and(|all| !all.is_empty() && !all.contains(&own)) {
        return Err(format!("it is not for this machine ({own})"));
    }
    list.set_architectures(Some(vec![own]));
    let is_closed = is_refusal(list.default_action());
    let mut syscalls = list.syscalls().clone().unwrap_or_default();
    for rule in &mut syscalls {
        if rule.action() == LinuxSeccompAction::ScmpActNotify {
            return Err("SCMP_ACT_NOTIFY is not supported".to_owned());
        }
        let (known, strange): (Vec<String>, Vec<String>) =
            rule.names().iter().cloned().partition(|name| number(arch, name).is_some());
        // Calls of other architectures are listed everywhere. Where everything else is allowed, one
        // that is not known could be the very one that shall not be.
        if let Some(name) = strange.first().filter(|_| !is_closed) {
            return Err(format!("system call `{name}` is unknown"));
        }
        rule.set_names(known);
    }
    syscalls.retain(|rule| !rule.names().is_empty());
    list.set_syscalls(Some(syscalls));
    Ok(list)
}

/// Whether the call is not made.
fn is_refusal(action: LinuxSeccompAction) -> bool {
    match action {
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap
        | LinuxSeccompAction::ScmpActErrno => true,
        LinuxSeccompAction::ScmpActNotify
        | LinuxSeccompAction::ScmpActTrace
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActAllow => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) -> String {
        parse(text.as_bytes(), Arch::X86_64).unwrap_err()
    }

    #[test]
    fn a_profile_is_read_for_this_machine() {
        let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64",
            "SCMP_ARCH_X86"], "syscalls": [{"names": ["read", "_llseek"], "action":
            "SCMP_ACT_ALLOW", "args": []}, {"names": ["chown32"], "action": "SCMP_ACT_ALLOW"}]}"#;
        let list = parse(text.as_bytes(), Arch::X86_64).unwrap();
        let rules = list.syscalls().as_ref().unwrap();
        assert_eq!((rules.len(), rules[0].names().as_slice()), (1, &["read".to_owned()][..]));
        super::super::seccomp::FilterCache::default().get(&list).unwrap();
        assert!(parse(text.as_bytes(), Arch::Aarch64).unwrap_err().contains("this machine"));
    }

    #[test]
    fn what_would_be_passed_over_is_refused() {
        let with = |more: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", {more}}}"#);
        let rule = |more: &str| with(&format!(r#""syscalls": [{{"names": ["mount"], {more}}}]"#));
        let deny = r#""action": "SCMP_ACT_ERRNO""#;
        parse(rule(deny).as_bytes(), Arch::X86_64).unwrap();
        assert_eq!(refused(&with(r#""archMap": [{}]"#)), "`archMap` is not supported");
        let includes = rule(&format!(r#"{deny}, "includes": {{"caps": ["CAP_X"]}}"#));
        assert_eq!(refused(&includes), "`includes` is not supported");
        let unknown = rule(deny).replace("mount", "mout");
        assert_eq!(refused(&unknown), "system call `mout` is unknown");
        for bad in ["", "[]", "{}", r#"{"defaultAction": "SCMP_ACT_EVERYTHING"}"#] {
            refused(bad);
        }
    }
}
