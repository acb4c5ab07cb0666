//! [`Client`]: the API, asked over the agent's socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;
use tokio::net::UnixStream;

use super::failure::Failure;
use super::output;
use crate::api::kubernetes::types::{Status, WatchEvent};
use crate::api::{socket, websocket};
use crate::config;
use crate::state::paths::Paths;

/// How long an agent may take to begin its answer: changes wait for a disk.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Where somebody who follows the quick start has his agent.
const QUICK_START_ROOT: &str = "state";
/// Bytes of an answer that is read as a whole: 1,000 pods of 100 KiB each.
const ANSWER_LEN_MAX: usize = 128 << 20;

/// Asks the agent. Every question has a connection of its own.
#[derive(Debug, Clone)]
pub(super) struct Client {
    paths: Paths,
    socket: PathBuf,
    has_root: bool,
}

impl Client {
    /// The client of the agent with that root, or of the installed one.
    pub(super) fn of(root: Option<&Path>) -> Result<Self, Failure> {
        let absolute = root.map(config::absolute).transpose();
        let absolute = absolute.map_err(|error| Failure::usage(error.to_string()))?;
        let paths = config::paths(absolute.as_deref());
        Ok(Self { socket: paths.api_socket(), paths, has_root: root.is_some() })
    }

    /// Where everything of that agent lies.
    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Asks for an object.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.open(path).await?;
        self.read(response).await
    }

    /// Asks for an object that need not be there.
    pub(super) async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = self.accepted(response).await?;
        self.read(response).await.map(Some)
    }

    /// Deletes an object.
    pub(super) async fn delete(&self, path: &str) -> Result<Status, Failure> {
        let response = self.send(Method::DELETE, path, Bytes::new()).await?;
        self.read(self.accepted(response).await?).await
    }

    /// Has something done.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let response = self.send(Method::POST, path, written(path, body)?).await?;
        self.read(self.accepted(response).await?).await
    }

    /// Has something done that takes as long as it takes; the agent is not known to hang before it
    /// answers.
    pub(super) async fn post_patiently<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let response = self.exchange(request(&Method::POST, path, written(path, body)?)?).await?;
        self.read(self.accepted(response).await?).await
    }

    /// Puts something in its place.
    pub(super) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let response = self.send(Method::PUT, path, body.into()).await?;
        self.read(self.accepted(response).await?).await
    }

    /// Begins a watch.
    pub(super) async fn watch(&self, path: &str) -> Result<Watch<'_>, Failure> {
        let response = self.open(path).await?;
        Ok(Watch { client: self, body: response.into_body(), buffer: Vec::new() })
    }

    /// Asks; the answer is not an error, and its body not read yet.
    pub(super) async fn open(&self, path: &str) -> Result<Response<Incoming>, Failure> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        self.accepted(response).await
    }

    /// The next piece of a body.
    pub(super) async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            match body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(self.broke_off(&error)),
            }
        }
    }

    /// Makes a WebSocket of a connection.
    pub(super) async fn upgrade(
        &self,
        path: &str,
        protocol: &str,
    ) -> Result<TokioIo<Upgraded>, Failure> {
        let key = websocket::new_key();
        let key = key.map_err(|error| Failure::wrong(format!("can't ask for {path}: {error}")))?;
        let mut request = request(&Method::GET, path, Bytes::new())?;
        let fields = [
            (hyper::header::CONNECTION, "Upgrade"),
            (hyper::header::UPGRADE, "websocket"),
            (hyper::header::SEC_WEBSOCKET_VERSION, "13"),
            (hyper::header::SEC_WEBSOCKET_KEY, &key),
            (hyper::header::SEC_WEBSOCKET_PROTOCOL, protocol),
        ];
        for (name, value) in fields {
            let value = value.parse().map_err(|_| Failure::wrong(format!("{name}: {value}")))?;
            request.headers_mut().insert(name, value);
        }
        let response = self.exchange_in_time(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.accepted(response).await?;
            return Err(Failure::unreachable("the agent does not open a session")
                .with_help("is it of another version? `roost version` says"));
        }
        let accepted = response.headers().get(hyper::header::SEC_WEBSOCKET_ACCEPT);
        if accepted.is_none_or(|accepted| accepted != websocket::accept_key(&key).as_str()) {
            return Err(Failure::unreachable("the agent's answer is for somebody else"));
        }
        let upgraded = hyper::upgrade::on(response).await;
        upgraded.map(TokioIo::new).map_err(|error| self.broke_off(&error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        self.exchange_in_time(request(&method, path, body)?).await
    }

    async fn exchange_in_time(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Failure> {
        match tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(request)).await {
            Ok(response) => response,
            Err(_) => {
                let line = format!(
                    "the agent at {} does not answer within {}",
                    self.socket.display(),
                    humantime::format_duration(ANSWER_TIMEOUT)
                );
                Err(Failure::unreachable(line).with_help("its log may say why"))
            }
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let socket = self.socket.clone();
        // connect(2) blocks while an agent that hangs has too many connections waiting.
        let stream = tokio::task::spawn_blocking(move || socket::connect(&socket)).await;
        let stream = stream
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| self.unconnected(&error))?;
        let failed = |error: io::Error| self.unconnected(&error);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = TokioIo::new(UnixStream::from_std(stream).map_err(failed)?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(|error| self.broke_off(&error))?;
        // What goes wrong on it is told to whoever waits for the answer.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|error| self.broke_off(&error))
    }

    async fn accepted(&self, response: Response<Incoming>) -> Result<Response<Incoming>, Failure> {
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let bytes = self.collect(response.into_body()).await?;
        let status = serde_json::from_slice::<Status>(&bytes).unwrap_or_default();
        let message = if status.message.is_empty() {
            format!("the agent answers {code}")
        } else {
            output::clean(&status.message)
        };
        let kind = status.details.map(|details| details.kind).unwrap_or_default();
        Err(match code {
            StatusCode::SERVICE_UNAVAILABLE => Failure::unreachable(message),
            StatusCode::FORBIDDEN => Failure::unreachable(message).with_help(self.may()),
            StatusCode::NOT_FOUND if kind == "pods" => Failure::no_such_pod(message),
            StatusCode::NOT_FOUND if kind == "images" => Failure::wrong(message),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Failure::wrong(message)
                .with_help("is the agent of another version? `roost version` says"),
            _ => Failure::wrong(message),
        })
    }

    async fn read<T: DeserializeOwned>(&self, response: Response<Incoming>) -> Result<T, Failure> {
        let bytes = self.collect(response.into_body()).await?;
        serde_json::from_slice(&bytes).map_err(|error| Failure::not_understood(&error))
    }

    async fn collect(&self, mut body: Incoming) -> Result<Vec<u8>, Failure> {
        // What the answer says of its length; a watch and a log say nothing.
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(0);
        let mut bytes = Vec::with_capacity(announced.min(ANSWER_LEN_MAX));
        while let Some(piece) = self.piece(&mut body).await? {
            if bytes.len() + piece.len() > ANSWER_LEN_MAX {
                let line = format!("the agent's answer is longer than {ANSWER_LEN_MAX} bytes");
                return Err(Failure::unreachable(line));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    fn unconnected(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        if absent.contains(&error.kind()) {
            let failure =
                Failure::unreachable(format!("no agent answers at {socket}: is it running?"));
            if self.has_root {
                return failure.with_help("`roost agent --root DIR --pods DIR` starts one");
            }
            let failure = if config::paths(Some(Path::new(QUICK_START_ROOT))).api_socket().exists()
            {
                let text = format!("say `--root {QUICK_START_ROOT}` for the one in this directory");
                failure.with_help(text)
            } else {
                failure.with_help("`--root DIR` or ROOST_ROOT names one that has its own root")
            };
            return failure
                .with_help("`systemctl status roost` says how the installed one is")
                .with_help("`roost agent --root DIR --pods DIR` starts one by hand");
        }
        let failure =
            Failure::unreachable(format!("can't connect to the agent at {socket}: {error}"));
        if error.kind() == io::ErrorKind::PermissionDenied {
            return failure.with_help(self.may());
        }
        failure
    }

    #[expect(clippy::unused_self, reason = "it is about this agent")]
    fn may(&self) -> String {
        format!("only root and the members of group `{}` may talk to an agent", socket::GROUP)
    }

    fn broke_off(&self, error: &hyper::Error) -> Failure {
        let socket = self.socket.display();
        Failure::unreachable(format!("the agent at {socket} broke off: {error}"))
            .with_help("its log says why, if it was not stopped on purpose")
    }
}

/// The body of a request.
fn written(path: &str, body: &impl Serialize) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(body);
    Ok(body.map_err(|error| Failure::wrong(format!("can't ask for {path}: {error}")))?.into())
}

fn request(method: &Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(hyper::header::HOST, "roost");
    if *method == Method::POST {
        request = request.header(hyper::header::CONTENT_TYPE, "application/json");
    }
    request
        .body(Full::new(body))
        .map_err(|error| Failure::usage(format!("can't ask for {path}: {error}")))
}

/// A watch, read line by line.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    client: &'a Client,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch<'_> {
    /// The next change; an error when the agent has ended. Cancel-safe.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<WatchEvent<T>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return event(&line);
            }
            match self.client.piece(&mut self.body).await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => {
                    let line = format!("the agent at {} ended", self.client.socket.display());
                    return Err(Failure::unreachable(line));
                }
            }
            if self.buffer.len() > ANSWER_LEN_MAX {
                let line = format!("the agent's answer is longer than {ANSWER_LEN_MAX} bytes");
                return Err(Failure::unreachable(line));
            }
        }
    }
}

fn event<T: DeserializeOwned>(line: &[u8]) -> Result<WatchEvent<T>, Failure> {
    let understood = |error| Failure::not_understood(&error);
    let WatchEvent { kind, object }: WatchEvent<Value> =
        serde_json::from_slice(line).map_err(understood)?;
    if kind == "ERROR" {
        let status = Status::deserialize(object).map_err(understood)?;
        return Err(Failure::wrong(output::clean(&status.message)));
    }
    Ok(WatchEvent { kind, object: T::deserialize(object).map_err(understood)? })
}

#[cfg(test)]
impl Client {
    /// A client of an agent that shows what the service does.
    pub(super) fn serving(root: &Path, service: crate::agent::service::Service) -> Self {
        let client = Self::of(Some(root)).unwrap();
        std::fs::create_dir_all(client.socket.parent().unwrap()).unwrap();
        let listener = crate::api::listen(&client.socket).unwrap();
        tokio::spawn(crate::api::serve(listener, service));
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kubernetes::types::{List, Pod};
    use crate::api::samples::{fake, pod, snapshot};

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_told_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let client = Client::of(Some(root.path())).unwrap();
        let check = |failure: Failure| {
            let text = failure.to_string();
            assert_eq!(failure.code(), 3);
            assert!(text.starts_with("error: no agent answers at "), "{text}");
            assert!(
                text.contains("run/roost.sock: is it running?\n  help: `roost agent"),
                "{text}"
            );
        };
        check(client.get::<Pod>("/api/v1/pods").await.unwrap_err());
        // One that an agent left behind.
        std::fs::create_dir_all(client.socket.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&client.socket).unwrap());
        check(client.get::<Pod>("/api/v1/pods").await.unwrap_err());
    }

    #[tokio::test]
    async fn answers_are_read_and_refusals_are_told_in_the_agent_s_words() {
        let root = tempfile::tempdir().unwrap();
        let pods = (0..300).map(|number| pod(&format!("p{number}"), number)).collect();
        let fake = fake(snapshot(1, pods, root.path()));
        let client = Client::serving(root.path(), fake.service);
        let list: List<Pod> = client.get("/api/v1/pods").await.unwrap();
        assert_eq!(list.items.len(), 300);
        let path = "/api/v1/namespaces/default/pods/other";
        assert_eq!(client.find::<Pod>(path).await.unwrap(), None);
        let failure = client.get::<Pod>(path).await.unwrap_err();
        assert_eq!(failure.to_string(), "error: pods \"other\" not found\n");
        assert_eq!(failure.code(), 1);
        let name = "other".parse().unwrap();
        assert_eq!(failure.about(&name).missing(), Some(&name));
        let failure = client.get::<Pod>("/roost/v1/nothing").await.unwrap_err();
        assert!(failure.to_string().contains("of another version?"), "{failure}");
        let path = "/api/v1/pods?watch=true&resourceVersion=99";
        let failure = client.watch(path).await.unwrap().next::<Pod>().await.unwrap_err();
        assert!(failure.to_string().contains("too old resource version"), "{failure}");
        let mut watch = client.watch("/api/v1/pods?watch=true").await.unwrap();
        for _ in 0..300 {
            assert_eq!(watch.next::<Pod>().await.unwrap().kind, "ADDED");
        }
    }
}
