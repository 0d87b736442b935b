//! A server that is started, killed and started again on the same port, state directory and log.

use crate::clock::Clock;
use crate::harness::process::{Process, print_if_failed};
use crate::harness::program::{LOCAL, SERVING, command, free_port, serves, wants_discard_port};
use crate::judge::PATIENCE;
use std::net::SocketAddrV4;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub struct Server {
    pub port: u16,
    pub directory: tempfile::TempDir,
    pub state: PathBuf,
    pub log: PathBuf,
    /// Who runs it, if not this user.
    pub uid: Option<u32>,
    /// What it goes by, if not by the kernel's clocks.
    pub clock: Option<Clock>,
    /// Since when.
    running: Option<(Process, Instant)>,
    /// Standard error of the process that ended last.
    last: String,
}

impl Server {
    /// Not started yet.
    pub fn new() -> Server {
        wants_discard_port();
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let log = directory.path().join("events.log");
        let (port, last) = (free_port(), String::new());
        Server { port, directory, state, log, uid: None, clock: None, running: None, last }
    }

    pub fn started(extra: &[&str]) -> Server {
        let mut server = Server::new();
        server.start(extra);
        server
    }

    pub fn addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(LOCAL, self.port)
    }

    /// The command line that serves.
    pub fn serve(&self, extra: &[&str]) -> Command {
        let mut command = command();
        command.arg("serve").arg("--listen").arg(self.addr().to_string());
        command.arg("--state").arg(&self.state).arg("--log").arg(&self.log).args(extra);
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        if let Some(clock) = &self.clock {
            clock.drives(&mut command);
        }
        command
    }

    /// Does not wait until it is ready.
    pub fn spawn(&mut self, extra: &[&str]) {
        self.spawn_into(extra, Stdio::piped());
    }

    /// With another standard output than what the harness reads.
    pub fn spawn_into(&mut self, extra: &[&str], stdout: Stdio) {
        assert!(self.running.is_none());
        let since = Instant::now();
        self.running = Some((Process::spawn_to(&mut self.serve(extra), stdout), since));
    }

    /// How long after the spawn it was ready.
    pub fn wait_ready(&mut self) -> Duration {
        let (process, since) = self.running.as_mut().expect("spawned");
        if !process.says(SERVING, PATIENCE) {
            panic!("the server does not start: {:?}\n{}", process.ended(), process.said());
        }
        since.elapsed()
    }

    pub fn start(&mut self, extra: &[&str]) -> Duration {
        self.spawn(extra);
        let took = self.wait_ready();
        if let Some((process, _)) = &mut self.running {
            serves(process, PATIENCE);
        }
        took
    }

    /// Starts a server that must refuse: exit code 1 and one line, which is returned.
    pub fn refuses(&mut self, extra: &[&str]) -> String {
        self.spawn(extra);
        let status = self.wait_end("and must not start");
        assert_eq!(status.code(), Some(1), "exit code; it said:\n{}", self.last);
        let lines: Vec<_> = self.last.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 1, "one line must say why:\n{}", self.last);
        lines[0].to_string()
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("running").0.id
    }

    pub fn signal(&mut self, signal: i32) {
        let (process, _) = self.running.as_mut().expect("running");
        assert_eq!(process.ended(), None, "the server ended by itself:\n{}", process.said());
        process.signal(signal);
    }

    fn wait_end(&mut self, why: &str) -> ExitStatus {
        let (mut process, _) = self.running.take().expect("running");
        let status = process.wait(PATIENCE);
        self.last = process.stderr.get();
        status.unwrap_or_else(|| panic!("still running, {why}:\n{}", self.last))
    }

    fn end(&mut self, signal: i32) -> ExitStatus {
        self.signal(signal);
        self.wait_end("after a signal")
    }

    /// SIGKILL. It is gone when this returns.
    pub fn kill(&mut self) {
        self.end(libc::SIGKILL);
    }

    /// SIGTERM; exit code 0.
    pub fn stop(&mut self) {
        let status = self.end(libc::SIGTERM);
        assert_eq!(status.code(), Some(0), "after SIGTERM it said:\n{}", self.last);
    }

    /// Standard error of the process that runs, or of the last one.
    pub fn stderr(&self) -> String {
        match &self.running {
            Some((process, _)) => process.stderr.get(),
            None => self.last.clone(),
        }
    }
}

impl From<&Server> for SocketAddrV4 {
    fn from(server: &Server) -> SocketAddrV4 {
        server.addr()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        print_if_failed(&format!("the server on port {}", self.port), &self.stderr());
    }
}
