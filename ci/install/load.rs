//! Requests of known clients at an even rate, from many NAT64s, while something happens to the
//! server. Each must be answered.

use crate::booted::{Booted, Network};
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// After the last request, answers are waited for this long where some do not come.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// What became of the requests.
#[derive(Debug)]
pub struct Outcome {
    pub sent: u64,
    pub unanswered: u64,
    /// The longest time that any answer took.
    pub longest: Duration,
    pub p99_of_gap: Duration,
    /// ICMP port unreachables of the server's host.
    pub unreachable: u64,
}

/// Some: no more is sent, and answers are waited for so long.
type Stop = Arc<Mutex<Option<Duration>>>;

/// Requests that are under way until [`Load::end`].
pub struct Load {
    stop: Stop,
    thread: JoinHandle<Outcome>,
}

struct Sender {
    nat64: Nat64,
    client: Client,
}

impl Load {
    /// From `nat64s` NAT64s, `rate` requests a second in all.
    pub fn start(booted: &Booted, server: SocketAddrV4, nat64s: u32, rate: u32) -> Load {
        let stop = Stop::default();
        let (stopped, network) = (Arc::clone(&stop), booted.network());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            network.enter();
            let senders = senders(server, nat64s, &network);
            let before = unreachables();
            ready.send(()).unwrap();
            let mut outcome = run(&senders, rate, &stopped);
            outcome.unreachable = unreachables() - before;
            outcome
        });
        is_ready.recv().expect("all NAT64s are known");
        Load { stop, thread }
    }

    /// Waits until all are answered, which must be.
    pub fn end(self) -> Outcome {
        self.end_within(PATIENCE)
    }

    /// Waits for what may still come.
    pub fn end_with_losses(self) -> Outcome {
        self.end_within(LOST_AFTER)
    }

    fn end_within(self, last: Duration) -> Outcome {
        *self.stop.lock().unwrap() = Some(last);
        self.thread.join().unwrap()
    }
}

/// All at once, as each waits until the server has its entry on the disk.
fn senders(server: SocketAddrV4, nat64s: u32, network: &Network) -> Vec<Sender> {
    let sender = |number| {
        network.enter();
        let nat64 = Nat64::known(server);
        let client = Client::nth(number);
        nat64.map(client);
        nat64.control.set_nonblocking(true).unwrap();
        Sender { nat64, client }
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..nat64s).map(|number| scope.spawn(move || sender(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn run(senders: &[Sender], rate: u32, stop: &Mutex<Option<Duration>>) -> Outcome {
    let start = Instant::now();
    let mut sent = 0_u64;
    let mut under_way = BTreeMap::new();
    let mut times = Vec::new();
    let mut last = start;
    loop {
        let now = Instant::now();
        let patience = *stop.lock().unwrap();
        if patience.is_none() {
            last = now;
            let due = (now - start).as_micros() as u64 * u64::from(rate) / 1_000_000;
            // One that was kept from running does not send all at once.
            let most = sent + 64;
            while sent < due.min(most) {
                let Sender { nat64, client } = &senders[(sent % senders.len() as u64) as usize];
                let packet = client.udp(&sent.to_be_bytes());
                nat64.send(&nat64.client_request(&client.authenticator(), &packet));
                under_way.insert(sent, now);
                sent += 1;
            }
        }
        for Sender { nat64, .. } in senders {
            take(nat64, &mut under_way, &mut times);
        }
        if patience.is_some_and(|most| under_way.is_empty() || last.elapsed() > most) {
            break;
        }
        thread::sleep(Duration::from_micros(500));
    }
    times.sort_unstable();
    // Those that waited for the next process: all that took longer than any of a quiet server does.
    let gap: Vec<_> = times.iter().filter(|time| **time > Duration::from_millis(20)).collect();
    let p99_of_gap = gap.get(gap.len() * 99 / 100).map_or(Duration::ZERO, |time| **time);
    Outcome {
        sent,
        unanswered: under_way.len() as u64,
        longest: times.last().copied().unwrap_or_default(),
        p99_of_gap,
        unreachable: 0,
    }
}

/// An answer ends in the packet of its request, and that in its number.
fn take(nat64: &Nat64, under_way: &mut BTreeMap<u64, Instant>, times: &mut Vec<Duration>) {
    let mut octets = [0; 2048];
    loop {
        match nat64.control.recv(&mut octets) {
            Ok(length) => {
                let number: [u8; 8] = octets[length - 8..length].try_into().unwrap();
                if let Some(since) = under_way.remove(&u64::from_be_bytes(number)) {
                    times.push(since.elapsed());
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// How many destination unreachables this network has sent.
fn unreachables() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut both = names.split(' ').zip(values.split(' '));
    both.find(|(name, _)| *name == "OutDestUnreachs").unwrap().1.parse().unwrap()
}
