//! What a history says is what its log says, and what the hosts of a fleet say is what one log of
//! all would.

mod fleet;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::Path;
use std::{hint, thread};

use flate2::{Compression, write::GzEncoder};
use ipnet::Ipv6Net;
use proptest::prelude::*;

use super::*;
use crate::disk::history::{Building, Due};
use crate::handoff::change::{Event, EventKind, LogFormat};
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::ip::address::Prefix96;
use crate::programs::who::when::TimeSpan;

/// 2019-03-18 10:06:28
const BEGIN: u64 = 1_552_903_588_000_000;
const SECOND: u64 = 1_000_000;

/// What a server did, and its log; or what a fleet did, and the log that it would be together.
struct World {
    folder: tempfile::TempDir,
    now: u64,
    format: LogFormat,
    tables: BTreeMap<(TableKey, u16), Client>,
    names: BTreeMap<Ipv4Addr, Ipv6Net>,
    lines: u64,
    /// How often tables of a NAT64 begin anew, and at most.
    begun: BTreeMap<Ipv4Addr, u32>,
    begun_most: u32,
    /// Of how many hosts each line is in the log of one, too; and who owns a table.
    hosts: usize,
    owners: BTreeMap<TableKey, usize>,
    /// By how many microseconds the clock of each is ahead.
    ahead: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (tables, names) = (BTreeMap::new(), BTreeMap::new());
        let (format, begun) = (LogFormat::Plain, BTreeMap::new());
        let world = Self {
            folder,
            now: BEGIN,
            format,
            tables,
            names,
            lines: 0,
            begun,
            begun_most: u32::MAX,
            hosts: 0,
            owners: BTreeMap::new(),
            ahead: Vec::new(),
        };
        fs::write(world.log(), "").unwrap();
        world
    }

    /// One in which none of a port are so many that one in doubt is given up. A log without the
    /// server's address is plain.
    fn of_few(full: bool) -> Self {
        let format = if full { LogFormat::Full } else { LogFormat::Plain };
        Self { begun_most: 2, format, ..Self::new() }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("events.log")
    }

    fn history(&self) -> PathBuf {
        self.folder.path().join("history")
    }

    fn fleet(&self) -> PathBuf {
        self.folder.path().join("fleet")
    }

    fn host_log(&self, host: usize) -> PathBuf {
        self.fleet().join(format!("host-{host}")).join("events.log")
    }

    fn write(&mut self, table: TableKey, kind: EventKind) {
        let event = Event { at: Timestamp::from_micros(self.now), table, kind };
        let of_host = (self.hosts > 0).then(|| {
            let host = self.owners.get(&table).copied().unwrap_or(0);
            (self.host_log(host), host)
        });
        append(&self.log(), &event.line(self.format).to_string());
        if let Some((log, host)) = of_host {
            let at = Timestamp::from_micros(self.now + self.ahead[host]);
            append(&log, &Event { at, ..event }.line(self.format).to_string());
        }
        self.lines += 1;
    }

    /// `step` says what happens, the others to whom.
    fn step(&mut self, (step, pause, place, who): (u8, u8, u8, u8), formats: bool) {
        self.now += match pause {
            0..=99 => 0,
            100..=179 => u64::from(pause),
            180..=239 => u64::from(pause) * SECOND,
            _ => 3600 * SECOND * u64::from(pause - 239),
        };
        let table = TableKey {
            local: Ipv4Addr::new(203, 0, 113, 5 + place % 2),
            nat64: Ipv4Addr::new(192, 0, 2, [7, 10, 9][usize::from(place / 2 % 3)]),
        };
        let port = MappedPort(3719 + u16::from(place / 8 % 3));
        let client = Client {
            prefix: Prefix96([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]),
            address: Ipv6Addr::new(
                0x2001,
                0xdb8,
                u16::from(who % 2),
                0,
                0,
                0,
                0,
                u16::from(who % 5),
            ),
            port: 53186 + u16::from(who % 3),
        };
        let key = (table, port.0);
        match step {
            0..=139 => {
                if let Some(client) = self.tables.insert(key, client) {
                    self.write(table, EventKind::Deleted { port, client });
                }
                self.write(table, EventKind::Created { port, client });
            }
            140..=179 => {
                if let Some(client) = self.tables.remove(&key) {
                    self.write(table, EventKind::Deleted { port, client });
                }
            }
            180..=194 => self.write(table, EventKind::Conflict { port, client }),
            195..=209 => self.name(pool(place), client.address, who),
            210..=219 => self.begin(table),
            220..=229 => {
                let gone: Vec<_> =
                    self.tables.extract_if(.., |(there, _), _| *there == table).collect();
                for ((_, port), client) in gone {
                    self.write(table, EventKind::Deleted { port: MappedPort(port), client });
                }
                self.write(table, EventKind::Forgotten);
            }
            230..=234 if formats => {
                self.format = match self.format {
                    LogFormat::Plain => LogFormat::Full,
                    LogFormat::Full => LogFormat::Json,
                    LogFormat::Json => LogFormat::Plain,
                }
            }
            235..=239 => self.turn(who),
            240..=249 => self.build_some(place, 3 + u64::from(who % 20)),
            // A reactor that is late.
            _ => self.now = self.now.saturating_sub(u64::from(pause)).max(BEGIN),
        }
    }

    /// An address of the pool comes to stand for a client, or for its /64, or does so no more.
    fn name(&mut self, address: Ipv4Addr, client: Ipv6Addr, who: u8) {
        let table = TableKey::block_of(address);
        if let Some(client) = self.names.remove(&address) {
            return self.write(table, EventKind::Unnamed { address, client });
        }
        let client =
            Ipv6Net::new(client, if who.is_multiple_of(3) { 64 } else { 128 }).unwrap().trunc();
        self.names.insert(address, client);
        self.write(table, EventKind::Named { address, client });
    }

    /// A state that was lost, or a NAT64 that is new.
    fn begin(&mut self, table: TableKey) {
        let begun = self.begun.entry(table.nat64).or_default();
        *begun += 1;
        if *begun <= self.begun_most {
            self.tables.retain(|(there, _), _| *there != table);
            self.write(table, EventKind::Initialized);
        }
    }

    fn turn(&self, who: u8) {
        turn(&self.log(), self.now, who.is_multiple_of(2));
        if self.hosts > 0 {
            let log = self.host_log(usize::from(who) % self.hosts);
            turn(&log, self.now, who.is_multiple_of(4));
        }
    }

    fn build_some(&self, place: u8, lines: u64) {
        self.build(lines);
        if self.hosts > 0 {
            let log = self.host_log(usize::from(place) % self.hosts);
            build(&log.with_file_name("history"), &log, lines);
        }
    }

    fn build(&self, lines: u64) {
        build(&self.history(), &self.log(), lines);
    }

    fn asked(&self, sought: Sought, history: &Path) -> Result<Answer, ExitError> {
        let options = WhoOptions {
            who: sought.asked,
            at: None,
            to: sought.to,
            log: Some(self.log()),
            history: Some(history.to_owned()),
            config: None,
            fleet: None,
            json: true,
        };
        told(&options, sought)
    }

    fn answer(&self, sought: Sought, history: &Path) -> String {
        match self.asked(sought, history) {
            Ok(answer) => answer.to_string() + &answer.json().unwrap(),
            Err(error) => error.message,
        }
    }
}

fn append(log: &Path, line: &str) {
    let mut log = OpenOptions::new().append(true).open(log).unwrap();
    writeln!(log, "{line}").unwrap();
}

/// The log is put aside, as each day.
fn turn(log: &Path, now: u64, compressed: bool) {
    let at = Timestamp::from_micros(now).to_string();
    let day: String = at[..10].chars().filter(char::is_ascii_digit).collect();
    let former = |number: u32| log.with_file_name(format!("events.log-{day}.{number}"));
    let is_there = |number: &u32| {
        let path = former(*number);
        path.exists() || path.with_extension(format!("{number}.gz")).exists()
    };
    let path = former((1..).find(|number| !is_there(number)).unwrap());
    let text = fs::read(log).unwrap();
    if compressed {
        let name = path.display();
        let file = File::create(format!("{name}.gz")).unwrap();
        let mut encoder = GzEncoder::new(file, Compression::fast());
        encoder.write_all(&text).unwrap();
        encoder.finish().unwrap();
    } else {
        fs::write(path, text).unwrap();
    }
    fs::write(log, "").unwrap();
}

fn build(history: &Path, log: &Path, lines: u64) {
    let place = HistoryPlace::new(history.to_owned(), log.to_owned());
    let building = Building {
        place: &place,
        due: Due::Now,
        lines_max: Some(lines),
        stop: &|| false,
        progress: &|_, _| (),
    };
    let built = building.build().unwrap();
    assert_eq!(built.gap, None, "the place is lost");
}

fn address(place: u8) -> SocketAddrV4 {
    let nat64 = Ipv4Addr::new(192, 0, 2, [7, 10, 9][usize::from(place / 2 % 3)]);
    SocketAddrV4::new(nat64, 3719 + u16::from(place / 8 % 3))
}

fn pool(place: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, 7 + place % 3)
}

fn port(place: u8) -> Asked {
    Asked::Port(address(place))
}

fn clients(who: u8) -> Asked {
    let text = match who % 4 {
        0 => "2001:db8::/47".to_owned(),
        1 => format!("2001:db8:{}::/64", who / 4 % 2),
        _ => format!("2001:db8:{}::{}", who / 8 % 2, who / 16 % 5),
    };
    text.parse().unwrap()
}

type Steps = Vec<(u8, u8, u8, u8)>;

fn steps() -> impl Strategy<Value = Steps> {
    prop::collection::vec(any::<(u8, u8, u8, u8)>(), 1..150)
}

fn check(world: &World, sought: Sought) {
    let by_text = world.answer(sought, Path::new("off"));
    let by_history = world.answer(sought, &world.history());
    if by_text != by_history {
        let log = fs::read_to_string(world.log()).unwrap();
        panic!("{sought:?}\n{log}\nby its text:\n{by_text}\nby its history:\n{by_history}");
    }
}

/// Who has a port now is who is in the tables; where the log does not say the server's address,
/// they are among those who perhaps have it.
fn check_now(world: &World, port: SocketAddrV4, history: &Path) {
    let span = Some(TimeSpan::moment(Timestamp::from_micros(world.now + 2 * SECOND)));
    let sought = Sought { asked: Asked::Port(port), span, to: None };
    let Ok(answer) = world.asked(sought, history) else { panic!("{sought:?}: no answer") };
    let now = answer.holdings.iter().filter(|held| held.until.is_none());
    let is_full = world.format == LogFormat::Full;
    let told = now.map(|held| {
        assert!(!is_full || held.perhaps_until.is_none(), "{held:?}");
        (held.local, held.client, held.client_port)
    });
    let told: Vec<_> = told.collect();
    let is_it = |key: &TableKey, number: u16| key.nat64 == *port.ip() && number == port.port();
    let holders = world.tables.iter().filter(|((key, number), _)| is_it(key, *number));
    let holders = holders.map(|((key, _), client)| {
        (Some(key.local).filter(|_| is_full), client.address, client.port)
    });
    let holders: Vec<_> = holders.collect();
    let log = || fs::read_to_string(world.log()).unwrap();
    for holder in &holders {
        assert!(told.contains(holder), "{port}: {holder:?} not in {told:?}\n{}", log());
    }
    let count = |holder| holders.iter().filter(|other| *other == holder).count();
    for holder in &holders {
        let times = told.iter().filter(|other| *other == holder).count();
        assert!(times >= count(holder), "{port}: {holder:?} too few in {told:?}\n{}", log());
    }
    assert!(!is_full || told.len() == holders.len(), "{port}: {told:?}\n{}", log());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// About every port, at times in and around the log, of a log whose format changes.
    #[test]
    fn a_history_says_of_ports_what_the_log_says(steps in steps(), lines in 1..40_u64, moments: [u8; 6]) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step, true));
        if lines < 30 {
            world.build(lines);
        }
        let length = world.now - BEGIN + 2 * SECOND;
        for (place, moment) in (0..24).zip(moments.into_iter().cycle()) {
            let from = BEGIN - SECOND + length / 255 * u64::from(moment);
            for length in [0, SECOND - 1, length / 5] {
                let [from, until] = [from, from + length].map(Timestamp::from_micros);
                let span = Some(TimeSpan { from, until });
                let to = (place % 8 == 3).then_some(Ipv4Addr::new(203, 0, 113, 5));
                check(&world, Sought { asked: port(place), span, to });
                check(&world, Sought { asked: Asked::Pool(pool(place)), span, to: None });
            }
        }
    }

    /// About clients, also those that an address of the pool stood for. Of a table whose address
    /// the log does not always say, a client's own lines do not say that another one has its port.
    #[test]
    fn a_history_says_of_clients_what_the_log_says(steps in steps(), full: bool, moments: [u8; 4]) {
        let mut world = World::of_few(full);
        steps.into_iter().for_each(|step| world.step(step, false));
        let length = world.now - BEGIN + 2 * SECOND;
        for (who, moment) in (0..80).step_by(3).zip(moments.into_iter().cycle()) {
            let from = BEGIN - SECOND + length / 255 * u64::from(moment);
            let [from, until] = [from, from + length / 9].map(Timestamp::from_micros);
            let to = full.then_some(Ipv4Addr::new(203, 0, 113, 6)).filter(|_| who % 4 == 0);
            let asked = clients(who);
            check(&world, Sought { asked, span: None, to });
            let span = Some(TimeSpan { from, until });
            check(&world, Sought { asked, span, to });
            let asked = Asked::Port(SocketAddrV4::new(pool(who / 3), 53186));
            check(&world, Sought { asked, span, to: None });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    /// Not only what the log says: what is so, of one port and two tables, which often begin anew.
    #[test]
    fn who_has_a_port_now_is_told(steps in steps(), full: bool) {
        let mut world = World::of_few(full);
        for (step, pause, place, who) in steps {
            // Each line has a time of its own: two that are alike are one that stands there twice.
            world.now += 1;
            let step = if (180..220).contains(&step) { 210 } else { step.min(249) };
            world.step((step, pause, place % 2, who), false);
            check_now(&world, address(0), Path::new("off"));
        }
        check_now(&world, address(0), &world.history());
    }
}

/// A line each.
const FILES: &str = "\
2019-03-18 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 10:01:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 10:02:00.000000 Created 192.0.2.8:1 [2001:db8::18]:1
2019-03-18 10:03:00.000000 Created 192.0.2.8:2 [2001:db8::18]:2
2019-03-18 10:04:00.000000 Created 192.0.2.8:3 [2001:db8::18]:3
2019-03-18 10:05:00.000000 Created 192.0.2.8:4 [2001:db8::18]:4
2019-03-18 10:06:00.000000 Created 192.0.2.8:5 [2001:db8::18]:5
2019-03-18 10:07:00.000000 Created 192.0.2.8:6 [2001:db8::18]:6
";

/// Its log, in files of so many lines: what is told of a port at 10:00:30, without one of them or
/// with what is damaged of it.
fn told_without(lines: u64, file: usize, damage: Option<&str>) -> String {
    let world = World::new();
    fs::write(world.log(), FILES).unwrap();
    world.build(lines);
    let held = fs::read_dir(world.history().join("held")).unwrap();
    let mut files: Vec<_> = held.map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    match damage {
        Some(damage) => fs::write(&files[file], damage).unwrap(),
        None => fs::remove_file(&files[file]).unwrap(),
    }
    let span = TimeSpan::parse("2019-03-18 10:00:30", Timestamp::from_micros(BEGIN)).unwrap();
    let asked = "192.0.2.7:3719".parse().unwrap();
    world.answer(Sought { asked, span: Some(span), to: None }, &world.history())
}

#[test]
fn what_ended_in_a_file_that_is_missing_is_in_doubt() {
    let told = told_without(1, 1, None);
    assert!(told.contains("until now, or only until 2019-03-18 10:00:00.999999 UTC"), "{told}");
}

#[test]
fn a_damaged_file_that_is_not_needed() {
    let told = told_without(2, 0, Some("none"));
    assert!(told.contains("a file of the history, cannot be read"), "{told}");
    let told = told_without(2, 1, Some("none"));
    assert!(told.contains(", until 2019-03-18 10:01:00.000000 UTC\n"), "{told}");
}

/// As they are too old, while the question is answered.
#[test]
fn files_that_are_removed_meanwhile() {
    let world = World::new();
    fs::write(world.log(), FILES).unwrap();
    world.build(1);
    let held = fs::read_dir(world.history().join("held")).unwrap();
    let mut files: Vec<_> = held.map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    let old: Vec<_> = files[..6].iter().map(|path| (path, fs::read(path).unwrap())).collect();
    let asked = "2001:db8::/32".parse().unwrap();
    let sought = Sought { asked, span: None, to: None };
    for round in 0..200 {
        old.iter().for_each(|(path, octets)| fs::write(path, octets).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                for (path, _) in &old {
                    (0..round * 20).for_each(|_| hint::spin_loop());
                    fs::remove_file(path).unwrap();
                }
            });
            let answer = world.answer(sought, &world.history());
            assert!(answer.contains("192.0.2.8:6"), "round {round}: {answer}");
        });
    }
}

/// Two clients with one port of theirs, at one time: who ended is not taken for who began.
#[test]
fn two_of_one_time_are_told_apart() {
    let world = World::new();
    let log = "\
2019-03-18 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 10:00:00.000000 Initialized 192.0.2.8
2019-03-18 10:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::17]:1
2019-03-18 10:00:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:1
";
    fs::write(world.log(), log).unwrap();
    world.build(1);
    let span = TimeSpan::parse("2019-03-18 09:00:00", Timestamp::from_micros(BEGIN)).unwrap();
    let asked = "192.0.2.7:3719".parse().unwrap();
    check(&world, Sought { asked, span: Some(span), to: None });
}

/// The log does not say which table began anew, and then gives the client's port in that table to
/// another one. The lines about the port say that it was over, and so does the history; the
/// client's own lines, which are all that the log alone is asked for, leave it in doubt.
#[test]
fn who_was_replaced_after_a_doubt_is_over_by_the_history() {
    let world = World::new();
    let log = "\
2019-03-18 10:00:00.000000 Named 100.64.0.8 [2001:db8::17]
2019-03-18 10:01:00.000000 Created 192.0.2.7:3720 [2001:db8::17]:53186 to 203.0.113.6 via 64:ff9b::/96
2019-03-18 10:02:00.000000 Initialized 192.0.2.7
2019-03-18 10:03:00.000000 Created 192.0.2.7:3720 [2001:db8::18]:1 to 203.0.113.6 via 64:ff9b::/96
";
    fs::write(world.log(), log).unwrap();
    world.build(4);
    let (history, text) = (world.history(), Path::new("off"));
    let span = TimeSpan::parse("2019-03-18 10:04:00", Timestamp::from_micros(BEGIN)).unwrap();
    let sought = |asked: &str| Sought { asked: asked.parse().unwrap(), span: Some(span), to: None };
    for place in [&history, text] {
        let told = world.answer(sought("192.0.2.7:3720"), place);
        assert!(told.contains("2001:db8::18") && !told.contains("2001:db8::17"), "{told}");
    }
    let told = world.answer(sought("100.64.0.8:53186"), &history);
    assert!(told.contains("100.64.0.8 was 2001:db8::17"), "{told}");
    assert!(!told.contains("192.0.2.7:3720"), "{told}");
    let told = world.answer(sought("100.64.0.8:53186"), text);
    let doubt = "until now, or only until 2019-03-18 10:02:00.000000 UTC";
    assert!(told.contains("192.0.2.7:3720 was 2001:db8::17") && told.contains(doubt), "{told}");
}
