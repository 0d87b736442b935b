//! What the history of a long log costs, and what it is good for: `cargo bench --bench history --
//! [LINES] [FOLDER]` (default: 10 million lines, in a folder for temporary files). `--keep` leaves
//! history and questions in FOLDER, and `--ask-only` asks them there.
//!
//! A log is generated a day at a time, of 33 million lines at most, made into history by one
//! thread, and removed: so it needs room for two days of the log, and the history. 16 NAT64s have
//! nearly all their ports in use: each new client gets the port of another one, which is two lines;
//! one port in 64 is nobody's for a while. A NAT64 has 12,500 devices, each with a /64, an
//! interface identifier for the day, and any port. Some ports are used in the first second alone,
//! and some from then on by one client.
//!
//! Then `who` is asked, each time as a new process, about times of all of the log; each answer is
//! compared with what was generated. Cold: without any octet of the history in the page cache.
//! `zgrep` looks for one port in the last day alone, compressed by gzip.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use nat64handoff::disk::history::{Building, Due, HistoryPlace};
use nat64handoff::handoff::change::{Event, EventKind, LogFormat, Timestamp};
use nat64handoff::handoff::entry::{Client, MappedPort, TableKey};
use nat64handoff::handoff::line::LineWriter;
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;
use rustix::fs::{Advice, fadvise};

/// The most lines of a day: with 30 of them, it is a thousand million.
const DAY_LINES: u64 = 33_333_334;
const DAY_MICROS: u64 = 24 * 3600 * 1_000_000;
/// 2026-01-01
const BEGIN: u64 = 1_767_225_600_000_000;
const NAT64S: u64 = 16;
const FIRST_PORT: u64 = 1024;
const PORTS: u64 = 64_508;
const DEVICES: u64 = 12_500;
/// One port of so many is nobody's for a while when its client is gone.
const FREE_SHARE: u64 = 64;
/// Questions of a kind.
const ASKED: usize = 60;
/// Two NAT64s whose ports are used once: for a second, and for ever.
const RARE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const LONG: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);

fn main() {
    let (switches, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with('-'));
    let has = |switch: &str| switches.iter().any(|word| word == switch);
    let lines: u64 = words.first().map_or(10_000_000, |lines| lines.parse().expect("a number"));
    let temporary = tempfile::tempdir().unwrap();
    let folder = words.get(1).map_or(temporary.path().to_owned(), PathBuf::from);
    fs::create_dir_all(&folder).unwrap();
    let (log, questions) = (folder.join("events.log"), folder.join("questions"));
    if !has("--ask-only") {
        let days = lines.div_ceil(DAY_LINES);
        let mut world = World::new(log.clone(), lines / days);
        build(&mut world, days, &folder.join("history"));
        let text: Vec<_> = world.questions(days).iter().map(ToString::to_string).collect();
        fs::write(&questions, text.join("\n")).unwrap();
        compress(&world);
    }
    let asked = fs::read_to_string(&questions).unwrap();
    let asked: Vec<_> = asked.lines().map(|line| line.parse::<Question>().unwrap()).collect();
    ask_all(&log, &folder.join("history"), &asked);
    zgrep(&log, &asked[0], lines);
    if !has("--keep") && !has("--ask-only") {
        fs::remove_dir_all(folder.join("history")).unwrap();
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with("events.log") || name == "questions" {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

fn build(world: &mut World, days: u64, history: &Path) {
    let place = HistoryPlace::new(history.to_owned(), world.log.clone());
    let (mut cpu, mut wall, mut rows, mut octets, mut files) = (0.0, 0.0, 0, 0, 0);
    for day in 0..days {
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
        if day + 1 < days {
            former.map(fs::remove_file).transpose().unwrap();
        }
        eprintln!(
            "day {}: {:.2} million lines a second of CPU",
            day + 1,
            world.lines as f64 / 1e6 / cpu
        );
    }
    println!(
        "log: {} lines, {:.1} GB of text, {days} days",
        world.lines,
        world.octets as f64 / 1e9
    );
    println!(
        "history: {files} files, {rows} rows, {:.2} GB: {:.1} octets a row, {:.1} octets a line",
        octets as f64 / 1e9,
        octets as f64 / rows as f64,
        octets as f64 / world.lines as f64
    );
    let lines = world.lines as f64 / 1e6;
    println!(
        "built on one core: {:.2} million lines a second of CPU, {:.2} of wall time; {} MiB of memory at most",
        lines / cpu,
        lines / wall,
        peak_memory()
    );
}

/// NAT64s with all their clients, and the log that they make.
struct World {
    log: PathBuf,
    lines: u64,
    octets: u64,
    per_day: u64,
    random: u64,
    /// The client of each port, or the last one, and since when it is that client's, or nobody's.
    holders: Vec<Holder>,
    samples: [Vec<Question>; 2],
}

struct Holder {
    client: Client,
    since: u64,
    is_free: bool,
}

/// What is asked about a port at a time.
#[derive(Debug, Clone)]
struct Question {
    kind: String,
    nat64: Ipv4Addr,
    port: u16,
    at: u64,
    client: Ipv6Addr,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, nat64, port, at, client } = self;
        write!(f, "{kind} {nat64} {port} {at} {client}")
    }
}

impl FromStr for Question {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<_> = text.split(' ').collect();
        let [kind, nat64, port, at, client] = words[..] else { return Err(()) };
        Ok(Self {
            kind: kind.to_owned(),
            nat64: nat64.parse().map_err(|_| ())?,
            port: port.parse().map_err(|_| ())?,
            at: at.parse().map_err(|_| ())?,
            client: client.parse().map_err(|_| ())?,
        })
    }
}

fn nat64(index: u64) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 1 + (index / PORTS) as u8)
}

fn port(index: u64) -> u16 {
    (FIRST_PORT + index % PORTS) as u16
}

impl World {
    fn new(log: PathBuf, per_day: u64) -> Self {
        File::create(&log).unwrap();
        let random = 0x9e37_79b9_7f4a_7c15;
        let (holders, samples) = (Vec::new(), [Vec::new(), Vec::new()]);
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
        let mut write = |at: u64, nat64: Ipv4Addr, kind: EventKind| {
            line.clear();
            let table = TableKey { local: Ipv4Addr::new(203, 0, 113, 5), nat64 };
            let event = Event { at: Timestamp::from_micros(at), table, kind };
            writer.append(&mut line, &event, LogFormat::Plain);
            line.push('\n');
            file.write_all(line.as_bytes()).unwrap();
            line.len() as u64
        };
        let begin = BEGIN + day * DAY_MICROS;
        for port in (0..ASKED as u16).filter(|_| day == 0) {
            let port = MappedPort(2000 + port);
            let client = once(port.0);
            self.octets += write(begin, RARE, EventKind::Created { port, client });
            self.octets += write(begin, LONG, EventKind::Created { port, client });
            self.octets += write(begin + 1, RARE, EventKind::Deleted { port, client });
            count += 3;
        }
        while count < self.per_day {
            let at = begin
                + 2
                + (u128::from(DAY_MICROS - 2) * u128::from(count) / u128::from(self.per_day))
                    as u64;
            let used = self.holders.len() as u64;
            // Ports come into use one after another, and then one for another.
            let index = if used < NAT64S * PORTS { used } else { self.random(used) };
            let client = self.client(index, day);
            let (nat64, port) = (nat64(index), MappedPort(port(index)));
            let mut holder = Holder { client, since: at, is_free: false };
            match self.holders.get(index as usize) {
                Some(&Holder { client: before, since, is_free }) => {
                    self.sample(usize::from(is_free), index, before.address, since, at);
                    if !is_free {
                        let deleted = EventKind::Deleted { port, client: before };
                        self.octets += write(at, nat64, deleted);
                        count += 1;
                        if index % FREE_SHARE == 0 {
                            holder = Holder { client: before, since: at, is_free: true };
                        }
                    }
                    self.holders[index as usize] = holder;
                }
                None => self.holders.push(holder),
            }
            if !self.holders[index as usize].is_free {
                self.octets += write(at, nat64, EventKind::Created { port, client });
                count += 1;
            }
        }
        self.lines += count;
        file.flush().unwrap();
        former
    }

    /// Keeps some of those that ended, from all of the time.
    fn sample(&mut self, kind: usize, index: u64, client: Ipv6Addr, since: u64, until: u64) {
        if until <= since + 1 {
            return;
        }
        let sampled = Question {
            kind: ["used", "free"][kind].to_owned(),
            nat64: nat64(index),
            port: port(index),
            at: since + (until - since) / 2,
            client,
        };
        if self.samples[kind].len() < ASKED {
            return self.samples[kind].push(sampled);
        }
        let all = self.lines.max(self.per_day) / [1, FREE_SHARE][kind];
        if self.random(all) < ASKED as u64 {
            let place = self.random(ASKED as u64) as usize;
            self.samples[kind][place] = sampled;
        }
    }

    fn questions(&mut self, days: u64) -> Vec<Question> {
        let mut all: Vec<_> = self.samples.iter().flatten().cloned().collect();
        let clients = self.samples[0].iter().cloned();
        all.extend(clients.map(|asked| Question { kind: "client".to_owned(), ..asked }));
        for port in 0..ASKED as u16 {
            let (kind, at) = (String::new(), BEGIN + 2 + self.random(days * DAY_MICROS - 2));
            let client = once(2000 + port).address;
            let asked = Question { kind, nat64: RARE, port: 2000 + port, at, client };
            all.push(Question { kind: "rare".to_owned(), ..asked.clone() });
            all.push(Question { kind: "long".to_owned(), nat64: LONG, ..asked.clone() });
            let nat64 = nat64(u64::from(port) % NAT64S * PORTS);
            all.push(Question { kind: "never".to_owned(), nat64, port, ..asked.clone() });
            let client = Ipv6Addr::from_bits(client.to_bits() + 1);
            all.push(Question { kind: "unknown".to_owned(), client, ..asked });
        }
        all
    }
}

/// The client of a port that is used once.
fn once(port: u16) -> Client {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, port, 0, 0, 0, 1);
    Client { prefix: WELL_KNOWN_PREFIX, address, port }
}

fn ask_all(log: &Path, history: &Path, all: &[Question]) {
    for (kind, what) in [
        ("used", "who had a port"),
        ("free", "a port that was nobody's for a while"),
        ("rare", "a port that was used long before"),
        ("never", "a port that never was used"),
        ("long", "a port with one client for all the time"),
        ("client", "which ports a client had then"),
        ("unknown", "which ports somebody had then who never had one"),
    ] {
        for (name, cold) in [("cold", true), ("warm", false)] {
            let asked = all.iter().filter(|asked| asked.kind == kind);
            let mut times: Vec<_> = asked.map(|asked| ask(log, history, asked, cold)).collect();
            times.sort_unstable();
            let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
            println!("{what}, {name}: median {median:.1?}, worst {worst:.1?} of {}", times.len());
        }
    }
    let client = all[all.len() / 2].client.to_string();
    for (name, cold) in [("cold", true), ("warm", false)] {
        let (took, answer) = who(log, history, &[&client], cold);
        println!(
            "which ports {client} had at any time, {name}: {} of them in {took:.1?}",
            answer.lines().count()
        );
    }
}

fn ask(log: &Path, history: &Path, asked: &Question, cold: bool) -> Duration {
    let Question { kind, nat64, port, at, client } = asked;
    let at = Timestamp::from_micros(*at).to_string();
    let (port, client) = (format!("{nat64}:{port}"), client.to_string());
    let is_of_client = matches!(kind.as_str(), "client" | "unknown");
    let who_asked = if is_of_client { &client } else { &port };
    let (took, answer) = who(log, history, &[who_asked, "--at", &at], cold);
    let nobody = format!("{who_asked}: nobody ");
    let is_right = match kind.as_str() {
        "used" | "long" => answer.starts_with(&format!("{client} port ")),
        "free" | "rare" => {
            answer.starts_with(&nobody) && answer.contains(&format!("  before: {client} port "))
        }
        "client" => answer.contains(&format!("{port} was {client} port ")),
        _ => answer.starts_with(&nobody) && answer.lines().count() == 1,
    };
    assert!(is_right, "{asked}: {answer}");
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
fn compress(world: &World) {
    let status = Command::new("gzip").args(["-kf", "-6"]).arg(&world.log).status().unwrap();
    assert!(status.success());
    let octets = fs::metadata(compressed(&world.log)).unwrap().len();
    println!("compressed by gzip: {:.1} octets a line", octets as f64 / world.per_day as f64);
}

fn compressed(log: &Path) -> PathBuf {
    PathBuf::from(format!("{}.gz", log.display()))
}

fn zgrep(log: &Path, asked: &Question, lines: u64) {
    let days = lines.div_ceil(DAY_LINES);
    let begin = Instant::now();
    let needle = format!(" {}:{} ", asked.nat64, asked.port);
    let output = Command::new("zgrep").args(["-F", &needle]).arg(compressed(log)).output().unwrap();
    let took = begin.elapsed();
    println!(
        "zgrep, one of the {days} days: {} lines in {took:.1?}; of all days it would be {:.1?}",
        String::from_utf8_lossy(&output.stdout).lines().count(),
        took * days as u32
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
