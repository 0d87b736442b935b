//! A gateway with several queues, each with a thread.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6};
use crate::judge::eventlog::Kind;
use crate::process::wait_until;
use crate::programs::{Gateway, Server};
use crate::udp::Echo;

/// More than there are queues, so that each has some.
const FLOWS: usize = 48;
const SENT: usize = 300_000;
const PORT: u16 = 81;

/// Sends back what it gets.
fn start_echo(field: &Field) {
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, PORT)).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let (mut from, mut to) = {
                    let stream = stream.unwrap();
                    (stream.try_clone().unwrap(), stream)
                };
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
}

fn connect(field: &Field) -> Vec<TcpStream> {
    let connect = |_| {
        let stream = field.client().inside(|| TcpStream::connect((SERVICE6, PORT)).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    };
    (0..FLOWS).map(connect).collect()
}

/// All send and read at once, and each gets what it sent.
fn exchange(streams: &[TcpStream]) {
    let sent = octets(SENT);
    thread::scope(|scope| {
        for stream in streams {
            let (mut reads, mut writes, sent) = (stream, stream, &sent);
            scope.spawn(move || writes.write_all(sent).unwrap());
            scope.spawn(move || {
                let mut got = vec![0; SENT];
                reads.read_exact(&mut got).unwrap();
                assert!(got == *sent, "what comes back is not what was sent");
            });
        }
    });
}

/// With a server and without; over a reboot; and a line in the log for each entry, once.
#[test]
fn flows_of_all_queues_are_translated_and_logged() {
    for with_server in [false, true] {
        let field = Field::new();
        let site = &field.sites[0];
        let mut server = with_server.then(|| Server::start(&field));
        let log = field.path("gateway.log");
        let options = ["--queues", "3", "--log", log.to_str().unwrap()];
        let mut gateway = Gateway::start_with(site, &options);
        start_echo(&field);
        let _echo = Echo::start(&field);
        let socket = site.client.inside(|| UdpSocket::bind((site.address, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Echo::ask(&socket, "hello");
        if let Some(server) = &mut server {
            server.wait_until_known(site.pool);
        }
        let streams = connect(&field);
        exchange(&streams);
        // The first queue's thread is that of the process. One that waits only runs once or twice.
        let turns = ["nat64handoff", "queue-1", "queue-2"].map(|name| gateway.turns(name));
        assert!(turns.iter().all(|&turns| turns > 20), "{turns:?}");
        if with_server {
            gateway.reboot();
            exchange(&streams);
        }
        let ports: Vec<_> = streams.iter().map(|s| s.local_addr().unwrap().port()).collect();
        let lines = || std::fs::read_to_string(&log).unwrap_or_default();
        let created = |port: u16| {
            let client = format!("]:{port}");
            let is_its = |line: &&str| {
                let mut words = line.split_whitespace();
                words.any(|word| word == "Created") && words.any(|word| word.ends_with(&client))
            };
            lines().lines().filter(is_its).count()
        };
        wait_until("all entries are in the gateway's log", || {
            ports.iter().all(|&port| created(port) == 1 + usize::from(with_server))
        });
        if let Some(server) = &mut server {
            let of = |port| {
                let created = server.entries(Kind::Created);
                created
                    .iter()
                    .filter(|&&(_, _, address, of)| (address, of) == (site.address, port))
                    .count()
            };
            assert!(
                ports.iter().all(|&port| of(port) == 1),
                "an entry for each, and no second one"
            );
        }
        drop(streams);
        gateway.stop();
        if let Some(server) = &mut server {
            server.stop();
        }
    }
}
