//! [`Nat64Host`]: a NAT64 of the demo on real sockets, with strict checks of each datagram.
//!
//! Loopback loses datagrams too: every request is repeated until its answer comes, and further
//! answers to it are skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use super::{Failure, crowd, demand, failure, is_forward, socket, the_request};
use crate::handoff::entry::{Client, ControlPort, Entry, MappedPort};
use crate::handoff::message::{self, ENTRY_LENGTH, VALIDATION_PORT, message_type};
use crate::ip::address::Prefix96;
use crate::ip::address::synthesize;
use crate::ip::build::{ipv4_udp, ipv6_tcp};
use crate::ip::fields::tcp::SYN;
use crate::ip::fields::{IPV6_HEADER, protocol};
use crate::ip::ipv4::{set_ttl, ttl};
use crate::nat64::engine::{Action, Nat64, Nat64Config, ServerState};

/// Requests in flight at once while the table is filled.
const WINDOW: usize = 64;
/// How long an answer may take before the request is repeated.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// How many times a request is sent at most. Validation never drops two in a row.
const ATTEMPTS_MAX: u32 = 10;
/// The length of the server's proof, in octets.
const PROOF: usize = 16;
/// Longer than any payload.
const BUFFER: usize = 65_536;

/// A NAT64 and its sockets.
pub(super) struct Nat64Host {
    pub(super) nat64: Nat64,
    control: UdpSocket,
    /// Where validation packets arrive.
    validation: UdpSocket,
    pub(super) server: SocketAddrV4,
    started: Instant,
    /// The number of boots, of which keys are derived.
    boot: u8,
    buffer: Vec<u8>,
    /// Whether the last request was sent more than once.
    pub(super) repeated: bool,
    pub(super) sent: usize,
}

impl Nat64Host {
    pub(super) fn start(
        address: Ipv4Addr,
        prefixes: Vec<Prefix96>,
        server: SocketAddrV4,
        started: Instant,
    ) -> Result<Self, Failure> {
        let config =
            Nat64Config { prefixes, handoff_port: server.port(), ..Nat64Config::new(address) };
        let mut host = Self {
            nat64: Nat64::new(config, [0; 32]),
            control: bind(address, 0)?,
            validation: bind(address, VALIDATION_PORT)?,
            server,
            started,
            boot: 0,
            buffer: vec![0; BUFFER],
            repeated: false,
            sent: 0,
        };
        host.reboot(&[])?;
        Ok(host)
    }

    /// Reboots with new keys and a new control port that is none of the `mapped` ones.
    pub(super) fn reboot(&mut self, mapped: &[Entry]) -> Result<(), Failure> {
        self.boot += 1;
        let [.., host] = self.nat64.address().octets();
        self.nat64.reboot([self.boot ^ host << 4; 32]);
        for _ in 0..ATTEMPTS_MAX {
            let control = bind(self.nat64.address(), 0)?;
            let port = match control.local_addr() {
                Ok(local) => local.port(),
                Err(error) => return failure(format!("a socket without a port: {error}")),
            };
            // The old socket is still open, so its port cannot be drawn again.
            if mapped.iter().all(|entry| entry.port.0 != port) {
                self.control = control;
                self.nat64.use_control_port(ControlPort(port));
                return Ok(());
            }
        }
        failure("the system gives no control port that is not mapped")
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn service(&self, prefix: Prefix96) -> SocketAddrV6 {
        SocketAddrV6::new(synthesize(prefix, *self.server.ip()), 80, 0, 0)
    }

    pub(super) fn segment(&self, client: Client, flags: u8) -> Vec<u8> {
        let from = SocketAddrV6::new(client.address, client.port, 0, 0);
        ipv6_tcp(from, self.service(client.prefix), flags, b"")
    }

    pub(super) fn entry_of(&self, client: Client) -> Option<Entry> {
        let port = self.nat64.port_of(*self.server.ip(), &client)?;
        Some(Entry { port, client })
    }

    /// A port that is mapped to no client.
    pub(super) fn unmapped_port(&self) -> MappedPort {
        let taken = |port| self.nat64.client_of(*self.server.ip(), port).is_some();
        let mut ports = (20_000..30_000).map(MappedPort);
        ports.find(|&port| !taken(port)).unwrap_or(MappedPort(30_000))
    }

    pub(super) fn authenticator_message(&self, client: Ipv6Addr) -> Vec<u8> {
        let authenticator = self.nat64.authenticator(*self.server.ip(), client);
        let mut message = Vec::new();
        message::emit(&mut message, message_type::AUTHENTICATOR, &authenticator);
        message
    }

    fn token_message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        let token = self.nat64.token(*self.server.ip());
        message::emit(&mut message, message_type::TOKEN, &token);
        message
    }

    /// The request that the packet would cause if nothing were cached.
    pub(super) fn client_request(&self, packet: &[u8], client: Ipv6Addr) -> Vec<u8> {
        [&self.token_message(), &self.authenticator_message(client), packet].concat()
    }

    /// The same for a packet of a service.
    pub(super) fn service_request(&self, packet: &[u8]) -> Vec<u8> {
        [&self.token_message(), packet].concat()
    }

    pub(super) fn report(&self, entry: Entry) -> Vec<u8> {
        self.nat64.report(self.now(), *self.server.ip(), &[entry])
    }

    pub(super) fn client_packet(&mut self, packet: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        self.nat64.client_packet(self.now(), packet, &mut actions);
        actions
    }

    pub(super) fn service_packet(&mut self, packet: &[u8]) -> Vec<Action> {
        let mut actions = Vec::new();
        self.nat64.service_packet(self.now(), packet, &mut actions);
        actions
    }

    /// Gives the NAT64 an answer.
    pub(super) fn take(&mut self, payload: &[u8]) -> Result<Vec<Action>, Failure> {
        let mut actions = Vec::new();
        let now = self.now();
        self.nat64.control_payload(now, self.server, payload, &mut actions);
        let (address, state) = (self.nat64.address(), self.nat64.state(*self.server.ip()));
        demand(state == ServerState::Alive, || {
            format!("{address} does not take an answer for one: {payload:02x?}")
        })?;
        Ok(actions)
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), Failure> {
        match self.control.send_to(payload, self.server) {
            Ok(_) => {
                self.sent += 1;
                Ok(())
            }
            Err(error) => failure(format!("cannot send to {}: {error}", self.server)),
        }
    }

    /// Sends a request until its answer comes.
    pub(super) fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, Failure> {
        for attempt in 0..ATTEMPTS_MAX {
            self.send(request)?;
            if let Some(length) = receive(&self.control, self.server, &mut self.buffer)? {
                let answer = self.buffer[..length].to_vec();
                self.repeated = attempt > 0;
                self.skip_repeated()?;
                return Ok(answer);
            }
        }
        let address = self.nat64.address();
        failure(format!("{} does not answer {address}: {request:02x?}", self.server))
    }

    /// Waits for late answers: a request that was repeated may have several.
    fn skip_repeated(&mut self) -> Result<(), Failure> {
        if self.repeated {
            for socket in [&self.control, &self.validation] {
                while receive(socket, self.server, &mut self.buffer)?.is_some() {}
            }
        }
        Ok(())
    }

    /// Sends a request of an unknown NAT64 until a validation packet comes to port 9, which is
    /// returned.
    pub(super) fn provoke_validation(
        &mut self,
        request: &[u8],
        client: Ipv6Addr,
    ) -> Result<Vec<u8>, Failure> {
        for attempt in 0..ATTEMPTS_MAX {
            self.send(request)?;
            let Some(length) = receive(&self.validation, self.server, &mut self.buffer)? else {
                continue;
            };
            let payload = self.buffer[..length].to_vec();
            let head = [&self.authenticator_message(client), &VALIDATION_HEADER[..]].concat();
            demand(payload.starts_with(&head) && payload.len() == head.len() + PROOF, || {
                format!("the validation packet is not as it must be: {payload:02x?}")
            })?;
            demand(payload.len() <= request.len(), || {
                "the validation packet is longer than the request".to_owned()
            })?;
            self.repeated = attempt > 0;
            self.skip_repeated()?;
            return Ok(payload);
        }
        let address = self.nat64.address();
        failure(format!("no validation packet comes to port 9 of {address}"))
    }

    /// Returns a validation packet to the server, as a service's packet without an entry.
    pub(super) fn prove(&mut self, validation: &[u8]) -> Result<Vec<Action>, Failure> {
        let to = SocketAddrV4::new(self.nat64.address(), VALIDATION_PORT);
        let mut packet = ipv4_udp(self.server, to, validation);
        let actions = self.service_packet(&packet);
        let proof = the_request(&actions)?.to_vec();
        let answer = self.exchange(&proof)?;
        let decreased = ttl(&packet) - 1;
        set_ttl(&mut packet, 1);
        let returned = self.service_request(&packet);
        set_ttl(&mut packet, decreased);
        // Where that was lost, the next one is no proof any more, but a packet that matches
        // nothing.
        let returned_again = self.repeated && answer == self.service_request(&packet);
        demand(answer == returned || returned_again, || {
            format!("the proof is not returned as it must be: {answer:02x?}")
        })?;
        self.take(&answer)
    }

    /// A client's packet that the NAT64 has no entry for. The entry that the server gives it.
    pub(super) fn ask(&mut self, packet: &[u8], client: Client) -> Result<Entry, Failure> {
        let actions = self.client_packet(packet);
        let request = the_request(&actions)?.to_vec();
        let answer = self.exchange(&request)?;
        let actions = self.take(&answer)?;
        self.check_mapped(&actions, &answer, packet, client)
    }

    fn check_mapped(
        &self,
        actions: &[Action],
        answer: &[u8],
        packet: &[u8],
        client: Client,
    ) -> Result<Entry, Failure> {
        let Some(entry) = self.entry_of(client) else {
            return failure(format!("{} got no port: {answer:02x?}", socket(client)));
        };
        self.check_answer(answer, entry, packet)?;
        demand(is_forward(actions, entry, packet), || {
            format!("the packet of {} is not sent on: {actions:?}", socket(client))
        })?;
        Ok(entry)
    }

    /// Demands that the answer consists of authenticator, entry and packet, and of nothing else.
    pub(super) fn check_answer(
        &self,
        answer: &[u8],
        entry: Entry,
        packet: &[u8],
    ) -> Result<(), Failure> {
        let authenticator = self.authenticator_message(entry.client.address);
        let expected = [&authenticator, &entry.emit()[..], packet].concat();
        demand(answer == expected, || {
            format!("the answer is {answer:02x?} where {expected:02x?} was due")
        })
    }

    /// Has new clients send their first segments, at most [`WINDOW`] of which await an answer.
    pub(super) fn fill(&mut self, numbers: std::ops::Range<usize>) -> Result<(), Failure> {
        let mut numbers = numbers.map(crowd);
        let mut awaited: BTreeMap<Client, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
        let (mut silent, mut repeated) = (0, BTreeSet::new());
        loop {
            while awaited.len() < WINDOW
                && let Some(client) = numbers.next()
            {
                let packet = self.segment(client, SYN);
                let actions = self.client_packet(&packet);
                let request = the_request(&actions)?.to_vec();
                self.send(&request)?;
                awaited.insert(client, (packet, request));
            }
            if awaited.is_empty() {
                self.repeated = !repeated.is_empty();
                return self.skip_repeated();
            }
            let Some(length) = receive(&self.control, self.server, &mut self.buffer)? else {
                silent += 1;
                demand(silent < ATTEMPTS_MAX, || {
                    format!("{} clients get no answer", awaited.len())
                })?;
                for (client, (_, request)) in &awaited {
                    repeated.insert(*client);
                    self.send(request)?;
                }
                continue;
            };
            silent = 0;
            let answer = self.buffer[..length].to_vec();
            let client =
                answered_client(&answer, self.authenticator_message(Ipv6Addr::UNSPECIFIED).len());
            let Some(client) = client else {
                return failure(format!("an answer without an entry: {answer:02x?}"));
            };
            let Some((packet, _)) = awaited.remove(&client) else {
                demand(repeated.contains(&client), || {
                    format!("an answer about {}, who did not ask", socket(client))
                })?;
                continue;
            };
            let actions = self.take(&answer)?;
            self.check_mapped(&actions, &answer, &packet, client)?;
        }
    }
}

/// The IPv6 header in front of the proof (PROTOCOL.md section 5, step 4, the first form).
#[rustfmt::skip]
const VALIDATION_HEADER: [u8; IPV6_HEADER] = [
    0x60, 0, 0, 0, 0, PROOF as u8, protocol::NO_NEXT_HEADER, 1,
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

fn bind(address: Ipv4Addr, port: u16) -> Result<UdpSocket, Failure> {
    let bound = UdpSocket::bind((address, port)).and_then(|socket| {
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(socket)
    });
    match bound {
        Ok(socket) => Ok(socket),
        Err(error) => failure(format!("cannot have UDP port {port} of {address}: {error}")),
    }
}

/// The length of the next payload, if one comes within the socket's timeout. It must be the
/// server's.
fn receive(
    socket: &UdpSocket,
    server: SocketAddrV4,
    buffer: &mut [u8],
) -> Result<Option<usize>, Failure> {
    loop {
        match socket.recv_from(buffer) {
            Ok((length, from)) => {
                demand(from == server.into(), || {
                    format!("a datagram comes from {from}, not from {server}")
                })?;
                return Ok(Some(length));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return failure(format!("cannot receive from {server}: {error}")),
        }
    }
}

/// The client in an answer, behind an authenticator message of `authenticator` octets.
fn answered_client(answer: &[u8], authenticator: usize) -> Option<Client> {
    let message = answer.get(authenticator..authenticator + ENTRY_LENGTH)?;
    let header = message::header(message_type::ENTRY, ENTRY_LENGTH - message::MESSAGE_HEADER);
    Some(Entry::parse(message.strip_prefix(&header)?)?.client)
}
