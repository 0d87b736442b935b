//! A NAT64 that has as much recorded as it can: what it reports contradicts the table.

use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::judge::wire;
use crate::server::Server;
use std::time::Duration;

/// No mapped port.
const WRONG: u16 = 9;
/// The most that fit into 1232 octets.
const ENTRIES: u32 = 30;
/// Reports before their answers are taken, all of which fit into the queue of the socket.
const WINDOW: u32 = 5;

pub struct Flood {
    pub nat64: Nat64,
    /// One that it has in the table.
    known: Entry,
    next: u32,
    /// Octets that were sent, IP and UDP headers included.
    pub octets: usize,
}

impl Flood {
    pub fn new(server: &Server) -> Flood {
        let nat64 = Nat64::known(server);
        let client = Client::nth(0);
        let known = client.at(nat64.map(client));
        Flood { nat64, known, next: 0, octets: 0 }
    }

    /// Reports so many clients or more that the table does not know, on a port that nobody may
    /// have: each is a conflict, and an entry, which takes another's port in a full table.
    pub fn report_unknown(&mut self, entries: u32) {
        self.report(entries, |_, number| Entry {
            mapped: WRONG,
            client: Client::within(0xf000 + number / 60_000, 1).port(1 + (number % 60_000) as u16),
        });
    }

    /// Reports so many times or more that its known client has another port: each is a conflict.
    pub fn contradict(&mut self, entries: u32) {
        self.report(entries, |known, number| Entry {
            mapped: known.mapped ^ (1 + number % 1023) as u16,
            client: known.client,
        });
    }

    fn report(&mut self, entries: u32, entry: impl Fn(Entry, u32) -> Entry) {
        let end = self.next + entries;
        while self.next < end {
            for _ in 0..WINDOW {
                let mut octets = wire::payload(&[&wire::identifier(), &self.nat64.token_message()]);
                octets.extend(wire::authenticator(&self.known.client.authenticator()));
                for _ in 0..ENTRIES {
                    octets.extend(wire::entry(entry(self.known, self.next)));
                    self.next += 1;
                }
                assert!(octets.len() <= 1232);
                self.octets += octets.len() + 28;
                self.nat64.send(&octets);
            }
            self.settle();
        }
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
