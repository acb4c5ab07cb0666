//! [`AgentConfig`]: how an agent shall work, whatever it was told by: flags, which override the
//! environment, which overrides the file.
//!
//! ```toml
//! # /etc/roost/agent.toml
//! pods = ["/etc/roost/pods.d"]         # manifest directories
//! root = "/srv/roost"                  # keep everything under this directory
//! relist = "20s"                       # how often they are read even without a hint
//! log-format = "text"                  # or "json"
//! executor = "/usr/libexec/roost-executor"
//! cgroup = "roost"
//! [logs]                               # of each container
//! file-bytes = 10485760
//! files = 5
//! ```

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::clock::Millis;
use crate::executor::boot::LogLimits;
use crate::state::paths::Paths;

/// How often manifest directories are read anew even without a hint that they changed.
pub const RELIST_DEFAULT: Millis = Millis::from_secs(20);
/// Manifest directory of an agent that was told none.
pub const PODS_DEFAULT: &str = "/etc/roost/pods.d";
/// The file of an installed agent.
pub const FILE_DEFAULT: &str = "/etc/roost/agent.toml";
/// Program of the executors, beside the agent's own.
const EXECUTOR: &str = "roost-executor";
/// Name of the cgroup of an installed agent.
const CGROUP: &str = "roost";
/// Largest configuration file in bytes.
const FILE_LEN_MAX: usize = 1 << 20;

/// How an agent shall work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// Manifest directories, as given; at least one.
    pub pods: Vec<PathBuf>,
    /// Where everything lies.
    pub paths: Paths,
    /// How often manifest directories are read anew.
    pub relist: Millis,
    /// Limits of the logs of each container.
    pub logs: LogLimits,
    /// Name of the cgroup of all pods; by default `roost`, with a suffix for another root.
    pub cgroup: String,
    /// The executor's program; by default `roost-executor` beside the agent's own.
    pub executor: PathBuf,
}

/// How the agent writes its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one object a line.
    Json,
}

/// What flags and environment say; the file counts where they are silent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    /// `--pods`.
    pub pods: Vec<PathBuf>,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--relist`.
    pub relist: Option<Millis>,
    /// `--executor`.
    pub executor: Option<PathBuf>,
    /// `--log-format`.
    pub log_format: Option<LogFormat>,
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file says what can't be understood.
    #[error("the configuration {} is wrong", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What, with the line.
        source: Box<toml::de::Error>,
    },
    /// A value is out of its range.
    #[error("{what} can't be {found}: {rule}")]
    Value {
        /// Which.
        what: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A path can't be made absolute.
    #[error("can't find out what {} means", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The agent's own program is not known.
    #[error("can't find out where this program lies; say --executor")]
    OwnProgram(#[source] io::Error),
}

/// What stands in the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileConfig {
    pods: Option<Vec<PathBuf>>,
    root: Option<PathBuf>,
    relist: Option<Span>,
    log_format: Option<LogFormat>,
    executor: Option<PathBuf>,
    cgroup: Option<String>,
    logs: Option<FileLogs>,
}

/// The table `logs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileLogs {
    file_bytes: Option<u64>,
    files: Option<u32>,
}

/// A span of time as people write it.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Span(Millis);

impl TryFrom<String> for Span {
    type Error = humantime::DurationError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ok(Self(humantime::parse_duration(&text)?.into()))
    }
}

/// The configuration of an agent, and the form of its log.
///
/// # Errors
/// When the file can't be used or a value is out of its range.
pub fn load(given: Given) -> Result<(AgentConfig, LogFormat), ConfigError> {
    let file = read(&given)?;
    let Given { pods, root, config: _, relist, executor, log_format } = given;
    let pods = [pods, file.pods.unwrap_or_default(), vec![PODS_DEFAULT.into()]]
        .into_iter()
        .find(|pods| !pods.is_empty())
        .expect("the last one is not empty");
    let root = root.or(file.root).map(|root| absolute(&root)).transpose()?;
    let executor = match executor.or(file.executor) {
        Some(path) => absolute(&path)?,
        None => std::env::current_exe().map_err(ConfigError::OwnProgram)?.with_file_name(EXECUTOR),
    };
    let relist = relist.or(file.relist.map(|span| span.0)).unwrap_or(RELIST_DEFAULT);
    if relist < Millis::from_secs(1) {
        let rule = "it must be at least 1s";
        return Err(ConfigError::Value { what: "relist", found: relist.to_string(), rule });
    }
    let config = AgentConfig {
        pods,
        paths: paths(root.as_deref()),
        relist,
        logs: log_limits(file.logs.as_ref())?,
        cgroup: file.cgroup.unwrap_or_else(|| cgroup_name(root.as_deref())),
        executor,
    };
    Ok((config, log_format.or(file.log_format).unwrap_or_default()))
}

/// Where everything of an agent lies: under its root, or where an installed one has it.
#[must_use]
pub fn paths(root: Option<&Path>) -> Paths {
    root.map_or_else(Paths::installed, Paths::under)
}

/// The path from the root directory, whatever the working directory is later.
///
/// # Errors
/// When the working directory is not known or the path is empty.
pub fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|source| ConfigError::Path { path: path.to_owned(), source })
}

fn read(given: &Given) -> Result<FileConfig, ConfigError> {
    let (path, must_be) = match (&given.config, &given.root) {
        (Some(path), _) => (path.clone(), true),
        // Whoever works in a directory of his own does not want what is installed.
        (None, Some(_)) => return Ok(FileConfig::default()),
        (None, None) => (PathBuf::from(FILE_DEFAULT), false),
    };
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be => {
            return Ok(FileConfig::default());
        }
        Err(source) => return Err(ConfigError::Read { path, source }),
        Ok(text) => text,
    };
    if text.len() > FILE_LEN_MAX {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB");
        return Err(ConfigError::Read { path, source });
    }
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path, source: Box::new(source) })
}

fn log_limits(file: Option<&FileLogs>) -> Result<LogLimits, ConfigError> {
    let default = LogLimits::default();
    let Some(&FileLogs { file_bytes, files }) = file else { return Ok(default) };
    let limits = LogLimits {
        file_bytes: file_bytes.unwrap_or(default.file_bytes),
        files: files.unwrap_or(default.files),
    };
    if limits.file_bytes < 4096 {
        let found = limits.file_bytes.to_string();
        let rule = "it must be at least 4096";
        return Err(ConfigError::Value { what: "logs.file-bytes", found, rule });
    }
    if limits.files < 1 {
        let rule = "it must be at least 1";
        return Err(ConfigError::Value { what: "logs.files", found: "0".to_owned(), rule });
    }
    Ok(limits)
}

/// The cgroup of all pods. Agents with roots of their own must not get in each other's way.
fn cgroup_name(root: Option<&Path>) -> String {
    use std::os::unix::ffi::OsStrExt;
    let Some(root) = root else { return CGROUP.to_owned() };
    let digest = Sha256::digest(canonical(root).as_os_str().as_bytes());
    let hex: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{CGROUP}-{hex}")
}

/// The path without symbolic links, also if its end is not there yet.
fn canonical(path: &Path) -> PathBuf {
    let known = path.ancestors().find_map(|ancestor| {
        let known = std::fs::canonicalize(ancestor).ok()?;
        // `join` with nothing would add a slash.
        let rest = path.strip_prefix(ancestor).ok().filter(|rest| !rest.as_os_str().is_empty());
        Some(rest.map_or_else(|| known.clone(), |rest| known.join(rest)))
    });
    known.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file(text: &str, given: Given) -> Result<(AgentConfig, LogFormat), String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        load(Given { config: Some(path), ..given }).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        })
    }

    #[test]
    fn flags_override_the_file_and_the_file_the_defaults() {
        let text = "pods = ['/a']\nrelist = '1m'\nlog-format = 'json'\n[logs]\nfiles = 2\n";
        let (config, format) = with_file(text, Given::default()).unwrap();
        assert_eq!(config.pods, [PathBuf::from("/a")]);
        assert_eq!((config.relist, config.logs.files), (Millis::from_secs(60), 2));
        assert_eq!(config.logs.file_bytes, LogLimits::default().file_bytes);
        assert_eq!((format, config.paths), (LogFormat::Json, Paths::installed()));
        assert_eq!(config.cgroup, "roost");
        assert_eq!(config.executor.file_name().unwrap(), "roost-executor");

        let given = Given {
            pods: vec!["b".into()],
            relist: Some(Millis::from_secs(2)),
            log_format: Some(LogFormat::Text),
            ..Given::default()
        };
        let (config, format) = with_file(text, given).unwrap();
        assert_eq!(config.pods, [PathBuf::from("b")], "as given");
        assert_eq!((config.relist, format), (Millis::from_secs(2), LogFormat::Text));
    }

    #[test]
    fn what_a_file_must_not_say_is_named_with_its_line() {
        let check = |text: &str, expected: &[&str]| {
            let error = with_file(text, Given::default()).unwrap_err();
            for part in expected {
                assert!(error.contains(part), "{part} is not in: {error}");
            }
        };
        check("pods = ['/a']\nrelists = '1s'\n", &["agent.toml", "line 2", "relists"]);
        check("\n\nrelist = 'soon'\n", &["line 3"]);
        check("relist = '1ms'\n", &["relist", "at least 1s"]);
        check("[logs]\nfiles = 0\n", &["logs.files", "at least 1"]);
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let given = Given { config: Some("/nowhere/agent.toml".into()), ..Given::default() };
        assert!(matches!(load(given), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn each_root_has_a_cgroup_of_its_own_whatever_way_it_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let before = cgroup_name(Some(&root));
        std::fs::create_dir(&root).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        assert_eq!(cgroup_name(Some(&root)), before);
        assert_eq!(cgroup_name(Some(&link)), before);
        assert_ne!(cgroup_name(Some(directory.path())), before);
        assert_eq!(before.len(), "roost-".len() + 8);
    }
}
