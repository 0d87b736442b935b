//! Requests in their buffers.

use std::net::{SocketAddrV4, SocketAddrV6};

use nat64handoff::handoff::entry::{Client, Entry, MappedPort, TableKey};
use nat64handoff::handoff::message::{self, HEAD_ROOM, PROTOCOL_IDENTIFIER, message_type};
use nat64handoff::handoff::server::Datagram;
use nat64handoff::ip::{address::synthesize, build};

use crate::shard::{CONTROL, LOCAL, TOKEN, authenticator, key};

/// Octets in an embedded UDP datagram: a client packet has 150 octets then, as in `load`.
pub const DATA: [u8; 66] = [b'x'; 66];

pub struct Request {
    pub table: TableKey,
    pub buffer: Vec<u8>,
}

impl Request {
    pub fn datagram(&mut self, index: usize) -> Datagram<'_> {
        let payload = HEAD_ROOM..self.buffer.len();
        let (table, buffer) = (self.table, &mut self.buffer);
        Datagram { index, table, port: CONTROL, buffer, payload, room: 0 }
    }
}

/// Requests in buffers that are used again.
pub struct Requests {
    requests: Vec<Request>,
    length: usize,
}

impl Requests {
    pub fn new(length: usize) -> Requests {
        let request = || Request { table: key(0), buffer: Vec::with_capacity(HEAD_ROOM + 256) };
        Requests { requests: (0..length).map(|_| request()).collect(), length: 0 }
    }

    pub fn clear(&mut self) {
        self.length = 0;
    }

    pub fn has_room(&self) -> bool {
        self.length < self.requests.len()
    }

    pub fn all(&mut self) -> &mut [Request] {
        &mut self.requests[..self.length]
    }

    /// The payload of the next request, which begins with the token.
    pub fn next(&mut self, table: usize) -> &mut Vec<u8> {
        self.next_by(table, &TOKEN)
    }

    /// The same, with this token.
    pub fn next_by(&mut self, table: usize, token: &[u8]) -> &mut Vec<u8> {
        let request = &mut self.requests[self.length];
        self.length += 1;
        request.table = key(table);
        request.buffer.clear();
        request.buffer.resize(HEAD_ROOM, 0);
        message::emit(&mut request.buffer, message_type::TOKEN, token);
        &mut request.buffer
    }

    pub fn client_packet(&mut self, table: usize, client: &Client) {
        let payload = self.next(table);
        message::emit(payload, message_type::AUTHENTICATOR, &authenticator(client));
        payload.extend_from_slice(&build::ipv6_udp(from(client), to(client), &DATA));
    }

    pub fn service_packet(&mut self, table: usize, port: u16) {
        let to = SocketAddrV4::new(key(table).nat64, port);
        let from = SocketAddrV4::new(LOCAL, 443);
        self.next(table).extend_from_slice(&build::ipv4_udp(from, to, &DATA));
    }

    pub fn report(&mut self, table: usize, client: Client, port: u16) {
        let payload = self.next(table);
        message::emit(payload, message_type::IDENTIFIER, PROTOCOL_IDENTIFIER);
        message::emit(payload, message_type::AUTHENTICATOR, &authenticator(&client));
        payload.extend_from_slice(&Entry { port: MappedPort(port), client }.emit());
    }
}

pub fn from(client: &Client) -> SocketAddrV6 {
    SocketAddrV6::new(client.address, client.port, 0, 0)
}

pub fn to(client: &Client) -> SocketAddrV6 {
    SocketAddrV6::new(synthesize(client.prefix, LOCAL), 443, 0, 0)
}
