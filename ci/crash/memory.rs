//! A machine with little memory: whatever a NAT64 sends, the server lives, and starts again.

use crate::ask::{check_entries, expect_client};
use crate::flood::Flood;
use crate::harness::process::wait_until;
use crate::harness::skip::cannot_run;
use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::judge::{LEISURE, PATIENCE, SHORT};
use crate::restart::check_known;
use crate::server::Server;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const LIMIT: u64 = 256 << 20;
/// What the attack would have the journal grow by, if each of its packets were recorded.
const ATTACK_OCTETS: usize = 1 << 30;
const ATTACKERS: u32 = 2_000;
const HONEST: u32 = 200;

/// A control group with a limit of its memory. It goes with the value, when it is empty.
struct MemoryGroup(PathBuf);

impl MemoryGroup {
    fn new(limit: u64) -> MemoryGroup {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nat64handoff-test-{}-{number}", std::process::id());
        let versions =
            [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (root, file) in versions {
            let group = MemoryGroup(Path::new(root).join(&name));
            if fs::create_dir(&group.0).is_ok()
                && fs::write(group.0.join(file), limit.to_string()).is_ok()
            {
                return group;
            }
        }
        cannot_run(
            "a control group with a limit of memory: run it as root, on a cgroup that is writable",
        )
    }

    fn take(&self, process: u32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).unwrap();
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The most memory that the process had, in octets.
fn memory_peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

fn journal_octets(state: &Path) -> u64 {
    let files = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let epochs = files(state).into_iter().filter(|path| path.is_dir());
    // A compaction may have removed a file meanwhile.
    let octets = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
    epochs.flat_map(|epoch| files(&epoch)).map(octets).sum()
}

/// Authenticators that change with each packet, of 510 octets.
#[test]
fn crash_authenticators_fill_neither_disk_nor_memory() {
    let group = MemoryGroup::new(LIMIT);
    let options = ["--reactors", "1", "--max-entries", "100000"];
    let mut server = Server::started(&options);
    group.take(server.pid());
    let honest = Nat64::known(&server);
    let entries: Vec<Entry> = (0..HONEST)
        .map(|index| {
            let client = Client::nth(index);
            client.at(honest.map(client))
        })
        .collect();
    let attacker = Nat64::known(&server);
    let (mut sent, mut most, mut number) = (0, 0, 0_u32);
    while sent < ATTACK_OCTETS {
        for _ in 0..32 {
            let mut authenticator = vec![0x5a; 510];
            authenticator[..4].copy_from_slice(&number.to_be_bytes());
            let client = Client::nth(1_000_000 + number % ATTACKERS);
            attacker.send(&attacker.client_request(&authenticator, &client.udp(b"")));
            sent += authenticator.len() + 18;
            number += 1;
        }
        // As fast as the server is, or nearly.
        let _ = attacker.try_reply(Duration::from_millis(5));
        if number % 8192 == 0 {
            most = most.max(journal_octets(&server.state));
            let entry = entries[number as usize / 8192 % entries.len()];
            let (request, reply) = expect_client(&honest, entry);
            // The attack fills the queue of the socket now and then.
            let answered = wait_until(PATIENCE, || {
                honest.send(&request);
                honest.try_reply(Duration::from_millis(100)).is_some_and(|got| got == reply)
            });
            assert!(answered, "a known client of an honest NAT64 gets no answer");
        }
    }
    while honest.try_reply(Duration::from_millis(200)).is_some() {}
    let peak = memory_peak(server.pid());
    println!("{number} packets: journal of at most {most} octets, memory of {peak}");
    assert!(most < 512 << 20, "the journal has {most} octets");
    assert!(peak < LIMIT, "{peak} octets of memory");
    for _ in 0..3 {
        server.kill();
        server.spawn(&options);
        group.take(server.pid());
        let took = server.wait_ready();
        println!("started in {took:?}, memory of {}", memory_peak(server.pid()));
        check_known("after the attack", &honest);
        check_entries("after the attack", &honest, &entries);
    }
    server.stop();
}

/// All that a start without a cursor compares with the log, from a journal of 900,000 events and
/// more.
#[test]
fn crash_a_lost_cursor_costs_little_memory() {
    const EVENTS: u32 = 900_000;
    const JOURNAL: u64 = 33 * EVENTS as u64;
    // The changes of its table wait in memory, too, until it is filled.
    const PEAK_MAX: u64 = 80 << 20;
    let group = MemoryGroup::new(LIMIT);
    let options = ["--reactors", "1", "--max-entries", "100000", "--create-rate", "1000000"];
    let mut server = Server::started(&options);
    let mut flood = Flood::new(&server);
    let start = Instant::now();
    let mut octets = 0;
    // While the log comes behind, as the disk is busy, nothing is recorded.
    while octets < JOURNAL {
        assert!(start.elapsed() < LEISURE, "a journal of {octets} octets");
        flood.contradict(10_000);
        octets = journal_octets(&server.state);
    }
    server.kill();
    fs::remove_file(server.state.join("epoch-1/log.cursor")).unwrap();
    server.spawn(&options);
    group.take(server.pid());
    let took = server.wait_ready();
    let peak = memory_peak(server.pid());
    println!("started in {took:?} from {octets} octets of journal, memory of {peak}");
    assert!(!server.stderr().contains("may lack"), "it has all lines");
    assert!(peak < PEAK_MAX, "{peak} octets of memory");
    check_known("without a cursor", &flood.nat64);
    let newcomer = Client::nth(1 << 30);
    let request = flood.nat64.client_request(&newcomer.authenticator(), &newcomer.udp(b""));
    let is_complete = wait_until(LEISURE, || {
        flood.nat64.send(&request);
        flood.nat64.try_reply(SHORT).is_some()
    });
    assert!(is_complete, "new clients wait for a log that has all lines");
    server.stop();
    let text = fs::read_to_string(&server.log).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    let count = lines.len();
    assert!(count > EVENTS as usize / 2, "{count} lines");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), count, "lines that are there twice");
}
