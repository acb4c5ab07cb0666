//! `httpGet`, in the manner of the kubelet (`pkg/probe/http`): HTTP/1.1, a new connection each
//! time, any certificate, redirects followed as long as they stay on the host.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{DnsName, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::request::{address_of, drive, failure, not_connected};
use super::socket::connect;
use super::tls;
use crate::executor::poller::Poller;
use crate::executor::question::{Answer, Observed, Seen, TEXT_LEN_MAX};
use crate::manifest::pod::{Host, HttpGet, Scheme};

/// Redirects that are followed, as of `net/http` of Go.
const REDIRECTS_MAX: usize = 10;
/// How much of a body is read. More neither fails nor counts.
const BODY_LEN_MAX: usize = 10 << 10;
/// Servers leave probes out of their logs by the name of the kubelet.
pub(super) const USER_AGENT: &str = concat!("kube-probe/1.36 roost/", env!("CARGO_PKG_VERSION"));

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    scheme: Scheme,
    /// As written in a URL, and compared.
    host: String,
    address: IpAddr,
    port: u16,
    path: String,
    /// Whether the header `Host` of the manifest counts: not where a redirect names a host.
    is_own_host: bool,
}

/// Asks a server.
pub(super) async fn ask(poller: Rc<Poller>, id: u32, get: HttpGet) -> Answer {
    let mut target = Target::of(&get);
    for _ in 0..=REDIRECTS_MAX {
        let socket = match connect(&poller, id, target.address, target.port).await {
            Ok(socket) => socket,
            Err(error) => return failure(not_connected(target.address, target.port, &error)),
        };
        let result = match target.scheme {
            Scheme::Http => exchange(socket, &target, &get).await,
            Scheme::Https => {
                let connector = match tls::any_certificate() {
                    Ok(config) => TlsConnector::from(Arc::new(config)),
                    Err(error) => return Answer::NotAsked { why: format!("TLS: {error}") },
                };
                match connector.connect(target.server_name(), socket).await {
                    Ok(stream) => exchange(stream, &target, &get).await,
                    Err(error) => Err(format!("TLS: {error}")),
                }
            }
        };
        match result {
            Err(why) => return failure(format!("GET {}: {why}", target.url())),
            Ok(Said { status, location, text }) => {
                let seen = Seen::HttpStatus(status.as_u16());
                let next = match location.map(|location| target.follow(&location)) {
                    Some(Next::Follow(next)) => Some(next),
                    Some(Next::Elsewhere) | None => None,
                };
                match next {
                    Some(next) => target = next,
                    None => return judge(status, Observed { seen, text }),
                }
            }
        }
    }
    failure(format!("GET {}: stopped after {REDIRECTS_MAX} redirects", target.url()))
}

fn judge(status: StatusCode, mut observed: Observed) -> Answer {
    if status.is_redirection() {
        observed.text = format!("a redirect was not followed: {}", observed.text);
        Answer::Doubtful(observed)
    } else if status.is_success() {
        Answer::Success(observed)
    } else {
        Answer::Failure(observed)
    }
}

/// What a server said.
struct Said {
    status: StatusCode,
    /// Where it says that the answer is.
    location: Option<String>,
    /// The beginning of the body.
    text: String,
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    target: &Target,
    get: &HttpGet,
) -> Result<Said, String> {
    let request = request(target, get)?;
    let mut builder = http1::Builder::new();
    // Old servers take names in lower case for others.
    builder.title_case_headers(true);
    let made = builder.handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = made.map_err(|error| explain(&error))?;
    drive(connection, async move {
        let answer = sender.send_request(request).await.map_err(|error| explain(&error))?;
        read(answer).await
    })
    .await
}

async fn read(answer: Response<Incoming>) -> Result<Said, String> {
    let status = answer.status();
    let location = answer.headers().get(header::LOCATION);
    let location = location.and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = location.filter(|_| is_redirect);
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while text.len() < BODY_LEN_MAX && !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| format!("reading the body: {}", explain(&error)))?;
        if let Some(data) = frame.data_ref() {
            let room = BODY_LEN_MAX - text.len();
            text.extend_from_slice(data.get(..room).unwrap_or(data));
        }
    }
    text.truncate(TEXT_LEN_MAX);
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    Ok(Said { status, location, text })
}

fn request(target: &Target, get: &HttpGet) -> Result<Request<Empty<Bytes>>, String> {
    let failed = |error: &dyn std::error::Error| format!("it can't be asked for: {error}");
    let uri: Uri = target.path.parse().map_err(|error| failed(&error))?;
    let mut request = Request::get(uri).body(Empty::new()).map_err(|error| failed(&error))?;
    let headers = request.headers_mut();
    for (name, value) in &get.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| failed(&error))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| failed(&error))?;
        if name != header::HOST || target.is_own_host {
            headers.append(name, value);
        }
    }
    // An empty one is how a manifest asks for none.
    let mut default = |name: HeaderName, value: &str| -> Result<(), String> {
        if !headers.contains_key(&name) {
            let value = HeaderValue::from_str(value).map_err(|error| failed(&error))?;
            headers.insert(name, value);
        }
        Ok(())
    };
    default(header::HOST, &target.authority())?;
    default(header::USER_AGENT, USER_AGENT)?;
    default(header::ACCEPT, "*/*")?;
    default(header::CONNECTION, "close")?;
    for name in [header::USER_AGENT, header::ACCEPT] {
        if headers.get(&name).is_some_and(HeaderValue::is_empty) {
            headers.remove(&name);
        }
    }
    Ok(request)
}

/// An error with all that caused it.
fn explain(error: &hyper::Error) -> String {
    crate::executor::journal::chain(error)
}

/// What becomes of a redirect.
enum Next {
    Follow(Target),
    Elsewhere,
}

impl Target {
    fn of(get: &HttpGet) -> Self {
        let address = address_of(get.host);
        let host = match get.host {
            Some(Host::Localhost) => Host::Localhost.to_string(),
            Some(Host::Address(_)) | None => address.to_string(),
        };
        let (scheme, port, path) = (get.scheme, get.port, get.path.clone());
        Self { scheme, host, address, port, path, is_own_host: true }
    }

    /// Host and port, as they stand in a URL and in the header `Host`.
    fn authority(&self) -> String {
        let host = &self.host;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let usual = default_port(self.scheme);
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority(), self.path)
    }

    fn server_name(&self) -> ServerName<'static> {
        let by_name = DnsName::try_from(self.host.clone()).ok().map(ServerName::DnsName);
        let address = ServerName::IpAddress(self.address.into());
        if self.host.parse::<IpAddr>().is_ok() { address } else { by_name.unwrap_or(address) }
    }

    /// Where a header `Location` leads to (RFC 9110, 10.2.2).
    fn follow(&self, location: &str) -> Next {
        let location = location.split('#').next().unwrap_or_default();
        let (scheme, rest) = match location.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
            Some((scheme, _)) if !scheme.contains(['/', '?']) => return Next::Elsewhere,
            Some(_) | None => match location.strip_prefix("//") {
                Some(rest) => (self.scheme, rest),
                None => {
                    let path = self.resolve(location);
                    return Next::Follow(Self { path, ..self.clone() });
                }
            },
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let Some((host, port)) = split_authority(authority, default_port(scheme)) else {
            return Next::Elsewhere;
        };
        if !host.eq_ignore_ascii_case(&self.host) {
            return Next::Elsewhere;
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Next::Follow(Self { scheme, port, path, is_own_host: false, ..self.clone() })
    }

    /// A reference that is relative to this.
    fn resolve(&self, reference: &str) -> String {
        let own = self.path.split('?').next().unwrap_or_default();
        if reference.starts_with('/') {
            return reference.to_owned();
        }
        if reference.starts_with('?') || reference.is_empty() {
            return format!("{own}{reference}");
        }
        let directory = own.rfind('/').map_or("/", |at| own.get(..=at).unwrap_or("/"));
        format!("{directory}{reference}")
    }
}

fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// Host, without brackets, and port.
fn split_authority(authority: &str, default: u16) -> Option<(&str, u16)> {
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => match authority.find(':') {
            Some(at) => authority.split_at(at),
            None => (authority, ""),
        },
    };
    let port = match port.strip_prefix(':') {
        None | Some("") => default,
        Some(port) => port.parse().ok()?,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::of(&HttpGet {
            host: None,
            port: 8080,
            path: "/a/b?c".to_owned(),
            scheme: Scheme::Http,
            headers: Vec::new(),
        })
    }

    #[test]
    fn a_redirect_is_followed_as_long_as_it_stays_on_the_host() {
        let follow = |location: &str| match target().follow(location) {
            Next::Follow(target) => target.url(),
            Next::Elsewhere => "elsewhere".to_owned(),
        };
        for (location, expected) in [
            ("/x?y#z", "http://127.0.0.1:8080/x?y"),
            ("x", "http://127.0.0.1:8080/a/x"),
            ("?d", "http://127.0.0.1:8080/a/b?d"),
            ("/to?next=http://other/", "http://127.0.0.1:8080/to?next=http://other/"),
            ("//127.0.0.1/x", "http://127.0.0.1/x"),
            ("HTTPS://127.0.0.1:8443", "https://127.0.0.1:8443/"),
            ("https://user@127.0.0.1?x", "https://127.0.0.1/?x"),
            ("http://example.com/", "elsewhere"),
            ("http://127.0.0.1:99999/", "elsewhere"),
            ("mailto://127.0.0.1", "elsewhere"),
        ] {
            assert_eq!(follow(location), expected, "{location}");
        }
    }

    #[test]
    fn a_host_of_the_manifest_counts_where_a_redirect_names_none() {
        let mut get = HttpGet {
            host: Some("::1".parse().unwrap()),
            port: 80,
            path: "/".to_owned(),
            scheme: Scheme::Http,
            headers: Vec::new(),
        };
        let host = |target: &Target, get: &HttpGet| {
            let request = request(target, get).unwrap();
            request.headers()[header::HOST].to_str().unwrap().to_owned()
        };
        let own = Target::of(&get);
        assert_eq!(host(&own, &get), "[::1]");
        get.headers.push(("host".to_owned(), "shop.example".to_owned()));
        assert_eq!(host(&own, &get), "shop.example");
        let Next::Follow(relative) = own.follow("/x") else { panic!() };
        assert_eq!(host(&relative, &get), "shop.example");
        let Next::Follow(named) = own.follow("http://[::1]:81/x") else { panic!() };
        assert_eq!(host(&named, &get), "[::1]:81");
    }
}
