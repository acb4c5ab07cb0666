//! Who we are to a registry: credentials in Docker's format.
//!
//! ```json
//! {"auths": {"registry.example.com/team": {"auth": "<base64 of user:password>"}}}
//! ```
//!
//! They come with a pull (`imagePullSecrets`) or lie on the node in files. Not here: how a registry
//! is asked with them (`registry`). Values of secrets stand in no message and no `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::reference::DOCKER_HUB;

/// Longest text with credentials in bytes; a Secret of Kubernetes has at most 1 MiB.
pub const CREDENTIALS_LEN_MAX: u64 = 1 << 20;
/// Most of them that are tried for one pull.
pub const LOGINS_MAX: usize = 8;

/// How to prove who we are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Secret {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password, which may be a token.
        password: String,
    },
    /// A token for getting tokens (OAuth2's `refresh_token`).
    Identity {
        /// The token.
        token: String,
    },
    /// A token that is shown to the registry itself.
    Bearer {
        /// The token.
        token: String,
    },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What is to be tried at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What to show.
    pub secret: Secret,
    /// Where it is from, for messages: a Secret's name or a file.
    pub origin: String,
}

/// Credentials, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Entry {
    origin: String,
    /// A host, as in a reference; may have `*`.
    host: String,
    /// Of the repository; empty for all.
    path: String,
    offer: Offer,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Offer {
    Secret(Secret),
    /// A program that would know the password.
    Helper(String),
}

/// Why a text has no credentials. Never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredentials {
    /// It is not Docker's format.
    #[error("{origin} has no credentials in Docker's format: {fault}")]
    Format {
        /// Where it is from.
        origin: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The file can't be read.
    #[error("can't read credentials from {origin}: {fault}")]
    Read {
        /// The file.
        origin: String,
        /// Why.
        fault: String,
    },
    /// The registry's credentials are known to a program only.
    #[error(
        "{origin} leaves the credentials for {host} to the helper `{helper}`, and no helper is ever \
         run: put them in the file (`docker login` without a credential store), or use \
         imagePullSecrets"
    )]
    Helper {
        /// Where it is from.
        origin: String,
        /// The registry.
        host: String,
        /// The program, without `docker-credential-`.
        helper: String,
    },
}

#[derive(Deserialize)]
struct ConfigFile {
    auths: Option<BTreeMap<String, AuthEntry>>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    /// Adds those of `text`: Docker's `config.json` (`.dockerconfigjson` of a Secret), or what is
    /// under its `auths` alone (`.dockercfg`). `origin` is what messages call it.
    ///
    /// # Errors
    /// When it is not in that format.
    pub fn add(&mut self, origin: &str, text: &str) -> Result<(), InvalidCredentials> {
        let format = |fault: String| InvalidCredentials::Format { origin: origin.into(), fault };
        // Positions are told, but not the text there.
        let at = |e: &serde_json::Error| format!("line {}, column {}", e.line(), e.column());
        if text.len() as u64 > CREDENTIALS_LEN_MAX {
            return Err(format(format!("it is larger than {CREDENTIALS_LEN_MAX} bytes")));
        }
        let whole: BTreeMap<String, serde::de::IgnoredAny> = serde_json::from_str(text)
            .map_err(|e| format(format!("it is no JSON object ({})", at(&e))))?;
        let known = ["auths", "credHelpers", "credsStore"];
        let file = if whole.is_empty() || known.iter().any(|key| whole.contains_key(*key)) {
            serde_json::from_str(text).map_err(|e| {
                format(format!("its `auths` are not what they should be ({})", at(&e)))
            })?
        } else {
            let auths = serde_json::from_str(text)
                .map_err(|e| format(format!("it has no `auths` ({})", at(&e))))?;
            ConfigFile { auths: Some(auths), helpers: BTreeMap::new(), store: None }
        };
        let mut added = Vec::new();
        for (key, helper) in file.helpers {
            added.push(entry(origin, &key, Offer::Helper(helper)));
        }
        for (key, auth) in file.auths.unwrap_or_default() {
            match (auth.secret().map_err(|fault| format(format!("`{key}`: {fault}")))?, &file.store)
            {
                (Some(secret), _) => added.push(entry(origin, &key, Offer::Secret(secret))),
                (None, Some(store)) => {
                    added.push(entry(origin, &key, Offer::Helper(store.clone())));
                }
                (None, None) => {}
            }
        }
        self.entries.extend(added);
        Ok(())
    }

    /// Adds those of a file; nothing if there is none.
    ///
    /// # Errors
    /// When it is there, and can't be read or is not in Docker's format.
    pub fn add_file(&mut self, path: &Path) -> Result<(), InvalidCredentials> {
        let origin = path.display().to_string();
        let read = |fault: String| InvalidCredentials::Read { origin: origin.clone(), fault };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(read(e.to_string())),
        };
        let mut text = String::new();
        file.take(CREDENTIALS_LEN_MAX + 1)
            .read_to_string(&mut text)
            .map_err(|e| read(e.to_string()))?;
        self.add(&origin, &text)
    }

    /// These, and then those of the node's files, for `host/repository`. The most specific path
    /// comes first, a host before a pattern, and then the order in which they were added.
    ///
    /// # Errors
    /// When the one that comes first is known to a helper only.
    pub fn logins(&self, host: &str, repository: &str) -> Result<Vec<Login>, InvalidCredentials> {
        let mut matching: Vec<&Entry> =
            self.entries.iter().filter(|entry| entry.is_for(host, repository)).collect();
        matching
            .sort_by_key(|entry| (std::cmp::Reverse(entry.path.len()), entry.host.contains('*')));
        let mut logins: Vec<Login> = Vec::new();
        for entry in matching.into_iter().take(LOGINS_MAX) {
            match &entry.offer {
                Offer::Secret(secret) => {
                    if !logins.iter().any(|login| login.secret == *secret) {
                        let origin = entry.origin.clone();
                        logins.push(Login { secret: secret.clone(), origin });
                    }
                }
                Offer::Helper(helper) if logins.is_empty() => {
                    return Err(InvalidCredentials::Helper {
                        origin: entry.origin.clone(),
                        host: host.into(),
                        helper: helper.clone(),
                    });
                }
                Offer::Helper(_) => {}
            }
        }
        Ok(logins)
    }
}

/// What to try for `host/repository`: those of the caller, then those of the node's files.
///
/// # Errors
/// When a file can't be read, or leaves it to a helper and the caller brought nothing.
pub fn all_logins(
    brought: &Credentials,
    files: &[PathBuf],
    host: &str,
    repository: &str,
) -> Result<Vec<Login>, InvalidCredentials> {
    let mut logins = brought.logins(host, repository)?;
    let mut node = Credentials::default();
    for file in files {
        match node.add_file(file) {
            // What the caller brought does not fail for a file that is damaged.
            Err(_) if !logins.is_empty() => {}
            result => result?,
        }
    }
    match node.logins(host, repository) {
        Err(_) if !logins.is_empty() => {}
        found => logins.extend(found?),
    }
    logins.truncate(LOGINS_MAX);
    Ok(logins)
}

impl AuthEntry {
    fn secret(self) -> Result<Option<Secret>, &'static str> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = some(self.identitytoken) {
            return Ok(Some(Secret::Identity { token }));
        }
        if let Some(token) = some(self.registrytoken) {
            return Ok(Some(Secret::Bearer { token }));
        }
        if let Some(auth) = some(self.auth) {
            let (user, password) = decode(&auth)?;
            return Ok(Some(Secret::Password { user, password }));
        }
        let (user, password) = (some(self.username), some(self.password));
        Ok(user.map(|user| Secret::Password { user, password: password.unwrap_or_default() }))
    }
}

/// `auth`: base64 of `user:password`, with or without padding.
fn decode(auth: &str) -> Result<(String, String), &'static str> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let base64 = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    let bytes = base64.decode(auth.trim()).map_err(|_| "`auth` is not base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "`auth` is not text")?;
    let (user, password) =
        text.split_once(':').ok_or("`auth` has no `:` between name and password")?;
    // Old versions of Docker padded the password with NULs.
    Ok((user.into(), password.trim_end_matches('\0').into()))
}

/// An entry for a key, which people write in many ways: `https://index.docker.io/v1/`,
/// `registry.example.com:5000/team`.
fn entry(origin: &str, key: &str, offer: Offer) -> Entry {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_matches('/');
    // The version of the registry's API, which is no part of repositories.
    let path = if ["v1", "v2"].contains(&path) { "" } else { path };
    let host = host.to_ascii_lowercase();
    let hub = ["index.docker.io", "registry-1.docker.io"].contains(&host.as_str());
    let host = if hub { DOCKER_HUB.to_owned() } else { host };
    Entry { origin: origin.into(), host, path: path.into(), offer }
}

impl Entry {
    fn is_for(&self, host: &str, repository: &str) -> bool {
        let path = repository
            .strip_prefix(&self.path)
            .is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        path && host_fits(&self.host, host)
    }
}

/// Whether a host is the one, or of the pattern: `*.example.com`, label by label (Kubernetes,
/// "Configuration of image pull secrets"). A port is part of it.
fn host_fits(pattern: &str, host: &str) -> bool {
    if pattern == host {
        return true;
    }
    let label_fits = |pattern: &str, label: &str| match pattern.split_once('*') {
        Some((before, after)) => {
            label.len() >= before.len() + after.len()
                && label.starts_with(before)
                && label.ends_with(after)
        }
        None => pattern == label,
    };
    pattern.contains('*')
        && pattern.split('.').count() == host.split('.').count()
        && pattern
            .split('.')
            .zip(host.split('.'))
            .all(|(pattern, label)| label_fits(pattern, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(text: &str) -> Credentials {
        let mut credentials = Credentials::default();
        credentials.add("the Secret `a`", text).unwrap();
        credentials
    }

    fn users(credentials: &Credentials, host: &str, repository: &str) -> Vec<String> {
        let user = |login: Login| match login.secret {
            Secret::Password { user, password } => format!("{user}:{password}"),
            Secret::Identity { token } => format!("identity {token}"),
            Secret::Bearer { token } => format!("bearer {token}"),
        };
        credentials.logins(host, repository).unwrap().into_iter().map(user).collect()
    }

    #[test]
    fn the_most_specific_path_comes_first() {
        let all = credentials(
            r#"{"auths":{
                "*.example.com":{"username":"pattern","password":"p"},
                "https://a.example.com":{"auth":"aG9zdDpw"},
                "a.example.com/team":{"username":"team","password":"p"},
                "a.example.com/team/web":{"identitytoken":"t"},
                "a.example.com:5000":{"registrytoken":"t"},
                "https://index.docker.io/v1/":{"username":"hub","password":"p"}}}"#,
        );
        let found = users(&all, "a.example.com", "team/web");
        assert_eq!(found, ["identity t", "team:p", "host:p", "pattern:p"]);
        assert_eq!(users(&all, "a.example.com", "teams/web"), ["host:p", "pattern:p"]);
        assert_eq!(users(&all, "a.example.com:5000", "web"), ["bearer t"]);
        assert_eq!(users(&all, "docker.io", "library/nginx"), ["hub:p"]);
        assert!(users(&all, "a.b.example.com", "web").is_empty());
        assert!(users(&all, "example.com", "web").is_empty());
    }

    #[test]
    fn both_forms_of_secrets_are_read() {
        let old = credentials(r#"{"example.com":{"auth":"dTpwOmFzcw"}}"#);
        assert_eq!(users(&old, "example.com", "a"), ["u:p:ass"]);
        assert!(users(&credentials("{}"), "example.com", "a").is_empty());
        assert!(
            users(&credentials(r#"{"auths":{"example.com":{}}}"#), "example.com", "a").is_empty()
        );
    }

    #[test]
    fn a_fault_is_told_without_the_secret() {
        let wrong = |text: &str| {
            let fault = Credentials::default().add("the Secret `a`", text).unwrap_err().to_string();
            assert!(fault.starts_with("the Secret `a`") && !fault.contains("hunter2"), "{fault}");
            fault
        };
        assert!(wrong("hunter2").contains("no JSON object"));
        assert!(wrong(r#"{"auths":{"a":"hunter2"}}"#).contains("auths"));
        assert!(wrong(r#"{"auths":{"a":{"auth":"hunter2!"}}}"#).contains("not base64"));
        assert!(wrong(r#"{"auths":{"a":{"auth":"aHVudGVyMg=="}}}"#).contains("no `:`"));
        let text = r#"{"auths":{"a":{"username":"u","password":"hunter2"}}}"#;
        assert!(!format!("{:?}", credentials(text)).contains("hunter2"));
    }

    #[test]
    fn helpers_are_refused_where_they_would_be_needed() {
        let helper = credentials(
            r#"{"auths":{"a.com":{}, "b.com":{"username":"u"}},"credsStore":"desktop",
                "credHelpers":{"c.com":"ecr-login"}}"#,
        );
        let fault = helper.logins("c.com", "web").unwrap_err().to_string();
        assert!(fault.contains("the helper `ecr-login`"), "{fault}");
        helper.logins("a.com", "web").unwrap_err();
        assert_eq!(users(&helper, "b.com", "web"), ["u:"]);
        assert!(users(&helper, "d.com", "web").is_empty());
    }

    #[test]
    fn what_a_pull_brings_goes_before_the_files_of_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.json");
        std::fs::write(&file, r#"{"auths":{"a.com/web":{"username":"node"}}}"#).unwrap();
        let brought = credentials(r#"{"auths":{"a.com":{"username":"pod"}}}"#);
        let files = [directory.path().join("missing.json"), file.clone()];
        let all = all_logins(&brought, &files, "a.com", "web").unwrap();
        let origins: Vec<_> = all.iter().map(|login| login.origin.as_str()).collect();
        assert_eq!(origins, ["the Secret `a`", file.to_str().unwrap()]);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(all_logins(&brought, &files, "a.com", "web").unwrap().len(), 1);
        all_logins(&Credentials::default(), &files, "a.com", "web").unwrap_err();
    }
}
