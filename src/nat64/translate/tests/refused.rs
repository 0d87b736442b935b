//! What is refused, and what its sender is told.

use super::*;

#[test]
fn hop_limits_end_here() {
    for hop_limit in [0, 1] {
        let mut packet = from6("tcp");
        packet[7] = hop_limit;
        let expected = Refused::with(Refusal::HopLimit, 3, 0, 0);
        assert_eq!(to_ipv4(&packet, &LIMITS), Err(expected));
        let mut packet = from4("tcp");
        packet[8] = hop_limit;
        mend_header(&mut packet);
        assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refused::with(Refusal::HopLimit, 11, 0, 0)));
    }
}

#[test]
fn rfc7915_5_1_routing_header_with_segments_left() {
    let mut packet = from6("udp");
    packet[59] = 1;
    let expected = Refused::with(Refusal::SegmentsLeft, 4, 0, 59);
    assert_eq!(to_ipv4(&packet, &LIMITS), Err(expected));
    let out = octets_of(ipv6_error(expected.error.unwrap(), SERVICE, &packet).unwrap());
    assert_eq!(out[40..42], [4, 0]);
    assert_eq!(out[44..48], [0, 0, 0, 59]);
    assert_eq!(out[48..], packet);
    assert_eq!(checksum::icmpv6(SERVICE, CLIENT, &out[40..]), 0);
}

#[test]
fn rfc7915_4_1_source_routes() {
    for kind in [131, 137] {
        let mut packet = from4("udp");
        (packet[20], packet[22]) = (kind, 4);
        mend_header(&mut packet);
        let expected = Refused::with(Refusal::SourceRoute, 3, 5, 0);
        assert_eq!(to_ipv6(&packet, &LIMITS), Err(expected));
        let out = octets_of(ipv4_error(expected.error.unwrap(), CLIENT4, &packet).unwrap());
        assert_eq!(out[20..22], [3, 5]);
        assert_eq!(out[28..], packet);
        assert_eq!(checksum(&[&out[20..]]), 0);
        packet[22] = 8;
        mend_header(&mut packet);
        assert!(to_ipv6(&packet, &LIMITS).is_ok());
    }
    for options in [[68, 1, 0, 0], [68, 9, 0, 0], [1, 1, 1, 131], [131, 2, 0, 0]] {
        let mut packet = from4("tcp");
        packet[20..24].copy_from_slice(&options);
        mend_header(&mut packet);
        assert_eq!(refused(to_ipv6(&packet, &LIMITS)), Refusal::OptionsMalformed, "{options:?}");
    }
    let mut ended = from4("tcp");
    ended[20..24].copy_from_slice(&[0, 131, 3, 4]);
    mend_header(&mut ended);
    assert!(to_ipv6(&ended, &LIMITS).is_ok(), "behind the end of the list");
}

/// A router that has no better address tells what is wrong all the same.
#[test]
fn rfc7915_4_1_icmp_errors_from_any_address() {
    let from = |name, source: [u8; 4]| {
        let mut packet = from4(name);
        packet[12..16].copy_from_slice(&source);
        mend_header(&mut packet);
        to_ipv6(&packet, &LIMITS)
    };
    for first in [0, 127, 224, 240, 255] {
        let source = [first, 0, 0, 1];
        for name in ["quoted_udp", "quoted_tcp_cut", "quoted_echo"] {
            let packets = from(name, source).unwrap();
            let view = Ipv6::new(&packets[0]).unwrap();
            assert_eq!(view.source(), synthesize(Prefix96::of(SERVICE), source.into()), "{name}");
            let sum = checksum::icmpv6(view.source(), CLIENT, &packets[0][40..]);
            assert_eq!(sum, 0, "{name}");
        }
        assert_eq!(from("echo_request", source), Err(Refusal::Addresses.into()));
    }
    assert_eq!(from("quoted_udp", [169, 254, 0, 1]), Err(Refusal::Addresses.into()));
}

#[test]
fn refused_without_an_answer() {
    let ipv4 = |name, at: usize, octet| {
        let mut packet = from4(name);
        packet[at] = octet;
        mend_header(&mut packet);
        to_ipv6(&packet, &LIMITS)
    };
    for octet in [0, 127, 224, 240, 255] {
        assert_eq!(ipv4("tcp", 12, octet), Err(Refusal::Addresses.into()));
        assert_eq!(ipv4("tcp", 16, octet), Err(Refusal::Addresses.into()));
    }
    for kind in [9, 10, 13, 14, 15, 16, 17, 18, 19, 255] {
        assert_eq!(ipv4("echo_request", 20, kind), Err(Refusal::IcmpType.into()), "{kind}");
    }
    assert_eq!(ipv4("quoted_udp", 25, 1), Err(Refusal::IcmpChecksum.into()));
    assert_eq!(ipv4("quoted_udp", 19, 8), Err(Refusal::QuotedSource.into()));
    let mut packet = from4("tcp");
    packet[1] ^= 1;
    assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refusal::HeaderChecksum.into()));

    let ipv6 = |name, at: usize, octet| {
        let mut packet = from6(name);
        packet[at] = octet;
        to_ipv4(&packet, &LIMITS)
    };
    assert_eq!(ipv6("tcp", 8, 0xff), Err(Refusal::Addresses.into()));
    assert_eq!(ipv6("tcp", 24, 0xff), Err(Refusal::Addresses.into()));
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143, 255] {
        assert_eq!(ipv6("echo_request", 40, kind), Err(Refusal::IcmpType.into()), "{kind}");
    }
    assert_eq!(ipv6("quoted_udp", 45, 1), Err(Refusal::IcmpChecksum.into()));
    let mut packet = from6("later_fragment");
    packet[42..44].copy_from_slice(&[0xff, 0xf8]);
    assert_eq!(to_ipv4(&packet, &LIMITS), Err(Refusal::FragmentBounds.into()));
    let mut packet = from4("later_fragment");
    packet[6..8].copy_from_slice(&[0x1f, 0xff]);
    mend_header(&mut packet);
    assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refusal::FragmentBounds.into()));
}

/// What is well-formed and not translated is answered: administratively prohibited.
#[test]
fn rfc7915_4_4_and_5_4_what_is_discarded_is_told() {
    let ipv4 = |name, changes: &[(usize, u8)]| {
        let mut packet = from4(name);
        changes.iter().for_each(|&(at, octet)| packet[at] = octet);
        mend_header(&mut packet);
        to_ipv6(&packet, &LIMITS)
    };
    let refused = |reason| Err(Refused::with(reason, 3, 13, 0));
    assert_eq!(ipv4("first_fragment", &[(9, 1)]), refused(Refusal::IcmpFragment));
    assert_eq!(ipv4("echo_request", &[(7, 1)]), refused(Refusal::IcmpFragment));
    let none = [(26, 0), (27, 0)];
    assert_eq!(ipv4("first_fragment", &none), refused(Refusal::UdpWithoutChecksum));

    let ipv6 = |name, at: usize, octet| {
        let mut packet = from6(name);
        packet[at] = octet;
        to_ipv4(&packet, &LIMITS)
    };
    let refused = |reason| Err(Refused::with(reason, 1, 1, 0));
    for next in [0, 43, 44, 51, 60] {
        let expected = refused(Refusal::FragmentedExtension);
        assert_eq!(ipv6("later_fragment", 40, next), expected, "{next}");
    }
    assert_eq!(ipv6("later_fragment", 40, 58), refused(Refusal::IcmpFragment));
}

/// An extension header stays one within the fragments when a second fragment header follows it.
#[test]
fn rfc7915_5_1_1_a_second_fragment_header() {
    let udp = from6("udp");
    let fragment = |next| [next, 0, 0, 0, 0, 0, 0, 1];
    let options = [44, 0, 1, 4, 0, 0, 0, 0];
    for headers in
        [[fragment(44), fragment(17)].concat(), [fragment(60), options, fragment(17)].concat()]
    {
        let mut packet = [&udp[..40], &headers, &udp[64..]].concat();
        packet[6] = 44;
        let length = packet.len() as u16 - 40;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        let expected = Refused::with(Refusal::FragmentedExtension, 1, 1, 0);
        assert_eq!(to_ipv4(&packet, &LIMITS), Err(expected));
    }
    // Nor was a packet like that translated, so that no error about one is true.
    let mut packet = from6("quoted_fragment");
    assert!(to_ipv4(&packet, &LIMITS).is_ok());
    packet[88] = 60;
    packet[42..44].fill(0);
    let view = Ipv6::new(&packet).unwrap();
    let sum = checksum::icmpv6(view.source(), view.destination(), &packet[40..]);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(to_ipv4(&packet, &LIMITS), Err(Refusal::QuotedProtocol.into()));
}

#[test]
fn rfc6146_3_4_other_protocols() {
    let mut packet = from6("tcp");
    packet[6] = 132;
    assert_eq!(to_ipv4(&packet, &LIMITS), Err(Refused::with(Refusal::Protocol, 1, 4, 0)));
    let mut packet = from4("tcp");
    packet[9] = 132;
    mend_header(&mut packet);
    assert_eq!(to_ipv6(&packet, &LIMITS), Err(Refused::with(Refusal::Protocol, 3, 2, 0)));
}

#[test]
fn no_error_about_what_must_not_have_one() {
    let error = IcmpError { kind: 3, code: 0, word: 0 };
    let about =
        |packet: &[u8]| ipv6_error(error, SERVICE, packet).map(|error| octets_of(error).len());
    assert_eq!(about(&from6("tcp")), Some(48 + from6("tcp").len()));
    assert_eq!(about(&from6("echo_request")), Some(48 + from6("echo_request").len()));
    assert_eq!(about(&[&from6("tcp")[..], &[0; 2000]].concat()), Some(48 + from6("tcp").len()));
    assert_eq!(about(&ipv6_packet(1500)), Some(1280));
    for name in ["quoted_udp", "quoted_tcp_cut", "extension"] {
        assert_eq!(about(&from6(name)), None, "{name}");
    }
    for at in [8, 24] {
        let mut group = from6("tcp");
        group[at] = 0xff;
        assert_eq!(about(&group), None);
    }
    let mut redirect = from6("echo_request");
    redirect[40] = 137;
    assert_eq!(about(&redirect), None);
    let mut icmp_later = from6("later_fragment");
    icmp_later[40] = 58;
    assert_eq!(about(&icmp_later), None, "which may be of an error");
    assert_eq!(about(&cut(&from6("echo_request"), 40)), None);

    let about =
        |packet: &[u8]| ipv4_error(error, CLIENT4, packet).map(|error| octets_of(error).len());
    assert_eq!(about(&from4("tcp")), Some(28 + from4("tcp").len()));
    assert_eq!(about(&from4("echo_request")), Some(28 + from4("echo_request").len()));
    assert_eq!(about(&ipv4_packet(1500, true)), Some(576));
    for name in ["quoted_udp", "quoted_tcp_cut", "extension", "later_fragment"] {
        assert_eq!(about(&from4(name)), None, "{name}");
    }
    for (at, octet) in [(12, 0), (12, 127), (12, 224), (16, 224), (16, 255)] {
        let mut group = from4("tcp");
        group[at] = octet;
        assert_eq!(about(&group), None);
    }
}
