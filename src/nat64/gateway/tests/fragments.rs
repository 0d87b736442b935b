//! Fragments through a gateway, in any order.

use super::*;

/// All orders of these many things.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else {
        return vec![Vec::new()];
    };
    let insert = |order: Vec<usize>| {
        (0..count).map(move |at| [&order[..at], &[last], &order[at..]].concat())
    };
    orders(last).into_iter().flat_map(insert).collect()
}

#[test]
fn rfc6146_3_4_fragments_in_any_order() {
    let data: Vec<u8> = (0..1600).map(|i| i as u8).collect();
    for mut world in [World::new(Handoff::Closed), World::known()] {
        for (number, order) in (0..).zip(orders(4)) {
            let parts = fragments6(&udp6(44_000, &data), 100 + number, 408);
            world.drain();
            order.iter().for_each(|&part| world.send(&parts[part]));
            let mut there: Vec<_> =
                world.to_host.iter().map(|part| Ipv4::new(part).unwrap()).collect();
            there.sort_by_key(|view| view.fragment().unwrap().offset);
            let whole = there.iter().map(|view| view.data()).collect::<Vec<_>>().concat();
            assert_eq!(whole[8..], data, "{order:?} {:?}", world.drops());
            let (mapped, _) = ports(&whole).unwrap();

            let parts = fragments4(&udp4(53, mapped, &data), 100 + number as u16, 428);
            world.drain();
            order.iter().for_each(|&part| world.send(&parts[part]));
            let mut back: Vec<_> = (world.to_client.iter())
                .map(|part| {
                    let walk = Ipv6::new(part).unwrap().walk().unwrap();
                    (walk.fragment.unwrap().offset, &part[walk.upper_at..])
                })
                .collect();
            back.sort_by_key(|&(offset, _)| offset);
            let whole = back.iter().map(|&(_, upper)| upper).collect::<Vec<_>>().concat();
            assert_eq!(whole[8..], data, "{order:?} {:?}", world.drops());
        }
        assert_eq!(world.drops().iter().filter(|(name, _)| name.contains("fragment")).count(), 0);
    }
}

#[test]
fn control_datagrams_come_in_any_order() {
    let control = |world: &World| world.gateway.nat64().control_port().0;
    for (number, order) in (0..).zip(orders(3)) {
        let mut world = World::known();
        let datagram = udp4(HANDOFF, control(&world), &[0x7f; 1200]);
        let parts = fragments4(&datagram, number, 428);
        assert_eq!(parts.len(), 3);
        order.iter().for_each(|&part| world.send(&parts[part]));
        assert_eq!(world.gateway.ignored(Ignored::Malformed), 1, "{order:?}: it was taken");
    }
}

/// A client, and a host, that fill the memory with fragments of which no first one comes.
#[test]
fn others_fragments_are_not_evicted_by_one_source() {
    let mut world = World::new(Handoff::Closed);
    let parts = fragments6(&udp6(44_000, &[7; 1600]), 1, 816);
    world.send(&parts[1]);
    let mut other = fragments6(&udp6(1, &[7; 1600]), 1, 816)[1].clone();
    other[8..16].copy_from_slice(&[0x20, 1, 0xd, 0xb8, 0, 7, 0, 7]);
    let mut outbox = GatewayOutbox::default();
    for number in 0..100_000_u32 {
        other[44..48].copy_from_slice(&number.to_be_bytes());
        world.gateway.packet(world.now, &other, &mut outbox);
    }
    assert!(world.gateway.dropped(Dropped::FragmentsWaiting) > 99_000);
    world.send(&parts[0]);
    assert_eq!(world.to_host.len(), 2);
}

#[test]
fn fragments_both_ways() {
    for mut world in [World::new(Handoff::Closed), World::known()] {
        let data: Vec<u8> = (0..3000).map(|i| i as u8).collect();
        let parts = fragments6(&udp6(44_000, &data), 0x1234_5678, 1200);
        assert_eq!(parts.len(), 3);
        // Out of order: nobody knows whose it is before the first one is there.
        world.drain();
        world.send(&parts[1]);
        assert!(world.to_host.is_empty());
        world.send(&parts[0]);
        world.send(&parts[2]);
        assert_eq!(world.to_host.len(), 3, "{:?}", world.drops());
        let mut whole = Vec::new();
        for part in &world.to_host {
            let view = Ipv4::new(part).unwrap();
            let fragment = view.fragment().unwrap();
            assert_eq!(fragment.identification, 0x5678);
            assert_eq!(usize::from(fragment.offset), whole.len());
            whole.extend_from_slice(view.data());
        }
        assert_eq!(transport_sum(POOL, HOST, protocol::UDP, &whole), 0);
        assert_eq!(&whole[8..], &data[..]);
        let (mapped, _) = ports(&whole).unwrap();

        let answer = udp4(53, mapped, &data);
        let parts = fragments4(&answer, 0x4321, 1500);
        world.drain();
        world.send(&parts[1]);
        assert!(world.to_client.is_empty());
        world.send(&parts[0]);
        world.send(&parts[2]);
        let mut whole = Vec::new();
        for part in &world.to_client {
            let walk = Ipv6::new(part).unwrap().walk().unwrap();
            let fragment = walk.fragment.unwrap();
            assert_eq!(usize::from(fragment.offset), whole.len());
            whole.extend_from_slice(&part[walk.upper_at..]);
        }
        assert_eq!(&whole[8..], &data[..]);
        // After a while, notes are gone.
        world.now += Duration::from_secs(16);
        world.drain();
        world.send(&parts[1]);
        assert!(world.to_client.is_empty());
    }
}

#[test]
fn a_later_fragment_that_waits_in_vain_is_dropped() {
    let mut world = World::new(Handoff::Closed);
    let parts = fragments6(&udp6(44_000, &[7; 2000]), 1, 1200);
    world.send(&parts[1]);
    let parts = fragments4(&udp4(53, 9000, &[7; 2000]), 1, 1500);
    world.send(&parts[1]);
    assert_eq!(world.drops(), []);
    world.now += WAITING_LIFETIME;
    world.tick();
    assert_eq!(world.drops(), [("fragment_unknown", 2)]);
    assert!(world.to_client.is_empty() && world.to_host.is_empty());
}

/// RFC 7739: an identification does not tell how many packets went to others.
#[test]
fn identifications_are_hard_to_guess() {
    let mut world = World::known();
    let there = |world: &mut World| {
        let packet = world.at_host(&tcp6(40_000, ACK));
        u16::from_be_bytes([packet[4], packet[5]])
    };
    let identifications: Vec<u16> = (0..1000).map(|_| there(&mut world)).collect();
    let near = identifications.windows(2).filter(|two| two[1].wrapping_sub(two[0]) < 1024);
    // One in 64.
    assert!(near.count() < 60);
    let mut distinct = identifications;
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 970, "{}", distinct.len());
}
