//! Of this host's connections, and those of other hosts of a fleet.

use super::*;
use crate::handoff::entry::MappedPort;
use crate::handoff::ownership::{HostId, HostRun, LivePart, WANTED_AT_ONCE, WantedTables};
use crate::kernel::clock::Clock;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

/// A connection of this host with `nat64`, an address of this host too: its ends, its table and
/// port.
fn connect(nat64: Ipv4Addr) -> (TcpStream, TcpStream, TableKey, MappedPort) {
    let listener = TcpListener::bind((nat64, 0)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    let (IpAddr::V4(local), SocketAddr::V4(remote)) =
        (ours.local_addr().unwrap().ip(), ours.peer_addr().unwrap())
    else {
        panic!("all over IPv4");
    };
    let table = TableKey { local, nat64: *remote.ip() };
    (ours, other, table, MappedPort(remote.port()))
}

fn is_live(view: &mut View, table: TableKey, port: MappedPort) -> Option<bool> {
    view.of(table).map(|live| live.ports.contains(port))
}

#[test]
fn section_6_a_watched_table_is_looked_at_until_nobody_asks() {
    let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 1));
    let (mut poller, mut views) = prepare(2, None);
    let [view, stranger] = &mut views[..] else { panic!("two") };
    let at = Duration::from_secs;
    assert_eq!((poller.take_requests(at(0)), poller.is_watching()), (false, false));
    // However often the reactor asks, it requests the table once.
    for _ in 0..3 {
        assert_eq!(is_live(view, table, port), None);
    }
    assert_eq!((poller.requests[0].slots(), poller.requests[1].slots()), (1, 0));
    assert!(poller.take_requests(at(0)) && poller.is_watching());
    poller.poll(at(0)).unwrap();
    assert_eq!(is_live(view, table, port), Some(true));
    assert_eq!(is_live(view, table, MappedPort(1)), Some(false));
    assert_eq!(stranger.of(table).unwrap().poll, 1);
    let other = TableKey { local: Ipv4Addr::new(127, 0, 64, 2), ..table };
    assert_eq!(is_live(stranger, other, port), None);
    // The other table is watched from now on. The first one was just asked about.
    assert!(poller.take_requests(at(59)));
    poller.poll(at(59)).unwrap();
    assert_eq!(is_live(stranger, other, port), Some(false));
    assert_eq!(is_live(view, table, port), Some(true));
    poller.poll(at(118)).unwrap();
    assert_eq!(is_live(view, table, port), Some(true));
    poller.poll(at(177)).unwrap();
    assert!(poller.is_watching());
    assert!(!poller.take_requests(at(177)));
    poller.poll(at(238)).unwrap();
    assert!(!poller.is_watching());
    // The last snapshot stays, and the table is watched again, without haste as something is
    // known.
    assert_eq!(is_live(view, table, port), Some(true));
    assert!(!poller.take_requests(at(300)) && poller.is_watching());
    let before = poller.polls;
    poller.poll(at(300)).unwrap();
    assert_eq!(view.of(table).unwrap().poll, before + 1);
    // Only the snapshots are kept that a reactor may still read.
    stranger.of(table);
    poller.poll(at(301)).unwrap();
    assert!(poller.retired.len() <= 2, "{}", poller.retired.len());
    // The other one has not been asked about for long.
    let is_known = |poller: &Poller| poller.tables.contains_key(&other);
    assert!(is_known(&poller));
    poller.poll(at(1000)).unwrap();
    assert!(!is_known(&poller) && stranger.of(other).is_none());
}

#[test]
fn a_snapshot_is_forgotten_while_polls_fail() {
    let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 5));
    let (mut poller, mut views) = prepare(1, None);
    let [view] = &mut views[..] else { panic!("one") };
    assert_eq!(is_live(view, table, port), None);
    let at = Duration::from_secs;
    assert!(poller.take_requests(at(0)));
    poller.poll(at(0)).unwrap();
    poller.sock_diag = Some(SockDiag::broken());
    for (now, known) in [(1, true), (60, true), (61, false)] {
        assert!(poller.poll(at(now)).is_err());
        assert_eq!(is_live(view, table, port).is_some(), known, "{now}");
    }
    // It is still watched, and known as soon as a poll succeeds.
    assert!(!poller.take_requests(at(61)));
    poller.sock_diag = None;
    poller.poll(at(62)).unwrap();
    assert_eq!(is_live(view, table, port), Some(true));
    drop(poller);
    assert_eq!(is_live(view, table, port), None, "nobody polls any more");
}

#[test]
fn section_5_all_hosts_with_a_connection_are_known_while_somebody_asks() {
    let (_ours, _other, table, _) = connect(Ipv4Addr::new(127, 0, 64, 6));
    let (mut poller, mut views) = prepare(1, None);
    let [view] = &mut views[..] else { panic!("one") };
    let at = Duration::from_secs;
    assert!(!poller.take_requests(at(0)) && !poller.is_watching());
    assert_eq!(view.any(table), None);
    assert!(poller.take_requests(at(1)) && poller.is_watching());
    poller.poll(at(1)).unwrap();
    let stranger = TableKey { nat64: Ipv4Addr::new(127, 0, 64, 7), ..table };
    assert_eq!((view.any(table), view.any(stranger)), (Some(true), Some(false)));
    // It is known already: there is no haste.
    assert!(!poller.take_requests(at(60)) && poller.is_watching());
    poller.poll(at(119)).unwrap();
    assert_eq!(view.any(table), Some(true));
    // While polls fail.
    poller.sock_diag = Some(SockDiag::broken());
    assert!(!poller.take_requests(at(120)) && poller.poll(at(179)).is_err());
    assert_eq!(view.any(table), Some(true));
    assert!(poller.poll(at(179) + at(1)).is_err());
    assert_eq!(view.any(table), None);
    poller.sock_diag = None;
    poller.shared.asked_all.store(false, Ordering::Relaxed);
    poller.poll(at(300)).unwrap();
    assert_eq!(view.any(table), None);
    assert!(poller.take_requests(at(300)), "asked anew");
    poller.poll(at(300)).unwrap();
    assert_eq!(view.any(table), Some(true));
    poller.take_requests(at(301));
    poller.poll(at(361)).unwrap();
    assert!(!poller.is_watching());
}

/// What one host tells another goes there, and how many datagrams that would be.
fn pass(from: (&LiveElsewhere, HostRun), to: (&LiveElsewhere, HostRun), number: u64) -> usize {
    let mut count = 0;
    for tables in from.0.take_asks(true).chunks(WANTED_AT_ONCE) {
        let mut octets = Vec::new();
        to.0.asked(from.1, number, WantedTables::of(tables, &mut octets).unwrap()).unwrap();
        count += 1;
    }
    for LiveAnswer { table, ports, to: hosts } in from.0.take_answers() {
        assert_eq!(hosts, [to.1.host]);
        LivePart::each_of(table, &ports, |part| {
            to.0.said(from.1, number, &part).unwrap();
            count += 1;
        });
    }
    count
}

#[test]
fn section_6_other_hosts_tell_what_is_live_there() {
    let (ours, other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 8));
    let runs = [1, 2].map(|host| HostRun { host: HostId(host), number: 7 });
    let clock = Clock::new();
    let [owner, helper] = runs.map(|run| Arc::new(LiveElsewhere::new(run, clock.clone())));
    for live in [&owner, &helper] {
        runs.iter().for_each(|run| live.host(run.host, Some(*run)));
    }
    let (asker, teller) = ((&*owner, runs[0]), (&*helper, runs[1]));
    let poller = |live| {
        let (poller, mut views) = prepare(1, Some(Arc::clone(live)));
        (poller, views.remove(0))
    };
    let ((mut its, mut view), (mut others, _other_view)) = (poller(&owner), poller(&helper));
    // The kernel of this host does not know it, as it is one of the other.
    its.sock_diag = Some(SockDiag::broken());
    let at = Duration::from_secs;
    assert_eq!((its.is_watching(), others.is_watching()), (false, false));
    assert_eq!(pass(asker, teller, 1), 0);
    assert!(view.of(table).is_none() && its.take_requests(at(0)));
    assert!(its.poll(at(0)).is_err());
    assert_eq!(pass(asker, teller, 2), 1);
    // It is asked, and polls soon, but watches nothing for itself.
    assert!(others.is_watching() && others.take_requests(at(0)) && !others.take_requests(at(0)));
    others.poll(at(0)).unwrap();
    assert!(others.tables.is_empty() && !its.take_requests(at(0)));
    assert_eq!(pass(teller, asker, 3), 1);
    // The first word is published soon, beside what is live here.
    assert!(its.take_requests(at(0)) && !its.take_requests(at(0)));
    its.sock_diag = None;
    its.poll(at(1)).unwrap();
    assert_eq!((is_live(&mut view, table, port), owner.ports()), (Some(true), 1));
    drop((ours, other));
    // It stands until it is another.
    its.poll(at(2)).unwrap();
    assert_eq!((is_live(&mut view, table, port), owner.ports()), (Some(true), 1));
    others.poll(at(2)).unwrap();
    assert_eq!(pass(teller, asker, 4), 1);
    assert!(!its.take_requests(at(2)), "there is no haste");
    its.poll(at(3)).unwrap();
    assert_eq!((is_live(&mut view, table, port), owner.ports()), (Some(false), 0));
    // Nobody asks here any more, and so nobody there is asked.
    its.poll(at(100)).unwrap();
    its.poll(at(200)).unwrap();
    assert!(!its.is_watching());
    owner.begin_poll(std::iter::empty());
    assert_eq!(pass(asker, teller, 5), 0);
}

#[test]
fn section_6_the_thread_looks_at_once_and_again() {
    let (ours, other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 3));
    let (poller, mut views) = prepare(1, None);
    let polling = poller.start(std::iter::empty(), |error| panic!("{error}")).expect("sock_diag");
    let mut wait_until = |wanted| {
        let began = clock::instant();
        while is_live(&mut views[0], table, port) != Some(wanted) {
            assert!(began.elapsed() < Duration::from_secs(20), "never {wanted}");
            thread::sleep(Duration::from_millis(1));
        }
    };
    wait_until(true);
    drop((other, ours));
    wait_until(false);
    drop(polling);
    let began = clock::instant();
    while !views[0].requests.is_abandoned() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not end");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn section_6_full_tables_are_known_from_the_start() {
    let (_ours, _other, table, port) = connect(Ipv4Addr::new(127, 0, 64, 4));
    let (poller, mut views) = prepare(1, None);
    let _polling = poller.start([table].into_iter(), |error| panic!("{error}")).unwrap();
    assert_eq!(is_live(&mut views[0], table, port), Some(true));
}

#[test]
fn a_thread_that_never_ran_is_asked_for_nothing() {
    let (poller, mut views) = prepare(1, None);
    drop(poller);
    let table = TableKey { local: Ipv4Addr::LOCALHOST, nat64: Ipv4Addr::LOCALHOST };
    for _ in 0..3 {
        assert!(views[0].of(table).is_none());
    }
    assert!(views[0].requested.is_empty());
}
