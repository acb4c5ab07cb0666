//! Values as people write them, in flags, environment and file alike, and their ranges.
//!
//! Every function says what is wrong in words that follow the name of the key.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::clock::Millis;
use crate::manifest::pod::{AbsolutePath, InvalidPath, InvalidSysctl, SysctlName};
use crate::manifest::quantity::{InvalidQuantity, Quantity};
use crate::network::subnet::{Subnet, SubnetFault};
use crate::reconciler::pressure::Threshold;

/// Relisting costs a listing of each directory.
const RELIST_MIN: Millis = Millis::from_secs(1);
/// Smaller log files would be rotated all the time.
const LOG_FILE_BYTES_MIN: u64 = 4096;
/// Least for the logs of all pods together.
const LOG_NODE_BYTES_MIN: u64 = 1 << 20;
/// Most pods of a node.
const MAX_PODS_MAX: u32 = 10_000;
/// Most labels of a node.
const LABELS_MAX: usize = 256;
/// Longest name or value of a label, and longest prefix of a name (Kubernetes' limits).
const LABEL_LEN_MAX: usize = 63;
const PREFIX_LEN_MAX: usize = 253;

/// `relist`: a span of time such as `20s`.
///
/// # Errors
/// What is wrong with it.
pub fn relist(text: &str) -> Result<Millis, String> {
    let span = span(text)?;
    if span < RELIST_MIN {
        return Err(format!("must be at least {RELIST_MIN}"));
    }
    Ok(span)
}

/// `images.gc-min-age`: any span of time.
///
/// # Errors
/// What is wrong with it.
pub fn span(text: &str) -> Result<Millis, String> {
    let span = humantime::parse_duration(text)
        .map_err(|error| format!("must be a span of time such as \"20s\" or \"1m\": {error}"))?;
    Ok(Millis::from(span))
}

/// `images.gc-high-percent` and `images.gc-low-percent`: a share of the disk.
///
/// # Errors
/// What is wrong with it.
pub fn percent(text: &str) -> Result<u32, String> {
    let number = number(text)?;
    if number > 100 {
        return Err("must be at most 100: it is percent of the disk".to_owned());
    }
    Ok(number)
}

/// `pressure.measure-every`: a span of at least a second.
///
/// # Errors
/// What is wrong with it.
pub fn measure_every(text: &str) -> Result<Millis, String> {
    relist(text)
}

/// `pressure.memory-available` and the like: bytes, or a share in percent; 0 is none.
///
/// # Errors
/// What is wrong with it.
pub fn threshold(text: &str) -> Result<Threshold, String> {
    if let Some(share) = text.strip_suffix('%') {
        return match percent(share.trim_end())? {
            0 => Ok(Threshold::Off),
            share => Ok(Threshold::Percent(share)),
        };
    }
    let what = "bytes such as \"100Mi\", a share such as \"10%\", or 0 for none";
    Ok(match quantity(text, Quantity::units, what)? {
        0 => Threshold::Off,
        bytes => Threshold::Bytes(bytes),
    })
}

/// `reserve.cpu`: processors, in thousandths.
///
/// # Errors
/// What is wrong with it.
pub fn cpu(text: &str) -> Result<u64, String> {
    quantity(text, Quantity::milli, "processors such as \"500m\" or \"2\"")
}

/// `reserve.memory`: bytes.
///
/// # Errors
/// What is wrong with it.
pub fn bytes(text: &str) -> Result<u64, String> {
    quantity(text, Quantity::units, "bytes such as \"100Mi\" or 1048576")
}

/// `logs.file-bytes`.
///
/// # Errors
/// What is wrong with it.
pub fn log_file_bytes(text: &str) -> Result<u64, String> {
    at_least(bytes(text)?, LOG_FILE_BYTES_MIN)
}

/// `logs.node-bytes`.
///
/// # Errors
/// What is wrong with it.
pub fn log_node_bytes(text: &str) -> Result<u64, String> {
    at_least(bytes(text)?, LOG_NODE_BYTES_MIN)
}

/// `logs.files`.
///
/// # Errors
/// What is wrong with it.
pub fn log_files(text: &str) -> Result<u32, String> {
    let number = number(text)?;
    if number < 1 {
        return Err("must be at least 1: the current file counts".to_owned());
    }
    Ok(number)
}

/// `max-pods`.
///
/// # Errors
/// What is wrong with it.
pub fn max_pods(text: &str) -> Result<u32, String> {
    let number = number(text)?;
    if number > MAX_PODS_MAX {
        return Err(format!("must be at most {MAX_PODS_MAX}"));
    }
    Ok(number)
}

/// One of `allowed-sysctls`: the name of a setting that is a namespace's own, or the beginning of
/// some and a `*`.
///
/// # Errors
/// What is wrong with it.
pub fn sysctl(text: &str) -> Result<String, String> {
    // With a letter for what the `*` stands for it is a name.
    let name = text.strip_suffix('*').map_or_else(|| text.to_owned(), |start| format!("{start}x"));
    let name: SysctlName = name.parse().map_err(|error: InvalidSysctl| error.to_string())?;
    let is_written_so = text.strip_suffix('*').unwrap_or(text);
    if !name.as_str().starts_with(is_written_so) {
        return Err(format!("`{text}` must be written with dots"));
    }
    Ok(text.to_owned())
}

/// One of `allowed-host-paths`.
///
/// # Errors
/// What is wrong with it.
pub fn host_path(text: &str) -> Result<PathBuf, String> {
    let path: AbsolutePath = text.parse().map_err(|error: InvalidPath| error.to_string())?;
    Ok(path.as_str().into())
}

/// `cgroup`: one name.
///
/// # Errors
/// What is wrong with it.
pub fn cgroup(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if text.is_empty() || !text.chars().all(fits) {
        return Err("must be letters, digits, `-` and `_`".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of an interface of the host.
///
/// # Errors
/// What is wrong with it.
pub fn interface(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    // The kernel has room for 15 letters (IFNAMSIZ), and `all` and `default` are no interfaces.
    let is_taken = matches!(text, "all" | "default" | "lo");
    if text.is_empty() || text.len() > 15 || !text.chars().all(fits) || is_taken {
        return Err("must be at most 15 letters, digits, `-` and `_`".to_owned());
    }
    Ok(text.to_owned())
}

/// A subnet that pods can be in.
///
/// # Errors
/// What is wrong with it.
pub fn subnet(text: &str) -> Result<Subnet, String> {
    text.parse().map_err(|fault: SubnetFault| format!("is wrong: {fault}"))
}

/// `listen` is for later; it must not seem to work before.
///
/// # Errors
/// Always.
pub fn listen(_text: &str) -> Result<String, String> {
    Err("is not supported yet: the API is on the Unix socket only; leave it out".to_owned())
}

/// One label, as a flag has it: `name=value`.
///
/// # Errors
/// What is wrong with it.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    check_label(name, value)?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Labels must not be more than the limit.
///
/// # Errors
/// If they are.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("must be at most {LABELS_MAX} labels"));
    }
    Ok(())
}

/// Whether Kubernetes would take the label.
///
/// # Errors
/// Why not.
pub fn check_label(name: &str, value: &str) -> Result<(), String> {
    let (prefix, bare) = match name.split_once('/') {
        Some((prefix, bare)) => (Some(prefix), bare),
        None => (None, name),
    };
    let is_prefix = |prefix: &str| {
        let part = |part: &str| is_word(part, |c| c == '-') && part.to_ascii_lowercase() == part;
        prefix.len() <= PREFIX_LEN_MAX && prefix.split('.').all(part)
    };
    let is_label = |text: &str| is_word(text, |c| matches!(c, '-' | '_' | '.'));
    if !is_label(bare) || !prefix.is_none_or(is_prefix) {
        return Err(format!(
            "has the name {name:?}: it must be letters, digits, `-`, `_` and `.`, beginning and \
             ending with a letter or digit, at most {LABEL_LEN_MAX} characters, and may have a \
             domain and `/` before it"
        ));
    }
    if !value.is_empty() && !is_label(value) {
        return Err(format!(
            "has the value {value:?}: it must be letters, digits, `-`, `_` and `.`, beginning and \
             ending with a letter or digit, at most {LABEL_LEN_MAX} characters"
        ));
    }
    Ok(())
}

fn is_word(text: &str, also: impl Fn(char) -> bool) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric();
    (1..=LABEL_LEN_MAX).contains(&text.len())
        && text.starts_with(is_letter)
        && text.ends_with(is_letter)
        && text.chars().all(|c| is_letter(c) || also(c))
}

fn quantity(
    text: &str,
    unit: impl Fn(Quantity) -> Result<u64, InvalidQuantity>,
    what: &str,
) -> Result<u64, String> {
    let found = text.parse().and_then(unit);
    found.map_err(|error| format!("must be {what}: {text:?} {error}"))
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("must be a number from 0 to {}", u32::MAX))
}

fn at_least(found: u64, least: u64) -> Result<u64, String> {
    if found < least {
        return Err(format!("must be at least {least}"));
    }
    Ok(found)
}
