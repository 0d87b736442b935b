//! Starts the real server on loopback, watches it, stops it.

use crate::judge::eventlog::{self, Event};
pub use crate::judge::{PATIENCE, SHORT};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

pub struct Server {
    child: Child,
    pub port: u16,
    pub listen: Vec<Ipv4Addr>,
    pub directory: tempfile::TempDir,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    gone: bool,
    /// Whether the log is replayed when the server stops.
    pub check_log: bool,
}

/// A UDP port that nobody has: below the ephemeral ones, which control sockets use, and above those that
/// tests map by name.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) + 97 * std::process::id();
        let port = 24_000 + (step % 8_000) as u16;
        if UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

pub fn command() -> Command {
    command_of(env!("CARGO_BIN_EXE_nat64handoff"))
}

pub fn command_of(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for variable in
        ["STATE_DIRECTORY", "LOGS_DIRECTORY", "LISTEN_FDS", "NOTIFY_SOCKET", "GLIBC_TUNABLES"]
    {
        command.env_remove(variable);
    }
    command
}

fn collect(from: impl Read + Send + 'static) -> (Arc<Mutex<String>>, Receiver<()>) {
    let text = Arc::new(Mutex::new(String::new()));
    let (sender, ready) = channel();
    let sink = Arc::clone(&text);
    thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            let read = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            sink.lock().unwrap().push_str(&read);
            if read.starts_with("nat64handoff: serving") {
                let _ = sender.send(());
            }
        }
    });
    (text, ready)
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
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("state")).unwrap();
        Server::launch(directory, free_port(), listen.to_vec(), extra)
    }

    fn launch(
        directory: tempfile::TempDir,
        port: u16,
        listen: Vec<Ipv4Addr>,
        extra: &[&str],
    ) -> Server {
        let mut command = command();
        command.arg("serve").arg("--state").arg(directory.path().join("state"));
        for address in &listen {
            command.arg("--listen").arg(SocketAddrV4::new(*address, port).to_string());
        }
        if !extra.contains(&"--log") {
            command.arg("--log").arg(directory.path().join("events.log"));
        }
        let mut child = command.args(extra).spawn().unwrap();
        let (stdout, _) = collect(child.stdout.take().unwrap());
        let (stderr, ready) = collect(child.stderr.take().unwrap());
        // Without the line, go on: whoever needs the server repeats what it asks.
        let _ = ready.recv_timeout(5 * PATIENCE);
        let gone = false;
        let check_log = true;
        let mut server = Server { child, port, listen, directory, stdout, stderr, gone, check_log };
        if let Some(status) = server.child.try_wait().unwrap() {
            server.gone = true;
            panic!("the server did not start: {status}\n{}", server.stderr());
        }
        server
    }

    /// Starts the server again, after it ended, on the same state and log.
    pub fn restart(mut self) -> Server {
        assert!(self.gone);
        self.check_log = false;
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir().unwrap());
        Server::launch(directory, self.port, self.listen.clone(), &[])
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

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// What the log has now.
    pub fn events(&self) -> Vec<Event> {
        events_of(&self.log_path())
    }

    /// Waits until the log has so many events.
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

    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub fn wait_exit(&mut self, patience: Duration) -> ExitStatus {
        let mut status = None;
        wait_until(patience, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap_or_else(|| panic!("still running\n{}", self.stderr()));
        self.gone = true;
        status
    }

    pub fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl From<&Server> for SocketAddrV4 {
    fn from(server: &Server) -> SocketAddrV4 {
        server.addr()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let died = if self.gone { None } else { self.child.try_wait().unwrap() };
        if !self.gone {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            println!("server on port {} said:\n{}", self.port, self.stderr());
            return;
        }
        assert_eq!(died, None, "the server died\n{}", self.stderr());
        if self.check_log && self.log_path().exists() {
            eventlog::check_consistency(&self.events());
        }
    }
}

pub fn events_of(path: &Path) -> Vec<Event> {
    eventlog::parse_all(&std::fs::read_to_string(path).unwrap_or_default())
}

/// The present time, as the log writes it.
pub fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    eventlog::stamp(now.as_secs(), now.subsec_micros())
}

/// By the id of a process that this test started.
pub fn signal(child: &Child, name: &str) {
    let mut kill = Command::new("kill");
    let status = kill.arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(status.unwrap().success());
}

/// Whether the condition came true in time.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the program until it ends: exit code, standard output, standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut child = command().args(arguments).spawn().unwrap();
    let (stdout, _) = collect(child.stdout.take().unwrap());
    let (stderr, _) = collect(child.stderr.take().unwrap());
    let mut status = None;
    wait_until(5 * PATIENCE, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // The pipes are closed now: let the readers finish.
    thread::sleep(Duration::from_millis(50));
    let (out, err) = (stdout.lock().unwrap().clone(), stderr.lock().unwrap().clone());
    let status = status.unwrap_or_else(|| panic!("{arguments:?} does not end\n{err}"));
    (status.code().unwrap_or(-1), out, err)
}
