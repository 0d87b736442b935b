//! The event log on standard output, whose reader stops: known clients of everybody are answered as
//! before, new ones wait; when it goes on, every line is there once, in order.

use crate::ask::expect_client;
use crate::cores::before_others;
use crate::harness::process::{Process, wait_until};
use crate::harness::program::SERVING;
use crate::judge::client::{Client, Entry};
use crate::judge::eventlog::{Kind, check_consistency, parse_all};
use crate::judge::nat64::Nat64;
use crate::judge::{PATIENCE, SHORT};
use crate::manager::Manager;
use crate::newcomers::Newcomers;
use crate::server::Server;
use std::collections::HashSet;
use std::io::{PipeReader, Read, pipe};
use std::thread;
use std::time::{Duration, Instant};

const OPTIONS: [&str; 6] =
    ["--reactors", "1", "--max-entries", "150000", "--create-rate", "1000000"];
/// More than the queue holds.
const NEWCOMERS: u32 = 64_000;
const AT_ONCE: u32 = 64;
const HONEST: u32 = 100;
const IDLE_LOOKS: usize = 1000;
/// How often a slow reader takes a little more.
const SIPS: usize = 12;
/// Octets of a sip: more than makes the server count on its queue again.
const SIP: usize = 2 << 20;
/// What a reactor that waits for the log would take each time, a quarter of a second, is far more.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// A NAT64 that has nothing to do with all this, and its known clients.
struct Honest {
    nat64: Nat64,
    entries: Vec<Entry>,
    took: Vec<Duration>,
}

impl Honest {
    fn new(server: &Server) -> Honest {
        let nat64 = Nat64::known(server);
        let client = |index| {
            let client = Client::nth(index);
            client.at(nat64.map(client))
        };
        let entries = (0..HONEST).map(client).collect();
        Honest { nat64, entries, took: Vec::new() }
    }

    /// A known client is answered; how long that took is noted.
    fn look(&mut self) {
        let entry = self.entries[self.took.len() % self.entries.len()];
        let (request, expected) = expect_client(&self.nat64, entry);
        let since = Instant::now();
        assert_eq!(self.nat64.ask(&request), expected);
        self.took.push(since.elapsed());
    }

    /// p99 and longest since the last call.
    fn times(&mut self) -> (Duration, Duration) {
        self.took.sort();
        let times = (self.took[self.took.len() * 99 / 100], *self.took.last().unwrap());
        self.took.clear();
        times
    }
}

/// New clients and looks in turns; the number of newcomers that were answered.
fn crowd(new: &mut Newcomers, honest: &mut Honest, count: u32) -> usize {
    let mut answered = 0;
    for _ in 0..count / AT_ONCE {
        for _ in 0..AT_ONCE {
            new.send(Client::nth(new.asked));
            new.asked += 1;
        }
        honest.look();
        // A look is answered after them, so what comes at all is there.
        answered += new.take(AT_ONCE as usize, Duration::from_millis(1));
    }
    answered
}

fn sip(reader: &mut PipeReader, text: &mut Vec<u8>) {
    let from = text.len();
    text.resize(from + SIP, 0);
    reader.read_exact(&mut text[from..]).unwrap();
}

#[test]
fn crash_a_stopped_reader_holds_nobody_up() {
    let (mut reader, writer) = pipe().unwrap();
    let mut server = Server::new();
    server.log = "-".into();
    before_others(|| server.spawn_into(&OPTIONS, writer.into()));
    server.wait_ready();
    let mut honest = Honest::new(&server);
    (0..IDLE_LOOKS).for_each(|_| honest.look());
    let (idle, _) = honest.times();
    let mut new = Newcomers::introduced(&server);

    let answered = crowd(&mut new, &mut honest, NEWCOMERS);
    let (stopped, longest) = honest.times();
    println!(
        "{answered} of {NEWCOMERS} newcomers answered; a known client's p99: {idle:?} before, \
         {stopped:?} while the reader stands still, at most {longest:?}"
    );
    assert!(answered < NEWCOMERS as usize, "the log takes nothing, and all were announced");
    assert_eq!(crowd(&mut new, &mut honest, 2 * AT_ONCE), 0, "new clients wait");
    let said = server.stderr();
    assert!(said.contains("event log"), "standard error does not say so:\n{said}");

    // A reader that takes too little: the queue is full again and again.
    let mut text = Vec::new();
    let mut one_more = || {
        sip(&mut reader, &mut text);
        while crowd(&mut new, &mut honest, AT_ONCE) == 0 {
            sip(&mut reader, &mut text);
        }
        while crowd(&mut new, &mut honest, AT_ONCE) > 0 {}
        honest.times().1
    };
    let mut longest: Vec<Duration> = before_others(|| (0..SIPS).map(|_| one_more()).collect());
    println!("a slow reader: a known client waited at most {longest:?}");
    longest.sort();
    // A reactor that waits does so with each sip; other programs hold up some of them.
    assert!(longest[SIPS / 4] < WAIT_MAX, "reactors wait for the log");

    let rest = thread::spawn(move || {
        reader.read_to_end(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    });
    new.until_answered();
    server.stop();
    let text = rest.join().unwrap();
    let events = parse_all(&text);
    check_consistency(&events);
    let of = |event: &&crate::judge::eventlog::Event| event.nat64 == new.nat64.address;
    let created: HashSet<_> = events
        .iter()
        .filter(of)
        .filter(|event| event.kind == Kind::Created)
        .filter_map(|event| event.entry)
        .collect();
    for entry in &new.told {
        let key = (entry.mapped, entry.client.address, entry.client.port);
        assert!(created.contains(&key), "{entry:?} was announced, and has no line");
    }
    println!("{} lines, each once and in order", events.len());
}

/// The service manager's watchdog restarts a server that hangs. One that waits for the reader of
/// its log does not hang: it says what it waits for, and a new process would wait just so.
#[test]
fn crash_a_stopped_reader_is_no_reason_to_restart() {
    let (mut reader, writer) = pipe().unwrap();
    let mut server = Server::new();
    server.log = "-".into();
    let manager = Manager::new();
    let mut command = server.serve(&OPTIONS);
    manager.watches(&mut command);
    let mut process = Process::spawn_to(&mut command, writer.into());
    // It has the pipe, too.
    drop(command);
    assert!(process.says(SERVING, PATIENCE), "{}", process.said());
    let mut new = Newcomers::introduced(&server);
    let full = wait_until(PATIENCE, || new.ask(AT_ONCE, SHORT) < AT_ONCE as usize);
    assert!(full, "the log takes nothing, and all were announced");
    let hangs = "the event log on standard output hangs";
    assert!(process.says(hangs, PATIENCE), "{}", process.said());
    let before = manager.signs_of_life();
    let since = || manager.signs_of_life() - before;
    assert!(wait_until(PATIENCE, || since() >= 3), "{} since then\n{}", since(), process.said());
    let rest = thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    process.signal(libc::SIGTERM);
    let status = process.wait(PATIENCE);
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", process.said());
    rest.join().unwrap().unwrap();
}
