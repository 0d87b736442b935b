//! What the history of a long log costs, and what it is good for: `cargo bench --bench history --
//! [LINES] [FOLDER]` (default: 10 million lines, in a folder for temporary files).
//!
//! A log of 30 days is generated a day at a time, made into history by one thread, and removed: so
//! it needs room for two days of the log, and the history. 16 NAT64s have all their ports in use:
//! each new client gets the port of another one, which is two lines. A NAT64 has 12,500 devices,
//! each with a /64, an interface identifier for the day, and any port.
//!
//! Then `who` is asked, each time as a new process, who had some port at some time of all 30 days;
//! each answer is compared with what was generated. Cold: without any octet of the history in the
//! page cache. `zgrep` looks for the same in the last day alone, compressed by gzip.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nat64handoff::disk::history::{Building, Due, HistoryPlace};
use nat64handoff::handoff::change::{Event, EventKind, LogFormat, Timestamp};
use nat64handoff::handoff::entry::{Client, MappedPort, TableKey};
use nat64handoff::handoff::line::LineWriter;
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;
use rustix::fs::{Advice, fadvise};

const DAYS: u64 = 30;
const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;
/// 2026-01-01
const BEGIN: u64 = 1_767_225_600_000_000;
const NAT64S: u64 = 16;
const FIRST_PORT: u64 = 1024;
const PORTS: u64 = 64_508;
const DEVICES: u64 = 12_500;
/// Questions.
const ASKED: usize = 60;

fn main() {
    let words = std::env::args().skip(1).filter(|word| !word.starts_with('-'));
    let words: Vec<String> = words.collect();
    let lines = words.first().map_or(10_000_000, |lines| lines.parse().expect("a number"));
    let temporary = tempfile::tempdir().unwrap();
    let folder = words.get(1).map_or(temporary.path().to_owned(), PathBuf::from);
    let mut world = World::new(folder.join("events.log"), lines);
    let history = folder.join("history");
    let place = HistoryPlace::new(history.clone(), world.log.clone());
    let (mut cpu, mut wall, mut rows, mut octets, mut files) = (0.0, 0.0, 0, 0, 0);
    for day in 0..DAYS {
        let former = world.day(day);
        let (begin, begin_cpu) = (Instant::now(), cpu_now());
        let building = Building {
            place: &place,
            due: Due::Now,
            lines_max: None,
            stop: &|| false,
            progress: &|_, _| (),
        };
        let built = building.build().unwrap();
        assert_eq!(built.gap, None);
        wall += begin.elapsed().as_secs_f64();
        cpu += (cpu_now() - begin_cpu).as_secs_f64();
        (rows, octets, files) = (rows + built.rows, octets + built.octets, files + built.files);
        if day + 1 < DAYS {
            former.map(fs::remove_file).transpose().unwrap();
        }
    }
    let per_second = world.lines as f64 / 1e6;
    println!(
        "log: {} lines, {:.1} GB of text, {DAYS} days",
        world.lines,
        world.octets as f64 / 1e9
    );
    println!(
        "history: {files} files, {rows} rows, {:.2} GB: {:.1} octets a row, {:.1} octets a line",
        octets as f64 / 1e9,
        octets as f64 / rows as f64,
        octets as f64 / world.lines as f64
    );
    println!(
        "built on one core: {:.2} million lines a second of CPU, {:.2} of wall time; {} MiB of memory at most",
        per_second / cpu,
        per_second / wall,
        peak_memory()
    );
    let asked = std::mem::take(&mut world.samples);
    for (name, cold) in [("cold", true), ("warm", false)] {
        let mut times: Vec<_> =
            asked.iter().map(|asked| ask(&world.log, &history, asked, cold)).collect();
        times.sort_unstable();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "who had a port, {name}: median {median:.1?}, worst {worst:.1?} of {}",
            times.len()
        );
    }
    let client = asked[asked.len() / 2].client.to_string();
    for (name, cold) in [("cold", true), ("warm", false)] {
        let (took, answer) = who(&world.log, &history, &[&client], cold);
        println!(
            "which ports {client} had, {name}: {} of them in {took:.1?}",
            answer.lines().count()
        );
    }
    zgrep(&world, asked.last().expect("there are questions"));
}

/// A NAT64 with all its clients, and the log that they make.
struct World {
    log: PathBuf,
    lines: u64,
    octets: u64,
    per_day: u64,
    random: u64,
    /// The client of each port, with the time since which it has it.
    holders: Vec<(Client, u64)>,
    samples: Vec<Question>,
}

/// Who had a port at a time.
struct Question {
    nat64: Ipv4Addr,
    port: u16,
    at: u64,
    client: Ipv6Addr,
}

fn nat64(index: u64) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + (index / PORTS) as u8)
}

fn port(index: u64) -> u16 {
    (FIRST_PORT + index % PORTS) as u16
}

impl World {
    fn new(log: PathBuf, lines: u64) -> Self {
        let (per_day, random) = (lines / DAYS, 0x9e37_79b9_7f4a_7c15);
        File::create(&log).unwrap();
        let (holders, samples) = (Vec::new(), Vec::new());
        Self { log, lines: 0, octets: 0, per_day, random, holders, samples }
    }

    /// Below `bound`.
    fn random(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((u128::from(self.random) * u128::from(bound)) >> 64) as u64
    }

    fn client(&mut self, index: u64, day: u64) -> Client {
        let device = index / PORTS * DEVICES + self.random(DEVICES);
        let mixed = (device << 16 | day).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let interface = mixed ^ (mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let network = 0x2001_0db8 << 96 | u128::from(device) << 64;
        let address = Ipv6Addr::from_bits(network | u128::from(interface));
        Client { prefix: WELL_KNOWN_PREFIX, address, port: 32_768 + self.random(28_232) as u16 }
    }

    /// Puts the log aside, whose new name is returned, and writes a day.
    fn day(&mut self, day: u64) -> Option<PathBuf> {
        let former = (day > 0).then(|| {
            let at = Timestamp::from_micros(BEGIN + (day - 1) * DAY_MICROS).to_string();
            let digits: String = at[..10].chars().filter(char::is_ascii_digit).collect();
            let former = PathBuf::from(format!("{}-{digits}", self.log.display()));
            fs::rename(&self.log, &former).unwrap();
            former
        });
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&self.log).unwrap());
        let (mut writer, mut line, mut count) = (LineWriter::default(), String::new(), 0);
        let begin = BEGIN + day * DAY_MICROS;
        while count < self.per_day {
            let at = begin
                + (u128::from(DAY_MICROS) * u128::from(count) / u128::from(self.per_day)) as u64;
            let used = self.holders.len() as u64;
            // Ports come into use one after another, and then one for another.
            let index = if used < NAT64S * PORTS { used } else { self.random(used) };
            let client = self.client(index, day);
            let table = TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64: nat64(index) };
            let port = MappedPort(port(index));
            let mut kinds = vec![EventKind::Created { port, client }];
            if let Some((before, since)) = self.holders.get(index as usize).copied() {
                kinds.insert(0, EventKind::Deleted { port, client: before });
                self.sample(index, before.address, since, at);
                self.holders[index as usize] = (client, at);
            } else {
                self.holders.push((client, at));
            }
            for kind in kinds {
                line.clear();
                let at = Timestamp::from_micros(at);
                writer.append(&mut line, &Event { at, table, kind }, LogFormat::Plain);
                line.push('\n');
                file.write_all(line.as_bytes()).unwrap();
                self.octets += line.len() as u64;
                count += 1;
            }
        }
        self.lines += count;
        file.flush().unwrap();
        former
    }

    /// Keeps some of those that ended, from all of the time.
    fn sample(&mut self, index: u64, client: Ipv6Addr, since: u64, until: u64) {
        let sampled = Question {
            nat64: nat64(index),
            port: port(index),
            at: since + (until - since) / 2,
            client,
        };
        if until <= since + 1 {
            return;
        }
        if self.samples.len() < ASKED {
            return self.samples.push(sampled);
        }
        let lines = self.lines.max(self.per_day);
        if self.random(lines) < ASKED as u64 {
            let place = self.random(ASKED as u64) as usize;
            self.samples[place] = sampled;
        }
    }
}

fn ask(log: &Path, history: &Path, asked: &Question, cold: bool) -> Duration {
    let Question { nat64, port, at, client } = asked;
    let at = Timestamp::from_micros(*at).to_string();
    let (took, answer) = who(log, history, &[&format!("{nat64}:{port}"), "--at", &at], cold);
    assert!(
        answer.starts_with(&format!("{client} port ")),
        "{nat64}:{port} {at} {client}: {answer}"
    );
    took
}

/// The answer of a process, and how long it took.
fn who(log: &Path, history: &Path, arguments: &[&str], cold: bool) -> (Duration, String) {
    if cold {
        for folder in ["held", "conflicts"] {
            for file in fs::read_dir(history.join(folder)).unwrap() {
                let file = File::open(file.unwrap().path()).unwrap();
                fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            }
        }
    }
    let begin = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_nat64handoff"))
        .arg("who")
        .args(arguments)
        .args(["--log".as_ref(), log.as_os_str()])
        .output()
        .unwrap();
    let took = begin.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (took, String::from_utf8(output.stdout).unwrap())
}

/// The last day alone, as it stands on the disk a day later.
fn zgrep(world: &World, asked: &Question) {
    let status = Command::new("gzip").args(["-kf", "-6"]).arg(&world.log).status().unwrap();
    assert!(status.success());
    let compressed = PathBuf::from(format!("{}.gz", world.log.display()));
    let begin = Instant::now();
    let needle = format!(" {}:{} ", asked.nat64, asked.port);
    let output = Command::new("zgrep").args(["-F", &needle]).arg(&compressed).output().unwrap();
    let took = begin.elapsed();
    println!(
        "zgrep, one of the {DAYS} days, warm: {} lines in {took:.1?}; {:.1} octets a line when compressed",
        String::from_utf8_lossy(&output.stdout).lines().count(),
        compressed.metadata().unwrap().len() as f64 / world.per_day as f64
    );
}

/// CPU of this thread, the kernel's included.
fn cpu_now() -> Duration {
    let times = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
