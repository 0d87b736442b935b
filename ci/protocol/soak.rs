//! Random and mutated payloads, from strangers and from a known NAT64.

use crate::judge::client::{Client, PUBLIC, SERVICE};
use crate::judge::nat64::Nat64;
use crate::judge::packet::{self, Ipv4, chain, fragment6, icmpv6, options};
use crate::judge::wire::{self, payload};
use crate::random::Random;
use crate::section_3::incomplete;
use crate::server::Server;

const TOTAL: usize = 100_000;
const WARM_UP: usize = 30_000;
/// How much the resident memory may grow after the warm-up.
const SLACK_KIB: usize = 6 * 1024;

/// Requests of every kind, to be mutated.
fn corpus(nat64: &Nat64) -> Vec<Vec<u8>> {
    let client = Client::nth(1);
    let mut packets = vec![client.udp(b"data"), client.tcp(b"more data")];
    packets.push(icmpv6(client.address, client.service(), 128, 0, b"idsqdata"));
    let error = [&[0; 4][..], &client.udp(b"data")].concat();
    packets.push(icmpv6(client.address, client.service(), 1, 0, &error));
    for headers in [
        vec![options(packet::HOP_BY_HOP), options(packet::DESTINATION), packet::routing(0)],
        vec![fragment6(0, true, 1)],
        vec![fragment6(64, false, 1)],
    ] {
        let (next, octets) = chain(&headers, packet::UDP, &client.udp(b"data")[40..]);
        packets.push(packet::ipv6(client.address, client.service(), next, &octets));
    }
    let mut requests: Vec<_> =
        packets.iter().map(|packet| nat64.client_request(b"authen", packet)).collect();
    let udp = Ipv4::udp((SERVICE, 443), (PUBLIC, 20000), b"data");
    let about = [&[0; 4][..], &Ipv4::tcp((PUBLIC, 20000), (SERVICE, 80), b"").octets()].concat();
    for packet in [
        udp.clone(),
        Ipv4 { more: true, ..udp.clone() },
        Ipv4 { offset: 64, options: vec![1; 8], ..udp },
        Ipv4::tcp((SERVICE, 443), (PUBLIC, 20000), b"data"),
        Ipv4::icmp(SERVICE, PUBLIC, 3, 3, &about),
        Ipv4::new(SERVICE, PUBLIC, 47, b"data"),
    ] {
        requests.push(nat64.service_request(&packet.octets()));
    }
    requests.push(nat64.report_request(b"authen", client.at(20000)));
    let entries: Vec<_> = (0..9).map(|n| Client::nth(n).at(20000 + n as u16)).collect();
    requests.push(nat64.multi_request(&entries));
    // Not with a known token in it: a mutated rotation must not make other tokens known.
    let rotation = wire::rotation(b"no known token.!");
    requests.push(payload(&[&rotation, &nat64.service_request(&nat64.unmapped_packet())]));
    requests.push(payload(&[&wire::hint(20000), &requests[0]]));
    requests.extend(incomplete(nat64).into_iter().map(|(_, request)| request));
    requests
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut octets = corpus[random.below(corpus.len())].clone();
    if random.below(20) == 0 {
        // Nothing but noise.
        let length = random.below(300);
        return random.octets(length);
    }
    for _ in 0..random.below(4) {
        let place = random.below(octets.len().max(1));
        match random.below(7) {
            0 => octets.truncate(place),
            1 if place < octets.len() => octets[place] ^= 1 << random.below(8),
            2 if place < octets.len() => octets[place] = random.next() as u8,
            3 => {
                let noise = random.below(40);
                octets.splice(place..place, random.octets(noise)).for_each(drop);
            }
            4 => {
                let end = (place + random.below(40)).min(octets.len());
                octets.drain(place.min(end)..end).for_each(drop);
            }
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len().max(1)).min(other.len());
                octets.truncate(place);
                octets.extend_from_slice(&other[from..]);
            }
            _ if place + 1 < octets.len() => {
                let extreme = [0, 1, 0xff, 0x7fff, 0x8000, 0xffff_u16][random.below(6)];
                octets[place..place + 2].copy_from_slice(&extreme.to_be_bytes());
            }
            _ => {}
        }
    }
    octets.truncate(65507);
    octets
}

/// The server lives, keeps its memory, answers what is right, and logs nothing about strangers.
#[test]
fn soak_random_and_mutated_payloads() {
    let mut random = Random::new("soak");
    // Few entries, so that tables are full after the warm-up.
    let server = Server::start(&["--max-entries", "2000"]);
    let known = Nat64::known(&server);
    let strangers: Vec<_> = (0..16).map(|_| Nat64::unknown(&server)).collect();
    let own = corpus(&known);
    let theirs: Vec<_> = strangers.iter().map(corpus).collect();
    let mut warm = 0;
    for number in 0..TOTAL {
        if number == WARM_UP {
            warm = server.resident_kib();
        }
        if number % 2 == 0 {
            known.send(&mutate(&mut random, &own));
        } else {
            let which = random.below(strangers.len());
            strangers[which].send(&mutate(&mut random, &theirs[which]));
        }
        if number % 64 == 63 {
            settle(&known);
        }
    }
    // Twice, so that answers which had to wait for a change have come too.
    settle(&known);
    settle(&known);
    let now = server.resident_kib();
    println!("resident: {warm} KiB after the warm-up, {now} KiB at the end");
    assert!(now <= warm + SLACK_KIB, "{warm} KiB after the warm-up, {now} KiB at the end");
    for stranger in &strangers {
        stranger.control.set_nonblocking(true).unwrap();
        assert!(stranger.control.recv(&mut [0; 65536]).is_err(), "an answer to a stranger");
        stranger.forget_challenges();
    }
    let client = Client::nth(0x0300_0000);
    let mapped = known.map(client);
    assert_eq!(known.find(mapped), Some((client.at(mapped), client.authenticator())));
    assert!(wait_for_client(&server, client), "the last event is not in the log");
    assert!(server.events().iter().all(|event| event.nat64 == known.address));
}

/// Reads replies, each of them strictly, until the one to a request of its own.
fn settle(known: &Nat64) {
    let packet = known.unmapped_packet();
    known.send(&known.service_request(&packet));
    let returned = packet::with_ttl(&packet, packet::TTL - 1);
    while known.reply().packet.as_deref() != Some(&returned[..]) {}
    known.forget_challenges();
}

fn wait_for_client(server: &Server, client: Client) -> bool {
    crate::harness::process::wait_until(crate::judge::PATIENCE, || {
        let last = server.events().into_iter().next_back();
        last.is_some_and(|event| event.entry.is_some_and(|entry| entry.1 == client.address))
    })
}
