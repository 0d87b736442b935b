//! Processes that end in many ways, on disks that fail now and then: by a seed.

use std::collections::BTreeSet;

use nat64handoff::handoff::table::TableLimits;

use super::*;
use crate::sim::Fault;

/// How many seeds.
const SEEDS: u64 = 400;
const ENOSPC: i32 = 28;

/// The entries that the log says there are, as its lines say it.
fn logged(scene: &Scene) -> BTreeSet<String> {
    let mut entries = BTreeSet::new();
    for line in log_text(&scene.place.log).lines() {
        let words: Vec<_> = line.split(' ').collect();
        // Half a line may stand there after a power cut.
        let [_, _, kind, port, client, "to", _, "via", "64:ff9b::/96"] = words[..] else {
            continue;
        };
        let entry = format!("{port} {client}");
        match kind {
            "Created" => assert!(entries.insert(entry), "twice: {line}"),
            "Deleted" => assert!(entries.remove(&entry), "not there: {line}"),
            _ => {}
        }
    }
    entries
}

/// Those that the tables have.
fn held(scene: &mut Scene) -> BTreeSet<String> {
    let said = |(key, entry): &(TableKey, Entry)| {
        let Entry { port, client } = entry;
        format!("{}:{port} [{}]:{}", key.nat64, client.address, client.port)
    };
    scene.process().tables().iter().map(said).collect()
}

/// A process is started, has clients on a disk that may fail, and ends somehow; several times.
fn go_through(seed: u64) {
    let mut scene = Scene::new(0);
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    (scene.random, scene.evicts) = (Random::new(key), true);
    let sync = SYNCS[scene.below(3) as usize];
    let log_disk = LogDisk::default();
    let (mut sockets, mut announced) = (Sockets::default(), BTreeSet::new());
    for round in 0..6 {
        let config = ProcessConfig {
            interleaves: scene.below(2) == 0,
            log_disk: log_disk.clone(),
            limits: TableLimits { entries_max: 12, ..TableLimits::default() },
            ..small(1 + scene.below(3) as usize, sync)
        };
        scene.start(&config, std::mem::take(&mut sockets));
        assert_eq!(scene.process().contradiction(), None);
        let held_now = held(&mut scene);
        assert_eq!(held_now, logged(&scene), "round {round}, {sync}");
        assert!(held_now.is_superset(&announced), "round {round}, {sync}");
        ask_all(&mut scene, &log_disk);
        announced = scene.announced.iter().map(said).collect();
        announced.retain(|entry| held(&mut scene).contains(entry));
        match scene.below(4) {
            0 | 1 => sockets = scene.process.take().unwrap().kill(),
            2 => {
                // What it still answers may let entries go.
                announced.clear();
                drop(scene.process.take().unwrap().stop());
            }
            _ if sync == SyncPolicy::None => drop(scene.process.take().unwrap().kill()),
            _ => {
                if sync != SyncPolicy::Always {
                    announced.clear();
                }
                scene.cut_power(&config, LogTear::Cut);
            }
        }
        scene.announced.clear();
        scene.disk.heal();
        log_disk.fail(None);
        log_disk.shorten(false);
    }
}

fn said((&(nat64, client), port): (&(Ipv4Addr, Client), &u16)) -> String {
    format!("{nat64}:{port} [{}]:{}", client.address, client.port)
}

/// Some clients speak, while the disks fail or not.
fn ask_all(scene: &mut Scene, log_disk: &LogDisk) {
    if scene.below(3) == 0 {
        let fault = [Fault::InputOutput, Fault::NoSpace, Fault::Short][scene.below(3) as usize];
        let (at, for_good) = (u64::from(scene.below(60)), scene.below(2) == 0);
        scene.disk.fail(at, fault, for_good);
    }
    for _ in 0..scene.below(40) {
        let (from, client) = (nat64(1 + scene.below(4) as u8), Client::nth(scene.below(60)));
        scene.ask(from, request(*from.ip(), client));
        let steps = scene.below(12) as usize;
        scene.run(steps);
        match scene.below(40) {
            0..4 => log_disk.fail([None, Some(ENOSPC)][scene.below(2) as usize]),
            4..6 => log_disk.shorten(scene.below(2) == 0),
            6..8 => scene.pass(Duration::from_millis(700)),
            8 => scene.disk.heal(),
            _ => {}
        }
    }
}

/// Whatever happens: what was announced is there, and the log says what the tables have.
#[test]
fn log_and_tables_agree_whatever_happens() {
    for seed in 0..SEEDS {
        if let Err(panic) = catch_unwind(|| go_through(seed)) {
            println!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
