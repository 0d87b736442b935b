//! The process alone: it answers, it is killed at any step, and it does the same again.

#[path = "process_chance_tests.rs"]
mod chances;
#[path = "process_fault_tests.rs"]
mod faults;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv6Net;
use nat64handoff::disk::storage::SyncPolicy;
use nat64handoff::handoff::change::{Now, Timestamp};
use nat64handoff::handoff::entry::{Entry, TableKey};
use nat64handoff::handoff::random::Random;
use nat64handoff::handoff::stats::Counter;
use nat64handoff::kernel::socket::steered_to;
use nat64handoff::programs::serve::inquiry::Question;
use tempfile::TempDir;

use crate::judge::client::Client;
use crate::judge::packet::Ipv4;
use crate::judge::wire::{self, Reply};
use crate::process::{
    Actor, LogDisk, LogTear, Place, Process, ProcessConfig, Sent, Sockets, Stopped, Waiting,
};
use crate::sim::SimDisk;

const LOCAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const HANDOFF_PORT: u16 = 64064;
const CONTROL_PORT: u16 = 40_000;
const DISCARD: u16 = 9;
const ROOT: &str = "/state";

/// NAT64s that know no loss, each with a client at a time; and the process that answers them.
struct Scene {
    folder: TempDir,
    disk: SimDisk,
    place: Place,
    random: Random,
    process: Option<Process>,
    /// What was announced: by NAT64 and client, the port.
    announced: BTreeMap<(Ipv4Addr, Client), u16>,
    /// Who was heard of, as a token that is known.
    known: Vec<Ipv4Addr>,
    /// Entries that it was told of.
    answers: usize,
    /// Tables are so small that entries go.
    evicts: bool,
    trace: DefaultHasher,
    steps: u64,
}

fn nat64(number: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, number), CONTROL_PORT)
}

fn token(nat64: Ipv4Addr) -> Vec<u8> {
    wire::token(&[&b"the token of "[..], &nat64.octets()[3..]].concat())
}

fn request(nat64: Ipv4Addr, client: Client) -> Vec<u8> {
    let authenticator = wire::authenticator(&client.authenticator());
    wire::payload(&[&token(nat64), &authenticator, &client.udp(b"to the service")])
}

impl Scene {
    fn new(seed: u8) -> Self {
        let wall = Timestamp::from_micros(1_790_000_000_000_000);
        let now = Now { wall, monotonic: Duration::from_secs(1) };
        let disk = SimDisk::new(Path::new(ROOT));
        let (place, folder) = Place::in_memory(&disk, ROOT, now);
        Self {
            folder,
            disk,
            place,
            random: Random::new([seed; 32]),
            process: None,
            announced: BTreeMap::new(),
            known: Vec::new(),
            answers: 0,
            evicts: false,
            trace: DefaultHasher::new(),
            steps: 0,
        }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.random.below(bound)
    }

    fn start(&mut self, config: &ProcessConfig, sockets: Sockets) {
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&self.random.key());
        let process = Process::start(&self.place, config, sockets, None, seed).unwrap();
        assert!(process.is_recording());
        self.process = Some(process);
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    fn ask(&mut self, from: SocketAddrV4, payload: Vec<u8>) {
        payload.hash(&mut self.trace);
        assert!(self.process().deliver(Waiting { from, to: LOCAL, payload }));
    }

    /// The time goes on.
    fn pass(&self, by: Duration) {
        let now = self.place.clock.now();
        let wall = Timestamp::from_micros(now.wall.as_micros() + by.as_micros() as u64);
        self.place.clock.set(Now { wall, monotonic: now.monotonic + by });
    }

    /// One of those whose step is due makes it; where none is, the time goes on to the next one.
    fn step(&mut self) -> Actor {
        let process = self.process.as_ref().unwrap();
        let due: Vec<_> =
            (process.actors()).filter_map(|actor| Some((process.due(actor)?, actor))).collect();
        let soonest = due.iter().map(|&(due, _)| due).min().unwrap();
        self.pass(soonest);
        let now: Vec<_> = due.iter().filter(|&&(due, _)| due == soonest).collect();
        let &&(_, actor) = &now[self.random.below(now.len() as u32) as usize];
        let mut sent = Vec::new();
        self.process().step(actor, &mut sent).unwrap();
        self.steps += 1;
        (actor, soonest).hash(&mut self.trace);
        sent.into_iter().for_each(|sent| self.hear(sent));
        actor
    }

    fn hear(&mut self, Sent { to, from, payload }: Sent) {
        assert_eq!(from, LOCAL);
        payload.hash(&mut self.trace);
        let nat64 = *to.ip();
        if to.port() == DISCARD {
            // It has no entry for it, and returns it whole.
            let packet = Ipv4::udp((LOCAL, HANDOFF_PORT), (nat64, DISCARD), &payload).octets();
            let proof = wire::payload(&[&token(nat64), &packet]);
            return self.ask(SocketAddrV4::new(nat64, CONTROL_PORT), proof);
        }
        match Reply::parse(&payload).unwrap() {
            Reply { entry: Some(entry), packet: Some(_), .. } => {
                self.answers += 1;
                let before = self.announced.insert((nat64, entry.client), entry.mapped);
                // One that was deleted may have another port.
                let stays = before.is_none_or(|before| before == entry.mapped);
                assert!(stays || self.evicts);
            }
            Reply { token: Some(_), packet: Some(_), .. } => self.known.push(nat64),
            // An ICMPv6 error, for who is banned.
            Reply { authenticator: Some(_), entry: None, packet: Some(_), .. } => {}
            reply => panic!("{reply:?}"),
        }
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step();
        }
    }

    /// Until this is so, but not for ever.
    fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if is_so(self) {
                return;
            }
            self.step();
        }
        panic!("never {what}");
    }

    /// How many entries were announced, and are not in the tables as they were.
    fn lost(&mut self) -> usize {
        let tables = self.process().tables();
        let is_here = |&(&(nat64, client), &mapped): &(&(Ipv4Addr, Client), &u16)| {
            tables.iter().any(|(key, entry)| {
                (key.nat64, key.local, entry.port.0) == (nat64, LOCAL, mapped)
                    && entry.client.address == client.address
                    && entry.client.port == client.port
            })
        };
        self.announced.iter().filter(|announced| !is_here(announced)).count()
    }

    /// Everything that was announced is in the tables, and no port is given to two.
    fn check_tables(&mut self) {
        assert_eq!(self.lost(), 0);
        assert_eq!(self.process().contradiction(), None);
    }

    /// How many entries have no line in the log, or more than one.
    fn without_line(&mut self) -> usize {
        let text = log_text(&self.place.log);
        let lines = |(key, entry): &(TableKey, Entry)| {
            let Entry { port, client } = entry;
            let line =
                format!("Created {}:{} [{}]:{}", key.nat64, port, client.address, client.port);
            text.matches(&line).count()
        };
        self.process().tables().iter().filter(|&entry| lines(entry) != 1).count()
    }

    /// The log has a line for each entry, once.
    fn check_log(&mut self) {
        assert_eq!(self.without_line(), 0, "{}", log_text(&self.place.log));
    }

    /// The power goes. The time since then is that of another process.
    fn cut_power(&mut self, config: &ProcessConfig, tear: LogTear) {
        drop(self.process.take().unwrap().kill());
        self.disk.power_cut(&mut self.random);
        config.log_disk.power_cut(self.folder.path(), tear, &mut self.random);
    }
}

fn log_text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn small(reactors: usize, sync: SyncPolicy) -> ProcessConfig {
    ProcessConfig { reactors, sync, segment_max: 2_000, compact_min: 4_000, ..Default::default() }
}

const SYNCS: [SyncPolicy; 3] =
    [SyncPolicy::None, SyncPolicy::Always, SyncPolicy::Interval(Duration::from_millis(100))];

/// Each NAT64 is validated, and has clients.
fn serve(scene: &mut Scene, first: u32) {
    for number in 1..=4_u8 {
        let nat64 = nat64(number);
        for client in 0..3 {
            let client = Client::nth(first + 10 * u32::from(number) + client);
            for _ in 0..3 {
                scene.ask(nat64, request(*nat64.ip(), client));
                scene.run(5);
            }
        }
    }
}

#[test]
fn a_process_answers_and_goes_on_where_it_stopped() {
    for sync in SYNCS {
        let mut scene = Scene::new(1);
        scene.start(&small(2, sync), Sockets::default());
        serve(&mut scene, 0);
        scene.until("all announced", |scene| scene.announced.len() == 12);
        assert!(scene.known.len() >= 4);
        scene.check_tables();
        scene.pass(Duration::from_secs(1));
        let stopped = scene.process.take().unwrap().stop();
        assert_eq!(stopped.result, Ok(()), "{sync}");
        for reactors in [2, 3, 1] {
            scene.start(&small(reactors, sync), Sockets::default());
            assert!(scene.process().found.contains("cleanly stopped"));
            scene.check_tables();
            scene.check_log();
            // No new round: what is known is answered.
            let (client, nat64) = (Client::nth(10), nat64(1));
            scene.ask(nat64, request(*nat64.ip(), client));
            let known = scene.known.len();
            scene.run(50);
            assert_eq!(scene.known.len(), known);
            assert_eq!(scene.process.take().unwrap().stop().result, Ok(()));
        }
    }
}

#[test]
fn what_was_announced_survives_a_kill_at_any_step() {
    for sync in SYNCS {
        for (step, interleaves) in (0..300).step_by(3).zip([false, true, true].into_iter().cycle())
        {
            let mut scene = Scene::new(step as u8);
            let config = |reactors| ProcessConfig { interleaves, ..small(reactors, sync) };
            scene.start(&config(1 + step % 3), Sockets::default());
            for number in 0..12_u8 {
                let (nat64, client) = (nat64(1 + number % 4), Client::nth(u32::from(number)));
                scene.ask(nat64, request(*nat64.ip(), client));
            }
            scene.run(step);
            let sockets = scene.process.take().unwrap().kill();
            scene.start(&config(1 + (step + 1) % 3), sockets);
            scene.check_tables();
            scene.check_log();
            serve(&mut scene, 0);
            scene.until("all announced", |scene| scene.announced.len() >= 12);
            scene.check_tables();
            scene.pass(Duration::from_secs(1));
            assert_eq!(scene.process.take().unwrap().stop().result, Ok(()));
        }
    }
}

/// Serves for a while, and loses power, again and again. Returns how many entries were lost then,
/// and how many had no line.
fn power_cuts(seed: u8, config: &ProcessConfig, tear: LogTear) -> (usize, usize) {
    let mut scene = Scene::new(seed);
    let (mut lost, mut without_line) = (0, 0);
    if config.log_disk.is_lying() {
        scene.disk.ignore_sync();
    }
    for round in 0..4 {
        let config = ProcessConfig { reactors: 1 + round % 2, ..config.clone() };
        scene.start(&config, Sockets::default());
        lost += scene.lost();
        without_line += scene.without_line();
        for number in 0..8_u8 {
            let client = Client::nth(u32::from(number) + 100 * round as u32);
            let nat64 = nat64(1 + number % 4);
            scene.ask(nat64, request(*nat64.ip(), client));
            scene.run(4 + 5 * usize::from(seed % 7));
        }
        scene.cut_power(&config, tear);
    }
    (lost, without_line)
}

/// Each entry that was announced was synced before.
#[test]
fn a_power_cut_takes_nothing_that_was_announced() {
    for seed in 0..60 {
        for tear in [LogTear::Cut, LogTear::Hole] {
            let config =
                ProcessConfig { log_disk: LogDisk::default(), ..small(1, SyncPolicy::Always) };
            assert_eq!(power_cuts(seed, &config, tear), (0, 0), "seed {seed}, {tear:?}");
        }
    }
}

/// The canary: disks that say that they have synced, and have not.
#[test]
fn a_disk_that_lies_is_found_out() {
    let (mut lost, mut without_line) = (0, 0);
    for seed in 0..20 {
        let log_disk = LogDisk::default();
        log_disk.ignore_sync();
        let config = ProcessConfig { log_disk, ..small(1, SyncPolicy::Always) };
        let Ok(found) = catch_unwind(|| power_cuts(seed, &config, LogTear::Cut)) else {
            // The state is damaged, and it says so.
            lost += 1;
            continue;
        };
        (lost, without_line) = (lost + found.0, without_line + found.1);
    }
    assert!(lost > 0, "{lost} {without_line}");
}

/// While the log's disk is full, lines wait; then they are written, once each.
#[test]
fn a_log_that_cannot_be_written_is_waited_for() {
    const ENOSPC: i32 = 28;
    let config = ProcessConfig { log_disk: LogDisk::default(), ..small(2, SyncPolicy::None) };
    let mut scene = Scene::new(3);
    scene.start(&config, Sockets::default());
    config.log_disk.fail(Some(ENOSPC));
    serve(&mut scene, 0);
    scene.until("all announced", |scene| scene.announced.len() == 12);
    scene.run(200);
    assert_eq!(log_text(&scene.place.log), "");
    config.log_disk.fail(None);
    config.log_disk.shorten(true);
    let written =
        |scene: &Scene| scene.process.as_ref().unwrap().log_gauge().unwrap().unwritten() == 0;
    scene.until("written", written);
    scene.check_log();
}

/// A successor reads ahead while the process serves, and goes on with what waits in the sockets.
#[test]
fn a_successor_takes_over_what_waits() {
    let config = small(2, SyncPolicy::None);
    let mut scene = Scene::new(5);
    scene.start(&config, Sockets::default());
    serve(&mut scene, 0);
    scene.until("all announced", |scene| scene.announced.len() == 12);
    scene.pass(Duration::from_secs(1));
    scene.run(50);
    scene.process().hold_compaction(true);
    let ahead = Process::read_ahead(&scene.place, &config, [6; 32]).unwrap();
    serve(&mut scene, 500);
    let Stopped { sent, sockets, result, .. } = scene.process.take().unwrap().stop();
    assert_eq!(result, Ok(()));
    let mut sockets = sockets;
    for number in 1..=4 {
        let (from, client) = (nat64(number), Client::nth(900 + u32::from(number)));
        let payload = request(*from.ip(), client);
        sockets.0[steered_to(*from.ip(), 2)].push_back(Waiting { from, to: LOCAL, payload });
    }
    let process = Process::start(&scene.place, &config, sockets, ahead, [6; 32]).unwrap();
    assert!(process.found.contains("read ahead"), "{}", process.found);
    scene.process = Some(process);
    sent.into_iter().for_each(|sent| scene.hear(sent));
    scene.until("all announced", |scene| scene.announced.len() == 28);
    scene.check_tables();
    scene.run(100);
    scene.check_log();
}

#[test]
fn an_operator_bans_unbans_and_drops_tables() {
    let config = small(2, SyncPolicy::Always);
    let mut scene = Scene::new(9);
    scene.start(&config, Sockets::default());
    serve(&mut scene, 0);
    let (nat64, client, stranger) = (nat64(1), Client::nth(10), Client::nth(99));
    let dropped = |scene: &mut Scene| {
        scene.ask(nat64, request(*nat64.ip(), client));
        scene.run(20);
        let stats = scene.process().stats();
        stats.iter().map(|stats| stats.get(Counter::Banned)).sum::<u64>()
    };
    assert_eq!(dropped(&mut scene), 0);
    let net = Ipv6Net::from(client.address);
    scene.process().ban(net, None).unwrap();
    scene.run(20);
    assert_eq!(dropped(&mut scene), 1);
    // Also in the next process.
    scene.process.take().unwrap().kill();
    scene.start(&config, Sockets::default());
    assert_eq!(dropped(&mut scene), 1);
    scene.process().unban(net).unwrap();
    scene.run(20);
    assert_eq!(dropped(&mut scene), 1);
    let table = TableKey { local: LOCAL, nat64: *nat64.ip() };
    let reactor = scene.process().reactor_of(table.nat64);
    scene.process().ask(reactor, Question::Drop(table)).unwrap();
    let has_table =
        |scene: &mut Scene| scene.process().tables().iter().any(|(key, _)| *key == table);
    assert!(has_table(&mut scene));
    scene.run(100);
    assert!(!has_table(&mut scene));
    assert!(scene.process().answer(reactor, |its| its.order).flatten().is_some());
    assert!(log_text(&scene.place.log).contains("Forgotten 192.0.2.1"));
    // It is a newcomer.
    scene.announced.retain(|(nat64, _), _| *nat64 != table.nat64);
    scene.ask(nat64, request(table.nat64, stranger));
    scene.run(50);
    scene.ask(nat64, request(table.nat64, stranger));
    let is_back = |scene: &Scene| scene.announced.contains_key(&(table.nat64, stranger));
    scene.until("it is back", is_back);
    // The log's file is renamed, and opened anew.
    let former = scene.place.log.with_extension("1");
    std::fs::rename(&scene.place.log, &former).unwrap();
    scene.process().reopen_log();
    scene.run(50);
    assert_eq!(log_text(&scene.place.log), "");
    assert!(log_text(&former).contains(&format!("[{}]", stranger.address)));
}

/// What is written in another order than read, or drawn from anywhere but the seed, shows here.
#[test]
fn the_same_seed_does_the_same() {
    let traced = |seed: u8, interleaves: bool| {
        let mut scene = Scene::new(seed);
        for (sync, reactors) in SYNCS.into_iter().zip([2, 3, 2]) {
            let config = ProcessConfig { interleaves, ..small(reactors, sync) };
            scene.start(&config, Sockets::default());
            serve(&mut scene, 100 * reactors as u32);
            scene.run(300);
            drop(scene.process.take().unwrap().kill());
        }
        scene.start(&small(4, SyncPolicy::None), Sockets::default());
        scene.check_log();
        log_text(&scene.place.log).hash(&mut scene.trace);
        for (key, entry) in scene.process().tables() {
            (key.nat64, entry.port.0, entry.client.port).hash(&mut scene.trace);
        }
        (scene.steps, scene.disk.operations()).hash(&mut scene.trace);
        scene.trace.finish()
    };
    for interleaves in [false, true] {
        assert_eq!(traced(7, interleaves), traced(7, interleaves));
        assert_ne!(traced(7, interleaves), traced(8, interleaves));
    }
}
