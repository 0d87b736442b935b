//! `nat64handoff follow --to`: events at a collector, as others read them (rsyslog, nfcapd), and
//! none lost while it is away, breaks off or does not read, or while this program is killed.

use crate::harness::process::{Process, wait_until};
use crate::harness::program::{command, free_port};
use crate::harness::skip::cannot_run;
use crate::judge::{LEISURE, PATIENCE};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::{TempDir, tempdir};

/// A log of lines of which each is told by its microsecond.
pub struct Log {
    folder: TempDir,
    pub lines: usize,
}

impl Log {
    pub fn new(lines: usize) -> Log {
        let mut log = Log { folder: tempdir().unwrap(), lines: 0 };
        log.append(lines);
        log
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn append(&mut self, lines: usize) {
        let text: String = (self.lines..self.lines + lines).map(|n| line(n) + "\n").collect();
        let file = OpenOptions::new().append(true).create(true).open(self.path("events.log"));
        file.unwrap().write_all(text.as_bytes()).unwrap();
        self.lines += lines;
    }

    pub fn export(&self, to: &str) -> Process {
        Process::spawn(command().args(self.arguments(to)))
    }

    /// Those of the program that exports it.
    pub fn arguments(&self, to: &str) -> Vec<String> {
        let [log, cursor] = ["events.log", "cursor"].map(|name| self.text(name));
        let arguments =
            ["follow", "--log", &log, "--cursor", &cursor, "--from", "start", "--to", to];
        arguments.map(str::to_owned).to_vec()
    }
}

pub fn line(number: usize) -> String {
    let kind = if number % 4 == 3 { "Deleted" } else { "Created" };
    format!(
        "2019-03-18 10:06:28.{number:06} {kind} 192.0.2.7:3719 [2001:db8::17]:53186 to 203.0.113.5 via 64:ff9b::/96"
    )
}

/// The message of RFC 5424 about a line, without the name of the host.
pub fn syslog(number: usize) -> String {
    let line = line(number);
    let (_, what) = line.split_at(27);
    let kind = what.split(' ').next().unwrap();
    format!(
        "<30>1 2019-03-18T10:06:28.{number:06}Z HOST nat64handoff - {kind} [nat64@32473 nat64=\"192.0.2.7\" port=\"3719\" client=\"2001:db8::17\" client_port=\"53186\" to=\"203.0.113.5\" prefix=\"64:ff9b::/96\"] {what}"
    )
}

/// The line that a message is about, if it is as it has to be.
pub fn number_of(message: &str) -> usize {
    let (begin, rest) = message.split_at("<30>1 2019-03-18T10:06:28.".len());
    let number = rest[..6].parse().unwrap();
    let host = rest.split(' ').nth(1).unwrap();
    let expected = syslog(number).replacen("HOST", host, 1);
    assert_eq!(format!("{begin}{rest}"), expected);
    number
}

/// Lines came in order; some may have come again, from an earlier one on, but none is missing.
#[derive(Default)]
pub struct Arrived {
    pub next: usize,
    pub again: usize,
    last: Option<usize>,
}

impl Arrived {
    pub fn take(&mut self, number: usize) {
        let follows = self.last.is_some_and(|last| number == last + 1);
        let begins_again = number <= self.next;
        assert!(follows || begins_again, "{number} behind {:?}, {} came", self.last, self.next);
        if number < self.next {
            self.again += 1;
        }
        self.next = self.next.max(number + 1);
        self.last = Some(number);
    }
}

/// The messages of a stream with octet counting; half a one at its end is none.
pub fn messages(mut octets: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    while let Some(space) = octets.iter().position(|&octet| octet == b' ') {
        let length: usize = std::str::from_utf8(&octets[..space]).unwrap().parse().unwrap();
        let Some(message) = octets.get(space + 1..space + 1 + length) else { break };
        messages.push(String::from_utf8(message.to_vec()).unwrap());
        octets = &octets[space + 1 + length..];
    }
    messages
}

/// All that comes until the connection ends, however that is.
pub fn read_to_end(mut stream: &TcpStream, octets: &mut Vec<u8>) {
    let mut piece = [0; 65536];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        octets.extend_from_slice(&piece[..read]);
    }
}

/// The kernel ends a connection at the side that sends. Reads what came before.
fn break_off(port: u16, mut stream: &TcpStream, octets: &mut Vec<u8>) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut piece = [0; 65536];
    loop {
        let killed =
            Command::new("ss").args(["-K", "-t", "dport", "=", &port.to_string()]).output();
        let Ok(killed) = killed else { cannot_run("ss (Debian's package iproute2)") };
        assert!(killed.status.success(), "{killed:?}");
        loop {
            match stream.read(&mut piece) {
                Ok(read @ 1..) => octets.extend_from_slice(&piece[..read]),
                // A machine that is busy: it was not there to be ended yet.
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                _ => return,
            }
        }
    }
}

/// Connections break while all is busy, and the exporter is killed: what was on its way is sent
/// again.
#[test]
fn export_loses_nothing_when_connections_break() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut log = Log::new(2000);
    let to = format!("syslog+tcp://127.0.0.1:{port}");
    let mut export = log.export(&to);
    let mut arrived = Arrived::default();
    for round in 0..12 {
        log.append(3000);
        let (stream, _) = listener.accept().unwrap();
        let mut octets = vec![0; 1 + 40_000 * (round % 3)];
        (&stream).read_exact(&mut octets).unwrap();
        match round % 3 {
            0 => {
                export.signal(libc::SIGKILL);
                export.wait(PATIENCE).unwrap();
            }
            _ => break_off(port, &stream, &mut octets),
        }
        read_to_end(&stream, &mut octets);
        messages(&octets).iter().for_each(|message| arrived.take(number_of(message)));
        if round % 3 == 0 {
            export = log.export(&to);
        }
    }
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LEISURE)).unwrap();
    let (mut octets, mut piece) = (Vec::new(), [0; 65536]);
    let last = format!("28.{:06}Z", log.lines - 1);
    while !String::from_utf8_lossy(&octets[octets.len().saturating_sub(1000)..]).contains(&last) {
        let read = (&stream).read(&mut piece).unwrap();
        assert!(read > 0, "{}", export.stderr.get());
        octets.extend_from_slice(&piece[..read]);
    }
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0), "{}", export.stderr.get());
    messages(&octets).iter().for_each(|message| arrived.take(number_of(message)));
    assert_eq!(arrived.next, log.lines);
    println!("{} of {} came again", arrived.again, log.lines);
    // All was taken: nothing comes again.
    let mut export = log.export(&to);
    log.append(1);
    let (stream, _) = listener.accept().unwrap();
    let mut octets = vec![0; syslog(0).len() - 50];
    (&stream).read_exact(&mut octets).unwrap();
    assert!(String::from_utf8_lossy(&octets).contains(&format!("28.{:06}Z", log.lines - 1)));
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0));
}

/// A collector that does not read: nothing that it has not taken counts, and a signal ends the
/// wait.
#[test]
fn export_to_one_that_does_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::new(100_000);
    let to = format!("syslog+tcp://{}", listener.local_addr().unwrap());
    let mut export = log.export(&to);
    let (stream, _) = listener.accept().unwrap();
    let waits = || {
        let wchan = fs::read_to_string(format!("/proc/{}/wchan", export.id)).unwrap_or_default();
        wchan.contains("poll") && stream.peek(&mut [0]).unwrap() > 0
    };
    assert!(wait_until(LEISURE, waits));
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(LEISURE).unwrap().code(), Some(0));
    let mut octets = Vec::new();
    read_to_end(&stream, &mut octets);
    let taken = messages(&octets).len();
    assert!(taken > 0 && taken < log.lines, "{taken}");
    // The next one begins with the first that this one did not get, or before that.
    let mut export = log.export(&to);
    let (stream, _) = listener.accept().unwrap();
    let mut octets = vec![0; 1000];
    (&stream).read_exact(&mut octets).unwrap();
    let first = number_of(&messages(&octets)[0]);
    assert!(0 < first && first <= taken, "{first} of {taken}");
    export.signal(libc::SIGKILL);
    export.wait(PATIENCE).unwrap();
}

/// A collector that is not there yet: it is said once, and all comes when it is.
#[test]
fn export_waits_for_a_collector() {
    for scheme in ["syslog+udp", "syslog+tcp", "syslog+unix"] {
        let log = Log::new(100);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let socket = log.path("socket");
        let to = match scheme {
            "syslog+unix" => format!("{scheme}:{}", socket.display()),
            _ => format!("{scheme}://{address}"),
        };
        drop(udp);
        let mut export = log.export(&to);
        assert!(export.says("does not take events", PATIENCE), "{scheme}");
        let mut arrived = Arrived::default();
        match scheme {
            "syslog+tcp" => {
                let (stream, _) = TcpListener::bind(address).unwrap().accept().unwrap();
                let mut octets = Vec::new();
                while messages(&octets).len() < log.lines {
                    let mut piece = [0; 4096];
                    let read = (&stream).read(&mut piece).unwrap();
                    octets.extend_from_slice(&piece[..read]);
                }
                messages(&octets).iter().for_each(|message| arrived.take(number_of(message)));
                assert!(export.says("takes events again", PATIENCE));
            }
            _ => {
                let mut piece = [0; 4096];
                let udp = (scheme == "syslog+udp").then(|| UdpSocket::bind(address).unwrap());
                let unix = udp.is_none().then(|| UnixDatagram::bind(&socket).unwrap());
                while arrived.next < log.lines {
                    let read = match (&udp, &unix) {
                        (Some(udp), _) => udp.recv(&mut piece).unwrap(),
                        (_, unix) => unix.as_ref().unwrap().recv(&mut piece).unwrap(),
                    };
                    arrived.take(number_of(std::str::from_utf8(&piece[..read]).unwrap()));
                }
                assert!(export.says("takes events again", PATIENCE));
            }
        }
        let said = export.stderr.get();
        assert_eq!(said.matches("does not take events").count(), 1, "{said}");
        export.signal(libc::SIGTERM);
        assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0), "{said}");
    }
}

/// Datagrams to a socket of this host: killed again and again, at most the last one comes twice.
#[test]
fn export_to_the_journal() {
    let mut log = Log::new(50);
    let socket = UnixDatagram::bind(log.path("journal")).unwrap();
    socket.set_read_timeout(Some(LEISURE)).unwrap();
    let to = format!("journald:{}", log.text("journal"));
    let mut arrived = Arrived::default();
    let mut piece = [0; 4096];
    let kills = 20;
    for _ in 0..kills {
        log.append(200);
        let mut export = log.export(&to);
        let begun = arrived.next;
        while arrived.next < begun + 100 {
            let read = socket.recv(&mut piece).unwrap();
            arrived.take(entry(std::str::from_utf8(&piece[..read]).unwrap()));
        }
        export.signal(libc::SIGKILL);
        export.wait(PATIENCE).unwrap();
    }
    let mut export = log.export(&to);
    while arrived.next < log.lines {
        let read = socket.recv(&mut piece).unwrap();
        arrived.take(entry(std::str::from_utf8(&piece[..read]).unwrap()));
    }
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0));
    assert!(arrived.again <= kills, "{}", arrived.again);
}

/// The line that an entry of the journal is about.
fn entry(text: &str) -> usize {
    let of = |name: &str| {
        let mut values = text.lines().filter_map(|line| line.strip_prefix(&format!("{name}=")));
        let value = values.next().unwrap_or_else(|| panic!("no {name} in {text}"));
        assert_eq!(values.next(), None);
        value
    };
    let number = of("EVENT_TIME")["2019-03-18T10:06:28.".len()..][..6].parse().unwrap();
    let line = line(number);
    assert_eq!(of("MESSAGE"), &line[27..]);
    assert_eq!(of("EVENT"), line.split(' ').nth(2).unwrap());
    for (name, value) in [
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "nat64handoff"),
        ("NAT64", "192.0.2.7"),
        ("NAT64_PORT", "3719"),
        ("CLIENT", "2001:db8::17"),
        ("CLIENT_PORT", "53186"),
        ("LOCAL", "203.0.113.5"),
        ("PREFIX", "64:ff9b::/96"),
    ] {
        assert_eq!(of(name), value);
    }
    assert!(text.ends_with('\n'));
    number
}

/// Waits until a daemon that a test started does its work, or says why not.
pub fn daemon(command: &mut Command, package: &str) -> Process {
    let program = command.get_program().to_owned();
    if Command::new(&program).arg("-V").output().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        cannot_run(&format!("{} (Debian's package {package})", program.display()));
    }
    Process::spawn(command)
}

/// A real syslog daemon reads all fields, over each of its ways.
#[test]
fn export_to_rsyslog() {
    let mut log = Log::new(200);
    let port = free_port();
    let [out, socket] = ["out", "socket"].map(|name| log.text(name));
    let config = format!(
        r#"module(load="imudp") module(load="imtcp") module(load="imuxsock" SysSock.Use="off")
module(load="mmpstrucdata")
template(name="all" type="string" string="%timereported:::date-rfc3339%|%app-name%|%msgid%|%pri%|%$!rfc5424-sd!nat64@32473!client%|%$!rfc5424-sd!nat64@32473!port%|%msg%\n")
input(type="imudp" port="{port}" address="127.0.0.1")
input(type="imtcp" port="{port}" address="127.0.0.1")
input(type="imuxsock" Socket="{socket}" UseSpecialParser="off" IgnoreTimestamp="off"
      UseSysTimeStamp="off" RateLimit.Interval="0")
action(type="mmpstrucdata")
action(type="omfile" file="{out}" template="all" asyncWriting="off" flushOnTXEnd="on")
"#
    );
    fs::write(log.path("config"), config).unwrap();
    let mut command = Command::new("rsyslogd");
    command.arg("-n").arg("-f").arg(log.path("config")).arg("-i").arg(log.path("pid"));
    let rsyslog = daemon(&mut command, "rsyslog");
    let expected = |from: usize, to: usize| -> String {
        let of = |number: usize| {
            let line = line(number);
            let kind = line.split(' ').nth(2).unwrap();
            format!(
                "2019-03-18T10:06:28.{number:06}Z|nat64handoff|{kind}|30|2001:db8::17|3719|{}\n",
                &line[27..]
            )
        };
        (from..to).map(of).collect()
    };
    let mut done = 0;
    for way in ["tcp", "udp", "unix"] {
        let to = match way {
            "unix" => format!("syslog+unix:{socket}"),
            _ => format!("syslog+{way}://127.0.0.1:{port}"),
        };
        let mut export = log.export(&to);
        let all = expected(done, log.lines);
        // What a start that is slow has made come again is another test's.
        let came = || fs::read_to_string(&out).unwrap_or_default();
        let is_there = wait_until(LEISURE, || came().ends_with(&all));
        assert!(is_there, "{way}: {}\n{}\n{}", came().len(), export.stderr.get(), rsyslog.said());
        assert!(way == "udp" || came().len() == expected(0, log.lines).len(), "{way}: {}", came());
        // Before, datagrams would come again.
        let end = format!("-{:012x}-", fs::metadata(log.path("events.log")).unwrap().len());
        let is_taken = || fs::read_to_string(log.path("cursor")).is_ok_and(|at| at.contains(&end));
        assert!(wait_until(LEISURE, is_taken), "{way}: {}", export.stderr.get());
        export.signal(libc::SIGTERM);
        assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0));
        fs::write(&out, expected(0, log.lines)).unwrap();
        done = log.lines;
        log.append(100);
    }
}

/// A real collector of flows has each event, by what RFC 8158 calls it.
#[test]
fn export_to_nfcapd() {
    let log = Log::new(400);
    let port = free_port();
    let [folder, pid] = ["flows", "pid"].map(|name| log.path(name));
    fs::create_dir(&folder).unwrap();
    let mut command = Command::new("nfcapd");
    command.arg("-w").arg(&folder).args(["-p", &port.to_string(), "-b", "127.0.0.1"]);
    // Room for all of them while it has no time to read.
    command.args(["-B", "4000000"]);
    let mut nfcapd = daemon(command.arg("-P").arg(&pid), "nfdump");
    let is_bound = || {
        let sockets = fs::read_to_string("/proc/net/udp").unwrap();
        sockets.contains(&format!(" 0100007F:{port:04X} "))
    };
    assert!(wait_until(LEISURE, is_bound), "{}", nfcapd.said());
    let to = format!("ipfix+udp://127.0.0.1:{port}");
    let mut export = log.export(&to);
    let sent = || {
        fs::read_to_string(log.path("cursor")).is_ok_and(|text| {
            let length = fs::metadata(log.path("events.log")).unwrap().len();
            text.contains(&format!("-{length:012x}-"))
        })
    };
    assert!(wait_until(LEISURE, sent), "{}", export.stderr.get());
    export.signal(libc::SIGTERM);
    export.wait(PATIENCE).unwrap();
    nfcapd.signal(libc::SIGTERM);
    nfcapd.wait(LEISURE).unwrap();
    let said = nfcapd.said();
    assert!(said.contains("Flows: 400") && said.contains("Sequence Errors: 0"), "{said}");
    let read = Command::new("nfdump").arg("-R").arg(&folder).args(["-o", "json"]).output().unwrap();
    let flows: serde_json::Value = serde_json::from_slice(&read.stdout).unwrap();
    let flows = flows.as_array().unwrap();
    assert_eq!(flows.len(), 400);
    for (number, flow) in flows.iter().enumerate() {
        let (id, name) = match number % 4 {
            3 => ("11", "NAT64 BIB delete"),
            _ => ("10", "NAT64 BIB create"),
        };
        for (field, value) in [
            ("src6_addr", "2001:db8::17"),
            ("src4_xlt_ip", "192.0.2.7"),
            ("src_xlt_port", "3719"),
            ("dst6_addr", "64:ff9b::cb00:7105"),
            ("dst4_xlt_ip", "203.0.113.5"),
            ("nat_event_id", id),
            ("nat_event", name),
            ("first", "2019-03-18T10:06:28.000"),
        ] {
            assert_eq!(flow[field], value, "{number}: {flow}");
        }
        assert_eq!(flow["src_port"], 53186);
    }
}

/// What came over a connection of IPFIX, read by RFC 7011 alone.
#[derive(Default)]
struct Flows {
    /// Of each its number, and its fields: element and length.
    templates: Vec<(u16, Vec<(u16, usize)>)>,
    records: Vec<Vec<(u16, Vec<u8>)>>,
}

fn u16_at(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

impl Flows {
    fn read(&mut self, mut stream: &TcpStream) {
        let mut header = [0; 16];
        stream.read_exact(&mut header).unwrap();
        assert_eq!(u16_at(&header, 0), 10);
        let before = self.records.len() as u32;
        assert_eq!(header[8..12], before.to_be_bytes(), "the number of records before");
        let mut sets = vec![0; usize::from(u16_at(&header, 2)) - 16];
        stream.read_exact(&mut sets).unwrap();
        let mut sets = &sets[..];
        while !sets.is_empty() {
            let (set, after) = sets.split_at(usize::from(u16_at(sets, 2)));
            match u16_at(set, 0) {
                2 => self.take_templates(&set[4..]),
                template => self.take_records(template, &set[4..]),
            }
            sets = after;
        }
    }

    fn take_templates(&mut self, mut set: &[u8]) {
        while !set.is_empty() {
            let (template, count) = (u16_at(set, 0), usize::from(u16_at(set, 2)));
            let fields = set[4..4 + 4 * count].chunks(4);
            let fields = fields.map(|field| (u16_at(field, 0), usize::from(u16_at(field, 2))));
            self.templates.push((template, fields.collect()));
            set = &set[4 + 4 * count..];
        }
    }

    fn take_records(&mut self, template: u16, mut set: &[u8]) {
        let (_, fields) = self.templates.iter().find(|(number, _)| *number == template).unwrap();
        while !set.is_empty() {
            let mut record = Vec::new();
            for &(element, length) in fields {
                let (value, after) = set.split_at(length);
                record.push((element, value.to_vec()));
                set = after;
            }
            self.records.push(record);
        }
    }
}

/// The octets of IPFIX over TCP: its templates, and what the records are by them.
#[test]
fn export_of_ipfix_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::new(60);
    let mut export = log.export(&format!("ipfix+tcp://{}", listener.local_addr().unwrap()));
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(LEISURE)).unwrap();
    let mut flows = Flows::default();
    while flows.records.len() < log.lines {
        flows.read(&stream);
    }
    let client = "2001:db8::17".parse::<std::net::Ipv6Addr>().unwrap().octets();
    for (number, record) in flows.records.iter().enumerate() {
        let of = |wanted: u16| {
            let field = record.iter().find(|(element, _)| *element == wanted);
            field.unwrap_or_else(|| panic!("no {wanted} in {record:?}")).1.as_slice()
        };
        assert_eq!(of(230), [if number % 4 == 3 { 11 } else { 10 }]);
        assert_eq!(of(323), 1_552_903_588_000_u64.to_be_bytes());
        assert_eq!((of(27), of(7)), (&client[..], &53186_u16.to_be_bytes()[..]));
        assert_eq!((of(225), of(227)), (&[192, 0, 2, 7][..], &3719_u16.to_be_bytes()[..]));
        assert_eq!(of(226), [203, 0, 113, 5]);
    }
    assert_eq!(flows.templates.len(), 2, "once for a connection");
    export.signal(libc::SIGTERM);
    assert_eq!(export.wait(PATIENCE).unwrap().code(), Some(0));
}
