//! IPv6 clients and table entries.

use super::packet;
use std::net::{Ipv4Addr, Ipv6Addr};

/// 64:ff9b::/96
pub const PREFIX: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
/// 2001:db8:64::/96
pub const OTHER_PREFIX: [u8; 12] = [0x20, 1, 0x0d, 0xb8, 0, 0x64, 0, 0, 0, 0, 0, 0];
/// What embedded IPv4 packets name as the service. The server does not compare it with anything.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// What embedded IPv4 packets name as the NAT64.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    pub prefix: [u8; 12],
    pub address: Ipv6Addr,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    pub mapped: u16,
    pub client: Client,
}

impl Client {
    pub fn parse(address: &str, port: u16) -> Client {
        Client { prefix: PREFIX, address: address.parse().unwrap(), port }
    }

    /// Different clients, each in a /64 of its own.
    pub fn nth(index: u32) -> Client {
        Client::within(index, 1)
    }

    /// The member of the /64 with this number.
    pub fn within(net: u32, member: u64) -> Client {
        let address = (0x2001_0db8_u128 << 96) | ((net as u128) << 64) | member as u128;
        Client { prefix: PREFIX, address: Ipv6Addr::from(address), port: 40000 }
    }

    pub fn port(self, port: u16) -> Client {
        Client { port, ..self }
    }

    pub fn prefix(self, prefix: [u8; 12]) -> Client {
        Client { prefix, ..self }
    }

    pub fn at(self, mapped: u16) -> Entry {
        Entry { mapped, client: self }
    }

    /// The service as this client sees it.
    pub fn service(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..12].copy_from_slice(&self.prefix);
        octets[12..].copy_from_slice(&SERVICE.octets());
        Ipv6Addr::from(octets)
    }

    /// What the NAT64 in these tests uses as this client's authenticator, unless a test says
    /// otherwise: a function of the address.
    pub fn authenticator(self) -> Vec<u8> {
        let octets = self.address.octets();
        [&octets[4..8], &octets[12..], b"auth"].concat()
    }

    pub fn udp(self, data: &[u8]) -> Vec<u8> {
        packet::udp6((self.address, self.port), (self.service(), 443), data)
    }

    pub fn tcp(self, data: &[u8]) -> Vec<u8> {
        packet::tcp6((self.address, self.port), (self.service(), 443), data)
    }
}
