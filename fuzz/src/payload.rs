//! The target `payload`: the parser of control payloads, and the writers of messages, against plain
//! ones.

use nat64handoff::handoff::message::{self, ReportedPacket, RequestKind, Span};
use nat64handoff::handoff::stats::DropReason;

use super::judge::wire::{self, Messages, Shape};

/// `data` is a payload.
pub fn check(data: &[u8]) {
    let expected = Messages::split(data).and_then(|messages| Some((messages.shape()?, messages)));
    let (request, shape, messages) = match (message::parse(data), expected) {
        (Ok(request), Some((shape, messages))) => (request, shape, messages),
        (Err(_), None) => return,
        (parsed, expected) => panic!("parsed {parsed:?}, expected {expected:?}"),
    };

    let of = |span: Option<Span>| span.map(|span| span.of(data));
    assert_eq!(of(Some(request.token)), messages.first(4));
    assert_eq!(of(request.rotation), messages.first(5));
    assert_eq!(of(request.authenticator), messages.first(6));
    let hint = messages.first(8).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let (kind, packet) = match request.kind {
        RequestKind::ClientPacket(parts) => {
            assert_eq!(Some(parts.authenticator), request.authenticator);
            assert_eq!(parts.hint.map(|hint| hint.0), hint);
            (Shape::Client, Some(parts.packet))
        }
        RequestKind::ServicePacket { packet } => (Shape::Service, Some(packet)),
        RequestKind::Report { authenticator, entry, packet } => {
            assert_eq!(Some(authenticator), request.authenticator);
            assert_eq!(Some(&entry.emit()[2..]), messages.first(7));
            let packet = packet.map(|packet| match packet {
                ReportedPacket::Client(parts) => {
                    assert_eq!(parts.hint.map(|hint| hint.0), hint);
                    parts.packet
                }
                ReportedPacket::Service(packet) => packet,
            });
            (Shape::Report, packet)
        }
        RequestKind::MultiReport => (Shape::MultiReport, None),
    };
    assert_eq!(kind, shape);
    assert_eq!(of(packet), messages.packet);
    if shape == Shape::MultiReport {
        let groups = message::multi_report(data)
            .map(|(authenticator, entry)| (authenticator.of(data), entry.emit().to_vec()));
        let expected = messages.groups().into_iter().map(|(authenticator, entry)| {
            (authenticator.expect("checked by the shape"), wire::entry(entry))
        });
        assert!(groups.eq(expected));
    }
    if let Some(packet) = packet {
        // Nothing behind the packet is looked at, and nothing of the packet may be missing.
        let end = packet.end();
        assert_eq!(message::parse(&data[..end]), Ok(request));
        assert_eq!(message::parse(&data[..end - 1]), Err(DropReason::PacketTruncated));
    }
    again(&messages, shape);
}

/// Written anew from its parts, a request is the same request.
fn again(messages: &Messages<'_>, shape: Shape) {
    let mut payload = Vec::new();
    for &(kind, data) in &messages.handoff {
        let start = payload.len();
        message::emit(&mut payload, kind, data);
        written(kind, data, &payload[start..]);
    }
    payload.extend_from_slice(messages.packet.unwrap_or_default());
    let again = Messages::split(&payload).expect("what was emitted is well-formed");
    assert_eq!(again.handoff, messages.handoff);
    assert_eq!(again.packet, messages.packet);
    assert_eq!(again.shape(), Some(shape));
    assert!(message::parse(&payload).is_ok());
}

/// Each writer gives a message the octets that the tests' own encoder gives it, and touches nothing
/// beside it.
fn written(kind: u8, data: &[u8], emitted: &[u8]) {
    let expected = wire::message(kind, data);
    assert_eq!(emitted, expected);
    let mut buffer = [&[0xc5; 3][..], &[0; 2], data, &[0; 5], &[0xc5; 3]].concat();
    let end = buffer.len() - 3;
    // What is moved overlaps the place where it goes.
    for moved in [true, false] {
        let start = if moved {
            message::move_before(&mut buffer, end, kind, 5..5 + data.len())
        } else {
            message::write_before(&mut buffer, end, kind, data)
        };
        assert_eq!(buffer[start..end], expected);
        assert_eq!((&buffer[..3], &buffer[end..]), (&[0xc5; 3][..], &[0xc5; 3][..]));
    }
}
