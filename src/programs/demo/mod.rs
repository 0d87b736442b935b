//! `nat64handoff demo`: the server that was just started and NAT64s
//! ([`crate::nat64::engine::Nat64`]) on sockets of the same process talk over loopback. Every
//! datagram and every log line is checked.
//!
//! Shows PROTOCOL.md sections 5 (validation), 6 (the table, when it is full and when it is
//! contradicted), 7 (client packets, service packets, ping), 8 (the log) and 9 (a NAT64 that
//! reboots). It neither starts nor stops the server. Clients and services are packets only: nothing
//! is translated or routed.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::Duration;

use crate::handoff::entry::{Client, Entry};
use crate::handoff::message::VALIDATION_PORT;
use crate::ip::address::Prefix96;
use crate::ip::address::extract;
use crate::ip::build::{ipv4_tcp, ipv6_echo_request, ipv6_udp};
use crate::ip::fields::IPV6_HEADER;
use crate::ip::fields::tcp::{ACK, SYN};
use crate::ip::ipv6::Ipv6;
use crate::ip::{checksum, icmp};
use crate::kernel::clock;
use crate::nat64::engine::{Action, WELL_KNOWN_PREFIX};

pub mod command;
mod host;
mod scratch;
pub mod self_check;
mod tail;

use host::Nat64Host;
pub use tail::LogTail;

/// The NAT64 of most scenes.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);
/// The NAT64 whose table is filled.
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 2);
/// A prefix of the first NAT64's own, besides the well-known one.
const OWN_PREFIX: Prefix96 = Prefix96([0x20, 0x01, 0x0d, 0xb8, 0, 0x64, 0, 0, 0, 0, 0, 0]);
/// The capacity of a table (PROTOCOL.md section 6).
const CAPACITY: usize = 64_508;
/// The number of subnets of the full table's clients, large enough that none is a heavy hitter.
const SUBNETS: usize = 1024;
/// Lines of the full table that are printed.
const LINES_SHOWN: usize = 3;
/// How long a line may take to reach the log.
const LINE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the log must be silent at the end.
const SILENCE: Duration = Duration::from_millis(100);

/// What did not go as it must, in one line.
#[derive(Debug)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Only for standard output: failures of sockets tell what was tried.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(format!("the demo cannot print: {error}"))
    }
}

fn failure<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(text.into()))
}

fn demand(holds: bool, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { failure(text()) }
}

/// Whether this process may bind UDP port 9 of the demo's NAT64s, where validation packets arrive.
///
/// # Errors
/// It cannot be bound for another reason than privilege; most likely it is in use.
pub fn can_bind_validation_port() -> io::Result<bool> {
    for address in [FIRST, SECOND] {
        match UdpSocket::bind((address, VALIDATION_PORT)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Plays all scenes with the server at `server`, whose event log is written to `log`, and describes
/// them on `out`.
///
/// # Errors
/// The first thing that did not go as it must.
pub fn run(server: SocketAddrV4, log: &LogTail, out: &mut dyn Write) -> Result<(), Failure> {
    let started = clock::instant();
    let prefixes = vec![WELL_KNOWN_PREFIX, OWN_PREFIX];
    let mut first = Nat64Host::start(FIRST, prefixes, server, started)?;
    let mut second = Nat64Host::start(SECOND, vec![WELL_KNOWN_PREFIX], server, started)?;
    let last = String::new();
    let mut demo = Demo { log, out, last, created: 0, deleted: 0, conflicts: 0 };
    demo.validation(&mut first)?;
    let mut known = demo.clients(&mut first)?;
    demo.ping(&mut first)?;
    demo.full_table(&mut second)?;
    let answer = demo.last.clone();
    demo.reboot(&mut first, &mut known)?;
    demo.contradiction(&mut first, &known)?;
    demo.silence()?;

    let seconds = started.elapsed().as_secs_f64();
    let requests = grouped(first.sent + second.sent);
    let entries = grouped(demo.created - demo.deleted);
    writeln!(
        demo.out,
        "\n{requests} requests, {entries} entries in 2 tables, {} evicted, {} conflicts, {seconds:.1} s",
        demo.deleted, demo.conflicts
    )?;
    demo.what_for(&answer)?;
    writeln!(demo.out, "\ndemo: all went as it must")?;
    Ok(())
}

/// The state that the scenes share.
struct Demo<'a> {
    log: &'a LogTail,
    out: &'a mut dyn Write,
    /// The last line of the log so far.
    last: String,
    created: usize,
    deleted: usize,
    conflicts: usize,
}

impl Demo<'_> {
    fn heading(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "\n{text}")?;
        Ok(())
    }

    fn say(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.out, "  {text}")?;
        Ok(())
    }

    /// The next line of the log, without its time.
    fn event(&mut self, shown: bool) -> Result<String, Failure> {
        let Some(line) = self.log.next(LINE_TIMEOUT) else {
            return failure("the event log is silent where a line was due");
        };
        if shown {
            writeln!(self.out, "      {line}")?;
        }
        let event = match tail::event_of(&line) {
            Some(event) => event.to_owned(),
            None => {
                return failure(format!("a line of the event log has no time in front: {line}"));
            }
        };
        self.last = line;
        Ok(event)
    }

    fn expect_event(&mut self, expected: &str) -> Result<(), Failure> {
        let event = self.event(true)?;
        demand(event == expected, || {
            format!("the event log says `{event}` where `{expected}` was due")
        })
    }

    fn expect_created(&mut self, nat64: Ipv4Addr, entry: Entry) -> Result<(), Failure> {
        self.created += 1;
        self.expect_event(&event("Created", nat64, entry))
    }

    fn expect_conflict(&mut self, nat64: Ipv4Addr, entry: Entry) -> Result<(), Failure> {
        self.conflicts += 1;
        self.expect_event(&event("Conflict", nat64, entry))
    }

    /// Skips further conflicts: each repetition of a report contradicts the table once more.
    fn skip_conflicts(&mut self, host: &Nat64Host, entry: Entry) -> Result<(), Failure> {
        let expected = event("Conflict", host.nat64.address(), entry);
        let is_expected = |line: &str| tail::event_of(line) == Some(&expected);
        while host.repeated
            && let Some(line) = self.log.next_if(SILENCE, is_expected)
        {
            self.conflicts += 1;
            writeln!(self.out, "      {line}")?;
        }
        Ok(())
    }

    fn silence(&mut self) -> Result<(), Failure> {
        match self.log.next(SILENCE) {
            None => Ok(()),
            Some(line) => failure(format!("the event log says too much: {line}")),
        }
    }

    /// A first client sends a packet while the NAT64 and the server do not know each other. Returns
    /// its entry.
    fn introduce(&mut self, host: &mut Nat64Host, client: Client) -> Result<Entry, Failure> {
        let address = host.nat64.address();
        let packet = host.segment(client, SYN);
        let actions = host.client_packet(&packet);
        let [Action::Forward { entry, .. }, Action::Request { payload, .. }] = &actions[..] else {
            return failure(format!("{address} did not make an entry of its own: {actions:?}"));
        };
        let (own, report) = (*entry, payload.clone());
        self.say(&format!(
            "{} speaks; {address} knows no server yet, so it maps port {} itself and reports that",
            socket(client),
            own.port
        ))?;
        let validation = host.provoke_validation(&report, client.address)?;
        self.say(&format!(
            "the server sends {} octets to port 9 of {address}, and hears them back: it is there",
            validation.len()
        ))?;
        let actions = host.prove(&validation)?;
        self.expect_event(&format!("Initialized {address}"))?;
        let [Action::Unmapped { .. }, Action::Request { payload, .. }] = &actions[..] else {
            return failure(format!("{address} did not report again: {actions:?}"));
        };
        demand(*payload == report, || format!("{address} reported something else"))?;
        let answer = host.exchange(&report)?;
        host.check_answer(&answer, own, &[])?;
        host.take(&answer)?;
        self.expect_created(address, own)?;
        Ok(own)
    }

    fn validation(&mut self, host: &mut Nat64Host) -> Result<(), Failure> {
        self.heading(&format!("1. A NAT64 at {FIRST} proves that it is where it says"))?;
        let client = client(WELL_KNOWN_PREFIX, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x17));
        self.introduce(host, Client { port: 53186, ..client })?;
        Ok(())
    }

    /// Returns the entries that the server made.
    fn clients(&mut self, host: &mut Nat64Host) -> Result<Vec<Entry>, Failure> {
        self.heading("2. Clients get ports, and keep them")?;
        let one = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x55);
        let other = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x75);
        let mut known = Vec::new();
        for client in
            [client(WELL_KNOWN_PREFIX, one), client(OWN_PREFIX, one), client(OWN_PREFIX, other)]
        {
            let packet = host.segment(client, SYN);
            let entry = host.ask(&packet, client)?;
            self.expect_created(FIRST, entry)?;
            known.push(entry);
        }
        let ports: BTreeSet<_> = known.iter().map(|entry| entry.port).collect();
        demand(ports.len() == known.len(), || format!("a port was given twice: {known:?}"))?;
        self.say("the same address and port is another client through another prefix")?;

        let entry = known[0];
        let Client { address, prefix, port } = entry.client;
        let from = SocketAddrV6::new(address, port, 0, 0);
        let packet = ipv6_udp(from, host.service(prefix), b"again");
        let actions = host.client_packet(&packet);
        demand(is_forward(&actions, entry, &packet), || {
            format!("{FIRST} does not use its cache: {actions:?}")
        })?;
        let request = host.client_request(&packet, address);
        let answer = host.exchange(&request)?;
        host.check_answer(&answer, entry, &packet)?;
        self.say(&format!(
            "{} speaks again and keeps port {}, cached by the NAT64 and by word of the server",
            socket(entry.client),
            entry.port
        ))?;

        let to = SocketAddrV4::new(FIRST, entry.port.0);
        let service = SocketAddrV4::new(*host.server.ip(), 80);
        let packet = ipv4_tcp(service, to, SYN | ACK, b"");
        let actions = host.service_packet(&packet);
        demand(is_forward(&actions, entry, &packet), || {
            format!("{FIRST} does not use its cache for the service: {actions:?}")
        })?;
        let request = host.service_request(&packet);
        let answer = host.exchange(&request)?;
        host.check_answer(&answer, entry, &packet)?;
        let actions = host.take(&answer)?;
        demand(is_forward(&actions, entry, &packet), || {
            format!("{FIRST} does not send the service's packet on: {actions:?}")
        })?;
        self.say(&format!(
            "a packet of the service to {to} finds its way to {}",
            socket(entry.client)
        ))?;
        Ok(known)
    }

    fn ping(&mut self, host: &mut Nat64Host) -> Result<(), Failure> {
        self.heading("3. Ping is answered, without any privilege")?;
        let from = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);
        let to = *host.service(WELL_KNOWN_PREFIX).ip();
        let packet = ipv6_echo_request(from, to, 0x1234, 1, b"is anybody there?");
        let actions = host.client_packet(&packet);
        let request = the_request(&actions)?.to_vec();
        let answer = host.exchange(&request)?;
        let authenticator = host.authenticator_message(from);
        let Some(reply) = answer.strip_prefix(&authenticator[..]) else {
            return failure("the answer to a ping does not begin with the client's authenticator");
        };
        demand(is_echo_reply(&packet, reply), || {
            "the answer to a ping is no right echo reply".to_owned()
        })?;
        let actions = host.take(&answer)?;
        demand(matches!(&actions[..], [Action::Deliver { packet }] if packet == reply), || {
            format!("{FIRST} does not deliver an echo reply: {actions:?}")
        })?;
        self.say(&format!("{from} pings {to}, that is {}: echo reply", extract(to)))
    }

    fn full_table(&mut self, host: &mut Nat64Host) -> Result<(), Failure> {
        let capacity = grouped(CAPACITY);
        self.heading(&format!(
            "4. A table of {capacity} entries is full, and one more client comes"
        ))?;
        let oldest = self.introduce(host, crowd(0))?;
        host.fill(1..CAPACITY)?;
        let mut awaited: BTreeSet<Client> = (1..CAPACITY).map(crowd).collect();
        for number in 0..awaited.len() {
            let text = self.event(number < LINES_SHOWN)?;
            let created = tail::client_of(&text).and_then(|(address, port)| {
                let client = Client { prefix: WELL_KNOWN_PREFIX, address, port };
                awaited.take(&client)
            });
            let entry = created.and_then(|client| host.entry_of(client));
            demand(entry.is_some_and(|entry| event("Created", SECOND, entry) == text), || {
                format!("the event log says `{text}`, which is not what {SECOND} was told")
            })?;
        }
        self.created += CAPACITY - 1;
        writeln!(self.out, "      ... {} more", grouped(CAPACITY - 1 - LINES_SHOWN))?;

        let late = Client { port: 443, ..crowd(CAPACITY) };
        self.say(&format!("{} comes too late for a free port", socket(late)))?;
        let packet = host.segment(late, SYN);
        let entry = host.ask(&packet, late)?;
        self.deleted += 1;
        self.expect_event(&event("Deleted", SECOND, oldest))?;
        self.expect_created(SECOND, entry)?;
        demand(entry.port == oldest.port, || {
            format!("port {} became free, but {} was given", oldest.port, entry.port)
        })?;
        self.say("the least recently used entry is gone, and its port has a new client")
    }

    /// What the log is good for, by its line of the newcomer to the full table; and what is next.
    fn what_for(&mut self, line: &str) -> Result<(), Failure> {
        let event = tail::event_of(line).unwrap_or_default();
        let port = event.split(' ').nth(1).unwrap_or_default();
        let Some((client, _)) = tail::client_of(event) else {
            return failure(format!("the line of the last client names none: {line}"));
        };
        self.heading(&format!(
            "An abuse report about {port}? The last line with it before the time in question says who it was:"
        ))?;
        writeln!(self.out, "      {line}")?;
        let before = crowd(0).address;
        self.say(&format!(
            "from then on {client}, and {before} before: {SECOND} alone would be all of the NAT64's clients"
        ))?;
        self.heading(
            "Next, in a clone of the repository: ci/try shows it with curl and nginx, ./install makes it a service.",
        )?;
        self.say("`nat64handoff serve --help` has the options, `nat64handoff man` the manual.")
    }

    fn reboot(&mut self, host: &mut Nat64Host, known: &mut [Entry]) -> Result<(), Failure> {
        self.heading(&format!("5. {FIRST} reboots and forgets everything; old connections go on"))?;
        let mapped: Vec<Entry> = host.nat64.entries(*host.server.ip()).collect();
        host.reboot(&mapped)?;
        let entry = known[0];
        let packet = host.segment(entry.client, ACK);
        let actions = host.client_packet(&packet);
        let request = the_request(&actions)?.to_vec();
        let validation = host.provoke_validation(&request, entry.client.address)?;
        let actions = host.prove(&validation)?;
        demand(matches!(&actions[..], [Action::Unmapped { .. }]), || {
            format!("{FIRST} has something to report after its reboot: {actions:?}")
        })?;
        self.say(
            "its control port and token are new: one round of validation, and it is known again",
        )?;
        for entry in known.iter() {
            let packet = host.segment(entry.client, ACK);
            let again = host.ask(&packet, entry.client)?;
            demand(again == *entry, || {
                format!("{} had port {} and has {}", socket(entry.client), entry.port, again.port)
            })?;
            self.say(&format!(
                "{} speaks on its old connection, and has port {} as before",
                socket(entry.client),
                entry.port
            ))?;
        }
        Ok(())
    }

    fn contradiction(&mut self, host: &mut Nat64Host, known: &[Entry]) -> Result<(), Failure> {
        self.heading("6. The server's table is authoritative")?;
        let (entry, other) = (known[0], known[1]);
        let wrong = Entry { port: host.unmapped_port(), ..entry };
        self.say(&format!(
            "{FIRST} reports {} on port {}, but it has port {}",
            socket(entry.client),
            wrong.port,
            entry.port
        ))?;
        let answer = host.exchange(&host.report(wrong))?;
        host.check_answer(&answer, entry, &[])?;
        host.take(&answer)?;
        self.expect_conflict(FIRST, wrong)?;
        self.skip_conflicts(host, wrong)?;

        let newcomer = client(WELL_KNOWN_PREFIX, Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x56));
        let wrong = Entry { port: other.port, client: newcomer };
        self.say(&format!(
            "{FIRST} reports {} on port {}, which is another client's",
            socket(newcomer),
            other.port
        ))?;
        let answer = host.exchange(&host.report(wrong))?;
        host.take(&answer)?;
        let Some(given) = host.entry_of(newcomer) else {
            return failure("the answer to a report of a taken port has no entry of the client");
        };
        host.check_answer(&answer, given, &[])?;
        self.expect_conflict(FIRST, wrong)?;
        self.expect_created(FIRST, given)?;
        self.skip_conflicts(host, wrong)?;
        self.say("each time the answer says what the table has")
    }
}

fn the_request(actions: &[Action]) -> Result<&[u8], Failure> {
    match actions {
        [Action::Request { payload, .. }] => Ok(payload),
        _ => failure(format!("a NAT64 did not ask the server: {actions:?}")),
    }
}

fn is_forward(actions: &[Action], expected: Entry, expected_packet: &[u8]) -> bool {
    matches!(
        actions,
        [Action::Forward { entry, packet, .. }] if *entry == expected && packet == expected_packet
    )
}

/// Whether `reply` is what RFC 4443 section 4.2 wants of `request`, an echo request.
fn is_echo_reply(request: &[u8], reply: &[u8]) -> bool {
    let (Some(asked), Some(view)) = (Ipv6::new(request), Ipv6::new(reply)) else {
        return false;
    };
    let (question, answer) = (&request[IPV6_HEADER..], &reply[IPV6_HEADER..]);
    view.source() == asked.destination()
        && view.destination() == asked.source()
        && reply[4..7] == request[4..7]
        && answer.len() == question.len()
        && answer[..2] == [icmp::v6::ECHO_REPLY, 0]
        && answer[4..] == question[4..]
        && checksum::icmpv6(view.source(), view.destination(), answer) == 0
}

fn client(prefix: Prefix96, address: Ipv6Addr) -> Client {
    Client { prefix, address, port: 40_000 }
}

/// One of the clients who fill a table.
fn crowd(number: usize) -> Client {
    let (subnet, host) = (number % SUBNETS, number / SUBNETS);
    let address = Ipv6Addr::new(0x2001, 0xdb8, 4, subnet as u16, 0, 0, 0, 1 + host as u16);
    client(WELL_KNOWN_PREFIX, address)
}

fn socket(client: Client) -> SocketAddrV6 {
    SocketAddrV6::new(client.address, client.port, 0, 0)
}

/// A line of the event log about an entry, without its time (PROTOCOL.md section 8).
fn event(kind: &str, nat64: Ipv4Addr, entry: Entry) -> String {
    let Client { address, port, .. } = entry.client;
    format!("{kind} {nat64}:{} [{address}]:{port}", entry.port)
}

/// `64,508`
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests;
