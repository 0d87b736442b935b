//! The cursor of the event log on a disk that fails at each operation in turn and loses its power.
//! The log itself is a real file and keeps all that was written. What holds throughout: the journal
//! may forget only events that a durable cursor counts, and no line is lost or written twice.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nat64handoff::disk::eventlog::{
    self, Cursor, Destination, EventLog, LogConfig, LogSync, Unknown,
};
use nat64handoff::disk::fs::{DiskFile, write_full, write_new};
use nat64handoff::handoff::change::{Event, EventKind, LogFormat, Timestamp};
use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::random::Random;
use nat64handoff::handoff::stats::Stats;
use nat64handoff::kernel::clock::Clock;

use crate::sim::{FAULTS, Fault, SimDisk};

const ROOT: &str = "/state";
/// Events of a life, for each of two shards.
const EVENTS: u64 = 40;
const DEADLINE: Duration = Duration::from_secs(30);

fn seeded(seed: u64) -> Random {
    let mut octets = [3; 32];
    octets[..8].copy_from_slice(&seed.to_be_bytes());
    Random::new(octets)
}

/// Number `number` of a shard. No two are alike.
fn event(shard: usize, number: u64) -> Event {
    Event {
        at: Timestamp::from_micros(1_552_903_588_000_000 + number),
        table: TableKey {
            local: Ipv4Addr::new(203, 0, 113, 1),
            nat64: Ipv4Addr::new(192, 0, 2, 1 + shard as u8),
        },
        kind: EventKind::Initialized,
    }
}

/// A server's event log, of which only the cursor is on the simulated disk.
struct World {
    disk: SimDisk,
    directory: tempfile::TempDir,
    cursor: PathBuf,
    random: Random,
    /// For each shard, the events that are in the journal, which forgets none.
    events: [u64; 2],
    /// For each shard, the events that the journal was told it may forget.
    forgotten: [u64; 2],
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            disk: SimDisk::new(Path::new(ROOT)),
            directory: tempfile::tempdir().unwrap(),
            cursor: Path::new(ROOT).join("log.cursor"),
            random: seeded(seed),
            events: [0; 2],
            forgotten: [0; 2],
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("events.log")
    }

    /// Completes the log, starts it and writes some events. Errors are the disk's.
    fn live(&mut self) -> Result<(), eventlog::LogError> {
        let destination = Destination::File(self.log());
        let known = eventlog::known_events(&self.disk, &destination, &self.cursor);
        let unlogged = (0..2).map(|shard| {
            let from = known.as_ref().map_or(0, |known| known[shard]);
            (from..self.events[shard]).map(|number| (number, event(shard, number))).collect()
        });
        let (destination, _) = eventlog::complete(
            &self.disk,
            destination,
            LogFormat::Plain,
            &self.cursor,
            &mut unlogged.collect::<Vec<Vec<_>>>(),
        )?;
        let config = LogConfig {
            destination,
            format: LogFormat::Plain,
            rotation: None,
            sync: LogSync::Interval(Duration::from_micros(200)),
            cursor: Some(self.cursor.clone()),
            first_events: self.events.to_vec(),
            clock: Clock::new(),
            threads: true,
        };
        let (log, senders) = EventLog::start(&self.disk, config, || {})?;
        let logged = log.logged();
        for (shard, mut sender) in senders.into_iter().enumerate() {
            for _ in 0..EVENTS {
                sender.send(event(shard, self.events[shard]), &Stats::default());
                sender.publish();
                self.events[shard] += 1;
            }
        }
        log.join(DEADLINE)?;
        self.forgotten = [logged.get(0), logged.get(1)];
        Ok(())
    }

    /// The cursor that is there counts all that the journal may have forgotten, and no more than
    /// there is.
    fn check_cursor(&self, what: &str) {
        match Cursor::read(&self.disk, &self.cursor) {
            Ok(Cursor { events, .. }) => {
                for (shard, &counted) in events.iter().enumerate() {
                    let promised = self.forgotten[shard]..=self.events[shard];
                    assert!(
                        promised.contains(&counted),
                        "{what}: {counted} is not in {promised:?}"
                    );
                }
            }
            Err(Unknown::Missing) => assert_eq!(self.forgotten, [0; 2], "{what}: no cursor"),
            Err(reason) => panic!("{what}: {reason}"),
        }
    }

    /// Each event has its line, once, those of a shard in order.
    fn check_log(&self, what: &str) {
        let text = fs::read_to_string(self.log()).unwrap();
        for (shard, &events) in self.events.iter().enumerate() {
            let nat64 = event(shard, 0).table.nat64.to_string();
            let lines: Vec<&str> = text.lines().filter(|line| line.contains(&nat64)).collect();
            let expected: Vec<String> = (0..events)
                .map(|number| event(shard, number).line(LogFormat::Plain).to_string())
                .collect();
            assert_eq!(lines, expected, "{what}: shard {shard}");
        }
    }
}

#[test]
fn every_operation_of_the_cursor_fails_in_turn() {
    let prepared = |seed| {
        let mut world = World::new(seed);
        world.live().unwrap();
        world
    };
    let mut world = prepared(0);
    let before = world.disk.operations();
    world.live().unwrap();
    let operations = world.disk.operations() - before;
    println!("{operations} operations");
    assert!(operations > 10, "the cursor is not on the simulated disk");
    for (fault, for_good) in FAULTS {
        for at in 0..operations {
            let what = format!("operation {at}, {fault:?} {for_good}");
            let mut world = prepared(at);
            world.disk.fail(at, fault, for_good);
            let _ = world.live();
            if fault == Fault::Crash || at % 2 == 0 {
                world.disk.power_cut(&mut world.random);
            }
            world.disk.heal();
            world.check_cursor(&what);
            world.live().unwrap_or_else(|error| panic!("{what}: {error}"));
            world.check_log(&what);
            world.disk.power_cut(&mut world.random);
            world.check_cursor(&what);
        }
    }
}

/// A disk that only says that it has synced must be found out.
#[test]
fn canary_cursor_on_a_disk_that_does_not_sync() {
    let caught = (0..20).any(|seed| {
        std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.live().unwrap();
            world.disk.ignore_sync();
            world.live().unwrap();
            world.disk.power_cut(&mut world.random);
            world.check_cursor(&format!("seed {seed}"));
        })
        .is_err()
    });
    assert!(caught, "the test does not see a disk that loses what was synced");
}

/// A file that is written anew has the old content or the new one, and the new one once it was said
/// so.
#[test]
fn every_operation_of_a_new_file_fails_in_turn() {
    let path = Path::new(ROOT).join("file");
    let write = |disk: &SimDisk, content: &[u8]| {
        let content = content.to_vec();
        write_new(disk, &path, |file: &dyn DiskFile| -> io::Result<()> {
            let (first, second) = content.split_at(content.len() / 2);
            write_full(file, first, 0)?;
            write_full(file, second, first.len() as u64)
        })
    };
    let (old, new) = (vec![1; 9000], vec![2; 11_000]);
    let mut cases = 0;
    for (fault, for_good) in FAULTS {
        for at in 0.. {
            let mut random = seeded(at);
            let disk = SimDisk::new(Path::new(ROOT));
            write(&disk, &old).unwrap();
            let before = disk.operations();
            disk.fail(at, fault, for_good);
            let written = write(&disk, &new).is_ok();
            if disk.operations() - before <= at {
                break;
            }
            cases += 1;
            let (what, left) =
                (format!("operation {at}, {fault:?} {for_good}"), disk.files().len());
            assert!(left == 1 || for_good, "{what}: {left} files");
            if fault == Fault::Crash || at % 2 == 0 {
                disk.power_cut(&mut random);
            }
            let content = disk.content(&path);
            assert!(content == new || !written && content == old, "{what}: written {written}");
        }
    }
    assert!(cases >= 6 * FAULTS.len());
}
