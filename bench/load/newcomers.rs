//! Newcomers: NAT64s that prove themselves to a server whose tables are all taken, again and again.
//!
//! The tables are taken by two crowds, each with more than the share of its /16, and by others. So
//! there is always a table that goes for a newcomer, as fast as tables go at all, and each has as
//! many entries as are deleted at a time.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nat64handoff::handoff::entry::{Client, Entry, MappedPort};
use nat64handoff::handoff::message::{
    self, ENTRY_LENGTH, MESSAGE_HEADER, MULTI_REPORT_MAX, PROTOCOL_IDENTIFIER, VALIDATION_PORT,
    message_type,
};
use nat64handoff::ip::build;
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;
use rustix::net::{AddressFamily, SocketType};

use crate::nat64::{CLIENT_PORT, SERVICE, client_address};
use crate::net::{self, Inbox};

/// What `--max-nat64s` is.
pub const NAT64S_MAX: u32 = 2000;
/// The NAT64s of each crowd. A /16 has a share of a quarter of [`NAT64S_MAX`].
const CROWD: u32 = 800;
const CROWDS: u32 = 2;
/// The entries of each table: as many as are deleted at a time.
const ENTRIES: u32 = 256;
/// Newcomers, and how many of them have a TCP connection with this host.
const NEWCOMERS: u32 = 4096;
const CONNECTED: u32 = 256;
/// NAT64s that ask for a validation packet at a time.
const ASK_AT_ONCE: usize = 64;
/// The wait for an answer before a request is sent again.
const PATIENCE: Duration = Duration::from_millis(5);
const TRIES: usize = 2000;

/// All of them ask from one port.
pub struct Newcomers {
    server: SocketAddrV4,
    control: UdpSocket,
    proofs: Vec<(Ipv4Addr, Vec<u8>)>,
    inbox: Inbox,
    _connections: Vec<(OwnedFd, TcpStream)>,
}

impl Newcomers {
    /// Takes all tables of the server but `others`, which are taken already, and has newcomers get
    /// the proofs of their addresses. These are good for a minute at least.
    pub fn at_the_limit(server: SocketAddrV4, others: u32) -> Newcomers {
        let control = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a control port");
        net::prepare(&control);
        net::take_apart(&control);
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let discard = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, VALIDATION_PORT));
        let discard = discard.expect("UDP port 9, for root");
        discard.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut newcomers = Newcomers {
            server,
            control,
            proofs: Vec::new(),
            inbox: Inbox::new(),
            _connections: Vec::new(),
        };
        let rest = NAT64S_MAX - others - CROWDS * CROWD;
        // The crowds first: none of them finds room where most of it is taken.
        let crowd = (0..CROWDS * CROWD).map(|number| {
            let within = number / CROWDS;
            Ipv4Addr::new(127, 64 + (number % CROWDS) as u8, within as u8, (within >> 8) as u8)
        });
        let taken: Vec<_> = crowd.chain((0..rest).map(|number| spread(66, number))).collect();
        for (address, proof) in newcomers.get_proofs(&discard, &taken) {
            newcomers.ask(address, &proof);
            for from in (0..ENTRIES).step_by(report_of_entries(address, 0, u32::MAX).1 as usize) {
                let (report, _) = report_of_entries(address, from, ENTRIES);
                newcomers.ask(address, &report);
            }
        }
        let addresses: Vec<_> = (0..NEWCOMERS).map(|number| spread(160, number)).collect();
        newcomers.proofs = newcomers.get_proofs(&discard, &addresses);
        newcomers._connections = connect(&addresses[..CONNECTED as usize], *server.ip());
        newcomers
    }

    /// Datagram number so and so: the proof of one of them.
    pub fn prove(&mut self, number: u64) {
        let (address, proof) = &self.proofs[number as usize % self.proofs.len()];
        net::send_from(&self.control, *address, self.server, proof);
    }

    /// Takes what was answered.
    pub fn drain(&mut self) {
        while self.inbox.receive(&self.control, false) {}
    }

    /// Sends a request of a NAT64 until it is answered.
    fn ask(&self, address: Ipv4Addr, request: &[u8]) {
        let mut reply = [0; 2048];
        let is_answered = |_| {
            net::send_from(&self.control, address, self.server, request);
            self.control.recv(&mut reply).is_ok()
        };
        assert!((0..TRIES).any(is_answered), "no answer to {address}");
    }

    /// Each address, with the request that proves it.
    fn get_proofs(&self, discard: &UdpSocket, addresses: &[Ipv4Addr]) -> Vec<(Ipv4Addr, Vec<u8>)> {
        let mut proofs = HashMap::new();
        let mut challenge = [0; 2048];
        for addresses in addresses.chunks(ASK_AT_ONCE) {
            for _ in 0..TRIES {
                let missing = addresses.iter().filter(|&address| !proofs.contains_key(address));
                let mut asked = 0;
                for &address in missing {
                    let to = SocketAddrV4::new(address, 7);
                    let request = with_token(address, &build::ipv4_udp(SERVICE, to, b"anything"));
                    net::send_from(&self.control, address, self.server, &request);
                    asked += 1;
                }
                while asked > 0
                    && let Ok(length) = discard.recv(&mut challenge)
                {
                    // It begins with the token that it was asked for with.
                    let address = challenge[MESSAGE_HEADER..][..4].try_into().unwrap();
                    let address = Ipv4Addr::from_octets(address);
                    let here = SocketAddrV4::new(address, VALIDATION_PORT);
                    let proof = build::ipv4_udp(self.server, here, &challenge[..length]);
                    proofs.insert(address, with_token(address, &proof));
                    asked -= 1;
                }
                if addresses.iter().all(|address| proofs.contains_key(address)) {
                    break;
                }
            }
        }
        let proof = |&address| (address, proofs.remove(&address).expect("a validation packet"));
        addresses.iter().map(proof).collect()
    }
}

/// Addresses of 64 networks /16, from 127.`first`.0.0 on.
fn spread(first: u8, number: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, first + (number % 64) as u8, (number / 64) as u8, 1)
}

/// `4`: the address, and what fills it up.
fn token(address: Ipv4Addr, payload: &mut Vec<u8>) {
    let token = u128::from(address.to_bits()) << 96 | 0x74_6f6b_656e;
    message::emit(payload, message_type::TOKEN, &token.to_be_bytes());
}

/// `4, IPv4`
fn with_token(address: Ipv4Addr, packet: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    token(address, &mut payload);
    payload.extend_from_slice(packet);
    payload
}

/// A multi report of entries `from` to below `end`, as many as it can have, and their number.
fn report_of_entries(address: Ipv4Addr, from: u32, end: u32) -> (Vec<u8>, u32) {
    let mut payload = Vec::new();
    message::emit(&mut payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
    token(address, &mut payload);
    let mut number = from;
    while number < end && payload.len() + MESSAGE_HEADER + 16 + ENTRY_LENGTH <= MULTI_REPORT_MAX {
        let (prefix, client) =
            (WELL_KNOWN_PREFIX, client_address(address.to_bits() & 0xffff, number));
        message::emit(&mut payload, message_type::AUTHENTICATOR, &client.octets());
        let client = Client { prefix, address: client, port: CLIENT_PORT };
        let port = MappedPort(10_000 + number as u16);
        payload.extend_from_slice(&Entry { port, client }.emit());
        number += 1;
    }
    (payload, number - from)
}

/// TCP connections from these addresses to this one.
fn connect(addresses: &[Ipv4Addr], to: Ipv4Addr) -> Vec<(OwnedFd, TcpStream)> {
    let service = TcpListener::bind((to, 0)).expect("a service");
    let here = service.local_addr().unwrap();
    let connect = |&address: &Ipv4Addr| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        let socket = socket.expect("a socket");
        rustix::net::bind(&socket, &SocketAddrV4::new(address, 0)).expect("an address");
        rustix::net::connect(&socket, &here).expect("a connection");
        (socket, service.accept().expect("a connection").0)
    };
    addresses.iter().map(connect).collect()
}
