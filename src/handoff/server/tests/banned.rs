//! PROTOCOL.md section 7. What is answered about banned clients.

use super::*;
use crate::handoff::bans::Bans;
use crate::ip::icmp;
use crate::ip::ipv6::Ipv6;

const NEIGHBOUR: &str = "2001:db8::18";

/// Bans [`CLIENT`], by its address or by its /64.
fn ban(shard: &mut Shard, net: &str) {
    let ban = (net.parse().unwrap(), Duration::from_secs(1000));
    let bans = Bans::of(SecretHash::new([4; 16]), [ban].into_iter());
    shard.server.set_bans(Some(Arc::new(bans)));
}

/// Nothing but that the server is there: token, and an empty packet that goes no further.
fn quiet() -> Vec<u8> {
    service_packet(&ipv4::header(20, 1, protocol::NO_NEXT_HEADER, LOCAL, NAT64))
}

/// The ICMPv6 error about `packet`, with the request's authenticator.
fn refusal(packet: &[u8]) -> Vec<u8> {
    let about = Ipv6::new(packet).unwrap();
    let mut out = message(6, AUTHENTICATOR);
    icmp::prohibited(about).unwrap().append_to(&mut out);
    out
}

fn counted(shard: &Shard, counter: Counter) -> u64 {
    shard.server.stats().get(counter)
}

#[test]
fn section_7_a_banned_client_is_told_and_gets_no_entry() {
    let mut shard = Shard::known();
    ban(&mut shard, "2001:db8::17/128");
    let packet = udp6(CLIENT, 1);
    let reply = shard.ask(&client_packet(&packet));
    assert_eq!(reply, refusal(&packet));
    let error = reply.strip_prefix(&message(6, AUTHENTICATOR)[..]).unwrap();
    let view = Ipv6::whole(error).unwrap();
    assert_eq!(
        (view.source(), view.destination()),
        (SERVICE.parse().unwrap(), CLIENT.parse().unwrap())
    );
    assert_eq!((error[6], error[40], error[41], &error[48..]), (58, 1, 1, &packet[..]));
    let tcp = ip6(protocol::TCP, CLIENT, SERVICE, &transport(2, 443));
    assert_eq!(shard.ask(&hinted(7000, &tcp)), refusal(&tcp));
    let other = ip6(132, CLIENT, SERVICE, &[1, 2, 3]);
    assert_eq!(shard.ask(&client_packet(&other)), refusal(&other));
    let mut ping = [128, 0, 0, 0, 1, 2, 3, 4, 5];
    let sum = checksum::icmpv6(CLIENT.parse().unwrap(), SERVICE.parse().unwrap(), &ping);
    ping[2..4].copy_from_slice(&sum.to_be_bytes());
    let ping = ip6(protocol::ICMPV6, CLIENT, SERVICE, &ping);
    assert_eq!(shard.ask(&client_packet(&ping)), refusal(&ping));
    assert_eq!((shard.server.entries().count(), counted(&shard, Counter::Banned)), (0, 4));
    assert_eq!(shard.events(), []);
    // Others notice nothing.
    make(&mut shard, NEIGHBOUR, 1);
    assert_eq!(shard.drops(), []);
}

#[test]
fn section_7_bans_leave_icmp_messages_to_others() {
    let mut shard = Shard::known();
    ban(&mut shard, "2001:db8::/120");
    let packet = udp6(CLIENT, 1);
    for number in 0..60 {
        let expected = if number < 50 { refusal(&packet) } else { quiet() };
        assert_eq!(shard.ask(&client_packet(&packet)), expected, "{number}");
    }
    let unknown = client_packet(&ip6(132, "2001:db8:1::9", SERVICE, &[1, 2, 3]));
    for _ in 0..50 {
        shard.ask(&unknown);
    }
    assert_eq!(shard.dropped(&unknown), DropReason::IcmpRate);
    shard.time += Duration::from_millis(1100);
    assert_eq!(shard.ask(&client_packet(&packet)), refusal(&packet));
    assert_eq!(
        (counted(&shard, Counter::Banned), counted(&shard, Counter::BannedQuietly)),
        (51, 10)
    );
}

#[test]
fn section_7_entries_of_the_banned_stay_and_serve_again_after_it() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let neighbour = make(&mut shard, NEIGHBOUR, 1);
    ban(&mut shard, "2001:db8::17/128");
    let packet = udp6(CLIENT, 1);
    assert_eq!(shard.ask(&client_packet(&packet)), refusal(&packet));
    // For the service, there is no entry.
    let mut to_banned = to_mapped(own.port.0);
    let request = service_packet(&to_banned);
    ipv4::set_ttl(&mut to_banned, 1);
    assert_eq!(shard.ask(&request), service_packet(&to_banned));
    let packet_to = to_mapped(neighbour.port.0);
    let reply = shard.ask(&service_packet(&packet_to));
    assert_eq!(reply, answer(AUTHENTICATOR, neighbour, &packet_to));
    assert_eq!(shard.server.entries().count(), 2);
    assert_eq!(shard.outbox.changes, []);
    shard.server.set_bans(None);
    assert_eq!(shard.ask(&client_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    // And where the ban ends by itself.
    ban(&mut shard, "2001:db8::/64");
    assert_eq!(shard.ask(&client_packet(&packet)), refusal(&packet));
    shard.time = Duration::from_secs(1000);
    assert_eq!(shard.ask(&client_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
}

#[test]
fn section_7_errors_and_fragments_about_the_banned() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 7);
    let fragment = |flags: u8, data: &[u8]| {
        let header = [protocol::UDP, 0, 0, flags, 0, 0, 0, 1];
        ip6(protocol::FRAGMENT, CLIENT, SERVICE, &[&header[..], data].concat())
    };
    let (first, later) = (fragment(1, &transport(7, 80)), fragment(16, &[1, 2, 3]));
    shard.ask(&client_packet(&first));
    ban(&mut shard, "2001:db8::17/128");
    assert_eq!(shard.ask(&client_packet(&first)), refusal(&first));
    assert_eq!(shard.ask(&client_packet(&later)), quiet(), "it may be of anything");
    // A router says that a packet to the client did not arrive: by the entry, it would.
    let embedded = ip6(protocol::UDP, SERVICE, CLIENT, &transport(80, 7));
    let data = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &embedded].concat();
    let error = ip6(protocol::ICMPV6, "2001:db8:ffff::1", SERVICE, &data);
    assert_eq!(shard.ask(&client_packet(&error)), quiet());
    let embedded = ip4(protocol::TCP, NAT64, LOCAL, &transport(own.port.0, 80));
    let mut error = ip4(1, LOCAL, NAT64, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &embedded].concat());
    let request = service_packet(&error);
    ipv4::set_ttl(&mut error, 1);
    assert_eq!(shard.ask(&request), service_packet(&error));
    // What a banned host says about a neighbour's packets is about the neighbour.
    let neighbour = make(&mut shard, NEIGHBOUR, 9);
    let embedded = ip6(protocol::UDP, SERVICE, NEIGHBOUR, &transport(80, 9));
    let data = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &embedded].concat();
    let error = ip6(protocol::ICMPV6, CLIENT, SERVICE, &data);
    let reply = shard.ask(&client_packet(&error));
    assert_eq!(reply, answer(AUTHENTICATOR, neighbour, &error));
}

#[test]
fn section_6_reports_of_the_banned_are_recorded_and_not_confirmed() {
    let mut shard = Shard::known();
    let (own, neighbour) = (make(&mut shard, CLIENT, 1), make(&mut shard, NEIGHBOUR, 1));
    ban(&mut shard, "2001:db8::17/128");
    assert_eq!(shard.ask(&report(b"a1", &[own])), quiet(), "what the table has");
    assert_eq!(shard.outbox.changes, []);
    let free = (5000..).find(|&port| port != own.port.0 && port != neighbour.port.0).unwrap();
    let made = entry(free, client(CLIENT, 2));
    assert_eq!(shard.ask(&report(b"a1", &[made])), quiet());
    assert_eq!(shard.events(), [created(made)], "the log tells whose the port is");
    let on_other_port = entry(free + 1, client(CLIENT, 2));
    assert_eq!(shard.ask(&report(b"a1", &[on_other_port])), quiet());
    assert_eq!(shard.events(), [conflict(on_other_port)]);
    let on_taken_port = entry(neighbour.port.0, client(CLIENT, 3));
    assert_eq!(shard.ask(&report(b"a1", &[on_taken_port])), quiet());
    assert_eq!(shard.events(), [conflict(on_taken_port)], "and no port is given for it");
    let invalid = entry(0, client(CLIENT, 4));
    assert_eq!(shard.dropped(&report(b"a1", &[invalid])), DropReason::EntryInvalid);
    assert_eq!(shard.server.entries().count(), 3);
}

#[test]
fn section_6_multi_reports_with_banned_clients() {
    let mut shard = Shard::known();
    let (own, neighbour) = (make(&mut shard, CLIENT, 1), make(&mut shard, NEIGHBOUR, 1));
    ban(&mut shard, "2001:db8::17/128");
    let both = report(b"a1", &[own, neighbour]);
    assert_eq!(shard.ask(&both), answer(b"a1", neighbour, &[]), "the first that may be named");
    let others = report(b"a1", &[own, entry(own.port.0, client(CLIENT, 5))]);
    assert_eq!(shard.ask(&others), quiet(), "nothing can be named");
    let wrong = entry(neighbour.port.0 ^ 1, client(NEIGHBOUR, 1));
    let sent = shard.send(&report(b"a1", &[own, wrong]));
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1, answer(b"a1", neighbour, &[]), "what differs is told");
}

/// Where there are three entries and no room for more, none is given up for what the NAT64 made for
/// a banned client.
fn nobody_goes_for_a_banned_client(mut shard: Shard) {
    shard.prove(NAT64, CONTROL, TOKEN);
    for port in 1..4 {
        make(&mut shard, NEIGHBOUR, port);
    }
    ban(&mut shard, "2001:db8::17/128");
    let taken: Vec<_> = shard.server.entries().map(|(_, entry)| entry.port.0).collect();
    let free = (5000..).find(|port| !taken.contains(port)).unwrap();
    let made = entry(free, client(CLIENT, 2));
    assert_eq!(shard.ask(&report(b"a1", &[made])), quiet());
    assert_eq!(shard.events(), [conflict(made)]);
    assert_eq!(shard.server.entries().count(), 3);
}

#[test]
fn section_6_nobody_goes_for_a_banned_client() {
    nobody_goes_for_a_banned_client(Shard::new(|config| config.limits.entries_max = 3));
}

/// Nor where all tables together have as many entries as they may.
#[test]
fn section_6_nobody_goes_for_a_banned_client_at_the_limit() {
    let budget = Arc::new(Budget::new(100, 3));
    nobody_goes_for_a_banned_client(Shard::new(|config| config.budget = budget));
}

/// Entries of the banned are not used by what they send, so they go first.
#[test]
fn section_6_the_banned_go_first() {
    let mut shard = Shard::new(|config| config.limits.entries_max = 3);
    shard.prove(NAT64, CONTROL, TOKEN);
    let own = make(&mut shard, CLIENT, 1);
    make(&mut shard, NEIGHBOUR, 1);
    make(&mut shard, NEIGHBOUR, 2);
    ban(&mut shard, "2001:db8::17/128");
    shard.ask(&client_packet(&udp6(CLIENT, 1)));
    shard.ask(&report(b"a1", &[own]));
    make(&mut shard, NEIGHBOUR, 3);
    assert!(shard.events().contains(&deleted(own)), "{:?}", shard.events());
}

#[test]
fn entries_of_some_clients_are_seen() {
    let mut shard = Shard::new(|config| config.budget = Arc::new(Budget::new(100, 100_000)));
    let nat64s: Vec<_> = (1..40).map(|last| Ipv4Addr::new(192, 0, 2, last)).collect();
    for &nat64 in &nat64s {
        shard.prove(nat64, CONTROL, TOKEN);
        let table = TableKey { local: LOCAL, nat64 };
        for host in 0..30 {
            let address = format!("2001:db8:0:{}::{host:x}", host % 3);
            assert_eq!(
                shard.send_between(table, CONTROL, &client_packet(&udp6(&address, 1))).len(),
                1
            );
        }
    }
    let all: Vec<_> = shard.server.entries().collect();
    for net in ["2001:db8:0:1::/64", "2001:db8::/32", "2001:db8:0:2::5/128", "2001:db8:0:9::/64"] {
        let net: ipnet::Ipv6Net = net.parse().unwrap();
        let (mut seen, mut place, mut calls) = (Vec::new(), Some(ClientsPlace::START), 0);
        while let Some(from) = place {
            let before = seen.len();
            place = shard.server.see_clients(net, from, &mut seen);
            assert!(seen.len() - before <= SEEN_ENTRIES_MAX);
            calls += 1;
        }
        let is_within = |(_, entry): &&(TableKey, Entry)| net.contains(&entry.client.address);
        let mut expected: Vec<_> = all.iter().filter(is_within).copied().collect();
        let key = |(table, entry): &(TableKey, Entry)| (*table, entry.port);
        seen.sort_by_key(key);
        expected.sort_by_key(key);
        assert_eq!(seen, expected, "{net}");
        assert!(calls < 20, "{net}: {calls} calls");
    }
}
