//! PROTOCOL.md section 11: `--deliver auto` follows what listens.

use std::io::{ErrorKind, Read, Result, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::field::{Field, SERVICE, SERVICE6};
use crate::judge::eventlog::Kind;
use crate::native::delivering;
use crate::process::{PATIENCE, wait_until};
use crate::programs::curl;

/// A connection of the client, and whom its program sees.
fn connect(field: &Field, listener: &TcpListener, port: u16) -> (TcpStream, TcpStream, IpAddr) {
    let to = SocketAddr::from((SERVICE6, port));
    let client = field.client().inside(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap();
    let (program, from) = listener.accept().unwrap();
    for stream in [&client, &program] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (client, program, from.ip().to_canonical())
}

fn exchange(when: &str, client: &mut TcpStream, program: &mut TcpStream) {
    let mut got = [0; 4];
    client.write_all(b"here").unwrap();
    program.read_exact(&mut got).unwrap_or_else(|error| panic!("{when}: {error}"));
    program.write_all(&got).unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"here");
}

/// A socket whose port another one had. A process that another test forks just now holds that one,
/// too, until it calls execve.
fn bound<S>(at: &str, bind: impl Fn() -> Result<S>) -> S {
    let mut socket = None;
    wait_until(&format!("{at} is free"), || {
        socket = match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            bound => Some(bound.unwrap()),
        };
        socket.is_some()
    });
    socket.unwrap()
}

#[test]
fn section_11_auto_follows_the_programs_that_listen() {
    let field = Field::new();
    let (mut server, gateway, nginx) = delivering(&field, &["--deliver", "auto"]);
    let site = &field.sites[0];
    let (by_cache, by_host) = (IpAddr::V4(site.pool), IpAddr::V6(site.address));
    // nginx listens for both.
    let mut asked = 1;
    wait_until("its port is delivered to", || {
        assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
        asked += 1;
        nginx.accesses(asked).pop().unwrap().address == by_host
    });

    // A program of IPv4 alone, and then one of IPv6: the port becomes that one's.
    let listen = |at: &str| bound(at, || field.server.inside(|| TcpListener::bind(at)));
    let old = listen(&format!("{SERVICE}:7"));
    let (mut client, mut program, from) = connect(&field, &old, 7);
    assert_eq!(from, by_cache);
    drop(old);
    let new = listen("[::]:7");
    wait_until("the port is delivered to", || {
        let (_client, _program, from) = connect(&field, &new, 7);
        from == by_host
    });
    exchange("by the cache", &mut client, &mut program);

    // What is open goes on when that one does not listen any more, and when the NAT64 reboots.
    let (mut native, mut its_program, from) = connect(&field, &new, 7);
    assert_eq!(from, by_host);
    drop(new);
    let old = listen(&format!("{SERVICE}:7"));
    // A client is refused until the server has looked.
    let to = SocketAddr::from((SERVICE6, 7));
    let since = Instant::now();
    let cached = loop {
        match field.client().inside(|| TcpStream::connect_timeout(&to, PATIENCE)) {
            Ok(client) => break client,
            Err(refused) => assert!(since.elapsed() < PATIENCE, "{refused}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(old.accept().unwrap().1.ip(), by_cache);
    exchange("nobody listens", &mut native, &mut its_program);
    gateway.reboot();
    exchange("after a reboot", &mut native, &mut its_program);
    let port = native.local_addr().unwrap().port();
    let created = server.entries(Kind::Created);
    assert!(created.iter().all(|(.., client_port)| *client_port != port), "{created:?}");
    drop(cached);
    server.stop();
}

#[test]
fn section_11_auto_of_one_port_of_udp() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = delivering(&field, &["--deliver-port", "53=auto"]);
    let site = &field.sites[0];
    let client = field.client().inside(|| UdpSocket::bind("[::]:0").unwrap());
    let service = SocketAddr::from((SERVICE6, 53));
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let seen = |program: &UdpSocket| {
        program.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut buffer = [0; 8];
        client.send_to(b"question", service).unwrap();
        let (length, from) = program.recv_from(&mut buffer).ok()?;
        program.send_to(&buffer[..length], from).unwrap();
        let (_, answered) = client.recv_from(&mut buffer).ok()?;
        (answered == service).then(|| from.ip().to_canonical())
    };
    // At no address of its own it might answer from another: it stays in the cache.
    let any = field.server.inside(|| UdpSocket::bind("[::]:53").unwrap());
    wait_until("it is asked by the cache", || seen(&any) == Some(IpAddr::V4(site.pool)));
    drop(any);
    let own = bound("its port", || field.server.inside(|| UdpSocket::bind(service)));
    // The client's entry is for its port: another has none.
    wait_until("it has the client's own packets", || {
        let mut buffer = [0; 8];
        let client = field.client().inside(|| UdpSocket::bind("[::]:0").unwrap());
        client.send_to(b"question", service).unwrap();
        own.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        own.recv_from(&mut buffer).is_ok_and(|(_, from)| from.ip() == IpAddr::V6(site.address))
    });
    server.stop();
}
