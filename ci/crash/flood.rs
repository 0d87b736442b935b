//! A NAT64 that has as much recorded as it can.

use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::server::Server;
use std::time::Duration;

/// Requests before their answers are taken, all of which fit into the queue of the socket.
const WINDOW: u32 = 100;

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

    /// So many new clients, or some more: each is an entry, which takes another's port in a full
    /// table.
    pub fn appear(&mut self, clients: u32) {
        self.send(clients, |flood| {
            let client = Client::nth(1 + flood.next);
            flood.nat64.client_request(&client.authenticator(), &client.udp(b""))
        });
    }

    /// Reports so many times, or some more, that the known client has another port: each is a
    /// conflict.
    pub fn contradict(&mut self, reports: u32) {
        self.send(reports, |flood| {
            let mapped = flood.known.mapped ^ (1 + flood.next % 1023) as u16;
            let client = flood.known.client;
            flood.nat64.report_request(&client.authenticator(), client.at(mapped))
        });
    }

    fn send(&mut self, requests: u32, request: impl Fn(&Flood) -> Vec<u8>) {
        let end = self.next + requests;
        while self.next < end {
            for _ in 0..WINDOW {
                let octets = request(self);
                self.next += 1;
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
                if reply.packet.is_some_and(|packet| packet[0] >> 4 == 4) {
                    return;
                }
            }
        }
    }
}
