//! Through the gateway to a server that delivers clients' packets, here a plain one: programs on
//! its host see the client's own address, whatever protocol they speak.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::FromRawFd;
use std::thread;

use crate::delivering::deliver;
use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6};
use crate::namespace::Namespace;
use crate::process::{PATIENCE, run, wait_until};
use crate::programs::Gateway;

const LENGTH: usize = 10_000_000;
const PORT: u16 = 5222;

/// A field with a server that delivers, the gateway, and a listener of the service.
fn start() -> (Field, Gateway, TcpListener) {
    let field = Field::new();
    field.server.inside(|| deliver(SERVICE, SERVICE6));
    let gateway = Gateway::start(&field.sites[0]);
    let listener =
        field.server.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap());
    (field, gateway, listener)
}

/// Two ends of a connection, and by which address the service knows the client.
fn connect(field: &Field, listener: &TcpListener) -> (TcpStream, TcpStream, Ipv6Addr) {
    let to = SocketAddr::from((SERVICE6, PORT));
    let client = field.client().inside(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
    let (service, from) = listener.accept().unwrap();
    for stream in [&client, &service] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    let SocketAddr::V6(from) = from else { unreachable!() };
    (client, service, *from.ip())
}

/// The first connection is by an entry of the gateway's own, as it knows no server yet.
fn become_known(field: &Field, listener: &TcpListener, gateway: &mut Gateway) {
    let (_client, _service, from) = connect(field, listener);
    assert_eq!(from, field.sites[0].pool.to_ipv6_mapped());
    gateway.wait_for("server 203.0.113.5 is known");
}

fn check_transfer(mut from: &TcpStream, mut to: &TcpStream) {
    let data = octets(LENGTH);
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&data).unwrap());
        let mut got = vec![0; LENGTH];
        to.read_exact(&mut got).unwrap();
        assert!(got == data, "what came is not what was sent");
    });
}

/// A counter of the namespace's IP, by its name in /proc/net/snmp.
fn counter(namespace: &Namespace, name: &str) -> u64 {
    let text = namespace.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|word| word == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
fn ten_megabytes_each_way_and_a_reboot_between() {
    let (field, mut gateway, listener) = start();
    become_known(&field, &listener, &mut gateway);
    let (client, service, from) = connect(&field, &listener);
    assert_eq!(from, field.sites[0].address);
    check_transfer(&client, &service);
    check_transfer(&service, &client);
    gateway.reboot();
    // It knows nothing any more: the server is asked about what opens nothing.
    check_transfer(&client, &service);
    check_transfer(&service, &client);
    for namespace in [&field.server, &field.sites[0].nat64] {
        assert_eq!(counter(namespace, "ReasmReqds"), 0, "the tunnel has no fragments");
        assert_eq!(counter(namespace, "FragCreates"), 0, "the tunnel has no fragments");
    }
    gateway.stop();
    assert!(gateway.counted("super_packets") > 100);
    assert!(gateway.counted("delivered") > 2 * (LENGTH as u64 / 1418));
}

#[test]
fn eight_connections_at_once() {
    let (field, mut gateway, listener) = start();
    become_known(&field, &listener, &mut gateway);
    let ends: Vec<_> = (0..8).map(|_| connect(&field, &listener)).collect();
    thread::scope(|scope| {
        for (client, service, _) in &ends {
            scope.spawn(|| check_transfer(client, service));
            scope.spawn(|| check_transfer(service, client));
        }
    });
}

/// A socket of an IP protocol. Its kernel makes no checksums for any of these.
fn raw(namespace: &Namespace, number: i32) -> UdpSocket {
    // SAFETY: takes numbers alone.
    let fd = namespace.inside(|| unsafe { libc::socket(libc::AF_INET6, libc::SOCK_RAW, number) });
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is ours alone. Sending and receiving are the same for all datagrams.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn other_protocols_and_ping() {
    let (field, mut gateway, listener) = start();
    become_known(&field, &listener, &mut gateway);
    let (service, address) = (SocketAddr::from((SERVICE6, 0)), field.sites[0].address);
    for number in [47, 50, 132, 253] {
        let (here, there) = (raw(field.client(), number), raw(&field.server, number));
        here.send_to(b"a question", service).unwrap();
        let mut buffer = [0; 64];
        let (length, from) = there.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"a question"[..], address.into()));
        there.send_to(b"an answer", from).unwrap();
        let (length, from) = here.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (&b"an answer"[..], SERVICE6.into()));
    }
    // Fragments of echo requests too, which cannot be translated. The client has to learn how long
    // they may be.
    let ping = |size| {
        let to = SERVICE6.to_string();
        let arguments = ["-6", "-n", "-c", "2", "-i", "0.2", "-W", "20", "-s", size, &to];
        String::from_utf8(run(field.client(), "ping", &arguments).stdout).unwrap()
    };
    wait_until("the client knows", || ping("4000").contains(" 0% packet loss"));
    for size in ["56", "1300", "4000"] {
        let text = ping(size);
        assert!(text.contains("2 packets transmitted, 2 received"), "size {size}: {text}");
    }
    gateway.stop();
    assert!(gateway.counted("tunnelled") >= 4 + 6);
}

#[test]
fn clients_learn_the_mtu_of_the_tunnel() {
    let (field, mut gateway, listener) = start();
    become_known(&field, &listener, &mut gateway);
    let (client, service, _) = connect(&field, &listener);
    check_transfer(&client, &service);
    // Of 1500 octets: 28 for IPv4 and UDP, 18 each for two tokens and an authenticator.
    let to = SERVICE6.to_string();
    let arguments = ["-6", "-n", "-c", "1", "-W", "20", "-M", "do", "-s", "1371", &to];
    wait_until("the client knows", || {
        let output = run(field.client(), "ping", &arguments);
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&said).contains("1418")
    });
    let fits = ["-6", "-n", "-c", "1", "-W", "20", "-M", "do", "-s", "1370", &to];
    assert!(run(field.client(), "ping", &fits).status.success());
}
