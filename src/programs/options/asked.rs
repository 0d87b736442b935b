//! What `who` is asked about.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::str::FromStr;

use ipnet::Ipv6Net;

use crate::handoff::names::client_text;

/// What is in each line about the pool, `Named` or `Unnamed`, and in no other one.
const NAMES: &str = "amed";

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The port of a NAT64; or an address of the pool with the client's own port, as access logs
    /// have it.
    Port(SocketAddrV4),
    /// An address of the pool.
    Pool(Ipv4Addr),
    /// A client, or several.
    Clients(Ipv6Net),
}

/// What is neither.
#[derive(Debug, thiserror::Error)]
#[error(
    "neither the address and port of a NAT64, as 192.0.2.7:3719, nor an address of the pool of peer \
     names, as 100.64.0.7, nor the address of a client, as 2001:db8::17 or 2001:db8:17::/64"
)]
pub struct NotAsked;

impl FromStr for Asked {
    type Err = NotAsked;

    fn from_str(text: &str) -> Result<Self, NotAsked> {
        let text = text.trim();
        let client = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(port) = text.parse() {
            return Ok(Self::Port(port));
        }
        if let Ok(pool) = text.parse() {
            return Ok(Self::Pool(pool));
        }
        if let Ok(address) = client.parse::<Ipv6Addr>() {
            return Ok(Self::Clients(address.into()));
        }
        client.parse().map(Self::Clients).map_err(|_| NotAsked)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Pool(pool) => pool.fmt(f),
            Self::Clients(net) => client_text(*net).fmt(f),
        }
    }
}

impl Asked {
    /// What is in each line that may be about it, in any format, and in few others; and in lines
    /// that begin a table which it may be in.
    pub fn needles(&self) -> Vec<String> {
        let (begins, json_begins) = (" Initialized ", r#""Initialized","nat64":""#);
        match self {
            Self::Port(port) => {
                let (nat64, port_number) = (port.ip(), port.port());
                vec![
                    format!(" {port} ["),
                    format!("{begins}{nat64}"),
                    format!(r#""nat64":"{nat64}","port":{port_number},"#),
                    format!(r#"{json_begins}{nat64}""#),
                    NAMES.to_owned(),
                ]
            }
            Self::Pool(_) => vec![NAMES.to_owned()],
            Self::Clients(net) => {
                let [text, json] = match net.prefix_len() {
                    128 => [format!("[{}]:", net.addr()), format!(r#""client":"{}""#, net.addr())],
                    _ => ["]:".to_owned(), r#""client":""#.to_owned()],
                };
                vec![text, begins.to_owned(), json, json_begins.to_owned(), NAMES.to_owned()]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked_about() {
        let asked = |text: &str| text.parse::<Asked>().map(|asked| asked.to_string()).ok();
        for text in
            ["192.0.2.7:3719", "100.64.0.7", "2001:db8::17", "2001:db8:17::/64", "::ffff:192.0.2.7"]
        {
            assert_eq!(asked(text).as_deref(), Some(text));
        }
        assert_eq!(asked("[2001:db8::17]").as_deref(), Some("2001:db8::17"));
        assert_eq!(asked(" 192.0.2.7:3719\n").as_deref(), Some("192.0.2.7:3719"));
        for text in ["", "192.0.2", "192.0.2.7:66000", "2001:db8::/129", "example.org:80"] {
            assert_eq!(asked(text), None, "{text}");
        }
    }
}
