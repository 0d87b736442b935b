use std::fs;

use super::*;
use crate::kernel::service::PassedFile;

const ANY_PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
const PATIENCE: Duration = Duration::from_millis(200);

fn numbers_received(sockets: &[ReactorSocket]) -> Vec<(SocketAddrV4, u32)> {
    let mut received = Vec::new();
    for socket in sockets {
        socket.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut octets = [0; 4];
        while let Ok((_, source)) = socket.socket.recv_from(&mut octets) {
            let std::net::SocketAddr::V4(source) = source else { unreachable!() };
            received.push((source, u32::from_be_bytes(octets)));
        }
    }
    received
}

#[test]
fn a_source_stays_with_its_reactor_whatever_its_port() {
    const REACTORS: usize = 3;
    const SOURCES: u8 = 64;
    const PORTS: u32 = 5;
    let shards = bind_group(&[ANY_PORT], REACTORS).unwrap();
    let server = shards[0][0].local();
    assert!(shards.iter().all(|shard| shard[0].local() == server));

    for source in 0..SOURCES {
        let source = Ipv4Addr::new(127, 1, source / 16, source);
        for port in 0..PORTS {
            let sender = UdpSocket::bind((source, 0)).unwrap();
            sender.send_to(&port.to_be_bytes(), server).unwrap();
        }
    }

    for (reactor, shard) in shards.iter().enumerate() {
        let received = numbers_received(shard);
        assert!(received.iter().all(|(source, _)| steered_to(*source.ip(), REACTORS) == reactor));
        // A third of all would be even; a quarter shows that neighbours spread.
        assert!(received.len() >= usize::from(SOURCES) * PORTS as usize / 4);
        // All ports of a source are here, or none is.
        assert_eq!(received.len() % PORTS as usize, 0);
    }
}

#[test]
fn steering_spreads_neighbours_and_networks() {
    for reactors in [2, 3, 4, 7, 8, 16] {
        for step in [1, 2, 4, 16, 256, 65536] {
            let mut counts = vec![0; reactors];
            for i in 0..256 {
                let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + i * step);
                counts[steered_to(source, reactors)] += 1;
            }
            let even = 256 / reactors;
            assert!(
                counts.iter().all(|&count| count >= even / 3),
                "{reactors} reactors, step {step}: {counts:?}"
            );
        }
    }
}

#[test]
fn every_address_of_every_reactor_has_the_port_that_the_kernel_picked() {
    let listen = [ANY_PORT, SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0), ANY_PORT];
    let shards = bind_group(&listen, 2).unwrap();
    assert_eq!(shards.len(), 2);
    let port = shards[0][0].local().port();
    assert_ne!(port, 0);
    for shard in &shards {
        let locals: Vec<_> = shard.iter().map(|socket| socket.local()).collect();
        assert_eq!(
            locals,
            [
                SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
                SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), port),
            ]
        );
    }
}

#[test]
fn a_wildcard_and_one_of_its_addresses() {
    let specific = Ipv4Addr::new(127, 0, 0, 2);
    let listen = [specific, Ipv4Addr::UNSPECIFIED].map(|address| SocketAddrV4::new(address, 0));
    for reactors in [1, 3] {
        let shards = bind_group(&listen, reactors).unwrap();
        let port = shards[0][0].local().port();
        let source = Ipv4Addr::new(127, 1, 2, 3);
        let sender = UdpSocket::bind((source, 0)).unwrap();
        sender.send_to(&1u32.to_be_bytes(), (specific, port)).unwrap();
        sender.send_to(&2u32.to_be_bytes(), (Ipv4Addr::LOCALHOST, port)).unwrap();
        for (reactor, mut shard) in shards.into_iter().enumerate() {
            assert!(!shard[0].is_wildcard() && shard[1].is_wildcard());
            for number in [1, 2] {
                let numbers: Vec<u32> = numbers_received(&[shard.remove(0)])
                    .iter()
                    .map(|received| received.1)
                    .collect();
                let here = steered_to(source, reactors) == reactor;
                assert_eq!(numbers, if here { vec![number] } else { vec![] });
            }
        }
    }
}

#[test]
fn a_second_server_is_told_who_has_the_port() {
    for (reactors, first, second) in [
        (1, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST),
        (2, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST),
        (2, Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST),
        (2, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED),
    ] {
        let shards = bind_group(&[SocketAddrV4::new(first, 0)], reactors).unwrap();
        let port = shards[0][0].local().port();
        let error = bind_group(&[SocketAddrV4::new(second, port)], reactors).unwrap_err();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(
            error.to_string(),
            format!(
                "port {port} is taken by {} (pid {}); stop it, or choose another with --port",
                name.trim_end(),
                std::process::id()
            )
        );
    }
}

#[test]
fn a_port_that_becomes_free_in_time_is_had() {
    let predecessor = bind_group(&[ANY_PORT], 2).unwrap();
    let address = predecessor[0][0].local();
    let dying = thread::spawn(move || {
        thread::sleep(Duration::from_millis(60));
        drop(predecessor);
    });
    bind_group(&[address], 2).unwrap();
    dying.join().unwrap();
}

/// As after `kill -9`: the process is gone, but the kernel has not taken its ring down yet.
#[test]
fn a_port_that_only_a_ring_has_is_waited_for() {
    let Ok(ring) = io_uring::IoUring::new(2) else { crate::skip::cannot_run("io_uring") };
    let predecessor = bind_first(ANY_PORT, false).unwrap();
    let address = predecessor.local();
    ring.submitter().register_files(&[predecessor.socket.as_raw_fd()]).unwrap();
    drop(predecessor);
    assert!(
        open(address).and_then(|socket| Ok(bind(&socket, &address)?)).is_err(),
        "the ring has it"
    );
    let dying = thread::spawn(move || {
        thread::sleep(BIND_INTERVAL * (2 * BIND_TRIES));
        drop(ring);
    });
    bind_group(&[address], 2).unwrap();
    dying.join().unwrap();
}

#[test]
fn errors_name_the_next_step() {
    let nowhere = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 0);
    assert_eq!(
        bind_group(&[nowhere], 1).unwrap_err().to_string(),
        "203.0.113.5 is not an address of this host; see `ip address`"
    );
    let multicast = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 0);
    assert!(matches!(bind_group(&[multicast], 1), Err(BindError::NotLocal(_))));
    assert_eq!(
        BindError::Forbidden(53).to_string(),
        "port 53 needs CAP_NET_BIND_SERVICE, or a lower sysctl net.ipv4.ip_unprivileged_port_start"
    );
    assert_eq!(
        BindError::PortTaken { port: 64064, holder: None }.to_string(),
        "port 64064 is taken; see `ss -lunp`"
    );
}

#[test]
fn nothing_is_heard_before_the_group_is_whole() {
    let first = bind_first(ANY_PORT, false).unwrap();
    let server = first.local();
    let sender = UdpSocket::bind(ANY_PORT).unwrap();
    sender.send_to(&1u32.to_be_bytes(), server).unwrap();
    let group = complete_group(first, true, 2).unwrap();
    sender.send_to(&2u32.to_be_bytes(), server).unwrap();
    group.iter().for_each(|socket| undeafen(socket).unwrap());
    sender.send_to(&3u32.to_be_bytes(), server).unwrap();
    let numbers: Vec<u32> = numbers_received(&group).iter().map(|r| r.1).collect();
    assert_eq!(numbers, [3]);
}

/// As another process gets them.
fn kept_of(bound: BoundSockets, listen: &[SocketAddrV4]) -> KeptSockets {
    let passed = bound.keep().unwrap();
    drop(bound);
    KeptSockets::of(passed, listen)
}

#[test]
fn kept_sockets_hear_all_the_time_and_steer_for_any_number_of_reactors() {
    const SOURCES: u8 = 32;
    let send = |server: SocketAddrV4, number: u32| {
        for source in 0..SOURCES {
            let sender = UdpSocket::bind((Ipv4Addr::new(127, 2, 0, source), 0)).unwrap();
            sender.send_to(&number.to_be_bytes(), server).unwrap();
        }
    };
    for (before, after) in [(1, 1), (3, 3), (1, 3), (3, 1), (2, 3), (3, 2)] {
        let first = bind_or_take(&[ANY_PORT], before, KeptSockets::default()).unwrap();
        let server = first.shards[0][0].local();
        let kept = kept_of(first, &[server]);
        assert_eq!(kept.reactors(after), after);
        send(server, 1);
        let second = bind_or_take(&[server], after, kept).unwrap();
        assert_eq!(second.shards.len(), after);
        let lost = if before == after { 0 } else { u64::from(SOURCES) };
        assert_eq!(second.lost, lost, "{before} to {after}");
        send(server, 2);
        let mut heard = 0;
        for (reactor, shard) in second.shards.iter().enumerate() {
            for (source, number) in numbers_received(shard) {
                assert_eq!(
                    steered_to(*source.ip(), after),
                    reactor,
                    "{before} to {after}: {number}"
                );
                heard += 1;
            }
        }
        assert_eq!(heard + lost, 2 * u64::from(SOURCES), "{before} to {after}");
        // Nobody else has them.
        let passed = second.keep().unwrap();
        drop((second, passed));
        bind_group(&[server], 1).unwrap();
    }
}

#[test]
fn kept_sockets_that_do_not_fit_are_closed() {
    let bound = bind_or_take(&[ANY_PORT], 3, KeptSockets::default()).unwrap();
    let server = bound.shards[0][0].local();
    let mut passed = bound.keep().unwrap();
    drop(bound);
    // One of another address, and one of a place that is missing.
    let other = UdpSocket::bind(ANY_PORT).unwrap();
    passed.remove(1);
    passed.push(PassedFile { name: "handoff-0-x".into(), file: other.into(), is_units: false });
    drop(KeptSockets::of(passed, &[server]));
    bind_group(&[server], 1).unwrap();
}

#[test]
fn a_units_sockets_are_as_many_reactors() {
    let bound = bind_or_take(&[ANY_PORT], 2, KeptSockets::default()).unwrap();
    let server = bound.shards[0][0].local();
    let units = |passed: Vec<PassedFile>| {
        let unit =
            |passed: PassedFile| PassedFile { name: "x.socket".into(), is_units: true, ..passed };
        passed.into_iter().map(unit).collect::<Vec<_>>()
    };
    let kept = KeptSockets::of(units(bound.keep().unwrap()), &[server]);
    assert_eq!((kept.reactors(8), kept.reactors(1)), (2, 1));
    drop(bound);
    let again = bind_or_take(&[server], 2, kept).unwrap();
    let passed = again.keep().unwrap();
    assert!(passed.iter().all(|passed| passed.is_units && !passed.name.starts_with("handoff-")));
    assert_eq!(
        KeptSockets::of(passed, &[server]).reactors(8),
        2,
        "and still when they are handed over"
    );
}
