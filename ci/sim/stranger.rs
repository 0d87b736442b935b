//! Somebody who is no NAT64 of ours: it forges requests, sends others' once more, and may prove
//! that it has its own address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use nat64handoff::handoff::message::{HANDOFF_PORT, emit, message_type};
use nat64handoff::ip::address::synthesize;
use nat64handoff::ip::build::{ipv4_udp, ipv6_udp};
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;

use crate::dice::Dice;
use crate::people::SERVICE_PORT;

/// The addresses that it has.
const ADDRESSES: usize = 4;
/// The UDP port that validation packets go to.
pub const VALIDATION_PORT: u16 = 9;

/// A payload, and between which addresses it goes.
#[derive(Debug, Clone)]
pub struct Control {
    /// The server's address.
    pub local: Ipv4Addr,
    /// The other one's.
    pub peer: SocketAddrV4,
    pub payload: Vec<u8>,
}

/// See above.
pub struct Stranger {
    dice: Dice,
}

impl Stranger {
    pub fn new(dice: Dice) -> Self {
        Self { dice }
    }

    /// A request of its own, from one of its own addresses.
    pub fn request(&mut self, local: Ipv4Addr) -> Control {
        let address = Ipv4Addr::new(198, 51, 100, 10 + self.dice.below(ADDRESSES) as u8);
        let peer = SocketAddrV4::new(address, 50_000 + u16::from(address.octets()[3]));
        Control { local, peer, payload: self.payload(local) }
    }

    /// What a NAT64 could say, of a client that no NAT64 of ours has; its token is any.
    pub fn payload(&mut self, local: Ipv4Addr) -> Vec<u8> {
        let client =
            Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, self.dice.below(20) as u16 + 1);
        let from = SocketAddrV6::new(client, 40_000, 0, 0);
        let to = SocketAddrV6::new(synthesize(WELL_KNOWN_PREFIX, local), SERVICE_PORT, 0, 0);
        let mut payload = Vec::new();
        emit(&mut payload, message_type::TOKEN, &token(self.dice.below(3) as u8));
        emit(&mut payload, message_type::AUTHENTICATOR, &[7; 16]);
        payload.extend_from_slice(&ipv6_udp(from, to, b"let me in"));
        payload
    }

    /// What it answers to the server: a validation packet goes back whole.
    pub fn hears(&mut self, control: &Control) -> Option<Vec<u8>> {
        if control.peer.port() != VALIDATION_PORT {
            return None;
        }
        let from = SocketAddrV4::new(control.local, HANDOFF_PORT);
        let whole = ipv4_udp(from, control.peer, &control.payload);
        let mut payload = Vec::new();
        emit(&mut payload, message_type::TOKEN, &token(self.dice.below(3) as u8));
        payload.extend_from_slice(&whole);
        let address = *control.peer.ip();
        let port = 50_000 + u16::from(address.octets()[3]);
        let to = SocketAddrV4::new(control.local, HANDOFF_PORT);
        Some(ipv4_udp(SocketAddrV4::new(address, port), to, &payload))
    }
}

fn token(number: u8) -> [u8; 16] {
    [number; 16]
}
