//! `pods/{name}/exec`: a program is executed in a container, and its streams go over a WebSocket.
//!
//! ```text
//!   client ─ STDIN, RESIZE ─► input ─► pipe or terminal ─► program
//!   client ◄─ STDOUT, STDERR ─ output ◄─ pipes or terminal ◄─ program
//!   client ◄─ ERROR ─ how it ended, when all of its output was sent
//! ```
//!
//! Nothing is kept here but one piece for each direction: a client that reads slowly, or does not
//! read at all, holds up its own program alone.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::channels::{self, Assembly, Ending, FromClient};
use super::failure::Failure;
use super::logs::container;
use super::query::Words;
use super::routes::{Shared, find};
use super::upgrade::{Connection, Upgrade};
use super::websocket::{
    CLOSE_NORMAL, CLOSE_PROTOCOL_ERROR, PIECE_LEN_MAX, Piece, Reader, WebSocketError, Writer,
};
use crate::agent::service::{ContainerStatus, Exit, PodView, RecordPhase};
use crate::agent::sessions::{
    Ends, Flow, Session, SessionRefused, Streams, TerminalSize, WantedSession,
};
use crate::ids::ContainerName;

/// What is typed to end the input of a program on a terminal (VEOF of termios(3)).
const END_OF_INPUT: u8 = 4;
/// How long a client may take to close its side when everything was said.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the last output of a terminal may take to come out of it, if something outside of the
/// session holds that open.
const TERMINAL_TIME_MAX: Duration = Duration::from_secs(1);

/// What clients are told that know no WebSocket.
const NO_SPDY: &str = "SPDY is not supported: use a client that speaks WebSocket, as kubectl does \
                       from version 1.31 on (in 1.29 and 1.30 with \
                       KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true)";

/// Answers a request for a session.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
    mut request: Request,
) -> Result<Response, Failure> {
    let query = Words::of(request.uri().query().unwrap_or_default())?;
    let snapshot = shared.service.snapshot();
    let view = find(&snapshot, &namespace, &name)?;
    let container = container(view, query.one("container"))?;
    must_run(view, &container)?;
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Failure::bad_request("you must specify a command: `command=…`, once a word"));
    }
    let wanted =
        WantedSession { pod: view.record.id, container, command, streams: streams(&query)? };
    let known = [channels::V5, channels::V4];
    let upgrade = Upgrade::of(&mut request, &known, &shared.streams, NO_SPDY)?;
    let (response, connection) = upgrade.accept()?;
    let pod = view.record.name.to_string();
    tokio::spawn(async move {
        let Some(connection) = connection.await else { return };
        let (WantedSession { container, .. }, begun) = (&wanted, std::time::Instant::now());
        tracing::info!(pod, %container, "a session begins");
        let container = container.clone();
        let how = serve(&shared, wanted, connection).await;
        tracing::info!(pod, %container, took = ?begun.elapsed(), how, "a session is over");
    });
    Ok(response.into_response())
}

/// Whether there is something to be in.
pub(super) fn must_run(view: &PodView, container: &ContainerName) -> Result<(), Failure> {
    let report = match (&view.report, &view.record.phase) {
        (Some(report), _) => report,
        (None, RecordPhase::Finished { .. }) => return Err(runs_not(view, container)),
        // Its executor has not said yet; it knows.
        (None, _) => return Ok(()),
    };
    let found = report.containers.iter().find(|it| it.name == *container);
    match found.map(|found| &found.status) {
        Some(ContainerStatus::Running { .. } | ContainerStatus::Stopping { .. }) => Ok(()),
        Some(
            ContainerStatus::Creating
            | ContainerStatus::Recording { .. }
            | ContainerStatus::BackingOff { .. }
            | ContainerStatus::Terminated,
        )
        | None => Err(runs_not(view, container)),
    }
}

fn runs_not(view: &PodView, container: &ContainerName) -> Failure {
    let pod = &view.record.name.name;
    let text = format!("container {container} of pod {pod} does not run now");
    Failure::conflict(text).about(pod.as_str())
}

/// Which streams are asked for. `rows` and `columns` are the size of a terminal at first, which
/// Kubernetes' protocol can only say later.
fn streams(query: &Words) -> Result<Streams, Failure> {
    if query.flag("tty")? {
        let size = |name| query.number(name).map(Option::unwrap_or_default);
        return Ok(Streams::Terminal(TerminalSize {
            rows: size("rows")?,
            columns: size("columns")?,
        }));
    }
    let [stdin, stdout, stderr] =
        [query.flag("stdin")?, query.flag("stdout")?, query.flag("stderr")?];
    if !(stdin || stdout || stderr) {
        let text = "you must specify at least one of stdin, stdout, stderr";
        return Err(Failure::bad_request(text));
    }
    Ok(Streams::Pipes { stdin, stdout, stderr })
}

type ToClient = Arc<Mutex<Writer<OwnedWriteHalf>>>;

/// Serves a client; how that went, for the log.
async fn serve(shared: &Shared, wanted: WantedSession, connection: Connection) -> String {
    let Connection { mut reader, writer, hang_up, .. } = connection;
    let writer: ToClient = Arc::new(Mutex::new(writer));
    let opened = tokio::select! {
        opened = shared.service.open_session(wanted) => opened,
        () = hang_up.wait() => return "its client has gone".to_owned(),
    };
    let session = match opened {
        Ok(session) => session,
        Err(refused) => {
            let why = told(&refused);
            say_end(&writer, &Ending::Failed(why.clone())).await;
            farewell(&mut reader).await;
            return why;
        }
    };
    let Session { ends, mut end } = session;
    let (input, outputs) = split(ends);
    let taking_in = take_in(&mut reader, input, &writer);
    let running = async {
        let (over, is_over) = watch::channel(false);
        let sending = send_all(&outputs, &is_over, &writer);
        tokio::pin!(sending);
        let ended = tokio::select! {
            // Cancel-safe: what was read is kept.
            ended = end.ended() => Some(ended),
            sent = &mut sending => { sent?; None }
        };
        let ended = match ended {
            None => end.ended().await,
            Some(ended) => {
                let _all_is_there = over.send(true);
                sending.await?;
                ended
            }
        };
        Ok::<_, std::io::Error>(ended)
    };
    let ended = tokio::select! {
        ended = running => ended,
        why = taking_in => return why,
        // What it has sent last may never be read: its program does not take it.
        () = hang_up.wait() => return "its client has gone".to_owned(),
    };
    let Ok(ended) = ended else { return "its client has gone".to_owned() };
    let ending = ended.map_or_else(Ending::Failed, |exit| ending(&exit));
    say_end(&writer, &ending).await;
    farewell(&mut reader).await;
    format!("{ending:?}")
}

/// What is said to the client.
pub(super) fn told(refused: &SessionRefused) -> String {
    crate::errors::chain(refused)
}

fn ending(exit: &Exit) -> Ending {
    match exit {
        Exit::Code(code) => Ending::Code(*code),
        // As shells have it.
        Exit::Signal(signal) => Ending::Code(signal.saturating_add(128)),
        Exit::OutOfMemory => Ending::Code(137),
        Exit::NotStarted(why) => Ending::Failed(why.clone()),
        Exit::Unknown => Ending::Failed("it is not known how the command ended".to_owned()),
    }
}

async fn say_end(writer: &ToClient, ending: &Ending) {
    let mut writer = writer.lock().await;
    let text = ending.text();
    if writer.message(&[channels::ERROR], &text).await.is_ok() {
        // It may have gone by now.
        writer.close(CLOSE_NORMAL).await.ok();
    }
}

/// Lets the client close its side first: what it has not read yet would be lost otherwise.
pub(super) async fn farewell(reader: &mut Reader<OwnedReadHalf>) {
    let gone = async {
        loop {
            match reader.next().await {
                Ok(Piece::Data { .. } | Piece::Ping(_)) => {}
                Ok(Piece::Close) | Err(_) => return,
            }
        }
    };
    let _in_time = timeout(FAREWELL_TIME_MAX, gone).await;
}

/// Where input goes.
struct Input {
    to: Option<Arc<Flow>>,
    is_terminal: bool,
}

/// Where output comes from.
struct Output {
    from: Arc<Flow>,
    channel: u8,
    is_terminal: bool,
}

fn split(ends: Ends) -> (Input, Vec<Output>) {
    match ends {
        Ends::Terminal(terminal) => {
            let from = Arc::new(terminal);
            let input = Input { to: Some(from.clone()), is_terminal: true };
            (input, vec![Output { from, channel: channels::STDOUT, is_terminal: true }])
        }
        Ends::Pipes { stdin, stdout, stderr } => {
            let input = Input { to: stdin.map(Arc::new), is_terminal: false };
            let all = [(stdout, channels::STDOUT), (stderr, channels::STDERR)];
            let outputs = all.into_iter().filter_map(|(from, channel)| {
                Some(Output { from: Arc::new(from?), channel, is_terminal: false })
            });
            (input, outputs.collect())
        }
    }
}

/// Takes in what the client says, until it says no more; why.
async fn take_in(
    reader: &mut Reader<OwnedReadHalf>,
    mut input: Input,
    writer: &ToClient,
) -> String {
    let mut assembly = Assembly::default();
    loop {
        let wrong = match reader.next().await {
            Ok(Piece::Data { is_first, is_last, bytes }) => {
                match assembly.take(is_first, is_last, bytes) {
                    Ok(said) => {
                        if let Some(said) = said {
                            input.take(said).await;
                        }
                        continue;
                    }
                    Err(wrong) => wrong,
                }
            }
            Ok(Piece::Ping(bytes)) => {
                if writer.lock().await.pong(&bytes).await.is_err() {
                    return "its client has gone".to_owned();
                }
                continue;
            }
            Ok(Piece::Close) | Err(WebSocketError::Io(_)) => {
                return "its client has gone".to_owned();
            }
            Err(WebSocketError::Protocol(wrong)) => wrong,
        };
        writer.lock().await.close(CLOSE_PROTOCOL_ERROR).await.ok();
        return format!("its client is wrong: {wrong}");
    }
}

impl Input {
    async fn take(&mut self, said: FromClient) {
        match (&self.to, said) {
            (Some(to), FromClient::Input(bytes)) => {
                if to.write_all(&bytes).await.is_err() {
                    // The program reads no more. It may go on without.
                    self.to = None;
                }
            }
            (Some(to), FromClient::InputEnds) if self.is_terminal => {
                to.write_all(&[END_OF_INPUT]).await.ok();
            }
            (Some(_), FromClient::InputEnds) => self.to = None,
            (Some(to), FromClient::Resize(size)) if self.is_terminal => {
                if let Err(error) = to.resize(size) {
                    tracing::debug!(%error, "a terminal can't be resized");
                }
            }
            (Some(_) | None, FromClient::Resize(_))
            | (None, FromClient::Input(_) | FromClient::InputEnds) => {}
        }
    }
}

async fn send_all(
    outputs: &[Output],
    is_over: &watch::Receiver<bool>,
    writer: &ToClient,
) -> std::io::Result<()> {
    match outputs {
        [] => Ok(()),
        [one] => send(one, is_over.clone(), writer).await,
        [one, other, ..] => tokio::try_join!(
            send(one, is_over.clone(), writer),
            send(other, is_over.clone(), writer)
        )
        .map(drop),
    }
}

/// Sends the output on one stream, until nothing more comes.
async fn send(
    output: &Output,
    mut is_over: watch::Receiver<bool>,
    writer: &ToClient,
) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE_LEN_MAX];
    loop {
        // In this order: what was written before it was over is there.
        let over = *is_over.borrow_and_update();
        match output.from.try_read(&mut buffer) {
            Ok(Some(0)) | Err(_) => return Ok(()),
            Ok(Some(count)) => {
                writer.lock().await.message(&[output.channel], &buffer[..count]).await?;
            }
            Ok(None) if !over => {
                tokio::select! {
                    // Cancel-safe: whether there is something is asked again.
                    ready = output.from.readable() => ready?,
                    changed = is_over.changed() => if changed.is_err() { return Ok(()) },
                }
            }
            // A terminal hands on what was written to it a moment later, and tells its end.
            Ok(None) if output.is_terminal => {
                match timeout(TERMINAL_TIME_MAX, output.from.readable()).await {
                    Ok(ready) => ready?,
                    Err(_) => return Ok(()),
                }
            }
            Ok(None) => return Ok(()),
        }
    }
}
