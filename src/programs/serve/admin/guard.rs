//! Who may ask what. A browser on the operator's machine must not ask for a page of somebody else:
//! not by a name that leads here (DNS rebinding), and not across sites.

use std::net::IpAddr;

use base64::prelude::{BASE64_STANDARD, Engine};
use hyper::header::{AUTHORIZATION, AsHeaderName, HOST, HeaderMap, ORIGIN};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use subtle::ConstantTimeEq;

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// By the Unix socket: its mode says who may.
    Unix,
    /// By TCP.
    Web,
}

/// Why a request is refused: a line for whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub text: &'static str,
}

const fn refusal(status: StatusCode, text: &'static str) -> Refusal {
    Refusal { status, text }
}

const MISDIRECTED: Refusal = refusal(
    StatusCode::MISDIRECTED_REQUEST,
    "this name is not known here: use the address or localhost, or have the server ask for a token",
);
const CROSS_SITE: Refusal =
    refusal(StatusCode::FORBIDDEN, "requests of other sites are not answered");
const NO_TOKEN: Refusal = refusal(
    StatusCode::UNAUTHORIZED,
    "this wants the token of --web-token-file: as the password, or as a bearer token",
);
const CHANGES_WANT_TOKEN: Refusal = refusal(
    StatusCode::FORBIDDEN,
    "nothing is changed here without a token: use the admin socket, or --web-token-file",
);

/// Finds out whether a request is to be answered.
///
/// # Errors
/// Why not.
pub fn check(door: Door, token: Option<&[u8]>, parts: &Parts) -> Result<(), Refusal> {
    let headers = &parts.headers;
    let host = one(headers, HOST).ok_or(MISDIRECTED)?;
    if door == Door::Web
        && let Some(token) = token
    {
        let knows = one(headers, AUTHORIZATION).is_some_and(|given| gives(given, token));
        if !knows {
            return Err(NO_TOKEN);
        }
    } else if !is_own_name(host) {
        return Err(MISDIRECTED);
    }
    let site = one(headers, "sec-fetch-site").unwrap_or("none");
    // A link that leads to the page is followed: nothing of the page is told to whoever has it.
    let is_followed = parts.method == Method::GET
        && parts.uri.path() == "/"
        && one(headers, "sec-fetch-mode") == Some("navigate")
        && one(headers, "sec-fetch-dest") == Some("document");
    if !["same-origin", "none"].contains(&site) && !is_followed {
        return Err(CROSS_SITE);
    }
    if headers.contains_key(ORIGIN) {
        let origin = one(headers, ORIGIN).and_then(|origin| origin.split_once("://"));
        if !origin.is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host)) {
            return Err(CROSS_SITE);
        }
    }
    let changes = parts.method != Method::GET && parts.method != Method::HEAD;
    if changes && door == Door::Web && token.is_none() {
        return Err(CHANGES_WANT_TOKEN);
    }
    Ok(())
}

/// The value of a header that comes once.
fn one(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok())?
}

/// Whether a name cannot be somebody else's: an address is not asked for by a name.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

/// Whether the header of who wants in has the token: `Bearer TOKEN`, or `Basic` with it as the
/// password.
fn gives(header: &str, token: &[u8]) -> bool {
    let Some((scheme, value)) = header.split_once(' ') else { return false };
    let given = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => value.trim().as_bytes().to_vec(),
        "basic" => {
            let Ok(pair) = BASE64_STANDARD.decode(value.trim()) else { return false };
            let Some(colon) = pair.iter().position(|&octet| octet == b':') else { return false };
            pair[colon + 1..].to_vec()
        }
        _ => return false,
    };
    given.ct_eq(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &[u8] = b"0123456789abcdef";

    fn status(door: Door, token: Option<&[u8]>, method: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = hyper::Request::builder().method(method).uri("/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        check(door, token, &parts).map_or_else(|refused| refused.status.as_u16(), |()| 200)
    }

    #[test]
    fn names_of_others_are_not_answered() {
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8064", "[::1]:8064", "192.0.2.1"] {
            assert_eq!(status(Door::Web, None, "GET", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.example:8064", ""] {
            assert_eq!(status(Door::Web, None, "GET", &[("host", host)]), 421, "{host}");
            assert_eq!(status(Door::Unix, None, "GET", &[("host", host)]), 421, "{host}");
        }
        assert_eq!(status(Door::Unix, None, "GET", &[]), 421);
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status(Door::Unix, None, "GET", &twice), 421);
    }

    #[test]
    fn other_sites_are_not_answered() {
        let host = ("host", "127.0.0.1:8064");
        let with = |name, value| status(Door::Web, None, "GET", &[host, (name, value)]);
        assert_eq!(with("origin", "http://127.0.0.1:8064"), 200);
        assert_eq!(with("sec-fetch-site", "same-origin"), 200);
        assert_eq!(with("sec-fetch-site", "none"), 200);
        for origin in ["http://evil.example", "null", "http://127.0.0.1:80", "http://127.0.0.1"] {
            assert_eq!(with("origin", origin), 403, "{origin}");
        }
        assert_eq!(with("sec-fetch-site", "cross-site"), 403);
        assert_eq!(with("sec-fetch-site", "same-site"), 403);
        let navigated = [
            host,
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        assert_eq!(status(Door::Web, None, "GET", &navigated), 403, "not the page");
    }

    #[test]
    fn who_has_no_token_is_not_answered() {
        let host = ("host", "nat64.example:8064");
        let with =
            |given| status(Door::Web, Some(TOKEN), "POST", &[host, ("authorization", given)]);
        assert_eq!(with("Bearer 0123456789abcdef"), 200);
        // Of "me:0123456789abcdef".
        assert_eq!(with("Basic bWU6MDEyMzQ1Njc4OWFiY2RlZg=="), 200);
        for given in ["Bearer 0123456789abcdeg", "Bearer ", "Basic !", "Basic bWU=", "x", ""] {
            assert_eq!(with(given), 401, "{given}");
        }
        assert_eq!(status(Door::Web, Some(TOKEN), "GET", &[host]), 401);
        let local = [("host", "localhost")];
        assert_eq!(status(Door::Web, None, "POST", &local), 403, "no change without a token");
        assert_eq!(status(Door::Unix, Some(TOKEN), "POST", &local), 200, "by its mode");
    }
}
