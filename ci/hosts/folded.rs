//! The log in etcd does not grow for ever, and who starts knows everything all the same.

use nat64handoff::disk::fleet::{KeyRange, read_all};

use crate::PATIENCE;
use crate::harness::process::wait_until;
use crate::judge::client::Client;
use crate::served::{Told, ask_until_answered, check_logs};
use crate::site::Site;

/// Octets of records at which they are folded.
const FOLD_AT: &str = "8000";
/// What a host says then.
const FOLDED: &str = "--fleet: folded up to";
/// New clients, in rounds between which the log is folded.
const ROUND: u32 = 150;
const ROUNDS: u32 = 4;

/// How many keys there are that begin so, and the octets of their values.
fn size(site: &Site, prefix: &str) -> (usize, usize) {
    let engine = site.cluster.engine("site");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let read = runtime.block_on(read_all(&engine, KeyRange::beginning(prefix), None));
    let (_, values) = read.expect("etcd answers");
    let octets = values.iter().map(|value| value.value.as_ref().map_or(0, Vec::len)).sum();
    (values.len(), octets)
}

fn wait_until_folded(site: &mut Site, host: usize, times: usize) {
    let process = site.hosts[host].process();
    let folds = |said: &str| said.matches(FOLDED).count();
    let is_folded = wait_until(PATIENCE, || folds(&process.said()) >= times);
    assert!(is_folded, "{times} times: {}", process.said());
}

#[test]
fn the_log_stays_small_and_who_starts_knows_everything() {
    Site::with_options(3, &["--fleet-fold", FOLD_AT], |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        for round in 0..ROUNDS {
            told.map(&nat64, round * ROUND..(round + 1) * ROUND);
            wait_until_folded(site, 0, round as usize + 1);
        }
        let (records, octets) = size(site, "log/");
        let (parts, of_parts) = size(site, "part/");
        println!("{records} records of {octets} octets are left, {parts} parts of {of_parts}");
        assert!(octets < 3 * 8000, "{octets} octets of records");
        assert_eq!(parts, 1, "one for the table");
        // One that starts has read no more than that.
        site.hosts[2].kill();
        site.begin(2);
        site.wait_until_ready(2);
        // The host that folds is killed while it does, again and again; the next one goes on.
        for round in ROUNDS..ROUNDS + 4 {
            told.map(&nat64, round * ROUND..(round + 1) * ROUND);
            let host = (round % 2) as usize;
            site.hosts[host].kill();
            site.route(2);
            ask_until_answered(&nat64, Client::nth(0));
            site.begin(host);
            site.wait_until_ready(host);
        }
        site.hosts[0].kill();
        site.hosts[1].kill();
        ask_until_answered(&nat64, Client::nth(0));
        told.check(&nat64);
        // All at once: nobody has anything but what is in etcd.
        site.hosts[2].kill();
        (0..3).for_each(|host| site.begin(host));
        (0..3).for_each(|host| site.wait_until_ready(host));
        site.route(1);
        ask_until_answered(&nat64, Client::nth(0));
        told.check(&nat64);
        told.map(&nat64, 2000..2020);
        check_logs(&site.hosts, &[(&nat64, &told)]);
    });
}

/// What was watched by a host that was away is gone: it reads all anew.
#[test]
fn a_host_that_is_far_behind_reads_all_anew() {
    Site::with_options(2, &["--fleet-fold", FOLD_AT], |site| {
        let nat64 = site.nat64();
        nat64.introduce();
        let mut told = Told::default();
        told.map(&nat64, 0..ROUND);
        wait_until_folded(site, 0, 1);
        site.hosts[1].process().signal(libc::SIGSTOP);
        for round in 1..4 {
            told.map(&nat64, round * ROUND..(round + 1) * ROUND);
            wait_until_folded(site, 0, round as usize + 1);
        }
        site.hosts[1].process().signal(libc::SIGCONT);
        // A connection that hung may hold what was sent to it until it is at its end: the watch is
        // begun anew.
        site.route(1);
        ask_until_answered(&nat64, Client::nth(0));
        told.check(&nat64);
        told.map(&nat64, 1000..1020);
        site.hosts[0].kill();
        ask_until_answered(&nat64, Client::nth(0));
        told.check(&nat64);
        told.map(&nat64, 1020..1040);
        // What it had recorded and not written is written when it begins again.
        site.begin(0);
        site.wait_until_ready(0);
        check_logs(&site.hosts, &[(&nat64, &told)]);
    });
}
