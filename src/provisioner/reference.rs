//! What stands in `image:`: an image in a registry, or in a file of this machine. PURE.
//!
//! ```text
//! nginx                                     docker.io/library/nginx:latest
//! ghcr.io/example/web:1.2                   a tag
//! localhost:5000/web@sha256:…               a digest: always the same bytes
//! [fd00::1]:5000/web:1.2@sha256:…           both: the digest decides, the tag is for readers
//! oci:/srv/images/web:1.2                   an OCI layout directory, and a name in it
//! oci-archive:/srv/web.tar:1.2              the same in a tar file
//! docker-archive:/srv/web.tar:web:1.2       what `docker save` writes, and a name in it
//! ```
//!
//! The grammar is that of the OCI distribution specification, with Docker Hub's defaults as
//! <https://github.com/distribution/reference> has them. Not here: which server answers for a host
//! (`hosts`), and whether the image exists.

use std::cmp::Ordering;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use oci_spec::image::{Digest, DigestAlgorithm};
use serde::{Deserialize, Serialize};

/// The host that a name without one is on.
pub const DOCKER_HUB: &str = "docker.io";
/// Longest host: 253 characters of a DNS name, and a port.
pub const HOST_LEN_MAX: usize = 253 + 6;
/// Longest repository (`NameTotalLengthMax` of distribution/reference).
pub const REPOSITORY_LEN_MAX: usize = 255;
/// Longest tag (OCI distribution specification).
pub const TAG_LEN_MAX: usize = 128;
/// Longest name in a layout or an archive.
pub const FILE_TAG_LEN_MAX: usize = 255;
/// Longest path to a layout or an archive, as `PATH_MAX` of Linux.
pub const FILE_LEN_MAX: usize = 4095;
/// Longest text of any kind, also as canonical text: longer ones can't be kept.
pub const TEXT_LEN_MAX: usize = 4096 + 256;
/// Most of a wrong name that is repeated in a message.
const SHOWN_LEN_MAX: usize = 128;
/// Longest explanation.
const FAULT_LEN_MAX: usize = 1024;

const TAG_RULE: &str = "a tag has at most 128 letters, digits, `_`, `.` and `-`, and does not \
     begin with `.` or `-`";
const DIGEST_RULE: &str = "a digest is `sha256:` and 64 lower-case hexadecimal digits";

/// Why the text of an image was refused; says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image `{image}`: {fault}")]
pub struct InvalidImage {
    image: String,
    fault: String,
}

impl InvalidImage {
    fn new(image: &str, fault: impl Into<String>) -> Self {
        // What people mistyped is shown to them again, but does nothing to their terminal.
        let clean = |text: &str, most: usize| -> String {
            text.chars().take(most).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
        };
        let mut shown = clean(image, SHOWN_LEN_MAX);
        if image.chars().nth(SHOWN_LEN_MAX).is_some() {
            shown.push('…');
        }
        Self { image: shown, fault: clean(&fault.into(), FAULT_LEN_MAX) }
    }

    /// What is wrong, without the name.
    #[must_use]
    pub fn fault(&self) -> &str {
        &self.fault
    }
}

/// An image in a registry. The text is canonical: host and repository are always there, and a tag
/// or a digest.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry, with its port if it has one: `docker.io`, `[::1]:5000`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository on that host: `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; never missing where there is no digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest or the index, which decides if it is there.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and repository: `docker.io/library/nginx`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// What the registry is asked for: the digest, or the tag.
    #[must_use]
    pub fn identifier(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        }
    }

    /// The same repository at a digest, without the tag.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        let Self { host, repository, .. } = self.clone();
        Self { host, repository, tag: None, digest: Some(digest) }
    }

    /// As people write it: without what Docker Hub's defaults would add, but with the tag.
    #[must_use]
    pub fn familiar(&self) -> String {
        let text = self.to_string();
        let on_hub = text.strip_prefix("docker.io/").unwrap_or_default();
        // Some names are only clear with the host: `docker.io/localhost/web`.
        let short = [on_hub.strip_prefix("library/").unwrap_or_default(), on_hub]
            .into_iter()
            .find(|short| parse_source(short) == Ok(ImageSource::Registry(self.clone())));
        short.unwrap_or(&text).to_owned()
    }
}

impl FromStr for Reference {
    type Err = InvalidImage;
    fn from_str(text: &str) -> Result<Self, InvalidImage> {
        parse_reference(text).map_err(|fault| InvalidImage::new(text, fault))
    }
}

impl PartialOrd for Reference {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reference {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |a: &Self| (a.host.clone(), a.repository.clone(), a.tag.clone());
        let digest = |a: &Self| a.digest.as_ref().map(|digest| digest.as_ref().to_owned());
        key(self).cmp(&key(other)).then_with(|| digest(self).cmp(&digest(other)))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where an image comes from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ImageSource {
    /// A registry.
    Registry(Reference),
    /// `oci:DIR[:tag]`, a directory in the form of the OCI image layout.
    OciLayout {
        /// The directory: absolute, without `.` and `..`.
        dir: PathBuf,
        /// Its `org.opencontainers.image.ref.name`; without it the layout must hold one image.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:reference]`, a file written by `docker save`.
    DockerArchive {
        /// The file: absolute, without `.` and `..`.
        file: PathBuf,
        /// One of its `RepoTags`; without it the archive must hold one image.
        tag: Option<Reference>,
    },
    /// `oci-archive:FILE[:tag]`, a tar file of an OCI image layout.
    OciArchive {
        /// The file: absolute, without `.` and `..`.
        file: PathBuf,
        /// As in a layout.
        tag: Option<String>,
    },
}

impl ImageSource {
    /// As people write it.
    #[must_use]
    pub fn familiar(&self) -> String {
        match self {
            Self::Registry(reference) => reference.familiar(),
            Self::DockerArchive { file, tag: Some(tag) } => {
                format!("docker-archive:{}:{}", file.display(), tag.familiar())
            }
            Self::OciLayout { .. } | Self::DockerArchive { .. } | Self::OciArchive { .. } => {
                self.to_string()
            }
        }
    }

    /// The reference, if the image is in a registry.
    #[must_use]
    pub fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Registry(reference) => Some(reference),
            Self::OciLayout { .. } | Self::DockerArchive { .. } | Self::OciArchive { .. } => None,
        }
    }

    /// The file or directory, if the image is in one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Registry(_) => None,
            Self::OciLayout { dir: path, .. }
            | Self::DockerArchive { file: path, .. }
            | Self::OciArchive { file: path, .. } => Some(path),
        }
    }
}

impl FromStr for ImageSource {
    type Err = InvalidImage;
    fn from_str(text: &str) -> Result<Self, InvalidImage> {
        let source = parse_source(text).map_err(|fault| InvalidImage::new(text, fault))?;
        if source.to_string().len() > TEXT_LEN_MAX {
            let fault = format!("the name with all its parts is longer than {TEXT_LEN_MAX} bytes");
            return Err(InvalidImage::new(text, fault));
        }
        Ok(source)
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, path, tag): (_, _, Option<&dyn fmt::Display>) = match self {
            Self::Registry(reference) => return fmt::Display::fmt(reference, f),
            Self::OciLayout { dir, tag } => ("oci", dir, tag.as_ref().map(|tag| tag as _)),
            Self::OciArchive { file, tag } => ("oci-archive", file, tag.as_ref().map(|t| t as _)),
            Self::DockerArchive { file, tag } => {
                ("docker-archive", file, tag.as_ref().map(|tag| tag as _))
            }
        };
        write!(f, "{kind}:{}", path.display())?;
        tag.map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

impl fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `imagePullPolicy`: when the source is asked although the image is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Each time: what the source has now is used. What is here serves if it can't be reached.
    Always,
    /// What is here is used as it is.
    IfNotPresent,
    /// The source is never asked.
    Never,
}

impl PullPolicy {
    /// What holds where a manifest has none: `Always` for `:latest` and for what has neither tag
    /// nor digest, because these move (Kubernetes: "Image pull policy").
    #[must_use]
    pub fn default_for(source: &ImageSource) -> Self {
        let moves = match source {
            ImageSource::Registry(reference) => {
                reference.digest.is_none() && reference.tag() == Some("latest")
            }
            ImageSource::OciLayout { tag, .. } | ImageSource::OciArchive { tag, .. } => {
                tag.as_deref().is_none_or(|tag| tag == "latest" || tag.ends_with(":latest"))
            }
            ImageSource::DockerArchive { tag, .. } => {
                tag.as_ref().is_none_or(|tag| tag.tag() == Some("latest"))
            }
        };
        if moves { Self::Always } else { Self::IfNotPresent }
    }
}

macro_rules! text_serde {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = InvalidImage;
            fn try_from(text: String) -> Result<Self, InvalidImage> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}

text_serde!(Reference, ImageSource);

fn parse_source(text: &str) -> Result<ImageSource, String> {
    if text.len() > TEXT_LEN_MAX {
        return Err(format!("the name is longer than {TEXT_LEN_MAX} bytes"));
    }
    let Some((kind, rest)) = text.split_once(':') else {
        return parse_reference(text).map(ImageSource::Registry);
    };
    let name = |tag: &str| file_tag(tag).map(|()| tag.to_owned());
    match kind {
        "oci" => {
            let (dir, tag) = file_and_tag("oci:DIR[:TAG]", rest)?;
            Ok(ImageSource::OciLayout { dir, tag: tag.map(name).transpose()? })
        }
        "oci-archive" => {
            let (file, tag) = file_and_tag("oci-archive:FILE[:TAG]", rest)?;
            Ok(ImageSource::OciArchive { file, tag: tag.map(name).transpose()? })
        }
        "docker-archive" => {
            let (file, tag) = file_and_tag("docker-archive:FILE[:NAME[:TAG]]", rest)?;
            let tag = tag.map(parse_reference).transpose()?;
            if tag.as_ref().is_some_and(|tag| tag.digest.is_some()) {
                return Err("archives of Docker know no digests: name the tag".into());
            }
            Ok(ImageSource::DockerArchive { file, tag })
        }
        "dir" | "docker-daemon" | "containers-storage" | "ostree" | "sif" => Err(format!(
            "`{kind}:` is not supported: images come from a registry, or from \
             `oci:DIR`, `oci-archive:FILE` or `docker-archive:FILE`"
        )),
        _ => parse_reference(text).map(ImageSource::Registry),
    }
}

/// The path, which ends at the first `:`, and what follows it.
fn file_and_tag<'a>(form: &str, rest: &'a str) -> Result<(PathBuf, Option<&'a str>), String> {
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if path.len() > FILE_LEN_MAX {
        return Err(format!("the path is longer than {FILE_LEN_MAX} bytes"));
    }
    if path.chars().any(char::is_control) {
        return Err("the path has a control character in it".into());
    }
    if !path.starts_with('/') {
        return Err(format!(
            "the path must be absolute: write {form}, with a path that begins with /"
        ));
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => clean.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err("the path must not have `..` in it: write where it leads".into());
            }
        }
    }
    if clean == Path::new("/") {
        return Err(format!("the path is missing: write {form}"));
    }
    if tag == Some("") {
        return Err("nothing follows the last `:`: write a tag after it, or leave it away".into());
    }
    Ok((clean, tag))
}

/// The grammar of `org.opencontainers.image.ref.name` (OCI image specification, annotations).
fn file_tag(tag: &str) -> Result<(), String> {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = tag.as_bytes();
    let inside = |b: &u8| b.is_ascii_alphanumeric() || b"-._:@/+".contains(b);
    if tag.len() > FILE_TAG_LEN_MAX {
        return Err(format!("the tag is longer than {FILE_TAG_LEN_MAX} characters"));
    }
    if edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inside) {
        return Ok(());
    }
    Err("a tag in a layout begins and ends with a letter or digit, and has letters, digits and \
         any of `-._:@/+` between; paths must not have a `:` in them"
        .into())
}

fn parse_reference(text: &str) -> Result<Reference, String> {
    if text.len() > TEXT_LEN_MAX {
        return Err(format!("the name is longer than {TEXT_LEN_MAX} bytes"));
    }
    no_strangers(text)?;
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let (host, rest) = split_host(rest)?;
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let on_hub = host == DOCKER_HUB;
    check_repository(path, text)?;
    let repository =
        if on_hub && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    if repository.len() > REPOSITORY_LEN_MAX {
        return Err(format!("the repository is longer than {REPOSITORY_LEN_MAX} characters"));
    }
    let is_id = path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id && digest.is_none() && tag.is_none() && rest == text {
        return Err(format!("this is the id of an image, not its name: write NAME@sha256:{path}"));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { host, repository, tag, digest })
}

/// What is never in a name, and what people mean by it.
fn no_strangers(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the name is empty: write one, as in `nginx:1.27`".into());
    }
    for (scheme, help) in [
        ("http://", ". That a registry speaks plain HTTP is told in its hosts.toml"),
        ("https://", ""),
        ("docker://", ""),
        ("oci://", ""),
    ] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return Err(format!("a name has no `{scheme}`: write `{rest}`{help}"));
        }
    }
    match text.chars().find(|c| !c.is_ascii_graphic()) {
        Some(c) if c.is_whitespace() => {
            let without: String = text.split_whitespace().collect();
            let without: String = without.chars().take(SHOWN_LEN_MAX).collect();
            Err(format!("a name has no spaces: did you mean `{without}`?"))
        }
        Some(c) => Err(format!("`{}` can't be in a name", c.escape_debug())),
        None => Ok(()),
    }
}

/// The host of a name and what follows it. The first part is a host if it looks like one: with a
/// `.` or a `:` in it, or `localhost` (distribution/reference, `splitDockerDomain`).
fn split_host(text: &str) -> Result<(String, &str), String> {
    let looks = |part: &str| part.contains(['.', ':', '[']) || part == "localhost";
    match text.split_once('/') {
        Some((host, rest)) if looks(host) => {
            let host = parse_host(host)?;
            if rest.is_empty() {
                return Err(format!("the repository is missing: write {host}/REPOSITORY:TAG"));
            }
            Ok((host, rest))
        }
        None if text.starts_with('[') => {
            Err(format!("this names a host only: write {text}/REPOSITORY:TAG"))
        }
        Some(_) | None => Ok((DOCKER_HUB.into(), text)),
    }
}

fn parse_host(text: &str) -> Result<String, String> {
    let refused = || {
        format!(
            "`{text}` is not a host: it is a DNS name, an IPv4 address or an IPv6 address in \
             brackets, and perhaps `:` and a port"
        )
    };
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(refused)?;
        let address: core::net::Ipv6Addr = address.parse().map_err(|_| refused())?;
        let port = match port {
            "" => None,
            port => Some(port.strip_prefix(':').ok_or_else(refused)?),
        };
        (format!("[{address}]"), port)
    } else {
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        let label = |part: &str| {
            let part = part.as_bytes();
            (1..=63).contains(&part.len())
                && part.first().is_some_and(u8::is_ascii_alphanumeric)
                && part.last().is_some_and(u8::is_ascii_alphanumeric)
                && part.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        };
        if name.len() > HOST_LEN_MAX - 6 || !name.split('.').all(label) {
            return Err(refused());
        }
        (name.to_ascii_lowercase(), port)
    };
    let host = match port {
        None => name,
        Some(port) => {
            // Digits only: parse would take `+5` as well.
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            let port: u16 =
                port.parse().ok().filter(|port| digits && *port > 0).ok_or_else(|| {
                    format!("`{port}` is not a port: a port is a number from 1 to 65535")
                })?;
            format!("{name}:{port}")
        }
    };
    // Its two other names.
    let hub = ["index.docker.io", "registry-1.docker.io"].contains(&host.as_str());
    Ok(if hub { DOCKER_HUB.into() } else { host })
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    let digest: Digest = text.parse().map_err(|_| format!("after `@`: {DIGEST_RULE}"))?;
    let kind = digest.algorithm();
    if [DigestAlgorithm::Sha256, DigestAlgorithm::Sha384, DigestAlgorithm::Sha512].contains(kind) {
        return Ok(digest);
    }
    Err(format!("digests of the kind {kind} can't be verified: {DIGEST_RULE}"))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let first = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let inside = |b: &u8| first(b) || *b == b'.' || *b == b'-';
    if tag.is_empty() {
        return Err("nothing follows the last `:`: write a tag after it, or leave it away".into());
    }
    let good = tag.len() <= TAG_LEN_MAX
        && tag.as_bytes().first().is_some_and(first)
        && tag.as_bytes().iter().all(inside);
    if good { Ok(()) } else { Err(format!("the tag is wrong: {TAG_RULE}")) }
}

fn check_repository(path: &str, text: &str) -> Result<(), String> {
    if path.is_empty() {
        return Err("the name is missing: write one, as in `nginx:1.27`".into());
    }
    for part in path.split('/') {
        if part.is_empty() {
            return Err("a `/` stands where a name should: write one `/` between two names".into());
        }
        if part.bytes().any(|b| b.is_ascii_uppercase()) {
            let lower = text.replacen(path, &path.to_ascii_lowercase(), 1);
            return Err(format!("a repository has lower-case letters only: write `{lower}`"));
        }
        if !is_component(part) {
            return Err(format!(
                "`{part}` is not the name of a repository: lower-case letters and digits, and \
                 between them one `.`, one or two `_`, or any number of `-`"
            ));
        }
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let edges = bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    edges
        && separators.into_iter().all(|between| {
            matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
        })
}

#[cfg(test)]
mod tests;
