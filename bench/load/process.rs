//! What is measured, as processes: the server, and the echoes that it is compared with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::PipeReader;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The longest time that a server may take to end.
const STOP_MAX: Duration = Duration::from_secs(5);

/// CPU time by thread.
pub type Cpu = BTreeMap<String, Duration>;

/// A process that answers. It is killed when this is dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddrV4,
    /// With its state, log and messages.
    directory: TempDir,
}

/// A command that runs what is appended to it on the first `count` cores. It is killed when this
/// process ends in any way: a server that is left over would keep its port, and what it inherited,
/// for ever.
pub fn on_cores(count: usize) -> Command {
    let mut command = Command::new("setpriv");
    let cores = format!("0-{}", count - 1);
    command.args(["--pdeathsig", "KILL"]);
    command.args(["taskset", "--cpu-list", &cores]);
    command
}

/// `nat64handoff serve`, but for the log.
fn serve<'a>(
    command: &'a mut Command,
    reactors: usize,
    address: SocketAddrV4,
    directory: &Path,
) -> &'a mut Command {
    command
        .args([env!("CARGO_BIN_EXE_nat64handoff"), "serve"])
        .args(["--reactors", &reactors.to_string()])
        .args(["--listen", &address.to_string()])
        .arg("--state")
        .arg(directory.join("state"))
}

impl Process {
    /// `nat64handoff serve`, with this number of reactors, each on a core of its own.
    pub fn server(reactors: usize, options: &[&str]) -> Process {
        Process::unlimited(on_cores(reactors), reactors, options)
    }

    /// The same with one reactor, and its memory in small pages: where it grows, what the kernel
    /// takes for huge ones differs from run to run by more than what is looked for.
    pub fn in_small_pages(options: &[&str]) -> Process {
        let mut command = on_cores(1);
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0");
        Process::unlimited(command, 1, options)
    }

    /// New clients are measured, not limited.
    fn unlimited(command: Command, reactors: usize, options: &[&str]) -> Process {
        let options = [&["--create-rate", "10000000"][..], options].concat();
        Process::start(command, |command, address, directory| {
            serve(command, reactors, address, directory)
                .arg("--log")
                .arg(directory.join("events.log"))
                .args(options);
        })
    }

    /// The same with its own limits, but for these options, one reactor, and its log in a file.
    pub fn limited(options: &[&str]) -> Process {
        Process::start(on_cores(1), |command, address, directory| {
            serve(command, 1, address, directory)
                .arg("--log")
                .arg(directory.join("events.log"))
                .args(options);
        })
    }

    /// The same, with its log on a standard output that nobody reads: the other end of it.
    pub fn unread() -> (Process, PipeReader) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let process = Process::start(on_cores(1), |command, address, directory| {
            serve(command, 1, address, directory).args(["--log", "-"]).stdout(writer);
        });
        (process, reader)
    }

    /// This program again, as an echo of that name: see `echo`.
    pub fn echo(name: &str) -> Process {
        let mut command = on_cores(1);
        command.arg(std::env::current_exe().unwrap());
        Process::start(command, |command, address, _| {
            command.args(["echo", name, &address.to_string()]);
        })
    }

    fn start(
        mut command: Command,
        complete: impl FnOnce(&mut Command, SocketAddrV4, &Path),
    ) -> Process {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port());
        complete(&mut command, address, directory.path());
        let child = command
            .stdin(Stdio::null())
            .stderr(File::create(directory.path().join("stderr")).unwrap())
            .spawn()
            .expect("setpriv");
        Process { child, address, directory }
    }

    /// Its log, where that is a file.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("events.log")
    }

    /// The CPU time of each of its threads so far.
    pub fn cpu(&self) -> Cpu {
        let mut threads = Cpu::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let path = thread.unwrap().path();
            // It may just have ended.
            let (Ok(name), Ok(times)) =
                (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
            else {
                continue;
            };
            let nanoseconds = times.split(' ').next().unwrap().parse().unwrap();
            *threads.entry(name.trim().to_owned()).or_default() +=
                Duration::from_nanos(nanoseconds);
        }
        threads
    }

    /// The CPU time of each of its threads since `before`.
    pub fn cpu_since(&self, before: &Cpu) -> Cpu {
        let since = |(name, cpu): (String, Duration)| {
            let cpu = cpu.saturating_sub(before.get(&name).copied().unwrap_or_default());
            (name, cpu)
        };
        self.cpu().into_iter().map(since).collect()
    }

    /// Gives its reactors a real-time priority, and this thread too.
    pub fn prefer_reactors(&self) {
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let thread = thread.unwrap();
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if name.starts_with("reactor") {
                prefer(&thread.file_name().to_string_lossy());
            }
        }
        prefer(&std::process::id().to_string());
    }

    /// Datagrams that its sockets had no room for.
    pub fn socket_drops(&self) -> u64 {
        sockets(self.address.port()).map(|socket| socket.drops).sum()
    }

    /// Its resident memory now, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).expect("VmRSS")
    }

    /// Ends the server and returns what it counted, or `None` if it did not say so in time.
    pub fn stop(mut self) -> Option<Totals> {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args(["-s", "TERM", &id]).status();
        assert!(asked.expect("kill").success(), "kill");
        let end = Instant::now() + STOP_MAX;
        while self.child.try_wait().expect("a child").is_none() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        Totals::parse(&self.messages())
    }

    /// How many lines of its log have this in them so far.
    pub fn log_lines(&self, part: &str) -> usize {
        let log = fs::read_to_string(self.log());
        log.unwrap_or_default().lines().filter(|line| line.contains(part)).count()
    }

    /// Its messages.
    pub fn messages(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The totals that a server prints when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Totals {
    pub datagrams: u64,
    pub replies: u64,
    pub drops: u64,
}

impl Totals {
    /// Of `... 16 NAT64s, 100 datagrams, 90 replies, 10 drops, 4 log lines`
    fn parse(messages: &str) -> Option<Totals> {
        let line = messages.lines().find(|line| line.contains("stopped: "))?;
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let count = |name| words.windows(2).find(|pair| pair[1] == name)?[0].parse().ok();
        Some(Totals {
            datagrams: count("datagrams")?,
            replies: count("replies")?,
            drops: count("drops")?,
        })
    }

    /// The datagrams that the kernel dropped: each of the others was answered, or dropped for
    /// another reason.
    pub fn socket_full(self) -> u64 {
        (self.drops + self.replies).saturating_sub(self.datagrams)
    }
}

/// A UDP socket of this host, as the kernel describes it.
pub struct Socket {
    /// Octets of memory that its queue takes.
    pub queued: u64,
    pub drops: u64,
}

/// The sockets with this local port.
pub fn sockets(port: u16) -> impl Iterator<Item = Socket> {
    let local = format!(":{port:04X}");
    let all = fs::read_to_string("/proc/net/udp").expect("/proc/net/udp");
    let its = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // `sl local remote st tx_queue:rx_queue ...`, numbers of the fifth in hexadecimal.
        let queued = u64::from_str_radix(words.get(4)?.split_once(':')?.1, 16).ok()?;
        words[1].ends_with(&local).then_some(())?;
        Some(Socket { queued, drops: words.last()?.parse().ok()? })
    };
    all.lines().filter_map(its).collect::<Vec<_>>().into_iter()
}

/// A free port, outside the ephemeral range.
pub fn free_port() -> u16 {
    (62_000..64_000)
        .find(|&port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("a free port")
}

fn prefer(thread: &str) {
    let status = Command::new("chrt").args(["--fifo", "--pid", "20", thread]).status();
    assert!(status.expect("chrt").success(), "chrt, for root");
}

/// Keeps this thread, and those that it starts, on one core: the last one, away from the server's.
pub fn pin_to_last_core() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let id = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["--pid", "--cpu-list", &(cores - 1).to_string(), &id])
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("taskset").success(), "taskset");
    cores
}
