//! `roost exec`: a program in a container, with this terminal as its own if it is wanted.
//!
//! What the program writes is passed on as it is, and the command ends as the program does. A
//! terminal that was made raw is what it was before on every way out.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::args::ExecArgs;
use super::client::Client;
use super::failure::Failure;
use super::get::{encoded, pod_path, with_query};
use super::output;
use crate::agent::sessions::TerminalSize;
use crate::api::channels::{self, Ending};
use crate::api::websocket::{PIECE_LEN_MAX, Piece, Reader, Role, Writer};
use crate::ids::PodName;

/// Pieces of input that wait to be sent.
const PIECES_MAX: usize = 4;
/// The longest description of how a session ended.
const ENDING_LEN_MAX: usize = 64 << 10;

/// Executes a program.
pub(super) async fn run(client: &Client, args: &ExecArgs) -> Result<(), Failure> {
    let name = args.pod.namespace.pod(&args.pod.name)?;
    let terminal = wants_terminal(args);
    let path = path(&name, args, terminal)?;
    let upgraded = client.upgrade(&path, channels::V5).await;
    let (read, write) = match upgraded {
        Ok(connection) => tokio::io::split(connection),
        Err(failure) => return Err(failure.about(&name)),
    };
    // From here on keys are the program's.
    let raw = terminal.map(|_| Raw::begin()).transpose()?;
    let session = Session {
        reader: Reader::new(read, Role::Client, &[]),
        writer: Writer::new(write, Role::Client),
    };
    let ended = session.run(args.stdin, terminal.is_some()).await;
    drop(raw);
    match ended? {
        Ending::Code(0) => Ok(()),
        Ending::Code(code) => Err(Failure::ended(code)),
        Ending::Failed(why) => Err(Failure::wrong(output::clean(&why))),
    }
}

/// The size of the terminal that the program is to have, if it is to have one.
fn wants_terminal(args: &ExecArgs) -> Option<TerminalSize> {
    if !args.tty {
        return None;
    }
    if !args.stdin {
        output::note("The command gets no terminal: -t needs -i.");
        return None;
    }
    if !std::io::stdin().is_terminal() {
        output::note("The command gets no terminal: what it reads from here is none.");
        return None;
    }
    Some(size())
}

fn size() -> TerminalSize {
    let found = rustix::termios::tcgetwinsize(std::io::stdin());
    found.map_or_else(
        |_| TerminalSize::default(),
        |size| TerminalSize { rows: size.ws_row, columns: size.ws_col },
    )
}

fn path(
    name: &PodName,
    args: &ExecArgs,
    terminal: Option<TerminalSize>,
) -> Result<String, Failure> {
    let flag = |name: &str, is_set: bool| is_set.then(|| format!("{name}=true"));
    let mut parts = vec![
        args.container.as_ref().map(|container| format!("container={container}")),
        flag("stdin", args.stdin),
        flag("stdout", true),
        flag("stderr", terminal.is_none()),
        flag("tty", terminal.is_some()),
        terminal.map(|size| format!("rows={}&columns={}", size.rows, size.columns)),
    ];
    for word in &args.command {
        let word = word.to_str().ok_or_else(|| {
            Failure::usage(format!("{} is no text in UTF-8", word.to_string_lossy()))
        })?;
        parts.push(Some(format!("command={}", encoded(word))));
    }
    Ok(with_query(&format!("{}/exec", pod_path(name)), &parts))
}

/// A terminal whose keys are nobody's business here, until this is dropped.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

impl Raw {
    fn begin() -> Result<Self, Failure> {
        let failed = |error| Failure::wrong(format!("can't use the terminal: {error}"));
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done if it has gone.
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before).ok();
    }
}

struct Session<R, W> {
    reader: Reader<R>,
    writer: Writer<W>,
}

impl<R, W> Session<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    async fn run(self, has_input: bool, has_terminal: bool) -> Result<Ending, Failure> {
        let Self { mut reader, mut writer } = self;
        let (pongs, to_pong) = mpsc::channel(PIECES_MAX);
        let input = has_input.then(read_input);
        let sending = send(&mut writer, input, to_pong, has_terminal);
        tokio::pin!(sending);
        let receiving = receive(&mut reader, &pongs);
        tokio::pin!(receiving);
        let mut stops = Stops::of(has_terminal)?;
        tokio::select! {
            ending = &mut receiving => ending,
            // Whatever comes next says why nothing could be sent.
            () = &mut sending => receiving.await,
            code = stops.next() => Ok(Ending::Code(code)),
        }
    }
}

/// Signals that end the command while the terminal is raw: it has to be put right first.
struct Stops(Option<[(Signal, u8); 4]>);

impl Stops {
    fn of(has_terminal: bool) -> Result<Self, Failure> {
        if !has_terminal {
            return Ok(Self(None));
        }
        let listen = |kind: SignalKind| {
            let code = u8::try_from(kind.as_raw_value()).unwrap_or(0).saturating_add(128);
            let failed = |error| Failure::wrong(format!("can't wait for signals: {error}"));
            Ok((signal(kind).map_err(failed)?, code))
        };
        Ok(Self(Some([
            listen(SignalKind::hangup())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::quit())?,
            listen(SignalKind::terminate())?,
        ])))
    }

    /// Waits for one; the exit code that goes with it.
    async fn next(&mut self) -> u8 {
        let Some([(a, of_a), (b, of_b), (c, of_c), (d, of_d)]) = &mut self.0 else {
            return std::future::pending().await;
        };
        tokio::select! {
            // Cancel-safe: a signal that is not taken is told of by the next call.
            _ = a.recv() => *of_a,
            _ = b.recv() => *of_b,
            _ = c.recv() => *of_c,
            _ = d.recv() => *of_d,
        }
    }
}

/// Reads standard input on a thread of its own: nothing else can wait for a file or a terminal
/// without changing it for others who have it.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        loop {
            let mut piece = vec![0; PIECE_LEN_MAX];
            match stdin.read(&mut piece) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    piece.truncate(count);
                    if sender.blocking_send(piece).is_err() {
                        return;
                    }
                }
            }
        }
    });
    pieces
}

/// Sends what is typed, and how large the terminal is, until the connection fails.
async fn send<W: AsyncWrite + Unpin>(
    writer: &mut Writer<W>,
    mut input: Option<mpsc::Receiver<Vec<u8>>>,
    mut pongs: mpsc::Receiver<Vec<u8>>,
    has_terminal: bool,
) {
    let mut resized = if has_terminal { signal(SignalKind::window_change()).ok() } else { None };
    loop {
        let typed = async {
            match &mut input {
                Some(input) => input.recv().await,
                None => std::future::pending().await,
            }
        };
        let changed = async {
            match &mut resized {
                Some(resized) => resized.recv().await,
                None => std::future::pending().await,
            }
        };
        let sent = tokio::select! {
            // Cancel-safe: what is not received stays where it is.
            piece = typed => match piece {
                Some(piece) => writer.message(&[channels::STDIN], &piece).await,
                None => {
                    input = None;
                    writer.message(&[channels::CLOSE, channels::STDIN], &[]).await
                }
            },
            _ = changed => writer.message(&[channels::RESIZE], &channels::resize(size())).await,
            Some(ping) = pongs.recv() => writer.pong(&ping).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Passes on what the program writes, until it ends.
async fn receive<R: AsyncRead + Unpin>(
    reader: &mut Reader<R>,
    pongs: &mpsc::Sender<Vec<u8>>,
) -> Result<Ending, Failure> {
    let mut channel = None;
    let mut ending = Vec::new();
    loop {
        let piece = reader.next().await;
        let (is_first, is_last, mut bytes) = match piece {
            Ok(Piece::Data { is_first, is_last, bytes }) => (is_first, is_last, bytes),
            Ok(Piece::Ping(bytes)) => {
                pongs.send(bytes).await.ok();
                continue;
            }
            Ok(Piece::Close) => {
                return Err(Failure::unreachable("the agent ended the session without a word"));
            }
            Err(error) => {
                let line = format!("the agent broke off the session: {error}");
                return Err(Failure::unreachable(line)
                    .with_help("its log says why, if it was not stopped on purpose"));
            }
        };
        if is_first {
            channel = None;
        }
        if channel.is_none() && !bytes.is_empty() {
            channel = Some(bytes.remove(0));
        }
        match channel {
            Some(channels::STDOUT) => print(bytes, Out::Output).await?,
            Some(channels::STDERR) => print(bytes, Out::Error).await?,
            Some(channels::ERROR) => {
                ending.append(&mut bytes);
                if is_last || ending.len() > ENDING_LEN_MAX {
                    let ending = Ending::parse(&ending);
                    return ending.ok_or_else(|| {
                        Failure::unreachable("the agent's word on the end can't be understood")
                    });
                }
            }
            Some(_) | None => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Out {
    Output,
    Error,
}

/// Writes it on another thread: whoever reads it may take his time, and keys and signals go on.
async fn print(bytes: Vec<u8>, out: Out) -> Result<(), Failure> {
    if bytes.is_empty() {
        return Ok(());
    }
    let written = tokio::task::spawn_blocking(move || match out {
        Out::Output => output::print_bytes(&bytes),
        Out::Error => {
            let mut error = std::io::stderr().lock();
            // As with any program: nothing can be said if nobody listens.
            error.write_all(&bytes).and_then(|()| error.flush()).ok();
            Ok(())
        }
    });
    written.await.unwrap_or_else(|error| Err(Failure::wrong(format!("can't write: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_agent_sends_ends_with_how_the_program_did() {
        let received = async |messages: &[&[u8]]| {
            let mut wire = Vec::new();
            let mut writer = Writer::new(&mut wire, Role::Server);
            for message in messages {
                writer.message(message, &[]).await.unwrap();
            }
            let mut reader = Reader::new(wire.as_slice(), Role::Client, &[]);
            receive(&mut reader, &mpsc::channel(1).0).await
        };
        let code = [&[channels::ERROR][..], &Ending::Code(3).text()].concat();
        assert_eq!(received(&[b"", b"\x02", &code]).await.unwrap(), Ending::Code(3));
        let failure = received(&[&[channels::ERROR, b'x']]).await.unwrap_err();
        assert!(failure.to_string().contains("can't be understood"), "{failure}");
        assert_eq!(received(&[]).await.unwrap_err().code(), 3, "the agent has gone");
    }
}
