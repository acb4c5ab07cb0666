//! A repository in a registry: manifests and blobs by the OCI distribution specification v2.
//!
//! The servers of a registry are tried in their order (`hosts`), each with its own certificates
//! and credentials. What comes is bounded while it is read, and nothing is believed before its
//! digest was compared. Not here: what the content means (`image`), and where it is kept.

mod challenge;
mod http;
mod trust;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use oci_spec::image::Digest;
use reqwest::header::{ACCEPT, CONTENT_TYPE, RANGE};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use super::auth::{self, Credentials};
use super::failure::{ProvisionError, Retry};
use super::hosts;
use super::image::{MANIFEST_LEN_MAX, MANIFEST_TYPES};
use super::reference::Reference;
use super::store::{Partial, StoreError, sha256};
use http::Server;

/// Most tries for one blob without a byte of progress.
pub const BLOB_TRIES_MAX: u32 = 5;
/// Most tries for one blob in all.
pub const BLOB_TRIES_IN_ALL_MAX: u32 = 100;
/// Bytes that are gathered before they are written.
const CHUNK_LEN: usize = 1 << 20;
/// Least that a blob must bring in one [`Patience::stall`]; less is a connection that is broken in
/// all but name.
const STALL_BYTES_MIN: u64 = 512;

/// How long servers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes.
    pub stall: Duration,
    /// For an answer as a whole, if it is no blob.
    pub answer: Duration,
    /// Longest pause that a server may ask for (`Retry-After`) and gets within a pull.
    pub pause: Duration,
    /// Before the first further try for a blob; doubled with each.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            answer: Duration::from_secs(60),
            pause: Duration::from_secs(10),
            backoff: Duration::from_millis(500),
        }
    }
}

/// Where a node's configuration of registries is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Docker's `config.json`s with credentials for everybody on this node; those that are missing
    /// are passed over. Read at each pull.
    pub auth_files: Vec<PathBuf>,
    /// Directories with `<host>/hosts.toml`, the first that has the host wins. Read at each pull.
    pub hosts_dirs: Vec<PathBuf>,
    /// How long servers are waited for.
    pub patience: Patience,
}

/// A manifest or index, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// Its digest, computed.
    pub digest: Digest,
    /// What the server called it.
    pub media_type: Option<String>,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A repository, and who may be asked for it. Lives for one pull.
#[derive(Debug)]
pub struct Repository {
    reference: Reference,
    servers: Vec<Server>,
    patience: Patience,
    /// What was not understood in its configuration.
    pub warnings: Vec<String>,
}

impl Repository {
    /// Reads the configuration for the repository of a reference; asks nobody yet. Blocks.
    ///
    /// # Errors
    /// When the configuration or the credentials can't be used.
    pub fn open(
        reference: &Reference,
        options: &RegistryOptions,
        credentials: &Credentials,
    ) -> Result<Self, ProvisionError> {
        let lasting = |e: &dyn std::error::Error| ProvisionError::lasting(e.to_string());
        let found =
            hosts::endpoints(&options.hosts_dirs, reference.host()).map_err(|e| lasting(&e))?;
        let mut servers = Vec::new();
        for endpoint in found.list {
            let host = if endpoint.mirror { endpoint.host() } else { reference.host().to_owned() };
            let files = &options.auth_files;
            let logins = auth::all_logins(credentials, files, &host, reference.repository());
            // A mirror that we are nobody to may serve everybody.
            let logins = if endpoint.mirror { Ok(logins.unwrap_or_default()) } else { logins };
            let logins = logins.map_err(|e| lasting(&e))?;
            servers.push(Server::new(endpoint, logins, reference, options.patience)?);
        }
        let (patience, warnings) = (options.patience, found.warnings);
        Ok(Self { reference: reference.clone(), servers, patience, warnings })
    }

    /// What the registry has under the reference now, without fetching it.
    ///
    /// # Errors
    /// When nobody can say.
    pub async fn digest(&self) -> Result<Digest, ProvisionError> {
        let identifier = self.reference.identifier();
        let mut failures = Failures::default();
        for server in self.servers.iter().filter(|server| server.endpoint.resolves) {
            let url = server.url("manifests", &identifier);
            let accept = MANIFEST_TYPES.join(", ");
            let answer = server.send(Method::HEAD, url, &[(ACCEPT, accept)]).await;
            let digest = match answer {
                Ok(answer) => http::content_digest(answer.headers()),
                // Some know no HEAD; what others mean by a failure is in the body of a GET.
                Err(e) if e.retry == Retry::Unlikely => None,
                Err(e) => {
                    failures.add(e);
                    continue;
                }
            };
            match digest {
                Some(digest) => return Ok(digest),
                None => match self.manifest_from(server, &identifier, None).await {
                    Ok(manifest) => return Ok(manifest.digest),
                    Err(e) => failures.add(e),
                },
            }
        }
        Err(failures.into_one(&self.reference))
    }

    /// The manifest or index that the reference means.
    ///
    /// # Errors
    /// When nobody has it.
    pub async fn manifest(&self) -> Result<RawManifest, ProvisionError> {
        let identifier = self.reference.identifier();
        self.any_manifest(&identifier, self.reference.digest()).await
    }

    /// A manifest by its digest, as an index names it.
    ///
    /// # Errors
    /// When nobody has it, or it is another.
    pub async fn manifest_at(&self, digest: &Digest) -> Result<RawManifest, ProvisionError> {
        self.any_manifest(digest.as_ref(), Some(digest)).await
    }

    async fn any_manifest(
        &self,
        identifier: &str,
        digest: Option<&Digest>,
    ) -> Result<RawManifest, ProvisionError> {
        let mut failures = Failures::default();
        for server in &self.servers {
            let may = server.endpoint.resolves || (digest.is_some() && server.endpoint.pulls);
            if !may {
                continue;
            }
            match self.manifest_from(server, identifier, digest).await {
                Ok(manifest) => return Ok(manifest),
                Err(e) => failures.add(e),
            }
        }
        Err(failures.into_one(&self.reference))
    }

    async fn manifest_from(
        &self,
        server: &Server,
        identifier: &str,
        digest: Option<&Digest>,
    ) -> Result<RawManifest, ProvisionError> {
        let url = server.url("manifests", identifier);
        let accept = MANIFEST_TYPES.join(", ");
        let answer = server.send(Method::GET, url, &[(ACCEPT, accept)]).await?;
        let media_type = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type =
            media_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        if media_type.as_deref() == Some("text/html") {
            return Err(ProvisionError::passing(format!(
                "{} answers with a web page instead of a manifest: is there a login page or a \
                 proxy between, or is this no registry?",
                server.name()
            )));
        }
        let claimed = http::content_digest(answer.headers());
        let bytes = server.body(answer, MANIFEST_LEN_MAX, "manifest").await?;
        let expected = digest.or(claimed.as_ref());
        let found = match expected {
            Some(expected) => http::digest_like(expected, &bytes),
            None => sha256(&bytes),
        };
        if expected.is_some_and(|expected| *expected != found) {
            return Err(ProvisionError::passing(format!(
                "{} sent another manifest than {}: its digest is {found}; it was damaged on its \
                 way, or the registry is not right",
                server.name(),
                expected.map(ToString::to_string).unwrap_or_default(),
            )));
        }
        Ok(RawManifest { digest: found, media_type, bytes })
    }

    /// A configuration: a blob that is small enough to be held.
    ///
    /// # Errors
    /// When nobody has it, or it is another.
    pub async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Vec<u8>, ProvisionError> {
        let mut failures = Failures::default();
        for server in self.servers.iter().filter(|server| server.endpoint.pulls) {
            let url = server.url("blobs", digest.as_ref());
            let bytes = match server.send(Method::GET, url, &[]).await {
                Ok(answer) => server.body(answer, size, "configuration").await,
                Err(e) => Err(e),
            };
            match bytes {
                Ok(bytes) if http::digest_like(digest, &bytes) == *digest => return Ok(bytes),
                Ok(_) => failures.add(ProvisionError::passing(format!(
                    "{} sent another configuration than {digest}: it was damaged on its way, or \
                     the registry is not right",
                    server.name()
                ))),
                Err(e) => failures.add(e),
            }
        }
        Err(failures.into_one(&self.reference))
    }

    /// Fetches what is missing of a blob. A connection that breaks is resumed where it broke.
    /// `seen` is told of each number of bytes that came.
    ///
    /// # Errors
    /// When nobody has it, it is longer than it should be, or the disk is full. What came before
    /// stays in `partial`'s file.
    pub async fn blob(
        &self,
        digest: &Digest,
        mut partial: Partial,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Partial, ProvisionError> {
        let (mut tries, mut in_vain) = (0, 0);
        while partial.len() < partial.size() {
            let before = partial.len();
            let mut failures = Failures::default();
            for server in self.servers.iter().filter(|server| server.endpoint.pulls) {
                let (back, result) = self.blob_from(server, digest, partial, seen).await;
                partial = back.ok_or_else(|| ProvisionError::passing("the download was ended"))?;
                match result {
                    Ok(()) => return Ok(partial),
                    Err(Broken::Disk(e)) => {
                        if is_full(&e) {
                            // Given back at once: whoever needs it more may be waiting.
                            partial.discard().unwrap_or_default();
                        }
                        return Err(storage(&e));
                    }
                    Err(Broken::Server(e)) => failures.add(e),
                }
            }
            tries += 1;
            in_vain = if partial.len() > before { 1 } else { in_vain + 1 };
            let may_help = failures.may_pass();
            let failure = failures.into_one(&self.reference);
            if !may_help || in_vain >= BLOB_TRIES_MAX || tries >= BLOB_TRIES_IN_ALL_MAX {
                return Err(failure);
            }
            tracing::debug!(image = %self.reference, blob = %digest, at = partial.len(),
                reason = %failure, "a download broke and is resumed");
            let factor = 1 << (in_vain - 1).min(6);
            tokio::time::sleep(self.patience.backoff * factor).await;
        }
        Ok(partial)
    }

    /// One connection's worth of a blob.
    async fn blob_from(
        &self,
        server: &Server,
        digest: &Digest,
        mut partial: Partial,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> (Option<Partial>, Result<(), Broken>) {
        let at = partial.len();
        let range: Vec<_> = (at > 0).then(|| (RANGE, format!("bytes={at}-"))).into_iter().collect();
        let answer =
            match server.send(Method::GET, server.url("blobs", digest.as_ref()), &range).await {
                Ok(answer) => answer,
                Err(e) => return (Some(partial), Err(Broken::Server(e))),
            };
        let resumed = answer.status() == StatusCode::PARTIAL_CONTENT
            && http::range_start(answer.headers()) == Some(at);
        // What it does not resume it sends from the beginning, or it knows no ranges at all.
        let useless = answer.status() != StatusCode::OK && !resumed;
        let anew = (at > 0 && !resumed) || useless;
        let cut = if anew { partial.restart() } else { Ok(()) };
        if let Err(e) = cut {
            return (Some(partial), Err(Broken::Disk(e)));
        }
        if useless {
            let text = format!("{} does not resume the download of {digest}", server.name());
            return (Some(partial), Err(Broken::Server(ProvisionError::passing(text))));
        }
        let wanted = partial.size() - partial.len();
        if let Some(found) = answer.content_length().filter(|found| *found != wanted) {
            let text = format!(
                "{} has {found} bytes of {digest} instead of {wanted}: it does not fit its manifest",
                server.name()
            );
            return (Some(partial), Err(Broken::Server(ProvisionError::lasting(text))));
        }
        self.stream(server, answer, partial, seen).await
    }

    async fn stream(
        &self,
        server: &Server,
        mut answer: reqwest::Response,
        mut partial: Partial,
        seen: &(dyn Fn(u64) + Send + Sync),
    ) -> (Option<Partial>, Result<(), Broken>) {
        let mut gathered: Vec<u8> = Vec::with_capacity(CHUNK_LEN);
        let (mut window, mut in_window) = (Instant::now(), 0_u64);
        loop {
            let chunk = tokio::time::timeout(self.patience.stall, answer.chunk()).await;
            let (end, broken) = match chunk {
                Ok(Ok(Some(bytes))) => {
                    gathered.extend_from_slice(&bytes);
                    in_window += bytes.len() as u64;
                    (false, None)
                }
                Ok(Ok(None)) => (true, None),
                Ok(Err(e)) => (true, Some(server.transport(&e))),
                Err(_) => (true, Some(server.stalled())),
            };
            let slow = window.elapsed() >= self.patience.stall;
            let broken = broken.or((slow && in_window < STALL_BYTES_MIN).then(|| server.stalled()));
            if slow {
                (window, in_window) = (Instant::now(), 0);
            }
            let end = end || broken.is_some();
            if gathered.len() >= CHUNK_LEN || end {
                let bytes = std::mem::replace(&mut gathered, Vec::with_capacity(CHUNK_LEN));
                let count = bytes.len() as u64;
                let (back, written) = append(partial, bytes).await;
                let Some(back) = back else { return (None, Ok(())) };
                partial = back;
                if let Err(e) = written {
                    return (Some(partial), Err(Broken::of(e, server)));
                }
                seen(count);
            }
            if end {
                let broken = broken.or_else(|| {
                    (partial.len() < partial.size())
                        .then(|| server.ended(partial.len(), partial.size()))
                });
                return (Some(partial), broken.map_or(Ok(()), |e| Err(Broken::Server(e))));
            }
        }
    }
}

/// Writing blocks, and so does hashing.
async fn append(mut partial: Partial, bytes: Vec<u8>) -> (Option<Partial>, Result<(), StoreError>) {
    let work = tokio::task::spawn_blocking(move || {
        let result = partial.append(&bytes);
        (partial, result)
    });
    match work.await {
        Ok((partial, result)) => (Some(partial), result),
        // The runtime is going down.
        Err(_) => (None, Ok(())),
    }
}

/// Why a blob is not there yet.
enum Broken {
    /// Another server, or another try, may help.
    Server(ProvisionError),
    /// Neither would.
    Disk(StoreError),
}

impl Broken {
    fn of(error: StoreError, server: &Server) -> Self {
        if matches!(error, StoreError::TooLong { .. }) {
            return Self::Server(ProvisionError::lasting(format!("{}: {error}", server.name())));
        }
        Self::Disk(error)
    }
}

/// Whether the disk is full.
#[must_use]
pub fn is_full(error: &StoreError) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let io = next.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(io, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = next.source();
    }
    matches!(error, StoreError::Unpack { source, .. } if source.is_disk_full())
}

/// A failure of the store, with its cause: on a disk that is full, what to do.
#[must_use]
pub fn storage(error: &StoreError) -> ProvisionError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    match error {
        error if is_full(error) => ProvisionError::passing(format!(
            "{text}; make room on the disk, as with `roost image prune`"
        )),
        StoreError::Unpack { source, .. } if source.is_content() => ProvisionError::lasting(text),
        StoreError::TooLong { .. }
        | StoreError::UnknownAlgorithm { .. }
        | StoreError::Collision { .. }
        | StoreError::Refused { .. } => ProvisionError::lasting(text),
        StoreError::Io { .. }
        | StoreError::File { .. }
        | StoreError::Locked { .. }
        | StoreError::WrongDigest { .. }
        | StoreError::Truncated { .. }
        | StoreError::Fetching { .. }
        | StoreError::Unpack { .. }
        | StoreError::NoLayer { .. }
        | StoreError::Damaged { .. } => ProvisionError::passing(text),
    }
}

/// What several servers said.
#[derive(Default)]
struct Failures(Vec<ProvisionError>);

impl Failures {
    fn add(&mut self, failure: ProvisionError) {
        self.0.push(failure);
    }

    fn may_pass(&self) -> bool {
        self.0.iter().any(|failure| failure.retry != Retry::Unlikely)
    }

    fn into_one(self, reference: &Reference) -> ProvisionError {
        let passing = self.0.iter().map(|failure| failure.retry).find(|r| *r != Retry::Unlikely);
        let texts: Vec<_> = self.0.into_iter().map(|failure| failure.text).collect();
        if texts.is_empty() {
            return ProvisionError::lasting(format!(
                "no server of {} may be asked for this: see `capabilities` in its hosts.toml",
                reference.host()
            ));
        }
        ProvisionError::failed(texts.join("; "), passing.unwrap_or(Retry::Unlikely))
    }
}
