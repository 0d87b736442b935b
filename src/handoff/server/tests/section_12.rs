//! PROTOCOL.md section 12. Tunnels of Geneve: who gets one, and what is delivered by it.

use super::*;
use crate::handoff::delivery::{
    DeliveredFlow, DeliveredPorts, DeliveryRoutes, GeneveGateways, HostDelivery, Tunnel,
};
use crate::ip::fields::tcp;
use crate::ip::geneve::{Frame, LinkAddress, Vni, bypass_front, emit_bypass_front, plain_front};
use crate::ip::ipv6::Ipv6;
use crate::ip::neighbor::{
    Advertisement, NEIGHBOR_PACKET_MAX, Solicitation, group_link, solicited_node,
};

const VNI: Vni = Vni::new([1, 2, 3]);
const LINK: LinkAddress = LinkAddress([2, 9, 8, 7, 6, 5]);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const TABLE: TableKey = TableKey { local: LOCAL, nat64: NAT64 };

fn service() -> Ipv6Addr {
    SERVICE.parse().unwrap()
}

/// A shard with tunnels, to which port 443 is translated.
fn tunnelled(adjust: impl FnOnce(&mut ServerConfig)) -> (Shard, Arc<HostDelivery>) {
    let mut shard = Shard::new(adjust);
    let ports = DeliveredPorts::new(true, |_, port| matches!(port, 80 | 443));
    let ports = ports.translating(false, |port| port == 443);
    let routes = DeliveryRoutes::new([5; 16], 1000);
    let delivery = HostDelivery::new(ports, vec![service()], routes)
        .with_geneve(Some(GeneveGateways::new([6; 16])));
    let delivery = Arc::new(delivery);
    shard.server.deliver(Arc::clone(&delivery));
    (shard, delivery)
}

fn asked() -> Solicitation {
    let target = service();
    Solicitation { from: GATEWAY, to: solicited_node(target), target, link: Some(LINK) }
}

fn packet_of(asked: &Solicitation) -> Vec<u8> {
    let mut out = [0; NEIGHBOR_PACKET_MAX];
    let length = asked.emit(&mut out);
    out[..length].to_vec()
}

/// An offer with a message of so many octets.
fn offer(asked: &Solicitation, message: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let to = group_link(solicited_node(asked.target));
    emit_bypass_front(&mut out, VNI, to, LINK, &"m".repeat(message));
    out.extend_from_slice(&packet_of(asked));
    out
}

fn frame(own: LinkAddress, packet: &[u8]) -> Vec<u8> {
    [&bypass_front(VNI, own, LINK), packet].concat()
}

fn tcp6(client: &str, from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut segment = transport(from, to);
    segment[13] = flags;
    ip6(protocol::TCP, client, SERVICE, &segment)
}

/// The server's link-layer address, as it answers an offer.
fn take(shard: &mut Shard) -> LinkAddress {
    let sent = shard.send_frame(TABLE, &offer(&asked(), 20));
    let [(to, answer)] = &sent[..] else { panic!("{sent:?}, {:?}", shard.drops()) };
    assert_eq!(*to, SocketAddrV4::new(NAT64, 6081));
    let frame = Frame::parse(answer).unwrap();
    assert_eq!((frame.vni, frame.to, frame.message), (VNI, LINK, None));
    let told = Advertisement::parse(Ipv6::whole(&answer[frame.packet_at..]).unwrap()).unwrap();
    let (from, link) = (service(), Some(frame.from));
    assert_eq!(told, Advertisement { from, to: GATEWAY, target: from, link, solicited: true });
    assert!(!frame.from.is_group());
    assert_eq!((shard.events(), shard.outbox.delivered.len()), (vec![], 0));
    frame.from
}

#[test]
fn section_12_whoever_takes_the_answer_to_its_offer_is_a_nat64() {
    let (mut shard, delivery) = tunnelled(|_| {});
    let own = take(&mut shard);
    assert_eq!(take(&mut shard), own);
    assert_eq!(shard.server.nat64s(), 0, "nothing is kept of an offer");
    let syn = tcp6(CLIENT, 1, 80, tcp::SYN);
    assert_eq!(shard.send_frame(TABLE, &frame(own, &syn)), []);
    assert_eq!(shard.events(), [Change::Initialized]);
    let [delivered] = &shard.outbox.delivered[..] else { panic!("{:?}", shard.drops()) };
    assert_eq!((delivered.range.len(), delivered.translated), (syn.len(), None));
    shard.send_frame(TABLE, &frame(own, &syn));
    assert_eq!((shard.events(), shard.outbox.delivered.len()), (vec![], 1));
    let (service, client) = (service(), CLIENT.parse().unwrap());
    let flow = DeliveredFlow { service, client, protocol: 6, service_port: 80, client_port: 1 };
    let mut room = [0; message::MESSAGE_DATA_MAX];
    let (answer, octets) = delivery.routes.answer(&flow, 1, &mut room).unwrap();
    assert_eq!((answer.table, answer.tunnel, octets), (TABLE, Tunnel::Geneve, &[][..]));
    let front = delivery.geneve.as_ref().unwrap().front(TABLE);
    assert_eq!(front, Some(plain_front(VNI, LINK, own)));
    // It has another address after its own start.
    let other = LinkAddress([2; 6]);
    let again = [&bypass_front(VNI, own, other)[..], &syn].concat();
    shard.send_frame(TABLE, &again);
    let front = delivery.geneve.as_ref().unwrap().front(TABLE);
    assert_eq!(front, Some(plain_front(VNI, other, own)));
    assert_eq!(shard.drops(), []);
    assert_eq!(shard.server.stats().get(Counter::OffersAnswered), 2);
}

#[test]
fn section_12_the_answer_is_never_longer_than_the_offer() {
    let (mut shard, _) = tunnelled(|_| {});
    for message in (0..120).step_by(4) {
        let offer = offer(&asked(), message);
        assert!(shard.send_frame(TABLE, &offer)[0].1.len() <= offer.len(), "{message}");
    }
    // Who tells no address of its own, and asks the group, could get more than it sent.
    let short = offer(&Solicitation { link: None, ..asked() }, 0);
    assert_eq!(shard.send_frame(TABLE, &short), []);
    assert_eq!(shard.drops(), [DropReason::OfferShort]);
    let longer = offer(&Solicitation { link: None, ..asked() }, 4);
    assert!(shard.send_frame(TABLE, &longer)[0].1.len() <= longer.len());
}

#[test]
fn section_12_others_get_nothing() {
    let (mut shard, _) = tunnelled(|_| {});
    let own = take(&mut shard);
    let mut dropped = |table, payload: &[u8]| {
        let before = shard.server.stats().dropped_all();
        assert_eq!(shard.send_frame(table, payload), []);
        assert_eq!((shard.events(), shard.outbox.delivered.len()), (vec![], 0));
        assert_eq!(shard.server.stats().dropped_all(), before + 1);
        let last = |&&reason: &&DropReason| shard.server.stats().dropped(reason) > 0;
        let reasons: Vec<_> = DropReason::ALL.iter().filter(last).copied().collect();
        reasons
    };
    let syn = tcp6(CLIENT, 1, 80, tcp::SYN);
    // Another NAT64, another tunnel, another address.
    let elsewhere = TableKey { nat64: Ipv4Addr::new(192, 0, 2, 8), ..TABLE };
    assert_eq!(dropped(elsewhere, &frame(own, &syn)), [DropReason::FrameUnproved]);
    let mut other = frame(own, &syn);
    other[6] ^= 1;
    assert_eq!(dropped(TABLE, &other), [DropReason::FrameUnproved]);
    for (to, packet) in [
        (LinkAddress([2; 6]), syn.clone()),
        // To everybody, but no offer; and an offer to one, which is no proof.
        (group_link(solicited_node(service())), syn),
        (LinkAddress([2; 6]), packet_of(&asked())),
    ] {
        assert_eq!(dropped(TABLE, &frame(to, &packet)), [DropReason::FrameUnproved]);
    }
    // An offer without the option of a gateway, and one from a group.
    let group = group_link(solicited_node(service()));
    let plain = [&plain_front(VNI, group, LINK), &packet_of(&asked())[..]].concat();
    assert_eq!(dropped(TABLE, &plain), [DropReason::FrameUnproved]);
    let from_group = [&bypass_front(VNI, group, group), &packet_of(&asked())[..]].concat();
    assert_eq!(dropped(TABLE, &from_group), [DropReason::FrameUnproved]);
    let unspecified = Solicitation { from: Ipv6Addr::UNSPECIFIED, link: None, ..asked() };
    let all = dropped(TABLE, &offer(&unspecified, 40));
    assert_eq!(all, [DropReason::FrameUnproved, DropReason::OfferMalformed]);
    let mut wrong = offer(&asked(), 0);
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(dropped(TABLE, &wrong).last(), Some(&DropReason::OfferMalformed));
    let target = "64:ff9b::203.0.113.6".parse().unwrap();
    let for_another = Solicitation { target, to: solicited_node(target), ..asked() };
    assert!(dropped(TABLE, &offer(&for_another, 0)).contains(&DropReason::NotService));
    assert!(dropped(TABLE, &[]).contains(&DropReason::FrameTruncated));
    assert!(dropped(TABLE, &[0x40; 60]).contains(&DropReason::FrameNotUnderstood));
    assert!(dropped(TABLE, &[0; 60]).contains(&DropReason::FrameNotIpv6));
    assert_eq!(shard.server.nat64s(), 0);
}

#[test]
fn section_12_offers_in_floods_are_answered_at_a_rate_and_leave_nothing() {
    let (mut shard, delivery) = tunnelled(|config| {
        config.validation_rate = Arc::new(ValidationRate::new(100));
    });
    delivery.geneve.as_ref().unwrap().take_changed();
    let mut answered = 0;
    for number in 0..50_000_u32 {
        shard.time += Duration::from_micros(100);
        let nat64 = Ipv4Addr::from_bits(0x0a00_0000 + number);
        answered += shard.send_frame(TableKey { nat64, ..TABLE }, &offer(&asked(), 0)).len();
    }
    assert!((100..=600).contains(&answered), "{answered} in 5 s at 100 a second");
    assert_eq!((shard.server.nat64s(), shard.outbox.changes.len()), (0, 0));
    assert!(!delivery.geneve.as_ref().unwrap().take_changed());
}

#[test]
fn section_12_there_are_as_many_nat64s_as_by_the_control_channel() {
    let (mut shard, _) = tunnelled(|config| config.budget = Arc::new(Budget::new(3, 1000)));
    let mut served = 0;
    for number in 0..6 {
        let table = TableKey { nat64: Ipv4Addr::new(198, 51, number, 1), ..TABLE };
        let sent = shard.send_frame(table, &offer(&asked(), 0));
        let own = Frame::parse(&sent[0].1).unwrap().from;
        shard.send_frame(table, &frame(own, &tcp6(CLIENT, number.into(), 80, tcp::SYN)));
        served += shard.outbox.delivered.len();
    }
    assert_eq!((served, shard.server.nat64s()), (3, 3));
    assert_eq!(shard.drops().len(), 3);
    // One of the control channel is not made again.
    let mut shard = tunnelled(|_| {}).0;
    shard.prove(NAT64, CONTROL, TOKEN);
    let own = take(&mut shard);
    shard.send_frame(TABLE, &frame(own, &tcp6(CLIENT, 1, 80, tcp::SYN)));
    assert_eq!((shard.events(), shard.outbox.delivered.len()), (vec![], 1));
    // What cannot be recorded does not happen.
    let (mut shard, _) = tunnelled(|_| {});
    let own = take(&mut shard);
    shard.batch.frozen = Some(DropReason::JournalFull);
    shard.send_frame(TABLE, &frame(own, &tcp6(CLIENT, 1, 80, tcp::SYN)));
    assert_eq!((shard.drops(), shard.server.nat64s()), (vec![DropReason::JournalFull], 0));
}

#[test]
fn section_12_an_entry_comes_first() {
    let (mut shard, _) = tunnelled(|_| {});
    shard.prove(NAT64, CONTROL, TOKEN);
    let own = take(&mut shard);
    let entry = {
        let ports = shard.server.entries().count();
        assert_eq!(ports, 0);
        let packet = ip6(protocol::TCP, CLIENT, SERVICE, &transport(7, 9));
        shard.ask(&client_packet(&packet));
        shard.server.entries().next().unwrap().1
    };
    // It is answered by the control channel, with what the table keeps.
    let packet = tcp6(CLIENT, 7, 80, tcp::ACK);
    for _ in 0..2 {
        let sent = shard.send_frame(TABLE, &frame(own, &packet));
        let expected = answer(AUTHENTICATOR, entry, &packet);
        assert_eq!(sent, [(SocketAddrV4::new(NAT64, CONTROL), expected)]);
        assert_eq!(shard.outbox.delivered, []);
        assert!(matches!(shard.outbox.replies[0].body, Body::Copied(_)), "another socket's");
    }
    // Others are delivered, in between too.
    shard.send_frame(TABLE, &frame(own, &tcp6(CLIENT, 8, 80, tcp::ACK)));
    assert_eq!(shard.outbox.delivered.len(), 1);
    assert_eq!(shard.send_frame(TABLE, &frame(own, &packet)).len(), 1);
    // Whether it has a live connection is not known: the entry stays.
    let syn = tcp6(CLIENT, 7, 80, tcp::SYN);
    assert_eq!(shard.send_frame(TABLE, &frame(own, &syn)).len(), 1);
    struct NoneLive(PortSet);
    impl LiveConnections for NoneLive {
        fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
            Some(LivePorts { poll: 1, ports: &self.0 })
        }
    }
    shard.live = Box::new(NoneLive(PortSet::new(Vec::new())));
    assert_eq!(shard.send_frame(TABLE, &frame(own, &syn)), []);
    assert_eq!((shard.events(), shard.outbox.delivered.len()), (vec![deleted(entry)], 1));
    assert_eq!(shard.send_frame(TABLE, &frame(own, &packet)), []);
    assert_eq!(shard.outbox.delivered.len(), 1);
}

#[test]
fn section_12_what_is_delivered_and_how() {
    let (mut shard, _) = tunnelled(|_| {});
    let own = take(&mut shard);
    let mut delivered = |packet: &[u8]| {
        let sent = shard.send_frame(TABLE, &frame(own, packet));
        assert_eq!(sent, []);
        let translated = shard.outbox.delivered.iter().map(|one| one.translated.is_some());
        translated.collect::<Vec<_>>()
    };
    // Each port, as there is no other way here; ping; other protocols.
    assert_eq!(delivered(&tcp6(CLIENT, 1, 80, tcp::SYN)), [false]);
    assert_eq!(delivered(&tcp6(CLIENT, 1, 9, tcp::SYN)), [false]);
    assert_eq!(delivered(&tcp6(CLIENT, 2, 443, tcp::SYN)), [true]);
    assert_eq!(delivered(&ip6(protocol::ICMPV6, CLIENT, SERVICE, &[128; 8])), [false]);
    assert_eq!(delivered(&ip6(132, CLIENT, SERVICE, &[1, 2, 3])), [false]);
    // An error about a packet to a client that came by this tunnel, whoever sends it.
    let about = |to: &str| ip6(protocol::TCP, SERVICE, to, &transport(80, 1));
    let error = |to| [&[1, 0, 0, 0, 0, 0, 0, 0][..], &about(to)].concat();
    let error = |to| ip6(protocol::ICMPV6, "2001:db8::9:9", SERVICE, &error(to));
    assert_eq!(delivered(&error(CLIENT)), [false]);
    assert!(delivered(&error("2001:db8::99")).is_empty());
    // Later fragments of a client that has flows of both kinds go both ways.
    let later = [&[6, 0, 0, 9, 0, 0, 0, 1][..], &[7; 16]].concat();
    assert_eq!(delivered(&ip6(44, CLIENT, SERVICE, &later)), [false, true]);
    assert!(delivered(&ip6(44, "2001:db8::99", SERVICE, &later)).is_empty());
    // Another service, a client behind the prefix, messages of neighbors, half a packet.
    assert!(delivered(&ip6(132, CLIENT, "64:ff9b::203.0.113.6", &[1])).is_empty());
    assert!(delivered(&ip6(132, "64:ff9b::192.0.2.9", SERVICE, &[1])).is_empty());
    assert!(delivered(&ip6(132, "fe80::5", SERVICE, &[1])).is_empty());
    assert!(delivered(&ip6(protocol::ICMPV6, CLIENT, SERVICE, &[133; 8])).is_empty());
    assert!(delivered(&tcp6(CLIENT, 1, 80, tcp::SYN)[..50]).is_empty());
    assert_eq!(
        shard.drops(),
        [
            DropReason::PacketTruncated,
            DropReason::ClientAddress,
            DropReason::ClientAddress,
            DropReason::FragmentUnknown,
            DropReason::IcmpErrorUnmatched,
            DropReason::IcmpIgnored,
            DropReason::NotService,
        ]
    );
    // It asks whether we are there still.
    let asked = Solicitation { to: service(), ..asked() };
    let sent = shard.send_frame(TABLE, &frame(own, &packet_of(&asked)));
    let told = Frame::parse(&sent[0].1).unwrap();
    assert_eq!((told.from, told.to, sent.len()), (own, LINK, 1));
}
