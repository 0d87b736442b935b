//! Clients behind NAT64s and the service that they talk with: each packet says whose it is.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use nat64handoff::handoff::entry::Client;
use nat64handoff::ip::address::synthesize;
use nat64handoff::ip::build::{ipv4_tcp, ipv4_udp, ipv6_tcp, ipv6_udp};
use nat64handoff::nat64::engine::WELL_KNOWN_PREFIX;

/// The port of the service, of TCP and of UDP.
pub const SERVICE_PORT: u16 = 443;
/// Flags of TCP.
pub mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const ACK: u8 = 0x10;
}

/// What content starts with.
const MAGIC: [u8; 4] = *b"sim:";
/// Octets of content at least.
const CONTENT_MIN: usize = 31;

/// A client that talks from one port with one address of the host.
#[derive(Debug)]
pub struct Talker {
    pub nat64: usize,
    pub client: Client,
    /// The host's address.
    pub local: Ipv4Addr,
    pub tcp: bool,
    /// It sent its SYN.
    pub opened: bool,
    pub sequence: u32,
    /// When it sent what was answered last.
    pub answered: Option<Duration>,
    pub banned: bool,
}

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// The client that it is from, or to.
    pub talker: usize,
    pub sequence: u32,
    /// It comes from the service.
    pub answer: bool,
    /// When the client's packet was sent that is answered.
    pub at: Duration,
    /// By which port the service heard it, and when.
    pub port: u16,
    pub heard: Duration,
}

impl Talker {
    pub fn new(nat64: usize, address: Ipv6Addr, port: u16, local: Ipv4Addr, tcp: bool) -> Self {
        let client = Client { prefix: WELL_KNOWN_PREFIX, address, port };
        let (opened, sequence, answered, banned) = (false, 0, None, false);
        Self { nat64, client, local, tcp, opened, sequence, answered, banned }
    }

    /// Its next packet.
    pub fn packet(&mut self, number: usize, at: Duration, size: usize, closes: bool) -> Vec<u8> {
        self.sequence += 1;
        let said = Said {
            talker: number,
            sequence: self.sequence,
            answer: false,
            at,
            port: 0,
            heard: Duration::ZERO,
        };
        let content = content(said, size);
        let from = SocketAddrV6::new(self.client.address, self.client.port, 0, 0);
        let to = SocketAddrV6::new(synthesize(WELL_KNOWN_PREFIX, self.local), SERVICE_PORT, 0, 0);
        if !self.tcp {
            return ipv6_udp(from, to, &content);
        }
        let flags = match (self.opened, closes) {
            (false, _) => tcp::SYN,
            (true, true) => tcp::FIN | tcp::ACK,
            (true, false) => tcp::ACK,
        };
        self.opened = !closes || flags == tcp::SYN;
        ipv6_tcp(from, to, flags, &content)
    }
}

/// A packet of the service.
pub fn answer(said: Said, tcp_flags: Option<u8>, from: Ipv4Addr, to: SocketAddrV4) -> Vec<u8> {
    let size = CONTENT_MIN + (said.sequence as usize * 37) % 300;
    let content = content(Said { answer: true, ..said }, size);
    let from = SocketAddrV4::new(from, SERVICE_PORT);
    match tcp_flags {
        Some(flags) => ipv4_tcp(from, to, flags, &content),
        None => ipv4_udp(from, to, &content),
    }
}

/// The flags of the service's answer to a segment with these.
pub fn answering(flags: u8) -> u8 {
    if flags & tcp::SYN != 0 { tcp::SYN | tcp::ACK } else { (flags & tcp::FIN) | tcp::ACK }
}

fn content(said: Said, size: usize) -> Vec<u8> {
    let mut content = Vec::with_capacity(size.max(CONTENT_MIN));
    content.extend_from_slice(&MAGIC);
    content.push(u8::from(said.answer));
    content.extend_from_slice(&(said.talker as u32).to_be_bytes());
    content.extend_from_slice(&said.sequence.to_be_bytes());
    content.extend_from_slice(&(said.at.as_micros() as u64).to_be_bytes());
    content.extend_from_slice(&(said.heard.as_micros() as u64).to_be_bytes());
    content.extend_from_slice(&said.port.to_be_bytes());
    while content.len() < size {
        content.push(filler(said, content.len()));
    }
    content
}

fn filler(said: Said, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(said.sequence) as u8
}

/// What content says; none where it is not as it was made.
pub fn read(content: &[u8]) -> Option<Said> {
    let rest = content.strip_prefix(&MAGIC)?;
    let (&answer, rest) = rest.split_first()?;
    let number = |at: usize| Some(u32::from_be_bytes(*rest.get(at..)?.first_chunk()?));
    let time = |at: usize| {
        let micros = u64::from_be_bytes(*rest.get(at..)?.first_chunk()?);
        Some(Duration::from_micros(micros))
    };
    let port = u16::from_be_bytes(*rest.get(24..)?.first_chunk()?);
    let (talker, sequence) = (number(0)? as usize, number(4)?);
    let said = Said { talker, sequence, answer: answer == 1, at: time(8)?, port, heard: time(16)? };
    let filled =
        content.iter().enumerate().skip(CONTENT_MIN).all(|(at, &octet)| octet == filler(said, at));
    filled.then_some(said)
}
