//! PROTOCOL.md section 11. Packets of clients are delivered on the host of the service: programs
//! that listen for IPv6 see the clients' own addresses.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, recvfrom, sendto, socket,
};

use crate::downloads::octets;
use crate::field::{Field, SERVICE, SERVICE6};
use crate::judge::eventlog::Kind;
use crate::namespace::Namespace;
use crate::process::{PATIENCE, run, wait_until};
use crate::programs::{Gateway, Nginx, Server, curl};

/// The commands by which DELIVERY.md makes the device, on a host that has no IPv6 of its own.
pub fn recipe() -> Vec<&'static str> {
    let page = include_str!("../../src/DELIVERY.md");
    let lines = page.lines().filter_map(|line| line.strip_prefix("    "));
    // Not those for ports of containers, and for packets that are translated.
    let others = ["fwmark", "1398", "100.64"];
    let is_other = |line: &&str| others.iter().any(|other| line.contains(other));
    let lines = lines.filter(|line| line.starts_with("ip ") && !is_other(line));
    let mut lines: Vec<_> = lines.collect();
    // Both recipes begin alike.
    let first = lines[0];
    lines.retain(|line| *line != first);
    lines.insert(0, first);
    assert_eq!(lines.len(), 6, "{lines:?}");
    lines
}

/// Makes the device as DELIVERY.md says.
pub fn make_device(field: &Field) {
    make_by(field, recipe());
}

fn make_by(field: &Field, lines: impl IntoIterator<Item = &'static str>) {
    for line in lines {
        let line = line.replace("nat64ho", "root");
        let arguments: Vec<_> = line.split(' ').skip(1).collect();
        let output = run(&field.server, "ip", &arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }
}

/// A server that delivers, a gateway that it knows, and nginx at IPv4 and IPv6 sockets.
pub fn delivering(field: &Field, options: &[&str]) -> (Server, Gateway, Nginx) {
    make_device(field);
    let server = Server::start_with(field, options);
    let nginx = Nginx::start_at(field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let mut gateway = Gateway::start(&field.sites[0]);
    // The first connection of a NAT64 that does not know the server.
    curl(&field.sites[0], "hello").unwrap();
    gateway.wait_for("is known");
    (server, gateway, nginx)
}

/// Answers each connection with all that it gets, and says who it was.
pub struct Echo {
    at: SocketAddrV6,
    thread: JoinHandle<SocketAddr>,
}

impl Echo {
    fn start(field: &Field, port: u16) -> Echo {
        Echo::start_at(field, (Ipv6Addr::UNSPECIFIED, port).into())
    }

    /// One that listens there.
    pub fn start_at(field: &Field, listens: SocketAddr) -> Echo {
        let at = SocketAddrV6::new(SERVICE6, listens.port(), 0, 0);
        let listener = field.server.inside(|| TcpListener::bind(listens).unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            let mut buffer = vec![0; 65_536];
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return from,
                    length => stream.write_all(&buffer[..length]).unwrap(),
                }
            }
        });
        Echo { at, thread }
    }

    pub fn connect(&self, field: &Field) -> TcpStream {
        let stream = field.client().inside(|| TcpStream::connect(self.at).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn peer(self) -> SocketAddr {
        self.thread.join().unwrap()
    }
}

pub fn exchange(stream: &mut TcpStream, what: &[u8]) {
    stream.write_all(what).unwrap();
    let mut got = vec![0; what.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == what, "other octets came back");
}

#[test]
fn section_11_nginx_sees_the_client_and_no_entry_is_made() {
    let field = Field::new();
    let (mut server, mut gateway, nginx) = delivering(&field, &["--deliver", "native"]);
    let site = &field.sites[0];
    let large = octets(10_000_000);
    nginx.put("large", &large);
    let entries = server.entries(Kind::Created).len();
    assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
    assert!(curl(site, "large").unwrap() == large);
    let seen: Vec<_> = nginx.accesses(3).into_iter().map(|access| access.address).collect();
    let client = IpAddr::V6(site.address);
    assert_eq!(seen, [IpAddr::V4(site.pool), client, client]);
    assert_eq!(server.entries(Kind::Created).len(), entries);
    gateway.stop();
    server.stop();
}

#[test]
fn section_11_both_ways_ten_megabytes_and_ping() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = delivering(&field, &["--deliver-port", "7=native"]);
    let echo = Echo::start(&field, 7);
    let mut stream = echo.connect(&field);
    let from = stream.local_addr().unwrap();
    for round in 0..10 {
        exchange(&mut stream, &octets(1_000_000)[round..]);
    }
    drop(stream);
    assert_eq!(echo.peer(), from);
    // What is for other ports, and pings, are as ever.
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    let service = SERVICE6.to_string();
    assert!(run(field.client(), "ping", &["-6", "-c", "1", "-W", "5", &service]).status.success());
    wait_until("nginx's connections have entries", || server.entries(Kind::Created).len() == 2);
    server.stop();
}

#[test]
fn section_11_udp_has_the_clients_address() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = delivering(&field, &["--deliver-port", "53=native"]);
    let service = SocketAddrV6::new(SERVICE6, 53, 0, 0);
    let bound = field.server.inside(|| UdpSocket::bind(service).unwrap());
    let client = field.client().inside(|| UdpSocket::bind("[::]:0").unwrap());
    for socket in [&bound, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    }
    let mut buffer = vec![0; 65_536];
    // The longest are fragments, both ways.
    let lengths = [(0, 0), (1, 1), (1000, 1000), (1370, 1370), (1371, 1371), (1452, 1452)];
    for (question, answer) in lengths.into_iter().chain([(10, 9000), (11, 60_000), (9001, 1)]) {
        // What is lost on the way is asked for again; and the first that is too long for the tunnel
        // is: the client is told how long it may be.
        let answered = (0..PATIENCE.as_secs()).any(|_| {
            client.send_to(&octets(question), service).unwrap();
            let Ok((got, from)) = bound.recv_from(&mut buffer) else { return false };
            assert!(buffer[..got] == octets(question), "{question}");
            assert_eq!(from.ip(), IpAddr::V6(field.sites[0].address));
            bound.send_to(&octets(answer), from).unwrap();
            let Ok((got, from)) = client.recv_from(&mut buffer) else { return false };
            assert!(buffer[..got] == octets(answer), "{answer} back");
            assert_eq!(from, SocketAddr::V6(service));
            true
        });
        assert!(answered, "{question}, {answer}");
    }
    server.stop();
}

#[test]
fn section_11_a_connection_outlives_reboots_and_restarts() {
    let field = Field::new();
    let (mut server, gateway, _nginx) = delivering(&field, &["--deliver", "native"]);
    let echo = Echo::start(&field, 7);
    let mut stream = echo.connect(&field);
    exchange(&mut stream, b"before");
    gateway.reboot();
    exchange(&mut stream, b"after a reboot");
    server.stop();
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    exchange(&mut stream, b"after a restart");
    server.kill();
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    exchange(&mut stream, b"after a kill");
    drop(stream);
    assert_eq!(echo.peer().ip(), IpAddr::V6(field.sites[0].address));
    server.stop();
}

#[test]
fn section_11_a_service_that_speaks_first_after_a_restart_reaches_its_client() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = delivering(&field, &["--deliver", "native"]);
    let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 7, 0, 0);
    let listener = field.server.inside(|| TcpListener::bind(any).unwrap());
    let to = SocketAddrV6::new(SERVICE6, 7, 0, 0);
    let mut client = field.client().inside(|| TcpStream::connect(to).unwrap());
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut service, _) = listener.accept().unwrap();
    let mut speak = |what: &[u8]| {
        service.write_all(what).unwrap();
        let mut got = vec![0; what.len()];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, what);
    };
    speak(b"before");
    server.stop();
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    speak(b"after a restart");
    server.kill();
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    speak(b"after a kill");
    server.stop();
}

#[test]
fn section_11_an_idle_connection_with_an_entry_goes_on_when_delivery_begins() {
    let field = Field::new();
    make_device(&field);
    let mut server = Server::start(&field);
    let nginx = Nginx::start_at(&field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let mut gateway = Gateway::start(&field.sites[0]);
    curl(&field.sites[0], "hello").unwrap();
    gateway.wait_for("is known");
    let listener = field.server.inside(|| TcpListener::bind((SERVICE, 7)).unwrap());
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).unwrap();
        }
    });
    let to = SocketAddrV6::new(SERVICE6, 7, 0, 0);
    let mut stream = field.client().inside(|| TcpStream::connect(to).unwrap());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(&mut stream, b"by the cache");
    server.stop();
    let mut server = Server::start_with(&field, &["--deliver", "native"]);
    gateway.reboot();
    exchange(&mut stream, b"after a reboot");
    assert_eq!(curl(&field.sites[0], "hello").unwrap(), b"hello\n");
    let seen = nginx.accesses(2).pop().unwrap().address;
    assert_eq!(seen, IpAddr::V6(field.sites[0].address));
    drop(stream);
    echo.join().unwrap();
    server.stop();
}

/// A router on the way to the client tells how long packets may be, and so does one on the way to
/// the server.
#[test]
fn section_11_packets_too_big_are_honoured_both_ways() {
    let field = Field::narrow(1300, 1400);
    let (mut server, _gateway, nginx) = delivering(&field, &["--deliver", "native"]);
    let large = octets(2_000_000);
    nginx.put("large", &large);
    let site = &field.sites[0];
    assert!(curl(site, "large").unwrap() == large);
    let echo = Echo::start(&field, 7);
    let mut stream = echo.connect(&field);
    (0..10).for_each(|_| exchange(&mut stream, &octets(200_000)));
    drop(stream);
    assert_eq!(echo.peer().ip(), IpAddr::V6(site.address));
    assert_eq!(nginx.accesses(2).pop().unwrap().address, IpAddr::V6(site.address));
    server.stop();
}

/// A socket for a protocol that nobody knows.
struct Raw {
    socket: OwnedFd,
}

impl Raw {
    const PROTOCOL: u32 = 253;

    fn new(host: &Namespace) -> Raw {
        let protocol = Protocol::from_raw(NonZero::new(Raw::PROTOCOL).unwrap());
        let open = || socket(AddressFamily::INET6, SocketType::RAW, Some(protocol)).unwrap();
        let socket = host.inside(open);
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
        Raw { socket }
    }

    fn send(&self, what: &[u8], to: Ipv6Addr) {
        let to = SocketAddrV6::new(to, 0, 0, 0);
        sendto(&self.socket, what, SendFlags::empty(), &to).unwrap();
    }

    fn receive(&self) -> (Vec<u8>, IpAddr) {
        let mut buffer = vec![0; 2048];
        let (length, _, from) =
            recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()).unwrap();
        buffer.truncate(length);
        let from = SocketAddr::try_from(from.expect("a sender")).unwrap();
        (buffer, from.ip())
    }
}

#[test]
fn section_11_a_protocol_that_no_nat64_translates_passes() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) = delivering(&field, &["--deliver", "native"]);
    let site = &field.sites[0];
    let (client, service) = (Raw::new(&site.client), Raw::new(&field.server));
    client.send(b"a question", SERVICE6);
    assert_eq!(service.receive(), (b"a question".to_vec(), IpAddr::V6(site.address)));
    service.send(b"an answer", site.address);
    assert_eq!(client.receive(), (b"an answer".to_vec(), IpAddr::V6(SERVICE6)));
    server.stop();
}

#[test]
fn section_11_a_device_that_is_missing_is_named() {
    let field = Field::new();
    let (state, log) = (field.path("state"), field.path("events.log"));
    let start = |options: &[&str]| {
        let fixed = ["serve", "--listen", "127.0.0.1", "--state", state.to_str().unwrap(), "--log"];
        let arguments = [&fixed[..], &[log.to_str().unwrap()], options].concat();
        let output = run(&field.server, env!("CARGO_BIN_EXE_nat64handoff"), &arguments);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = start(&["--deliver", "native"]);
    assert!(said.contains("there is no device ho0: ip tuntap add dev ho0"), "{said}");
    field.server.ip("tuntap add dev ho0 mode tun vnet_hdr");
    let said = start(&["--deliver-port", "80=native", "--reactors", "2"]);
    assert!(said.contains("without multi_queue"), "{said}");
    let said = start(&["--deliver", "native", "--reactors", "1"]);
    assert!(said.contains("has no address 64:ff9b::127.0.0.1: ip -6 addr add"), "{said}");
}

/// The device is removed under the server, and made again: a connection goes on, and who comes
/// meanwhile is served as with cache.
#[test]
fn section_11_a_device_that_goes_away_and_comes_again() {
    let field = Field::new();
    let (mut server, _gateway, _nginx) =
        delivering(&field, &["--deliver", "native", "--reactors", "2"]);
    let echo = Echo::start(&field, 7);
    let mut stream = echo.connect(&field);
    exchange(&mut stream, b"before");
    let entries = server.entries(Kind::Created).len();
    field.server.ip("link del ho0");
    wait_until("it says so", || server.said().contains("the device ho0 is gone"));
    // By an entry: nginx has it from the NAT64's address, at the socket of IPv4.
    curl(&field.sites[0], "hello").unwrap();
    wait_until("it has an entry", || server.entries(Kind::Created).len() == entries + 1);
    // The rule is there still.
    make_by(&field, recipe().into_iter().filter(|line| !line.contains(" rule ")));
    wait_until("it says so", || server.said().contains("the device ho0 is there again"));
    exchange(&mut stream, b"after");
    drop(stream);
    assert_eq!(echo.peer().ip(), IpAddr::V6(field.sites[0].address));
    server.stop();
}

/// Several reactors share the device: an answer may come out at another one than the NAT64's.
#[test]
fn section_11_answers_at_any_reactor_find_their_way() {
    let field = Field::of_two();
    make_device(&field);
    let options = ["--deliver", "native", "--reactors", "3"];
    let mut server = Server::start_with(&field, &options);
    let nginx = Nginx::start_at(&field, &[&format!("{SERVICE}:80"), "[::]:80 ipv6only=on"]);
    let mut gateways: Vec<_> = field.sites.iter().map(Gateway::start).collect();
    for (site, gateway) in field.sites.iter().zip(&mut gateways) {
        curl(site, "hello").unwrap();
        gateway.wait_for("is known");
    }
    for _ in 0..10 {
        for site in &field.sites {
            assert_eq!(curl(site, "hello").unwrap(), b"hello\n");
        }
    }
    // The kernel forgets after three seconds at which queue a flow came in.
    let echo = Echo::start(&field, 7);
    let mut stream = echo.connect(&field);
    exchange(&mut stream, b"at once");
    thread::sleep(Duration::from_secs(4));
    exchange(&mut stream, b"later");
    drop(stream);
    echo.peer();
    let seen = nginx.accesses(22);
    for site in &field.sites {
        let its = |address| address == IpAddr::V6(site.address);
        assert_eq!(seen.iter().filter(|access| its(access.address)).count(), 10);
    }
    drop(gateways);
    server.stop();
}
