//! The target `packet`: the views of embedded packets, the ICMP messages that are made from them,
//! and datagrams that are joined.

use std::net::Ipv4Addr;

use nat64handoff::ip::fields::protocol;
use nat64handoff::ip::gathered::Gathered;
use nat64handoff::ip::icmp;
use nat64handoff::ip::ipv4::{self, Ipv4};
use nat64handoff::ip::ipv6::{Ipv6, Walk};
use nat64handoff::ip::offload::{ChecksumLeft, Offload};
use nat64handoff::ip::segments::Segments;
use nat64handoff::ip::transport::Transport;
use nat64handoff::ip::{checksum as ours, transport};

use super::judge::packet::{checksum, icmpv6_checksum};

/// `data` is an IP packet of either version, cut anywhere.
pub fn check(data: &[u8]) {
    assert_eq!(ours::checksum(&[data]), checksum(&[data]));
    match transport::ports(data) {
        Some((source, destination)) => {
            assert_eq!([source.to_be_bytes(), destination.to_be_bytes()].concat(), data[..4]);
        }
        None => assert!(data.len() < 4),
    }
    gathered(data);
    match Ipv6::new(data) {
        Some(view) => ipv6(data, view),
        None => assert!(data.len() < 40 || data[0] >> 4 != 6),
    }
    match Ipv4::new(data) {
        Some(view) => ipv4(data, view),
        None => assert!(data.len() < 60 || data[0] >> 4 != 4 || data[0] & 15 < 5),
    }
}

/// A datagram, and the same once more, are cut again into what they were.
fn gathered(data: &[u8]) {
    let upper_at = if data.first().is_some_and(|octet| octet >> 4 == 4) { 20 } else { 40 };
    // The fuzzer cannot be expected to find a right checksum.
    let left = Some(ChecksumLeft::of(Transport::Udp, upper_at));
    let offload = Offload { checksum: left, segments: None };
    let mut gathered = Gathered::default();
    if !gathered.begin(data, &offload) {
        assert!(gathered.is_empty());
        return;
    }
    let length = usize::from(u16::from_be_bytes([data[upper_at + 4], data[upper_at + 5]]));
    let payload = &data[upper_at + 8..upper_at + length];
    let joined = gathered.join(data, &offload);
    // One that may be fragmented has an identification of its own.
    assert_eq!(joined, upper_at == 40 || data[6] & 0x40 != 0);
    let (whole, offload) = gathered.take().unwrap();
    if !joined {
        assert_eq!(whole, &data[..upper_at + length]);
        return;
    }
    let mut segments = Segments::of(whole, &offload).unwrap();
    let mut out = vec![0; data.len()];
    for _ in 0..2 {
        assert_eq!(segments.next_segment(&mut out), Some(upper_at + length));
        assert_eq!(&out[upper_at + 8..upper_at + length], payload);
        assert_eq!(out[upper_at..upper_at + 6], data[upper_at..upper_at + 6]);
    }
    assert_eq!(segments.next_segment(&mut out), None);
}

fn ipv6(data: &[u8], view: Ipv6<'_>) {
    assert_eq!(view.octets(), data);
    assert_eq!(view.source().octets(), data[8..24]);
    assert_eq!(view.destination().octets(), data[24..40]);
    assert_eq!(view.destination_prefix().0, data[24..36]);
    let walked = view.walk();
    let found = walked.as_ref().ok().map(|walk| (walk.protocol_at, walk.upper_at));
    assert_eq!(found, plain_walk(data));
    let Ok(walk) = walked else {
        return;
    };
    assert_eq!(data[walk.protocol_at], walk.protocol);
    assert!(walk.upper_at <= data.len());
    parameter_problem(data, view, &walk);
    if walk.protocol == protocol::ICMPV6 && walk.fragment.is_none() {
        echo(data, &walk);
        // The fuzzer cannot be expected to find a right checksum.
        let mut mended = data.to_vec();
        if let Some(message) = mended.get_mut(walk.upper_at..).filter(|rest| rest.len() >= 8) {
            message[2..4].fill(0);
            let checksum = icmpv6_checksum(view.source(), view.destination(), message);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
            let replied = echo(&mended, &walk);
            assert_eq!(replied, !view.destination().is_multicast());
        }
    }
}

/// Where the number of the upper layer stands and where that begins, if section 7 lets us walk
/// there.
fn plain_walk(data: &[u8]) -> Option<(usize, usize)> {
    let (mut next_at, mut at) = (6, 40);
    for walked in 0..=8 {
        let kind = data[next_at];
        let length = match kind {
            0 | 43 | 44 | 60 if walked == 8 => return None,
            0 | 43 | 60 => 8 + 8 * usize::from(*data.get(at + 1)?),
            44 => 8,
            _ => return Some((next_at, at)),
        };
        let header = data.get(at..at + length)?;
        if kind == 43 && header[3] > 0 {
            return None;
        }
        (next_at, at) = (at, at + length);
        if kind == 44 && (header[2] > 0 || header[3] > 7) {
            return Some((next_at, at));
        }
    }
    None
}

/// Whether there was a reply.
fn echo(data: &[u8], walk: &Walk) -> bool {
    const IN_FRONT: usize = 7;
    const BEHIND: usize = 5;
    let mut buffer = [&[0xc5; IN_FRONT][..], data, &[0xc5; BEHIND]].concat();
    let end = IN_FRONT + data.len();
    let before = buffer.clone();
    let Ok(start) = icmp::echo_reply(&mut buffer, IN_FRONT, end, walk) else {
        assert_eq!(buffer, before, "what is refused is left as it was");
        return false;
    };
    assert_eq!(start, IN_FRONT + walk.upper_at - 40);
    assert_eq!(buffer[..start], before[..start]);
    assert_eq!(buffer[end..], before[end..]);
    let (request, reply) = (&data[walk.upper_at..], &buffer[start..end]);
    let (from, to) = (Ipv6::new(reply).unwrap(), Ipv6::new(data).unwrap());
    assert_eq!((from.source(), from.destination()), (to.destination(), to.source()));
    assert_eq!((reply[0], reply[6]), (0x60, protocol::ICMPV6));
    assert_eq!(usize::from(u16::from_be_bytes([reply[4], reply[5]])), request.len());
    assert_eq!(reply[40..42], [129, 0]);
    assert_eq!(reply[44..], request[4..]);
    assert_eq!(icmpv6_checksum(from.source(), from.destination(), &reply[40..]), 0);
    true
}

fn parameter_problem(data: &[u8], view: Ipv6<'_>, walk: &Walk) {
    let mut out = vec![1, 2, 3];
    let result = icmp::parameter_problem(view, walk);
    let group = view.source().is_multicast() || view.destination().is_multicast();
    // An ICMPv6 error or redirect, or what may be one: a message whose type is not there.
    let later = walk.fragment.is_some_and(|fragment| fragment.offset > 0);
    let kind = data.get(walk.upper_at).filter(|_| !later);
    let error = walk.protocol == 58 && kind.is_none_or(|kind| matches!(kind, 0..128 | 137));
    assert_eq!(result.is_err(), group || error);
    let Ok(problem) = result else {
        return;
    };
    problem.append_to(&mut out);
    assert_eq!(out[..3], [1, 2, 3]);
    let problem = &out[3..];
    assert_eq!(problem.len(), (data.len() + 48).min(1280));
    assert_eq!(usize::from(u16::from_be_bytes([problem[4], problem[5]])), problem.len() - 40);
    let back = Ipv6::new(problem).unwrap();
    assert_eq!((back.source(), back.destination()), (view.destination(), view.source()));
    assert_eq!(problem[40..42], [4, 1]);
    assert_eq!(problem[44..48], (walk.protocol_at as u32).to_be_bytes());
    assert_eq!(problem[48..], data[..problem.len() - 48]);
    assert_eq!(icmpv6_checksum(back.source(), back.destination(), &problem[40..]), 0);
}

fn ipv4(data: &[u8], view: Ipv4<'_>) {
    assert_eq!(view.octets(), data);
    assert_eq!(view.data(), &data[view.header_length()..]);
    assert_eq!(view.source().octets(), data[12..16]);
    assert_eq!(view.destination().octets(), data[16..20]);
    assert_eq!(view.protocol(), data[9]);
    assert_eq!(view.fragment().is_some(), data[6] & 0x3f != 0 || data[7] != 0);
    time_to_live(data, view.header_length());
    protocol_unreachable(data, view);
}

/// Any time to live leaves a right checksum right, and all else as it was.
fn time_to_live(data: &[u8], header: usize) {
    let mut right = data.to_vec();
    right[10..12].fill(0);
    let sum = checksum(&[&right[..header]]);
    right[10..12].copy_from_slice(&sum.to_be_bytes());
    for ttl in [data[8].wrapping_sub(1), 0, 1, 255] {
        let mut changed = right.clone();
        ipv4::set_ttl(&mut changed, ttl);
        assert_eq!(ipv4::ttl(&changed), ttl);
        assert_eq!(checksum(&[&changed[..header]]), 0);
        changed[8] = right[8];
        changed[10..12].copy_from_slice(&right[10..12]);
        assert_eq!(changed, right);
    }
}

fn protocol_unreachable(data: &[u8], view: Ipv4<'_>) {
    for local in [view.source(), Ipv4Addr::new(203, 0, 113, 5)] {
        let mut out = vec![1, 2, 3];
        let Ok(error) = icmp::protocol_unreachable(view, (local, view.destination())) else {
            continue;
        };
        error.append_to(&mut out);
        assert_eq!(out[..3], [1, 2, 3]);
        let unreachable = &out[3..];
        assert!(data[12] != 0 && data[12] < 224 && data[16] < 224);
        assert_eq!(unreachable.len(), (data.len() + 28).min(576));
        assert_eq!(
            usize::from(u16::from_be_bytes([unreachable[2], unreachable[3]])),
            unreachable.len()
        );
        assert_eq!(unreachable[12..16], data[16..20]);
        assert_eq!(unreachable[16..20], data[12..16]);
        assert_eq!(unreachable[20..22], [3, 2]);
        assert_eq!(unreachable[28..], data[..unreachable.len() - 28]);
        assert_eq!(checksum(&[&unreachable[..20]]), 0);
        assert_eq!(checksum(&[&unreachable[20..]]), 0);
    }
}
