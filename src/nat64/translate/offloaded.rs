//! Packets that come from a device with offloads and go back to it: super-packets, and checksums
//! that are left to make. Only headers change, and no octet of the data is looked at.
//!
//! Not here: all that takes more than that, as fragments and ICMP. Such a packet is cut and its
//! checksum made ([`crate::ip::segments`]), and goes the way of all.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::carried::Carried;
use super::from_ipv4::Ipv4Packet;
use super::from_ipv6::Ipv6Packet;
use super::upper::{self, Update};
use super::{Limits, Rewrite, Transport};
use crate::ip::checksum::update;
use crate::ip::fields::{IPV4_HEADER, IPV6_HEADER, TCP_HEADER, put_u16, u16_at};
use crate::ip::ipv4;
use crate::ip::offload::{ChecksumLeft, Offload, Segmentation, transport_header};

/// The longest headers that are written: the rest of TCP's, its options, stays as it is.
const HEADERS_MAX: usize = IPV6_HEADER + TCP_HEADER;

/// A packet with other headers before the same data.
#[derive(Debug)]
pub struct Forwarded<'a> {
    /// What the device has left to do.
    pub offload: Offload,
    headers: [u8; HEADERS_MAX],
    headers_length: usize,
    /// What stands behind these headers.
    pub rest: &'a [u8],
}

impl Forwarded<'_> {
    /// What stands before [`Self::rest`].
    pub fn headers(&self) -> &[u8] {
        &self.headers[..self.headers_length]
    }

    /// What is to be written in front of [`Self::rest`], where that stands.
    pub fn in_place(self) -> NewHeaders {
        let Self { offload, headers, headers_length, rest } = self;
        NewHeaders { offload, headers, length: headers_length, rest: rest.len() }
    }
}

/// The headers of a packet whose data stay where they are.
#[derive(Debug)]
pub struct NewHeaders {
    /// What there is left to do about the packet.
    pub offload: Offload,
    headers: [u8; HEADERS_MAX],
    length: usize,
    /// Octets behind them.
    rest: usize,
}

impl NewHeaders {
    /// Writes them into `buffer`, which ends with the packet as it was. Returns where it begins
    /// now.
    ///
    /// # Panics
    /// There are fewer than 20 octets before the packet, which may grow.
    pub fn write(&self, buffer: &mut [u8]) -> usize {
        let end = buffer.len() - self.rest;
        let start = end - self.length;
        buffer[start..end].copy_from_slice(&self.headers[..self.length]);
        start
    }
}

/// Of a packet of which headers alone change: what both ways need to know.
#[derive(Debug, Clone, Copy)]
struct HeaderChange {
    transport: Transport,
    /// Octets of its transport header, options included.
    transport_header: usize,
    /// Octets of the longest segment behind the IP header.
    longest: usize,
}

impl HeaderChange {
    /// `None` where more than headers is to be changed: a fragment, ICMP, a UDP datagram without a
    /// checksum, or a checksum that is left of something else.
    /// Of what stands behind the IP header `upper` is the beginning, with the whole transport
    /// header, and `length` says how long it is.
    fn of<E>(
        body: &Carried<E>,
        (upper, length): (&[u8], usize),
        upper_at: usize,
        offload: &Offload,
    ) -> Option<Self> {
        let Carried::Transport(transport @ (Transport::Tcp | Transport::Udp)) = *body else {
            return None;
        };
        if offload.checksum.is_some_and(|left| left != ChecksumLeft::of(transport, upper_at)) {
            return None;
        }
        if offload.segments.is_some_and(|segments| segments.transport != transport) {
            return None;
        }
        if transport == Transport::Udp && upper::udp_without_checksum(upper) {
            return None;
        }
        let transport_header = transport_header(transport, upper)?;
        let data = length.checked_sub(transport_header)?;
        let segment = offload.segments.map_or(data, |segments| data.min(segments.size.into()));
        Some(Self { transport, transport_header, longest: transport_header + segment })
    }

    /// Puts the transport header behind `ip_header`, changed. A checksum that is left holds the sum
    /// of the pseudo-header, in which no port is.
    fn forward<'a>(
        self,
        ip_header: &[u8],
        upper: &'a [u8],
        update_by: Update,
        offload: &Offload,
    ) -> Forwarded<'a> {
        let (start, fixed) = (ip_header.len(), self.transport.header_length());
        let (front, rest) = upper.split_at(fixed);
        let mut headers = [0; HEADERS_MAX];
        headers[..start].copy_from_slice(ip_header);
        let ours = &mut headers[start..start + fixed];
        ours.copy_from_slice(front);
        let left = offload.checksum.map(|_| ChecksumLeft::of(self.transport, start));
        if left.is_some() {
            let at = self.transport.checksum_at();
            let sum = !update(!u16_at(ours, at), update_by.before, update_by.after);
            update_by.apply(ours);
            put_u16(ours, at, sum);
        } else {
            update_by.apply(ours);
        }
        let segments = offload.segments.map(|segments| Segmentation {
            headers: (start + self.transport_header) as u16,
            ..segments
        });
        let offload = Offload { checksum: left, segments };
        Forwarded { offload, headers, headers_length: start + fixed, rest }
    }
}

impl<'a> Ipv6Packet<'a> {
    /// The packet as IPv4, where that takes other headers alone: it is TCP or UDP, whole, and no
    /// segment of it is too long. `None` where it is not that simple. Else as [`Self::to_ipv4`].
    pub fn forward_to_ipv4(
        &self,
        offload: &Offload,
        rewrite: &Rewrite<Ipv4Addr>,
        identification: u16,
        limits: &Limits,
    ) -> Option<Forwarded<'a>> {
        let length = self.upper_length();
        let upper_at = self.walk.upper_at;
        let change = HeaderChange::of(&self.body, (self.upper, length), upper_at, offload)?;
        let (end, longest) = (IPV4_HEADER + length, IPV4_HEADER + change.longest);
        let fits = longest <= usize::from(limits.ipv4_mtu) && end <= usize::from(u16::MAX);
        if !fits || self.walk.fragment.is_some() || self.view.hop_limit() <= 1 {
            return None;
        }
        let mut header =
            self.header(change.transport, end, longest, rewrite, identification, limits);
        ipv4::set_checksum(&mut header);
        Some(change.forward(&header, self.upper, self.update(change.transport, rewrite), offload))
    }
}

impl<'a> Ipv4Packet<'a> {
    /// The packet as IPv6, likewise. Else as [`Self::to_ipv6`].
    pub fn forward_to_ipv6(
        &self,
        offload: &Offload,
        rewrite: &Rewrite<Ipv6Addr>,
        limits: &Limits,
    ) -> Option<Forwarded<'a>> {
        let upper_at = self.view.header_length();
        let upper = (self.upper, self.upper.len());
        let change = HeaderChange::of(&self.body, upper, upper_at, offload)?;
        let mtu = if self.view.dont_fragment() { limits.ipv6_mtu } else { limits.path_mtu() };
        let fits = IPV6_HEADER + change.longest <= usize::from(mtu);
        if !fits || self.view.fragment().is_some() || self.view.ttl() <= 1 {
            return None;
        }
        let protocol = change.transport.ipv6_protocol();
        let mut header = self.header(protocol, rewrite.service, rewrite.client, limits);
        put_u16(&mut header, crate::ip::fields::ipv6::PAYLOAD_LENGTH, self.upper.len() as u16);
        Some(change.forward(&header, self.upper, self.update(change.transport, rewrite), offload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::build::{ipv4_tcp, ipv4_udp, ipv6_tcp, ipv6_udp};
    use crate::ip::checksum::{pseudo_ipv4, pseudo_ipv6};
    use crate::ip::segments::cut;
    use crate::nat64::translate::GROWTH_MAX;

    const FLAGS: u8 = 0x18;

    fn limits() -> Limits {
        Limits::new(1500, 1500).unwrap()
    }

    fn to_ipv4() -> Rewrite<Ipv4Addr> {
        Rewrite {
            client: Ipv4Addr::new(192, 0, 2, 7),
            client_port: 3719,
            service: Ipv4Addr::new(203, 0, 113, 5),
        }
    }

    fn to_ipv6() -> Rewrite<Ipv6Addr> {
        Rewrite {
            client: "2001:db8::17".parse().unwrap(),
            client_port: 53186,
            service: "64:ff9b::203.0.113.5".parse().unwrap(),
        }
    }

    /// Packets of a client and of a service with so much data, over TCP and UDP.
    fn packets(data: &[u8]) -> Vec<(Transport, Vec<u8>)> {
        let (client, there) =
            ("[2001:db8::17]:53186".parse().unwrap(), "[64:ff9b::203.0.113.5]:80".parse().unwrap());
        let (service, nat64) =
            ("203.0.113.5:80".parse().unwrap(), "192.0.2.7:3719".parse().unwrap());
        vec![
            (Transport::Tcp, ipv6_tcp(client, there, FLAGS, data)),
            (Transport::Udp, ipv6_udp(client, there, data)),
            (Transport::Tcp, ipv4_tcp(service, nat64, FLAGS, data)),
            (Transport::Udp, ipv4_udp(service, nat64, data)),
        ]
    }

    /// The packet as a device gives it whose checksum is left.
    fn leave_checksum(packet: &mut [u8], transport: Transport) -> usize {
        let is_ipv6 = packet[0] >> 4 == 6;
        let start = if is_ipv6 { IPV6_HEADER } else { IPV4_HEADER };
        let (protocol, length) = (transport.ipv4_protocol(), packet.len() - start);
        let pseudo = if is_ipv6 {
            let view = crate::ip::ipv6::Ipv6::new(packet).unwrap();
            pseudo_ipv6(view.source(), view.destination(), protocol, length)
        } else {
            let view = ipv4::Ipv4::new(packet).unwrap();
            pseudo_ipv4(view.source(), view.destination(), protocol, length)
        };
        put_u16(packet, start + transport.checksum_at(), pseudo);
        start
    }

    fn translated(packet: &[u8]) -> Vec<u8> {
        let mut out = vec![0; packet.len() + GROWTH_MAX];
        let mut packets = if packet[0] >> 4 == 6 {
            Ipv6Packet::parse(packet).unwrap().to_ipv4(&to_ipv4(), 7, &limits(), &mut out)
        } else {
            Ipv4Packet::parse(packet).unwrap().to_ipv6(&to_ipv6(), &limits(), &mut out)
        }
        .unwrap();
        packets.next_packet().unwrap().to_vec()
    }

    fn forwarded<'a>(packet: &'a [u8], offload: &Offload) -> Option<Forwarded<'a>> {
        if packet[0] >> 4 == 6 {
            let packet = Ipv6Packet::parse(packet).unwrap();
            packet.forward_to_ipv4(offload, &to_ipv4(), 7, &limits())
        } else {
            let packet = Ipv4Packet::parse(packet).unwrap();
            packet.forward_to_ipv6(offload, &to_ipv6(), &limits())
        }
    }

    fn whole(forwarded: &Forwarded<'_>) -> Vec<u8> {
        [forwarded.headers(), forwarded.rest].concat()
    }

    /// A super-packet that is translated and cut is what is cut and translated.
    #[test]
    fn super_packets_become_what_their_segments_become() {
        let data: Vec<u8> = (0..=250).cycle().take(60_001).collect();
        for size in [1, 536, 1200, 1400] {
            for (transport, mut packet) in packets(&data[..size * 40 + 1]) {
                let start = leave_checksum(&mut packet, transport);
                let size = size as u16;
                let segments = Some(Segmentation { transport, size, headers: 0, ecn: true });
                let checksum = Some(ChecksumLeft::of(transport, start));
                let offload = Offload { checksum, segments };
                let forwarded = forwarded(&packet, &offload).expect("it is simple");
                let ours = cut(&whole(&forwarded), &forwarded.offload);
                assert_eq!(ours.len(), 41);
                for (number, (ours, theirs)) in ours.iter().zip(cut(&packet, &offload)).enumerate()
                {
                    let mut expected = translated(&theirs);
                    if expected[0] >> 4 == 4 {
                        put_u16(&mut expected, 4, 7 + number as u16);
                        // The last segment is short enough to be cut, and its like are not.
                        put_u16(&mut expected, 6, u16_at(ours, 6));
                        ipv4::set_checksum(&mut expected[..20]);
                    }
                    assert_eq!(*ours, expected, "{transport:?}, {size} octets, segment {number}");
                }
                let ecn = forwarded.offload.segments.unwrap();
                assert!(ecn.ecn && usize::from(ecn.headers) == forwarded.headers().len());
            }
        }
    }

    #[test]
    fn headers_alone_become_what_the_whole_packet_does() {
        for (transport, mut packet) in packets(&[0x5a; 40_000]) {
            let start = leave_checksum(&mut packet, transport);
            let segments = Some(Segmentation { transport, size: 1000, headers: 0, ecn: false });
            let offload = Offload { checksum: Some(ChecksumLeft::of(transport, start)), segments };
            let expected = forwarded(&packet, &offload).expect("it is simple");
            let (expected, left) = (whole(&expected), expected.offload);
            if start == IPV6_HEADER {
                let (front, data) = packet.split_at(start + transport.header_length());
                let front = Ipv6Packet::of_headers(front).unwrap();
                let ours = front.forward_to_ipv4(&offload, &to_ipv4(), 7, &limits()).unwrap();
                assert_eq!(
                    ([&whole(&ours), data].concat(), ours.offload),
                    (expected.clone(), left)
                );
                assert!(Ipv6Packet::of_headers(&packet[..start + 7]).is_none());
            }
            // Where it stands.
            let new = forwarded(&packet, &offload).unwrap().in_place();
            let mut buffer = [vec![0xff; 20], packet.clone()].concat();
            let begins = new.write(&mut buffer);
            assert_eq!((&buffer[begins..], new.offload), (&expected[..], left));
            assert_eq!(begins, if start == IPV6_HEADER { 40 } else { 0 });
        }
    }

    #[test]
    fn one_packet_becomes_the_same_whether_its_checksum_is_made_or_left() {
        for length in [0, 1, 2, 999, 1400] {
            for (transport, packet) in packets(&vec![0xa5; length]) {
                let expected = translated(&packet);
                let made = forwarded(&packet, &Offload::default()).expect("it is simple");
                assert_eq!((whole(&made), made.offload), (expected.clone(), Offload::default()));
                let mut left = packet.clone();
                let start = leave_checksum(&mut left, transport);
                let checksum = Some(ChecksumLeft::of(transport, start));
                let offload = Offload { checksum, segments: None };
                let forwarded = forwarded(&left, &offload).expect("it is simple");
                let mut ours = whole(&forwarded);
                assert!(forwarded.offload.checksum.unwrap().make(&mut ours));
                assert_eq!(ours, expected);
            }
        }
    }

    #[test]
    fn what_is_not_simple_goes_the_way_of_all() {
        let left = |transport, start| Some(ChecksumLeft::of(transport, start));
        for (transport, packet) in packets(&[7; 4000]) {
            let is_ipv6 = packet[0] >> 4 == 6;
            let start = if is_ipv6 { 40 } else { 20 };
            let cut_at = |size| {
                let segments = Some(Segmentation { transport, size, headers: 0, ecn: false });
                Offload { checksum: left(transport, start), segments }
            };
            // Too long for the link, as one or in its segments.
            assert!(forwarded(&packet, &Offload::default()).is_none());
            let (headers, growth) =
                (start + transport.header_length(), if is_ipv6 { 0 } else { 20 });
            let most = 1500 - headers - growth + if is_ipv6 { 20 } else { 0 };
            assert!(forwarded(&packet, &cut_at(most as u16)).is_some());
            assert!(forwarded(&packet, &cut_at(most as u16 + 1)).is_none());
            // Another's checksum, and another's segments.
            let offload = cut_at(1000);
            let other = Offload { checksum: left(transport, start + 8), ..offload };
            assert!(forwarded(&packet, &other).is_none());
            let other = if transport == Transport::Tcp { Transport::Udp } else { Transport::Tcp };
            let segments = offload.segments.map(|of| Segmentation { transport: other, ..of });
            assert!(forwarded(&packet, &Offload { segments, ..offload }).is_none());
            // It ends here, and somebody is to be told.
            let mut last = packet.clone();
            if is_ipv6 {
                last[7] = 1;
            } else {
                ipv4::set_ttl(&mut last, 1);
            }
            assert!(forwarded(&last, &cut_at(1000)).is_none());
        }
    }
}
