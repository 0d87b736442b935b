//! PROTOCOL.md section 11. Which packets are delivered on this host.

use super::*;
use crate::handoff::delivery::{
    DeliveredFlow, DeliveredPorts, DeliveryRoutes, HostDelivery, Tunnel,
};
use crate::handoff::pool::{AddressPool, PoolSettings, PoolShareOfBoth, PoolUnit};
use crate::ip::fields::tcp;
use crate::ip::transport::Transport;

/// A shard with [`NAT64`] known that delivers what is for TCP port 80 and UDP port 53, and what is
/// neither.
fn delivering(live: Box<dyn LiveConnections>) -> (Shard, Arc<HostDelivery>) {
    delivering_as(live, |ports| ports)
}

/// The same, with its ports made into others.
fn delivering_as(
    live: Box<dyn LiveConnections>,
    ports_of: impl Fn(DeliveredPorts) -> DeliveredPorts,
) -> (Shard, Arc<HostDelivery>) {
    let mut shard = Shard::with_live(live, |_| {});
    shard.prove(NAT64, CONTROL, TOKEN);
    let ports = DeliveredPorts::new(true, |transport, port| {
        matches!((transport, port), (Transport::Tcp, 80) | (Transport::Udp, 53))
    });
    let delivery = Arc::new(HostDelivery::new(
        ports_of(ports),
        vec![SERVICE.parse().unwrap()],
        DeliveryRoutes::new([5; 16], 1000),
    ));
    shard.server.deliver(Arc::clone(&delivery));
    // It was told just now that somebody is here.
    shard.send(&client_packet(&tcp6("2001:db8::ffff", 1, 80, tcp::SYN)));
    (shard, delivery)
}

fn quiet_shard() -> Shard {
    delivering(Box::new(NoneKnown)).0
}

fn tcp6(client: &str, from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut segment = transport(from, to);
    segment[13] = flags;
    ip6(protocol::TCP, client, SERVICE, &segment)
}

/// The packets that were delivered of this request, which has no answer.
fn delivered(shard: &mut Shard, packet: &[u8]) -> usize {
    let request = client_packet(packet);
    assert_eq!(shard.send(&request), []);
    for delivered in &shard.outbox.delivered {
        let start = delivered.range.start - HEAD_ROOM;
        let end = delivered.range.end - HEAD_ROOM;
        assert_eq!((delivered.datagram, &request[start..end]), (0, packet));
    }
    assert_eq!(shard.events(), []);
    shard.outbox.delivered.len()
}

/// A shard that delivers what is for ports 80 and 53 and pings, translated but for TCP port 443.
fn translating() -> (Shard, Arc<HostDelivery>) {
    delivering_as(Box::new(NoneKnown), |_| {
        let ports = DeliveredPorts::new(true, |_, port| matches!(port, 53 | 80 | 443));
        ports.translating(true, |port| port != 443)
    })
}

/// For whom the packets of this request are translated.
fn translated(shard: &mut Shard, packet: &[u8]) -> Vec<Option<Translated>> {
    delivered(shard, packet);
    shard.outbox.delivered.iter().map(|delivered| delivered.translated).collect()
}

fn flow(client: &str, protocol: u8, client_port: u16, service_port: u16) -> DeliveredFlow {
    let (service, client) = (SERVICE.parse().unwrap(), client.parse().unwrap());
    DeliveredFlow { service, client, protocol, service_port, client_port }
}

fn goes(delivery: &HostDelivery, flow: DeliveredFlow) -> Option<(Ipv4Addr, u16, Vec<u8>)> {
    let mut room = [0; message::MESSAGE_DATA_MAX];
    let answer = delivery.routes.answer(&flow, 1, &mut room);
    answer.map(|(answer, octets)| {
        let Tunnel::Control(port) = answer.tunnel else { panic!("a frame") };
        (answer.table.nat64, port.0, octets.to_vec())
    })
}

#[test]
fn section_11_packets_to_these_ports_are_delivered_and_need_no_entry() {
    let (mut shard, delivery) = delivering(Box::new(NoneKnown));
    assert_eq!(delivered(&mut shard, &tcp6(CLIENT, 1, 80, tcp::SYN)), 1);
    assert_eq!(delivered(&mut shard, &ip6(protocol::UDP, CLIENT, SERVICE, &transport(1, 53))), 1);
    assert_eq!(delivered(&mut shard, &ip6(132, CLIENT, SERVICE, &[1, 2, 3])), 1);
    assert_eq!(delivered(&mut shard, &ip6(protocol::ICMPV6, CLIENT, SERVICE, &[128; 8])), 1);
    let here = Some((NAT64, CONTROL, AUTHENTICATOR.to_vec()));
    assert_eq!(goes(&delivery, flow(CLIENT, protocol::TCP, 1, 80)), here);
    assert_eq!(goes(&delivery, flow(CLIENT, 132, 0, 0)), here);
    assert_eq!(shard.server.entries().count(), 0);
    assert_eq!(shard.server.stats().get(Counter::Delivered), 5);
    // All others have entries, as ever.
    make(&mut shard, CLIENT, 1);
    assert!(shard.outbox.delivered.is_empty());
    assert_eq!(shard.drops(), []);
}

#[test]
fn section_11_connections_go_on_when_their_port_is_not_delivered_to_any_more() {
    for follows in [true, false] {
        let (mut shard, delivery) = delivering_as(Box::new(NoneKnown), |ports| match follows {
            true => ports.following(),
            false => ports,
        });
        assert_eq!(delivered(&mut shard, &tcp6(CLIENT, 1, 80, tcp::SYN)), 1);
        delivery.ports.set(Transport::Tcp, |_| false);
        let more = tcp6(CLIENT, 1, 80, tcp::ACK);
        if follows {
            assert_eq!(delivered(&mut shard, &more), 1);
        }
        // A new one, one that is not known, and other protocols have entries.
        shard.ask(&client_packet(&tcp6(CLIENT, 1, 80, tcp::SYN)));
        assert!(shard.outbox.delivered.is_empty());
        assert_eq!(shard.server.entries().count(), 1);
        shard.ask(&client_packet(&tcp6(CLIENT, 2, 80, tcp::ACK)));
        assert!(shard.outbox.delivered.is_empty());
        // What has an entry has it.
        shard.ask(&client_packet(&more));
        assert!(shard.outbox.delivered.is_empty());
        assert_eq!(shard.server.entries().count(), 2);
    }
}

#[test]
fn section_11_an_entry_comes_first() {
    let (mut shard, _) = delivering(Box::new(NoneKnown));
    let own = make(&mut shard, CLIENT, 1);
    for flags in [tcp::SYN, tcp::ACK] {
        let packet = tcp6(CLIENT, 1, 80, flags);
        assert_eq!(shard.ask(&client_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
        assert!(shard.outbox.delivered.is_empty());
    }
}

/// A port is live, or none is.
struct Live(PortSet);

impl LiveConnections for Live {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        Some(LivePorts { poll: 1, ports: &self.0 })
    }
}

#[test]
fn section_11_a_new_connection_ends_an_entry_without_a_live_one() {
    let (mut shard, _) = delivering(Box::new(Live(PortSet::new(vec![]))));
    let own = make(&mut shard, CLIENT, 1);
    let other = make(&mut shard, CLIENT, 2);
    let packet = tcp6(CLIENT, 1, 80, tcp::ACK);
    assert_eq!(shard.ask(&client_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    // Where nothing can be recorded, nothing ends.
    let packet = tcp6(CLIENT, 1, 80, tcp::SYN);
    shard.batch.frozen = Some(DropReason::JournalFull);
    assert_eq!(shard.ask(&client_packet(&packet)), answer(AUTHENTICATOR, own, &packet));
    shard.batch.frozen = None;
    assert_eq!(shard.send(&client_packet(&packet)), []);
    assert_eq!((shard.events(), shard.outbox.delivered.len()), (vec![deleted(own)], 1));
    assert_eq!(delivered(&mut shard, &tcp6(CLIENT, 1, 80, tcp::ACK)), 1);
    shard.live = Box::new(Live(PortSet::new(vec![other.port.0])));
    let packet = tcp6(CLIENT, 2, 80, tcp::SYN);
    assert_eq!(shard.ask(&client_packet(&packet)), answer(AUTHENTICATOR, other, &packet));
}

#[test]
fn section_11_what_is_not_for_a_service_or_not_of_a_client_is_dropped() {
    let mut shard = quiet_shard();
    let elsewhere = ip6(protocol::TCP, CLIENT, "64:ff9b::1", &transport(1, 80));
    assert_eq!(shard.dropped(&client_packet(&elsewhere)), DropReason::NotService);
    let mapped = tcp6("64:ff9b::1", 1, 80, tcp::SYN);
    assert_eq!(shard.dropped(&client_packet(&mapped)), DropReason::ClientAddress);
    // Neighbours are nobody's business behind a NAT64.
    let solicitation = ip6(protocol::ICMPV6, CLIENT, SERVICE, &[135; 8]);
    assert_eq!(shard.dropped(&client_packet(&solicitation)), DropReason::IcmpIgnored);
    assert!(shard.outbox.delivered.is_empty());
}

#[test]
fn section_11_another_nat64_does_not_take_over_a_flow() {
    let (mut shard, delivery) = delivering(Box::new(NoneKnown));
    let packet = tcp6(CLIENT, 1, 80, tcp::SYN);
    assert_eq!(delivered(&mut shard, &packet), 1);
    let other = Ipv4Addr::new(192, 0, 2, 8);
    shard.prove(other, CONTROL, TOKEN);
    let table = TableKey { local: LOCAL, nat64: other };
    assert_eq!(shard.send_between(table, CONTROL, &client_packet(&packet)), []);
    assert_eq!(shard.drops().last(), Some(&DropReason::FlowOfAnother));
    assert!(shard.outbox.delivered.is_empty());
    assert_eq!(goes(&delivery, flow(CLIENT, protocol::TCP, 1, 80)).unwrap().0, NAT64);
    shard.send_between(table, CONTROL, &client_packet(&tcp6(CLIENT, 2, 80, tcp::SYN)));
    assert_eq!(shard.outbox.delivered.len(), 1);
    assert_eq!(goes(&delivery, flow(CLIENT, protocol::TCP, 2, 80)).unwrap().0, other);
    // It opened that one.
    assert_eq!(shard.dropped(&client_packet(&tcp6(CLIENT, 2, 80, 0))), DropReason::FlowOfAnother);
}

#[test]
fn section_11_a_nat64_hears_that_somebody_is_here() {
    let mut shard = quiet_shard();
    let packet = tcp6(CLIENT, 1, 80, tcp::SYN);
    assert_eq!(delivered(&mut shard, &packet), 1);
    shard.time += Duration::from_secs(2);
    let empty = ipv4::header(20, 1, protocol::NO_NEXT_HEADER, LOCAL, NAT64);
    assert_eq!(shard.ask(&client_packet(&packet)), service_packet(&empty));
    assert_eq!(shard.outbox.delivered.len(), 1);
    assert_eq!(delivered(&mut shard, &packet), 1);
}

#[test]
fn section_11_fragments_and_errors_go_where_the_flow_went() {
    let (mut shard, delivery) = delivering(Box::new(NoneKnown));
    let fragment = |client: &str, offset: u16, more: u16, data: &[u8]| {
        let header = [&[protocol::TCP, 0][..], &(offset << 3 | more).to_be_bytes(), &[0, 0, 0, 9]];
        ip6(protocol::FRAGMENT, client, SERVICE, &[&header.concat(), data].concat())
    };
    let later = fragment(CLIENT, 2, 0, &[1, 2, 3]);
    assert_eq!(shard.dropped(&client_packet(&later)), DropReason::FragmentUnknown);
    let first = fragment(CLIENT, 0, 1, &transport(1, 80)[..16]);
    assert_eq!(delivered(&mut shard, &first), 1);
    assert_eq!(delivered(&mut shard, &later), 1);
    // An error about a packet to this client, by a router: the client's authenticator stays.
    let about = ip6(protocol::TCP, SERVICE, CLIENT, &transport(80, 1));
    let error = |about: &[u8]| {
        let message = [&[2, 0, 0, 0, 0, 0, 5, 0][..], about].concat();
        let packet = ip6(protocol::ICMPV6, "2001:db8:5::1", SERVICE, &message);
        [&message_of(4, TOKEN), &message_of(6, b"a router's"), &packet[..]].concat()
    };
    assert_eq!(shard.send(&error(&about)), []);
    assert_eq!(shard.outbox.delivered.len(), 1);
    let route = goes(&delivery, flow(CLIENT, protocol::TCP, 1, 80)).unwrap();
    assert_eq!(route.2, AUTHENTICATOR);
    let stranger = ip6(protocol::TCP, SERVICE, "2001:db8::99", &transport(80, 1));
    assert_eq!(shard.dropped(&error(&stranger)), DropReason::IcmpErrorUnmatched);
    // Through another prefix it is another client.
    let service = "64:ff9b:1::cb00:7105";
    let about = ip6(protocol::TCP, service, CLIENT, &transport(80, 1));
    assert_eq!(shard.dropped(&error(&about)), DropReason::IcmpErrorUnmatched);
}

#[test]
fn section_11_what_is_translated_is_for_the_address_that_the_nat64_sends_to() {
    let (mut shard, delivery) = translating();
    let client: Ipv6Addr = CLIENT.parse().unwrap();
    let ipv4 = Some(Translated { client, table: TableKey { local: LOCAL, nat64: NAT64 } });
    assert_eq!(translated(&mut shard, &tcp6(CLIENT, 1, 80, tcp::SYN)), [ipv4]);
    assert_eq!(translated(&mut shard, &tcp6(CLIENT, 1, 443, tcp::SYN)), [None]);
    let echo = ip6(protocol::ICMPV6, CLIENT, SERVICE, &[128; 8]);
    assert_eq!(translated(&mut shard, &echo), [ipv4]);
    // Behind a 1:1 NAT this host has another address than the service, whatever the prefix.
    let elsewhere = ip6(protocol::UDP, CLIENT, "64:ff9b:1::cb00:7163", &transport(9, 53));
    assert_eq!(translated(&mut shard, &elsewhere), [ipv4]);
    let known = |protocol, client_port, service_port| {
        let flow = flow(CLIENT, protocol, client_port, service_port).translated(LOCAL);
        let mut room = [0; message::MESSAGE_DATA_MAX];
        delivery.routes.answer(&flow, 1, &mut room).map(|(path, _)| path.service)
    };
    // The client is answered from where it sent to last.
    assert_eq!(known(protocol::UDP, 9, 53), Some("64:ff9b:1::cb00:7163".parse().unwrap()));
    assert_eq!(translated(&mut shard, &tcp6(CLIENT, 1, 80, tcp::ACK)), [ipv4]);
    assert_eq!(known(protocol::TCP, 1, 80), Some(SERVICE.parse().unwrap()));
    // Other protocols are not translated, and a client is not behind the prefix.
    shard.ask(&client_packet(&ip6(132, CLIENT, SERVICE, &[1, 2, 3])));
    assert!(shard.outbox.delivered.is_empty());
    let mapped = ip6(protocol::TCP, "64:ff9b:1::1", "64:ff9b:1::2", &transport(1, 80));
    assert_eq!(shard.dropped(&client_packet(&mapped)), DropReason::ClientAddress);
}

#[test]
fn section_11_fragments_and_errors_are_translated_as_their_flows_are() {
    let (mut shard, _) = translating();
    let client: Ipv6Addr = CLIENT.parse().unwrap();
    let ipv4 = Some(Translated { client, table: TableKey { local: LOCAL, nat64: NAT64 } });
    let later = ip6(protocol::FRAGMENT, CLIENT, SERVICE, &[6, 0, 0, 16, 0, 0, 0, 9, 1, 2]);
    assert_eq!(shard.dropped(&client_packet(&later)), DropReason::FragmentUnknown);
    let first = [&[protocol::TCP, 0, 0, 1, 0, 0, 0, 9][..], &transport(1, 80)[..16]].concat();
    let first = ip6(protocol::FRAGMENT, CLIENT, SERVICE, &first);
    assert_eq!(translated(&mut shard, &first), [ipv4]);
    assert_eq!(translated(&mut shard, &later), [ipv4]);
    let error = |port: u16| {
        let about = ip6(protocol::TCP, SERVICE, CLIENT, &transport(port, 1));
        let message = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &about].concat();
        ip6(protocol::ICMPV6, "2001:db8:5::1", SERVICE, &message)
    };
    assert_eq!(translated(&mut shard, &error(80)), [ipv4]);
    // Of the other kind it has no flow, until it has.
    assert_eq!(shard.dropped(&client_packet(&error(443))), DropReason::IcmpErrorUnmatched);
    assert_eq!(translated(&mut shard, &tcp6(CLIENT, 1, 443, tcp::SYN)), [None]);
    assert_eq!(translated(&mut shard, &error(443)), [None]);
    // Either may be what this fragment is of.
    assert_eq!(translated(&mut shard, &later), [None, ipv4]);
}

fn message_of(kind: u8, data: &[u8]) -> Vec<u8> {
    super::message(kind, data)
}

/// [`translating`], with two addresses for clients, and whoever takes them back.
fn with_two_addresses() -> (Shard, PoolShareOfBoth) {
    let (mut shard, _) = translating();
    shard.live = Box::new(Live(PortSet::new(vec![])));
    let settings = PoolSettings {
        network: "100.64.0.0/30".parse().unwrap(),
        unit: PoolUnit::Address,
        idle: Duration::ZERO,
        names: false,
        translates: true,
    };
    let hash = SecretHash::new([7; 16]);
    let (_, mut shares, _) = AddressPool::new(settings, hash, 1, |_| 0, []);
    let share = PoolShareOfBoth::new(shares.remove(0));
    shard.server.give_addresses(share.clone());
    (shard, share)
}

/// The address that a client is given by its packet, which is delivered.
fn given(shard: &mut Shard, packet: &[u8]) -> Ipv4Addr {
    assert_eq!(shard.send(&client_packet(packet)), []);
    assert_eq!(shard.outbox.delivered.len(), 1);
    let [(table, Change::Named { address, .. })] = shard.outbox.changes[..] else {
        panic!("{:?}", shard.outbox.changes)
    };
    assert_eq!(table, TableKey::block_of(address));
    address
}

#[test]
fn section_11_clients_for_whom_no_address_is_left_have_entries() {
    let (mut shard, share) = with_two_addresses();
    let syn = |client: &str| tcp6(client, 1, 80, tcp::SYN);
    let [one, two, three, four] = ["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1", CLIENT];
    let address = given(&mut shard, &syn(one));
    assert_ne!(address, given(&mut shard, &syn(two)));
    // Each has it from now on.
    assert_eq!(delivered(&mut shard, &tcp6(one, 1, 80, tcp::ACK)), 1);
    assert_eq!(delivered(&mut shard, &tcp6(one, 2, 80, tcp::SYN)), 1);
    let entry = make_by(&mut shard, &syn(three), three, 1);
    assert!(shard.outbox.delivered.is_empty());
    let more = tcp6(three, 1, 80, tcp::ACK);
    assert_eq!(shard.ask(&client_packet(&more)), answer(AUTHENTICATOR, entry, &more));
    // The entry stays while there is nothing better, though no connection lives on it.
    assert_eq!(shard.ask(&client_packet(&syn(three))), answer(AUTHENTICATOR, entry, &syn(three)));
    assert_eq!(shard.events(), []);
    // A ping is answered here, and fragments by the entry of the first one.
    let mut echo = [128, 0, 0, 0, 0, 0, 0, 0];
    let sum = checksum::icmpv6(four.parse().unwrap(), SERVICE.parse().unwrap(), &echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let ping = ip6(protocol::ICMPV6, four, SERVICE, &echo);
    let reply = shard.ask(&client_packet(&ping));
    assert_eq!(reply[message(6, AUTHENTICATOR).len() + 40], 129);
    let fragment = |offset: u16, more: u16, data: &[u8]| {
        let header = [&[protocol::UDP, 0][..], &(offset << 3 | more).to_be_bytes(), &[0, 0, 0, 9]];
        ip6(protocol::FRAGMENT, four, SERVICE, &[&header.concat(), data].concat())
    };
    let first = fragment(0, 1, &transport(1, 53)[..16]);
    make_by(&mut shard, &first, four, 1);
    shard.ask(&client_packet(&fragment(2, 0, &[1, 2, 3])));
    assert!(shard.outbox.delivered.is_empty());
    let stats = shard.server.stats();
    // All came by one NAT64.
    assert_eq!((stats.get(Counter::PoolNamed), stats.get(Counter::PoolShare)), (2, 4));
    assert_eq!(shard.drops(), []);
    // An address that is taken back is the next new connection's, also of who had an entry.
    let net = one.parse::<Ipv6Addr>().unwrap().into();
    let mut lock = share.lock();
    lock.recorded(net);
    let mut taken = Vec::new();
    lock.take_back(shard.time + Duration::from_hours(3), 9, 9, |name| taken.push(name));
    assert_eq!(taken, [(address, net)]);
    drop(lock);
    // Not before that is recorded.
    shard.ask(&client_packet(&syn(three)));
    share.lock().freed((address, net));
    assert_eq!(shard.send(&client_packet(&syn(three))), []);
    let client = three.parse::<Ipv6Addr>().unwrap().into();
    assert_eq!(shard.events(), [Change::Named { address, client }, deleted(entry)]);
    assert_eq!(shard.outbox.delivered.len(), 1);
}

#[test]
fn section_11_no_address_is_given_where_nothing_can_be_recorded() {
    let (mut shard, _) = with_two_addresses();
    given(&mut shard, &tcp6(CLIENT, 1, 80, tcp::SYN));
    shard.batch.frozen = Some(DropReason::JournalFull);
    for port in [1, 2] {
        assert_eq!(delivered(&mut shard, &tcp6(CLIENT, port, 80, tcp::SYN)), 1);
    }
    let other = client_packet(&tcp6("2001:db8:0:1::1", 1, 80, tcp::SYN));
    assert_eq!(shard.dropped(&other), DropReason::JournalFull);
    // Who cannot be a client gets none.
    shard.batch.frozen = None;
    let mapped = client_packet(&tcp6("64:ff9b::1", 1, 80, tcp::SYN));
    assert_eq!(shard.dropped(&mapped), DropReason::ClientAddress);
    assert_eq!(shard.server.stats().get(Counter::PoolNamed), 1);
}
