//! The server is killed, stopped, started again, while traffic goes on.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::field::{Field, SERVICE, SERVICE6};
use crate::http::Connection;
use crate::judge::eventlog::Kind;
use crate::process::{PATIENCE, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl, known};

/// Connections that send back what they get, until `over` is true; counts the messages that came
/// back.
fn echo_traffic(field: &Field, over: &AtomicBool, echoes: &AtomicU64) {
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, 7)).unwrap());
    let address = SocketAddr::from((SERVICE6, 7));
    let client = field.client();
    let mut near = client.inside(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    let mut far = listener.accept().unwrap().0;
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut number = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let message = number.to_be_bytes();
        let mut got = [0; 8];
        near.write_all(&message).unwrap();
        far.read_exact(&mut got).unwrap();
        far.write_all(&got).unwrap();
        near.read_exact(&mut got).unwrap();
        assert_eq!(got, message);
        number += 1;
        echoes.store(number, Ordering::Relaxed);
    }
}

/// Waits until `count` has grown by `more`.
fn wait_for_more(count: &AtomicU64, more: u64) {
    let from = count.load(Ordering::Relaxed);
    wait_until("traffic goes on", || count.load(Ordering::Relaxed) >= from + more);
}

/// Ends the traffic, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn connections_survive_when_the_server_is_killed_and_started_again() {
    let field = Field::new();
    let site = &field.sites[0];
    let (mut server, gateway, nginx) = known(&field);
    let mut idle = Connection::open(site);
    assert_eq!(idle.get("hello"), b"hello\n");

    let (over, echoes) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| echo_traffic(&field, &over, &echoes));
        wait_for_more(&echoes, 10);
        for _ in 0..3 {
            server.kill();
            wait_for_more(&echoes, 50);
            server = Server::start(&field);
            wait_for_more(&echoes, 50);
        }
        assert_eq!(idle.get("hello"), b"hello\n");

        // The table was kept: a NAT64 that forgets all finds both connections in it.
        gateway.reboot();
        wait_for_more(&echoes, 50);
        assert_eq!(idle.get("hello"), b"hello\n");
    });
    let accesses = nginx.accesses(4);
    let behind = server.who(site.pool, accesses[1].port);
    assert_eq!(behind, (site.address, idle.port()));
    assert_eq!(server.entries(Kind::Created).len(), 3);
    assert_eq!(server.entries(Kind::Deleted), []);
    assert_eq!(server.entries(Kind::Conflict), []);
    server.stop();
}

#[test]
fn new_connections_work_while_the_server_is_stopped_and_are_reported_when_it_is_back() {
    let field = Field::new();
    let site = &field.sites[0];
    let (mut server, _gateway, nginx) = known(&field);
    let mut before = Connection::open(site);
    assert_eq!(before.get("hello"), b"hello\n");
    server.stop();

    // The server's host says that nobody listens, and the NAT64 makes entries itself.
    let mut meanwhile = Connection::open(site);
    assert_eq!(meanwhile.get("hello"), b"hello\n");
    assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
    assert_eq!(before.get("hello"), b"hello\n");

    // When it is back, the next new client makes the NAT64 ask; then the server learns what was
    // made meanwhile, and is asked for new entries again.
    server = Server::start(&field);
    curl(site, "hello").unwrap();
    let accesses = nginx.accesses(6);
    let (at, whose) = (accesses[2].port, meanwhile.port());
    assert_eq!(server.who(site.pool, at), (site.address, whose));
    assert_eq!(server.who(site.pool, accesses[5].port).0, site.address);
    assert_eq!(before.get("hello"), b"hello\n");
    assert_eq!(meanwhile.get("hello"), b"hello\n");
    curl(site, "hello").unwrap();
    let accesses = nginx.accesses(9);
    assert_eq!(server.who(site.pool, accesses[8].port).0, site.address);

    assert_eq!(server.entries(Kind::Conflict), []);
    assert_eq!(server.entries(Kind::Deleted), []);
    server.stop();
}

/// New connections come all the time, from several clients at once, while the server comes and
/// goes.
#[test]
fn every_new_connection_works_and_is_in_the_log_while_the_server_comes_and_goes() {
    let field = Field::new();
    let site = &field.sites[0];
    let mut server = Server::start(&field);
    let nginx = Nginx::start(&field);
    // On a busy machine the client makes more entries while the server is gone than its share is.
    let secret = site.secret.to_str().unwrap();
    let _gateway = Gateway::start_with(site, &["--secret", secret, "--client-share", "1"]);
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(Connection::open(site).get("hello"), b"hello\n");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Meanwhile there are too many to be reported at once.
        for _ in 0..3 {
            wait_for_more(&count, 20);
            server.kill();
            wait_for_more(&count, 200);
            server = Server::start(&field);
        }
        wait_for_more(&count, 20);
    });
    let mut all = count.load(Ordering::Relaxed) as usize;
    // One more, so that the NAT64 asks again if it still thinks that the server is gone.
    curl(site, "hello").unwrap();
    all += 1;
    let accesses = nginx.accesses(all);
    wait_until("the log names all ports", || {
        let named = server.events().into_iter().filter_map(|event| Some(event.entry?.0));
        let named: HashSet<u16> = named.collect();
        accesses.iter().all(|access| named.contains(&access.port))
    });
    // The server may have made an entry, and died before it said so: then the NAT64 made another,
    // for the same client, and reports it against the table.
    let created = server.entries(Kind::Created);
    for (_, _, client, port) in server.entries(Kind::Conflict) {
        assert!(created.iter().any(|&(_, _, one, its_port)| (one, its_port) == (client, port)));
    }
    server.stop();
}
