//! PROTOCOL.md section 7. What is done with client packets and service packets.

use super::*;

#[test]
fn section_7_client_packets() {
    let mut shard = Shard::known();
    let one = make(&mut shard, CLIENT, 1);
    assert_eq!(shard.events(), [created(one)]);
    // The same client again, by TCP and behind extension headers, to another port of the service.
    let tcp = ip6(protocol::TCP, CLIENT, "64:ff9b::c633:6401", &transport(1, 443));
    assert_eq!(shard.ask(&client_packet(&tcp)), answer(AUTHENTICATOR, one, &tcp));
    let extended = [&[protocol::UDP, 0, 1, 4, 0, 0, 0, 0][..], &transport(1, 80)].concat();
    let extended = ip6(protocol::DESTINATION_OPTIONS, CLIENT, SERVICE, &extended);
    assert_eq!(shard.ask(&client_packet(&extended)), answer(AUTHENTICATOR, one, &extended));
    assert_eq!(shard.outbox.changes, []);
    // Another prefix is another client.
    let elsewhere = ip6(protocol::UDP, CLIENT, "2001:db8:64::cb00:7105", &transport(1, 80));
    shard.ask(&client_packet(&elsewhere));
    assert_eq!(shard.events().len(), 1);
    for source in ["::", "::1", "ff02::1", "::ffff:192.0.2.1", "fe80::1"] {
        assert_eq!(shard.dropped(&client_packet(&udp6(source, 1))), DropReason::ClientAddress);
    }
    assert_eq!(shard.dropped(&client_packet(&udp6(CLIENT, 0))), DropReason::EntryInvalid);
    let short = ip6(protocol::UDP, CLIENT, SERVICE, &[0, 1, 0]);
    assert_eq!(shard.dropped(&client_packet(&short)), DropReason::HeaderTruncated);
}

#[test]
fn section_7_ipv6_fragments() {
    let mut shard = Shard::known();
    let fragment = |identification: u8, flags: u8, data: &[u8]| {
        let header = [protocol::UDP, 0, 0, flags, 0, 0, 0, identification];
        ip6(protocol::FRAGMENT, CLIENT, SERVICE, &[&header[..], data].concat())
    };
    let (first, later) = (fragment(1, 1, &transport(7, 80)), fragment(1, 16, &[1, 2, 3]));
    assert_eq!(shard.dropped(&client_packet(&later)), DropReason::FragmentUnknown);
    shard.ask(&client_packet(&first));
    let own = shard.server.entries().next().unwrap().1;
    assert_eq!(own.client, client(CLIENT, 7));
    assert_eq!(shard.ask(&client_packet(&later)), answer(AUTHENTICATOR, own, &later));
    assert_eq!(shard.dropped(&client_packet(&fragment(2, 16, &[1]))), DropReason::FragmentUnknown);
    shard.time += Duration::from_secs(15);
    assert_eq!(shard.dropped(&client_packet(&later)), DropReason::FragmentUnknown);
}

#[test]
fn section_7_ipv4_fragments() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let fragment = |flags: [u8; 2], data: &[u8]| {
        let mut packet = ip4(protocol::UDP, LOCAL, NAT64, data);
        packet[6..8].copy_from_slice(&flags);
        packet
    };
    let (first, later) =
        (fragment([0x20, 0], &transport(80, own.port.0)), fragment([0, 3], &[9; 5]));
    assert_eq!(shard.dropped(&service_packet(&later)), DropReason::FragmentUnknown);
    assert_eq!(shard.ask(&service_packet(&first)), answer(AUTHENTICATOR, own, &first));
    assert_eq!(shard.ask(&service_packet(&later)), answer(AUTHENTICATOR, own, &later));
}

#[test]
fn section_7_ping_and_other_icmpv6() {
    let mut shard = Shard::known();
    let icmp = |kind: u8| {
        let (source, destination): (Ipv6Addr, Ipv6Addr) =
            (CLIENT.parse().unwrap(), SERVICE.parse().unwrap());
        let mut data = [kind, 0, 0, 0, 1, 2, 3, 4, 5];
        let checksum = checksum::icmpv6(source, destination, &data);
        data[2..4].copy_from_slice(&checksum.to_be_bytes());
        ip6(protocol::ICMPV6, CLIENT, SERVICE, &data)
    };
    let reply = shard.ask(&client_packet(&icmp(128)));
    let echoed = reply.strip_prefix(&message(6, AUTHENTICATOR)[..]).unwrap();
    assert_eq!((echoed[40], &echoed[44..]), (129, &[1, 2, 3, 4, 5][..]));
    assert_eq!(echoed[8..24], icmp(128)[24..40]);
    let mut wrong = icmp(128);
    wrong[42] ^= 1;
    assert_eq!(shard.dropped(&client_packet(&wrong)), DropReason::EchoChecksum);
    for kind in [129, 133, 200, 255] {
        assert_eq!(shard.dropped(&client_packet(&icmp(kind))), DropReason::IcmpIgnored);
    }
    let fragment = [&[protocol::ICMPV6, 0, 0, 0, 0, 0, 0, 1][..], &icmp(128)[40..]].concat();
    let fragment = client_packet(&ip6(protocol::FRAGMENT, CLIENT, SERVICE, &fragment));
    assert_eq!(shard.dropped(&fragment), DropReason::IcmpFragment);
    // 99 more in this second, of whatever kind.
    let unknown = client_packet(&ip6(132, CLIENT, SERVICE, &[1, 2, 3]));
    let problem = shard.ask(&unknown);
    assert_eq!(problem[16..][40..42], [4, 1]);
    for _ in 0..98 {
        shard.ask(&client_packet(&icmp(128)));
    }
    assert_eq!(shard.dropped(&unknown), DropReason::IcmpRate);
    assert_eq!(shard.dropped(&client_packet(&icmp(128))), DropReason::IcmpRate);
    shard.time += Duration::from_millis(1100);
    shard.ask(&unknown);
}

#[test]
fn section_7_icmpv6_errors() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 7);
    let about = |port: u16| {
        let embedded = ip6(protocol::UDP, SERVICE, CLIENT, &transport(80, port));
        let data = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &embedded].concat();
        let packet = ip6(protocol::ICMPV6, "2001:db8:ffff::1", SERVICE, &data);
        ([&message(4, TOKEN), &message(6, b"router"), &packet[..]].concat(), packet)
    };
    let (request, packet) = about(7);
    assert_eq!(shard.ask(&request), answer(AUTHENTICATOR, own, &packet));
    assert_eq!(shard.outbox.changes, [], "the router's authenticator is not the client's");
    assert_eq!(shard.dropped(&about(8).0), DropReason::IcmpErrorUnmatched);
    for cut in [1, 30, 60] {
        let mut data = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &packet[48..]].concat();
        data.truncate(8 + cut);
        let cut = client_packet(&ip6(protocol::ICMPV6, "2001:db8:ffff::1", SERVICE, &data));
        let answered = !shard.send(&cut).is_empty();
        assert_eq!(answered, data.len() >= 8 + 44);
    }
}

#[test]
fn section_7_service_packets() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let packet = to_mapped(own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    // Not found: returned, one hop older, until there is none left.
    let mut packet = to_mapped(own.port.0 ^ 1);
    let reply = shard.ask(&service_packet(&packet));
    ipv4::set_ttl(&mut packet, 63);
    assert_eq!(reply, service_packet(&packet));
    for ttl in [1, 0] {
        ipv4::set_ttl(&mut packet, ttl);
        assert_eq!(shard.dropped(&service_packet(&packet)), DropReason::TtlExpired);
    }
    // The client speaks with another authenticator: that is the one from now on.
    let again = [message(4, TOKEN), message(6, b"fresh!"), udp6(CLIENT, 2)].concat();
    shard.ask(&again);
    let packet = to_mapped(own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(b"fresh!", own, &packet));
}

#[test]
fn section_7_icmp_errors_and_other_protocols() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let about = |protocol: u8, port: u16| {
        let embedded = ip4(protocol, NAT64, LOCAL, &transport(port, 80));
        ip4(1, LOCAL, NAT64, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &embedded].concat())
    };
    let packet = about(protocol::TCP, own.port.0);
    assert_eq!(shard.ask(&service_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    let mut packet = about(protocol::UDP, own.port.0 ^ 1);
    let reply = shard.ask(&service_packet(&packet));
    ipv4::set_ttl(&mut packet, 63);
    assert_eq!(reply, service_packet(&packet));
    assert_eq!(shard.dropped(&service_packet(&about(1, 1))), DropReason::IcmpErrorUnmatched);
    for data in [&[8, 0, 0, 0, 0, 0, 0, 0][..], &[42, 0, 0, 0]] {
        let packet = ip4(1, LOCAL, NAT64, data);
        if data[0] == 8 {
            let reply = shard.ask(&service_packet(&packet));
            assert_eq!(reply[8..][20..22], [3, 2]);
        } else {
            assert_eq!(shard.dropped(&service_packet(&packet)), DropReason::IcmpIgnored);
        }
    }
    // A first fragment counts as its transport header says, and leaves a note.
    let mut first = about(protocol::TCP, own.port.0);
    first[6] = 0x20;
    assert_eq!(shard.ask(&service_packet(&first)), answer(AUTHENTICATOR, own, &first));
    let mut later = ip4(1, LOCAL, NAT64, &[9; 5]);
    later[7] = 6;
    assert_eq!(shard.ask(&service_packet(&later)), answer(AUTHENTICATOR, own, &later));
    let packet = ip4(132, LOCAL, NAT64, &[1, 2, 3]);
    let reply = shard.ask(&service_packet(&packet));
    assert!(reply.starts_with(&message(4, TOKEN)) && reply.ends_with(&packet));
    assert_eq!(reply[8..][20..22], [3, 2]);
}

#[test]
fn section_7_too_long_an_answer_goes_without_its_packet() {
    let mut shard = Shard::known();
    let own = make(&mut shard, CLIENT, 1);
    let data = |length| [transport(80, own.port.0), vec![7; length]].concat();
    let room = PAYLOAD_MAX - 2 - TOKEN.len();
    let longest = service_packet(&ip4(protocol::UDP, LOCAL, NAT64, &data(room - 40)));
    assert_eq!(longest.len(), PAYLOAD_MAX);
    assert_eq!(shard.ask(&longest), answer(AUTHENTICATOR, own, &[]));
    let fits = PAYLOAD_MAX - 2 - AUTHENTICATOR.len() - 34;
    let packet = ip4(protocol::UDP, LOCAL, NAT64, &data(fits - 40));
    assert_eq!(shard.ask(&service_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
}
