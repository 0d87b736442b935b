//! Super-packets through the tunnel to a server that delivers, both ways.

use super::offloaded::{leave, offload};
use super::*;
use crate::ip::build::ipv6_udp;
use crate::ip::offload::{Offload, Segmentation};
use crate::ip::segments::cut;
use crate::nat64::engine::{SILENCE_MAX, UNANSWERED_MAX};

/// Octets of data in a segment.
const SIZE: u16 = 1000;

/// With a host that delivers, and is known to.
fn delivering() -> World {
    let mut world = World::delivering();
    world.at_service(&tcp6(40_000, SYN));
    world.service_sends(&ipv6_tcp(service(80), client(40_000), SYN | ACK, b""));
    world.drain();
    world
}

impl World {
    /// Gives the gateway a client's packet as a device with offloads does.
    fn tunnel(&mut self, packet: &[u8], offload: &Offload, out: &mut GatewayOutbox) -> bool {
        let mut packet = packet.to_vec();
        if let Some(left) = offload.checksum {
            leave(&mut packet, left);
        }
        assert!(self.gateway.forward_offloaded(self.now, &packet, offload).is_none());
        self.gateway.tunnel_offloaded(self.now, &packet, offload, out)
    }

    /// How many datagrams each packet that is written is, and what the host gets of them.
    fn written(&mut self, out: &mut GatewayOutbox) -> (Vec<usize>, Vec<Vec<u8>>) {
        let mut counts = Vec::new();
        for (offload, packet) in out.writes() {
            let mut whole = packet.to_vec();
            let parts = match offload.segments {
                Some(_) => cut(packet, offload),
                None => {
                    assert!(offload.checksum.is_some_and(|left| left.make(&mut whole)));
                    vec![whole]
                }
            };
            counts.push(parts.len());
            for part in parts {
                check(&part);
                assert!(self.control(&part).is_empty());
            }
        }
        out.clear();
        (counts, self.host().delivered.drain(..).collect())
    }

    /// The service's packets, as the control datagrams that bring them.
    fn back(&mut self, packets: &[Vec<u8>]) -> (Vec<u8>, Offload) {
        let payloads: Vec<_> = packets.iter().map(|packet| self.host().answer(packet)).collect();
        self.joined_datagrams(&payloads)
    }

    fn joined_datagrams(&mut self, payloads: &[Vec<u8>]) -> (Vec<u8>, Offload) {
        let control = self.host().control_port;
        let mut packet = udp4(HANDOFF, control, &payloads.concat());
        let size = (payloads.len() > 1).then_some(payloads[0].len() as u16);
        let offload = offload(Transport::Udp, 20, size);
        leave(&mut packet, offload.checksum.unwrap());
        (packet, offload)
    }

    /// What a client gets of it, and how many packets are written for it; `None` where it is not
    /// taken as such.
    fn deliver(&mut self, packet: &[u8], offload: &Offload) -> Option<(Vec<Vec<u8>>, usize)> {
        let mut deliveries = Deliveries::default();
        if !self.gateway.deliver_offloaded(packet, offload, &mut deliveries) {
            assert_eq!(deliveries.each().count(), 0);
            return None;
        }
        let (mut got, mut written) = (Vec::new(), 0);
        for Delivered { offload, front, parts } in deliveries.each() {
            let parts = parts.iter().map(|part| &packet[part.clone()]);
            let whole = [front].into_iter().chain(parts).collect::<Vec<_>>().concat();
            written += 1;
            match offload.segments {
                Some(_) => got.extend(cut(&whole, &offload)),
                None => got.push(whole),
            }
        }
        got.iter().for_each(|packet| check(packet));
        Some((got, written))
    }
}

#[test]
fn a_clients_super_packet_is_delivered_segment_by_segment() {
    let mut world = delivering();
    let mut out = GatewayOutbox::default();
    let data: Vec<u8> = (0..40_500).map(|at| at as u8).collect();
    for packet in [
        ipv6_tcp(client(40_000), service(80), ACK | FIN, &data),
        ipv6_udp(client(40_001), service(53), &data),
    ] {
        let transport = Transport::of(packet[6]).unwrap();
        let offload = offload(transport, 40, Some(SIZE));
        assert!(world.tunnel(&packet, &offload, &mut out));
        let (counts, delivered) = world.written(&mut out);
        assert_eq!(delivered, cut(&packet, &offload));
        assert_eq!(counts, [41]);
    }
    // More than one packet of the device may hold.
    let packet = ipv6_tcp(client(40_000), service(80), ACK, &[7; 65_000]);
    let offload = offload(Transport::Tcp, 40, Some(SIZE));
    assert!(world.tunnel(&packet, &offload, &mut out));
    let (counts, delivered) = world.written(&mut out);
    assert_eq!(delivered, cut(&packet, &offload));
    assert_eq!(counts, [59, 6]);
    assert_eq!(world.drops(), []);
}

#[test]
fn packets_one_behind_the_other_are_written_as_one() {
    let mut world = delivering();
    let left = offload(Transport::Tcp, 40, None);
    for (mut out, expected) in [
        (GatewayOutbox::default(), vec![64, 36, 2]),
        (GatewayOutbox::without_udp_segments(), vec![1; 102]),
    ] {
        let lengths = [vec![0; 99], vec![0, 40, 1]].concat();
        let data = |length| vec![7; length];
        let packets: Vec<_> = lengths
            .into_iter()
            .map(|length| ipv6_tcp(client(40_000), service(80), ACK, &data(length)))
            .collect();
        packets.iter().for_each(|packet| assert!(world.tunnel(packet, &left, &mut out)));
        let (counts, delivered) = world.written(&mut out);
        assert_eq!(delivered, packets);
        assert_eq!(counts, expected);
    }
    // Anything else between them is written between them.
    let mut out = GatewayOutbox::default();
    let packet = tcp6(40_000, ACK);
    assert!(world.tunnel(&packet, &left, &mut out));
    let mut expired = packet.clone();
    expired[24 + 15] = 7; // To another host.
    expired[7] = 1;
    world.gateway.packet(world.now, &expired, &mut out);
    assert!(world.tunnel(&packet, &left, &mut out));
    let kinds: Vec<u8> = out.packets().map(|packet| packet[0] >> 4).collect();
    assert_eq!(kinds.first(), kinds.last());
    assert!(kinds.len() > 2);
}

#[test]
fn what_has_an_entry_or_a_server_that_caches_is_not_tunnelled() {
    let mut world = delivering();
    let mut out = GatewayOutbox::default();
    let left = offload(Transport::Tcp, 40, Some(SIZE));
    let first = ipv6_tcp(client(1), service(80), ACK, &[7; 3000]);
    assert!(!world.gateway.tunnel_offloaded(world.now, &first, &left, &mut out));
    let mut known = World::known();
    assert!(!known.tunnel(&ipv6_tcp(client(9), service(80), ACK, &[7; 3000]), &left, &mut out));
    // Of a checksum that stands nowhere, of other packets, and of what is cut short.
    let packet = tcp6(40_000, ACK);
    for wrong in [offload(Transport::Tcp, 60_000, None), offload(Transport::Tcp, 60_000, Some(9))] {
        assert!(!world.gateway.tunnel_offloaded(world.now, &packet, &wrong, &mut out));
    }
    for other in [echo6(7), tcp4(1024, ACK), packet[..59].to_vec(), Vec::new()] {
        let whole = Offload::default();
        assert!(!world.gateway.tunnel_offloaded(world.now, &other, &whole, &mut out));
    }
    assert_eq!(out.packets().count(), 0);
}

#[test]
fn the_client_is_told_once_of_segments_that_are_too_long() {
    let mut world = delivering();
    let mut out = GatewayOutbox::default();
    let packet = ipv6_tcp(client(40_000), service(80), ACK, &[7; 40_000]);
    let offload = offload(Transport::Tcp, 40, Some(1440));
    assert!(world.tunnel(&packet, &offload, &mut out));
    let told: Vec<_> = out.packets().collect();
    assert_eq!(told.len(), 1);
    check(told[0]);
    assert_eq!((error6(told[0]).0, &told[0][44..48]), (v6::PACKET_TOO_BIG, &[0, 0, 5, 0x8a][..]));
    assert_eq!(world.drops(), [("tunnel_too_big", 1)]);
}

#[test]
fn a_server_that_delivers_and_falls_silent_is_given_up() {
    let mut world = delivering();
    let mut out = GatewayOutbox::default();
    let left = offload(Transport::Udp, 40, None);
    let packet = udp6(40_001, b"a line");
    for _ in 0..=UNANSWERED_MAX {
        assert!(world.tunnel(&packet, &left, &mut out));
        world.now += SILENCE_MAX;
    }
    // One of them was the question, which nobody answers.
    assert_eq!(out.packets().count(), 3);
    assert!(!world.tunnel(&packet, &left, &mut out));
    assert_eq!(world.gateway.nat64().state(HOST), ServerState::Unknown);
}

#[test]
fn a_services_packets_are_joined_for_the_client() {
    let mut world = delivering();
    let data: Vec<u8> = (0..40_500).map(|at| at as u8).collect();
    let whole = ipv6_tcp(service(80), client(40_000), ACK, &data);
    let packets = cut(&whole, &offload(Transport::Tcp, 40, Some(SIZE)));
    let (datagrams, left) = world.back(&packets);
    assert_eq!(world.deliver(&datagrams, &left).unwrap(), (packets.clone(), 1));
    let delivered = world.gateway.done(Done::Delivered);
    // One alone, with and without its checksum made, and acknowledgments, which cannot be joined.
    let (mut datagram, left) = world.back(&packets[..1]);
    assert_eq!(world.deliver(&datagram, &left).unwrap(), (packets[..1].to_vec(), 1));
    left.checksum.unwrap().make(&mut datagram);
    let whole = Offload::default();
    assert_eq!(world.deliver(&datagram, &whole).unwrap(), (packets[..1].to_vec(), 1));
    let acks = vec![ipv6_tcp(service(80), client(40_000), ACK, b""); 5];
    let (datagrams, left) = world.back(&acks);
    assert_eq!(world.deliver(&datagrams, &left).unwrap(), (acks, 5));
    assert_eq!(world.gateway.done(Done::Delivered), delivered + 7);
    assert_eq!(world.drops(), []);
    // A wrong checksum is no one's word for any.
    *datagram.last_mut().unwrap() ^= 1;
    assert!(world.deliver(&datagram, &whole).is_none());
}

#[test]
fn each_datagram_is_verified_and_each_checksum() {
    let mut world = delivering();
    let whole = ipv6_tcp(service(80), client(40_000), ACK, &[7; 5000]);
    let packets = cut(&whole, &offload(Transport::Tcp, 40, Some(SIZE)));
    let mut payloads: Vec<_> = packets.iter().map(|packet| world.host().answer(packet)).collect();
    payloads[1][5] ^= 1; // Its authenticator.
    payloads[3][18 + 100] ^= 1; // Its data: the client finds out.
    let (datagrams, left) = world.joined_datagrams(&payloads);
    let mut deliveries = Deliveries::default();
    assert!(world.gateway.deliver_offloaded(&datagrams, &left, &mut deliveries));
    let written: Vec<_> = deliveries
        .each()
        .map(|delivery| (delivery.offload.segments.is_some(), delivery.parts.len()))
        .collect();
    assert_eq!(written, [(false, 1); 4]);
    assert_eq!(world.drops(), [("bad_authenticator", 1)]);
    // Anything but authenticator and packet goes the way of all.
    let (datagrams, left) = world.joined_datagrams(&[payloads[0].clone(), vec![0x32, 0]]);
    assert!(world.deliver(&datagrams, &left).is_none());
    let Offload { checksum, .. } = left;
    for segments in [Transport::Tcp, Transport::Udp].map(|transport| Segmentation {
        transport,
        size: 1,
        headers: 0,
        ecn: false,
    }) {
        let offload = Offload { checksum, segments: Some(segments) };
        assert!(world.deliver(&datagrams, &offload).is_none());
        for length in 0..datagrams.len() {
            assert!(world.deliver(&datagrams[..length], &offload).is_none());
        }
    }
    // And so does all from a server that is not alive.
    let (datagrams, left) = world.back(&packets);
    world.gateway.reboot([9; 32]);
    assert!(world.deliver(&datagrams, &left).is_none());
}

#[test]
fn a_device_may_take_no_super_packets_of_udp() {
    let mut world = delivering();
    let packets = vec![ipv6_udp(service(53), client(40_000), &[7; 500]); 3];
    let (datagrams, left) = world.back(&packets);
    assert_eq!(world.deliver(&datagrams, &left).unwrap(), (packets, 1));
    let mut deliveries = Deliveries::without_udp_segments();
    assert!(world.gateway.deliver_offloaded(&datagrams, &left, &mut deliveries));
    assert_eq!(deliveries.each().count(), 3);
}
