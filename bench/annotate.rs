//! How fast `nat64handoff annotate` is: `cargo bench --bench annotate`.
//!
//! The event log has a full table of each of [`NAT64S`] NAT64s and evictions from then on; the
//! access log goes through the time of these in order, its lines name random ports of them. Each
//! figure is lines a second of one core's time, user and system, of the whole process, reading the
//! event log included; medians of `BENCH_ROUNDS` (default 5). `BENCH_LINES` (default 2,000,000) are
//! the lines, `BENCH_EVENTS` (default 1,000,000) the events.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nat64handoff::handoff::change::Timestamp;

const NAT64S: u32 = 8;
const PORTS: u32 = 64_508;
/// 2019-03-18 00:00:00
const START: u64 = 1_552_867_200_000_000;
const DAY: u64 = 86_400_000_000;

type Shape = (&'static str, fn(&mut String, &Line));

/// What a line is about.
struct Line {
    client: Ipv4Addr,
    port: u32,
    at: Timestamp,
    number: u64,
}

const SHAPES: [Shape; 6] = [
    ("nginx, port= and time= at the end", |out, line| {
        web(out, line, &line.client.to_string());
        let micros = line.at.as_micros();
        let _ = write!(
            out,
            " port={} time={}.{:03}",
            line.port,
            micros / 1_000_000,
            micros / 1_000 % 1_000
        );
    }),
    ("nginx, address:port", |out, line| {
        web(out, line, &format!("{}:{}", line.client, line.port));
    }),
    ("nginx, other IPv4 clients", |out, line| web(out, line, "198.51.100.9")),
    ("nginx, IPv6 clients", |out, line| web(out, line, "2001:db8::9")),
    ("haproxy", |out, line| {
        let (client, port, number) = (line.client, line.port, line.number);
        let time = clock(line.at);
        let _ = write!(
            out,
            "Mar 18 {time} lb haproxy[7]: {client}:{port} [18/Mar/2019:{time}.{:03}] www b/s 0/0/0/1/1 200 {} - - \
             ---- 1/1/0/0/0 0/0 \"GET /articles/{number} HTTP/1.1\"",
            line.at.as_micros() / 1_000 % 1_000,
            number % 100_000,
        );
    }),
    ("caddy", |out, line| {
        let (client, port, number) = (line.client, line.port, line.number);
        let micros = line.at.as_micros();
        let _ = write!(
            out,
            "{{\"level\":\"info\",\"ts\":{}.{:06},\"logger\":\"http.log.access.log0\",\"msg\":\"handled request\",\
             \"request\":{{\"remote_ip\":\"{client}\",\"remote_port\":\"{port}\",\"client_ip\":\"{client}\",\
             \"proto\":\"HTTP/2.0\",\"method\":\"GET\",\"host\":\"example.org\",\"uri\":\"/articles/{number}\",\
             \"headers\":{{\"User-Agent\":[\"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\"],\"Accept\":[\"*/*\"],\
             \"Accept-Encoding\":[\"gzip, br\"]}}}},\"user_id\":\"\",\"duration\":0.000013981,\"size\":3,\"status\":200,\
             \"resp_headers\":{{\"Server\":[\"Caddy\"],\"Content-Type\":[\"text/plain; charset=utf-8\"]}}}}",
            micros / 1_000_000,
            micros % 1_000_000,
        );
    }),
];

/// `11:06:28`
fn clock(at: Timestamp) -> String {
    at.to_string()[11..19].to_owned()
}

fn web(out: &mut String, line: &Line, client: &str) {
    let (number, time) = (line.number, clock(line.at));
    let _ = write!(
        out,
        "{client} - - [18/Mar/2019:{time} +0000] \"GET /articles/{number}?from=feed HTTP/1.1\" 200 {} \
         \"https://example.org/\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\"",
        number % 100_000,
    );
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

fn nat64(number: u64) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, (number % u64::from(NAT64S)) as u8)
}

fn port(number: u64) -> u32 {
    1024 + (number / u64::from(NAT64S) % u64::from(PORTS)) as u32
}

/// A port of each NAT64 after another comes to another client, all of them within a day.
fn write_events(path: &Path, events: u64) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let (mut event, mut held) = (0, 0_u64);
    let all = u64::from(NAT64S * PORTS);
    while event < events {
        let at = Timestamp::from_micros(START + DAY * event / events);
        let (nat64, port) = (nat64(held), port(held));
        if let Some(before) = held.checked_sub(all) {
            writeln!(
                file,
                "{at} Deleted {nat64}:{port} [2001:db8:{:x}::17]:53186",
                before % 65_536
            )
            .unwrap();
            event += 1;
        }
        writeln!(file, "{at} Created {nat64}:{port} [2001:db8:{:x}::17]:53186", held % 65_536)
            .unwrap();
        (event, held) = (event + 1, held + 1);
    }
    file.into_inner().unwrap();
}

fn write_lines(path: &Path, lines: u64, shape: Shape) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let mut text = String::new();
    for number in 0..lines {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        // From the afternoon on, when all ports are held.
        let at = Timestamp::from_micros(START + DAY / 2 + DAY / 2 * number / lines);
        text.clear();
        let (client, port) = (nat64(random), port(random));
        shape.1(&mut text, &Line { client, port, at, number });
        text.push('\n');
        file.write_all(text.as_bytes()).unwrap();
    }
    file.into_inner().unwrap();
}

/// The time of a core that children took so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // cutime and cstime, in hundredths of a second.
    let ticks: u64 = fields[13].parse::<u64>().unwrap() + fields[14].parse::<u64>().unwrap();
    Duration::from_millis(10 * ticks)
}

/// Seconds of a core, and lines that name a client.
fn run(events: &Path, access: &Path) -> (f64, usize) {
    let before = cpu();
    let mut child = Command::new(env!("CARGO_BIN_EXE_nat64handoff"))
        .args(["annotate", "--log"])
        .args([events, access])
        .env("TZ", "UTC")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut named = 0;
    let finder = memchr::memmem::Finder::new(b"2001:db8:");
    let mut block = vec![0; 1 << 20];
    loop {
        let read = std::io::Read::read(&mut output, &mut block).unwrap();
        if read == 0 {
            break;
        }
        named += finder.find_iter(&block[..read]).count();
    }
    assert!(child.wait().unwrap().success());
    ((cpu() - before).as_secs_f64(), named)
}

fn main() {
    let (lines, events) = (number("BENCH_LINES", 2_000_000), number("BENCH_EVENTS", 1_000_000));
    let rounds = number("BENCH_ROUNDS", 5);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    write_events(&path("events.log"), events);
    println!("{lines} lines, {events} events of {NAT64S} NAT64s");
    println!("{:<40} {:>22} {:>10} {:>8}", "", "lines/s of a core", "MB/s", "named");
    for shape in SHAPES {
        write_lines(&path("access.log"), lines, shape);
        let octets = path("access.log").metadata().unwrap().len();
        let mut runs: Vec<_> =
            (0..rounds).map(|_| run(&path("events.log"), &path("access.log"))).collect();
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let rate = |run: &(f64, usize)| lines as f64 / run.0;
        let median = &runs[runs.len() / 2];
        // Of other clients there is none to be named.
        let is_named = median.1 as u64 >= lines / 2;
        assert_eq!(is_named, !shape.0.contains("other IPv4"), "{}: {}", shape.0, median.1);
        println!(
            "{:<40} {:>9.0} ({:.0}-{:.0}) {:>6.0} {:>9}",
            shape.0,
            rate(median),
            rate(&runs[runs.len() - 1]),
            rate(&runs[0]),
            octets as f64 / median.0 / 1e6,
            median.1
        );
    }
}
