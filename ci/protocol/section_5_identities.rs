//! Known identities: rotation, the four most recent ones, reboots.

use crate::judge::SHORT;
use crate::judge::client::Client;
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::judge::packet;
use crate::judge::wire::{self, Reply, payload};
use crate::server::Server;

/// A service packet that is not found, with a rotation.
fn rotate(nat64: &Nat64, expired: &[u8]) -> Option<Reply> {
    let packet = nat64.unmapped_packet();
    nat64.send(&payload(&[&nat64.token_message(), &wire::rotation(expired), &packet]));
    let reply = nat64.try_reply(SHORT);
    nat64.forget_challenges();
    let expected = Reply::returned(&nat64.token, &packet::with_ttl(&packet, packet::TTL - 1));
    reply.inspect(|reply| assert_eq!(*reply, expected))
}

/// A type 5 with a known token, from the same port: the new token is known at once and the request
/// is processed; the old token stays known.
#[test]
fn section_5_rotation_with_a_known_token() {
    let server = Server::start(&[]);
    let old = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = old.map(client);
    let new = old.other_token(b"new token.");
    // In a client packet: the answer comes without a validation round.
    let packet = client.udp(b"data");
    let (six, five) = (wire::authenticator(b"authen"), wire::rotation(&old.token));
    let request = payload(&[&new.token_message(), &five, &six, &packet]);
    assert_eq!(new.ask(&request), Reply::mapping(b"authen", client.at(mapped), &packet));
    assert_eq!(new.waiting_challenge(), None);
    assert!(new.is_known() && old.is_known());
    // In a report, from the new one to a third.
    let third = old.other_token(b"third token.");
    let report = third.report_request(b"authen", client.at(mapped));
    let request = payload(&[&wire::rotation(&new.token), &report]);
    assert_eq!(third.ask(&request), Reply::report(b"authen", client.at(mapped)));
    assert!(third.is_known());
    let initialized = server.events_from(2);
    let initialized = initialized.iter().filter(|event| event.kind == Kind::Initialized);
    assert_eq!(initialized.count(), 1);
}

/// No rotation by an unknown token, one that is known at another port, or at another NAT64.
#[test]
fn section_5_rotation_without_a_known_token() {
    let server = Server::start(&[]);
    let old = Nat64::known(&server);
    let new = old.other_token(b"new token.");
    let mut unknown = old.token.clone();
    unknown[3] ^= 1;
    assert_eq!(rotate(&new, &unknown), None, "unknown token");
    assert_eq!(rotate(&new, b""), None, "empty token");
    assert_eq!(rotate(&new, &old.token[..14]), None, "part of a token");
    assert_eq!(rotate(&new, &new.token), None, "its own token");
    let elsewhere = old.other_port(0);
    let elsewhere = elsewhere.other_token(b"new token.");
    assert_eq!(rotate(&elsewhere, &old.token), None, "known at another port");
    let other = Nat64::unknown(&server);
    assert_eq!(rotate(&other, &old.token), None, "another NAT64's token");
    assert!(!new.is_known() && !elsewhere.is_known() && !other.is_known());
    // A rotation that failed is a request like any other: it is challenged, and can be proved.
    let challenge = new.challenge(&payload(&[
        &new.token_message(),
        &wire::rotation(&unknown),
        &new.unmapped_packet(),
    ]));
    new.prove(&challenge);
    assert!(new.is_known());
}

/// A rotation needs a well-formed request.
#[test]
fn section_5_rotation_in_an_incomplete_request() {
    let server = Server::start(&[]);
    let old = Nat64::known(&server);
    let new = old.other_token(b"new token.");
    let (four, five) = (new.token_message(), wire::rotation(&old.token));
    new.send(&payload(&[&four, &five]));
    new.send(&payload(&[&four, &five, &Client::nth(1).udp(b"no authenticator")]));
    old.fence();
    assert!(!new.is_known());
}

/// The four most recently used identities are known; a fifth pushes out the least recently used
/// one.
#[test]
fn section_5_four_identities_are_known() {
    let server = Server::start(&[]);
    let first = Nat64::known(&server);
    // The second by rotation, the third and fourth by proofs from other ports.
    let second = first.other_token(b"second token");
    assert!(rotate(&second, &first.token).is_some());
    let third = first.other_port(0);
    third.introduce();
    let fourth = first.rebooted();
    fourth.introduce();
    for nat64 in [&second, &third, &fourth, &first, &second] {
        assert!(nat64.is_known());
    }
    // Order of use now: third, fourth, first, second.
    let fifth = first.rebooted();
    fifth.introduce();
    assert!(!third.is_known());
    for nat64 in [&fourth, &first, &second, &fifth] {
        assert!(nat64.is_known());
    }
    // By rotation as well: now the fourth goes.
    let sixth = first.other_token(b"sixth token.");
    assert!(rotate(&sixth, &second.token).is_some());
    // The rotation may or may not have used the token that it names, so the order that matters is
    // made again before each step.
    assert!(!fourth.is_known() && !third.is_known());
    for nat64 in [&first, &second, &fifth, &sixth] {
        assert!(nat64.is_known());
    }
    // One that was pushed out comes back by a proof.
    third.introduce();
    assert!(!first.is_known());
}

/// A reboot: new port, new token; the old entries are found after one validation round.
#[test]
fn section_5_a_rebooted_nat64_finds_its_entries() {
    let server = Server::start(&[]);
    let before = Nat64::known(&server);
    let mapped: Vec<_> = (0..50).map(|number| before.map(Client::nth(number))).collect();
    let after = before.rebooted();
    assert!(!after.is_known());
    after.introduce();
    for (number, &mapped) in mapped.iter().enumerate() {
        let client = Client::nth(number as u32);
        // All but an entry on the new control port, which is deleted (section 6).
        if mapped != after.port() {
            assert_eq!(after.find(mapped), Some((client.at(mapped), client.authenticator())));
            assert_eq!(after.map(client), mapped);
        }
    }
    let events = server.events_from(51);
    let initialized = events.iter().filter(|event| event.kind == Kind::Initialized);
    assert_eq!(initialized.count(), 1, "the table is initialized once");
}

/// Tables of different NAT64s have nothing to do with one another.
#[test]
fn section_5_two_nat64s_never_touch() {
    let server = Server::start(&[]);
    let (one, two) = (Nat64::known(&server), Nat64::known(&server));
    let client = Client::nth(1);
    assert_eq!(one.map_hinted(client, 20001), 20001);
    assert_eq!(two.find(20001), None);
    assert_eq!(two.map_hinted(Client::nth(2), 20001), 20001);
    assert_eq!(two.report(client.at(20002)).mapped, 20002);
    two.map_with(client, b"of the second.");
    assert_eq!(one.find(20001), Some((client.at(20001), client.authenticator())));
    assert_eq!(one.find(20002), None);
    // The other's token, from the right port and from the own.
    let thief = one.other_token(&two.token);
    assert!(!thief.is_known());
    for event in server.events_from(5) {
        let own = if event.nat64 == one.address { 20001..20002 } else { 20001..20003 };
        assert!([one.address, two.address].contains(&event.nat64));
        assert!(event.entry.is_none_or(|(mapped, ..)| own.contains(&mapped)));
    }
}
