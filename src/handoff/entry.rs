//! [`Entry`]: a client and the mapped port that stands for it, and what names both (PROTOCOL.md
//! sections 1 and 6).
//!
//! Types alone: how an entry stands in a message is `message`, which entries there are is `table`.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::address::{Prefix96, is_routable_client};

/// Addresses of a block of the pool of IPv4 peer names.
pub const BLOCK_ADDRESSES: u32 = 64;
const _: () = assert!(BLOCK_ADDRESSES.is_power_of_two());

/// What a table belongs to (PROTOCOL.md section 1); or a block of the pool of IPv4 peer names,
/// whose table has names, and no entries: see [`TableKey::block_of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableKey {
    /// The local address that the NAT64 sends its requests to.
    pub local: Ipv4Addr,
    /// The public address of the NAT64.
    pub nat64: Ipv4Addr,
}

impl TableKey {
    /// The block that an address of the pool is in. No NAT64 is asked at the unspecified address:
    /// that it has in place of a local one.
    pub fn block_of(address: Ipv4Addr) -> Self {
        let first = Ipv4Addr::from_bits(address.to_bits() & !(BLOCK_ADDRESSES - 1));
        Self { local: Ipv4Addr::UNSPECIFIED, nat64: first }
    }

    /// Whether it is a block of the pool, and not a NAT64's table.
    pub fn is_block(self) -> bool {
        self.local.is_unspecified()
    }
}

/// A port of the NAT64's public address that stands for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappedPort(pub u16);

impl fmt::Display for MappedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The port that a NAT64 sends its requests from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ControlPort(pub u16);

/// Who an entry stands for: an IPv6 address and port, seen through one prefix of the NAT64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client {
    /// The NAT64 prefix that the client reached the service by.
    pub prefix: Prefix96,
    pub address: Ipv6Addr,
    pub port: u16,
}

impl Client {
    /// Whether a client can have this address (PROTOCOL.md section 7).
    #[inline]
    pub fn can_have(address: Ipv6Addr) -> bool {
        is_routable_client(address)
    }

    /// The /64 that the client is in, the unit of fair share.
    pub fn subnet(&self) -> [u8; 8] {
        std::array::from_fn(|i| self.address.octets()[i])
    }
}

/// A connection tracking entry: the data of a message of type 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub port: MappedPort,
    /// Whom it stands for.
    pub client: Client,
}
