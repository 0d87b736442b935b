//! What the tests of the protocol do with a server beyond starting it.

use crate::clock::Clock;
use crate::harness::process::wait_until;
use crate::harness::program::{LOCAL, command, free_port};
use crate::judge::PATIENCE;
use crate::judge::eventlog::{self, Event};
use crate::server::{Server, fresh_directory};
use crate::threads::{looks, task};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;
use tempfile::tempdir;

impl Server {
    /// By a clock that the test moves on.
    pub fn start_by(clock: &Clock) -> Server {
        let mut command = command();
        clock.drives(&mut command);
        Server::launch(command, fresh_directory(), free_port(), vec![LOCAL], &[])
    }

    /// Starts the server again, after it ended, on the same state and log.
    pub fn restart(mut self) -> Server {
        assert!(self.process.ended().is_some());
        self.check_log = false;
        let directory = std::mem::replace(&mut self.directory, tempdir().unwrap());
        Server::launch(command(), directory, self.port, self.listen.clone(), &[])
    }

    /// The same with these options.
    pub fn restart_with(mut self, options: &[&str]) -> Server {
        assert!(self.process.ended().is_some());
        let directory = std::mem::replace(&mut self.directory, tempdir().unwrap());
        let mut server =
            Server::launch(command(), directory, self.port, self.listen.clone(), options);
        (server.check_log, self.check_log) = (self.check_log, false);
        server
    }

    /// What a log of `--log-format json` has now.
    pub fn objects(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.log_path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn addr_at(&self, address: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(address, self.port)
    }

    pub fn stdout(&self) -> String {
        self.process.stdout.get()
    }

    /// Waits until the log has `count` events.
    pub fn events_from(&self, count: usize) -> Vec<Event> {
        let mut events = self.events();
        let patience = PATIENCE + Duration::from_micros(50) * count as u32;
        wait_until(patience, || {
            events = self.events();
            events.len() >= count
        });
        assert!(events.len() >= count, "{count} events expected, got {events:#?}");
        events
    }

    pub fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// Waits until the server has looked for live connections, if it does.
    pub fn wait_for_look(&self) {
        let before = looks(self.process.id);
        assert!(wait_until(PATIENCE, || looks(self.process.id) >= before + 2), "nobody looks");
    }

    /// How long its one reactor has been ready to run so far, while others had the cores.
    pub fn waited(&self) -> Duration {
        let reactor = task(self.process.id, "reactor-0");
        let schedstat = std::fs::read_to_string(format!("/proc/{reactor}/schedstat"));
        let waited = schedstat.ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
        Duration::from_nanos(waited.unwrap_or(0))
    }

    pub fn resident_kib(&self) -> usize {
        let path = format!("/proc/{}/status", self.process.id);
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// SIGTERM: it ends, and successfully.
    pub fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        assert_eq!(self.wait_exit(PATIENCE).code(), Some(0), "{}", self.stderr());
    }
}

/// The present time, as the log writes it.
pub fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    eventlog::stamp(now.as_secs(), now.subsec_micros())
}
