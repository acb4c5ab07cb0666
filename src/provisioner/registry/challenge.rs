//! What a registry demands with a 401: `WWW-Authenticate` (RFC 9110 section 11, and
//! <https://distribution.github.io/distribution/spec/auth/token/>).

use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Longest header that is read.
const CHALLENGE_LEN_MAX: usize = 8192;

/// How a registry wants to be told who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token, which somebody else gives.
    Bearer {
        /// Who.
        realm: Url,
        /// For which service.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best of those in an answer: a token before a password.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, String> {
        let (mut basic, mut named) = (false, Vec::new());
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            if text.len() > CHALLENGE_LEN_MAX {
                continue;
            }
            for challenge in http_auth::parse_challenges(text).unwrap_or_default() {
                let find = |name: &str| {
                    let found =
                        challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let realm = find("realm").unwrap_or_default();
                    let realm: Url = realm
                        .parse()
                        .map_err(|_| format!("it names no place to get a token (`{realm}`)"))?;
                    if !["http", "https"].contains(&realm.scheme()) {
                        return Err(format!(
                            "it wants a token from `{realm}`, which is no web address"
                        ));
                    }
                    return Ok(Self::Bearer {
                        realm,
                        service: find("service"),
                        scope: find("scope"),
                    });
                }
                basic |= challenge.scheme.eq_ignore_ascii_case("basic");
                named.push(challenge.scheme.to_owned());
            }
        }
        if basic {
            return Ok(Self::Basic);
        }
        Err(match named.first() {
            Some(scheme) => format!("it demands `{scheme}`, which is not supported"),
            None => "it does not say how it wants to be told who we are".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Challenge, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::read(&headers)
    }

    #[test]
    fn a_token_goes_before_a_password() {
        let bearer =
            "Bearer realm=\"https://auth.example.com/token\",service=\"r\",scope=\"s:a,b\"";
        let found = read(&["Basic realm=\"x\"", bearer]).unwrap();
        let Challenge::Bearer { realm, service, scope } = found else { panic!("not a token") };
        assert_eq!(realm.as_str(), "https://auth.example.com/token");
        assert_eq!((service.as_deref(), scope.as_deref()), (Some("r"), Some("s:a,b")));
        assert_eq!(read(&["basic realm=\"x\""]), Ok(Challenge::Basic));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(read(&[]).unwrap_err().contains("does not say"));
        assert!(read(&["Negotiate"]).unwrap_err().contains("`Negotiate`"));
        assert!(read(&["Bearer realm=\"x\""]).unwrap_err().contains("(`x`)"));
        assert!(read(&["Bearer realm=\"file:///etc\""]).unwrap_err().contains("no web address"));
        assert!(read(&["Bearer realm=\""]).is_err());
    }
}
