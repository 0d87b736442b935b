//! Token validation: the validation packet, attenuation, the proof.

use crate::clock::Clock;
use crate::judge::SHORT;
use crate::judge::client::{Client, PUBLIC, SERVICE};
use crate::judge::eventlog::Kind;
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4};
use crate::judge::wire::{self, Reply, payload};
use crate::random::Random;
use crate::section_3::incomplete;
use crate::server::Server;
use std::net::{Ipv4Addr, Ipv6Addr};

const MAC: usize = 16;

/// Takes a validation packet apart: checks it octet for octet against the first form that is not
/// longer than the request, and returns the MAC.
fn check_form(
    octets: &[u8],
    token: &[u8],
    authenticator: Option<&[u8]>,
    request: usize,
) -> Vec<u8> {
    assert!(octets.len() <= request, "{} octets for a request of {request}", octets.len());
    let (mut expected, mac) = octets.split_at(octets.len() - MAC);
    let form_a = authenticator.map(wire::authenticator).filter(|six| six.len() + 56 <= request);
    if let Some(six) = form_a {
        expected = expected.strip_prefix(&six[..]).expect("the request's authenticator");
        assert_eq!(expected.len(), 40);
        assert_eq!(expected[0] >> 4, 6);
        assert_eq!(expected[4..8], [0, 16, 59, 1], "length 16, no next header, hop limit 1");
        let black_hole: Ipv6Addr = "100::".parse().unwrap();
        assert_eq!(packet::addresses6(expected), (black_hole, black_hole));
    } else {
        let four = wire::token(token);
        expected = expected.strip_prefix(&four[..]).expect("the request's token");
        if four.len() + 36 <= request {
            assert_eq!(expected.len(), 20);
            assert_eq!(expected[0], 0x45);
            assert_eq!(expected[2..4], [0, 36], "total length");
            assert_eq!(expected[8..10], [1, 59], "TTL 1, protocol 59");
            assert_eq!(expected[12..], [192, 0, 0, 8, 192, 0, 0, 8]);
            assert!(packet::header_checksum_holds(expected));
        } else {
            assert_eq!(expected, [0x32, 8], "a no-op of 16 octets");
        }
    }
    mac.to_vec()
}

/// The three forms with their exact octets, chosen by the length of the request, for tokens and
/// authenticators of many lengths; and each of them is a proof when it is returned.
#[test]
fn section_5_the_three_forms_by_length() {
    let server = Server::start_single(&[]);
    let known = Nat64::known(&server);
    let mut seen = [0; 3];
    for (token, authenticator) in
        [(0, 0), (2, 2), (4, 0), (6, 510), (8, 8), (14, 14), (0, 510), (510, 0), (510, 510)]
    {
        let nat64 = Nat64 { token: vec![0xbe; token], ..Nat64::unknown(&server) };
        let six = vec![0xaa; authenticator];
        let mut last = Vec::new();
        // Client packets with 0 to 20 octets after the IPv6 header (next header 253).
        for length in [0, 5, 6, 7, 8, 13, 14, 15, 20] {
            let client = Client::nth(1);
            let body = vec![9; length];
            let packet = packet::ipv6(client.address, client.service(), 253, &body);
            let request = nat64.client_request(&six, &packet);
            let challenge = nat64.challenge_beside(&known, &request);
            check_form(&challenge, &nat64.token, Some(&six), request.len());
            seen[usize::from(challenge[0] == 0x34)] += 1;
            last = challenge;
        }
        // Service packets with a total length around 36.
        for length in [0, 8, 15, 16, 17, 40] {
            let packet = Ipv4::new(SERVICE, PUBLIC, 253, &vec![9; length]).octets();
            let request = nat64.service_request(&packet);
            let challenge = nat64.challenge_beside(&known, &request);
            check_form(&challenge, &nat64.token, None, request.len());
            seen[1 + usize::from(length < 16)] += 1;
            if length % 2 == authenticator / 2 % 2 {
                last = challenge;
            }
        }
        nat64.prove(&last);
        assert!(nat64.is_known());
    }
    assert!(seen.iter().all(|&count| count > 3), "{seen:?}");
}

/// A report and a multi report from an unknown NAT64 get the first form.
#[test]
fn section_5_reports_are_challenged() {
    let server = Server::start(&[]);
    let nat64 = Nat64::unknown(&server);
    let client = Client::nth(1);
    let request = nat64.report_request(b"authen", client.at(20000));
    let challenge = nat64.challenge(&request);
    check_form(&challenge, &nat64.token, Some(b"authen"), request.len());
    let request = nat64.multi_request(&[client.at(20000), Client::nth(2).at(20001)]);
    let challenge = nat64.challenge(&request);
    // Which of several authenticators is not said; the first one counts elsewhere.
    check_form(&challenge, &nat64.token, Some(&client.authenticator()), request.len());
    nat64.introduce();
    assert_eq!(nat64.find(20000), None, "what was asked before the proof is not done");
}

/// A request that is not well-formed is never answered, nor does it count for anything.
#[test]
fn section_5_incomplete_requests_are_not_challenged() {
    let server = Server::start_single(&[]);
    let known = Nat64::known(&server);
    let nat64 = Nat64::unknown(&server);
    let mut requests = incomplete(&nat64);
    requests.push(("unknown format", payload(&[&nat64.token_message(), &[0x10, 0]])));
    let service = nat64.service_request(&nat64.unmapped_packet());
    requests.push(("truncated", service[..service.len() - 1].to_vec()));
    requests.push(("unknown format in front", payload(&[&[0x50], &service])));
    for (what, request) in requests {
        // Four times: attenuation lets at least one of them pass.
        for _ in 0..4 {
            nat64.send(&request);
        }
        known.fence();
        assert_eq!(nat64.waiting_challenge(), None, "{what}");
    }
    assert_eq!(nat64.try_reply(SHORT), None);
    assert_eq!(nat64.waiting_challenge(), None);
    assert_eq!(server.events_from(1).len(), 1);
}

/// Nothing but a validation packet goes to an unknown NAT64, and none of its requests is done.
#[test]
fn section_5_unknown_nat64s_get_validation_packets_only() {
    let server = Server::start_single(&[]);
    let known = Nat64::known(&server);
    let nat64 = Nat64::unknown(&server);
    let client = Client::nth(1);
    for _ in 0..20 {
        nat64.send(&nat64.client_request(b"authen", &client.udp(b"data")));
        nat64.send(&nat64.report_request(b"authen", client.at(20000)));
        nat64.send(&nat64.multi_request(&[client.at(20000), Client::nth(2).at(20001)]));
    }
    known.fence();
    assert_eq!(nat64.try_reply(SHORT), None);
    nat64.introduce();
    assert_eq!(nat64.find(20000), None);
    let events = server.events_from(2);
    assert!(events.iter().all(|event| event.kind == Kind::Initialized), "{events:?}");
}

/// The counter starts at 2: two pass, the third is dropped, whoever sends them.
#[test]
fn section_5_attenuation_starts_at_two() {
    for senders in [1, 3] {
        let server = Server::start_single(&[]);
        let nat64s: Vec<_> = (0..senders).map(|_| Nat64::unknown(&server)).collect();
        for (number, passes) in [true, true, false].into_iter().enumerate() {
            let nat64 = &nat64s[number % senders];
            nat64.send(&nat64.service_request(&nat64.unmapped_packet()));
            let patience = if passes { crate::judge::PATIENCE } else { SHORT };
            assert_eq!(nat64.try_challenge(patience).is_some(), passes, "request {number}");
        }
    }
}

/// Which of `count` requests of `nat64` are challenged. Requests of `known` show when each is done.
fn pattern(nat64: &Nat64, known: &Nat64, count: usize) -> Vec<bool> {
    let request = nat64.service_request(&nat64.unmapped_packet());
    nat64.forget_challenges();
    let each = |_| {
        nat64.send(&request);
        known.fence();
        let passed = nat64.waiting_challenge().is_some();
        assert_eq!(nat64.waiting_challenge(), None, "two validation packets for one request");
        passed
    };
    (0..count).map(each).collect()
}

fn check_pattern(passed: &[bool]) {
    assert!(!passed.windows(2).any(|pair| pair == [false, false]), "two dropped in a row");
    assert!(!passed.windows(3).any(|three| three == [true; 3]), "three passed in a row");
    // A cycle is one drop and 1 or 2 passes: 60 %, with a standard deviation of 0.5 in passes a
    // cycle, so of less than one percent over 1,000 requests.
    let share = passed.iter().filter(|&&passed| passed).count() as f64 / passed.len() as f64;
    assert!((0.55..0.65).contains(&share), "{share} pass");
}

/// 60 % pass, never two dropped in a row.
#[test]
fn section_5_attenuation_over_a_long_run() {
    // Far above what this asks for: the rate is not what is tested here.
    let server = Server::start_single(&["--validation-rate", "1000000"]);
    let known = Nat64::known(&server);
    check_pattern(&pattern(&Nat64::unknown(&server), &known, 1000));
}

/// A known NAT64 address with an unknown token has a counter of its own, which starts at 2 however
/// much the other one was used.
#[test]
fn section_5_known_addresses_have_their_own_attenuation() {
    // Far above what this asks for: the rate is not what is tested here.
    let server = Server::start_single(&["--validation-rate", "1000000"]);
    let known = Nat64::known(&server);
    let stranger = Nat64::unknown(&server);
    let changed = known.other_port(0);
    // Two passes after a drop: the common counter is 0, so a stranger's next would be dropped.
    let mut last = [true; 3];
    while last != [false, true, true] {
        last = [last[1], last[2], pattern(&stranger, &known, 1)[0]];
    }
    let first = pattern(&changed, &known, 3);
    assert_eq!(first, [true, true, false]);
    check_pattern(&pattern(&changed, &known, 600));
}

/// The proof: returned with the token and TTL 1, `Initialized` logged, the next request answered.
#[test]
fn section_5_proof_is_accepted() {
    let server = Server::start(&[]);
    let nat64 = Nat64::unknown(&server);
    let challenge = nat64.challenge(&nat64.service_request(&nat64.unmapped_packet()));
    // `prove` checks the returned packet, checksum included.
    nat64.prove(&challenge);
    let events = server.events_from(1);
    assert_eq!((events[0].kind, events[0].nat64), (Kind::Initialized, nat64.address));
    nat64.map(Client::nth(1));
    // The same proof again is a service packet that is not found. (TTL 1 and one less are both
    // accepted: the text fits either.)
    let packet = nat64.as_packet(&challenge);
    let reply = nat64.ask(&nat64.service_request(&packet));
    assert_eq!(reply.token.as_ref(), Some(&nat64.token));
    let returned = reply.packet.unwrap();
    assert!([1, packet::TTL - 1].contains(&returned[8]));
    assert_eq!(returned, packet::with_ttl(&packet, returned[8]));
    let events = server.events_from(2);
    let initialized = events.iter().filter(|event| event.kind == Kind::Initialized);
    assert_eq!(initialized.count(), 1);
}

/// The MAC counts wherever it came from: any IPv4 packet whose last 16 octets it is, any TTL above
/// 0, with options, with octets after the packet's own length.
#[test]
fn section_5_proof_in_any_ipv4_packet() {
    let server = Server::start(&[]);
    for kind in 0..6 {
        let nat64 = Nat64::unknown(&server);
        let challenge = nat64.challenge(&nat64.service_request(&nat64.unmapped_packet()));
        let mac = &challenge[challenge.len() - MAC..];
        let from = (*nat64.server.ip(), nat64.server.port());
        let mut packet = Ipv4::udp(from, (nat64.address, 9), &challenge);
        match kind {
            0 => packet.ttl = 1,
            1 => packet.ttl = 255,
            2 => packet.options = vec![1; 8],
            3 => packet = Ipv4::new(SERVICE, PUBLIC, 253, mac),
            4 => packet = Ipv4::tcp((SERVICE, 80), (PUBLIC, 9), mac),
            _ => {}
        }
        let packet = packet.octets();
        let extra = if kind == 5 { &b"octets after the packet"[..] } else { b"" };
        nat64.send(&payload(&[&nat64.token_message(), &packet, extra]));
        let reply = nat64.reply();
        if kind == 3 {
            // Not TCP or UDP: returned as a proof, or protocol unreachable as such a packet.
            assert_eq!(reply.token.as_ref(), Some(&nat64.token));
        } else {
            let expected = Reply::returned(&nat64.token, &packet::with_ttl(&packet, 1));
            assert_eq!(reply, expected, "kind {kind}");
        }
        assert!(nat64.is_known(), "kind {kind}");
    }
}

/// The proof may come with a report: then both are handled, each with an answer of its own.
#[test]
fn section_5_proof_with_a_report() {
    let server = Server::start(&[]);
    let nat64 = Nat64::unknown(&server);
    let client = Client::nth(1);
    let report = nat64.report_request(b"authen", client.at(20000));
    let packet = nat64.as_packet(&nat64.challenge(&report));
    assert_eq!(
        nat64.ask(&payload(&[&report, &packet])),
        Reply::report(b"authen", client.at(20000))
    );
    let expected = Reply::returned(&nat64.token, &packet::with_ttl(&packet, 1));
    assert_eq!(nat64.reply(), expected);
    let kinds: Vec<_> = server.events_from(2).iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [Kind::Initialized, Kind::Created]);
}

/// A proof in a packet to a mapped port: its sender becomes known and gets the entry's answer.
#[test]
fn section_5_proof_to_a_mapped_port() {
    let server = Server::start(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    let mapped = nat64.map(client);
    let rebooted = nat64.rebooted();
    let challenge = rebooted.challenge(&rebooted.service_request(&rebooted.unmapped_packet()));
    let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, mapped), &challenge).octets();
    let expected = Reply::mapping(&client.authenticator(), client.at(mapped), &packet);
    assert_eq!(rebooted.ask(&rebooted.service_request(&packet)), expected);
    assert!(rebooted.is_known());
}

/// A wrong proof is no proof: no answer, nothing logged, at most another validation packet.
#[test]
fn section_5_wrong_proofs_are_refused() {
    let server = Server::start(&[]);
    let nat64 = Nat64::unknown(&server);
    let challenge = nat64.challenge(&nat64.service_request(&nat64.unmapped_packet()));
    let good = nat64.as_packet(&challenge);
    let refused = |nat64: &Nat64, what: &str, packet: &[u8]| {
        nat64.send(&nat64.service_request(packet));
        assert_eq!(nat64.try_reply(SHORT / 3), None, "{what}: answered");
    };
    // Other identities: port, token (bits, length), NAT64 address.
    refused(&nat64.other_port(0), "other port", &good);
    let mut token = nat64.token.clone();
    token[0] ^= 1;
    refused(&nat64.other_token(&token), "other token", &good);
    refused(&nat64.other_token(&nat64.token[..14]), "shorter token", &good);
    refused(&nat64.other_token(&[&nat64.token[..], &[0, 0]].concat()), "longer token", &good);
    refused(&nat64.other_token(b""), "no token", &good);
    let other = Nat64 { token: nat64.token.clone(), ..Nat64::unknown(&server) };
    refused(&other, "other NAT64", &good);
    // Truncated, lengths and checksums right.
    for cut in [1, 2, 8, 15, 16] {
        let short = nat64.as_packet(&challenge[..challenge.len() - cut]);
        refused(&nat64, "truncated", &short);
        let from = (*nat64.server.ip(), nat64.server.port());
        let more = [&challenge[..], &vec![0; cut]].concat();
        refused(&nat64, "longer", &Ipv4::udp(from, (nat64.address, 9), &more).octets());
    }
    // The MAC alone after the packet's own length does not count.
    let (front, mac) = challenge.split_at(challenge.len() - MAC);
    let packet = payload(&[&nat64.as_packet(front), mac]);
    refused(&nat64, "MAC after the packet", &packet);
    // In an IPv6 packet it does not count either.
    let client = Client::nth(1);
    let packet = client.udp(mac);
    nat64.send(&nat64.client_request(b"authen", &packet));
    assert_eq!(nat64.try_reply(SHORT), None);
    assert!(server.events().is_empty());
    // After all that, the right one is still accepted.
    nat64.prove(&challenge);
}

/// Each bit of the MAC counts.
#[test]
fn section_5_every_bit_of_a_proof_counts() {
    let server = Server::start_single(&[]);
    let known = Nat64::known(&server);
    let nat64 = Nat64::unknown(&server);
    let challenge = nat64.challenge(&nat64.service_request(&nat64.unmapped_packet()));
    for bit in 0..8 * MAC {
        let mut wrong = challenge.clone();
        wrong[challenge.len() - MAC + bit / 8] ^= 1 << (bit % 8);
        nat64.send(&nat64.service_request(&nat64.as_packet(&wrong)));
        known.fence();
    }
    let mut random = Random::new("proofs");
    for _ in 0..200 {
        nat64.send(&nat64.service_request(&nat64.as_packet(&random.octets(MAC))));
        known.fence();
    }
    assert_eq!(nat64.try_reply(SHORT), None);
    assert_eq!(server.events_from(1).len(), 1);
    nat64.prove(&challenge);
}

/// The MAC differs by port, token, NAT64 and local address, and is not simply a constant.
#[test]
fn section_5_macs_differ_by_identity() {
    let local = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2)];
    let server = Server::start_on(&local, &[]);
    let nat64 = Nat64::unknown(&server);
    let other = Nat64 { token: nat64.token.clone(), ..Nat64::unknown(&server) };
    let elsewhere = nat64.towards(server.addr_at(local[1]));
    let mut macs = Vec::new();
    for nat64 in [&nat64, &nat64.other_port(0), &nat64.other_token(b"ab"), &other, &elsewhere] {
        let request = nat64.service_request(&nat64.unmapped_packet());
        let challenge = nat64.challenge(&request);
        macs.push(check_form(&challenge, &nat64.token, None, request.len()));
    }
    let count = macs.len();
    macs.sort();
    macs.dedup();
    assert_eq!(macs.len(), count);
}

/// The key is replaced every 60 s; a proof made with the previous key is accepted, an older one
/// not.
#[test]
fn section_5_old_proofs_expire() {
    let clock = Clock::new();
    let server = Server::start_by(&clock);
    let nat64s: Vec<_> = (0..3).map(|_| Nat64::unknown(&server)).collect();
    let proofs: Vec<_> = nat64s
        .iter()
        .map(|nat64| nat64.challenge(&nat64.service_request(&nat64.unmapped_packet())))
        .collect();
    clock.set_ahead(50);
    nat64s[0].prove(&proofs[0]);
    clock.set_ahead(110);
    nat64s[1].prove(&proofs[1]);
    clock.set_ahead(121);
    let late = &nat64s[2];
    late.send(&late.service_request(&late.as_packet(&proofs[2])));
    assert_eq!(late.try_reply(SHORT), None);
    late.introduce();
}
