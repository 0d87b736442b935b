//! What is measured, as processes: the server, and the echoes that it is compared with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// CPU time by thread.
pub type Cpu = BTreeMap<String, Duration>;

/// A process that answers. It ends with this.
pub struct Process {
    child: Child,
    pub address: SocketAddrV4,
    /// Its state, log and messages.
    directory: TempDir,
}

/// Runs what is appended on the first `count` cores. It does not outlive this process, however that ends: a server
/// that nobody asks any more would keep its port, and whatever it has inherited, for ever.
fn on_cores(count: usize) -> Command {
    let mut command = Command::new("setpriv");
    let cores = format!("0-{}", count - 1);
    command.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &cores]);
    command
}

impl Process {
    /// `nat64handoff serve`, with so many reactors, on so many cores.
    pub fn server(reactors: usize, options: &[&str]) -> Process {
        let mut command = on_cores(reactors);
        command
            .args([env!("CARGO_BIN_EXE_nat64handoff"), "serve"])
            .args(["--reactors", &reactors.to_string()]);
        Process::start(command, |command, address, directory| {
            command
                .args(["--listen", &address.to_string()])
                .arg("--state")
                .arg(directory.join("state"))
                .arg("--log")
                .arg(directory.join("events.log"))
                .args(options);
        })
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

    /// What each of its threads has used so far.
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

    /// What each of its threads has used since `before`.
    pub fn cpu_since(&self, before: &Cpu) -> Cpu {
        let since = |(name, cpu): (String, Duration)| {
            let cpu = cpu.saturating_sub(before.get(&name).copied().unwrap_or_default());
            (name, cpu)
        };
        self.cpu().into_iter().map(since).collect()
    }

    /// How many datagrams its sockets had no room for.
    pub fn socket_drops(&self) -> u64 {
        let local = format!(":{:04X} ", self.address.port());
        let sockets = fs::read_to_string("/proc/net/udp").unwrap();
        sockets
            .lines()
            .filter(|line| line.contains(&local))
            .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
            .sum()
    }

    /// What it had to say.
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

/// A port that nobody has now, beyond those that the system gives by itself.
fn free_port() -> u16 {
    (62_000..64_000)
        .find(|&port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
        .expect("a free port")
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
