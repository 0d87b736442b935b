//! What an address says of its host, and IPv4 addresses within IPv6 addresses (RFC 6052).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether `address` is that of a single host (RFC 1122 section 3.2.1.3): neither of this network,
/// nor loopback, nor multicast, nor of class E, to which the broadcast address belongs.
#[inline]
pub fn is_single_host(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

/// Whether routers pass on what comes from `address` or goes there: that of a single host, and not
/// link-local (RFC 3927 section 2.7).
#[inline]
pub fn is_routable_host(address: Ipv4Addr) -> bool {
    is_single_host(address) && !address.is_link_local()
}

/// Whether `address` names several hosts: multicast, broadcast, and class E around it.
#[inline]
pub fn is_group(address: Ipv4Addr) -> bool {
    matches!(address.octets()[0], 224..)
}

/// Whether the client of a NAT64 can have `address`: routers pass on what comes from it. It is
/// neither the unspecified address, nor a loopback, multicast, IPv4-mapped or link-local one.
#[inline]
pub fn is_routable_client(address: Ipv6Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.to_ipv4_mapped().is_some()
        || address.is_unicast_link_local())
}

/// A NAT64 prefix of 96 bits, in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix96(pub [u8; 12]);

impl Prefix96 {
    /// The first 96 bits of `address`.
    pub fn of(address: Ipv6Addr) -> Self {
        let octets = address.octets();
        Self(std::array::from_fn(|i| octets[i]))
    }
}

/// `64:ff9b::/96`
impl fmt::Display for Prefix96 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/96", synthesize(*self, Ipv4Addr::UNSPECIFIED))
    }
}

/// The address by which clients reach `address` through a NAT64 with `prefix`.
pub fn synthesize(prefix: Prefix96, address: Ipv4Addr) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..12].copy_from_slice(&prefix.0);
    octets[12..].copy_from_slice(&address.octets());
    octets.into()
}

/// The IPv4 address within an address that [`synthesize`] made.
pub fn extract(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_groups() {
        for (address, single, routable, group) in [
            ("192.0.2.7", true, true, false),
            ("169.254.0.1", true, false, false),
            ("0.0.0.0", false, false, false),
            ("0.1.2.3", false, false, false),
            ("127.0.0.1", false, false, false),
            ("223.255.255.255", true, true, false),
            ("224.0.0.1", false, false, true),
            ("240.0.0.1", false, false, true),
            ("255.255.255.255", false, false, true),
        ] {
            let parsed = address.parse().unwrap();
            let found = (is_single_host(parsed), is_routable_host(parsed), is_group(parsed));
            assert_eq!(found, (single, routable, group), "{address}");
        }
    }

    #[test]
    fn routable_clients() {
        for (address, expected) in [
            ("2001:db8::17", true),
            ("fd00::1", true),
            ("::", false),
            ("::1", false),
            ("ff02::1", false),
            ("fe80::1", false),
            ("::ffff:192.0.2.7", false),
        ] {
            assert_eq!(is_routable_client(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn synthesized_addresses() {
        let prefix = Prefix96::of("64:ff9b::".parse().unwrap());
        let address = synthesize(prefix, Ipv4Addr::new(203, 0, 113, 5));
        assert_eq!(address.to_string(), "64:ff9b::cb00:7105");
        assert_eq!(extract(address), Ipv4Addr::new(203, 0, 113, 5));
        assert_eq!(prefix.to_string(), "64:ff9b::/96");
    }
}
