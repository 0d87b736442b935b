//! A host that delivers clients' packets: no more of it than a gateway sees.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;

use super::*;
use crate::handoff::message::{self, message_type};

#[derive(Default)]
pub(super) struct DeliveringHost {
    /// The packets that were delivered, as they came.
    pub(super) delivered: VecDeque<Vec<u8>>,
    authenticators: BTreeMap<Ipv6Addr, Vec<u8>>,
    pub(super) control_port: u16,
}

impl DeliveringHost {
    /// What it answers to a control payload.
    pub(super) fn take(&mut self, from: u16, payload: &[u8]) -> Vec<Vec<u8>> {
        self.control_port = from;
        let (mut token, mut authenticator, mut rest) = (&[][..], &[][..], payload);
        while let [head, units, ..] = *rest
            && head >> 4 == 3
        {
            let (message, behind) = rest.split_at(2 + 2 * usize::from(units));
            match head & 0x0f {
                message_type::TOKEN => token = message,
                message_type::AUTHENTICATOR => authenticator = message,
                message_type::ENTRY => return vec![[authenticator, message].concat()],
                _ => {}
            }
            rest = behind;
        }
        assert!(!token.is_empty());
        match rest[0] >> 4 {
            4 => {
                let mut packet = rest.to_vec();
                let ttl = ipv4::ttl(&packet) - 1;
                ipv4::set_ttl(&mut packet, ttl);
                vec![[token, &packet].concat()]
            }
            _ => {
                let source = Ipv6::new(rest).unwrap().source();
                self.authenticators.insert(source, authenticator.to_vec());
                self.delivered.push_back(rest.to_vec());
                Vec::new()
            }
        }
    }

    /// The payload that brings a packet of the service to a client that spoke to it.
    pub(super) fn answer(&self, packet: &[u8]) -> Vec<u8> {
        let client = Ipv6::new(packet).unwrap().destination();
        [&self.authenticators[&client], packet].concat()
    }
}

impl World {
    /// With a host that delivers, which the gateway knows: one connection, by an entry, is over.
    pub(super) fn delivering() -> Self {
        let mut world = Self::new(Handoff::Delivering(DeliveringHost::default()));
        world.exchange(1, SYN, SYN | ACK);
        assert_eq!(world.gateway.nat64().state(HOST), ServerState::Alive);
        world.drain();
        world
    }

    pub(super) fn host(&mut self) -> &mut DeliveringHost {
        let Handoff::Delivering(host) = &mut self.handoff else { unreachable!() };
        host
    }

    /// The one packet that is delivered when the client sends this.
    pub(super) fn at_service(&mut self, packet: &[u8]) -> Vec<u8> {
        self.drain();
        self.send(packet);
        assert!(self.to_client.is_empty() && self.to_host.is_empty(), "{:?}", self.drops());
        let delivered = self.host().delivered.pop_front().expect("it is delivered");
        assert!(self.host().delivered.is_empty());
        delivered
    }

    /// The control datagram that brings a packet of the service.
    pub(super) fn by_tunnel(&mut self, packet: &[u8]) -> Vec<u8> {
        let payload = self.host().answer(packet);
        let control = self.host().control_port;
        udp4(HANDOFF, control, &payload)
    }

    /// The service sends this, and the client gets it as it is.
    pub(super) fn service_sends(&mut self, packet: &[u8]) {
        let datagram = self.by_tunnel(packet);
        self.identification += 1;
        self.drain();
        for part in fragments4(&datagram, self.identification, usize::from(MTU)) {
            self.send(&part);
        }
        assert_eq!(self.to_client, [packet], "{:?}", self.drops());
    }
}

/// A packet of any protocol between the client and the service.
pub(super) fn ip6(protocol: u8, from: Ipv6Addr, to: Ipv6Addr, data: &[u8]) -> Vec<u8> {
    [&ipv6::header(data.len(), protocol, 64, from, to), data].concat()
}

#[test]
fn the_authenticator_is_that_of_the_client() {
    let mut host = DeliveringHost::default();
    let mut payload = Vec::new();
    message::emit(&mut payload, message_type::TOKEN, b"to");
    message::emit(&mut payload, message_type::AUTHENTICATOR, b"au");
    let packet = tcp6(1, SYN);
    assert!(host.take(7, &[&payload, &packet[..]].concat()).is_empty());
    let back = ip6(protocol::TCP, SERVICE, CLIENT, b"");
    assert_eq!(host.answer(&back), [&[0x36, 1], &b"au"[..], &back].concat());
}
