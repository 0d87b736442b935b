//! [`Gathered`]: UDP datagrams of one flow that a device gives one by one, put together into the
//! super-packet that stands for them.
//!
//! Networks and their cards join what comes of TCP, but hardly any joins UDP for whoever passes it
//! on. Data are copied, which takes less than a write of its own for each datagram. Joined are only
//! those that differ in nothing but their data, and whose checksum is right, or left to be made.

use super::checksum::{self, pseudo_ipv4, pseudo_ipv6};
use super::fields::{
    IPV4_HEADER, IPV6_HEADER, UDP_HEADER, ipv4 as field4, ipv6 as field6, protocol, put_u16,
    u16_at, udp,
};
use super::ipv4::{self, Ipv4};
use super::ipv6::Ipv6;
use super::joined::JOINED_MAX;
use super::offload::{ChecksumLeft, Offload, Segmentation};
use super::transport::Transport;

/// The longest super-packet in the other IP version: there, too, its length has to be told.
const LONGEST: usize = u16::MAX as usize - IPV4_HEADER;

/// A super-packet that is being put together, or one packet.
#[derive(Debug, Default)]
pub struct Gathered {
    packet: Vec<u8>,
    /// What is left to do about the packet, while it is only one.
    offload: Offload,
    /// Octets of its headers.
    headers: usize,
    /// Octets of data in each datagram but the last.
    size: usize,
    /// 0: there is none.
    datagrams: usize,
    /// Whether another one may follow.
    open: bool,
}

impl Gathered {
    /// Whether there is a packet.
    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// Begins with a datagram that others may be joined with. Returns false where it is none: it
    /// goes alone.
    ///
    /// # Panics
    /// In debug builds, where the one before was not [taken](Self::take).
    pub fn begin(&mut self, packet: &[u8], offload: &Offload) -> bool {
        debug_assert!(self.is_empty());
        let Some((whole, headers)) = datagram(packet, offload) else { return false };
        self.packet.clear();
        self.packet.extend_from_slice(whole);
        self.offload = *offload;
        (self.headers, self.size) = (headers, whole.len() - headers);
        (self.datagrams, self.open) = (1, true);
        true
    }

    /// Joins a datagram to those before. Returns false where it does not belong there.
    pub fn join(&mut self, packet: &[u8], offload: &Offload) -> bool {
        let may_be = self.open && (1..JOINED_MAX).contains(&self.datagrams);
        if !may_be || !self.is_alike(packet) {
            return false;
        }
        let Some((whole, headers)) = datagram(packet, offload) else { return false };
        let data = &whole[headers..];
        if data.len() > self.size || self.packet.len() - headers + data.len() > LONGEST - UDP_HEADER
        {
            return false;
        }
        self.packet.extend_from_slice(data);
        self.datagrams += 1;
        self.open = data.len() == self.size;
        true
    }

    /// Whether the headers are those of the first datagram, but for lengths and checksums.
    fn is_alike(&self, packet: &[u8]) -> bool {
        let Some(headers) = packet.get(..self.headers) else { return false };
        let (own_ip, own_upper) = self.packet[..self.headers].split_at(self.headers - UDP_HEADER);
        let (ip, upper) = headers.split_at(self.headers - UDP_HEADER);
        let ip_is_alike = if ip.len() == IPV4_HEADER {
            // Those that may be fragmented keep their identifications where they are cut again.
            let next = u16_at(own_ip, field4::IDENTIFICATION).wrapping_add(self.datagrams as u16);
            let dont_fragment = u16_at(ip, field4::FLAGS_AND_OFFSET) & field4::DONT_FRAGMENT != 0;
            own_ip[..field4::TOTAL_LENGTH] == ip[..field4::TOTAL_LENGTH]
                && (dont_fragment || u16_at(ip, field4::IDENTIFICATION) == next)
                && own_ip[field4::FLAGS_AND_OFFSET..field4::CHECKSUM]
                    == ip[field4::FLAGS_AND_OFFSET..field4::CHECKSUM]
                && own_ip[field4::SOURCE.start..] == ip[field4::SOURCE.start..]
        } else {
            own_ip[..field6::PAYLOAD_LENGTH] == ip[..field6::PAYLOAD_LENGTH]
                && own_ip[field6::NEXT_HEADER..] == ip[field6::NEXT_HEADER..]
        };
        ip_is_alike && own_upper[..udp::LENGTH] == upper[..udp::LENGTH]
    }

    /// What was gathered, and what is left to do about it: the packet itself, as it was, where
    /// nothing was joined with it. Then there is none. `None`: there was none.
    pub fn take(&mut self) -> Option<(&mut [u8], Offload)> {
        let datagrams = std::mem::take(&mut self.datagrams);
        if datagrams < 2 {
            return (datagrams == 1).then_some((&mut self.packet, self.offload));
        }
        let upper_at = self.headers - UDP_HEADER;
        let (length, upper_length) = (self.packet.len(), self.packet.len() - upper_at);
        if upper_at == IPV4_HEADER {
            put_u16(&mut self.packet, field4::TOTAL_LENGTH, length as u16);
            ipv4::set_checksum(&mut self.packet[..IPV4_HEADER]);
        } else {
            put_u16(&mut self.packet, field6::PAYLOAD_LENGTH, upper_length as u16);
        }
        let pseudo = pseudo(&self.packet, upper_length);
        let upper = &mut self.packet[upper_at..];
        put_u16(upper, udp::LENGTH, upper_length as u16);
        put_u16(upper, udp::CHECKSUM, pseudo.unwrap_or_default());
        let offload = Offload {
            checksum: Some(ChecksumLeft::of(Transport::Udp, upper_at)),
            segments: Some(Segmentation {
                transport: Transport::Udp,
                size: self.size as u16,
                headers: self.headers as u16,
                ecn: false,
            }),
        };
        Some((&mut self.packet, offload))
    }
}

/// A datagram that may be joined, cut to the length that it says, and octets of its headers. `None`
/// for one that is a fragment, has options or extension headers, no data or no checksum, or is not
/// what it says.
fn datagram<'a>(packet: &'a [u8], offload: &Offload) -> Option<(&'a [u8], usize)> {
    let (whole, upper_at) = match packet.first()? >> 4 {
        4 => {
            let view = Ipv4::whole(packet)?;
            let may_be = view.protocol() == protocol::UDP
                && view.header_length() == IPV4_HEADER
                && view.fragment().is_none();
            (may_be.then_some(view.octets())?, IPV4_HEADER)
        }
        6 => {
            let may_be = packet.get(field6::NEXT_HEADER) == Some(&protocol::UDP);
            (may_be.then(|| Ipv6::whole(packet))??.octets(), IPV6_HEADER)
        }
        _ => return None,
    };
    let upper = whole.get(upper_at..)?;
    let is_whole =
        upper.len() > UDP_HEADER && usize::from(u16_at(upper, udp::LENGTH)) == upper.len();
    if !is_whole || offload.segments.is_some() || u16_at(upper, udp::CHECKSUM) == 0 {
        return None;
    }
    let is_right = match offload.checksum {
        // Whoever sent it is on this host, or on one with the same memory.
        Some(left) => left == ChecksumLeft::of(Transport::Udp, upper_at),
        None => is_right(whole, upper),
    };
    is_right.then_some((whole, upper_at + UDP_HEADER))
}

/// Whether all checksums of a datagram are right.
fn is_right(packet: &[u8], upper: &[u8]) -> bool {
    Ipv4::new(packet).is_none_or(Ipv4::checksum_is_right)
        && pseudo(packet, upper.len())
            .is_some_and(|pseudo| checksum::with_pseudo(pseudo, &[upper]) == 0)
}

/// The sum of the pseudo-header of a datagram with so many octets behind the IP header.
fn pseudo(packet: &[u8], length: usize) -> Option<u16> {
    if let Some(view) = Ipv4::new(packet) {
        return Some(pseudo_ipv4(view.source(), view.destination(), protocol::UDP, length));
    }
    let view = Ipv6::new(packet)?;
    Some(pseudo_ipv6(view.source(), view.destination(), protocol::UDP, length))
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddrV4, SocketAddrV6};

    use super::*;
    use crate::ip::build::{ipv4_udp, ipv6_tcp, ipv6_udp};
    use crate::ip::segments::cut;

    const WHOLE: Offload = Offload { checksum: None, segments: None };

    fn datagrams(lengths: &[usize]) -> [Vec<Vec<u8>>; 2] {
        let (from4, to4): (SocketAddrV4, SocketAddrV4) =
            ("203.0.113.5:53".parse().unwrap(), "192.0.2.7:3719".parse().unwrap());
        let (from6, to6): (SocketAddrV6, SocketAddrV6) =
            ("[2001:db8::17]:1024".parse().unwrap(), "[64:ff9b::1]:443".parse().unwrap());
        let data = |place: usize| vec![place as u8; lengths[place]];
        let places = || 0..lengths.len();
        [
            // As it is cut: with one identification after the other.
            places().map(|place| identified(ipv4_udp(from4, to4, &data(place)), place)).collect(),
            places().map(|place| ipv6_udp(from6, to6, &data(place))).collect(),
        ]
    }

    fn identified(mut packet: Vec<u8>, identification: usize) -> Vec<u8> {
        put_u16(&mut packet, field4::IDENTIFICATION, identification as u16);
        ipv4::set_checksum(&mut packet[..IPV4_HEADER]);
        packet
    }

    /// As a program on the host sends it: with the checksum left to be made.
    fn unsummed(packet: &[u8]) -> (Vec<u8>, Offload) {
        let mut packet = packet.to_vec();
        let at = if packet[0] >> 4 == 4 { IPV4_HEADER } else { IPV6_HEADER };
        let left = ChecksumLeft::of(Transport::Udp, at);
        let pseudo = pseudo(&packet, packet.len() - at).unwrap();
        put_u16(&mut packet[at..], udp::CHECKSUM, pseudo);
        (packet, Offload { checksum: Some(left), segments: None })
    }

    /// What comes of these: each as soon as the next one is not joined with it.
    fn gather(packets: &[(Vec<u8>, Offload)]) -> Vec<(Vec<u8>, Offload)> {
        let (mut gathered, mut out) = (Gathered::default(), Vec::new());
        for (packet, offload) in packets {
            if gathered.join(packet, offload) {
                continue;
            }
            out.extend(gathered.take().map(|(packet, offload)| (packet.to_vec(), offload)));
            if !gathered.begin(packet, offload) {
                out.push((packet.clone(), *offload));
            }
        }
        out.extend(gathered.take().map(|(packet, offload)| (packet.to_vec(), offload)));
        assert!(gathered.is_empty() && gathered.take().is_none());
        out
    }

    fn cut_all(packets: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for (packet, offload) in packets {
            match (offload.segments, offload.checksum) {
                (Some(_), _) => all.extend(cut(packet, offload)),
                (None, Some(left)) => {
                    let mut packet = packet.clone();
                    assert!(left.make(&mut packet));
                    all.push(packet);
                }
                (None, None) => all.push(packet.clone()),
            }
        }
        all
    }

    /// So many super-packets or packets come of these.
    fn joins(packets: Vec<Vec<u8>>) -> bool {
        let whole: Vec<_> = packets.into_iter().map(|packet| (packet, WHOLE)).collect();
        gather(&whole).len() == 1
    }

    #[test]
    fn what_was_gathered_is_cut_into_the_same_datagrams() {
        for packets in datagrams(&[64, 64, 64, 64, 9]) {
            let whole: Vec<_> = packets.iter().map(|packet| (packet.clone(), WHOLE)).collect();
            let gathered = gather(&whole);
            assert_eq!(gathered.len(), 1);
            assert_eq!(cut_all(&gathered), packets);
            let unsummed: Vec<_> = packets.iter().map(|packet| unsummed(packet)).collect();
            let gathered = gather(&unsummed);
            assert_eq!(gathered.len(), 1);
            assert_eq!(cut_all(&gathered), packets);
            // Either kind with the other.
            let mixed = [whole[0].clone(), unsummed[1].clone(), whole[2].clone()];
            assert_eq!(cut_all(&gather(&mixed)), packets[..3]);
        }
    }

    #[test]
    fn a_shorter_datagram_is_the_last_and_a_longer_one_the_next_first() {
        for packets in datagrams(&[64, 64, 63, 64, 64, 65, 65]) {
            let whole: Vec<_> = packets.iter().map(|packet| (packet.clone(), WHOLE)).collect();
            let gathered = gather(&whole);
            assert_eq!(gathered.len(), 3);
            assert_eq!(cut_all(&gathered), packets);
        }
    }

    #[test]
    fn no_more_than_a_super_packet_may_have() {
        for (lengths, most) in [(vec![1; 130], JOINED_MAX), (vec![1400; 100], 46)] {
            for packets in datagrams(&lengths) {
                let whole: Vec<_> = packets.iter().map(|packet| (packet.clone(), WHOLE)).collect();
                let gathered = gather(&whole);
                let counts = gathered.iter().map(|(packet, offload)| match offload.segments {
                    Some(_) => cut(packet, offload).len(),
                    None => 1,
                });
                assert_eq!(counts.max(), Some(most));
                assert_eq!(cut_all(&gathered), packets);
            }
        }
    }

    #[test]
    fn one_alone_is_as_it_was() {
        for packets in datagrams(&[64]) {
            let mut trailing = packets[0].clone();
            trailing.push(9);
            assert_eq!(gather(&[(trailing, WHOLE)]), [(packets[0].clone(), WHOLE)]);
            let unsummed = unsummed(&packets[0]);
            assert_eq!(gather(std::slice::from_ref(&unsummed)), [unsummed]);
        }
    }

    #[test]
    fn what_is_not_alike_is_not_joined() {
        let resummed = |mut packet: Vec<u8>| {
            let (summed, offload) = {
                if packet[0] >> 4 == 4 {
                    ipv4::set_checksum(&mut packet[..IPV4_HEADER]);
                }
                unsummed(&packet)
            };
            let mut packet = summed;
            offload.checksum.unwrap().make(&mut packet);
            packet
        };
        let [ipv4, ipv6] = datagrams(&[64, 64]);
        let with = |packets: &[Vec<u8>], at: usize| {
            let mut second = packets[1].clone();
            second[at] ^= 1;
            vec![packets[0].clone(), resummed(second)]
        };
        assert!(joins(ipv4.clone()) && joins(ipv6.clone()));
        // Service, TTL, addresses, ports.
        for at in [1, 8, 15, 19, 21, 23] {
            assert!(!joins(with(&ipv4, at)), "{at}");
        }
        // Class, flow label, hop limit, addresses, ports.
        for at in [1, 3, 7, 23, 39, 41, 43] {
            assert!(!joins(with(&ipv6, at)), "{at}");
        }
        // The identification counts where it may be fragmented.
        assert!(joins(with(&ipv4, 5)));
        let fragmentable = |by: usize| {
            let packets = [0, by].map(|identification| {
                let mut packet = ipv4[0].clone();
                packet[field4::FLAGS_AND_OFFSET] = 0;
                identified(packet, identification)
            });
            joins(packets.to_vec())
        };
        assert!(fragmentable(1) && !fragmentable(0) && !fragmentable(2));
    }

    #[test]
    fn what_is_damaged_or_no_whole_datagram_goes_alone() {
        for packets in datagrams(&[64, 64]) {
            let alone = |packet: &[u8], offload: &Offload| {
                !Gathered::default().begin(packet, offload)
                    && !joins(vec![packets[0].clone(), packet.to_vec()])
            };
            let upper = packets[1].len() - 64 - UDP_HEADER;
            let mut wrong = packets[1].clone();
            wrong[upper + 20] ^= 1;
            assert!(alone(&wrong, &WHOLE));
            let mut none = packets[1].clone();
            none[upper + udp::CHECKSUM..][..2].fill(0);
            assert!(alone(&none, &WHOLE));
            let mut other_length = packets[1].clone();
            other_length[upper + 5] -= 1;
            assert!(alone(&other_length, &WHOLE));
            for end in 0..packets[1].len() {
                assert!(alone(&packets[1][..end], &WHOLE), "{end}");
            }
            let (unsummed, offload) = unsummed(&packets[1]);
            let mut elsewhere = offload;
            elsewhere.checksum = Some(ChecksumLeft::of(Transport::Tcp, upper));
            assert!(!Gathered::default().begin(&unsummed, &elsewhere));
        }
        let [ipv4, _] = datagrams(&[64, 64]);
        let mut fragment = ipv4[1].clone();
        fragment[field4::FLAGS_AND_OFFSET] = 0x20;
        ipv4::set_checksum(&mut fragment[..IPV4_HEADER]);
        let mut header = ipv4[1].clone();
        header[field4::CHECKSUM] ^= 1;
        let tcp = ipv6_tcp("[::1]:1".parse().unwrap(), "[::2]:2".parse().unwrap(), 0x10, &[7; 64]);
        for packet in [fragment, header, tcp, datagrams(&[0])[1][0].clone()] {
            assert!(!Gathered::default().begin(&packet, &WHOLE));
        }
    }
}
