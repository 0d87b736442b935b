//! A server that a test starts on loopback, watches and stops.

use crate::clock::Clock;
use crate::harness::process::{Process, wait_until};
use crate::harness::program::{LOCAL, SERVING, command, free_port, wants_discard_port};
use crate::judge::PATIENCE;
use crate::judge::eventlog::{self, Event};
use crate::threads::{looks, task};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;
use tempfile::{TempDir, tempdir};

pub struct Server {
    process: Process,
    /// Its end was waited for.
    gone: bool,
    pub port: u16,
    pub listen: Vec<Ipv4Addr>,
    pub directory: TempDir,
    /// Whether the log is replayed when the server stops.
    pub check_log: bool,
}

impl Server {
    /// On 127.0.0.1 with a port of its own.
    pub fn start(extra: &[&str]) -> Server {
        Server::start_on(&[LOCAL], extra)
    }

    /// With one shard: exact limits and orders across NAT64s.
    pub fn start_single(extra: &[&str]) -> Server {
        Server::start(&[&["--reactors", "1"], extra].concat())
    }

    pub fn start_on(listen: &[Ipv4Addr], extra: &[&str]) -> Server {
        Server::launch(command(), fresh_directory(), free_port(), listen.to_vec(), extra)
    }

    /// By a clock that the test moves on.
    pub fn start_by(clock: &Clock) -> Server {
        let mut command = command();
        clock.drives(&mut command);
        Server::launch(command, fresh_directory(), free_port(), vec![LOCAL], &[])
    }

    fn launch(
        mut command: Command,
        directory: TempDir,
        port: u16,
        listen: Vec<Ipv4Addr>,
        extra: &[&str],
    ) -> Server {
        command.arg("serve").arg("--state").arg(directory.path().join("state"));
        for address in &listen {
            command.arg("--listen").arg(SocketAddrV4::new(*address, port).to_string());
        }
        if !extra.contains(&"--log") {
            command.arg("--log").arg(directory.path().join("events.log"));
        }
        let mut process = Process::spawn(command.args(extra));
        if !process.says(SERVING, PATIENCE) {
            panic!("the server did not start: {:?}\n{}", process.ended(), process.said());
        }
        Server { process, gone: false, port, listen, directory, check_log: true }
    }

    /// Starts the server again, after it ended, on the same state and log.
    pub fn restart(mut self) -> Server {
        assert!(self.process.ended().is_some());
        self.check_log = false;
        let directory = std::mem::replace(&mut self.directory, tempdir().unwrap());
        Server::launch(command(), directory, self.port, self.listen.clone(), &[])
    }

    pub fn addr(&self) -> SocketAddrV4 {
        let address = if self.listen[0].is_unspecified() { LOCAL } else { self.listen[0] };
        SocketAddrV4::new(address, self.port)
    }

    pub fn addr_at(&self, address: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(address, self.port)
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("events.log")
    }

    pub fn pid(&self) -> u32 {
        self.process.id
    }

    pub fn stdout(&self) -> String {
        self.process.stdout.get()
    }

    pub fn stderr(&self) -> String {
        self.process.stderr.get()
    }

    /// What the log has now.
    pub fn events(&self) -> Vec<Event> {
        events_of(&self.log_path())
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

    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let status = self.process.wait(patience);
        self.gone = status.is_some();
        status.unwrap_or_else(|| panic!("still running\n{}", self.stderr()))
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

impl From<&Server> for SocketAddrV4 {
    fn from(server: &Server) -> SocketAddrV4 {
        server.addr()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("server on port {} said:\n{}", self.port, self.stderr());
            return;
        }
        if !self.gone {
            assert_eq!(self.process.ended(), None, "the server died\n{}", self.stderr());
            self.process.signal(libc::SIGKILL);
            self.wait_exit(PATIENCE);
        }
        if self.check_log && self.log_path().exists() {
            eventlog::check_consistency(&self.events());
        }
    }
}

/// For what a server keeps.
fn fresh_directory() -> TempDir {
    wants_discard_port();
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    directory
}

pub fn events_of(path: &Path) -> Vec<Event> {
    eventlog::parse_all(&std::fs::read_to_string(path).unwrap_or_default())
}

/// The present time, as the log writes it.
pub fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    eventlog::stamp(now.as_secs(), now.subsec_micros())
}
