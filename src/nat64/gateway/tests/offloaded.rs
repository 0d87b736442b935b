//! Super-packets, and packets whose checksum is left.

use super::*;
use crate::ip::checksum::{pseudo_ipv4, pseudo_ipv6};
use crate::ip::offload::{ChecksumLeft, Offload, Segmentation};
use crate::ip::segments::cut;

/// Octets of data in a segment.
const SIZE: u16 = 1000;

pub(super) fn offload(transport: Transport, start: usize, size: Option<u16>) -> Offload {
    let segments = size.map(|size| Segmentation { transport, size, headers: 0, ecn: false });
    Offload { checksum: Some(ChecksumLeft::of(transport, start)), segments }
}

/// Gives the gateway a packet as a device with offloads does. Returns what is forwarded as such.
fn give(world: &mut World, packet: &[u8], offload: &Offload) -> Option<(Vec<u8>, Offload)> {
    let mut packet = packet.to_vec();
    if let Some(left) = offload.checksum {
        leave(&mut packet, left);
    }
    if let Some(forwarded) = world.gateway.forward_offloaded(world.now, &packet, offload) {
        return Some(([forwarded.headers(), forwarded.rest].concat(), forwarded.offload));
    }
    let mut outbox = GatewayOutbox::default();
    world.gateway.in_pieces(world.now, &mut packet, offload, &mut outbox);
    let mut queue = VecDeque::new();
    world.carry(&mut outbox, &mut queue);
    queue.iter().for_each(|packet| world.send(packet));
    None
}

pub(super) fn leave(packet: &mut [u8], left: ChecksumLeft) {
    let (start, at) = (usize::from(left.start), usize::from(left.start + left.offset));
    let length = packet.len() - start;
    let pseudo = match (Ipv4::new(packet), Ipv6::new(packet)) {
        (Some(view), _) => pseudo_ipv4(view.source(), view.destination(), view.protocol(), length),
        (_, Some(view)) => pseudo_ipv6(view.source(), view.destination(), packet[6], length),
        _ => unreachable!(),
    };
    packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
}

#[test]
fn a_super_packet_of_a_connection_is_translated_as_one() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    let data = vec![7; 40_500];
    let from_client = ipv6_tcp(client(40_000), service(80), ACK, &data);
    let (there, left) =
        give(&mut world, &from_client, &offload(Transport::Tcp, 40, Some(SIZE))).unwrap();
    let parts = cut(&there, &left);
    assert_eq!(parts.len(), 41);
    for part in &parts {
        check(part);
        let view = Ipv4::new(part).unwrap();
        assert_eq!((view.source(), view.destination(), view.ttl()), (POOL, HOST, 63));
        assert_eq!(ports(view.data()), Some((mapped, 80)));
    }
    let (service, nat64) = (SocketAddrV4::new(HOST, 80), SocketAddrV4::new(POOL, mapped));
    let from_service = ipv4_tcp(service, nat64, ACK, &data);
    let (back, left) =
        give(&mut world, &from_service, &offload(Transport::Tcp, 20, Some(SIZE))).unwrap();
    for part in cut(&back, &left) {
        check(&part);
        assert_eq!(ports(&part[40..]), Some((80, 40_000)));
    }
    assert_eq!(world.gateway.done(Done::Super), 2);
}

#[test]
fn a_packet_whose_checksum_is_left_is_translated_as_such() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    for (start, packet) in [(40, tcp6(40_000, ACK)), (20, tcp4(mapped, ACK))] {
        let left = offload(Transport::Tcp, start, None);
        let (mut there, left) = give(&mut world, &packet, &left).unwrap();
        assert!(left.segments.is_none() && left.checksum.unwrap().make(&mut there));
        check(&there);
    }
    assert_eq!(world.gateway.done(Done::Super), 0);
}

#[test]
fn a_super_packet_without_an_entry_goes_in_pieces() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    world.gateway.reboot([9; 32]);
    // It proves itself to the server again.
    for _ in 0..6 {
        world.send(&tcp4(mapped, ACK));
    }
    world.drain();
    let packet = ipv6_tcp(client(40_000), service(80), ACK, &[7; 2500]);
    let super_packet = offload(Transport::Tcp, 40, Some(SIZE));
    assert!(give(&mut world, &packet, &super_packet).is_none());
    // The server was asked about each, and has the entry still.
    let there: Vec<_> = world.to_host.drain(..).collect();
    assert_eq!(there.len(), 3, "{:?}", world.drops());
    assert!(there.iter().all(|part| ports(&part[20..]) == Some((mapped, 80))));
    assert!(give(&mut world, &packet, &super_packet).is_some());
}

#[test]
fn segments_too_long_for_the_link_are_told_of() {
    let mut world = World::known();
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    world.drain();
    let (service, nat64) = (SocketAddrV4::new(HOST, 80), SocketAddrV4::new(POOL, mapped));
    let packet = ipv4_tcp(service, nat64, ACK, &[7; 3000]);
    assert!(give(&mut world, &packet, &offload(Transport::Tcp, 20, Some(1460))).is_none());
    let told = world.to_host.pop_front().expect("fragmentation needed");
    assert_eq!((told[9], told[20], told[21]), (protocol::ICMP, v4::UNREACHABLE, 4));
    assert!(world.to_client.iter().all(|part| part.len() <= usize::from(MTU)));
}

#[test]
fn joined_control_datagrams_are_taken_one_by_one() {
    let mut world = World::known();
    let control = world.gateway.nat64().control_port().0;
    let before = world.gateway.done(Done::Answers);
    let packet = udp4(HANDOFF, control, &[1; 30]);
    assert!(give(&mut world, &packet, &offload(Transport::Udp, 20, Some(10))).is_none());
    assert_eq!(world.gateway.done(Done::Answers), before + 3);
}

#[test]
fn icmp_and_what_has_a_checksum_of_its_own_goes_the_way_of_all() {
    let mut world = World::known();
    world.drain();
    let left = Offload { checksum: Some(ChecksumLeft { start: 40, offset: 2 }), segments: None };
    assert!(give(&mut world, &echo6(5), &left).is_none());
    assert_eq!(world.to_client.len(), 1, "its checksum was made, so that the server answers");
    // Padding behind it is no part of it.
    let mut padded = udp6(40_000, b"odd");
    leave(&mut padded, ChecksumLeft::of(Transport::Udp, 40));
    padded.extend([0xff; 6]);
    let mut outbox = GatewayOutbox::default();
    let left = offload(Transport::Udp, 40, None);
    world.gateway.in_pieces(world.now, &mut padded, &left, &mut outbox);
    world.carry(&mut outbox, &mut VecDeque::new());
}

#[test]
fn a_packet_that_is_not_as_its_device_says_is_dropped() {
    let mut world = World::known();
    let packet = tcp6(40_000, ACK);
    for offload in [
        offload(Transport::Tcp, 60_000, None),
        offload(Transport::Tcp, 60_000, Some(SIZE)),
        offload(Transport::Tcp, 39, Some(SIZE)),
    ] {
        let before = world.gateway.dropped(Dropped::Offload);
        assert!(world.gateway.forward_offloaded(world.now, &packet, &offload).is_none());
        let mut outbox = GatewayOutbox::default();
        world.gateway.in_pieces(world.now, &mut packet.clone(), &offload, &mut outbox);
        assert_eq!(world.gateway.dropped(Dropped::Offload), before + 1);
        assert_eq!(outbox.packets().count(), 0);
    }
    // Whatever a packet says, nothing is read past its end.
    for length in 0..packet.len() {
        for start in [0, 20, 40, 41] {
            let offload = offload(Transport::Tcp, start, Some(SIZE));
            let mut packet = packet[..length].to_vec();
            assert!(world.gateway.forward_offloaded(world.now, &packet, &offload).is_none());
            let mut outbox = GatewayOutbox::default();
            world.gateway.in_pieces(world.now, &mut packet, &offload, &mut outbox);
        }
    }
}
