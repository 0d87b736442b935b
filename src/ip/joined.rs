//! [`Joined`]: IPv6 packets of one flow, joined into the super-packet that stands for them, as GRO
//! does: the reverse of [`Segments`](super::segments::Segments).
//!
//! Data are not copied: whoever holds the packets writes the front of the super-packet, and behind
//! it the data of each. Only packets whose checksum is right are joined, as whoever takes a
//! super-packet believes that.

use std::ops::Range;

use super::checksum::{self, pseudo_ipv6};
use super::fields::{
    IPV4_HEADER, IPV6_HEADER, ipv6 as field, protocol, put_u16, tcp, u16_at, u32_at, udp,
};
use super::ipv6::Ipv6;
use super::offload::{ChecksumLeft, Offload, Segmentation, transport_header};
use super::transport::Transport;

/// The most packets that are joined: every kernel takes so many segments of UDP.
pub const JOINED_MAX: usize = 64;
/// The longest super-packet: as IPv4, it counts its header in its length.
const LONGEST: usize = u16::MAX as usize - IPV4_HEADER + IPV6_HEADER;
/// The longest headers: IPv6's without extension headers, and TCP's with all options.
const FRONT_MAX: usize = IPV6_HEADER + 60;

/// A super-packet that is being put together.
#[derive(Debug, Clone)]
pub struct Joined {
    transport: Transport,
    /// The headers of the first packet.
    front: [u8; FRONT_MAX],
    headers: usize,
    /// Octets of data in each packet but the last.
    size: usize,
    /// Octets of data so far.
    data: usize,
    packets: usize,
    /// Whether another packet may follow.
    open: bool,
    /// Whether the last packet's data is to be pushed to the program.
    pushed: bool,
}

/// Super-packets that are put together at once, each of another flow.
const FLOWS_MAX: usize = 8;

/// Gives `write` all of `packets`: as one super-packet those of a flow that follow each other, its
/// front and the data of each, and any other as it is. Packets of other flows may stand between
/// them, and are then written earlier or later; those of one flow keep their order. `udp` is as for
/// [`Joined::begin`].
pub fn join_each<'a>(
    packets: impl Iterator<Item = &'a [u8]>,
    udp: bool,
    mut write: impl FnMut(&Offload, &[u8], &[&[u8]]),
) {
    let mut flows = const { [const { None::<JoinedFlow<'a>> }; FLOWS_MAX] };
    // The place of the last packet's flow, and of the next one that begins.
    let (mut last, mut next) = (0, 0);
    for packet in packets {
        let joins =
            |flow: &mut Option<JoinedFlow<'a>>| flow.as_mut().is_some_and(|flow| flow.join(packet));
        // Mostly it is that of the packet before.
        if joins(&mut flows[last]) {
            continue;
        }
        if let Some(at) = flows.iter_mut().position(joins) {
            last = at;
            continue;
        }
        let mut place = None;
        for (at, flow) in flows.iter_mut().enumerate() {
            if let Some(before) = flow.take_if(|flow| flow.precedes(packet)) {
                before.write(&mut write);
                place = Some(at);
            }
        }
        let Some((joined, data)) = Joined::begin(packet, udp) else {
            write(&Offload::default(), packet, &[]);
            continue;
        };
        last = place.unwrap_or(next);
        if place.is_none() {
            next = (next + 1) % FLOWS_MAX;
        }
        if let Some(before) = flows[last].replace(JoinedFlow::of(packet, joined, data)) {
            before.write(&mut write);
        }
    }
    flows.into_iter().flatten().for_each(|flow| flow.write(&mut write));
}

/// A super-packet, and the packets that it is made of.
struct JoinedFlow<'a> {
    joined: Joined,
    first: &'a [u8],
    /// The data of each.
    parts: [&'a [u8]; JOINED_MAX],
}

impl<'a> JoinedFlow<'a> {
    fn of(first: &'a [u8], joined: Joined, data: Range<usize>) -> Self {
        let mut parts: [&[u8]; JOINED_MAX] = [&[]; JOINED_MAX];
        parts[0] = &first[data];
        Self { joined, first, parts }
    }

    /// Returns whether the packet belongs there, and is joined.
    fn join(&mut self, packet: &'a [u8]) -> bool {
        let Some(data) = self.joined.join(packet) else { return false };
        self.parts[self.joined.packets() - 1] = &packet[data];
        true
    }

    /// Whether the packet must not be written before this one: it is of the same flow, or cannot be
    /// told to be of another one of the same two hosts.
    fn precedes(&self, packet: &[u8]) -> bool {
        let own = |range: Range<usize>| self.first.get(range);
        let same = |range: Range<usize>| own(range.clone()) == packet.get(range);
        same(field::SOURCE.start..field::DESTINATION.end)
            && (own(field::NEXT_HEADER..field::NEXT_HEADER + 1)
                != packet.get(field::NEXT_HEADER..field::NEXT_HEADER + 1)
                || same(IPV6_HEADER..IPV6_HEADER + 4))
    }

    fn write(mut self, write: &mut impl FnMut(&Offload, &[u8], &[&[u8]])) {
        let count = self.joined.packets();
        if count == 1 {
            write(&Offload::default(), self.first, &[]);
        } else {
            let (front, offload) = self.joined.finish();
            write(&offload, front, &self.parts[..count]);
        }
    }
}

/// Where the data of a packet that may be joined stand.
struct Part {
    transport: Transport,
    data: Range<usize>,
}

impl Part {
    /// `None` where the packet goes alone: it is not TCP or UDP, or says more than that here are
    /// data, or its checksum is not right.
    fn of(packet: &[u8]) -> Option<Self> {
        let view = Ipv6::whole(packet)?;
        let transport = Transport::of(packet[field::NEXT_HEADER])?;
        let upper = view.octets().get(IPV6_HEADER..)?;
        let header = transport_header(transport, upper)?;
        let alone = match transport {
            Transport::Tcp => upper[tcp::FLAGS] & !(tcp::PSH | tcp::ECE) != tcp::ACK,
            // IPv6 has no datagrams without a checksum, and another length is not ours to mend.
            _ => {
                u16_at(upper, udp::CHECKSUM) == 0
                    || usize::from(u16_at(upper, udp::LENGTH)) != upper.len()
            }
        };
        if alone || upper.len() == header {
            return None;
        }
        let protocol = transport.ipv6_protocol();
        let pseudo = pseudo_ipv6(view.source(), view.destination(), protocol, upper.len());
        if checksum::with_pseudo(pseudo, &[upper]) != 0 {
            return None;
        }
        Some(Self { transport, data: IPV6_HEADER + header..IPV6_HEADER + upper.len() })
    }

    fn is_pushed(&self, packet: &[u8]) -> bool {
        self.transport == Transport::Tcp && packet[IPV6_HEADER + tcp::FLAGS] & tcp::PSH != 0
    }
}

impl Joined {
    /// Begins with a packet, whose data stand where is said; with one of UDP where whoever takes it
    /// knows super-packets of `udp`. `None`: it goes alone.
    pub fn begin(packet: &[u8], udp: bool) -> Option<(Self, Range<usize>)> {
        if !udp && packet.get(field::NEXT_HEADER) == Some(&protocol::UDP) {
            return None;
        }
        let part = Part::of(packet)?;
        let headers = part.data.start;
        let mut front = [0; FRONT_MAX];
        front[..headers].copy_from_slice(&packet[..headers]);
        let pushed = part.is_pushed(packet);
        let size = part.data.len();
        let joined = Self {
            transport: part.transport,
            front,
            headers,
            size,
            data: size,
            packets: 1,
            open: !pushed,
            pushed,
        };
        Some((joined, part.data))
    }

    /// Joins the packet behind the last one. Returns where its data stand, or `None` where it does
    /// not belong there.
    pub fn join(&mut self, packet: &[u8]) -> Option<Range<usize>> {
        if !self.open || self.packets == JOINED_MAX || !self.is_next(packet) {
            return None;
        }
        let part = Part::of(packet).filter(|part| part.data.start == self.headers)?;
        let longest = LONGEST - self.headers;
        if part.data.len() > self.size || self.data + part.data.len() > longest {
            return None;
        }
        self.packets += 1;
        self.data += part.data.len();
        self.pushed = part.is_pushed(packet);
        self.open = !self.pushed && part.data.len() == self.size;
        Some(part.data)
    }

    /// Whether the headers are those of the packet that follows, but for what its own data are.
    fn is_next(&self, packet: &[u8]) -> bool {
        let Some(headers) = packet.get(..self.headers) else { return false };
        let front = &self.front[..self.headers];
        let (ip, upper) = front.split_at(IPV6_HEADER);
        let (own_ip, own_upper) = headers.split_at(IPV6_HEADER);
        let same = |range: Range<usize>| upper[range.clone()] == own_upper[range];
        ip[..field::PAYLOAD_LENGTH] == own_ip[..field::PAYLOAD_LENGTH]
            && ip[field::NEXT_HEADER..] == own_ip[field::NEXT_HEADER..]
            && same(0..4)
            && match self.transport {
                Transport::Tcp => {
                    let sequence = |upper| u32_at(upper, tcp::SEQUENCE.start);
                    sequence(own_upper) == sequence(upper).wrapping_add(self.data as u32)
                        && same(tcp::SEQUENCE.end..tcp::FLAGS)
                        && (upper[tcp::FLAGS] ^ own_upper[tcp::FLAGS]) & !tcp::PSH == 0
                        && same(tcp::FLAGS + 1..tcp::CHECKSUM)
                        && same(tcp::CHECKSUM + 2..upper.len())
                }
                _ => true,
            }
    }

    /// How many packets it stands for.
    pub fn packets(&self) -> usize {
        self.packets
    }

    /// The front of the super-packet, and what is left to do about it. One packet alone is to be
    /// passed on as it is instead.
    pub fn finish(&mut self) -> (&[u8], Offload) {
        let length = self.headers - IPV6_HEADER + self.data;
        put_u16(&mut self.front, field::PAYLOAD_LENGTH, length as u16);
        let protocol = self.transport.ipv6_protocol();
        let pseudo = Ipv6::new(&self.front)
            .map_or(0, |view| pseudo_ipv6(view.source(), view.destination(), protocol, length));
        let upper = &mut self.front[IPV6_HEADER..];
        put_u16(upper, self.transport.checksum_at(), pseudo);
        match self.transport {
            Transport::Tcp if self.pushed => upper[tcp::FLAGS] |= tcp::PSH,
            Transport::Tcp => {}
            _ => put_u16(upper, udp::LENGTH, length as u16),
        }
        let segments = Segmentation {
            transport: self.transport,
            size: self.size as u16,
            headers: self.headers as u16,
            ecn: false,
        };
        let checksum = Some(ChecksumLeft::of(self.transport, IPV6_HEADER));
        (&self.front[..self.headers], Offload { checksum, segments: Some(segments) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use proptest::prelude::*;

    use super::*;
    use crate::ip::build::{ipv6_tcp, ipv6_udp};
    use crate::ip::segments::cut;

    fn ends() -> (SocketAddrV6, SocketAddrV6) {
        ("[2001:db8::17]:1024".parse().unwrap(), "[64:ff9b::1]:80".parse().unwrap())
    }

    /// A TCP segment whose data begin at `sequence`, changed by `edit` before its checksum is made.
    fn segment(sequence: u32, data: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let (from, to) = ends();
        let mut packet = ipv6_tcp(from, to, tcp::ACK, data);
        packet[44..48].copy_from_slice(&sequence.to_be_bytes());
        edit(&mut packet);
        put_u16(&mut packet, 40 + tcp::CHECKSUM, 0);
        let view = Ipv6::new(&packet).unwrap();
        let pseudo = pseudo_ipv6(view.source(), view.destination(), 6, packet.len() - 40);
        let sum = checksum::with_pseudo(pseudo, &[&packet[40..]]);
        put_u16(&mut packet, 40 + tcp::CHECKSUM, sum);
        packet
    }

    /// Joins as many as can be, and returns how many that were, and the super-packet.
    fn join(packets: &[Vec<u8>]) -> Option<(usize, Vec<u8>, Offload)> {
        let (mut joined, data) = Joined::begin(&packets[0], true)?;
        let mut all = packets[0][data].to_vec();
        for packet in &packets[1..] {
            let Some(data) = joined.join(packet) else { break };
            all.extend_from_slice(&packet[data]);
        }
        let packets = joined.packets();
        let (front, offload) = joined.finish();
        Some((packets, [front, &all].concat(), offload))
    }

    #[test]
    fn what_was_joined_is_cut_into_the_same_packets() {
        let data: Vec<u8> = (0..=255).cycle().take(2500).collect();
        let start = 0xffff_fc00_u32;
        let part = |from: usize, to: usize, push| {
            segment(start.wrapping_add(from as u32), &data[from..to], |packet| {
                packet[53] |= if push { tcp::PSH } else { 0 };
            })
        };
        let packets = [part(0, 1000, false), part(1000, 2000, false), part(2000, 2500, true)];
        let (count, whole, offload) = join(&packets).unwrap();
        assert_eq!(count, 3);
        assert_eq!(cut(&whole, &offload), packets);
        let (from, to) = ends();
        let packets: Vec<_> = data.chunks(600).map(|data| ipv6_udp(from, to, data)).collect();
        let (count, whole, offload) = join(&packets).unwrap();
        assert_eq!(count, 5);
        assert_eq!(cut(&whole, &offload), packets);
    }

    #[test]
    fn all_of_a_flow_are_written_in_order_and_datagrams_alone_where_nobody_knows_them_joined() {
        let (from, to) = ends();
        let udp = |data: &[u8]| ipv6_udp(from, to, data);
        let packets = [
            segment(0, &[1; 100], |_| {}),
            segment(100, &[2; 100], |_| {}),
            udp(&[3; 50]),
            udp(&[4; 50]),
            vec![0x60],
            segment(200, &[5; 100], |_| {}),
        ];
        // What is no packet is of no flow, and waits for none.
        let expected: [(bool, [usize; 6], &[usize]); 2] = [
            (true, [0, 1, 4, 2, 3, 5], &[2, 0, 2, 0]),
            (false, [0, 1, 2, 3, 4, 5], &[2, 0, 0, 0, 0]),
        ];
        for (joins_udp, order, counts) in expected {
            let in_order: Vec<_> = order.iter().map(|&at| packets[at].clone()).collect();
            assert_eq!(written(&packets, joins_udp), (in_order, counts.to_vec()));
        }
    }

    /// A segment of one of several flows.
    fn of_flow(flow: u8, sequence: u32, data: &[u8], flags: u8) -> Vec<u8> {
        segment(sequence, data, |packet| (packet[41], packet[53]) = (flow, flags))
    }

    /// What is written, cut again, and how many data stand behind the front of each write.
    fn written(packets: &[Vec<u8>], udp: bool) -> (Vec<Vec<u8>>, Vec<usize>) {
        let (mut written, mut counts) = (Vec::new(), Vec::new());
        join_each(packets.iter().map(Vec::as_slice), udp, |offload, front, rest| {
            counts.push(rest.len());
            let whole = [front, &rest.concat()].concat();
            match offload.segments {
                Some(_) => written.extend(cut(&whole, offload)),
                None => written.push(whole),
            }
        });
        (written, counts)
    }

    #[test]
    fn flows_in_turns_are_joined_each() {
        let turns = |flows: u8| -> Vec<_> {
            let turn = |number| (0..flows).map(move |flow| (flow, number));
            let packet = |(flow, number)| of_flow(flow, number * 100, &[flow; 100], tcp::ACK);
            (0..8_u32).flat_map(turn).map(packet).collect()
        };
        let (all, counts) = written(&turns(8), true);
        assert_eq!((all.len(), counts.len()), (64, 8));
        // One more than are kept: as many packets as before, though not joined.
        assert_eq!(written(&turns(9), true).0.len(), 72);
    }

    proptest! {
        #[test]
        fn no_packet_of_a_flow_overtakes_another(
            steps in proptest::collection::vec((0..12_u8, 0..12_u8, 1..4_usize), 0..120),
        ) {
            let mut sequences = [0_u32; 12];
            let packets: Vec<_> = steps.iter().map(|&(flow, kind, length)| {
                let sequence = &mut sequences[usize::from(flow)];
                let (flags, data) = match kind {
                    0 => (tcp::ACK | tcp::FIN, vec![flow; length]),
                    1 => (tcp::ACK, vec![]),
                    2 => (tcp::ACK | tcp::PSH, vec![flow; length]),
                    _ => (tcp::ACK, vec![flow; 3]),
                };
                // A gap.
                *sequence += u32::from(kind == 3);
                let packet = of_flow(flow, *sequence, &data, flags);
                *sequence += data.len() as u32;
                packet
            }).collect();
            let (written, _) = written(&packets, true);
            prop_assert_eq!(written.len(), packets.len());
            for flow in 0..12 {
                let own = |all: &[Vec<u8>]| -> Vec<_> {
                    all.iter().filter(|packet| packet[41] == flow).cloned().collect()
                };
                prop_assert_eq!(own(&written), own(&packets));
            }
        }

        /// What says nothing of ports keeps its place between two hosts.
        #[test]
        fn a_fragment_overtakes_nothing_of_its_hosts(place in 0..10_usize) {
            let mut packets: Vec<_> =
                (0..10).map(|number| of_flow(number % 3, u32::from(number / 3), &[1], tcp::ACK)).collect();
            let mut fragment = packets[0].clone();
            fragment[6] = protocol::FRAGMENT;
            packets.insert(place, fragment.clone());
            let (written, _) = written(&packets, true);
            let at = written.iter().position(|packet| *packet == fragment);
            prop_assert_eq!(at, Some(place));
        }
    }

    #[test]
    fn what_does_not_follow_is_not_joined() {
        let first = segment(0, &[1; 100], |_| {});
        let joins = |packet: Vec<u8>| join(&[first.clone(), packet]).unwrap().0 == 2;
        assert!(joins(segment(100, &[2; 100], |_| {})));
        assert!(joins(segment(100, &[2; 1], |packet| packet[53] |= tcp::PSH)));
        // Not the next one, longer, without data, with another sign, class, hop limit, address,
        // port, acknowledgment, window or urgent pointer.
        assert!(!joins(segment(99, &[2; 100], |_| {})));
        assert!(!joins(segment(100, &[2; 101], |_| {})));
        assert!(!joins(segment(100, &[], |_| {})));
        for flag in [tcp::FIN, tcp::SYN, tcp::RST, tcp::CWR, tcp::ECE, 0x20] {
            assert!(!joins(segment(100, &[2; 100], |packet| packet[53] ^= flag)), "{flag}");
        }
        assert!(!joins(segment(100, &[2; 100], |packet| packet[53] = 0)));
        for at in [1, 3, 7, 23, 39, 41, 43, 51, 55, 59] {
            assert!(!joins(segment(100, &[2; 100], |packet| packet[at] ^= 1)), "{at}");
        }
        // A wrong checksum, and a packet that is cut short anywhere.
        let mut wrong = segment(100, &[2; 100], |_| {});
        wrong[100] ^= 1;
        assert!(!joins(wrong.clone()) && Joined::begin(&wrong, true).is_none());
        let right = segment(100, &[2; 100], |_| {});
        assert!((0..right.len()).all(|end| !joins(right[..end].to_vec())));
        assert!((0..right.len()).all(|end| Joined::begin(&right[..end], true).is_none()));
        // What stands behind the packet is no part of it.
        let (count, whole, _) = join(&[first.clone(), [right, vec![9]].concat()]).unwrap();
        assert_eq!((count, whole.len()), (2, 260));
        // Other options, and other lengths of them.
        let timestamps = |sequence, value| {
            segment(sequence, &[[1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 0], [7; 12]].concat(), |p| {
                p[52] = 8 << 4;
            })
        };
        assert_eq!(join(&[timestamps(0, 1), timestamps(12, 1)]).unwrap().0, 2);
        assert_eq!(join(&[timestamps(0, 1), timestamps(12, 2)]).unwrap().0, 1);
        assert_eq!(join(&[timestamps(0, 1), segment(12, &[7; 12], |_| {})]).unwrap().0, 1);
    }

    #[test]
    fn a_short_or_pushed_packet_ends_it_and_so_does_its_length() {
        let packet = |sequence, length| segment(sequence, &vec![3; length], |_| {});
        assert_eq!(join(&[packet(0, 100), packet(100, 99), packet(199, 99)]).unwrap().0, 2);
        let pushed = segment(0, &[3; 100], |packet| packet[53] |= tcp::PSH);
        assert_eq!(join(&[pushed, packet(100, 100)]).unwrap().0, 1);
        let many = |length: usize| -> Vec<_> {
            (0..80).map(|number| packet(number * length as u32, length)).collect()
        };
        assert_eq!(join(&many(100)).unwrap().0, JOINED_MAX);
        let (count, whole, _) = join(&many(1400)).unwrap();
        assert_eq!((count, whole.len()), (46, 60 + 46 * 1400));
        let udp = |length| ipv6_udp(ends().0, ends().1, &vec![4; length]);
        assert_eq!(join(&[udp(100), udp(100), udp(20), udp(20)]).unwrap().0, 3);
        assert!(join(&[udp(0)]).is_none());
        let mut unchecked = udp(100);
        unchecked[46..48].fill(0);
        assert!(join(&[unchecked]).is_none());
    }
}
