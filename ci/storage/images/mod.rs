//! Crash images: what a kill or a power cut leaves of a state directory at each operation of a
//! workload, thousands of them, each recovered. Nothing that was announced is lost, and nothing is
//! there that never was.
//!
//! `ci/images N` makes as many of them as N says.

mod check;
mod cuts;
mod flips;
mod lines;
mod log;
mod workload;

use std::path::Path;

use nat64handoff::disk::storage::SyncPolicy;
use nat64handoff::kernel::clock;

use crate::faults::{INTERVAL, policies};
use crate::sim::{Moment, SimDisk};
use check::{Checker, Counts};
use cuts::{Effort, Image, kills};
use flips::{Flipped, Flips, seal_again};
use lines::LogChecker;
use workload::{ROOT, Workload, seeded};

const EFFORT: Effort = Effort { all_max: 96, drawn: 40, parts: 9 };
/// The same, where each image has an event log.
const LOG_EFFORT: Effort = Effort { all_max: 12, drawn: 6, parts: 2 };
/// Images of each policy, where nobody asks for more.
const IMAGES: u64 = 6000;

/// How many images are asked for.
fn images() -> u64 {
    let asked = std::env::var("NAT64HANDOFF_IMAGES").ok();
    asked.and_then(|asked| asked.parse().ok()).map_or(IMAGES, |all: u64| all.div_ceil(3))
}

fn check_images(policy: SyncPolicy) {
    let (images, begin) = (images(), clock::instant());
    let (mut counts, mut workloads) = (Counts::default(), 0);
    // No two policies have the same workload, so no image is counted twice.
    let first = policies().iter().position(|other| *other == policy).unwrap() as u64;
    while counts.all() < images {
        let workload = Workload::record(first + 3 * workloads, policy);
        let mut checker = Checker::new(&workload);
        checker.check_all(EFFORT).unwrap_or_else(|what| panic!("{what}"));
        counts.add(checker.counts);
        workloads += 1;
    }
    let Counts { kills, cuts, again, torn } = counts;
    println!(
        "sync {policy}: {} images of {workloads} workloads in {:.1} s: {kills} of kills, {cuts} of power \
         cuts, {torn} of these torn, {again} of recoveries",
        counts.all(),
        begin.elapsed().as_secs_f64()
    );
}

#[test]
fn images_with_sync_always() {
    check_images(SyncPolicy::Always);
}

#[test]
fn images_with_sync_at_an_interval() {
    check_images(INTERVAL);
}

#[test]
fn images_without_sync() {
    check_images(SyncPolicy::None);
}

/// Images with an event log, which is completed.
#[test]
fn images_with_an_event_log() {
    let (images, begin) = (images(), clock::instant());
    let (mut counts, mut ahead, mut workloads) = (Counts::default(), 0, 0);
    while counts.all() < images / 2 {
        for policy in policies() {
            let workload = Workload::record_with_log(100_000 + workloads, policy);
            let log = workload.log.clone().unwrap();
            let mut checker = LogChecker::new(&workload, &log);
            checker.check_all(LOG_EFFORT).unwrap_or_else(|what| panic!("{what}"));
            counts.add(checker.counts);
            ahead += checker.ahead;
            workloads += 1;
        }
    }
    let Counts { kills, cuts, .. } = counts;
    println!(
        "event log: {} images of {workloads} workloads in {:.1} s: {kills} of kills, {cuts} of power \
         cuts, {ahead} of these with a log ahead of the journal",
        counts.all(),
        begin.elapsed().as_secs_f64()
    );
    assert!(ahead > 0);
}

/// The states that the lives of a workload ended with: killed, and without power but all synced.
fn ends(workload: &Workload) -> Vec<(usize, Image)> {
    let pairs = workload.moments.windows(2);
    let life = |moment: &Moment| workload.marks[moment.mark].life;
    let last = pairs.filter(|pair| life(&pair[0]) != life(&pair[1])).map(|pair| &pair[0]);
    let images = last.filter(|moment| life(moment) > 0).flat_map(|moment| {
        let killed = kills(moment, None, EFFORT).swap_remove(0);
        let cut = Image { boots: killed.boots + 1, ..killed.clone() };
        [(life(moment), killed), (life(moment), cut)]
    });
    images.collect()
}

#[test]
fn every_changed_octet_is_found() {
    let (mut flips, mut states, begin) = (Flips::default(), 0, clock::instant());
    for seed in 0.. {
        let workload = Workload::record(seed, SyncPolicy::Always);
        for (life, image) in ends(&workload) {
            let mut flipped = Flipped::new(&workload, life, image).unwrap();
            let checked = flipped.check_all(&mut seeded(seed, 7));
            checked.unwrap_or_else(|what| panic!("seed {seed}, life {life}: {what}"));
            flips.add(flipped.flips);
            states += 1;
            if flips.all() >= images() {
                break;
            }
        }
        if flips.all() >= images() {
            break;
        }
    }
    let Flips { refused, cut, aside, unread } = flips;
    println!(
        "{} changed octets of {states} states in {:.1} s: {refused} refused, {cut} cut off as torn, \
         {aside} of bans, {unread} not read",
        flips.all(),
        begin.elapsed().as_secs_f64()
    );
    assert!(refused > 2000 && cut > 20, "{flips:?}");
}

/// A start that looks behind the cursor alone for lines that are ahead of the journal.
#[test]
fn canary_a_cursor_ahead_of_the_journal() {
    let found = (100_000..100_003).find_map(|seed| {
        let workload = Workload::record_with_log(seed, SyncPolicy::Always);
        let log = workload.log.clone().unwrap();
        let mut checker = LogChecker::new(&workload, &log);
        checker.says_journal = false;
        checker.check_all(LOG_EFFORT).err()
    });
    let found = found.unwrap();
    assert!(found.contains(" in the log, and None in its table"), "{found}");
}

#[test]
fn canary_a_checksum_that_is_not_looked_at() {
    let workload = Workload::record(0, SyncPolicy::Always);
    let (life, image) = ends(&workload).swap_remove(0);
    let mut flipped = Flipped::new(&workload, life, image.clone()).unwrap();
    let journals = image.files.iter().filter(|(path, _)| path.to_string_lossy().contains('-'));
    let mut silently = 0;
    for (path, content) in journals.filter_map(|(path, content)| Some((path, content.clone()?))) {
        for at in 0..content.len() {
            let mut octets = content.clone();
            octets[at] ^= 1;
            if seal_again(&mut octets, at) {
                let checked = flipped.check(path, at, octets);
                silently += usize::from(checked.is_err_and(|what| what.contains("state")));
            }
        }
    }
    assert!(silently > 100, "{silently}");
}

/// What the images of a few workloads on such a disk say against it.
fn found_on(prepare: impl Fn(&SimDisk)) -> Option<String> {
    (0..3).find_map(|seed| {
        let disk = SimDisk::new(Path::new(ROOT));
        prepare(&disk);
        let workload = Workload::record_on(&disk, seed, SyncPolicy::Always);
        Checker::new(&workload).check_all(EFFORT).err()
    })
}

#[test]
fn canary_a_disk_that_does_not_sync() {
    let found = found_on(SimDisk::ignore_sync).unwrap();
    assert!(found.contains("was promised") || found.contains("refused: "), "{found}");
}

#[test]
fn canary_a_rename_before_the_sync() {
    let found = found_on(SimDisk::sync_late).unwrap();
    assert!(found.contains("refused: ") || found.contains("bans"), "{found}");
}
