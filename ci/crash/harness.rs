//! A server that is started, killed and started again on the same port, state directory and log.

pub use crate::judge::PATIENCE;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// How long a start or an end may take at most.
pub const START: Duration = Duration::from_secs(10);

pub struct Server {
    pub port: u16,
    pub directory: tempfile::TempDir,
    pub state: PathBuf,
    pub log: PathBuf,
    running: Option<Running>,
    /// Standard error of the process that ended last.
    last: String,
}

struct Running {
    child: Child,
    stderr: Arc<Mutex<String>>,
    ready: Receiver<()>,
    reader: JoinHandle<()>,
    since: Instant,
}

/// Below the ephemeral ports, which control sockets use, and not where the protocol tests begin.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) + 97 * std::process::id();
        let port = 16_000 + (step % 8_000) as u16;
        if UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat64handoff"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for variable in ["STATE_DIRECTORY", "LOGS_DIRECTORY", "LISTEN_FDS", "NOTIFY_SOCKET"] {
        command.env_remove(variable);
    }
    command
}

/// Runs the program until it ends: exit code, what it wrote to standard output and standard error.
pub fn run(arguments: &[&str]) -> (i32, String) {
    let mut child = command().args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let read = |mut from: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(Box::new(child.stdout.take().unwrap()));
    let stderr = read(Box::new(child.stderr.take().unwrap()));
    let status = wait(&mut child, START);
    let _ = child.kill();
    let _ = child.wait();
    let text = stdout.join().unwrap() + &stderr.join().unwrap();
    let status = status.unwrap_or_else(|| panic!("{arguments:?} does not end\n{text}"));
    (status.code().unwrap_or(-1), text)
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let mut status = None;
    wait_until(patience, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status
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
        thread::sleep(Duration::from_millis(1));
    }
}

impl Server {
    /// Not started yet.
    pub fn new() -> Server {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let log = directory.path().join("events.log");
        Server { port: free_port(), directory, state, log, running: None, last: String::new() }
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
        command
    }

    /// Does not wait until it is ready.
    pub fn spawn(&mut self, extra: &[&str]) {
        assert!(self.running.is_none());
        let since = Instant::now();
        let mut child = self.serve(extra).spawn().unwrap();
        let pipe = child.stderr.take().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&stderr);
        let (sender, ready) = channel();
        let reader = thread::spawn(move || {
            let mut from = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(from.read_until(b'\n', &mut line), Ok(1..)) {
                let read = String::from_utf8_lossy(&line).into_owned();
                line.clear();
                sink.lock().unwrap().push_str(&read);
                if read.starts_with("nat64handoff: serving") {
                    let _ = sender.send(());
                }
            }
        });
        self.running = Some(Running { child, stderr, ready, reader, since });
    }

    /// How long after the spawn it was ready.
    pub fn wait_ready(&mut self) -> Duration {
        let running = self.running.as_mut().expect("spawned");
        let ready = running.ready.recv_timeout(START);
        let took = running.since.elapsed();
        if ready.is_err() {
            let status = running.child.try_wait().unwrap();
            panic!("the server does not start ({status:?}):\n{}", self.stderr());
        }
        took
    }

    pub fn start(&mut self, extra: &[&str]) -> Duration {
        self.spawn(extra);
        self.wait_ready()
    }

    /// Starts a server that must refuse: exit code 1 and one line, which is returned.
    pub fn refuses(&mut self, extra: &[&str]) -> String {
        self.spawn(extra);
        let mut running = self.running.take().unwrap();
        let status = wait(&mut running.child, START);
        let _ = running.child.kill();
        let _ = running.child.wait();
        let _ = running.reader.join();
        self.last = running.stderr.lock().unwrap().clone();
        let status = status.unwrap_or_else(|| panic!("it runs, and must not:\n{}", self.last));
        assert_eq!(status.code(), Some(1), "exit code; it said:\n{}", self.last);
        let lines: Vec<_> = self.last.lines().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 1, "one line must say why:\n{}", self.last);
        lines[0].to_string()
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("running").child.id()
    }

    pub fn signal(&mut self, signal: i32) {
        let running = self.running.as_mut().expect("running");
        let early = running.child.try_wait().unwrap();
        assert_eq!(early, None, "the server ended by itself:\n{}", self.stderr());
        // SAFETY: kill has no memory effects; the child is not reaped yet, so the number is its own.
        let result = unsafe { libc::kill(self.pid() as i32, signal) };
        assert_eq!(result, 0);
    }

    fn end(&mut self, signal: i32) -> ExitStatus {
        self.signal(signal);
        let mut running = self.running.take().unwrap();
        let status = wait(&mut running.child, START);
        if status.is_none() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        let _ = running.reader.join();
        self.last = running.stderr.lock().unwrap().clone();
        status.unwrap_or_else(|| panic!("still running after signal {signal}:\n{}", self.last))
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
            Some(running) => running.stderr.lock().unwrap().clone(),
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
        if thread::panicking() {
            println!("the server on port {} said:\n{}", self.port, self.stderr());
        }
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

/// Random choices (splitmix64).
pub struct Dice(u64);

impl Dice {
    /// Prints the seed: cargo shows it when the test fails.
    pub fn new(test: &str) -> Dice {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = match std::env::var("NAT64HANDOFF_SEED") {
            Ok(seed) => seed.parse().expect("NAT64HANDOFF_SEED is a number"),
            Err(_) => now.as_nanos() as u64,
        };
        println!("{test}: NAT64HANDOFF_SEED={seed}");
        Dice(seed)
    }

    /// Another one, that depends on this one's seed.
    pub fn fork(&mut self) -> Dice {
        Dice(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than the limit.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below((to - from) as usize) as u64
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}
