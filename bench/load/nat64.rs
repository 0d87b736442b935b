//! One NAT64 of the load: its sockets, the validation, its requests, and what their replies must
//! be.
//!
//! Requests are made from templates, into which only the client is written. A client's address has
//! its number and the complement of it, so that the checksum of its packets is always the same.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::Duration;

use nat64handoff::handoff::message::{self, PROTOCOL_IDENTIFIER, VALIDATION_PORT, message_type};
use nat64handoff::handoff::ports::TABLE_CAPACITY;
use nat64handoff::ip::{address::synthesize, build};
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;

use crate::net::{self, Burst};

/// The service that embedded packets are to or from.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 5), 443);
pub const CLIENT_PORT: u16 = 40_000;
const DATA: [u8; 66] = [b'x'; 66];
/// Clients are visited in an order that does not help caches. An odd stride visits all of them.
const STRIDE: u32 = 2_654_435_761;
/// Clients of a NAT64, known and new: they do not fill its table.
const CLIENTS_MAX: u32 = TABLE_CAPACITY as u32 - 1000;
/// The longest wait for a reply.
const PATIENCE: Duration = Duration::from_millis(500);
/// The wait for a validation packet before the next try: the server does not answer each with one.
const CHALLENGE_PATIENCE: Duration = Duration::from_millis(2);
const CHALLENGE_TRIES: u32 = 2500;

/// Octets of a message of type 4 or 6 with 16 octets of data.
const TAG: usize = message::MESSAGE_HEADER + 16;
/// Octets of `6, 7`, with which every reply begins.
pub const MAPPING: usize = TAG + message::ENTRY_LENGTH;
const IPV6: usize = 40;
const IPV4: usize = 20;
const UDP: usize = 8;
/// `4, 6, IPv6`
pub const CLIENT_REQUEST: usize = 2 * TAG + IPV6 + UDP + DATA.len();
/// `4, IPv4`
pub const SERVICE_REQUEST: usize = TAG + IPV4 + UDP + DATA.len();
/// `1, 4, 6, 7`
pub const REPORT_REQUEST: usize =
    message::MESSAGE_HEADER + PROTOCOL_IDENTIFIER.len() + 2 * TAG + message::ENTRY_LENGTH;

/// The offset of the client's address in a message of type 7.
const ENTRY_ADDRESS: usize = message::MESSAGE_HEADER + 2 + 12;

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A packet of a client that the table has.
    Known,
    /// A packet of a client that never spoke before.
    New,
    /// A packet to a client that the table has.
    Service,
    /// A report of an entry that the table has.
    Report,
}

/// The length of the reply to `kind`.
const fn reply_length(kind: Kind) -> usize {
    match kind {
        Kind::Known | Kind::New => MAPPING + CLIENT_REQUEST - 2 * TAG,
        Kind::Service => MAPPING + SERVICE_REQUEST - TAG,
        Kind::Report => MAPPING,
    }
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The server: replies must be right.
    Server,
    /// An echo, which knows no clients: replies must have the right length.
    Echo,
}

/// A request that has no reply yet.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub kind: Kind,
    client: u32,
    /// When, in nanoseconds since the load's start.
    pub at: u64,
}

/// Which request a reply answers.
pub enum Answer {
    /// This one. The number of requests before it that have no reply: they are probably lost.
    To(Asked, usize),
    /// One that had been given up.
    Late,
}

pub struct Nat64 {
    pub control: UdpSocket,
    pub address: Ipv4Addr,
    number: u32,
    /// So many clients are in a /64: each in one of its own, but where it is set otherwise.
    pub hosts: u32,
    token: [u8; 16],
    peer: Peer,
    server: SocketAddrV4,
    client_request: Vec<u8>,
    service_request: Vec<u8>,
    report_request: Vec<u8>,
    /// The mapped port of each known client, and 0 until it is seen.
    ports: Vec<u16>,
    /// Requests about known clients so far.
    turns: u32,
    /// The next new client.
    next_new: u32,
    pub asked: VecDeque<Asked>,
    /// Counts replies, so that some of them are compared in full.
    compared: u32,
}

/// `127.1.x.y`
pub fn nat64_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 1, (number / 200) as u8, 1 + (number % 200) as u8)
}

fn token_of(number: u32) -> [u8; 16] {
    (u128::from(number) | 0x746f_6b65_6e00 << 64).to_be_bytes()
}

impl Nat64 {
    /// With `known` clients, a power of 2, of which the server does not know yet.
    pub fn new(number: u32, known: u32, peer: Peer, server: SocketAddrV4) -> Nat64 {
        assert!(known.is_power_of_two() && known <= CLIENTS_MAX);
        let address = nat64_address(number);
        let control = UdpSocket::bind((address, 0)).expect("a control port");
        net::prepare(&control);
        control.connect(server).unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let token = token_of(number);

        let mut client_request = Vec::new();
        message::emit(&mut client_request, message_type::TOKEN, &token);
        message::emit(&mut client_request, message_type::AUTHENTICATOR, &[0; 16]);
        let from = SocketAddrV6::new(client_address(number, 0), CLIENT_PORT, 0, 0);
        let synthesized = synthesize(WELL_KNOWN_PREFIX, *SERVICE.ip());
        let to = SocketAddrV6::new(synthesized, SERVICE.port(), 0, 0);
        client_request.extend_from_slice(&build::ipv6_udp(from, to, &DATA));
        assert_eq!(client_request.len(), CLIENT_REQUEST);

        let mut service_request = Vec::new();
        message::emit(&mut service_request, message_type::TOKEN, &token);
        let to = SocketAddrV4::new(address, 1);
        service_request.extend_from_slice(&build::ipv4_udp(SERVICE, to, &DATA));
        // No checksum, which IPv4 permits: it would depend on the port.
        service_request[TAG + IPV4 + 6..][..2].fill(0);
        assert_eq!(service_request.len(), SERVICE_REQUEST);

        let mut report_request = Vec::new();
        message::emit(&mut report_request, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
        message::emit(&mut report_request, message_type::TOKEN, &token);
        message::emit(&mut report_request, message_type::AUTHENTICATOR, &[0; 16]);
        let entry = [&[0; 2], &WELL_KNOWN_PREFIX.0[..], &[0; 16], &CLIENT_PORT.to_be_bytes()];
        message::emit(&mut report_request, message_type::ENTRY, &entry.concat());
        assert_eq!(report_request.len(), REPORT_REQUEST);

        Nat64 {
            control,
            address,
            number,
            hosts: 1,
            token,
            peer,
            server,
            client_request,
            service_request,
            report_request,
            ports: vec![0; known as usize],
            turns: 0,
            next_new: known,
            asked: VecDeque::with_capacity(1024),
            compared: 0,
        }
    }

    /// Proves its address. The server may not listen yet, and may not validate the first request.
    /// Of an echo, waits until it listens.
    pub fn introduce(&self) {
        if self.peer == Peer::Echo {
            let mut reply = [0; 2048];
            self.control.set_read_timeout(Some(CHALLENGE_PATIENCE)).unwrap();
            let answers = |_| {
                let asked = self.control.send(&self.client_request);
                let answered = asked.and_then(|_| self.control.recv(&mut reply));
                // Refused before the echo listens.
                let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
                if answered.as_ref().is_err_and(refused) {
                    thread::sleep(CHALLENGE_PATIENCE);
                }
                answered.is_ok()
            };
            assert!((0..CHALLENGE_TRIES).any(answers), "the echo does not answer");
            // One more may be on its way.
            while self.control.recv(&mut reply).is_ok() {}
            return self.control.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let discard = UdpSocket::bind((self.address, VALIDATION_PORT));
        let discard = discard.expect("UDP port 9, for root");
        discard.set_read_timeout(Some(CHALLENGE_PATIENCE)).unwrap();
        let anywhere = SocketAddrV4::new(self.address, 7);
        let anything = build::ipv4_udp(SERVICE, anywhere, b"anything");
        let mut challenge = [0; 2048];
        let length = (0..CHALLENGE_TRIES)
            .find_map(|_| {
                // Refused before the server listens.
                drop(self.control.send(&self.with_token(&anything)));
                discard.recv(&mut challenge).ok()
            })
            .expect("a validation packet");
        let here = SocketAddrV4::new(self.address, VALIDATION_PORT);
        let proof = build::ipv4_udp(self.server, here, &challenge[..length]);
        self.control.send(&self.with_token(&proof)).unwrap();
        self.control.recv(&mut challenge).expect("an answer to the proof");
    }

    /// The token that it has.
    pub fn token(&self) -> [u8; 16] {
        self.token
    }

    /// `4, IPv4`
    fn with_token(&self, packet: &[u8]) -> Vec<u8> {
        let mut payload = Vec::new();
        message::emit(&mut payload, message_type::TOKEN, &self.token);
        payload.extend_from_slice(packet);
        payload
    }

    /// The number of known clients.
    pub fn known(&self) -> u32 {
        self.ports.len() as u32
    }

    /// Asserts that no two known clients have the same port, after all of them had a reply.
    pub fn check_ports(&self) {
        if self.peer == Peer::Server {
            let mut ports = self.ports.clone();
            ports.sort_unstable();
            ports.dedup();
            assert_eq!(ports.len(), self.ports.len(), "each client has a port of its own");
            assert_ne!(ports[0], 0, "each client has a port");
        }
    }

    /// Appends a request of this kind.
    pub fn ask(&mut self, kind: Kind, at: u64, out: &mut Burst) {
        let client = if kind == Kind::New {
            self.next_new = (self.next_new + 1).min(CLIENTS_MAX);
            self.next_new - 1
        } else {
            self.turns = self.turns.wrapping_add(1);
            self.turns.wrapping_mul(STRIDE) % self.known()
        };
        let address = self.client_address(client).octets();
        let port = self.ports.get(client as usize).copied().unwrap_or_default().to_be_bytes();
        match kind {
            Kind::Known | Kind::New => {
                let request = out.append(&self.client_request);
                request[TAG + message::MESSAGE_HEADER..][..16].copy_from_slice(&address);
                request[2 * TAG + 8..][..16].copy_from_slice(&address);
            }
            Kind::Service => {
                let request = out.append(&self.service_request);
                request[TAG + IPV4 + 2..][..2].copy_from_slice(&port);
            }
            Kind::Report => {
                let request = out.append(&self.report_request);
                let entry = REPORT_REQUEST - message::ENTRY_LENGTH;
                request[entry - 16..][..16].copy_from_slice(&address);
                request[entry + message::MESSAGE_HEADER..][..2].copy_from_slice(&port);
                request[entry + ENTRY_ADDRESS..][..16].copy_from_slice(&address);
            }
        }
        self.asked.push_back(Asked { kind, client, at });
    }

    /// Finds out which request a reply answers. The server answers a NAT64 mostly in order.
    ///
    /// # Panics
    /// When the reply is wrong.
    pub fn answered(&mut self, reply: &[u8]) -> Answer {
        if self.peer == Peer::Echo {
            let is_its = |asked: &Asked| reply_length(asked.kind) == reply.len();
            return self.take(is_its);
        }
        let about = |what| -> ! { panic!("{what}: {reply:02x?}") };
        if reply.len() < MAPPING {
            about("no entry in a reply");
        }
        let entry = &reply[TAG..MAPPING];
        let address: [u8; 16] = entry[ENTRY_ADDRESS..][..16].try_into().unwrap();
        let client = !u32::from(u16::from_be_bytes([address[14], address[15]])) & 0xffff;
        let is_its =
            |asked: &Asked| asked.client == client && reply_length(asked.kind) == reply.len();
        let answer = self.take(is_its);
        let Answer::To(asked, _) = answer else { return answer };

        let client_is_right = self.client_address(client).octets() == address
            && reply[..2] == message::header(message_type::AUTHENTICATOR, 16)
            && reply[2..TAG] == address
            && entry[..2] == message::header(message_type::ENTRY, message::ENTRY_LENGTH - 2)
            && entry[4..16] == WELL_KNOWN_PREFIX.0
            && entry[32..] == CLIENT_PORT.to_be_bytes();
        if !client_is_right {
            about("another client");
        }
        let port = u16::from_be_bytes([entry[2], entry[3]]);
        if port < 1024 {
            about("not a mapped port");
        }
        if let Some(known) = self.ports.get_mut(client as usize) {
            if *known == 0 {
                *known = port;
            } else if *known != port {
                about("another port than before");
            }
        }
        self.compared = self.compared.wrapping_add(1);
        if self.compared.is_multiple_of(64) && reply[MAPPING..] != *self.packet(asked, port) {
            about("another packet");
        }
        answer
    }

    fn client_address(&self, client: u32) -> Ipv6Addr {
        client_of_network(self.number, client, self.hosts)
    }

    /// The packet that was in the request.
    fn packet(&self, asked: Asked, port: u16) -> Vec<u8> {
        match asked.kind {
            Kind::Known | Kind::New => {
                let mut packet = self.client_request[2 * TAG..].to_vec();
                let address = self.client_address(asked.client).octets();
                packet[8..][..16].copy_from_slice(&address);
                packet
            }
            Kind::Service => {
                let mut packet = self.service_request[TAG..].to_vec();
                packet[IPV4 + 2..][..2].copy_from_slice(&port.to_be_bytes());
                packet
            }
            Kind::Report => Vec::new(),
        }
    }

    fn take(&mut self, is_its: impl Fn(&Asked) -> bool) -> Answer {
        let Some(place) = self.asked.iter().position(is_its) else { return Answer::Late };
        match self.asked.remove(place) {
            Some(asked) => Answer::To(asked, place),
            None => Answer::Late,
        }
    }
}

/// Each client is in a /64 of its own.
pub fn client_address(nat64: u32, client: u32) -> Ipv6Addr {
    client_of_network(nat64, client, 1)
}

/// So many are in a /64.
fn client_of_network(nat64: u32, client: u32, hosts: u32) -> Ipv6Addr {
    let number = nat64 << 16 | client;
    let network = (nat64 << 16) | (client / hosts);
    let address = 0x2001_0db8 << 96 | u128::from(network) << 64 | u128::from(!number);
    Ipv6Addr::from_bits(address)
}
