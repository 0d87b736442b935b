//! More than the server can carry, from a known NAT64 and from strangers: another known NAT64 is
//! answered throughout, memory stays as it is, what is dropped is counted, and after it all is as
//! before.

use crate::judge::client::{Client, Entry};
use crate::judge::nat64::Nat64;
use crate::judge::wire::Reply;
use crate::judge::{PATIENCE, SHORT};
use crate::server::Server;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::iter;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Until queues are full and all buffers have been used once.
const WARM_UP: Duration = Duration::from_millis(300);
const OVERLOADED: Duration = Duration::from_secs(1);
/// In each of these somebody known is answered: longer than a full queue takes. It is the reactor's
/// own time, without that in which it was ready to run and others had the cores.
const WINDOW: Duration = Duration::from_millis(150);
const ASK_EVERY: Duration = Duration::from_millis(1);
/// How often at least somebody asked who then was not heard for so long: else it was he who had no
/// core.
const ASKED_MIN: u32 = 20;
/// How soon an answer comes again, and what a busy machine may add.
const NORMAL_AFTER: Duration = Duration::from_millis(100);
const SLACK: Duration = Duration::from_millis(400);
const SLACK_KIB: usize = 2 * 1024;
/// What one multi report asks: many times the work of the datagram that it comes in.
const ENTRIES: u32 = 20;
const STRANGERS: usize = 4;

/// How many datagrams the kernel dropped at the sockets of this port.
fn drops_at(port: u16) -> u64 {
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap();
    let local = format!(":{port:04X}");
    let its = |line: &&str| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(&local));
    let drops = |line: &str| line.split_whitespace().last()?.parse::<u64>().ok();
    sockets.lines().filter(its).filter_map(drops).sum()
}

/// The number in front of ` drops` in the server's last words.
fn drops_told(stderr: &str) -> u64 {
    let told = stderr.split(" drops").next().and_then(|before| before.rsplit(' ').next());
    told.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no drops in {stderr}"))
}

/// Sends these in turn, from one socket each, until it is told to stop. How many.
fn flood(from: &[(UdpSocket, Vec<u8>)], server: &Server, stop: &AtomicBool, sent: &AtomicU64) {
    let address = server.addr();
    while !stop.load(Ordering::Relaxed) {
        for (socket, request) in from {
            socket.send_to(request, address).unwrap();
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A known NAT64 that asks about one client and does not wait; it checks all that it is answered.
struct Asker<'a> {
    nat64: &'a Nat64,
    client: Client,
    entry: Entry,
    serial: u32,
    /// What was asked and when, by what the packet carries.
    asked: HashMap<u32, Instant>,
}

impl Asker<'_> {
    fn new(nat64: &Nat64) -> Asker<'_> {
        let client = Client::nth(1);
        let entry = client.at(nat64.map(client));
        nat64.control.set_nonblocking(true).unwrap();
        Asker { nat64, client, entry, serial: 0, asked: HashMap::new() }
    }

    fn packet(&self, serial: u32) -> Vec<u8> {
        self.client.udp(&serial.to_be_bytes())
    }

    /// The number of the request.
    fn ask(&mut self) -> u32 {
        self.serial += 1;
        let packet = self.packet(self.serial);
        self.nat64.send(&self.nat64.client_request(&self.client.authenticator(), &packet));
        self.asked.insert(self.serial, Instant::now());
        self.serial
    }

    /// The request that the next answer belongs to, and when that was asked.
    fn answer(&mut self) -> Option<(u32, Instant)> {
        let mut octets = [0; 2048];
        let length = match self.nat64.control.recv(&mut octets) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("receive: {error}"),
        };
        let reply = Reply::parse(&octets[..length]).unwrap();
        let packet = reply.packet.as_deref().expect("the packet of the request");
        let (_, serial) = packet.split_last_chunk::<4>().unwrap();
        let serial = u32::from_be_bytes(*serial);
        let asked = self.asked.remove(&serial).expect("an answer to what was asked, once");
        let authenticator = self.client.authenticator();
        assert_eq!(reply, Reply::mapping(&authenticator, self.entry, &self.packet(serial)));
        Some((serial, asked))
    }
}

/// A time that passes for the server's reactor.
struct Since {
    begin: Instant,
    waited: Duration,
}

impl Since {
    fn now(server: &Server) -> Since {
        Since { begin: Instant::now(), waited: server.waited() }
    }

    /// Without that in which others had the cores. The reactor has just done something: while it
    /// waits for a core, the kernel does not yet count that.
    fn own(&self, server: &Server) -> Duration {
        self.begin.elapsed().saturating_sub(server.waited() - self.waited)
    }
}

/// What is asked now is answered soon. It may still find the queue full.
fn time_to_normal(asker: &mut Asker<'_>, server: &Server) -> Duration {
    let ended = Since::now(server);
    while ended.begin.elapsed() < PATIENCE {
        let number = asker.ask();
        thread::sleep(ASK_EVERY);
        while let Some((serial, _)) = asker.answer() {
            if serial == number {
                return ended.own(server);
            }
        }
    }
    panic!("no answer after the overload");
}

#[test]
fn overload_sheds_and_ends() {
    let mut server = Server::start_single(&[]);
    let (asking, flooding) = (Nat64::known(&server), Nat64::known(&server));
    let entries: Vec<Entry> = (0..ENTRIES)
        .map(|number| Client::nth(100 + number).at(flooding.eligible_port(number as u16 * 7)))
        .collect();
    flooding.fill(&entries);
    let strangers: Vec<Nat64> = (0..STRANGERS).map(|_| Nat64::unknown(&server)).collect();
    let theirs = |nat64: &Nat64, request| (nat64.control.try_clone().unwrap(), request);
    let by_known = [theirs(&flooding, flooding.multi_request(&entries))];
    let by_strangers: Vec<_> = strangers
        .iter()
        .map(|stranger| theirs(stranger, stranger.multi_request(&entries)))
        .collect();
    let mut asker = Asker::new(&asking);

    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut answered, mut longest, mut warm) = (0, Duration::ZERO, None);
    thread::scope(|scope| {
        scope.spawn(|| flood(&by_known, &server, &stop, &sent));
        scope.spawn(|| flood(&by_strangers, &server, &stop, &sent));
        let begin = Instant::now();
        let (mut last, mut asked) = (Since::now(&server), 0);
        // It ends with an answer.
        while begin.elapsed() < WARM_UP + OVERLOADED || asked > 0 {
            if warm.is_none() && begin.elapsed() >= WARM_UP {
                warm = Some(server.resident_kib());
            }
            asker.ask();
            asked += 1;
            thread::sleep(ASK_EVERY);
            let heard = iter::from_fn(|| asker.answer()).count();
            if heard > 0 {
                if asked >= ASKED_MIN {
                    longest = longest.max(last.own(&server));
                }
                (last, asked) = (Since::now(&server), 0);
                answered += heard;
            } else if last.begin.elapsed() > PATIENCE {
                longest = PATIENCE;
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (sent, dropped) = (sent.into_inner(), drops_at(server.port));
    println!(
        "{sent} sent, {dropped} dropped by the kernel; {answered} of {} answered, the longest wait {longest:?}",
        asker.serial
    );
    assert!(dropped > sent / 20, "{dropped} of {sent} dropped: that was no overload");
    assert!(longest <= WINDOW, "a known NAT64 waited {longest:?} for any answer");

    let normal = time_to_normal(&mut asker, &server);
    println!("as before after {normal:?}");
    assert!(normal <= NORMAL_AFTER + SLACK, "an answer only after {normal:?}");
    let (warm, now) = (warm.expect("longer than the warm-up"), server.resident_kib());
    println!("resident: {warm} KiB under overload, {now} KiB after");
    assert!(now <= warm + SLACK_KIB, "{warm} KiB, then {now} KiB");

    asking.control.set_nonblocking(false).unwrap();
    while asking.try_reply(SHORT).is_some() {}
    asking.fence();
    assert_eq!(asking.find(asker.entry.mapped).map(|found| found.0), Some(asker.entry));
    server.stop();
    let told = drops_told(&server.stderr());
    assert!(told >= dropped, "{told} drops counted, the kernel dropped {dropped}");
}
