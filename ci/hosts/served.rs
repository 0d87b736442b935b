//! Requests that reach one host or another: nobody can tell which.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::harness::process::wait_until;
use crate::judge::client::Client;
use crate::judge::eventlog::{Event, Kind, check_consistency};
use crate::judge::nat64::Nat64;
use crate::site::{Host, Site};

/// How long a NAT64 waits for an answer before it asks again.
const ASKS_AGAIN: Duration = Duration::from_millis(20);

/// How long a host that has given its tables away is there still, at least, where another has not
/// seen that: shorter than it waits for that.
const STAYS: Duration = Duration::from_millis(800);

/// Which client has which port, as the NAT64 was told.
#[derive(Default)]
pub struct Told(BTreeMap<u16, Client>);

impl Told {
    /// The client has this port, and no other client has it.
    fn take(&mut self, client: Client, port: u16) {
        let other = self.0.insert(port, client);
        assert!(other.is_none_or(|other| other == client), "{port} is {other:?}, and {client:?}");
        assert_eq!(self.0.values().filter(|&&at| at == client).count(), 1, "{client:?}");
    }

    pub fn map(&mut self, nat64: &Nat64, clients: std::ops::Range<u32>) {
        for client in clients.map(Client::nth) {
            self.take(client, nat64.map(client));
        }
    }

    /// All are who they were.
    pub fn check(&self, nat64: &Nat64) {
        for (&port, &client) in &self.0 {
            assert_eq!(nat64.map(client), port, "{client:?}");
            let (entry, _) = nat64.find(port).expect("it is there");
            assert_eq!(entry, client.at(port));
        }
    }
}

/// Asks for a client until there is an answer; how long that was.
pub fn ask_until_answered(nat64: &Nat64, client: Client) -> Duration {
    let (begin, packet) = (Instant::now(), client.udp(b"asked again"));
    let answered = wait_until(PATIENCE, || {
        nat64.send(&nat64.client_request(&client.authenticator(), &packet));
        nat64.try_reply(ASKS_AGAIN).is_some()
    });
    assert!(answered, "no answer for {client:?}");
    let took = begin.elapsed();
    // Of those that were asked meanwhile.
    while nat64.try_reply(Duration::from_millis(300)).is_some() {}
    took
}

/// The lines of all hosts together say what the NAT64s were told, each once.
pub fn check_logs(hosts: &[Host], told: &[(&Nat64, &Told)]) {
    let of_all = || {
        let mut events: Vec<Event> = hosts.iter().flat_map(Host::events).collect();
        // Hosts of a test have one clock.
        events.sort_by(|one, other| one.when.cmp(&other.when));
        events
    };
    let created = || {
        let events = of_all();
        let created = events.iter().filter(|event| event.kind == Kind::Created);
        created.map(|event| (event.nat64, event.entry.unwrap())).collect::<Vec<_>>()
    };
    let expected = told.iter().flat_map(|(nat64, told)| {
        let clients = told.0.iter();
        clients.map(|(&port, client)| (nat64.address, (port, client.address, client.port)))
    });
    let expected: BTreeSet<_> = expected.collect();
    let has_all = wait_until(PATIENCE, || created().len() >= expected.len());
    assert!(has_all, "{} lines, {} entries", created().len(), expected.len());
    check_consistency(&of_all());
    let all = created();
    let once: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!(once.len(), all.len(), "a line twice");
    assert_eq!(once, expected);
}

#[test]
fn whichever_host_is_asked_the_owner_answers() {
    Site::with(2, |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..30);
        site.route(1);
        told.check(&nat64);
        told.map(&nat64, 30..60);
        site.route(0);
        told.check(&nat64);
        // One that is not known proves itself to whoever it reaches.
        let rebooted = nat64.rebooted();
        let packet = rebooted.unmapped_packet();
        let challenge = rebooted.challenge(&rebooted.service_request(&packet));
        site.route(1);
        rebooted.prove(&challenge);
        told.check(&rebooted);
        // Another NAT64 begins at the other host.
        let second = site.nat64();
        second.introduce();
        let mut of_second = Told::default();
        of_second.map(&second, 0..30);
        site.route(0);
        of_second.check(&second);
        check_logs(&site.hosts, &[(&nat64, &told), (&second, &of_second)]);
        let lines = |host: &Host| host.events().iter().map(|event| event.nat64).collect();
        let of: Vec<BTreeSet<_>> = site.hosts.iter().map(lines).collect();
        assert_eq!(of, [BTreeSet::from([nat64.address]), BTreeSet::from([second.address])]);
        site.hosts.iter_mut().for_each(Host::stop);
    });
}

#[test]
fn a_host_is_killed_and_another_answers() {
    Site::with(3, |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..40);
        // Some lines may be recorded and not written.
        site.hosts[0].kill();
        site.route(1);
        let took = ask_until_answered(&nat64, Client::nth(7));
        println!("host killed: an entry that was there is answered for after {took:?}");
        told.check(&nat64);
        told.map(&nat64, 40..80);
        site.route(2);
        told.check(&nat64);
        // It comes again, and has all.
        site.begin(0);
        site.wait_until_ready(0);
        site.route(0);
        told.check(&nat64);
        told.map(&nat64, 80..90);
        check_logs(&site.hosts, &[(&nat64, &told)]);
        assert!(site.hosts[1].events().iter().all(|event| event.kind == Kind::Created));
    });
}

#[test]
fn a_node_of_etcd_is_lost_and_nobody_else() {
    Site::with(2, |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..10);
        let leader = site.cluster.wait_for_leader();
        site.cluster.kill(leader);
        // Who is known is answered for at once.
        let known = Instant::now();
        told.check(&nat64);
        let known = known.elapsed();
        let new = ask_until_answered(&nat64, Client::nth(10));
        println!("etcd's leader killed: known ones {known:?} for 20, a new one {new:?}");
        told.map(&nat64, 10..30);
        site.route(1);
        told.check(&nat64);
        site.cluster.begin(leader);
        site.cluster.wait_for_leader();
        told.map(&nat64, 30..40);
        check_logs(&site.hosts, &[(&nat64, &told)]);
    });
}

/// Its tables are handed over while it answers, and it ends when the other has seen that: each
/// request is asked once.
#[test]
fn a_host_that_ends_leaves_no_request_without_an_answer() {
    Site::with(2, |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..20);
        site.route(1);
        told.check(&nat64);
        let host = &mut site.hosts[0];
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| host.stop());
            while !ended.is_finished() {
                told.check(&nat64);
            }
        });
        told.check(&nat64);
        told.map(&nat64, 20..40);
        check_logs(&site.hosts, &[(&nat64, &told)]);
        assert_eq!(site.hosts[1].events().len(), 20);
    });
}

/// What a host passes on that cannot see that the owner has given its tables away, as it does not
/// reach etcd, has its answer: the owner stays until it has seen that. It is drained, so that
/// nothing is given to it.
#[test]
fn a_host_that_ends_waits_for_one_that_passes_on_to_it_still() {
    Site::with(3, |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..5);
        let (status, said) = site.hosts[2].runs(&["fleet", "drain"]);
        assert_eq!(status, 0, "{said}");
        site.route(2);
        told.check(&nat64);
        let late = site.hosts[2].address();
        let nodes: Vec<_> = site.cluster.nodes.iter().map(|node| (late, node.address)).collect();
        let mut first = site.hosts.remove(0);
        std::thread::scope(|scope| {
            let ended = scope.spawn(|| first.stop());
            site.cut(&nodes);
            let has_it = |host: &Host| host.asks("/metrics").1.contains("fleet_tables 1\n");
            assert!(wait_until(PATIENCE, || {
                told.check(&nat64);
                has_it(&site.hosts[0])
            }));
            // Else it would have ended by now.
            let given = Instant::now();
            while given.elapsed() < STAYS {
                told.check(&nat64);
            }
            assert!(!ended.is_finished(), "it has ended, and one has not seen whose its table is");
            site.cut(&[]);
            while !ended.is_finished() {
                ask_until_answered(&nat64, Client::nth(0));
            }
        });
        ask_until_answered(&nat64, Client::nth(0));
        told.check(&nat64);
        told.map(&nat64, 5..10);
        site.hosts.insert(0, first);
        check_logs(&site.hosts, &[(&nat64, &told)]);
    });
}

/// Who is not heard by others, and has not died, answers nothing that is not so.
#[test]
fn a_host_that_was_stopped_for_a_while_finds_its_tables_anothers() {
    Site::with(2, |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..20);
        site.hosts[0].process().signal(libc::SIGSTOP);
        site.route(1);
        let took = ask_until_answered(&nat64, Client::nth(7));
        println!("host stopped: an entry that was there is answered for after {took:?}");
        told.map(&nat64, 20..40);
        site.hosts[0].process().signal(libc::SIGCONT);
        site.route(0);
        ask_until_answered(&nat64, Client::nth(7));
        told.check(&nat64);
        told.map(&nat64, 40..60);
        check_logs(&site.hosts, &[(&nat64, &told)]);
    });
}

/// It gives its tables away while it goes on: each request has its answer, also those that reach it
/// still, and whoever sends them there is told first.
#[test]
fn a_host_that_is_drained_answers_all_the_same() {
    Site::with(2, |site| {
        let nat64s = [site.nat64(), site.nat64()];
        let mut told = [Told::default(), Told::default()];
        for (nat64, told) in nat64s.iter().zip(&mut told) {
            nat64.introduce();
            told.map(nat64, 0..20);
        }
        assert_eq!(site.hosts[0].asks("/readyz").0, 200);
        let host = &site.hosts[0];
        std::thread::scope(|scope| {
            let drained = scope.spawn(|| host.runs(&["fleet", "drain"]));
            while !drained.is_finished() {
                told[0].check(&nat64s[0]);
                told[1].check(&nat64s[1]);
            }
            let (status, said) = drained.join().unwrap();
            assert_eq!((status, said.as_str()), (0, "2 tables are other hosts' now\n"));
        });
        assert_eq!(site.hosts[0].asks("/readyz").0, 503);
        // Which nodes answer is asked now and then.
        let (_, status) = site.hosts[0].runs(&["status"]);
        assert!(status.contains("has 0 tables, as it gives them away"), "{status}");
        assert!(status.contains("3 of 3 nodes answer"), "{status}");
        // They reach it still, and new ones.
        for (nat64, told) in nat64s.iter().zip(&mut told) {
            told.check(nat64);
            told.map(nat64, 20..40);
        }
        site.route(1);
        told[1].check(&nat64s[1]);
        let metrics = site.hosts[1].asks("/metrics").1;
        assert!(metrics.contains("nat64handoff_fleet_tables 2"), "{metrics}");
        check_dashboard(&metrics);
        let all: Vec<_> = nat64s.iter().zip(&told).collect();
        check_logs(&site.hosts, &all);
        // Who has none left says no more that it is there.
        let is_alone = || site.hosts[1].asks("/status").1.contains("\"hears_others\":false");
        assert!(wait_until(PATIENCE, is_alone));
        let (status, said) = site.hosts[1].runs(&["fleet", "drain"]);
        assert_eq!(status, 1, "nobody else may have them: {said}");
    });
}

/// What alerts and dashboard say of a fleet is there.
fn check_dashboard(metrics: &str) {
    for text in [
        include_str!("../../src/programs/service/alerts.yml"),
        include_str!("../../src/programs/service/grafana.json"),
    ] {
        let uses = text.split("nat64handoff_fleet_").skip(1);
        let names: Vec<_> = uses.filter_map(|rest| rest.split([' ', '{', '[']).next()).collect();
        assert!(names.len() >= 3, "{names:?}");
        for name in names {
            assert!(
                metrics.contains(&format!("\nnat64handoff_fleet_{name} ")),
                "{name}: {metrics}"
            );
        }
    }
}
