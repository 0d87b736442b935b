//! The kinds of requests that are measured at random entries.

use std::time::Duration;

use nat64handoff::handoff::entry::Client;
use nat64handoff::handoff::message::{self, message_type};
use nat64handoff::ip::build;

use crate::requests::{DATA, Requests, to};
use crate::shard::{Shard, authenticator, client};

#[derive(Debug, Clone, Copy)]
pub enum Kind {
    Client,
    Service,
    Report,
    Echo,
    New,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Client, Kind::Service, Kind::Report, Kind::Echo, Kind::New];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Client => "client",
            Kind::Service => "service",
            Kind::Report => "report",
            Kind::Echo => "echo",
            Kind::New => "new",
        }
    }

    pub fn meaning(self) -> &'static str {
        match self {
            Kind::Client => "client packet, known client",
            Kind::Service => "service packet, known port",
            Kind::Report => "report that agrees",
            Kind::Echo => "ICMPv6 echo request",
            Kind::New => "new client, another goes",
        }
    }

    /// Makes `length` requests to random tables about random entries. `created` counts new clients.
    pub fn prepare(
        self,
        shard: &mut Shard,
        batch: &mut Requests,
        length: usize,
        created: &mut usize,
    ) {
        batch.clear();
        for _ in 0..length {
            let table = shard.random.below(shard.tables as u32) as usize;
            let number = shard.random_entry();
            let known = shard.shape.client(table, number);
            match self {
                Kind::Client => batch.client_packet(table, &known),
                Kind::Service => batch.service_packet(table, shard.ports[number]),
                Kind::Report => batch.report(table, known, shard.ports[number]),
                Kind::Echo => echo(batch, table, &known),
                Kind::New => {
                    *created += 1;
                    batch.client_packet(table, &client(0x1_0000 + table, *created, 40_000));
                }
            }
        }
        if matches!(self, Kind::Echo) {
            // The answers of a second are limited.
            shard.now.monotonic += Duration::from_secs(3);
        }
    }
}

fn echo(batch: &mut Requests, table: usize, client: &Client) {
    let payload = batch.next(table);
    message::emit(payload, message_type::AUTHENTICATOR, &authenticator(client));
    let (from, to) = (client.address, *to(client).ip());
    payload.extend_from_slice(&build::ipv6_echo_request(from, to, 1, 2, &DATA));
}
