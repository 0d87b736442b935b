//! What it costs to record a new entry: `cargo bench --bench record`.
//!
//! `journal`: [`JournalWriter::append`] to a file, in batches of the size that a reactor has. An
//! entry is a `Created` and an `AuthenticatorLearned`; with "evicting", a `Deleted` before them.
//!
//! `log`: the event log to a file, one line an entry. Between two entries, the sender does other
//! work for [`PACE`], as a reactor would. The logger's CPU is that of its thread; the sender's is
//! the time that it spends on sending, waking the logger and waiting for it.
//!
//! Names of parts as arguments run only those. Figures are nanoseconds of CPU an entry (a line),
//! the kernel's included; medians of `BENCH_ROUNDS` (default 7).

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nat64handoff::disk::eventlog::{Destination, EventLog, LogConfig, LogSync};
use nat64handoff::disk::fs::RealDisk;
use nat64handoff::disk::storage::{JournalWriter, Storage, StorageConfig, SyncPolicy};
use nat64handoff::handoff::change::{Change, Event, EventKind, LogFormat, Timestamp};
use nat64handoff::handoff::entry::{Client, MappedPort, TableKey};
use nat64handoff::handoff::opaque::Authenticator;
use nat64handoff::handoff::stats::Stats;
use nat64handoff::kernel::clock::Clock;
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;

/// Entries of each round.
const ENTRIES: u64 = 1 << 17;
const BATCHES: [usize; 5] = [1, 16, 32, 64, 256];
/// The time that a reactor spends on an entry besides the log.
const PACE: Duration = Duration::from_micros(3);
const INTERVAL: Duration = Duration::from_millis(100);

fn main() {
    // Arguments that begin with a hyphen are what cargo passes on.
    let parts: Vec<String> =
        std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| part == name);
    let rounds = std::env::var("BENCH_ROUNDS").map_or(7, |text| text.parse().expect("a number"));
    if wanted("journal") {
        journal(rounds);
    }
    if wanted("log") {
        log(rounds);
    }
}

fn table(number: u64) -> TableKey {
    let nat64 = Ipv4Addr::new(127, 1, 0, 1 + (number % 16) as u8);
    TableKey { local: Ipv4Addr::LOCALHOST, nat64 }
}

/// Each in a /64 of its own, with an interface identifier that has no zeros to leave out.
fn client(number: u64) -> Client {
    let network = 0x2001_0db8 << 96 | u128::from(number) << 64;
    let interface = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let address = Ipv6Addr::from_bits(network | interface);
    Client { prefix: WELL_KNOWN_PREFIX, address, port: 40_000 }
}

fn port(number: u64) -> MappedPort {
    MappedPort(1024 + (number % 64_000) as u16)
}

/// The CPU time of the thread of this number.
fn cpu_of(thread: &str) -> Duration {
    let times = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

fn this_thread() -> String {
    let link = fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A thread has its name a moment after it was started.
fn thread_named(name: &str) -> String {
    let is_it = |path: &Path| fs::read_to_string(path.join("comm")).unwrap().trim() == name;
    loop {
        let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
        if let Some(path) = threads.into_iter().find(|path| is_it(path)) {
            return path.file_name().unwrap().to_str().unwrap().to_owned();
        }
        std::thread::yield_now();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// --- The journal ---

fn changes(batch: u64, entries: usize, evicting: bool) -> Vec<(TableKey, Change)> {
    // A batch has datagrams of few NAT64s.
    let table = table(batch);
    let mut changes = Vec::new();
    for number in batch * entries as u64..(batch + 1) * entries as u64 {
        let (port, client) = (port(number), client(number));
        let authenticator = Authenticator::new(&client.address.octets()).unwrap();
        if evicting {
            let old = self::client(number + ENTRIES);
            changes.push((table, Change::Deleted { port, client: old }));
        }
        changes.push((table, Change::Created { port, client }));
        let address = client.address;
        changes.push((table, Change::AuthenticatorLearned { address, authenticator }));
    }
    changes
}

fn append(writer: &mut JournalWriter, batches: &[Vec<(TableKey, Change)>], count: usize) -> f64 {
    let thread = this_thread();
    let before = cpu_of(&thread);
    for (number, batch) in batches.iter().cycle().take(count).enumerate() {
        let time = Timestamp::from_micros(1_552_903_588_491_727 + number as u64);
        writer.append(time, batch).unwrap();
    }
    (cpu_of(&thread) - before).as_nanos() as f64
}

fn journal(rounds: usize) {
    println!("journal: CPU ns of the reactor for each entry, with write(2)");
    println!("{:>8}{:>12}{:>12}", "batch", "creating", "evicting");
    for entries in BATCHES {
        let mut row = format!("{entries:>8}");
        for evicting in [false, true] {
            let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let mut writer = Writer::new(directory.path());
            let batches: Vec<_> = (0..64).map(|batch| changes(batch, entries, evicting)).collect();
            let count = ENTRIES as usize / entries;
            let mut samples: Vec<f64> = (0..rounds)
                .map(|_| append(&mut writer.writer, &batches, count) / ENTRIES as f64)
                .collect();
            row += &format!("{:>12.0}", median(&mut samples));
        }
        println!("{row}");
    }
}

struct Writer {
    writer: JournalWriter,
    _storage: Storage,
}

impl Writer {
    fn new(directory: &Path) -> Writer {
        let config = StorageConfig::new(1, 64064, SyncPolicy::Interval(INTERVAL));
        let nothing = |_: Timestamp, _: TableKey, _: &Change| {};
        let disk = Arc::new(RealDisk);
        let mut opened =
            Storage::open_at(disk, directory, config, |_| 0, |_| None, &mut [nothing]).unwrap();
        let mut started = opened.start(Timestamp::from_micros(1), Arc::new(|_| u64::MAX)).unwrap();
        Writer { writer: started.writers.remove(0), _storage: started.storage }
    }
}

// --- The event log ---

fn log(rounds: usize) {
    println!("log: ns for each line, {} ns apart", PACE.as_nanos());
    println!("{:>8}{:>12}{:>12}", "batch", "sender", "logger");
    for entries in BATCHES {
        let (mut senders, mut loggers) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (sender, logger) = log_round(entries as u64);
            senders.push(sender);
            loggers.push(logger);
        }
        println!("{entries:>8}{:>12.0}{:>12.0}", median(&mut senders), median(&mut loggers));
    }
}

/// Nanoseconds a line, of the sender and of the logger.
fn log_round(entries: u64) -> (f64, f64) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = LogConfig {
        destination: Destination::File(directory.path().join("events.log")),
        format: LogFormat::Plain,
        rotation: None,
        sync: LogSync::Interval(INTERVAL),
        cursor: Some(directory.path().join("log.cursor")),
        first_events: vec![0],
        clock: Clock::new(),
        threads: true,
    };
    let (log, mut senders) = EventLog::start(&RealDisk, config, || {}).unwrap();
    let logger = thread_named("eventlog");
    let before = cpu_of(&logger);
    let stats = Stats::default();
    let mut sending = Duration::ZERO;
    let begin = Instant::now();
    let batches = ENTRIES / entries;
    for batch in 0..batches {
        let start = Instant::now();
        let at = Timestamp::from_micros(
            1_552_903_588_491_727 + u64::try_from(begin.elapsed().as_micros()).unwrap(),
        );
        for number in batch * entries..(batch + 1) * entries {
            let kind = EventKind::Created { port: port(number), client: client(number) };
            senders[0].send(Event { at, table: table(batch), kind }, &stats);
        }
        senders[0].publish();
        sending += start.elapsed();
        while start.elapsed() < PACE * entries as u32 {
            std::hint::spin_loop();
        }
    }
    while log.unwritten() > 0 {
        std::thread::yield_now();
    }
    let lines = (batches * entries) as f64;
    let cpu = cpu_of(&logger) - before;
    drop(senders);
    log.join(Duration::from_secs(10)).unwrap();
    (sending.as_nanos() as f64 / lines, cpu.as_nanos() as f64 / lines)
}
