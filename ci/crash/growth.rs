//! What one hostile NAT64 makes the disks grow by in a second, when it has used up what it may have
//! at once (PROTOCOL section 6).

use crate::flood::Flood;
use crate::judge::LEISURE;
use crate::server::Server;
use std::fs;
use std::time::{Duration, Instant};

const RATE: u64 = 100;
/// The longest lines without their ends, and a change in the journal.
const LINE: u64 = 110;
const CHANGE: u64 = 33;
/// `Deleted`, `Created`, `Conflict`; in the journal and in the log.
const UNIT: u64 = 3 * (LINE + CHANGE);
/// The cursor, ten times a second, and the headers of records.
const BESIDE: u64 = 100_000;
const MEASURED: Duration = Duration::from_secs(4);

/// Octets that the process has written so far.
fn written(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let octets = text.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    octets.parse().unwrap()
}

#[test]
fn crash_what_one_nat64_writes_in_a_second_is_bounded() {
    let rate = RATE.to_string();
    // A history is made of what was logged before, some time later: an octet for eight of the log.
    let options = [
        ["--reactors", "1"],
        ["--max-entries", "100000"],
        ["--create-rate", &rate],
        ["--history", "off"],
    ];
    let mut server = Server::started(options.as_flattened());
    let mut flood = Flood::new(&server);
    let start = Instant::now();
    let used_up = |reason| server.stderr().contains(reason);
    while !used_up("create_rate: ") || !used_up("conflict_rate: ") {
        assert!(start.elapsed() < LEISURE, "nothing is refused");
        flood.appear(5_000);
        flood.contradict(5_000);
    }
    let burst = written(server.pid());
    let (sent, since) = (flood.octets, Instant::now());
    while since.elapsed() < MEASURED {
        flood.appear(500);
        flood.contradict(500);
    }
    let seconds = since.elapsed().as_secs_f64();
    let octets = (written(server.pid()) - burst) as f64 / seconds;
    let wire = (flood.octets - sent) as f64 / seconds;
    println!(
        "{burst} octets at once; then {octets:.0} octets a second, {:.2} for each octet received \
         ({wire:.0} a second)",
        octets / wire
    );
    let bound = RATE * UNIT + BESIDE;
    assert!(octets < bound as f64, "{octets:.0} octets a second, more than {bound}");
    server.stop();
}
