//! How long clients wait when something is lost, how often a table moves while routes flap, and
//! what a request costs that reaches another host than the owner: each is printed, by a program as
//! it was built. `NAT64HANDOFF_TIMES=20` measures more often than a run of all tests has time for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::asker::Asker;
use crate::dice::Dice;
use crate::harness::process::wait_until;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::site::{SERVICE, Site};

/// How often one asks.
const EACH: Duration = Duration::from_millis(5);
/// How long it is looked for gaps after something happened.
const LOOKED: Duration = Duration::from_secs(4);
/// How long routes flap: a table may move once in ten seconds.
const FLAPS_FOR: Duration = Duration::from_secs(12);
const FLAPS_EACH: Duration = Duration::from_millis(100);
const KNOWN: u32 = 500;

fn times() -> usize {
    let times = std::env::var("NAT64HANDOFF_TIMES").ok();
    times.map_or(1, |times| times.parse().expect("NAT64HANDOFF_TIMES is a number"))
}

/// A NAT64 that is known, and so are some of its clients.
fn known_nat64(site: &mut Site) -> Nat64 {
    let dice = Dice::new("known_nat64");
    let mut asker = Asker::known(site.nat64(), 0, EACH, dice);
    let clients: Vec<_> = (0..KNOWN).map(Client::nth).collect();
    assert_eq!(asker.ask_all(&clients, &[], PATIENCE), 0);
    let nat64 = asker.nat64;
    while nat64.try_reply(Duration::from_millis(500)).is_some() {}
    nat64
}

/// Asks for one client after another, each once, while something is done. Returns when answers
/// came, and how many requests had none.
fn asking<T>(
    nat64: &mut Nat64,
    client: impl Fn(u32) -> Client + Sync,
    stop: &AtomicBool,
    work: impl FnOnce() -> T,
) -> (Vec<Instant>, u32, T) {
    let client = &client;
    thread::scope(|scope| {
        let asks = scope.spawn(move || {
            // It is this thread's.
            let nat64: &mut Nat64 = nat64;
            let (mut answers, mut sent, mut last) = (vec![Instant::now()], 0, Instant::now());
            while !stop.load(Ordering::Relaxed) {
                if last.elapsed() >= EACH {
                    last = Instant::now();
                    let client = client(sent);
                    let packet = client.udp(b"how long");
                    nat64.send(&nat64.client_request(&client.authenticator(), &packet));
                    sent += 1;
                }
                if nat64.try_reply(Duration::from_millis(1)).is_some() {
                    answers.push(Instant::now());
                }
            }
            while nat64.try_reply(Duration::from_millis(500)).is_some() {
                answers.push(Instant::now());
            }
            (answers, sent)
        });
        let done = work();
        let (answers, sent) = asks.join().unwrap();
        let unanswered = sent + 1 - answers.len() as u32;
        (answers, unanswered, done)
    })
}

/// The longest time without an answer that ends after `from`.
fn gap(answers: &[Instant], from: Instant) -> Duration {
    let gaps = answers.windows(2).filter(|pair| pair[1] > from).map(|pair| pair[1] - pair[0]);
    gaps.max().unwrap_or(LOOKED)
}

fn print(what: &str, mut gaps: Vec<Duration>) -> Duration {
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    let longest = gaps[gaps.len() - 1];
    println!("{what}: median {median:?}, longest {longest:?}, of {}", gaps.len());
    longest
}

/// Gaps of known and new clients when something happens, again and again, and is mended.
fn gaps_when(
    site: &mut Site,
    what: &str,
    happen: impl Fn(&mut Site) -> usize,
    mend: impl Fn(&mut Site, usize),
) {
    let (mut known, mut new) = (known_nat64(site), known_nat64(site));
    let (mut of_known, mut of_new) = (Vec::new(), Vec::new());
    for time in 0..times() as u32 {
        let stop = AtomicBool::new(false);
        let first = 1_000_000 * (time + 1);
        let ask_known = |sent: u32| Client::nth(sent % KNOWN);
        let ask_new = |sent: u32| Client::nth(first + sent);
        let (known_at, _, (new_at, _, (from, which))) =
            asking(&mut known, ask_known, &stop, || {
                asking(&mut new, ask_new, &stop, || {
                    thread::sleep(Duration::from_millis(500));
                    let from = Instant::now();
                    let which = happen(site);
                    // How long is looked is what is measured: nothing has to be so by then.
                    thread::sleep(LOOKED);
                    stop.store(true, Ordering::Relaxed);
                    (from, which)
                })
            });
        of_known.push(gap(&known_at, from));
        of_new.push(gap(&new_at, from));
        mend(site, which);
    }
    let known = print(&format!("{what}, known clients"), of_known);
    let new = print(&format!("{what}, new clients"), of_new);
    assert!(known.max(new) < PATIENCE);
}

#[test]
fn how_long_a_killed_host_is_missed() {
    Site::with(3, |site| {
        let at = std::cell::Cell::new(0);
        let kill = |site: &mut Site| {
            let host = at.get();
            site.hosts[host].kill();
            at.set((host + 1) % site.hosts.len());
            site.route(at.get());
            host
        };
        let begin = |site: &mut Site, host| {
            site.begin(host);
            site.wait_until_ready(host);
        };
        gaps_when(site, "a host killed", kill, begin);
    });
}

#[test]
fn how_long_a_killed_leader_is_missed() {
    Site::with(1, |site| {
        let kill = |site: &mut Site| {
            let leader = site.cluster.wait_for_leader();
            site.cluster.kill(leader);
            leader
        };
        let begin = |site: &mut Site, leader| {
            site.cluster.begin(leader);
            site.cluster.wait_for_leader();
        };
        gaps_when(site, "the leader of etcd killed", kill, begin);
    });
}

#[test]
fn how_long_a_stopped_leader_is_missed() {
    Site::with(1, |site| {
        let stop = |site: &mut Site| {
            let leader = site.cluster.wait_for_leader();
            site.cluster.signal(leader, libc::SIGSTOP);
            leader
        };
        let go_on = |site: &mut Site, leader| {
            site.cluster.signal(leader, libc::SIGCONT);
            site.cluster.wait_for_leader();
        };
        gaps_when(site, "the leader of etcd stopped", stop, go_on);
    });
}

/// How often a table was claimed.
fn claims(site: &Site, nat64: &Nat64) -> u64 {
    let key = format!("nat64handoff/site/own/{}/{}", SERVICE.ip(), nat64.address);
    let said = site.cluster.ask(&["get", &key, "-w", "json"]).expect("etcd is there");
    let json: serde_json::Value = serde_json::from_str(&said).unwrap();
    json["kvs"][0]["version"].as_u64().expect("it was claimed")
}

#[test]
fn tables_stay_where_they_are_while_routes_flap() {
    Site::with(3, |site| {
        let mut nat64 = known_nat64(site);
        let (before, stop) = (claims(site, &nat64), AtomicBool::new(false));
        let (_, unanswered, flaps) = asking(
            &mut nat64,
            |sent| Client::nth(sent % KNOWN),
            &stop,
            || {
                let (begin, mut flaps) = (Instant::now(), 0);
                while begin.elapsed() < FLAPS_FOR {
                    site.route(flaps % site.hosts.len());
                    flaps += 1;
                    thread::sleep(FLAPS_EACH);
                }
                stop.store(true, Ordering::Relaxed);
                flaps
            },
        );
        let moves = claims(site, &nat64) - before;
        println!("{flaps} flaps in {FLAPS_FOR:?}: {moves} moves, {unanswered} requests unanswered");
        assert!(moves <= FLAPS_FOR.as_secs().div_ceil(10), "{moves} moves");
    });
}

/// The CPU time of a process so far.
fn cpu(id: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let times = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        Some(Duration::from_nanos(times.split(' ').next()?.parse().ok()?))
    };
    threads.filter_map(of_thread).sum()
}

#[test]
fn what_a_request_costs_that_another_host_answers() {
    const REQUESTS: u32 = 20_000;
    Site::with(2, |site| {
        let nat64 = known_nat64(site);
        let request = |number: u32| {
            let client = Client::nth(number % KNOWN);
            nat64.client_request(&client.authenticator(), &client.udp(b"known"))
        };
        let ids = [0, 1].map(|host| site.hosts[host].process().id);
        for time in 0..times() {
            for (route, what) in [(0, "at the owner"), (1, "through another host")] {
                site.route(route);
                let (before, mut answers) = (ids.map(cpu), 0);
                nat64.pipeline((0..REQUESTS).map(request), |_| answers += 1);
                assert_eq!(answers, REQUESTS);
                let micros: Vec<_> = (ids.map(cpu).iter().zip(before))
                    .map(|(after, before)| (*after - before).as_secs_f64() * 1e6)
                    .map(|micros| format!("{:.2} us", micros / f64::from(REQUESTS)))
                    .collect();
                println!(
                    "{time}: CPU a request {what}: owner {}, other host {}",
                    micros[0], micros[1]
                );
            }
        }
        assert!(wait_until(PATIENCE, || nat64.try_reply(Duration::from_millis(1)).is_none()));
    });
}
