//! Attacks on the real server, over loopback: what each datagram of one takes of the processor,
//! compared with a known client's, and whether an honest NAT64 on the same reactor is answered
//! meanwhile.
//!
//! Latencies say little where cores are busy with other things. What holds up others on a reactor
//! is the time that it spends on a request, and that the kernel counts for each thread: so that is
//! compared, in slices of attack and of plain load that take turns.
//!
//! They need to bind UDP port 9 of 127.0.0.0/8 (run as root, or with CAP_NET_BIND_SERVICE).

#![expect(clippy::disallowed_methods, reason = "tests outside the core read the clock themselves")]

#[path = "harness/mod.rs"]
mod harness;
#[path = "judge/mod.rs"]
mod judge;
#[path = "harness/server.rs"]
mod server;

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use judge::client::{Client, Entry};
use judge::eventlog::Kind;
use judge::nat64::Nat64;
use judge::{packet, wire};
use server::Server;

/// How many slices of each kind take turns, and the datagrams in one.
const SLICES: usize = 15;
const DATAGRAMS: u32 = 600;
/// The honest NAT64 asks after this many datagrams of others, so that no queue is ever full.
const ASK_EVERY: u32 = 20;
/// What a datagram of an attack may take, in those of a known client, once what a NAT64 may do at
/// once is used up.
const PRICE_MAX: f64 = 4.0;
/// What a full multi report takes until then: 20 known clients for each 1500 octets.
const MULTI_REPORT_PRICE_MAX: f64 = 20.0 * 1232.0 / 1500.0;

/// The time that all threads of the server had on processors.
fn processor_time(server: &Server) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let nanoseconds = |task: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(nanoseconds).sum())
}

/// Takes what was answered, so that no queue is full.
fn drain(nat64: &Nat64) {
    nat64.control.set_nonblocking(true).unwrap();
    while nat64.control.recv(&mut [0; 2048]).is_ok() {}
    nat64.control.set_nonblocking(false).unwrap();
}

/// The same between two questions of the honest NAT64 only, so that an attack wakes the server as
/// often as the plain load does, which is sent without a pause.
fn drain_at_times(nat64: &Nat64, number: u32) {
    if number.is_multiple_of(ASK_EVERY) {
        drain(nat64);
    }
}

/// What `send` takes for each datagram, in those of a known client of the honest NAT64: the median
/// over slices. It sends datagram number so and so.
fn price(server: &Server, send: impl FnMut(u32)) -> f64 {
    median(&mut prices(server, send))
}

fn median(prices: &mut [f64]) -> f64 {
    prices.sort_by(f64::total_cmp);
    prices[prices.len() / 2]
}

/// The price of each slice.
fn prices(server: &Server, mut send: impl FnMut(u32)) -> Vec<f64> {
    let (honest, plain) = (Nat64::known(server), Nat64::known(server));
    let (client, other) = (Client::nth(1), Client::nth(2));
    let mapped = honest.map(client);
    plain.map(other);
    let known = plain.client_request(&other.authenticator(), &other.udp(b"data"));
    let slice = |send: &mut dyn FnMut(u32), begin: u32| {
        let before = processor_time(server);
        for number in 0..DATAGRAMS {
            send(begin + number);
            if number % ASK_EVERY == 0 {
                assert_eq!(honest.map(client), mapped, "a known client of another is answered");
            }
        }
        assert_eq!(honest.map(client), mapped);
        (processor_time(server) - before).as_secs_f64()
    };
    let mut prices = Vec::new();
    for number in 0..SLICES as u32 {
        let with_known = slice(&mut |_| plain.send(&known), 0);
        drain(&plain);
        prices.push(slice(&mut send, number * DATAGRAMS) / with_known);
    }
    prices
}

fn cheap(what: &str, price: f64) {
    eprintln!("{what}: {price:.2} x a known client");
    assert!(price <= PRICE_MAX, "{what}: {price:.2} x a known client");
}

/// What would be found out: a datagram that is worth 20.
#[test]
fn the_price_of_many_datagrams_is_noticed() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(9);
    let request = nat64.client_request(&client.authenticator(), &client.udp(b"data"));
    let price = price(&server, |_| {
        (0..20).for_each(|_| nat64.send(&request));
        drain(&nat64);
    });
    assert!(price > PRICE_MAX, "{price:.2}");
}

/// Full multi reports, about clients that the table has on other ports.
#[test]
fn multi_reports() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let entries: Vec<Entry> =
        (0..20).map(|number| Client::nth(number).at(20_000 + number as u16)).collect();
    nat64.send(&nat64.multi_request(&entries));
    let wrong: Vec<Entry> =
        (0..20).map(|number| Client::nth(number).at(30_000 + number as u16)).collect();
    let request = nat64.multi_request(&wrong);
    assert!(request.len() <= 1232);
    let mut prices = prices(&server, |_| {
        nat64.send(&request);
        drain(&nat64);
    });
    // As many as it may send at once are all answered, each with twenty datagrams.
    let at_once = median(&mut prices[..3]);
    eprintln!("multi reports at once: {at_once:.2} x a known client");
    assert!(at_once <= MULTI_REPORT_PRICE_MAX, "at once: {at_once:.2} x a known client");
    cheap("multi reports", median(&mut prices));
}

/// Always another client.
#[test]
fn new_clients() {
    let server = Server::start_single(&["--create-rate", "1000"]);
    let nat64 = Nat64::known(&server);
    let price = price(&server, |number| {
        let client = Client::nth(100 + number);
        nat64.send(&nat64.client_request(b"authen", &client.udp(b"data")));
        drain_at_times(&nat64, number);
    });
    cheap("new clients", price);
}

/// Always another port for the same client.
#[test]
fn conflicts() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    nat64.map(client);
    let price = price(&server, |number| {
        let wrong = client.at(20_000 + (number % 40_000) as u16);
        nat64.send(&nat64.report_request(&client.authenticator(), wrong));
        drain_at_times(&nat64, number);
    });
    cheap("conflicts", price);
}

/// A known client, always with another authenticator.
#[test]
fn changing_authenticators() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    nat64.map(client);
    let price = price(&server, |number| {
        nat64.send(&nat64.client_request(&number.to_be_bytes(), &client.udp(b"data")));
        drain_at_times(&nat64, number);
    });
    cheap("changing authenticators", price);
}

/// First fragments, each of another packet.
#[test]
fn first_fragments() {
    let server = Server::start_single(&[]);
    let nat64 = Nat64::known(&server);
    let client = Client::nth(1);
    nat64.map(client);
    let data = &client.udp(&[5; 100])[40..56];
    let price = price(&server, |number| {
        let (next, octets) =
            packet::chain(&[packet::fragment6(0, true, number)], packet::UDP, data);
        let first = packet::ipv6(client.address, client.service(), next, &octets);
        nat64.send(&nat64.client_request(&client.authenticator(), &first));
        drain_at_times(&nat64, number);
    });
    cheap("first fragments", price);
}

/// Well-formed requests of strangers, from more identities than there are validation packets for.
#[test]
fn strangers() {
    let server = Server::start_single(&["--validation-rate", "100"]);
    let stranger = Nat64::unknown(&server);
    let packet = stranger.unmapped_packet();
    let price = price(&server, |number| {
        let token = wire::token(format!("strangers-{number:08}").as_bytes());
        stranger.send(&wire::payload(&[&token, &packet]));
        if number.is_multiple_of(ASK_EVERY) {
            stranger.forget_challenges();
        }
    });
    cheap("strangers", price);
}

/// Proofs of newcomers where `--max-nat64s` is reached, of whom a few have a TCP connection with
/// this host: tables with many entries are given up for these meanwhile.
#[test]
fn newcomers_at_the_limit() {
    // In one /24, that many are no crowd.
    const NAT64S_MAX: u32 = 15;
    let server = Server::start_single(&["--max-nat64s", &NAT64S_MAX.to_string()]);
    // The two that are compared are known later.
    let tables: Vec<_> = (2..NAT64S_MAX).map(|_| Nat64::known(&server)).collect();
    let entries: Vec<Entry> =
        (0..1000).map(|number| Client::nth(number).at(20_000 + number as u16)).collect();
    tables.iter().for_each(|nat64| nat64.fill(&entries));
    let newcomers: Vec<_> = (0..64).map(|_| Nat64::unknown(&server)).collect();
    let proof = |nat64: &Nat64| {
        let challenge = nat64.challenge(&nat64.service_request(&nat64.unmapped_packet()));
        nat64.service_request(&nat64.as_packet(&challenge))
    };
    let proofs: Vec<_> = newcomers.iter().map(proof).collect();
    let connections: Vec<_> = newcomers.iter().take(16).map(connect).collect();
    let price = price(&server, |number| {
        let nth = number as usize % newcomers.len();
        newcomers[nth].send(&proofs[nth]);
        if number.is_multiple_of(ASK_EVERY) {
            newcomers.iter().for_each(drain);
        }
    });
    let given_up = server.events().iter().filter(|event| event.kind == Kind::Forgotten).count();
    eprintln!("{given_up} tables were given up");
    assert!(given_up > 0, "no table was given up\n{}", server.stderr());
    cheap("newcomers at the limit", price);
    drop(connections);
}

/// A TCP connection between the server's host and a NAT64.
fn connect(nat64: &Nat64) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((nat64.address, 0)).unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}
