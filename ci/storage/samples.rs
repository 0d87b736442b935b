//! State directories that an earlier version of the program wrote: they still open, mean the same,
//! and give the same lines of the event log. `samples/` has for each the directory, its event log,
//! and the tables that it holds.
//!
//! - `one-reactor`: three starts of one reactor, the last of them stopped before it wrote anything.
//!   A full table evicts, a conflict, an entry on a port that became a control port, five tokens of
//!   one NAT64 of which the first is forgotten, an empty token, a token and an authenticator of the
//!   greatest lengths, two prefixes.
//! - `three-reactors`: the same state in a new epoch of three shards, snapshots with content, more
//!   changes, and a process that was killed in the middle of a write.
//! - `format-2`: of the format before names of the pool. Three starts of two reactors; tables that
//!   are given up, and come again.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nat64handoff::disk::eventlog::{self, Completed, Destination};
use nat64handoff::disk::fs::RealDisk;
use nat64handoff::disk::storage::{Opened, Storage, StorageConfig, SyncPolicy, check};
use nat64handoff::handoff::change::{Event, LogFormat};

use crate::model::{HANDOFF_PORT, Model};
use crate::real::{Shard, at, lock, merged};

/// A copy of a sample that may be changed.
struct Sample {
    directory: tempfile::TempDir,
    original: PathBuf,
}

impl Sample {
    fn new(name: &str) -> Self {
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/storage/samples").join(name);
        let directory = tempfile::tempdir().unwrap();
        copy(&original, directory.path());
        Self { directory, original }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn expected(&self, name: &str) -> String {
        fs::read_to_string(self.original.join(name)).unwrap()
    }

    fn open(
        &self,
        shards: usize,
        cursor: impl FnOnce(&Path) -> Option<Vec<u64>>,
    ) -> (Opened, Model) {
        let directory = lock(&self.path("state"));
        let config = StorageConfig::new(shards, HANDOFF_PORT, SyncPolicy::Always);
        let mut replayed: Vec<Shard> = (0..shards).map(|_| Shard::default()).collect();
        let of = move |nat64: Ipv4Addr| usize::from(nat64.octets()[3]) % shards;
        let opened =
            Storage::open(Arc::new(RealDisk), directory, config, of, cursor, None, &mut replayed)
                .unwrap();
        (opened, merged(replayed))
    }

    fn log(&self) -> Destination {
        Destination::File(self.path("events.log"))
    }

    /// Completes the log from `unlogged`, and says what was written.
    fn complete(&self, cursor: &Path, mut unlogged: Vec<Vec<(u64, Event)>>) -> Completed {
        let completed =
            eventlog::complete(&RealDisk, self.log(), LogFormat::Plain, cursor, &mut unlogged);
        completed.unwrap().1
    }

    fn journal_check(&self) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nat64handoff"));
        let output = command.args(["journal", "check"]).arg(self.path("state")).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let directory = self.directory.path().to_str().unwrap();
        (output.status.success(), text.replace(directory, "DIRECTORY"))
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut hex, octet| {
        write!(hex, "{octet:02x}").unwrap();
        hex
    })
}

/// All that is in the tables, as text.
fn text(model: &Model) -> String {
    let mut text = String::new();
    for (key, table) in &model.0 {
        if key.is_block() {
            writeln!(text, "pool from {}", key.nat64).unwrap();
            for (address, client) in &table.names {
                writeln!(text, "  {address}: {client}").unwrap();
            }
            continue;
        }
        writeln!(text, "{} at {}, initialized {}", key.nat64, key.local, table.initialized)
            .unwrap();
        for (port, token) in &table.identities {
            writeln!(text, "  control port {port}, token [{}]", hex(token.octets())).unwrap();
        }
        for (port, client) in &table.entries {
            let prefix = hex(&client.prefix.0);
            writeln!(text, "  {port}: [{}]:{} via {prefix}", client.address, client.port).unwrap();
        }
        for (address, authenticator) in &table.authenticators {
            writeln!(text, "  {address}: authenticator [{}]", hex(authenticator.octets())).unwrap();
        }
    }
    text
}

/// What holds of every sample: `checked` is what a check says of it.
fn check_sample(name: &str, checked: &str, clean: bool) {
    let sample = Sample::new(name);
    let (good, said) = sample.journal_check();
    assert_eq!((said.as_str(), good), (checked, true));
    assert!(check(&sample.path("state")).unwrap().is_good());

    let (tables, log) = (sample.expected("tables.txt"), sample.expected("events.log"));
    let mut known = None;
    let (mut opened, model) = sample.open(2, |folder| {
        known = eventlog::known_events(&RealDisk, &sample.log(), &folder.join("log.cursor"));
        known.clone()
    });
    assert_eq!(text(&model), tables);
    assert_eq!(opened.report.clean, clean, "{}", opened.report);
    // The cursor counts all events of the journal: the log lacks none.
    assert!(known.is_some_and(|known| known.iter().sum::<u64>() > 0));
    let cursor = opened.epoch_folder.clone().unwrap().join("log.cursor");
    let unlogged = std::mem::take(&mut opened.unlogged);
    assert!(unlogged.iter().all(Vec::is_empty), "{unlogged:?}");
    assert_eq!(sample.complete(&cursor, unlogged), Completed::default());
    assert_eq!(fs::read_to_string(sample.path("events.log")).unwrap(), log);
    drop(opened);

    // Without a cursor, the lines of the journal's events are found in the log.
    fs::remove_file(&cursor).unwrap();
    let (mut opened, _) = sample.open(2, |_| None);
    let unlogged = std::mem::take(&mut opened.unlogged);
    let events: usize = unlogged.iter().map(Vec::len).sum();
    assert!(events > 0);
    assert_eq!(sample.complete(&cursor, unlogged.clone()).appended, 0);
    assert_eq!(fs::read_to_string(sample.path("events.log")).unwrap(), log);

    // Without a log, the journal gives these lines once more. Those of shards come one shard after
    // the other.
    fs::remove_file(&cursor).unwrap();
    fs::remove_file(sample.path("events.log")).unwrap();
    assert_eq!(sample.complete(&cursor, unlogged).appended, events as u64);
    let written = fs::read_to_string(sample.path("events.log")).unwrap();
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().rev().take(events).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&written), sorted(&log));
    drop(opened);

    // It can be written on, with its number of shards and with another one.
    for shards in [2, 3] {
        let started = sample.open(shards, |_| None).0.start(at(0), Arc::new(|_| u64::MAX)).unwrap();
        for writer in started.writers {
            writer.close(at(1)).unwrap();
        }
        drop(started.storage);
        assert_eq!(text(&sample.open(shards, |_| None).1), tables, "{shards} shards");
    }
}

#[test]
fn state_of_one_reactor() {
    check_sample("one-reactor", "epoch 1: 1 shards, 32 valid records, 4432 octets\ngood\n", true);
}

#[test]
fn state_of_three_reactors_with_a_torn_end() {
    let checked = "epoch 2: 3 shards, 19 valid records, 3545 octets\n\
        torn: DIRECTORY/state/epoch-2/01-00000000.journal, offset 752: \
        the next start cuts off 111 octets\ngood\n";
    check_sample("three-reactors", checked, false);
}

#[test]
fn state_of_format_2() {
    check_sample("format-2", "epoch 1: 2 shards, 136 valid records, 13472 octets\ngood\n", true);
}
