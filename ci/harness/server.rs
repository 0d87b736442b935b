//! A server that a test starts on loopback, watches and stops.

use crate::harness::process::{Process, print_if_failed};
use crate::harness::program::{LOCAL, command, free_port, serves, wants_discard_port};
use crate::judge::PATIENCE;
use crate::judge::eventlog::{self, Event};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::{TempDir, tempdir};

pub struct Server {
    pub process: Process,
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

    pub fn launch(
        command: Command,
        directory: TempDir,
        port: u16,
        listen: Vec<Ipv4Addr>,
        extra: &[&str],
    ) -> Server {
        Server::launch_to(Stdio::piped(), command, directory, port, listen, extra)
    }

    /// With this standard output.
    pub fn launch_to(
        stdout: Stdio,
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
        let mut process = Process::spawn_to(command.args(extra), stdout);
        if !serves(&mut process, PATIENCE) {
            panic!("the server did not start: {:?}\n{}", process.ended(), process.said());
        }
        Server { process, gone: false, port, listen, directory, check_log: true }
    }

    pub fn addr(&self) -> SocketAddrV4 {
        let address = if self.listen[0].is_unspecified() { LOCAL } else { self.listen[0] };
        SocketAddrV4::new(address, self.port)
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("events.log")
    }

    /// The socket at which it is asked.
    pub fn admin(&self) -> PathBuf {
        self.directory.path().join("state/admin.sock")
    }

    pub fn pid(&self) -> u32 {
        self.process.id
    }

    pub fn stderr(&self) -> String {
        self.process.stderr.get()
    }

    /// What the log has now.
    pub fn events(&self) -> Vec<Event> {
        events_of(&self.log_path())
    }

    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let status = self.process.wait(patience);
        self.gone = status.is_some();
        status.unwrap_or_else(|| panic!("still running\n{}", self.stderr()))
    }
}

impl From<&Server> for SocketAddrV4 {
    fn from(server: &Server) -> SocketAddrV4 {
        server.addr()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if print_if_failed(&format!("the server on port {}", self.port), &self.stderr()) {
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
pub fn fresh_directory() -> TempDir {
    wants_discard_port();
    let directory = tempdir().unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    directory
}

/// Those of the day before, too, where midnight passes.
pub fn events_of(path: &Path) -> Vec<Event> {
    let begin = format!("{}-", path.display());
    let others = std::fs::read_dir(path.parent().unwrap()).into_iter().flatten().flatten();
    let others = others.map(|entry| entry.path());
    let mut files: Vec<_> = others.filter(|o| o.to_string_lossy().starts_with(&begin)).collect();
    files.sort_unstable();
    files.push(path.to_owned());
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap_or_default());
    eventlog::parse_all(&texts.collect::<String>())
}
