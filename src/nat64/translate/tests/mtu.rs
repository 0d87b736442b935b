//! Packets at the limits of the next link: fragments, what must not be fragmented, and errors.

use super::*;

#[test]
fn rfc7915_5_1_dont_fragment_from_1261_octets() {
    for (length, flags) in [(1279, 0), (1280, 0), (1281, 0x40), (1500, 0x40)] {
        let packets = to_ipv4(&ipv6_packet(length), &LIMITS).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0][4..8], [0x12, 0x34, flags, 0], "{length}");
    }
}

#[test]
fn rfc7915_5_1_fragments_for_a_narrow_link() {
    let limits = Limits::new(600, 1500).unwrap();
    let packet = ipv6_packet(1280);
    let packets = to_ipv4(&packet, &limits).unwrap();
    let lengths: Vec<_> = packets.iter().map(Vec::len).collect();
    assert_eq!(lengths, [596, 596, 108], "data in multiples of 8");
    let fields: Vec<_> = packets.iter().map(|packet| &packet[4..8]).collect();
    assert_eq!(fields, [[0x12, 0x34, 0x20, 0], [0x12, 0x34, 0x20, 72], [0x12, 0x34, 0, 144]]);
    let data: Vec<u8> = packets.iter().flat_map(|packet| packet[20..].to_vec()).collect();
    let whole = &to_ipv4(&packet, &LIMITS).unwrap()[0];
    assert_eq!(data, whole[20..]);
    assert!(packets.iter().all(|packet| Ipv4::new(packet).unwrap().checksum_is_right()));
    // One octet more, and it must not be.
    let expected = Refused::with(Refusal::TooBig, 2, 0, 1280);
    assert_eq!(to_ipv4(&ipv6_packet(1281), &limits), Err(expected));
    let limits = Limits::new(1400, 1500).unwrap();
    let expected = Refused::with(Refusal::TooBig, 2, 0, 1420);
    assert_eq!(to_ipv4(&ipv6_packet(1421), &limits), Err(expected));
    assert_eq!(to_ipv4(&ipv6_packet(1420), &limits).unwrap()[0].len(), 1400);
}

#[test]
fn rfc7915_5_1_1_fragments_of_a_fragment() {
    // The third to the last of a packet, 1448 octets at 2896, on a link of 1000.
    let data: Vec<u8> = (0..1448_u32).map(|n| n as u8).collect();
    let header = ipv6::header(8 + data.len(), 44, 64, CLIENT, SERVICE);
    let fragment = [6, 0, 0x0b, 0x51, 1, 2, 3, 4];
    let packet = [&header[..], &fragment, &data].concat();
    let packets = to_ipv4(&packet, &Limits::new(1000, 1500).unwrap()).unwrap();
    assert_eq!(packets.len(), 2);
    assert_eq!(packets[0][2..8], [0x03, 0xe4, 3, 4, 0x21, 0x6a], "976 octets at 2896, more follow");
    assert_eq!(packets[1][2..8], [0x01, 0xec, 3, 4, 0x21, 0xe4], "472 at 3872, more follow");
    assert_eq!([&packets[0][20..], &packets[1][20..]].concat(), data);
}

#[test]
fn rfc7915_4_1_fragments_of_1280_octets() {
    assert_eq!(to_ipv6(&ipv4_packet(1260, false), &LIMITS).unwrap()[0].len(), 1280);
    let packet = ipv4_packet(1500, false);
    let packets = to_ipv6(&packet, &LIMITS).unwrap();
    let lengths: Vec<_> = packets.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1280, 48 + 248]);
    assert_eq!(packets[0][4..8], [0x04, 0xd8, 44, 63]);
    assert_eq!(packets[0][40..48], [6, 0, 0, 1, 0, 0, 0, 7]);
    assert_eq!(packets[1][4..8], [0x01, 0x00, 44, 63]);
    assert_eq!(packets[1][40..48], [6, 0, 0x04, 0xd0, 0, 0, 0, 7], "at 1232");
    // As the network is known to carry 1500.
    let wide = Limits { ipv6_path_mtu: 1500, ..LIMITS };
    assert_eq!(to_ipv6(&ipv4_packet(1480, false), &wide).unwrap()[0].len(), 1500);
    assert_eq!(to_ipv6(&packet, &wide).unwrap()[0].len(), 1496);
    // Nothing is fragmented that must not be.
    let whole = to_ipv6(&ipv4_packet(1480, true), &LIMITS).unwrap();
    assert_eq!((whole.len(), whole[0].len()), (1, 1500));
    assert_eq!(whole[0][40..], to_ipv6(&ipv4_packet(1480, false), &wide).unwrap()[0][40..]);
    let expected = Refused::with(Refusal::TooBig, 3, 4, 1480);
    assert_eq!(to_ipv6(&ipv4_packet(1481, true), &LIMITS), Err(expected));
    // A fragment has a fragment header besides.
    let mut fragment = ipv4_packet(1476, true);
    fragment[6] = 0x60;
    mend_header(&mut fragment);
    let expected = Refused::with(Refusal::TooBig, 3, 4, 1472);
    assert_eq!(to_ipv6(&fragment, &LIMITS), Err(expected));
}

#[test]
fn limits_have_limits() {
    assert!(Limits::new(67, 1280).is_none());
    assert!(Limits::new(68, 1279).is_none());
    let limits = Limits::new(68, 1400).unwrap();
    assert_eq!(limits.path_mtu(), 1280);
    assert_eq!(Limits { ipv6_path_mtu: 1401, ..limits }.path_mtu(), 1400);
    assert_eq!(Limits { ipv6_path_mtu: 1300, ..limits }.path_mtu(), 1300);
    assert_eq!(Limits { ipv6_path_mtu: 0, ..limits }.path_mtu(), 1280);
}

/// The longest quoted packet on the narrowest link, and an extension that has no room.
#[test]
fn errors_fit_into_the_mtu() {
    let mut limits = Limits::new(68, 1280).unwrap();
    let packets = to_ipv4(&from6("extension_long"), &limits).unwrap();
    assert_eq!((packets.len(), packets[0].len(), packets[0][25]), (1, 68, 0));
    assert_eq!(checksum(&[&packets[0][20..]]), 0);
    limits = Limits::new(20 + 8 + 128 + 12, 1280).unwrap();
    let packets = to_ipv4(&from6("extension_long"), &limits).unwrap();
    assert_eq!((packets[0].len(), packets[0][25]), (168, 32), "the quoted packet is cut");
    let mut long = from4("quoted_udp");
    long.resize(1500, 7);
    (long[46 - 16], long[47 - 16]) = (0x05, 0xc0); // the quoted packet's length: 1472
    mend_header(&mut long[28..]);
    put_u16(&mut long, 2, 1500);
    put_u16(&mut long, 22, 0);
    let sum = checksum(&[&long[20..]]);
    put_u16(&mut long, 22, sum);
    mend_header(&mut long);
    let packets = to_ipv6(&long, &LIMITS).unwrap();
    assert_eq!((packets.len(), packets[0].len()), (1, 1280), "RFC 4443 section 2.4 (c)");
}
