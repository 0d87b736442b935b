//! Many look-ups at once, each with the answer that it must have.

use crate::judge::PATIENCE;
use crate::judge::client::{Client, Entry, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::Reply;
use std::collections::HashMap;

/// A request, and what must come back.
pub type Wanted = (Vec<u8>, Reply);
/// What should have come back, and what came, if anything did.
pub type Wrong = (Reply, Option<Reply>);

const WINDOW: usize = 32;

/// A service packet to this port.
pub fn expect_service(nat64: &Nat64, mapped: u16, client: Option<Client>) -> Wanted {
    let data = [b"look", &mapped.to_be_bytes()[..]].concat();
    let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, mapped), &data).octets();
    let reply = match client {
        Some(client) => Reply::mapping(&client.authenticator(), client.at(mapped), &packet),
        None => Reply::returned(&nat64.token, &packet::with_ttl(&packet, packet::TTL - 1)),
    };
    (nat64.service_request(&packet), reply)
}

/// A client packet.
pub fn expect_client(nat64: &Nat64, entry: Entry) -> Wanted {
    let (packet, authenticator) = (entry.client.udp(b"look"), entry.client.authenticator());
    let request = nat64.client_request(&authenticator, &packet);
    (request, Reply::mapping(&authenticator, entry, &packet))
}

/// Sends all requests, with different packets in them, a few at a time. Returns those that were not
/// answered as they must be. Stops when answers stay away.
pub fn compare(nat64: &Nat64, wanted: impl IntoIterator<Item = Wanted>) -> Vec<Wrong> {
    // By the packet as it was sent: one that is returned, for lack of an entry, has a lower TTL.
    let sent = |packet: &[u8]| match packet[0] >> 4 {
        4 => packet::with_ttl(packet, packet::TTL),
        _ => packet.to_vec(),
    };
    let mut missing: HashMap<Vec<u8>, Reply> = HashMap::new();
    let mut wrong = Vec::new();
    let mut take = |missing: &mut HashMap<Vec<u8>, Reply>| {
        let Some(reply) = nat64.try_reply(PATIENCE) else { return false };
        let expected = reply.packet.as_ref().and_then(|packet| missing.remove(&sent(packet)));
        let expected = expected.unwrap_or_else(|| panic!("an answer to nothing: {reply:?}"));
        if reply != expected {
            wrong.push((expected, Some(reply)));
        }
        true
    };
    let mut comes = true;
    for (request, reply) in wanted {
        if missing.len() >= WINDOW {
            comes = take(&mut missing);
        }
        if !comes {
            break;
        }
        nat64.send(&request);
        missing.insert(sent(reply.packet.as_ref().unwrap()), reply);
    }
    while comes && !missing.is_empty() {
        comes = take(&mut missing);
    }
    wrong.extend(missing.into_values().map(|reply| (reply, None)));
    wrong
}

/// All entries are answered as they were announced, from both sides.
pub fn check_entries(what: &str, nat64: &Nat64, entries: &[Entry]) {
    for wrong in [
        compare(nat64, entries.iter().map(|e| expect_service(nat64, e.mapped, Some(e.client)))),
        compare(nat64, entries.iter().map(|entry| expect_client(nat64, *entry))),
    ] {
        if let Some((expected, reply)) = wrong.first() {
            let (count, all) = (wrong.len(), entries.len());
            panic!(
                "{what}: {count} wrong answers about {all} entries, the first:
                 announced: {expected:?}
now: {reply:?}"
            );
        }
    }
}
