//! What is asked of a container from outside: [`Handler`], and the [`Probe`]s, [`Check`]s and
//! hooks that are made of it.
//!
//! Not here: when it is asked (`executor::machine`), and how (`executor::asking`).

use core::net::IpAddr;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Millis;

/// What is done to find out about a container, or to tell it something.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Handler {
    /// A program in the container, with its own namespaces, user and limits. 0 is success.
    Exec {
        /// The program and its arguments; never empty.
        command: Vec<String>,
    },
    /// A request to a server in the pod. 200 to 399 is success.
    Http(HttpGet),
    /// A connection to a server in the pod. That it is made is success.
    Tcp {
        /// Where; none is the pod itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<Host>,
        /// From 1.
        port: u16,
    },
    /// A question to a server of `grpc.health.v1.Health` in the pod. `SERVING` is success.
    Grpc {
        /// From 1.
        port: u16,
        /// Which service is asked about; may be empty.
        service: String,
    },
    /// Only time passes. It is always a success.
    Sleep(Millis),
}

/// `httpGet`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGet {
    /// Where; none is the pod itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// From 1.
    pub port: u16,
    /// Begins with `/`; may have a query. Only what may stand in a request (RFC 9112, 3.2).
    pub path: String,
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Names and values, in the order of the manifest, as HTTP allows them (RFC 9110, 5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}

/// How a server is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scheme {
    /// Plainly.
    Http,
    /// By TLS; whose certificate the server has does not matter.
    Https,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// A host that needs no look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// `localhost`.
    Localhost,
    /// An address.
    Address(IpAddr),
}

/// A text that is no [`Host`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IP address, as in 127.0.0.1 or ::1")]
pub struct InvalidHost(String);

impl FromStr for Host {
    type Err = InvalidHost;
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        if text.eq_ignore_ascii_case("localhost") {
            return Ok(Self::Localhost);
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let address = bare.unwrap_or(text).parse();
        address.map(Self::Address).map_err(|_| InvalidHost(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for Host {
    type Error = InvalidHost;
    fn try_from(text: String) -> Result<Self, InvalidHost> {
        text.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> String {
        host.to_string()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Localhost => f.write_str("localhost"),
            Self::Address(address) => fmt::Display::fmt(address, f),
        }
    }
}

/// `livenessProbe`, `readinessProbe` or `startupProbe`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// What is asked; never [`Handler::Sleep`].
    pub handler: Handler,
    /// `initialDelaySeconds`: from the start of the container to the first time.
    pub initial_delay: Millis,
    /// `periodSeconds`: from the beginning of one time to that of the next.
    pub period: Millis,
    /// `timeoutSeconds`: no answer by then is a failure.
    pub timeout: Millis,
    /// `successThreshold`: successes in a row after which it counts as good again, from 1; 1 but
    /// for readiness.
    pub success_threshold: u32,
    /// `failureThreshold`: failures in a row after which it counts as bad, from 1.
    pub failure_threshold: u32,
    /// `terminationGracePeriodSeconds`: instead of that of the pod, where the probe ends the
    /// container; never of readiness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace: Option<Millis>,
}

/// A generalized check, annotation `roost/check.<container>`: what it finds is reported, and never
/// acted on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is asked: a program, HTTP or TCP.
    pub handler: Handler,
    /// From the start of the container to the first time.
    pub delay: Millis,
    /// From the end of one time to the beginning of the next.
    pub interval: Millis,
    /// No answer by then is none at all.
    pub timeout: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_needs_no_look_up() {
        for (text, shown) in [
            ("LOCALHOST", "localhost"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "::1"),
            ("0:0::1", "::1"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown);
        }
        for bad in ["", "example.com", "127.1", "::1%lo", "http://[::1]"] {
            bad.parse::<Host>().unwrap_err();
        }
    }
}
