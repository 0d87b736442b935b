//! What is sent: requests made of the octets of the input.

use std::net::Ipv6Addr;

use nat64handoff::handoff::entry::TableKey;

use super::super::build;
use super::super::judge::client::{Client, Entry};
use super::super::judge::wire::{self, message};
use super::{AUTHENTICATORS, Asker, MAPPED_PORTS, NO_CLIENTS, TOKENS, World};

/// What is left of the input. Behind its end there are zeros.
pub(super) struct Program<'a>(pub(super) &'a [u8]);

impl<'a> Program<'a> {
    pub(super) fn octet(&mut self) -> u8 {
        self.octets(1).first().copied().unwrap_or_default()
    }

    pub(super) fn octets(&mut self, length: usize) -> &'a [u8] {
        let (octets, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        octets
    }
}

pub(super) fn choose<T: Copy, const N: usize>(from: [T; N], octet: u8) -> T {
    from[usize::from(octet) % N]
}

impl World {
    /// Sends `messages` and a token, in a shape that the next octet says, with `packet` at the end.
    pub(super) fn request(
        &mut self,
        asker: &Asker,
        mut messages: Vec<Vec<u8>>,
        packet: &[u8],
        program: &mut Program<'_>,
    ) {
        let shape = program.octet();
        messages.insert(0, message(4, asker.token));
        if shape & 1 != 0 {
            messages.reverse();
        }
        if shape & 2 != 0 {
            // A no-op, and a type that does not exist yet.
            messages.insert(0, message(2, b"noop"));
            messages.insert(0, message(15, &[]));
        }
        if shape & 4 != 0 {
            // Only the first of each type counts.
            messages.push(message(4, b"not this"));
            messages.push(message(8, &[0xff, 0xff]));
        }
        if shape & 8 != 0 {
            messages.push(message(5, choose(TOKENS, shape >> 6)));
        }
        let mut payload = messages.concat();
        payload.extend_from_slice(packet);
        if shape & 16 != 0 && !packet.is_empty() {
            payload.extend_from_slice(b"behind the packet");
        }
        if shape & 32 != 0 {
            payload.pop();
        }
        self.send(asker, &payload);
    }

    /// The whole round of section 5.
    pub(super) fn validate(&mut self, asker: &Asker) {
        let request = [message(4, asker.token), build::ipv4(0, 443)].concat();
        // Attenuation drops the first of two at the most.
        for _ in 0..2 {
            if let Some(validation) = self.send(asker, &request) {
                self.prove(asker, &validation);
                return;
            }
        }
    }

    pub(super) fn prove(&mut self, asker: &Asker, validation: &[u8]) {
        let packet = build::validation_datagram(validation);
        self.send(asker, &[message(4, asker.token), packet].concat());
    }

    /// Some proof from before, which may be another's, or too old.
    pub(super) fn prove_again(&mut self, asker: &Asker, which: u8) {
        if !self.proofs.is_empty() {
            let proof = &self.proofs[usize::from(which) % self.proofs.len()];
            self.prove(asker, &proof.payload.clone());
        }
    }

    pub(super) fn multi_report(&self, table: &TableKey, program: &mut Program<'_>) -> Vec<Vec<u8>> {
        let mut messages = vec![wire::identifier()];
        for _ in 0..program.octet() % 12 {
            let [authenticator, entry] = self.report(table, program);
            // Entries of one client stand behind one authenticator.
            if program.octet().is_multiple_of(2) {
                messages.push(authenticator);
            }
            messages.push(entry);
        }
        messages
    }

    pub(super) fn report(&self, table: &TableKey, program: &mut Program<'_>) -> [Vec<u8>; 2] {
        let authenticator = message(6, choose(AUTHENTICATORS, program.octet()));
        let entry = self.entry(table, program);
        [authenticator, wire::entry(entry)]
    }

    pub(super) fn ipv6(&self, table: &TableKey, program: &mut Program<'_>) -> Vec<u8> {
        let kind = program.octet();
        let entry = self.entry(table, program);
        Self::altered(build::ipv6(kind, entry, kind >> 6), kind >> 4, program)
    }

    pub(super) fn ipv4(&self, table: &TableKey, program: &mut Program<'_>) -> Vec<u8> {
        let kind = program.octet();
        let port = self.mapped_port(table, program.octet());
        Self::altered(build::ipv4(kind, port), kind >> 4, program)
    }

    /// The packet, in which the input says one octet anew where `how` is 3.
    pub(super) fn altered(mut packet: Vec<u8>, how: u8, program: &mut Program<'_>) -> Vec<u8> {
        if how & 3 == 3 {
            let at = usize::from(program.octet()) % packet.len();
            packet[at] = program.octet();
        }
        packet
    }

    pub(super) fn entry(&self, table: &TableKey, program: &mut Program<'_>) -> Entry {
        let port = self.mapped_port(table, program.octet());
        let (client, client_port) = (program.octet(), program.octet());
        // Four hosts in each of four /64s, by one of two prefixes.
        let (subnet, host) = (u16::from(client >> 2 & 3), u16::from(client & 3));
        let address = match client >> 5 {
            7 => choose(NO_CLIENTS, client).parse().unwrap(),
            _ => Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, 1 + host),
        };
        let mut prefix = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
        prefix[11] = client >> 4 & 1;
        Client { prefix, address, port: client_port.into() }.at(port)
    }

    /// One that is taken, one that is special, or any other.
    pub(super) fn mapped_port(&self, table: &TableKey, which: u8) -> u16 {
        let entries = self.nat64s.get(table).map(|nat64| &nat64.entries);
        let taken = entries.filter(|entries| which & 0x80 != 0 && !entries.is_empty());
        match (taken, which & 0x40) {
            (Some(entries), _) => {
                let nth = usize::from(which & 0x7f) % entries.len();
                *entries.keys().nth(nth).unwrap()
            }
            (None, 0) => choose(MAPPED_PORTS, which),
            (None, _) => 20_000 + u16::from(which),
        }
    }
}
