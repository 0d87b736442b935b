//! The ICMP errors that a translator sends of its own (RFC 7915 sections 4.4 and 5.4).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::handoff::entry::Client;
use crate::ip::icmp::{ICMP_ERROR_MAX, ICMPV6_ERROR_MAX};
use crate::ip::packet::{
    self, ICMP_HEADER, IPV4_HEADER, IPV6_HEADER, Ipv4, Ipv6, icmp_is_error, icmpv6_is_error,
    protocol,
};

use super::{IcmpError, put_u16};

/// What a packet of ours starts with.
const HOP_LIMIT: u8 = 64;
/// ICMPv6: redirect, to which no error answers either.
const V6_REDIRECT: u8 = 137;

/// Writes an ICMPv6 error about the packet `about`, as it was received, to `out`; `from` is the translator.
/// Returns its length. `None` where RFC 4443 section 2.4 (e) forbids one, or it is not even clear whether.
pub fn ipv6_error(
    error: IcmpError,
    from: Ipv6Addr,
    about: &[u8],
    out: &mut [u8; ICMPV6_ERROR_MAX],
) -> Option<usize> {
    let view = Ipv6::new(about)?;
    if !Client::can_have(view.source()) || view.destination().is_multicast() {
        return None;
    }
    if ipv6_forbids(view) {
        return None;
    }
    let end = about.len().min(IPV6_HEADER + view.payload_length());
    let quoted = &about[..end.min(ICMPV6_ERROR_MAX - IPV6_HEADER - ICMP_HEADER)];
    let length = ICMP_HEADER + quoted.len();
    let to = view.source();
    let header = packet::ipv6_header(length, protocol::ICMPV6, HOP_LIMIT, from, to);
    out[..IPV6_HEADER].copy_from_slice(&header);
    let message = &mut out[IPV6_HEADER..IPV6_HEADER + length];
    put_message(message, error, quoted);
    let checksum = packet::icmpv6_checksum(from, to, message);
    put_u16(message, 2, checksum);
    Some(IPV6_HEADER + length)
}

/// Whether the packet is an ICMPv6 error or redirect, or may be one whose header is not there.
fn ipv6_forbids(view: Ipv6<'_>) -> bool {
    // A routing header with segments left ends the walk, and is answered.
    let Ok(walk) = view.walk() else {
        return false;
    };
    if walk.protocol != protocol::ICMPV6 {
        return false;
    }
    let later = walk.fragment.is_some_and(|fragment| !fragment.first);
    let kind = view.octets().get(walk.upper_at).copied();
    later || kind.is_none_or(|kind| icmpv6_is_error(kind) || kind == V6_REDIRECT)
}

/// Writes an ICMP error about the packet `about`, as it was received, to `out`; `from` is the translator.
/// Returns its length. `None` where RFC 1122 section 3.2.2 or RFC 1812 section 4.3.2.7 forbids one.
pub fn ipv4_error(
    error: IcmpError,
    from: Ipv4Addr,
    about: &[u8],
    out: &mut [u8; ICMP_ERROR_MAX],
) -> Option<usize> {
    let view = Ipv4::new(about)?;
    let single = |address: Ipv4Addr| !matches!(address.octets()[0], 0 | 127 | 224..);
    let later = view.fragment().is_some_and(|fragment| !fragment.first);
    let of_icmp = view.protocol() == protocol::ICMP
        && view.data().first().is_none_or(|&kind| icmp_is_error(kind));
    if later || of_icmp || !single(view.source()) || !single(view.destination()) {
        return None;
    }
    let end = about.len().min(view.total_length().max(view.header_length()));
    let quoted = &about[..end.min(ICMP_ERROR_MAX - IPV4_HEADER - ICMP_HEADER)];
    let length = IPV4_HEADER + ICMP_HEADER + quoted.len();
    let header = packet::ipv4_header(length, HOP_LIMIT, protocol::ICMP, from, view.source());
    out[..IPV4_HEADER].copy_from_slice(&header);
    let message = &mut out[IPV4_HEADER..length];
    put_message(message, error, quoted);
    let checksum = packet::checksum(&[message]);
    put_u16(message, 2, checksum);
    Some(length)
}

fn put_message(message: &mut [u8], error: IcmpError, quoted: &[u8]) {
    message[..4].copy_from_slice(&[error.kind, error.code, 0, 0]);
    message[4..ICMP_HEADER].copy_from_slice(&error.word.to_be_bytes());
    message[ICMP_HEADER..].copy_from_slice(quoted);
}
