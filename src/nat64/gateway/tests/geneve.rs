//! PROTOCOL.md section 12: tunnels of Geneve, offered to a host and taken by it.

use super::offloaded::{leave, offload};
use super::*;
use crate::ip::geneve::{Frame, GENEVE_PORT, LinkAddress, Vni, bypass_front, plain_front};
use crate::ip::ipv6::Ipv6;
use crate::ip::neighbor::{
    ADVERTISEMENT, Advertisement, NEIGHBOR_PACKET_MAX, Solicitation, kind_of,
};
use crate::ip::segments::cut;
use crate::nat64::gateway::{OFFER_AGAIN, OFFERS_MAX, PROBE_AFTER};

const LINK: LinkAddress = LinkAddress([2, 9, 8, 7, 6, 5]);

/// What the host knows of the tunnel from a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    vni: Vni,
    to: LinkAddress,
    from: LinkAddress,
    message: usize,
    packet: Vec<u8>,
}

impl World {
    /// A gateway that offers tunnels.
    fn offering(handoff: Handoff) -> World {
        World::with(handoff, Nat64Config { tunnel_key: Some([5; 16]), ..Nat64Config::new(POOL) })
    }

    /// The frames among what the host got, which is forgotten.
    fn frames(&mut self) -> Vec<Seen> {
        let seen = |packet: Vec<u8>| {
            let view = Ipv4::new(&packet)?;
            let is_frame = view.protocol() == protocol::UDP
                && ports(view.data()) == Some((GENEVE_PORT, GENEVE_PORT));
            let payload = is_frame.then(|| &view.data()[8..])?;
            let Frame { vni, to, from, message, packet_at } = Frame::parse(payload).unwrap();
            let message = message.expect("each has the option").len();
            Some(Seen { vni, to, from, message, packet: payload[packet_at..].to_vec() })
        };
        self.to_host.drain(..).filter_map(seen).collect()
    }

    /// The host takes this offer.
    fn take(&mut self, offer: &Seen) {
        let asked = Solicitation::parse(Ipv6::whole(&offer.packet).unwrap()).unwrap();
        assert_eq!((asked.target, asked.link), (SERVICE, Some(offer.from)));
        self.send_frame(offer, LINK, &advertisement(&asked));
    }

    fn send_frame(&mut self, offer: &Seen, from: LinkAddress, packet: &[u8]) {
        let payload = [&plain_front(offer.vni, offer.from, from)[..], packet].concat();
        self.send(&udp4(GENEVE_PORT, GENEVE_PORT, &payload));
    }

    /// With a tunnel that the host has taken.
    fn tunnelled(handoff: Handoff) -> (World, Seen) {
        let mut world = World::offering(handoff);
        world.send(&tcp6(40_000, SYN));
        let offer = world.frames().remove(0);
        world.take(&offer);
        assert_eq!(world.changes.last(), Some(&ServerChange::TunnelTaken));
        world.drain();
        (world, offer)
    }
}

fn advertisement(asked: &Solicitation) -> Vec<u8> {
    let (from, to, target) = (asked.target, asked.from, asked.target);
    let told = Advertisement { from, to, target, link: Some(LINK), solicited: true };
    let mut out = [0; NEIGHBOR_PACKET_MAX];
    let length = told.emit(&mut out);
    out[..length].to_vec()
}

#[test]
fn section_12_who_takes_an_offer_gets_packets_as_they_are() {
    let mut world = World::offering(Handoff::Closed);
    world.send(&tcp6(40_000, SYN));
    assert_eq!(world.to_host.len(), 2, "the segment, translated, and the offer");
    let offer = world.frames().remove(0);
    assert!(offer.to.is_group() && !offer.from.is_group() && offer.message > 10);
    let mapped = world.exchange(40_000, SYN, SYN | ACK);
    world.take(&offer);
    assert_eq!(world.changes, [ServerChange::TunnelTaken]);
    // What has an entry keeps it.
    assert_eq!(world.exchange(40_000, ACK, ACK), mapped);
    world.drain();
    let ping = echo6(5);
    let fragments = fragments6(&udp6(7, &[1; 2000]), 9, 1000);
    let syn = tcp6(41_000, SYN);
    let sctp = [&crate::ip::ipv6::header(4, 132, 64, CLIENT, SERVICE)[..], &[7; 4]].concat();
    let all = [vec![syn.clone(), ping, sctp], fragments].concat();
    for packet in &all {
        world.send(packet);
        let seen = Seen { to: LINK, message: 0, packet: packet.clone(), ..offer.clone() };
        assert_eq!(world.frames(), [seen], "{packet:02x?}");
    }
    let back = ipv6_tcp(service(80), client(41_000), SYN | ACK, b"");
    world.send_frame(&offer, LINK, &back);
    assert_eq!(world.to_client.drain(..).collect::<Vec<_>>(), [back]);
    // The host asks for our address.
    let target = Solicitation::parse(Ipv6::whole(&offer.packet).unwrap()).unwrap().from;
    let asked = Solicitation { from: SERVICE, to: target, target, link: Some(LINK) };
    let mut out = [0; NEIGHBOR_PACKET_MAX];
    asked.emit(&mut out);
    world.send_frame(&offer, LINK, &out);
    let answer = world.frames().remove(0);
    let told = Advertisement::parse(Ipv6::whole(&answer.packet).unwrap()).unwrap();
    assert_eq!((told.link, told.target, answer.to), (Some(offer.from), target, LINK));
    assert_eq!(world.drops(), []);
    assert_eq!(world.gateway.done(Done::Framed), all.len() as u64);
}

#[test]
fn section_12_super_packets_go_by_a_tunnel_both_ways() {
    let (mut world, offer) = World::tunnelled(Handoff::Closed);
    let data: Vec<u8> = (0..40_500).map(|at| at as u8).collect();
    let mut packet = ipv6_tcp(client(41_000), service(80), ACK, &data);
    let left = offload(Transport::Tcp, 40, Some(1000));
    let parts = cut(&packet, &left);
    leave(&mut packet, left.checksum.unwrap());
    let mut out = GatewayOutbox::default();
    assert!(world.gateway.tunnel_offloaded(world.now, &packet, &left, &mut out));
    let mut written = 0;
    for (offload, packet) in out.writes() {
        written += 1;
        let datagrams = cut(packet, offload);
        datagrams.iter().for_each(|datagram| check(datagram));
        world.to_host.extend(datagrams);
    }
    let seen: Vec<_> = world.frames().into_iter().map(|seen| seen.packet).collect();
    assert!(seen == parts && written == 1, "{written} packets are written");
    // And back.
    let parts = cut(&ipv6_tcp(service(80), client(41_000), ACK, &data), &left);
    let front = plain_front(offer.vni, offer.from, LINK);
    let payloads: Vec<_> = parts.iter().map(|part| [&front[..], part].concat()).collect();
    let mut joined = udp4(GENEVE_PORT, GENEVE_PORT, &payloads.concat());
    let left = offload(Transport::Udp, 20, Some(payloads[0].len() as u16));
    leave(&mut joined, left.checksum.unwrap());
    let mut deliveries = Deliveries::default();
    assert!(world.gateway.deliver_offloaded(&joined, &left, &mut deliveries));
    let mut got = Vec::new();
    for Delivered { offload, front, parts } in deliveries.each() {
        let parts = parts.iter().map(|part| &joined[part.clone()]);
        let whole = [front].into_iter().chain(parts).collect::<Vec<_>>().concat();
        got.extend(cut(&whole, &offload));
    }
    assert!(got == parts, "{} of {}", got.len(), parts.len());
    // A client's packet that is too long is refused, as for the other tunnel.
    let long = udp6(9, &[0; 1400]);
    assert_eq!(world.at_client(&long)[40..42], [2, 0]);
}

#[test]
fn section_12_only_who_has_got_the_offer_is_believed() {
    let mut world = World::offering(Handoff::Closed);
    world.send(&tcp6(40_000, SYN));
    let offer = world.frames().remove(0);
    let asked = Solicitation::parse(Ipv6::whole(&offer.packet).unwrap()).unwrap();
    let told = advertisement(&asked);
    let other_vni = Seen { vni: Vni::new([0; 3]), ..offer.clone() };
    let other_link = Seen { from: LinkAddress([2; 6]), ..offer.clone() };
    for (seen, link) in
        [(&other_vni, LINK), (&other_link, LINK), (&offer, LinkAddress([2, 0, 0, 0, 0, 1]))]
    {
        world.send_frame(seen, link, &told);
    }
    let target = "64:ff9b::203.0.113.6".parse().unwrap();
    world.send_frame(&offer, LINK, &advertisement(&Solicitation { target, ..asked }));
    // With the option, which is ours alone.
    let front = bypass_front(offer.vni, offer.from, LINK);
    world.send(&udp4(GENEVE_PORT, GENEVE_PORT, &[&front[..], &told].concat()));
    let data = ipv6_tcp(service(80), client(40_000), ACK, b"");
    world.send_frame(&offer, LINK, &data);
    assert_eq!((world.changes.len(), world.to_client.len()), (0, 0));
    world.take(&offer);
    assert_eq!(world.changes, [ServerChange::TunnelTaken]);
    // From another address, of another service, to whom cannot be a client.
    world.send_frame(&offer, LinkAddress([2; 6]), &data);
    let mut elsewhere = data.clone();
    elsewhere[23] ^= 1;
    world.send_frame(&offer, LINK, &elsewhere);
    let mut nobody = data.clone();
    nobody[24..40].copy_from_slice(&std::net::Ipv6Addr::LOCALHOST.octets());
    world.send_frame(&offer, LINK, &nobody);
    assert_eq!(world.to_client.len(), 0);
    assert!(world.gateway.dropped(Dropped::Frame) >= 8, "{:?}", world.drops());
    world.send_frame(&offer, LINK, &data);
    assert_eq!(world.to_client.len(), 1);
}

#[test]
fn section_12_a_host_that_is_gone_is_reached_in_the_ways_of_before() {
    let (mut world, offer) = World::tunnelled(Handoff::Closed);
    world.send(&tcp6(41_000, SYN));
    assert_eq!(world.frames().len(), 1);
    // It says that nobody listens; who has not seen a frame cannot say so.
    let quote = |vni: Vni| {
        let front = bypass_front(vni, LINK, offer.from);
        let to = SocketAddrV4::new(HOST, GENEVE_PORT);
        let frame = ipv4_udp(SocketAddrV4::new(POOL, GENEVE_PORT), to, &front);
        icmp4(HOST, 3, 3, &frame)
    };
    world.send(&quote(Vni::new([0; 3])));
    assert_eq!(world.changes, [ServerChange::TunnelTaken]);
    world.send(&quote(offer.vni));
    assert_eq!(world.changes, [ServerChange::TunnelTaken, ServerChange::TunnelLost]);
    world.exchange(42_000, SYN, SYN | ACK);
    // It is offered again, and taken.
    world.now += PROBE_AFTER;
    world.send(&tcp6(43_000, SYN));
    let again = world.frames();
    assert_eq!((again.len(), again[0].vni), (1, offer.vni));
    world.take(&again[0]);
    // It is asked when it is silent, and given up.
    world.now += PROBE_AFTER;
    world.send(&tcp6(44_000, SYN));
    assert_eq!(world.frames().len(), 1);
    for number in 0..=OFFERS_MAX {
        world.tick();
        let probes = world.frames();
        assert_eq!(probes.len(), usize::from(number < OFFERS_MAX));
        assert!(probes.iter().all(|probe| probe.to == LINK));
        world.now += PROBE_AFTER / 10;
    }
    assert_eq!(world.changes.last(), Some(&ServerChange::TunnelLost));
    world.send(&tcp6(44_000, SYN));
    assert_eq!(world.frames().len(), 1, "another offer");
    world.exchange(44_000, SYN, SYN | ACK);
}

#[test]
fn section_12_hosts_without_one_are_offered_a_tunnel_now_and_then() {
    let mut world = World::offering(Handoff::Closed);
    let mut offers = 0;
    for second in 0..2 * OFFER_AGAIN.as_secs() {
        world.now += std::time::Duration::from_secs(1);
        world.send(&udp6(second as u16 + 1, b"x"));
        world.tick();
        offers += world.frames().len();
    }
    assert_eq!(offers, 2 * usize::from(OFFERS_MAX));
    // A reboot keeps the number, and takes another address.
    let (mut world, offer) = World::tunnelled(Handoff::Closed);
    world.gateway.reboot([9; 32]);
    world.send(&tcp6(50_000, SYN));
    let again = world.frames().remove(0);
    assert!(again.vni == offer.vni && again.from != offer.from);
    assert_eq!(kind_of(Ipv6::whole(&advertisement_to(&again)).unwrap()), Some(ADVERTISEMENT));
    let asked = |seen: &Seen| Solicitation::parse(Ipv6::whole(&seen.packet).unwrap()).unwrap().from;
    assert_eq!(asked(&again), asked(&offer));
}

fn advertisement_to(offer: &Seen) -> Vec<u8> {
    advertisement(&Solicitation::parse(Ipv6::whole(&offer.packet).unwrap()).unwrap())
}
