//! `--peer-names` while everything happens at once: entries come and go, the server is killed, and
//! connections are made from the same ports. Whoever a program sees was there at that time.

use super::peer_names::{connect, killed_and_restarted, start};
use crate::admin;
use crate::harness::process::wait_until;
use crate::harness::program::LOCAL;
use crate::harness::skip::cannot_run;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::peers::Place;
use crate::random::Random;
use std::collections::HashMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Fewer entries than clients: each newcomer gets the port of another.
const ENTRIES: u32 = 24;
const CLIENTS: usize = 60;
const STEPS: u64 = 1500;
const CONNECTORS: u64 = 3;

/// Who may have had a port, from when to when. None: still.
type Held = Vec<(SocketAddr, Instant, Option<Instant>)>;

#[derive(Default)]
struct Past(Mutex<HashMap<u16, Held>>);

impl Past {
    /// A client got a port between these two times.
    fn got(&self, port: u16, client: Client, asked: Instant) {
        let answered = Instant::now();
        let mut past = self.0.lock().unwrap();
        let name = SocketAddr::from((client.address, client.port));
        // It may have had another one, which another client has not got yet.
        let held = past.entry(port).or_default();
        if matches!(held.last(), Some((last, _, None)) if *last == name) {
            return;
        }
        end(held, answered);
        held.push((name, asked, None));
    }

    /// Nobody has any port any more.
    fn gone(&self) {
        self.0.lock().unwrap().values_mut().for_each(|held| end(held, Instant::now()));
    }

    /// Whether it was so at some time between these two.
    fn had(&self, port: u16, seen: SocketAddr, [since, until]: [Instant; 2]) -> bool {
        let past = self.0.lock().unwrap();
        let held = past.get(&port).map(Vec::as_slice).unwrap_or_default();
        held.iter().any(|(name, from, to)| {
            *name == seen && *from <= until && to.is_none_or(|to| to >= since)
        })
    }

    fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<_> = self.0.lock().unwrap().keys().copied().collect();
        ports.sort_unstable();
        ports
    }
}

fn end(held: &mut Held, at: Instant) {
    if let Some((_, _, until @ None)) = held.last_mut() {
        *until = Some(at);
    }
}

/// Who the service says that this connection is.
fn seen(from: SocketAddrV4, service: u16) -> SocketAddr {
    let mut connection: TcpStream = connect(from, SocketAddrV4::new(LOCAL, service));
    let mut said = String::new();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.read_to_string(&mut said).unwrap();
    let words: Vec<_> = said.split(' ').collect();
    assert_eq!(words[..2], words[2..4], "accept and getpeername");
    SocketAddr::new(words[0].parse().unwrap(), words[1].parse().unwrap())
}

/// Tells each connection who it is, as accept and getpeername have it.
const ANSWERING: &str = "
import socket, sys
listener = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print('listening', flush=True)
while True:
    connection, peer = listener.accept()
    try:
        connection.sendall(' '.join(map(str, [*peer[:2], *connection.getpeername()[:2]])).encode())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    except OSError:
        pass
    connection.close()
";

#[test]
fn no_peer_ever_has_the_name_of_another() {
    let place = Place::make().unwrap_or_else(|missing| cannot_run(&missing));
    assert_eq!(place.attach("1000").0, 0);
    let service = place.program(ANSWERING);
    let mut server = start(&place, &["--max-entries", &ENTRIES.to_string()]);
    let nat64 = Nat64::known(&server);
    let (past, stop, named) = (Past::default(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let end = Stop(&stop);
        for number in 0..CONNECTORS {
            let (past, stop, named, address) = (&past, &stop, &named, nat64.address);
            let (mut random, to) = (Random::new("connector"), service.port);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let ports = past.ports();
                    let Some(port) = own_port(&ports, number, &mut random) else { continue };
                    let since = Instant::now();
                    let seen = seen(SocketAddrV4::new(address, port), to);
                    let times = [since, Instant::now()];
                    if seen == true_peer(address, port) {
                        continue;
                    }
                    // The answer that says so may be on its way still.
                    let is_right = wait_until(PATIENCE, || past.had(port, seen, times));
                    assert!(is_right, "port {port} was not {seen}'s");
                    named.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut random = Random::new("no_peer_ever_has_the_name_of_another");
        for step in 1..=STEPS {
            let client = Client::nth(random.below(CLIENTS) as u32);
            let asked = Instant::now();
            past.got(nat64.map(client), client, asked);
            if step % (STEPS / 5) == 0 {
                server = killed_and_restarted(&place, server, || ());
            }
            if step % (STEPS / 3) == 0 {
                let dropped = ["drop-table", &nat64.address.to_string(), "--yes"];
                let (code, _) = admin::asked(&server, &dropped);
                assert_eq!(code, 0);
                past.gone();
                nat64.introduce();
            }
        }
        drop(end);
    });
    let named = named.load(Ordering::Relaxed);
    assert!(named > STEPS / 10, "{named} connections had names");
}

/// Each connector has ports of its own, so that no two use the same at once.
fn own_port(ports: &[u16], number: u64, random: &mut Random) -> Option<u16> {
    let own: Vec<_> =
        ports.iter().filter(|port| u64::from(**port) % CONNECTORS == number).collect();
    (!own.is_empty()).then(|| *own[random.below(own.len())])
}

fn true_peer(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::from((address.to_ipv6_mapped(), port))
}

/// Also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
