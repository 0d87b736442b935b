//! Two clients of a NAT64 reach each other by their public addresses and ports.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};

use crate::field::{Field, SERVICE, SERVICE6};
use crate::pool::two_addresses;
use crate::process::PATIENCE;
use crate::programs::Gateway;

/// Where the service tells who one is from outside.
const PORT: u16 = 7777;

/// A client's socket, and the address and port by which others reach it.
struct Peer {
    socket: UdpSocket,
    address: Ipv6Addr,
    public: SocketAddrV6,
}

impl Peer {
    fn new(field: &Field, service: &UdpSocket, address: Ipv6Addr) -> Peer {
        let socket = field.client().inside(|| UdpSocket::bind((address, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"who am I?", (SERVICE6, PORT)).unwrap();
        let (_, from) = service.recv_from(&mut [0; 100]).unwrap();
        let SocketAddr::V4(from) = from else { panic!("{from}") };
        let [a, b, c, d] = from.ip().octets();
        let of = |high, low| u16::from_be_bytes([high, low]);
        let behind = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, of(a, b), of(c, d));
        Peer { socket, address, public: SocketAddrV6::new(behind, from.port(), 0, 0) }
    }

    fn get(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.socket.recv_from(&mut buffer).unwrap();
        buffer.truncate(length);
        (buffer, from)
    }
}

#[test]
fn clients_reach_each_other_by_their_public_ports() {
    let field = Field::new();
    let site = &field.sites[0];
    let pool = two_addresses(&field);
    let service = field.server.inside(|| UdpSocket::bind((SERVICE, PORT)).unwrap());
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut gateway = Gateway::start_of(site, &pool, &[]);

    // Four of one address, and one of the other, at least.
    let mut peers = Vec::new();
    for number in 0..12 {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number);
        field.client().ip(&format!("address add {address}/64 dev out nodad"));
        peers.push(Peer::new(&field, &service, address));
    }
    let (one, others) = peers.split_first().unwrap();
    let of_same = |other: &&Peer| other.public.ip() == one.public.ip();
    assert!(others.iter().any(|other| of_same(&other)), "all others have the other address");
    assert!(!others.iter().all(|other| of_same(&other)), "nobody has the other address");

    for other in others {
        for data in [&b"hello"[..], &[7; 10_000]] {
            one.socket.send_to(data, other.public).unwrap();
            assert_eq!(other.get(), (data.to_vec(), one.public.into()));
            other.socket.send_to(data, one.public).unwrap();
            assert_eq!(one.get(), (data.to_vec(), other.public.into()));
        }
    }

    // The port is that of TCP as well: a listener there is reached.
    let other = others.last().unwrap();
    let at = (other.address, other.socket.local_addr().unwrap().port());
    let listener = field.client().inside(|| TcpListener::bind(at).unwrap());
    let mut to = field.client().inside(|| TcpStream::connect(other.public).unwrap());
    let (mut from, peer) = listener.accept().unwrap();
    assert!(pool.iter().any(|address| peer.to_string().contains(&behind(*address))), "{peer}");
    for stream in [&to, &from] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let data: Vec<u8> = (0..3_000_000).map(|i: u32| (i % 251) as u8).collect();
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        to.write_all(&sent).unwrap();
        to
    });
    let mut got = vec![0; data.len()];
    from.read_exact(&mut got).unwrap();
    assert!(got == data);
    from.write_all(b"bye").unwrap();
    let mut to = writer.join().unwrap();
    to.read_exact(&mut got[..3]).unwrap();
    assert_eq!(&got[..3], b"bye");

    // Who is not there any more: its host says so, and that reaches who sent.
    let gone = peers.pop().unwrap();
    let one = &peers[0];
    let public = gone.public;
    drop((gone, listener));
    one.socket.connect(public).unwrap();
    one.socket.send(b"are you there?").unwrap();
    let error = one.socket.recv(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    gateway.stop();
}

/// As in an address behind the prefix.
fn behind(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("64:ff9b::{:x}:{:x}", u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}
