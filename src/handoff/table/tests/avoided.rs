//! Ports that the NAT64 uses for somebody else.

use super::*;

/// A table of as many entries as there are ports, on all of them.
fn full() -> Table {
    let mut table = table(TABLE_CAPACITY, 1.0);
    table.set_control_ports([ControlPort(40_000)].into_iter());
    let ports = (1024..=u16::MAX).map(MappedPort).filter(|&port| table.is_eligible(port));
    let ports: Vec<_> = ports.collect();
    for (client, port) in (0..TABLE_CAPACITY).map(nth).zip(ports) {
        table.apply(&Change::Created { port, client });
    }
    assert_eq!((table.len(), table.contradiction()), (TABLE_CAPACITY, None));
    table
}

/// A client that no full table has.
fn newcomer(number: u8) -> Client {
    client(1, number, 2, 1)
}

#[test]
fn section_6_at_a_full_table_nobody_gets_a_port_that_is_avoided() {
    let mut table = full();
    for port in [1024, 1025, 1027] {
        table.avoid(MappedPort(port));
    }
    assert_eq!(replaced(&mut table, newcomer(1), None), Some(1026));
    assert_eq!(table.entry(table.find(&newcomer(1)).unwrap()).port.0, 1026);
    // They count as used: the next in turn goes.
    assert_eq!(replaced(&mut table, newcomer(2), None), Some(1028));
    assert!((1024..1028).all(|port| table.find_port(MappedPort(port)).is_some()));
    // Not for ever: of nine in a row the last one goes.
    (1029..1038).for_each(|port| table.avoid(MappedPort(port)));
    assert_eq!(replaced(&mut table, newcomer(3), None), Some(1037));
    assert_eq!(table.entry(table.find(&newcomer(3)).unwrap()).port.0, 1037);
    assert_eq!((table.len(), table.contradiction()), (TABLE_CAPACITY, None));
}

/// Those that are not live are few, and all of them avoided: no live one goes for that.
#[test]
fn section_6_a_live_entry_does_not_go_for_one_whose_port_is_avoided() {
    let mut table = full();
    let few = 2000..2003;
    let live = PortSet::new((1024..=u16::MAX).filter(|port| !few.contains(port)).collect());
    let live = LivePorts { poll: 1, ports: &live };
    few.clone().for_each(|port| table.avoid(MappedPort(port)));
    let gone = replaced(&mut table, newcomer(1), Some(live)).unwrap();
    assert!(few.contains(&gone), "{gone}");
    assert_eq!(table.contradiction(), None);
}

/// Where a port is free that is not avoided, the order of use alone decides who goes.
#[test]
fn section_6_nobody_is_passed_over_while_another_port_is_free() {
    let mut table = filled(1.0, (0..3).map(nth));
    [2000, 2001].into_iter().for_each(|port| table.avoid(MappedPort(port)));
    assert_eq!(replaced(&mut table, newcomer(1), None), Some(2000));
    let port = table.entry(table.find(&newcomer(1)).unwrap()).port.0;
    assert!(![2000, 2001, 2002].contains(&port), "{port}");
    // The NAT64 has it right by now: it is a port like any other.
    table.forgive(MappedPort(2001));
    assert_eq!(replaced(&mut table, newcomer(2), None), Some(2001));
    assert_eq!(table.entry(table.find(&newcomer(2)).unwrap()).port.0, 2001);
}

/// A snapshot keeps them.
#[test]
fn section_6_a_table_from_changes_avoids_the_same_ports() {
    let mut table = full();
    let avoided = [5000, 5256, 5512, 6000];
    avoided.iter().for_each(|&port| table.avoid(MappedPort(port)));
    let free: Vec<_> = avoided[..3].iter().chain(&[7000]).copied().collect();
    for &port in &free {
        table.bar(ControlPort(port), |_| {});
    }
    let mut again = Table::new(table.limits, HANDOFF, SecretHash::new([1; 16]));
    again.set_control_ports([ControlPort(40_000)].into_iter());
    table.changes().for_each(|change| again.apply(&change));
    assert!(again.by_use().eq(table.by_use()));
    assert!(again.ports.avoided().eq(table.ports.avoided()), "in their order");
    for table in [&mut table, &mut again] {
        // The one that is not avoided comes first, then the others.
        let mut random = Random::new([2; 32]);
        let mut drawn = Vec::new();
        for number in 0..4 {
            create(table, newcomer(number), None, &mut random);
            drawn.push(table.entry(table.find(&newcomer(number)).unwrap()).port.0);
        }
        assert_eq!(drawn[0], 7000);
        drawn.sort_unstable();
        assert_eq!(drawn, free);
        // Of those that were avoided, an entry has three now: the last one is avoided still.
        let left: Vec<_> =
            table.changes().filter(|c| matches!(c, Change::Conflict { .. })).collect();
        assert_eq!(left.len(), 1);
    }
}
