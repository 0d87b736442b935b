//! What peers are named as: `--peer-names` and the pool of their IPv4 addresses.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::Ipv4Net;

use super::values::network;
use crate::handoff::entry::BLOCK_ADDRESSES;
use crate::handoff::pool::PoolUnit;

/// The lengths that the prefix of a pool may have: the names of a larger one would take too much
/// memory, and a smaller one is less than a block.
const POOL_LENGTHS: RangeInclusive<u8> = 10..=32 - BLOCK_ADDRESSES.ilog2() as u8;
const POOL_IDLE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);

/// Which peers are named, at sockets of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerNames {
    Off,
    /// Those of IPv6 sockets, by the client's address.
    Ipv6,
    /// Those of IPv4 sockets, by an address of the pool.
    Ipv4,
    Both,
}

impl PeerNames {
    /// As it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all = [Self::Off, Self::Ipv6, Self::Ipv4, Self::Both];
        let named = all.into_iter().find(|names| names.to_string() == text.trim());
        named.ok_or_else(|| format!("{text:?} is not known; choose off, ipv6, ipv4 or both"))
    }

    /// Whether clients get addresses of the pool.
    pub fn has_ipv4(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Both)
    }

    /// Whether clients are told by their own address.
    pub fn has_ipv6(self) -> bool {
        matches!(self, Self::Ipv6 | Self::Both)
    }
}

impl fmt::Display for PeerNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Ipv6 => "ipv6",
            Self::Ipv4 => "ipv4",
            Self::Both => "both",
        })
    }
}

pub(super) fn pool(text: &str) -> Result<Ipv4Net, String> {
    let network = network(text.trim())?;
    if !POOL_LENGTHS.contains(&network.prefix_len()) {
        return Err(format!(
            "{text:?} is too large or too small; choose one from /{} to /{}, like 100.64.0.0/12",
            POOL_LENGTHS.start(),
            POOL_LENGTHS.end()
        ));
    }
    let first = network.network();
    if first.octets()[0] == 0 || first.is_loopback() || first.octets()[0] >= 224 {
        return Err(format!("no host can have an address of {network}; choose another network"));
    }
    Ok(network)
}

pub(super) fn pool_unit(text: &str) -> Result<PoolUnit, String> {
    match text.trim() {
        "prefix64" => Ok(PoolUnit::Prefix64),
        "address" => Ok(PoolUnit::Address),
        other => Err(format!("{other:?} is neither prefix64 nor address; choose one of them")),
    }
}

pub(super) fn shown_unit(unit: PoolUnit) -> &'static str {
    match unit {
        PoolUnit::Prefix64 => "prefix64",
        PoolUnit::Address => "address",
    }
}

pub(super) fn pool_idle(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(idle) if POOL_IDLE.contains(&idle) => Ok(idle),
        Ok(_) => Err(format!("{text:?} is too long; choose at most 1day")),
        Err(cause) => {
            Err(format!("{text:?} is no duration ({cause}); write a number and a unit, like 1h"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_networks_that_hosts_can_be_in() {
        for good in ["100.64.0.0/12", " 10.0.0.0/10", "192.0.2.64/26"] {
            assert!(pool(good).is_ok(), "{good}");
        }
        for bad in [
            "100.64.0.0/9",
            "192.0.2.64/27",
            "100.64.0.1/12",
            "127.0.0.0/8",
            "0.0.0.0/8",
            "224.0.0.0/8",
            "::/64",
            "x",
        ] {
            assert!(pool(bad).is_err(), "{bad}");
        }
    }
}
