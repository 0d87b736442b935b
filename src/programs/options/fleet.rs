//! Whether this host shares its tables with others: `--fleet` and what belongs to it.

use std::fmt;
use std::net::SocketAddrV4;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::Row;
use super::values::{count, not_empty, path, unless_off};
use crate::disk::fleet::CellName;

/// The service manager waits for 40 s in all.
const WITHDRAW: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(20);

/// A node of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct FleetNode {
    /// Without who asks.
    pub url: String,
    /// The name and password of who asks.
    pub user: Option<(String, String)>,
}

/// A password is in no report.
impl fmt::Debug for FleetNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FleetNode").field(&self.to_string()).finish()
    }
}

impl fmt::Display for FleetNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, self.url.split_once("://")) {
            (Some((name, _)), Some((scheme, rest))) => write!(f, "{scheme}://{name}:...@{rest}"),
            _ => f.write_str(&self.url),
        }
    }
}

/// Each node once; several may be divided by commas, as for `etcdctl`.
pub(super) fn nodes(list: &[&str]) -> Result<Vec<FleetNode>, String> {
    let mut all: Vec<FleetNode> = Vec::with_capacity(list.len());
    for text in list.iter().flat_map(|text| text.split(',')) {
        let node = node(text.trim())?;
        if all.iter().any(|other| other.url == node.url) {
            return Err(format!("{node} stands there twice; remove one of them"));
        }
        all.push(node);
    }
    Ok(all)
}

fn node(text: &str) -> Result<FleetNode, String> {
    // What may be a password is not repeated.
    let wrong = || {
        "a node is http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ before the host where etcd asks for \
         that"
            .to_owned()
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
    let (user, place) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((user, place)) => {
            let (name, password) = user.split_once(':').ok_or_else(wrong)?;
            (Some((name.to_owned(), password.to_owned())), place)
        }
    };
    let place = place.trim_end_matches('/');
    let has_port = place.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if !["http", "https"].contains(&scheme) || !has_port || place.contains('/') {
        return Err(wrong());
    }
    Ok(FleetNode { url: format!("{scheme}://{place}"), user })
}

/// `None` for `off`.
fn host(text: &str) -> Result<Option<u32>, String> {
    match text.trim() {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            format!("{text:?} is no number of a host, like 1; each host of a cell has its own")
        }),
    }
}

/// `None` for `off`.
fn address(text: &str) -> Result<Option<SocketAddrV4>, String> {
    if text.trim() == "off" {
        return Ok(None);
    }
    match text.trim().parse::<SocketAddrV4>() {
        Ok(address)
            if address.port() != 0
                && !address.ip().is_unspecified()
                && !address.ip().is_multicast() =>
        {
            Ok(Some(address))
        }
        _ => {
            Err(format!("{text:?} is no address of this host with a port, like 198.51.100.1:64065"))
        }
    }
}

/// How long a host that stops goes on.
fn withdraw(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(after) if WITHDRAW.contains(&after) => Ok(after),
        Ok(_) => Err(format!("{text:?} is too long; choose at most 20s")),
        Err(cause) => {
            Err(format!("{text:?} is no duration ({cause}); write a number and a unit, like 2s"))
        }
    }
}

/// `--fleet-cell`
pub(super) fn cell_row() -> Row<CellName> {
    Row::word("fleet-cell", "NAME", str::parse)
        .default("main")
        .shown(|cell: &CellName| cell.to_string().into())
}

/// `--fleet-host`
pub(super) fn host_row() -> Row<Option<u32>> {
    Row::number("fleet-host", "N|off", host)
        .default("off")
        .shown(|host| host.map_or("off".into(), |host| i64::from(host).into()))
}

/// `--fleet-address`
pub(super) fn address_row() -> Row<Option<SocketAddrV4>> {
    Row::word("fleet-address", "ADDR:PORT|off", address)
        .default("off")
        .shown(|at| at.map_or("off".into(), |at| at.to_string().into()))
}

/// `--fleet-fold`
pub(super) fn fold_row() -> Row<u64> {
    Row::number("fleet-fold", "N", |text| count(text, 1000..=1_000_000_000))
        .default("64M")
        .shown(|&octets| i64::try_from(octets).unwrap_or(i64::MAX).into())
}

/// `--fleet-withdraw`
pub(super) fn withdraw_row() -> Row<Duration> {
    Row::word("fleet-withdraw", "DURATION", withdraw)
        .default("2s")
        .shown(|after| humantime::format_duration(*after).to_string().into())
}

/// An option that names a file, or none.
pub(super) fn file_row(name: &'static str) -> Row<Option<PathBuf>> {
    Row::path(name, "FILE|off", |path| not_empty(path).map(unless_off))
        .default("off")
        .shown(|file| path(file.as_deref().unwrap_or(Path::new("off"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_those_of_etcdctl() {
        let all =
            nodes(&["http://127.0.0.1:2379,https://a:b@etcd.example:2379/", "http://[::1]:1"]);
        let all = all.unwrap();
        let urls: Vec<_> = all.iter().map(|node| node.url.as_str()).collect();
        assert_eq!(urls, ["http://127.0.0.1:2379", "https://etcd.example:2379", "http://[::1]:1"]);
        assert_eq!(all[1].user, Some(("a".into(), "b".into())));
        assert_eq!(all[1].to_string(), "https://a:...@etcd.example:2379");
        assert!(!format!("{all:?}").contains(":b@"));
        for bad in ["", "127.0.0.1:2379", "ftp://a:1", "http://a", "http://a:0", "http://a:1/b"] {
            assert!(nodes(&[bad]).is_err(), "{bad}");
        }
        assert!(!nodes(&["http://a:secret@b"]).unwrap_err().contains("secret"));
        assert!(nodes(&["http://a:1", "http://a:1/"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_host_that_stops_goes_on_for_at_most_20_seconds() {
        for (text, after) in [("0s", 0), (" 500ms", 500), ("20s", 20_000)] {
            assert_eq!(withdraw(text), Ok(Duration::from_millis(after)), "{text}");
        }
        for bad in ["", "21s", "2", "-1s", "off"] {
            assert!(withdraw(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_has_a_number_and_an_address_of_its_own() {
        assert_eq!((host("off"), host(" 7 ")), (Ok(None), Ok(Some(7))));
        assert!(host("-1").is_err() && host("a").is_err());
        assert_eq!(address("off"), Ok(None));
        assert!(address("198.51.100.1:64065").unwrap().is_some());
        for bad in ["198.51.100.1", "0.0.0.0:1", "198.51.100.1:0", "224.0.0.1:1", "[::1]:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
