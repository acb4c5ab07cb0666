//! Which servers answer for a registry: its own, or mirrors, by files in containerd's habit.
//!
//! ```toml
//! # <directory>/docker.io/hosts.toml; <directory>/_default/hosts.toml is for hosts without one
//! server = "https://registry-1.docker.io"
//! [host."https://mirror.example.com"]
//! capabilities = ["pull", "resolve"]
//! ca = "mirror.crt"
//! skip_verify = false
//! override_path = false
//! ```
//!
//! A `*.crt` beside (or without) such a file is a certificate authority for the registry itself, as
//! Docker has it. A registry on loopback that no file names is asked by plain HTTP.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;
use toml::Spanned;

use super::reference::DOCKER_HUB;

/// Largest `hosts.toml` or certificate file in bytes.
pub const HOSTS_LEN_MAX: u64 = 1 << 20;
/// Most servers for one registry.
pub const ENDPOINTS_MAX: usize = 16;
/// Most certificate files of one server.
pub const CAS_MAX: usize = 32;

/// A server that may be asked for a registry's images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where its API begins: `https://registry-1.docker.io/v2/`.
    pub base: Url,
    /// Whether it may say what a tag stands for.
    pub resolves: bool,
    /// Whether it may be asked for content by digest.
    pub pulls: bool,
    /// Whether its certificate is not checked.
    pub skip_verify: bool,
    /// Certificate authorities for it, besides the machine's: PEM.
    pub authorities: Vec<Vec<u8>>,
    /// Whether it is another server than the registry's own: it gets none of its credentials
    /// unless they are for its host, and is told for whom it stands in (`ns=`).
    pub mirror: bool,
}

impl Endpoint {
    /// The host with its port, as in a reference.
    #[must_use]
    pub fn host(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

/// The servers for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// In the order in which they are tried; at least one.
    pub list: Vec<Endpoint>,
    /// What was not understood in the file; each line names it.
    pub warnings: Vec<String>,
}

/// Why the configuration of a registry can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    /// A file can't be read.
    #[error("can't read {}: {fault}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        fault: String,
    },
    /// It is not right.
    #[error("{}: {fault}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        fault: String,
    },
}

/// One server's part of a file. What is not understood is kept by name, for a warning.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMore>,
    skip_verify: Option<bool>,
    override_path: Option<bool>,
}

const SETTINGS: [&str; 4] = ["capabilities", "ca", "skip_verify", "override_path"];

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// The servers for a host, by the first directory that knows it.
///
/// # Errors
/// When a file is there and can't be used: guessing would ask somebody else.
pub fn endpoints(directories: &[PathBuf], host: &str) -> Result<Endpoints, HostsError> {
    // containerd writes `host_port_` where a file system takes no colon.
    let names = [
        host.to_owned(),
        host.rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or_else(|| host.to_owned(), |(name, port)| format!("{name}_{port}_")),
        "_default".to_owned(),
    ];
    for directory in directories {
        for name in &names {
            let place = directory.join(name);
            if let Some(found) = read_place(&place, host)? {
                return Ok(found);
            }
        }
    }
    Ok(Endpoints { list: vec![own(host)], warnings: Vec::new() })
}

/// The registry itself, as it is without any configuration.
fn own(host: &str) -> Endpoint {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
        Some(_) | None => (host, None),
    };
    let loopback = is_loopback(name) && port != Some("443");
    let scheme = if loopback { "http" } else { "https" };
    let server = if host == DOCKER_HUB { "registry-1.docker.io" } else { host };
    let base = Url::parse(&format!("{scheme}://{server}/v2/"))
        .or_else(|_| Url::parse("https://invalid/v2/"))
        .expect("the second is a URL");
    let (skip_verify, authorities) = (false, Vec::new());
    Endpoint { base, resolves: true, pulls: true, skip_verify, authorities, mirror: false }
}

/// Whether a host is this machine: as in a reference, an IPv6 address in brackets.
#[must_use]
pub fn is_loopback(name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || bare.parse().is_ok_and(|ip: core::net::IpAddr| ip.is_loopback())
}

fn read_place(place: &Path, host: &str) -> Result<Option<Endpoints>, HostsError> {
    let path = place.join("hosts.toml");
    let certificates = certificates_in(place)?;
    match read(&path)? {
        Some(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| HostsError::Invalid {
                path: path.clone(),
                fault: "it is not UTF-8 text".into(),
            })?;
            let mut found = parse(&path, &text, host)?;
            let own = found.list.iter_mut().filter(|endpoint| !endpoint.mirror);
            own.for_each(|endpoint| endpoint.authorities.extend(certificates.iter().cloned()));
            Ok(Some(found))
        }
        None if certificates.is_empty() => Ok(None),
        None => {
            let mut endpoint = own(host);
            // Who has put a certificate there means TLS.
            endpoint.base.set_scheme("https").unwrap_or_default();
            endpoint.authorities = certificates;
            Ok(Some(Endpoints { list: vec![endpoint], warnings: Vec::new() }))
        }
    }
}

fn certificates_in(place: &Path) -> Result<Vec<Vec<u8>>, HostsError> {
    let Ok(entries) = fs::read_dir(place) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .collect();
    paths.sort();
    paths.truncate(CAS_MAX);
    paths.iter().filter_map(|path| read(path).transpose()).collect()
}

/// A file, if it is there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, HostsError> {
    let failed = |fault: String| HostsError::Read { path: path.into(), fault };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e.to_string())),
    };
    let mut bytes = Vec::new();
    file.take(HOSTS_LEN_MAX + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > HOSTS_LEN_MAX {
        return Err(failed(format!("it is larger than {HOSTS_LEN_MAX} bytes")));
    }
    Ok(Some(bytes))
}

/// Reads a `hosts.toml`. The order of its `[host."…"]` tables is the order of trying.
fn parse(path: &Path, text: &str, host: &str) -> Result<Endpoints, HostsError> {
    let invalid = |fault: String| HostsError::Invalid { path: path.into(), fault };
    let document =
        toml::de::DeTable::parse(text).map_err(|e| invalid(e.message().to_owned()))?.into_inner();
    let mut warnings = Vec::new();
    let mut own_table = toml::de::DeTable::new();
    let (mut server, mut hosts) = (None, Vec::new());
    for (key, value) in document {
        match (key.get_ref().as_ref(), value.into_inner()) {
            ("server", toml::de::DeValue::String(url)) => server = Some(url.into_owned()),
            ("server", _) => return Err(invalid("`server` must be a URL in quotes".into())),
            ("host", toml::de::DeValue::Table(table)) => hosts = in_order(table),
            ("host", _) => return Err(invalid("write hosts as [host.\"https://…\"]".into())),
            (_, value) => {
                let span = key.span();
                own_table.insert(key, Spanned::new(span, value));
            }
        }
    }
    let mut list = Vec::new();
    for (url, value) in hosts {
        let toml::de::DeValue::Table(table) = value else {
            return Err(invalid(format!("[host.\"{url}\"] must be a table")));
        };
        let settings = settings(path, &url, table, &mut warnings)?;
        list.push(endpoint(path, &url, &settings, true)?);
    }
    let configured = settings(path, "server", own_table, &mut warnings)?;
    let server = server.unwrap_or_else(|| {
        let mut url = own(host).base;
        url.set_path("");
        url.into()
    });
    list.push(endpoint(path, &server, &configured, false)?);
    if list.len() > ENDPOINTS_MAX {
        return Err(invalid(format!("it names more than {ENDPOINTS_MAX} hosts")));
    }
    Ok(Endpoints { list, warnings })
}

type Entries<'a> = Vec<(String, toml::de::DeValue<'a>)>;

/// The entries of a table in the order of the text; the table itself is sorted.
fn in_order(table: toml::de::DeTable<'_>) -> Entries<'_> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let plain = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<_>)| {
        (key.into_inner().into_owned(), value.into_inner())
    };
    entries.into_iter().map(plain).collect()
}

fn settings(
    path: &Path,
    of: &str,
    table: toml::de::DeTable<'_>,
    warnings: &mut Vec<String>,
) -> Result<Settings, HostsError> {
    for key in table.keys().map(|key| key.get_ref().as_ref()) {
        if !SETTINGS.contains(&key) {
            let path = path.display();
            warnings.push(format!("{path}: `{key}` of {of} is not supported and has no effect"));
        }
    }
    let whole = Spanned::new(0..0, toml::de::DeValue::Table(table));
    Settings::deserialize(toml::de::ValueDeserializer::from(whole)).map_err(|e| {
        HostsError::Invalid { path: path.into(), fault: format!("{of}: {}", e.message()) }
    })
}

fn endpoint(
    path: &Path,
    text: &str,
    settings: &Settings,
    mirror: bool,
) -> Result<Endpoint, HostsError> {
    let invalid = |fault: String| HostsError::Invalid { path: path.into(), fault };
    // containerd takes a host alone for HTTPS.
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut base = Url::parse(&whole).map_err(|e| invalid(format!("`{text}` is no URL: {e}")))?;
    if !["http", "https"].contains(&base.scheme()) {
        return Err(invalid(format!("`{text}` must begin with http:// or https://")));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(invalid("credentials don't belong in a URL: put them in an auth file".into()));
    }
    let below = base.path().trim_end_matches('/').to_owned();
    let version = !settings.override_path.unwrap_or(false) && !below.ends_with("/v2");
    base.set_path(&format!("{below}{}/", if version { "/v2" } else { "" }));
    base.set_query(None);
    base.set_fragment(None);
    let can = |what: &str| {
        settings.capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one == what))
    };
    let files = match &settings.ca {
        None => Vec::new(),
        Some(OneOrMore::One(file)) => vec![file.clone()],
        Some(OneOrMore::More(files)) => files.clone(),
    };
    let mut authorities = Vec::new();
    for file in files.iter().take(CAS_MAX) {
        // Relative to the file that names it.
        let file = path.parent().unwrap_or(Path::new("/")).join(file);
        let missing = || HostsError::Read { path: file.clone(), fault: "it is not there".into() };
        authorities.push(read(&file)?.ok_or_else(missing)?);
    }
    Ok(Endpoint {
        base,
        resolves: can("resolve"),
        pulls: can("pull"),
        skip_verify: settings.skip_verify.unwrap_or(false),
        authorities,
        mirror,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(files: &[(&str, &str)], host: &str) -> Result<Endpoints, String> {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let directories = [directory.path().join("missing"), directory.path().into()];
        let place = directory.path().display().to_string();
        endpoints(&directories, host).map_err(|wrong| wrong.to_string().replace(&place, ""))
    }

    fn bases(files: &[(&str, &str)], host: &str) -> Vec<String> {
        let list = read_from(files, host).unwrap().list;
        list.iter().map(|endpoint| endpoint.base.to_string()).collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        assert_eq!(bases(&[], "docker.io"), ["https://registry-1.docker.io/v2/"]);
        assert_eq!(bases(&[], "ghcr.io"), ["https://ghcr.io/v2/"]);
        assert_eq!(bases(&[], "localhost:5000"), ["http://localhost:5000/v2/"]);
        assert_eq!(bases(&[], "[::1]:5000"), ["http://[::1]:5000/v2/"]);
        assert_eq!(bases(&[], "[::1]"), ["http://[::1]/v2/"]);
        assert_eq!(bases(&[], "[fd00::1]:5000"), ["https://[fd00::1]:5000/v2/"]);
        assert_eq!(bases(&[], "127.0.0.2:443"), ["https://127.0.0.2/v2/"]);
    }

    #[test]
    fn mirrors_are_tried_in_the_order_of_the_file() {
        let file = "server = \"https://registry-1.docker.io\"\n\
             [host.\"https://z.example.com\"]\ncapabilities = [\"pull\"]\nskip_verify = true\n\
             [host.\"http://a.example.com:5000/proxy/\"]\n\
             [host.\"b.example.com/api/registry\"]\noverride_path = true\n";
        let found = read_from(&[("docker.io/hosts.toml", file)], "docker.io").unwrap();
        let list: Vec<_> = found.list.iter().map(|endpoint| endpoint.base.as_str()).collect();
        let all = [
            "https://z.example.com/v2/",
            "http://a.example.com:5000/proxy/v2/",
            "https://b.example.com/api/registry/",
            "https://registry-1.docker.io/v2/",
        ];
        assert_eq!(list, all);
        let first = &found.list[0];
        assert!(first.pulls && !first.resolves && first.skip_verify && first.mirror);
        assert!(found.list[1].resolves && !found.list[3].mirror);
        assert_eq!(found.list[1].host(), "a.example.com:5000");
        assert_eq!(found.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_host_s_own_file_goes_before_the_default() {
        let files = [
            ("a:5000/hosts.toml", "server = \"http://one\""),
            ("b_5000_/hosts.toml", "server = \"http://two\""),
            ("_default/hosts.toml", "[host.\"http://three\"]"),
        ];
        assert_eq!(bases(&files, "a:5000"), ["http://one/v2/"]);
        assert_eq!(bases(&files, "b:5000"), ["http://two/v2/"]);
        assert_eq!(bases(&files, "c.io"), ["http://three/v2/", "https://c.io/v2/"]);
    }

    #[test]
    fn certificates_belong_to_their_server() {
        let files = [
            ("a.io/hosts.toml", "ca = [\"sub/x.pem\"]\n[host.\"https://m\"]\nca = \"m.pem\""),
            ("a.io/sub/x.pem", "X"),
            ("a.io/m.pem", "M"),
            ("a.io/ca.crt", "C"),
            ("localhost:5000/ca.crt", "L"),
        ];
        let list = read_from(&files, "a.io").unwrap().list;
        assert_eq!(list[0].authorities, [b"M".to_vec()]);
        assert_eq!(list[1].authorities, [b"X".to_vec(), b"C".to_vec()]);
        assert_eq!(bases(&files, "localhost:5000"), ["https://localhost:5000/v2/"]);
    }

    #[test]
    fn what_is_not_understood_is_warned_of_and_what_is_wrong_is_refused() {
        let warned = "dial_timeout = \"1s\"\n[host.\"https://m\"]\nclient = \"c.pem\"";
        let found = read_from(&[("a.io/hosts.toml", warned)], "a.io").unwrap();
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert!(found.warnings.iter().any(|line| line.contains("`client` of https://m")));
        let wrong = |text: &str| read_from(&[("a.io/hosts.toml", text)], "a.io").unwrap_err();
        assert!(wrong("server = ").starts_with("/a.io/hosts.toml: "), "{}", wrong("server = "));
        assert!(wrong("server = 1").contains("URL in quotes"));
        assert!(wrong("server = \"ftp://a\"").contains("must begin with http"));
        assert!(wrong("server = \"http://u:p@a\"").contains("auth file"));
        assert!(
            wrong("skip_verify = \"yes\"").contains("server: "),
            "{}",
            wrong("skip_verify = \"yes\"")
        );
        assert!(wrong("ca = \"x.pem\"").contains("x.pem: it is not there"));
        assert!(wrong("host = 1").contains("write hosts as"));
    }
}
