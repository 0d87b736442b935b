//! The judge is judged by literal octets and lines. The protocol tests run these, once for all
//! programs.

use super::judge::client::{Client, Entry};
use super::judge::eventlog::{Event, Kind, rfc5952, stamp};
use super::judge::packet::*;
use super::judge::wire::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LITERAL_ENTRY: [u8; 34] = [
    0x37, 0x10, 0x0e, 0x87, 0x00, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0x01, 0x0d, 0xb8,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x17, 0xcf, 0xc2,
];

#[test]
fn encoder_writes_literal_octets() {
    let client = Client::parse("2001:db8::17", 53186);
    assert_eq!(entry(Entry { mapped: 3719, client }), LITERAL_ENTRY);
    assert_eq!(token(b"ab"), [0x34, 1, b'a', b'b']);
    assert_eq!(token(b""), [0x34, 0]);
    assert_eq!(rotation(b"abcd"), [0x35, 2, b'a', b'b', b'c', b'd']);
    assert_eq!(authenticator(&[7; 510])[..3], [0x36, 255, 7]);
    assert_eq!(noop(b""), [0x32, 0]);
    assert_eq!(hint(0x1234), [0x38, 1, 0x12, 0x34]);
    assert_eq!(identifier()[..7], [0x31, 72, b'[', b'[', b' ', b'T', b'h']);
    assert_eq!(identifier().len(), 146);
    assert!(identifier().ends_with(b"protocol or support IPv6. ]]"));
}

#[test]
fn reader_of_replies_is_strict() {
    let client = Client::parse("2001:db8::17", 53186);
    let expected = Entry { mapped: 3719, client };
    let mut octets = vec![0x36, 1, 8, 9];
    octets.extend_from_slice(&LITERAL_ENTRY);
    assert_eq!(Reply::parse(&octets), Ok(Reply::report(&[8, 9], expected)));
    // Order, truncation, trailing octets, forbidden combinations.
    let swapped = [&LITERAL_ENTRY[..], &[0x36, 1, 8, 9]].concat();
    assert!(Reply::parse(&swapped).is_err());
    for end in 0..octets.len() {
        assert!(Reply::parse(&octets[..end]).is_err(), "{end}");
    }
    let ipv4 = [0x45, 0, 0, 20, 0, 0, 0, 0, 1, 59, 0, 0, 192, 0, 0, 8, 192, 0, 0, 8];
    assert_eq!(Reply::parse(&[&[0x34, 0][..], &ipv4].concat()), Ok(Reply::returned(b"", &ipv4)),);
    assert!(Reply::parse(&[&[0x34, 0][..], &ipv4, &[0]].concat()).is_err());
    assert!(Reply::parse(&[&[0x36, 0][..], &ipv4].concat()).is_err());
    assert!(Reply::parse(&[0x34, 0, 0x36, 0]).is_err());
    assert_eq!(permutations(&[vec![1], vec![2], vec![3], vec![4]]).len(), 24);
}

#[test]
fn builders_write_literal_octets() {
    let (src, dst) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 2));
    let udp = Ipv4::udp((src, 1234), (dst, 53), b"hi!").octets();
    // Checksums computed by another program.
    assert_eq!(
        udp,
        [
            0x45, 0, 0, 31, 0x1d, 0x1d, 0, 0, 64, 17, 0x71, 0x7a, 192, 0, 2, 1, 198, 51, 100, 2, 4,
            0xd2, 0, 53, 0, 11, 0x85, 0x30, b'h', b'i', b'!'
        ]
    );
    assert!(header_checksum_holds(&udp));
    let aged = with_ttl(&udp, 63);
    assert_eq!(aged[8], 63);
    assert!(header_checksum_holds(&aged));
    // The example of RFC 1071, section 3.
    assert_eq!(checksum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    let (src, dst) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let echo = icmpv6(src, dst, 128, 0, &[0, 1, 0, 2]);
    assert_eq!(echo[..8], [0x60, 0, 0, 0, 0, 8, 58, 64]);
    assert_eq!(echo[40..], [0x80, 0, 0x24, 0x45, 0, 1, 0, 2]);
    assert!(icmpv6_checksum_holds(&echo));
    let (next, octets) = chain(&[options(HOP_BY_HOP), fragment6(8, true, 7)], UDP, b"x");
    assert_eq!(next, 0);
    assert_eq!(octets, [44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 9, 0, 0, 0, 7, b'x']);
}

#[test]
fn reader_takes_the_lines_of_section_8() {
    let line = "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186";
    let event = Event::parse(line).unwrap();
    let client: Ipv6Addr = "2001:db8::17".parse().unwrap();
    assert_eq!(event.what(), (Kind::Created, Some((3719, client, 53186))));
    assert_eq!(event.nat64, Ipv4Addr::new(192, 0, 2, 7));
    let initialized = "2019-03-18 10:06:28.436754 Initialized 192.0.2.7";
    assert_eq!(Event::parse(initialized).unwrap().what(), (Kind::Initialized, None));
    let full = format!("{line} to 203.0.113.5 via 64:ff9b::/96");
    assert_eq!(Event::parse(&full).unwrap().full, " to 203.0.113.5 via 64:ff9b::/96");
    for wrong in [
        "2019-03-18T10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186",
        "2019-03-18 10:06:28.491 Created 192.0.2.7:3719 [2001:db8::17]:53186",
        "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8:0::17]:53186",
        "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:DB8::17]:53186",
        "2019-03-18 10:06:28.491727 Created 192.0.2.7:03719 [2001:db8::17]:53186",
        "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 2001:db8::17:53186",
        "2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186 ",
        "2019-03-18 10:06:28.491727 Initialized 192.0.2.7:3719",
        "2019-03-18 10:06:28.491727 created 192.0.2.7:3719 [2001:db8::17]:53186",
    ] {
        assert!(Event::parse(wrong).is_err(), "{wrong}");
    }
    assert_eq!(stamp(1_552_903_588, 436_754), "2019-03-18 10:06:28.436754");
    assert_eq!(stamp(1_582_934_400, 0), "2020-02-29 00:00:00.000000");
}

#[test]
fn addresses_are_read_whatever_they_are() {
    assert_eq!(
        rfc5952("::ffff:192.0.2.1").map(IpAddr::V6),
        Some("::ffff:c000:201".parse().unwrap())
    );
    assert_eq!(rfc5952("0::1"), None);
}
