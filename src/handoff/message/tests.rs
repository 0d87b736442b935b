use super::*;
use crate::handoff::opaque::Token;

const TOKEN: [u8; 4] = [0x34, 1, 0xaa, 0xbb];
const AUTHENTICATOR: [u8; 6] = [0x36, 2, 1, 2, 3, 4];

#[rustfmt::skip]
const ENTRY: [u8; 34] = [
    0x37, 16, 0x0e, 0x87,
    0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0,
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x17,
    0xcf, 0xc2,
];

fn identifier() -> Vec<u8> {
    let mut message = vec![0x31, 72];
    message.extend_from_slice(
        b"[[ This is the NAT64 handoff protocol. The client is using IPv6. To know their real IP address you need to use this protocol or support IPv6. ]]",
    );
    message
}

fn ipv4() -> Vec<u8> {
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[3] = 28;
    packet
}

fn ipv6() -> Vec<u8> {
    let mut packet = vec![0; 48];
    packet[0] = 0x60;
    packet[5] = 8;
    packet
}

fn entry() -> Entry {
    Entry {
        port: MappedPort(3719),
        client: Client {
            prefix: Prefix96::of("64:ff9b::".parse().unwrap()),
            address: "2001:db8::17".parse().unwrap(),
            port: 53186,
        },
    }
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// One payload of every valid shape.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("client packet", join(&[&TOKEN, &AUTHENTICATOR, &ipv6()])),
        (
            "client packet with hint",
            join(&[&TOKEN, &AUTHENTICATOR, &[0x38, 1, 0x12, 0x34], &ipv6()]),
        ),
        ("client packet with rotation", join(&[&[0x35, 1, 9, 9], &TOKEN, &AUTHENTICATOR, &ipv6()])),
        ("service packet", join(&[&TOKEN, &ipv4()])),
        ("report", join(&[&identifier(), &TOKEN, &AUTHENTICATOR, &ENTRY])),
        ("report with IPv6", join(&[&identifier(), &TOKEN, &AUTHENTICATOR, &ENTRY, &ipv6()])),
        ("report with IPv4", join(&[&identifier(), &TOKEN, &AUTHENTICATOR, &ENTRY, &ipv4()])),
        (
            "multi report",
            join(&[&identifier(), &TOKEN, &AUTHENTICATOR, &ENTRY, &ENTRY, &AUTHENTICATOR, &ENTRY]),
        ),
    ]
}

#[test]
fn section_2_entry_octets_both_ways() {
    assert_eq!(entry().emit(), ENTRY);
    assert_eq!(Entry::parse(&ENTRY[2..]), Some(entry()));
    assert_eq!(Entry::parse(&ENTRY[2..33]), None);
}

#[test]
fn section_2_unknown_formats_drop_the_whole_payload() {
    for nibble in [0, 1, 2, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15] {
        let bad = [nibble << 4, 0];
        assert_eq!(parse(&bad), Err(DropReason::UnknownFormat), "{nibble}");
        let payload = join(&[&TOKEN, &AUTHENTICATOR, &bad, &ipv6()]);
        assert_eq!(parse(&payload), Err(DropReason::UnknownFormat), "{nibble}");
    }
}

#[test]
fn section_2_unknown_types_are_skipped() {
    for kind in [0, 2, 3, 9, 10, 11, 12, 13, 14, 15] {
        let unknown = [0x30 | kind, 1, 7, 7];
        let payload =
            join(&[&unknown, &TOKEN, &unknown, &AUTHENTICATOR, &[0x30 | kind, 0], &ipv6()]);
        assert!(matches!(parse(&payload).unwrap().kind, RequestKind::ClientPacket(_)), "{kind}");
    }
}

#[test]
fn section_2_malformed() {
    assert_eq!(parse(&[]), Err(DropReason::Empty));
    assert_eq!(parse(&[0x34]), Err(DropReason::MessageTruncated));
    assert_eq!(parse(&[0x34, 1, 0]), Err(DropReason::MessageTruncated));
    assert_eq!(parse(&[0x34, 255]), Err(DropReason::MessageTruncated));
    let mut wrong = identifier();
    wrong[50] ^= 1;
    assert_eq!(
        parse(&join(&[&wrong, &TOKEN, &AUTHENTICATOR, &ENTRY])),
        Err(DropReason::BadIdentifier)
    );
    assert_eq!(parse(&join(&[&[0x31, 0], &TOKEN, &ipv4()])), Err(DropReason::BadIdentifier));
    assert_eq!(parse(&join(&[&TOKEN, &[0x37, 0], &ipv4()])), Err(DropReason::BadEntryLength));
    assert_eq!(parse(&join(&[&TOKEN, &[0x38, 0], &ipv4()])), Err(DropReason::BadHintLength));
    assert_eq!(
        parse(&join(&[&TOKEN, &[0x38, 2, 0, 0, 0, 0], &ipv4()])),
        Err(DropReason::BadHintLength)
    );
    assert_eq!(parse(&vec![0x32; PAYLOAD_MAX + 1]), Err(DropReason::DatagramTruncated));
}

#[test]
fn section_2_embedded_packets_against_their_own_length() {
    let too_short = |at: usize, value: u8, packet: Vec<u8>| {
        let mut packet = packet;
        packet[at] = value;
        parse(&join(&[&TOKEN, &AUTHENTICATOR, &packet]))
    };
    assert_eq!(too_short(3, 29, ipv4()), Err(DropReason::PacketTruncated));
    assert_eq!(too_short(3, 19, ipv4()), Err(DropReason::PacketTruncated));
    assert_eq!(too_short(0, 0x44, ipv4()), Err(DropReason::PacketTruncated));
    assert_eq!(too_short(0, 0x48, ipv4()), Err(DropReason::PacketTruncated));
    assert_eq!(too_short(5, 9, ipv6()), Err(DropReason::PacketTruncated));
    // What stands behind a packet is not part of it.
    let payload = join(&[&TOKEN, &ipv4(), &[0xff; 7]]);
    let RequestKind::ServicePacket { packet } = parse(&payload).unwrap().kind else { panic!() };
    assert_eq!(packet.of(&payload), ipv4());
}

#[test]
fn section_3_shapes() {
    for (name, payload) in shapes() {
        let request = parse(&payload).unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        assert_eq!(request.token.of(&payload), &TOKEN[2..], "{name}");
        match (name, request.kind) {
            ("client packet" | "client packet with rotation", RequestKind::ClientPacket(parts)) => {
                assert_eq!(parts.authenticator.of(&payload), &AUTHENTICATOR[2..]);
                assert_eq!(parts.packet.of(&payload), ipv6());
                assert_eq!(parts.hint, None);
                assert_eq!(request.rotation.is_some(), name.ends_with("rotation"));
            }
            ("client packet with hint", RequestKind::ClientPacket(parts)) => {
                assert_eq!(parts.hint, Some(MappedPort(0x1234)));
            }
            ("service packet", RequestKind::ServicePacket { packet }) => {
                assert_eq!(packet.of(&payload), ipv4());
            }
            ("report", RequestKind::Report { entry: reported, packet: None, .. })
            | (
                "report with IPv6",
                RequestKind::Report {
                    entry: reported,
                    packet: Some(ReportedPacket::Client(_)),
                    ..
                },
            )
            | (
                "report with IPv4",
                RequestKind::Report {
                    entry: reported,
                    packet: Some(ReportedPacket::Service(_)),
                    ..
                },
            ) => {
                assert_eq!(reported, entry());
            }
            ("multi report", RequestKind::MultiReport) => {
                let entries: Vec<_> = multi_report(&payload).collect();
                assert_eq!(entries.len(), 3);
                assert!(entries[0].0.start() < entries[2].0.start());
                assert_eq!(entries[0].0, entries[1].0);
                assert!(entries.iter().all(|(_, reported)| *reported == entry()));
            }
            (name, kind) => panic!("{name}: {kind:?}"),
        }
    }
}

#[test]
fn section_3_truncation_at_every_octet() {
    for (name, payload) in shapes() {
        for length in 0..payload.len() {
            // A cut may leave a shorter valid request; it must never leave one with more than it
            // has.
            if let Ok(request) = parse(&payload[..length]) {
                assert!(request.token.end() <= length, "{name} cut to {length}");
                assert!(
                    name.starts_with("report with") || name == "multi report",
                    "{name} cut to {length}"
                );
            }
        }
    }
}

#[test]
fn section_3_incomplete() {
    let cases: [(&[&[u8]], DropReason); 9] = [
        (&[&AUTHENTICATOR, &ipv6()], DropReason::NoToken),
        (&[&TOKEN], DropReason::NothingAsked),
        (&[&identifier(), &TOKEN, &AUTHENTICATOR], DropReason::NothingAsked),
        (&[&TOKEN, &ipv6()], DropReason::NoAuthenticator),
        (&[&TOKEN, &AUTHENTICATOR, &ENTRY], DropReason::NoIdentifier),
        (&[&identifier(), &TOKEN, &ENTRY], DropReason::NoAuthenticator),
        (
            &[&identifier(), &TOKEN, &ENTRY, &AUTHENTICATOR, &ENTRY],
            DropReason::EntryBeforeAuthenticator,
        ),
        (
            &[&identifier(), &TOKEN, &AUTHENTICATOR, &ENTRY, &ENTRY, &ipv6()],
            DropReason::PacketInMultiReport,
        ),
        (
            &[&identifier(), &TOKEN, &AUTHENTICATOR, &AUTHENTICATOR, &ENTRY, &ipv4()],
            DropReason::PacketInMultiReport,
        ),
    ];
    for (parts, reason) in cases {
        assert_eq!(parse(&join(parts)), Err(reason));
    }
}

#[test]
fn section_3_a_multi_report_has_at_most_1232_octets() {
    let noops = |length: usize| -> Vec<u8> {
        let fill = |left: usize| [&[0x32, (left / 2 - 1) as u8][..], &vec![0; left - 2]].concat();
        (0..length).step_by(512).flat_map(|at| fill((length - at).min(512))).collect()
    };
    let multi = join(&[&identifier(), &TOKEN, &AUTHENTICATOR, &ENTRY, &ENTRY]);
    let groups = join(&[&identifier(), &TOKEN, &AUTHENTICATOR, &AUTHENTICATOR, &ENTRY]);
    let single = join(&[&identifier(), &TOKEN, &AUTHENTICATOR, &ENTRY]);
    for shape in [multi, groups] {
        let whole = |length: usize| join(&[&shape, &noops(length - shape.len())]);
        assert_eq!(parse(&whole(MULTI_REPORT_MAX)).unwrap().kind, RequestKind::MultiReport);
        for length in [MULTI_REPORT_MAX + 2, 2000, PAYLOAD_MAX - 1] {
            assert_eq!(parse(&whole(length)), Err(DropReason::MultiReportTooLong), "{length}");
        }
    }
    // A report is none, nor is a client packet with more authenticators than it needs.
    let report = join(&[&single, &noops(2000)]);
    assert!(matches!(parse(&report).unwrap().kind, RequestKind::Report { .. }));
    let packet = join(&[&TOKEN, &AUTHENTICATOR, &AUTHENTICATOR, &noops(2000), &ipv6()]);
    assert!(matches!(parse(&packet).unwrap().kind, RequestKind::ClientPacket(_)));
}

#[test]
fn section_3_any_order_and_first_of_each_counts() {
    let payload = join(&[&ENTRY, &AUTHENTICATOR, &identifier(), &TOKEN]);
    assert!(matches!(parse(&payload).unwrap().kind, RequestKind::Report { .. }));
    let second = [0x34, 1, 0, 0];
    let payload = join(&[
        &AUTHENTICATOR,
        &TOKEN,
        &second,
        &[0x36, 0],
        &[0x38, 1, 0, 5],
        &[0x38, 1, 0, 6],
        &ipv6(),
    ]);
    let request = parse(&payload).unwrap();
    assert_eq!(request.token.of(&payload), &TOKEN[2..]);
    let RequestKind::ClientPacket(parts) = request.kind else { panic!() };
    assert_eq!(parts.authenticator.of(&payload), &AUTHENTICATOR[2..]);
    assert_eq!(parts.hint, Some(MappedPort(5)));
}

#[test]
fn section_2_opaque_lengths() {
    for length in (0..=MESSAGE_DATA_MAX).step_by(2) {
        let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let mut payload = Vec::new();
        emit(&mut payload, message_type::TOKEN, &data);
        emit(&mut payload, message_type::AUTHENTICATOR, &data);
        payload.extend_from_slice(&ipv6());
        let request = parse(&payload).unwrap();
        assert_eq!(request.token.of(&payload), data);
        assert_eq!(request.authenticator.unwrap().of(&payload), data);
        assert_eq!(Token::new(&data).unwrap().octets(), data);
    }
    assert_eq!(Token::new(&[0; 511]), None);
    assert_eq!(Token::new(&[0; 512]), None);
}

#[test]
fn in_place_writing_survives_overlap() {
    let mut buffer = vec![0; 16];
    buffer[4..10].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
    assert_eq!(move_before(&mut buffer, 12, message_type::AUTHENTICATOR, 4..10), 4);
    assert_eq!(buffer[4..12], [0x36, 3, 1, 2, 3, 4, 5, 6]);
    assert_eq!(write_before(&mut buffer, 4, message_type::TOKEN, &[9, 9]), 0);
    assert_eq!(buffer[..6], [0x34, 1, 9, 9, 0x36, 3]);
}

/// Wherever `parse_plain` finds a request, `parse_any` finds the same one, and it finds many.
#[test]
fn section_3_plain_shapes_at_a_glance() {
    let mut plain = 0;
    let mut check = |payload: &[u8]| {
        if let Some(request) = parse_plain(payload) {
            assert_eq!(parse_any(payload), Ok(request), "{payload:02x?}");
            plain += 1;
        }
    };
    let shapes = [
        [&TOKEN[..], &AUTHENTICATOR, &ipv6()].concat(),
        [&TOKEN[..], &ipv4()].concat(),
        [&[0x34, 0], &[0x36, 0][..], &ipv6()].concat(),
        [&TOKEN[..], &AUTHENTICATOR, &ipv4()].concat(),
        [&TOKEN[..], &ipv6()].concat(),
        [&TOKEN[..], &TOKEN, &ipv4()].concat(),
    ];
    for shape in shapes {
        for end in 0..=shape.len() {
            check(&shape[..end]);
        }
        for at in 0..shape.len() {
            for octet in 0..=255 {
                let mut changed = shape.clone();
                changed[at] = octet;
                check(&changed);
                changed.extend([7; 3]);
                check(&changed);
            }
        }
    }
    assert!(plain > 1000, "{plain}");
}
