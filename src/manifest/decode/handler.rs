//! What is asked of a container: the part that probes, checks and lifecycle hooks have in common.

use super::fields::{At, Fields};
use super::pod::TERMINATION_GRACE_MAX_SECONDS;
use super::schema;
use super::suggest::closest;
use crate::clock::Millis;
use crate::manifest::diagnostic::{Faults, quote};
use crate::manifest::expansion::expand;
use crate::manifest::pod::{ContainerPort, EnvVar, Handler, Host, HttpGet, Scheme};

/// Words of a command.
const WORDS_MAX: usize = 1024;
/// Bytes of a word, of a path, and of a header's value.
const TEXT_LEN_MAX: usize = 32 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Headers that belong to whoever makes the request.
const OWN_HEADERS: [&str; 6] =
    ["connection", "content-length", "te", "trailer", "transfer-encoding", "upgrade"];

/// What a handler may refer to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// The ports of its container, for their names.
    pub(super) ports: &'a [ContainerPort],
    /// The variables of its container, where references to them are replaced in commands.
    pub(super) env: Option<&'a [EnvVar]>,
}

/// A kind of handler, and how it is read.
type Kind = (&'static str, fn(At<'_>, Scope<'_>, &mut Faults) -> Option<Handler>);

/// The kinds that a probe may have.
pub(super) const OF_PROBES: &[Kind] =
    &[("exec", exec), ("httpGet", http_get), ("tcpSocket", tcp_socket), ("grpc", grpc)];
/// The kinds that a generalized check may have.
pub(super) const OF_CHECKS: &[Kind] =
    &[("exec", exec), ("httpGet", http_get), ("tcpSocket", tcp_socket)];
/// The kinds that a hook may have.
pub(super) const OF_HOOKS: &[Kind] =
    &[("exec", exec), ("httpGet", http_get), ("tcpSocket", tcp_socket), ("sleep", sleep)];

/// Reads the one handler of an object that may have these kinds, each of which is one of its
/// fields.
pub(super) fn decode(
    fields: &Fields<'_>,
    kinds: &[Kind],
    scope: Scope<'_>,
    faults: &mut Faults,
) -> Option<Handler> {
    let found: Vec<_> =
        kinds.iter().filter_map(|(name, read)| Some((*name, fields.get(name)?, read))).collect();
    let names: Vec<String> = kinds.iter().map(|(name, _)| quote(name)).collect();
    let names = names.join(", ");
    match found.as_slice() {
        [(_, at, read)] => read(*at, scope, faults),
        [] => {
            let message = format!("must have one of {names}");
            faults.push(fields.at.error(&message));
            None
        }
        [(first, ..), (_, second, _), ..] => {
            let message = format!("only one of {names} is possible");
            let help = format!("there is {} already; remove one of them", quote(first));
            faults.push(second.error(&message).with_help(&help));
            None
        }
    }
}

fn exec<'a>(at: At<'_>, scope: Scope<'a>, faults: &mut Faults) -> Option<Handler> {
    let fields = at.fields(&schema::EXEC, faults)?;
    let list = fields.required("command", faults)?;
    let mark = faults.mark();
    let items = list.items(WORDS_MAX, faults);
    // As of the variables of the container itself, the last counts.
    let value_of = |env: &'a [EnvVar], name: &str| {
        env.iter().rev().find(|var| var.name == name).map(|var| var.value.as_str())
    };
    let expanded = |text: &str| match scope.env {
        Some(env) => expand(text, TEXT_LEN_MAX, |name| value_of(env, name)),
        None => Ok(text.to_owned()),
    };
    let mut command = Vec::new();
    for item in items {
        let Some(text) = item.c_text(faults) else { continue };
        match expanded(text) {
            Ok(word) => command.push(word),
            Err(error) => faults.push(item.error(&error.to_string())),
        }
    }
    if faults.any_error_since(mark) {
        return None;
    }
    if command.first().is_none_or(String::is_empty) {
        let help = "as in `[/bin/sh, -c, \"…\"]`; there is no shell unless you write one";
        faults.push(list.error("must begin with a program to run").with_help(help));
        return None;
    }
    Some(Handler::Exec { command })
}

fn http_get(at: At<'_>, scope: Scope<'_>, faults: &mut Faults) -> Option<Handler> {
    let fields = at.fields(&schema::HTTP_GET, faults)?;
    let port = fields.required("port", faults).and_then(|at| port(at, scope.ports, faults));
    let host = fields.get("host").map(|at| host(at, faults));
    let path = match fields.get("path") {
        Some(at) => path(at, faults),
        None => Some("/".to_owned()),
    };
    let schemes = [("HTTP", Scheme::Http), ("HTTPS", Scheme::Https), ("", Scheme::Http)];
    let scheme = match fields.get("scheme") {
        Some(at) => at.choice(&schemes, faults),
        None => Some(Scheme::Http),
    };
    let headers = fields.get("httpHeaders").map(|at| headers(at, faults)).unwrap_or_default();
    let get = HttpGet {
        host: host.unwrap_or(Some(None))?,
        port: port?,
        path: path?,
        scheme: scheme?,
        headers,
    };
    Some(Handler::Http(get))
}

fn tcp_socket(at: At<'_>, scope: Scope<'_>, faults: &mut Faults) -> Option<Handler> {
    let fields = at.fields(&schema::TCP_SOCKET, faults)?;
    let port = fields.required("port", faults).and_then(|at| port(at, scope.ports, faults));
    let host = fields.get("host").map(|at| host(at, faults));
    Some(Handler::Tcp { host: host.unwrap_or(Some(None))?, port: port? })
}

fn grpc(at: At<'_>, _: Scope<'_>, faults: &mut Faults) -> Option<Handler> {
    let fields = at.fields(&schema::GRPC, faults)?;
    let port = fields.required("port", faults).and_then(|at| number(at, faults));
    let service = match fields.get("service") {
        Some(at) => at.text(faults).map(str::to_owned),
        None => Some(String::new()),
    };
    Some(Handler::Grpc { port: port?, service: service? })
}

fn sleep(at: At<'_>, _: Scope<'_>, faults: &mut Faults) -> Option<Handler> {
    let fields = at.fields(&schema::SLEEP, faults)?;
    let seconds = fields.required("seconds", faults)?;
    let seconds = seconds.integer(0..=TERMINATION_GRACE_MAX_SECONDS, faults)?;
    Some(Handler::Sleep(Millis::from_secs(seconds.unsigned_abs())))
}

/// A port, or the name of one of the container's.
fn port(at: At<'_>, ports: &[ContainerPort], faults: &mut Faults) -> Option<u16> {
    let text = at.node.as_text().unwrap_or_default();
    if text.is_empty() || text.parse::<i64>().is_ok() {
        // A number in quotes is one as well: so Kubernetes has it.
        if let Ok(port @ 1..) = text.parse::<u16>() {
            return Some(port);
        }
        return number(at, faults);
    }
    let named = |port: &&ContainerPort| port.name.as_deref() == Some(text);
    if let Some(port) = ports.iter().find(named) {
        return Some(port.container_port);
    }
    let message = format!("no port of this container has the name {}", quote(text));
    let names = ports.iter().filter_map(|port| port.name.as_deref());
    faults.push(match closest(text, names) {
        Some(near) => at.error(&message).with_help(&format!("did you mean `{near}`?")),
        None => at.error(&message).with_help("give it one in `ports`, or write the number"),
    });
    None
}

fn number(at: At<'_>, faults: &mut Faults) -> Option<u16> {
    at.integer(1..=i64::from(u16::MAX), faults).and_then(|port| u16::try_from(port).ok())
}

/// None if it is not one; no host, which is the pod itself, if it is empty.
fn host(at: At<'_>, faults: &mut Faults) -> Option<Option<Host>> {
    let text = at.text(faults)?;
    if text.is_empty() {
        return Some(None);
    }
    match text.parse() {
        Ok(host) => Some(Some(host)),
        Err(_) => {
            let message = format!("{} is not an IP address, as in 127.0.0.1 or ::1", quote(text));
            let help = "names are not looked up; leave it out for the pod itself, and write the \
                        name as the header `Host` of `httpHeaders`";
            faults.push(at.error(&message).with_help(help));
            None
        }
    }
}

/// What may stand in a request: the rest is escaped, and a fragment is left out.
fn path(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    if text.len() > TEXT_LEN_MAX {
        faults.push(at.error(&format!("must be at most {TEXT_LEN_MAX} bytes")));
        return None;
    }
    let text = text.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(text.len() + 1);
    if !text.starts_with('/') {
        out.push('/');
    }
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(out)
}

fn headers(at: At<'_>, faults: &mut Faults) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for item in at.items(HEADERS_MAX, faults) {
        let Some(fields) = item.fields(&schema::HEADER, faults) else { continue };
        let name_at = fields.required("name", faults);
        let name = name_at.and_then(|at| header_name(at, faults));
        let value = match fields.get("value") {
            Some(at) => header_value(at, faults),
            None => Some(String::new()),
        };
        if let (Some(at), Some(name)) = (name_at, &name)
            && OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str())
        {
            let message = "has no effect: whoever makes the request sets this header";
            faults.push(at.warning(message));
            continue;
        }
        found.extend(name.zip(value));
    }
    found
}

/// A token (RFC 9110, section 5.6.2).
fn header_name(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    let known = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || text.len() > TEXT_LEN_MAX || !text.bytes().all(known) {
        let message = format!(
            "{} is no name of a header: letters, digits and `-`, at least one character",
            quote(text)
        );
        faults.push(at.error(&message));
        return None;
    }
    Some(text.to_owned())
}

fn header_value(at: At<'_>, faults: &mut Faults) -> Option<String> {
    let text = at.text(faults)?;
    if text.len() > TEXT_LEN_MAX || text.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
        let message = format!(
            "must have no control characters such as line ends, and at most {TEXT_LEN_MAX} bytes"
        );
        faults.push(at.error(&message));
        return None;
    }
    Some(text.to_owned())
}
