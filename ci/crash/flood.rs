//! A NAT64 that has as much recorded as it can: it reports clients that the table does not know, on a
//! port that nobody may have. Each of them is a conflict, and an entry that takes another's port.

use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::judge::wire;
use crate::server::Server;
use std::time::Duration;

/// No mapped port.
const WRONG: u16 = 9;
/// The most that fit into 1232 octets.
const ENTRIES: u32 = 30;
/// Reports before an answer is waited for: no queue overflows.
const WINDOW: u32 = 16;

pub struct Flood {
    pub nat64: Nat64,
    next: u32,
    /// Octets that were sent, IP and UDP headers included.
    pub octets: usize,
}

impl Flood {
    pub fn new(server: &Server) -> Flood {
        Flood { nat64: Nat64::known(server), next: 0, octets: 0 }
    }

    /// Reports so many clients, or some more.
    pub fn report(&mut self, entries: u32) {
        let end = self.next + entries;
        while self.next < end {
            for _ in 0..WINDOW {
                let report = self.next_report();
                self.octets += report.len() + 28;
                self.nat64.send(&report);
            }
            self.settle();
        }
    }

    fn next_report(&mut self) -> Vec<u8> {
        let address = Client::within(0xf000 + self.next / 60_000, 1);
        let mut octets = wire::payload(&[&wire::identifier(), &self.nat64.token_message()]);
        octets.extend(wire::authenticator(b"flood!"));
        for _ in 0..ENTRIES {
            let port = 1 + (self.next % 60_000) as u16;
            octets.extend(wire::entry(Entry { mapped: WRONG, client: address.port(port) }));
            self.next += 1;
        }
        assert!(octets.len() <= 1232);
        octets
    }

    /// Until all is answered that will be.
    fn settle(&self) {
        let last = self.nat64.unmapped_packet();
        loop {
            self.nat64.send(&self.nat64.service_request(&last));
            while let Some(reply) = self.nat64.try_reply(Duration::from_secs(1)) {
                if reply.packet.is_some() {
                    return;
                }
            }
        }
    }
}
