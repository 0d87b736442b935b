//! A disk of the event log that does not answer, and does again: known clients are served, the
//! watchdog leaves the server alone, and no line is lost.

use crate::ask::expect_client;
use crate::harness::process::{Process, wait_until};
use crate::harness::program::serves;
use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::judge::{LEISURE, PATIENCE};
use crate::manager::Manager;
use crate::mount::Mounted;
use crate::record::Record;
use crate::server::Server;

/// What the server says when it has waited for ten seconds.
const HANGS: &str = " hangs: ";

/// A server whose log has a disk of its own, who listens to it, and whom it knows.
///
/// Dropped in this order: nothing is unmounted under a server, or removed from what is mounted.
struct Hanging {
    process: Process,
    nat64: Nat64,
    known: Entry,
    manager: Manager,
    disk: Mounted,
    server: Server,
}

impl Hanging {
    /// What has happened so far is in the log: two lines.
    fn new() -> Hanging {
        let mut server = Server::new();
        let disk = Mounted::ext4(server.directory.path(), "logs");
        server.log = disk.path.join("events.log");
        let manager = Manager::new();
        let mut command = server.serve(&["--reactors", "1"]);
        manager.watches(&mut command);
        let mut process = Process::spawn(&mut command);
        assert!(serves(&mut process, PATIENCE), "{}", process.said());
        let nat64 = Nat64::known(&server);
        let known = Client::nth(1).at(nat64.map(Client::nth(1)));
        let hanging = Hanging { process, nat64, known, manager, disk, server };
        hanging.wait_for_lines(2);
        hanging
    }

    /// Waits until the log has so many.
    fn wait_for_lines(&self, count: usize) {
        let log = &self.server.log;
        let lines = || std::fs::read_to_string(log).map_or(0, |text| text.lines().count());
        assert!(wait_until(PATIENCE, || lines() == count), "{} lines", lines());
    }

    /// Its log hangs in what it has just been made to do: it says so, once, and lives.
    fn hangs(&mut self) {
        let Hanging { process, nat64, known, manager, .. } = self;
        assert!(process.says(HANGS, LEISURE), "{}", process.said());
        let before = manager.signs_of_life();
        let since = || manager.signs_of_life() - before;
        assert!(wait_until(PATIENCE, || since() >= 5), "{} signs of life", since());
        let (request, expected) = expect_client(nat64, *known);
        assert_eq!(nat64.ask(&request), expected, "known clients are served");
        assert_eq!(process.stderr.get().matches(HANGS).count(), 1, "{}", process.said());
    }

    fn ends(&mut self) {
        self.process.signal(libc::SIGTERM);
        let status = self.process.wait(PATIENCE);
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", self.process.said());
    }
}

#[test]
fn crash_a_log_whose_disk_hangs() {
    let mut hanging = Hanging::new();
    let frozen = hanging.disk.frozen();
    // Its line waits.
    hanging.nat64.map(Client::nth(2));
    hanging.hangs();
    drop(frozen);
    hanging.wait_for_lines(3);
    hanging.ends();
    let mut record = Record::new(&hanging.server.log);
    record.check_final();
    assert_eq!(record.lines, 3);
}

/// As logrotate does it: the log is renamed, and to be opened anew.
#[test]
fn crash_a_log_whose_disk_hangs_at_a_rotation() {
    let mut hanging = Hanging::new();
    let mut record = Record::new(&hanging.server.log);
    record.rename();
    let frozen = hanging.disk.frozen();
    hanging.process.signal(libc::SIGHUP);
    hanging.hangs();
    hanging.nat64.map(Client::nth(2));
    assert!(!hanging.server.log.exists(), "it is made when the disk answers");
    drop(frozen);
    hanging.wait_for_lines(1);
    hanging.ends();
    record.check_final();
    assert_eq!(record.lines, 3);
}

/// The log cannot be written when it is to be opened anew.
#[test]
fn crash_a_full_log_whose_disk_hangs_at_a_rotation() {
    let mut hanging = Hanging::new();
    let mut record = Record::new(&hanging.server.log);
    record.rename();
    hanging.disk.fill();
    let refused = || hanging.process.stderr.contains("cannot be written");
    let mut number = 1;
    assert!(wait_until(PATIENCE, || {
        number += 1;
        hanging.nat64.map(Client::nth(number));
        refused()
    }));
    let frozen = hanging.disk.frozen();
    hanging.process.signal(libc::SIGHUP);
    hanging.hangs();
    drop(frozen);
    hanging.disk.make_room();
    let all = number as usize + 1;
    let is_written = wait_until(PATIENCE, || {
        record.feed();
        record.lines == all
    });
    assert!(is_written, "{} of {all} lines: {}", record.lines, hanging.process.said());
    hanging.ends();
    record.check_final();
}
