//! One server of a registry: requests with certificates, credentials, bounded redirects and pauses.

use std::error::Error as _;
use std::time::Duration;

use base64::Engine as _;
use oci_spec::image::{Digest, DigestAlgorithm};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::Patience;
use super::challenge::Challenge;
use super::trust;
use crate::clock::Millis;
use crate::provisioner::auth::{Login, Secret};
use crate::provisioner::failure::{ProvisionError, Retry, one_line};
use crate::provisioner::hash::Hasher;
use crate::provisioner::hosts::{Endpoint, is_loopback};
use crate::provisioner::reference::Reference;
use crate::provisioner::store::sha256;

/// Most redirects of one request.
const REDIRECTS_MAX: usize = 5;
/// Most pauses within one request.
const PAUSES_MAX: usize = 2;
/// Longest pause that is passed on to whoever tries again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Largest answer with a token, and most that is read of an error.
const ANSWER_LEN_MAX: u64 = 64 << 10;
/// Longest token.
const TOKEN_LEN_MAX: usize = 32 << 10;
const USER_AGENT: &str = concat!("roost/", env!("CARGO_PKG_VERSION"));

/// A server that can be asked.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) endpoint: Endpoint,
    client: Client,
    logins: Vec<Login>,
    repository: String,
    /// Whom it stands in for.
    for_host: Option<String>,
    patience: Patience,
    session: Mutex<Session>,
}

/// How far we are with telling it who we are.
#[derive(Default)]
struct Session {
    /// What is shown with each request.
    header: Option<HeaderValue>,
    /// The login that it was made with; past the last one there is none left.
    login: usize,
    /// Whether it has opened a door; then a refusal means that it has run out.
    accepted: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session(login {})", self.login)
    }
}

impl Server {
    pub(super) fn new(
        endpoint: Endpoint,
        logins: Vec<Login>,
        reference: &Reference,
        patience: Patience,
    ) -> Result<Self, ProvisionError> {
        let client = client(&endpoint, patience)?;
        let for_host = endpoint.mirror.then(|| reference.host().to_owned());
        let repository = reference.repository().to_owned();
        let session = Mutex::new(Session::default());
        Ok(Self { endpoint, client, logins, repository, for_host, patience, session })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        let what = if self.endpoint.mirror { "mirror" } else { "registry" };
        format!("the {what} {}", self.endpoint.base.origin().ascii_serialization())
    }

    pub(super) fn url(&self, kind: &str, identifier: &str) -> Url {
        let mut url = self.endpoint.base.clone();
        url.set_path(&format!("{}{}/{kind}/{identifier}", url.path(), self.repository));
        if let Some(host) = &self.for_host {
            url.query_pairs_mut().append_pair("ns", host);
        }
        url
    }

    /// Sends a request and gives back the answer if it is a good one.
    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        headers: &[(HeaderName, String)],
    ) -> Result<Response, ProvisionError> {
        let mut pauses = 0;
        // One for each login, and one more for a token that has run out.
        for _ in 0..self.logins.len() + 2 + PAUSES_MAX {
            let shown = self.session.lock().await.header.clone();
            let answer = self.follow(&method, url.clone(), headers, shown.as_ref()).await?;
            let status = answer.status();
            let ours = same_origin(answer.url(), &self.endpoint.base);
            // What can't be resumed is begun anew by whoever wanted to.
            let beyond = status == StatusCode::RANGE_NOT_SATISFIABLE
                && headers.iter().any(|(name, _)| *name == RANGE);
            if status.is_success() || beyond {
                if shown.is_some() {
                    self.session.lock().await.accepted = true;
                }
                return Ok(answer);
            }
            if status == StatusCode::UNAUTHORIZED && ours {
                self.authorize(answer.headers(), shown).await?;
                continue;
            }
            if status == StatusCode::FORBIDDEN && ours && self.another_login(shown).await {
                continue;
            }
            let after = retry_after(answer.headers());
            let may_wait = is_busy(status) && pauses < PAUSES_MAX;
            if let Some(pause) = after.filter(|pause| may_wait && *pause <= self.patience.pause) {
                pauses += 1;
                tokio::time::sleep(pause).await;
                continue;
            }
            return Err(self.refused(answer, after).await);
        }
        Err(ProvisionError::lasting(format!("{} demands credentials again and again", self.name())))
    }

    /// One request, with its redirects. What we show to this server is shown to no other.
    async fn follow(
        &self,
        method: &Method,
        mut url: Url,
        headers: &[(HeaderName, String)],
        shown: Option<&HeaderValue>,
    ) -> Result<Response, ProvisionError> {
        for _ in 0..=REDIRECTS_MAX {
            // Content is hashed as it is sent: no transport compression.
            let mut request = self
                .client
                .request(method.clone(), url.clone())
                .header(ACCEPT_ENCODING, "identity");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(value) = shown.filter(|_| same_origin(&url, &self.endpoint.base)) {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let answer = tokio::time::timeout(self.patience.answer, request.send()).await;
            let answer = match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => return Err(self.transport_at(&e, &url)),
                Err(_) => return Err(self.stalled()),
            };
            if !is_redirect(answer.status()) {
                return Ok(answer);
            }
            let place = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = place.and_then(|place| url.join(place).ok());
            let wrong = |why: &str| {
                let place = one_line(place.unwrap_or_default());
                ProvisionError::lasting(format!("{} redirects to `{place}`, {why}", self.name()))
            };
            let next = next.ok_or_else(|| wrong("which is no address"))?;
            match (url.scheme(), next.scheme()) {
                ("https", "https") | ("http", "http" | "https") => {}
                ("https", "http") => {
                    return Err(wrong("from HTTPS to plain HTTP, which is not followed"));
                }
                (_, _) => return Err(wrong("which is not followed")),
            }
            url = next;
        }
        let text = format!("{} redirects more than {REDIRECTS_MAX} times", self.name());
        Err(ProvisionError::lasting(text))
    }

    /// Makes what the server demands, unless another request has done so since.
    async fn authorize(
        &self,
        headers: &HeaderMap,
        shown: Option<HeaderValue>,
    ) -> Result<(), ProvisionError> {
        let mut session = self.session.lock().await;
        if session.header != shown {
            return Ok(());
        }
        if session.header.is_some() && !session.accepted {
            session.login += 1;
        }
        session.header = None;
        session.accepted = false;
        let challenge = Challenge::read(headers).map_err(|why| {
            ProvisionError::lasting(format!("{} demands credentials, but {why}", self.name()))
        })?;
        loop {
            let login = self.logins.get(session.login);
            let nobody_left = login.is_none() && session.login > 0;
            if nobody_left || (login.is_none() && challenge == Challenge::Basic) {
                return Err(self.denied());
            }
            match self.prove(&challenge, login).await {
                Ok(header) => {
                    session.header = Some(header);
                    return Ok(());
                }
                // These are wrong: the next ones may be right.
                Err(e) if e.retry == Retry::Unlikely && session.login + 1 < self.logins.len() => {
                    session.login += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Goes on to the next login after a 403, which some registries give for wrong credentials.
    async fn another_login(&self, shown: Option<HeaderValue>) -> bool {
        let mut session = self.session.lock().await;
        if session.header != shown {
            return true;
        }
        let more =
            session.header.is_some() && !session.accepted && session.login + 1 < self.logins.len();
        if more {
            *session = Session { header: None, login: session.login + 1, accepted: false };
        }
        more
    }

    async fn prove(
        &self,
        challenge: &Challenge,
        login: Option<&Login>,
    ) -> Result<HeaderValue, ProvisionError> {
        let text = match (challenge, login.map(|login| &login.secret)) {
            (_, Some(Secret::Bearer { token })) => format!("Bearer {token}"),
            (Challenge::Basic, Some(Secret::Password { user, password })) => basic(user, password),
            (Challenge::Basic, Some(Secret::Identity { .. }) | None) => return Err(self.denied()),
            (Challenge::Bearer { realm, service, scope }, secret) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref(), secret).await?;
                format!("Bearer {token}")
            }
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            let text = "has characters that can't be sent";
            let origin = login.map_or("a token", |login| login.origin.as_str());
            ProvisionError::lasting(format!("the secret from {origin} {text}"))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// Gets a token for pulling this repository.
    async fn token(
        &self,
        realm: &Url,
        service: Option<&str>,
        scope: Option<&str>,
        secret: Option<&Secret>,
    ) -> Result<String, ProvisionError> {
        if self.endpoint.base.scheme() == "https" && realm.scheme() != "https" && secret.is_some() {
            return Err(ProvisionError::lasting(format!(
                "{} wants our credentials sent to {realm} unencrypted, which is refused",
                self.name()
            )));
        }
        let pull = format!("repository:{}:pull", self.repository);
        let mut url = realm.clone();
        let mut asked = url.clone();
        asked.set_query(None);
        let mut pairs: Vec<(&str, &str)> = vec![("scope", scope.unwrap_or(&pull))];
        pairs.extend(service.map(|service| ("service", service)));
        let request = match secret {
            Some(Secret::Identity { token }) => {
                pairs.extend([("grant_type", "refresh_token"), ("client_id", "roost")]);
                pairs.push(("refresh_token", token));
                asked.query_pairs_mut().extend_pairs(&pairs);
                let body = asked.query().unwrap_or_default().to_owned();
                let kind = "application/x-www-form-urlencoded";
                self.client.post(url.clone()).header(CONTENT_TYPE, kind).body(body)
            }
            other => {
                url.query_pairs_mut().extend_pairs(&pairs);
                let request = self.client.get(url.clone());
                match other {
                    Some(Secret::Password { user, password }) => {
                        request.header(AUTHORIZATION, basic(user, password))
                    }
                    Some(Secret::Identity { .. } | Secret::Bearer { .. }) | None => request,
                }
            }
        };
        let answer = tokio::time::timeout(self.patience.answer, request.send()).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => return Err(self.transport_at(&e, &url)),
            Err(_) => return Err(self.stalled()),
        };
        let status = answer.status();
        if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST]
            .contains(&status)
        {
            return Err(self.denied());
        }
        if !status.is_success() {
            let after = retry_after(answer.headers());
            return Err(self.refused(answer, after).await.when("no token was given"));
        }
        let bytes = self.body(answer, ANSWER_LEN_MAX, "token").await?;
        let token = serde_json::from_slice::<Token>(&bytes).ok().and_then(Token::into_text);
        token.filter(|token| token.len() <= TOKEN_LEN_MAX).ok_or_else(|| {
            let place = realm.origin().ascii_serialization();
            ProvisionError::passing(format!("{place} answers without a token for {}", self.name()))
        })
    }

    /// The whole of an answer, at most `limit` bytes.
    pub(super) async fn body(
        &self,
        answer: Response,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, ProvisionError> {
        let too_long = || {
            let name = self.name();
            ProvisionError::lasting(format!("{name} sends a {what} of more than {limit} bytes"))
        };
        if answer.content_length().is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let read = async {
            let (mut answer, mut bytes) = (answer, Vec::new());
            while let Some(chunk) = answer.chunk().await.map_err(|e| self.transport(&e))? {
                if (bytes.len() + chunk.len()) as u64 > limit {
                    return Err(too_long());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        tokio::time::timeout(self.patience.answer, read).await.map_err(|_| self.stalled())?
    }

    fn denied(&self) -> ProvisionError {
        let origins: Vec<_> = self.logins.iter().map(|login| login.origin.as_str()).collect();
        let name = self.name();
        let repository = &self.repository;
        ProvisionError::lasting(if origins.is_empty() {
            format!(
                "{name} demands credentials for {repository}, and there are none for it: add \
                 imagePullSecrets to the pod or an entry to the node's auth file (or the image \
                 does not exist)"
            )
        } else {
            let origins = origins.join(", ");
            format!("{name} refuses the credentials from {origins} for {repository}")
        })
    }

    /// What an answer that is none says.
    async fn refused(&self, answer: Response, after: Option<Duration>) -> ProvisionError {
        let (status, url) = (answer.status(), answer.url().clone());
        let elsewhere = !same_origin(&url, &self.endpoint.base);
        let html = answer
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("text/html")));
        let body = self.body(answer, ANSWER_LEN_MAX, "message").await.unwrap_or_default();
        let said = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => refusal.text(),
            Err(_) if html => {
                " (with a web page: is there a proxy or a login page between?)".into()
            }
            Err(_) => String::new(),
        };
        let place = if elsewhere {
            format!(" (redirected to {})", url.origin().ascii_serialization())
        } else {
            String::new()
        };
        let after = after.map(|pause| pause.min(RETRY_AFTER_MAX));
        let later = Retry::Later { after: after.map(Millis::from) };
        let name = self.name();
        let (text, retry) = match status {
            StatusCode::NOT_FOUND => (
                format!(
                    "{name} does not have it{place}{said}: is {} spelled right, and does it exist?",
                    self.repository
                ),
                Retry::Unlikely,
            ),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let denied =
                    if elsewhere { format!("{name} denies access") } else { self.denied().text };
                (format!("{denied}{place}{said}"), Retry::Unlikely)
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let when = after.map(|pause| {
                    format!(", and asks to wait {}", humantime::format_duration(pause))
                });
                let when = when.unwrap_or_default();
                (format!("{name} had too many requests (429){place}{when}{said}"), later)
            }
            status if status.is_server_error() || is_busy(status) => {
                (format!("{name} is in trouble ({status}){place}{said}"), later)
            }
            status => (format!("{name} answers {status}{place}{said}"), Retry::Unlikely),
        };
        ProvisionError::failed(text, retry)
    }

    pub(super) fn stalled(&self) -> ProvisionError {
        let patience = humantime::format_duration(self.patience.stall);
        let name = self.name();
        ProvisionError::passing(format!("{name} stopped answering: nothing came for {patience}"))
    }

    pub(super) fn ended(&self, found: u64, expected: u64) -> ProvisionError {
        let name = self.name();
        ProvisionError::passing(format!("{name} ended a blob after {found} of {expected} bytes"))
    }

    pub(super) fn transport(&self, error: &reqwest::Error) -> ProvisionError {
        self.transport_at(error, &self.endpoint.base)
    }

    /// A failure below HTTP, in words.
    fn transport_at(&self, error: &reqwest::Error, url: &Url) -> ProvisionError {
        let mut cause: &dyn std::error::Error = error;
        let mut causes = String::new();
        while let Some(next) = cause.source() {
            cause = next;
            causes = format!("{causes} {next}");
        }
        let root = one_line(&cause.to_string());
        let place = if same_origin(url, &self.endpoint.base) {
            self.name()
        } else {
            format!("{}, where {} sends us,", url.origin().ascii_serialization(), self.name())
        };
        let host = self.for_host.clone().unwrap_or_else(|| self.endpoint.host());
        let text = if causes.contains("CaUsedAsEndEntity") {
            format!(
                "{place} shows the certificate of an authority as its own: put exactly that one as \
                 `ca` into the hosts.toml of {host}"
            )
        } else if causes.contains("certificate") || causes.contains("UnknownIssuer") {
            format!(
                "{place} has a certificate that can't be trusted ({root}): if it is of a private \
                 authority, put that one's certificate as `ca` into the hosts.toml of {host}; or \
                 is the clock of this machine wrong?"
            )
        } else if causes.contains("InvalidContentType") || causes.contains("corrupt message") {
            format!(
                "{place} speaks no TLS: if plain HTTP is meant, write server = \"http://…\" into \
                 the hosts.toml of {host}"
            )
        } else if error.is_timeout() {
            format!("{place} does not answer in time ({root})")
        } else if error.is_connect() {
            format!("{place} can't be reached: {root}")
        } else {
            format!("the connection to {place} broke: {root}")
        };
        ProvisionError::passing(text)
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Token {
    fn into_text(self) -> Option<String> {
        self.token.or(self.access_token).filter(|text| !text.is_empty())
    }
}

/// An error in the form of the distribution specification.
#[derive(Deserialize)]
struct Refusal {
    errors: Vec<RefusalPart>,
}

#[derive(Deserialize)]
struct RefusalPart {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Refusal {
    fn text(&self) -> String {
        self.errors.first().map_or_else(String::new, |first| {
            let said: String =
                format!("{} {}", first.code, first.message).chars().take(300).collect();
            format!(" (it says: {})", one_line(&said))
        })
    }
}

fn client(endpoint: &Endpoint, patience: Patience) -> Result<Client, ProvisionError> {
    // Whoever was first has chosen; it is the same.
    rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
    let builder = || {
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(patience.connect)
            .read_timeout(patience.stall)
            .pool_idle_timeout(Duration::from_secs(10))
            .tls_danger_accept_invalid_certs(endpoint.skip_verify);
        // A proxy can't reach what is only here.
        let here = endpoint.base.host_str().is_some_and(is_loopback);
        if here { builder.no_proxy() } else { builder }
    };
    let built = if endpoint.authorities.is_empty() || endpoint.skip_verify {
        // A machine without any certificate authorities can still speak plain HTTP.
        builder().build().or_else(|_| builder().tls_certs_only([]).build())
    } else {
        let config = trust::config(&endpoint.authorities).map_err(|why| {
            ProvisionError::lasting(format!("a certificate for {} {why}", endpoint.base))
        })?;
        builder().tls_backend_preconfigured(config).build()
    };
    built.map_err(|e| {
        let why = e.source().map_or_else(String::new, |why| format!(": {why}"));
        ProvisionError::lasting(format!("can't make a client for {}{why}", endpoint.base))
    })
}

fn basic(user: &str, password: &str) -> String {
    let text = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

fn is_redirect(status: StatusCode) -> bool {
    [301, 302, 303, 307, 308].contains(&status.as_u16())
}

fn is_busy(status: StatusCode) -> bool {
    [408, 429, 502, 503, 504].contains(&status.as_u16())
}

/// `Retry-After` in seconds. As a date it needs a right clock, and is not read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// Where the content of an answer begins: `Content-Range: bytes 5-9/10`.
pub(super) fn range_start(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.trim().strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// `Docker-Content-Digest`, if it is one that can be compared.
pub(super) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    let digest: Digest = headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()?;
    matches!(digest.algorithm(), DigestAlgorithm::Sha256 | DigestAlgorithm::Sha512)
        .then_some(digest)
}

/// The digest of some bytes, of the same kind as another; SHA-256 if that kind is not known, which
/// then is no other's.
pub(super) fn digest_like(other: &Digest, bytes: &[u8]) -> Digest {
    let Some(mut hasher) = Hasher::of(other) else { return sha256(bytes) };
    hasher.update(bytes);
    hasher.finish()
}
