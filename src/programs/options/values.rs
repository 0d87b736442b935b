//! The values of options: text to what it means, or why it means nothing. A message ends in what to
//! write instead; the caller adds where the text stands. And back: a value to how a TOML file
//! writes it.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::disk::storage::SyncPolicy;
use crate::handoff::change::LogFormat;
use crate::handoff::message::HANDOFF_PORT;
use crate::kernel::backend::Io;

const SYNC_INTERVAL: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(1);
const CLIENT_SHARE: RangeInclusive<f64> = 1.0 / 1024.0..=1.0;

pub(super) fn whole_number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let text = text.trim();
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "{text:?} is not a whole number from {} to {}; give one",
            range.start(),
            range.end()
        )),
    }
}

/// A whole number that may end in k (thousand) or M (million).
pub(super) fn count<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let text = text.trim();
    let zeros = [("k", "000"), ("K", "000"), ("M", "000000"), ("", "")];
    let written = zeros.into_iter().find_map(|(suffix, zeros)| {
        let digits = text.strip_suffix(suffix)?;
        Some(format!("{digits}{zeros}"))
    });
    match written.and_then(|written| written.parse().ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "{text:?} is not a whole number from {} to {}, like 20000, 20k or 1M; give one",
            range.start(),
            range.end()
        )),
    }
}

pub(super) fn client_share(text: &str) -> Result<f64, String> {
    let text = text.trim();
    match text.parse() {
        Ok(share) if CLIENT_SHARE.contains(&share) => Ok(share),
        _ => Err(format!(
            "{text:?} is not a number from 0.0009765625 (1/1024) to 1; give one, like 0.125"
        )),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "plain" => Ok(LogFormat::Plain),
        "full" => Ok(LogFormat::Full),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is no format; choose plain, full or json")),
    }
}

/// `None` for `auto`: the server chooses.
pub(super) fn io(text: &str) -> Result<Option<Io>, String> {
    match text {
        "auto" => Ok(None),
        "uring" => Ok(Some(Io::Uring)),
        "mmsg" => Ok(Some(Io::Mmsg)),
        _ => Err(format!("{text:?} is not known; choose auto, uring or mmsg")),
    }
}

/// `None` for `off`.
pub(super) fn web(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 && !address.ip().is_multicast() => Ok(Some(address)),
        _ => Err(format!(
            "{text:?} is no address with a port, like 127.0.0.1:8064; give one, or off"
        )),
    }
}

/// `None` for `off`.
pub(super) fn unless_off(path: PathBuf) -> Option<PathBuf> {
    (path != Path::new("off")).then_some(path)
}

pub(super) fn sync_policy(text: &str) -> Result<SyncPolicy, String> {
    match text.split_once(':') {
        None if text == "none" => Ok(SyncPolicy::None),
        None if text == "always" => Ok(SyncPolicy::Always),
        Some(("interval", interval)) => match humantime::parse_duration(interval) {
            Ok(interval) if SYNC_INTERVAL.contains(&interval) => Ok(SyncPolicy::Interval(interval)),
            Ok(_) => Err(format!("{interval:?} is too short or too long; choose 1ms to 1h")),
            Err(cause) => Err(format!(
                "{interval:?} is no duration ({cause}); write a number and a unit, like 100ms"
            )),
        },
        _ => Err(format!(
            "{text:?} is not known; choose none, always or interval:DURATION, like interval:100ms"
        )),
    }
}

pub(super) fn not_empty(path: &Path) -> Result<PathBuf, String> {
    if path.as_os_str().is_empty() {
        return Err("is empty; name a path, or leave it out".into());
    }
    Ok(path.to_owned())
}

/// `port` is for those that name none; there is none where `--port` is wrong.
pub(super) fn listen_addresses(
    list: &[&str],
    port: Option<u16>,
) -> Result<Vec<SocketAddrV4>, String> {
    let first = || list.iter().find_map(|text| text.trim().parse::<SocketAddrV4>().ok());
    let port = port.unwrap_or_else(|| first().map_or(HANDOFF_PORT, |address| address.port()));
    let mut addresses: Vec<SocketAddrV4> = Vec::with_capacity(list.len());
    for text in list {
        let address = listen_address(text.trim(), port)?;
        if addresses.contains(&address) {
            return Err(format!("{address} stands there twice; remove one of them"));
        }
        if let Some(first) = addresses.first()
            && first.port() != address.port()
        {
            return Err(format!(
                "{first} and {address} have different ports; \
                 a server has one port, give the same to all addresses"
            ));
        }
        addresses.push(address);
    }
    if addresses.is_empty() {
        return Err("is an empty list; name an address, or leave it out".into());
    }
    Ok(addresses)
}

fn listen_address(text: &str, port: u16) -> Result<SocketAddrV4, String> {
    let address = text.parse().or_else(|_| text.parse().map(|ip| SocketAddrV4::new(ip, port)));
    let Ok(address) = address else {
        let bare = text.trim_matches(['[', ']']);
        return Err(if text.parse::<SocketAddrV6>().is_ok() || bare.parse::<Ipv6Addr>().is_ok() {
            format!("{text:?} is IPv6; NAT64s ask over IPv4, give an IPv4 address of this host")
        } else {
            format!(
                "{text:?} is no IPv4 address with or without a port; write it like 192.0.2.1:64064"
            )
        });
    };
    if address.port() == 0 {
        return Err(format!("{text:?} has port 0; choose one from 1 to 65535"));
    }
    if address.ip().is_multicast() || address.ip().is_broadcast() {
        return Err(format!("{text:?} is not the address of one host; give one of this host"));
    }
    Ok(address)
}

pub(super) fn networks(list: &[&str]) -> Result<Vec<Ipv4Net>, String> {
    list.iter().map(|text| network(text.trim())).collect()
}

pub(super) fn network(text: &str) -> Result<Ipv4Net, String> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok(Ipv4Net::from(address));
    }
    match text.parse::<Ipv4Net>() {
        Ok(network) if network == network.trunc() => Ok(network),
        Ok(network) => Err(format!(
            "{text:?} has bits set beyond its prefix length; did you mean {}?",
            network.trunc()
        )),
        Err(_) if text.parse::<Ipv6Net>().is_ok() || text.parse::<Ipv6Addr>().is_ok() => {
            Err(format!("{text:?} is IPv6; give IPv4 networks of NAT64s, like 192.0.2.0/24"))
        }
        Err(_) => {
            Err(format!("{text:?} is no IPv4 network; write it like 192.0.2.0/24, or 192.0.2.7"))
        }
    }
}

pub(super) fn integer(number: &usize) -> toml::Value {
    toml::Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX))
}

pub(super) fn path(path: &Path) -> toml::Value {
    toml::Value::String(path.to_string_lossy().into_owned())
}

pub(super) fn strings<T: ToString>(items: &[T]) -> toml::Value {
    toml::Value::Array(items.iter().map(|item| item.to_string().into()).collect())
}
