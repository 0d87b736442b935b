//! Hosts and nodes of etcd are killed, stopped and cut off from each other, again and again, while
//! NAT64s ask. Whatever a NAT64 was told has to be so at that time by the logs of all hosts, in
//! which each line stands once; and all hosts have the same tables in the end.
//!
//! `NAT64HANDOFF_KILLS=1000` for more of them than a run of all tests has time for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::asker::Asker;
use crate::dice::Dice;
use crate::harness::process::wait_until;
use crate::http;
use crate::judge::client::Client;
use crate::judge::eventlog::{Event, Kind};
use crate::lines::Lines;
use crate::site::{Host, Site};
use crate::strikes::Strikes;

const KILLS: usize = 30;
const NAT64S: u32 = 6;
/// From one comparison of all to the next.
const KILLS_BETWEEN: usize = 50;
/// How many entries of a NAT64 are asked about then, through each host.
const ASKED_MAX: usize = 64;
/// Each NAT64 makes a request so often.
const PACE: Duration = Duration::from_millis(10);

fn kills() -> usize {
    let kills = std::env::var("NAT64HANDOFF_KILLS").ok();
    kills.map_or(KILLS, |kills| kills.parse().expect("NAT64HANDOFF_KILLS is a number"))
}

/// NAT64s that are known.
fn askers(site: &mut Site, dice: &mut Dice) -> Vec<Asker> {
    (0..NAT64S).map(|number| Asker::known(site.nat64(), number, PACE, dice.fork())).collect()
}

/// All NAT64s ask while something is done.
fn in_load<T>(askers: &mut [Asker], work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for asker in askers {
            scope.spawn(|| asker.load(&stop));
        }
        let _stop = Stop(&stop);
        work()
    })
}

/// What is wrong by the logs, if anything is.
fn wrong(hosts: &[Host], askers: &[Asker]) -> Result<Lines, String> {
    let lines = Lines::of(hosts)?;
    askers.iter().try_for_each(|asker| lines.check(asker.nat64.address, &asker.told))?;
    Ok(lines)
}

/// The entries that a host has of a NAT64.
fn entries_at(host: &Host, asker: &Asker) -> Vec<(Client, u16)> {
    let table = http::get(&host.admin_path(), &format!("/tables/{}", asker.nat64.address));
    assert_eq!(table.code, 200, "{table:?}");
    let entries = table.json()["tables"][0]["entries"].as_array().expect("entries").clone();
    let entries = entries.iter().map(|entry| {
        let number = |name: &str| entry[name].as_u64().expect("a port") as u16;
        let client = entry["client"].as_str().expect("a client");
        (Client::parse(client, number("client_port")), number("port"))
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable();
    entries
}

/// When nothing is wrong any more: logs, answers and tables of all hosts are the same.
fn compare(site: &mut Site, askers: &mut [Asker]) -> Lines {
    for host in 0..site.hosts.len() {
        site.route(host);
        for asker in &mut *askers {
            let known: Vec<_> = asker.told.iter().rev().take(ASKED_MAX).copied().collect();
            let clients: Vec<_> = known.iter().filter_map(|told| told.client).collect();
            let ports: Vec<_> = known.iter().map(|told| told.port).collect();
            let missing = asker.ask_all(&clients, &ports, PATIENCE);
            assert_eq!(missing, 0, "{} has no answer through host {host}", asker.nat64.address);
        }
    }
    // Hosts may not have written all lines.
    let mut last = Err(String::new());
    wait_until(PATIENCE, || {
        last = wrong(&site.hosts, askers);
        last.is_ok()
    });
    let lines = last.unwrap_or_else(|wrong| panic!("{wrong}"));
    for (asker, host) in
        askers.iter().flat_map(|asker| site.hosts.iter().map(move |host| (asker, host)))
    {
        let of_nat64 = lines.entries(asker.nat64.address);
        let has_all = wait_until(PATIENCE, || entries_at(host, asker) == of_nat64);
        assert!(has_all, "{}: another table than the logs say: {of_nat64:?}", asker.nat64.address);
    }
    lines
}

fn run(name: &str, options: &'static [&'static str], deletes: bool) {
    let (mut dice, kills, begin) = (Dice::new(name), kills() / 2, Instant::now());
    Site::with_options(3, options, |site| {
        let mut askers = askers(site, &mut dice);
        let mut strikes = Strikes::new(site, dice.fork());
        let mut lines = Lines::default();
        while strikes.kills() < kills {
            let until = (strikes.kills() + KILLS_BETWEEN).min(kills);
            in_load(&mut askers, || {
                while strikes.kills() < until {
                    strikes.next(site);
                }
                strikes.end(site);
            });
            lines = compare(site, &mut askers);
        }
        let told: usize = askers.iter().map(|asker| asker.told.len()).sum();
        let silence = askers.iter().map(|asker| asker.silence).max().unwrap();
        let proofs: usize = askers.iter().map(|asker| asker.proofs).sum();
        println!(
            "{name}: {:?}, {told} answers, {} Created, {} Deleted, {proofs} proofs, silent for {silence:?} at most, {:?}",
            strikes.counts,
            lines.created,
            lines.deleted,
            begin.elapsed()
        );
        assert!(told > 50 * kills && lines.created > 5 * kills, "this was no load");
        assert!(!deletes || lines.deleted > kills, "nothing had to go");
        let unproven: usize = askers.iter().map(|asker| asker.unproven).sum();
        let most = if deletes { told / 100 } else { 0 };
        assert!(unproven <= most, "{unproven} answers without an authenticator, of {told}");
        site.hosts.iter_mut().for_each(Host::stop);
    });
}

#[test]
fn kills_while_tables_grow() {
    run("kills_while_tables_grow", &[], false);
}

/// At the limit, each new entry takes the place of another.
#[test]
fn kills_while_tables_are_full() {
    run("kills_while_tables_are_full", &["--max-entries", "500"], true);
}

/// What one host has recorded, the other does not know: the port of one client is another's.
#[test]
fn canary_hosts_that_share_nothing() {
    Site::with(2, |site| {
        site.hosts[1].stop();
        site.begin_in(1, "another");
        site.wait_until_ready(1);
        let mut askers = askers(site, &mut Dice::new("canary_hosts_that_share_nothing"));
        let noticed = || {
            for host in [0, 1, 0, 1] {
                site.route(host);
                thread::sleep(Duration::from_millis(300));
            }
        };
        in_load(&mut askers, noticed);
        let said = wrong(&site.hosts, &askers).err().expect("it is noticed");
        println!("{said}");
    });
}

#[test]
fn canary_lines_that_are_not_so() {
    Site::with(2, |site| {
        let mut askers = askers(site, &mut Dice::new("canary_lines_that_are_not_so"));
        let is_load = |askers: &[Asker]| askers.iter().all(|asker| asker.told.len() > 100);
        while !is_load(&askers) {
            in_load(&mut askers, || thread::sleep(Duration::from_millis(300)));
        }
        compare(site, &mut askers);
        let events: Vec<Event> = site.hosts.iter().flat_map(Host::events).collect();
        let told = askers[0].told.iter().find(|told| told.client.is_some()).unwrap();
        let address = askers[0].nat64.address;
        let is_its = |event: &&Event| {
            let port = event.entry.is_some_and(|entry| entry.0 == told.port);
            event.kind == Kind::Created && event.nat64 == address && port
        };
        let created = events.iter().find(is_its).unwrap();
        let missed = |what: &str, changed: Vec<Event>| {
            let of = |lines: Lines| {
                askers.iter().try_for_each(|asker| lines.check(asker.nat64.address, &asker.told))
            };
            let said = Lines::read(changed).and_then(of).expect_err(what);
            println!("{what}: {said}");
        };
        let with = |more: Event| [events.clone(), vec![more]].concat();
        let at_once = |event: &Event| Event { when: created.when.clone() + "0", ..event.clone() };
        missed(
            "a line that is lost",
            events.iter().filter(|event| *event != created).cloned().collect(),
        );
        missed("a line twice", with(created.clone()));
        missed(
            "an entry that is gone",
            with(at_once(&Event { kind: Kind::Deleted, ..created.clone() })),
        );
        let (port, client, client_port) = created.entry.unwrap();
        let other = Some((port, client, client_port ^ 1));
        missed("a port of two clients", with(at_once(&Event { entry: other, ..created.clone() })));
        let other = Some((port ^ 1, client, client_port));
        missed("two ports of a client", with(at_once(&Event { entry: other, ..created.clone() })));
    });
}
