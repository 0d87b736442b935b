//! The Internet checksum (RFC 1071), over packets and pseudo-headers, whole or by what changed.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::fields::{protocol, put_u16};
use super::transport::Transport;

/// The Internet checksum over `parts`, each but the last of even length. It is 0 over octets that
/// include a right checksum.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    // Two words at once, and in the order of this machine: RFC 1071 section 2 (B) and (C).
    let mut sum = 0_u64;
    for part in parts {
        // In lanes, so that several words are added at once.
        let (blocks, rest) = part.as_chunks::<32>();
        let mut lanes = [0_u64; 8];
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, &word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(word));
            }
        }
        sum += lanes.iter().sum::<u64>();
        let (words, rest) = rest.as_chunks::<4>();
        sum += words.iter().map(|&word| u64::from(u32::from_ne_bytes(word))).sum::<u64>();
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            sum += u64::from(u32::from_ne_bytes(last));
        }
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::from_be(fold(u32::try_from(sum).unwrap_or(u32::MAX)))
}

/// The sum in one's complement over `parts`, each but the last of even length.
pub fn sum(parts: &[&[u8]]) -> u16 {
    !checksum(parts)
}

/// RFC 1624 equation 3: the checksum after one word of 16 bits changed, or several of which `old`
/// and `new` are the [`sum`]. Where any word is not 0 it is what [`checksum`] gives: never 0xffff.
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!old) + u32::from(new))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The [`sum`] of an IPv4 pseudo-header (RFC 768, RFC 9293 section 3.1). `length` is that of the
/// transport header and all behind it.
pub fn pseudo_ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: usize) -> u16 {
    let length = (length as u16).to_be_bytes();
    sum(&[&source.octets(), &destination.octets(), &[0, protocol], &length])
}

/// The [`sum`] of an IPv6 pseudo-header (RFC 8200 section 8.1). `length` is that of the transport
/// header and all behind it.
pub fn pseudo_ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, length: usize) -> u16 {
    let length = (length as u32).to_be_bytes();
    sum(&[&source.octets(), &destination.octets(), &length, &[0, 0, 0, protocol]])
}

/// The checksum of `parts`, one behind the other, with their pseudo-header. Each part but the last
/// is of even length.
pub fn with_pseudo(pseudo: u16, parts: &[&[u8]]) -> u16 {
    update(checksum(parts), 0, pseudo)
}

/// The checksum of an ICMPv6 message, pseudo-header included (RFC 4443 section 2.3). It is 0 over a
/// message with a right checksum.
pub fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo = pseudo_ipv6(source, destination, protocol::ICMPV6, message.len());
    with_pseudo(pseudo, &[message])
}

/// Writes a checksum into the transport header that `upper` starts with.
///
/// In UDP 0 stands for no checksum, so that it is written as 0xffff, its other form (RFC 768).
pub fn put(upper: &mut [u8], transport: Transport, checksum: u16) {
    let none = transport == Transport::Udp && checksum == 0;
    put_u16(upper, transport.checksum_at(), if none { 0xffff } else { checksum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        // The example of RFC 1071 section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0xff; 65536], &[1]]), !0x0100);
    }

    #[test]
    fn a_checksum_with_many_words_replaced_is_that_of_the_new_words() {
        let (old, new, rest) = ([0xfe_u8; 32], [1_u8, 2, 3, 4, 0xff, 0xff], [7_u8, 8, 9]);
        let before = checksum(&[&old, &rest]);
        let after = checksum(&[&new, &rest]);
        assert_eq!(update(before, sum(&[&old]), sum(&[&new])), after);
        // 0 has two forms; the sum 0xffff stands for it where any word is not 0.
        assert_eq!(checksum(&[&[0xff, 0xfe, 0, 1]]), 0);
        assert_eq!(update(0xffff, 0xffff, 0xffff), 0);
    }

    #[test]
    fn pseudo_headers_are_summed_like_octets() {
        let (from, to) = (Ipv4Addr::new(203, 0, 113, 5), Ipv4Addr::new(192, 0, 2, 7));
        let upper = [1, 2, 3, 4, 5];
        let octets = [203, 0, 113, 5, 192, 0, 2, 7, 0, 17, 0, 5];
        let pseudo = pseudo_ipv4(from, to, 17, 5);
        assert_eq!(with_pseudo(pseudo, &[&upper]), checksum(&[&octets, &upper]));
        let (from, to) = (from.to_ipv6_mapped(), to.to_ipv6_mapped());
        let octets = [&from.octets()[..], &to.octets(), &[0, 0, 0, 5, 0, 0, 0, 58]].concat();
        assert_eq!(icmpv6(from, to, &upper), checksum(&[&octets, &upper]));
    }

    #[test]
    fn rfc768_a_udp_checksum_of_0_is_written_in_its_other_form() {
        let mut upper = [0; 20];
        put(&mut upper, Transport::Udp, 0);
        assert_eq!(upper[6..8], [0xff, 0xff]);
        for (transport, at) in [(Transport::Tcp, 16), (Transport::Echo, 2), (Transport::Udp, 6)] {
            put(&mut upper, transport, 0x1234);
            assert_eq!(upper[at..at + 2], [0x12, 0x34]);
        }
        put(&mut upper, Transport::Tcp, 0);
        assert_eq!(upper[16..18], [0, 0]);
    }
}
