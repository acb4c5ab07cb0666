//! The streams of a session over one WebSocket: Kubernetes' remote command protocol
//! (`v5.channel.k8s.io` and, without the end of input, `v4.channel.k8s.io`). PURE.
//!
//! Each binary message begins with the number of its channel. Of what is long the agent takes the
//! pieces as they come.

use serde_json::{Value, json};

use crate::agent::sessions::TerminalSize;

/// Standard input, from the client.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How it ended: one `Status` in JSON, sent last.
pub const ERROR: u8 = 3;
/// How large the terminal is, from the client: `{"Width":80,"Height":24}`.
pub const RESIZE: u8 = 4;
/// Closes the channel whose number follows; since the fifth version.
pub const CLOSE: u8 = 255;

/// With the end of input.
pub const V5: &str = "v5.channel.k8s.io";
/// Without it.
pub const V4: &str = "v4.channel.k8s.io";

/// The longest message that is kept until it is whole.
const SMALL_LEN_MAX: usize = 1024;

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient {
    /// It types this.
    Input(Vec<u8>),
    /// It types no more.
    InputEnds,
    /// Its terminal has that size.
    Resize(TerminalSize),
}

/// Puts together what comes in pieces.
#[derive(Debug, Default)]
pub struct Assembly {
    channel: Option<u8>,
    text: Vec<u8>,
}

impl Assembly {
    /// Takes in a piece of a message; what the client says with it, if it says something.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(
        &mut self,
        is_first: bool,
        is_last: bool,
        mut bytes: Vec<u8>,
    ) -> Result<Option<FromClient>, &'static str> {
        if is_first {
            (self.channel, self.text) = (None, Vec::new());
        }
        if self.channel.is_none() && !bytes.is_empty() {
            self.channel = Some(bytes.remove(0));
        }
        let Some(channel) = self.channel else { return Ok(None) };
        if channel == STDIN {
            return Ok((!bytes.is_empty()).then_some(FromClient::Input(bytes)));
        }
        if self.text.len() + bytes.len() > SMALL_LEN_MAX {
            return Err("a message of that channel is longer than it may be");
        }
        self.text.append(&mut bytes);
        if !is_last {
            return Ok(None);
        }
        match (channel, self.text.as_slice()) {
            (RESIZE, text) => size(text).map(FromClient::Resize).map(Some),
            (CLOSE, [STDIN]) => Ok(Some(FromClient::InputEnds)),
            // The others are ours to close.
            (CLOSE, [_]) => Ok(None),
            (_, []) => Ok(None),
            _ => Err("nothing is expected on that channel"),
        }
    }
}

fn size(text: &[u8]) -> Result<TerminalSize, &'static str> {
    let wrong = "a size is {\"Width\":NUMBER,\"Height\":NUMBER}";
    let value: Value = serde_json::from_slice(text).map_err(|_| wrong)?;
    let number = |name: &str| value[name].as_u64().and_then(|number| u16::try_from(number).ok());
    let (columns, rows) = (number("Width").ok_or(wrong)?, number("Height").ok_or(wrong)?);
    Ok(TerminalSize { rows, columns })
}

/// How a client says what size its terminal has.
#[must_use]
pub fn resize(size: TerminalSize) -> Vec<u8> {
    json!({ "Width": size.columns, "Height": size.rows }).to_string().into_bytes()
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its program did: 128 and the number of the signal if one killed it.
    Code(u8),
    /// It never ran, or it is not known how it ended.
    Failed(String),
}

impl Ending {
    /// As it is sent on the channel of errors.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let status = match self {
            Self::Code(0) => json!({ "metadata": {}, "status": "Success" }),
            Self::Code(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("command terminated with non-zero exit code: {code}"),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
                "code": 500,
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": why,
                "reason": "InternalError",
                "details": { "causes": [{ "message": why }] },
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }

    /// The reverse; none if it can't be understood.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let status: Value = serde_json::from_slice(text).ok()?;
        if status["status"] == "Success" {
            return Some(Self::Code(0));
        }
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        let code = causes
            .filter(|cause| cause["reason"] == "ExitCode")
            .find_map(|cause| cause["message"].as_str()?.parse().ok());
        let why = || Self::Failed(status["message"].as_str().unwrap_or_default().to_owned());
        Some(code.map_or_else(why, Self::Code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(pieces: &[(bool, bool, &[u8])]) -> Vec<Result<Option<FromClient>, &'static str>> {
        let mut assembly = Assembly::default();
        pieces.iter().map(|(first, last, b)| assembly.take(*first, *last, b.to_vec())).collect()
    }

    #[test]
    fn input_is_passed_on_in_pieces_and_the_rest_when_it_is_whole() {
        let input = |text: &[u8]| Ok(Some(FromClient::Input(text.to_vec())));
        let whole = take(&[(true, false, b"\0ab"), (false, false, b"c"), (false, true, b"")]);
        assert_eq!(whole, [input(b"ab"), input(b"c"), Ok(None)]);
        let size = FromClient::Resize(TerminalSize { rows: 24, columns: 80 });
        let found = take(&[(true, false, b"\x04{\"Width\":80,"), (false, true, b"\"Height\":24}")]);
        assert_eq!(found, [Ok(None), Ok(Some(size))]);
        assert_eq!(take(&[(true, true, b"\xff\0")]), [Ok(Some(FromClient::InputEnds))]);
        assert_eq!(take(&[(true, true, b"")]), [Ok(None)]);
        // Clients announce their channels by empty messages.
        assert_eq!(take(&[(true, true, b"\x01")]), [Ok(None)]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [&b"\x04{}"[..], b"\x04{\"Width\":80,\"Height\":70000}", b"\x01x", b"\x09x"] {
            assert!(take(&[(true, true, wrong)])[0].is_err(), "{wrong:?}");
        }
        let long = vec![RESIZE; SMALL_LEN_MAX + 2];
        assert!(take(&[(true, true, &long)])[0].is_err());
    }

    #[test]
    fn an_end_is_told_as_kubernetes_does_and_understood() {
        for ending in [Ending::Code(0), Ending::Code(137), Ending::Failed("no".to_owned())] {
            assert_eq!(Ending::parse(&ending.text()), Some(ending));
        }
        assert_eq!(Ending::parse(b"x"), None);
    }
}
