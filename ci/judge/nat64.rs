//! A strict NAT64: a control socket, a socket on port 9, and checks of all that arrives.

use super::client::{Client, Entry, PUBLIC, SERVICE};
use super::packet::{self, Ipv4};
use super::wire::{self, Reply, payload};
use super::{PATIENCE, SHORT};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub const DISCARD: u16 = 9;

pub struct Nat64 {
    pub address: Ipv4Addr,
    pub server: SocketAddrV4,
    pub token: Vec<u8>,
    pub control: UdpSocket,
    pub discard: Arc<UdpSocket>,
    pub serial: Cell<u16>,
}

/// An address of 127.0.2.0-127.0.254.255 that no other test has, with its port 9. The demo, which
/// one of them runs, has those of 127.0.1.0/24.
fn fresh_address() -> (Ipv4Addr, UdpSocket) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const ADDRESSES: u32 = 253 * 256;
    for _ in 0..ADDRESSES {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) + 1021 * (std::process::id() % 64);
        let number = 512 + step % ADDRESSES;
        let address = Ipv4Addr::new(127, 0, (number >> 8) as u8, number as u8);
        match UdpSocket::bind((address, DISCARD)) {
            Ok(socket) => return (address, socket),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => panic!("UDP port 9 of {address}: {error} (these tests need root)"),
        }
    }
    panic!("no address left");
}

fn fresh_token() -> Vec<u8> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    [&b"token-of-"[..], format!("{number:07}").as_bytes()].concat()
}

impl Nat64 {
    /// At an address of its own, unknown to the server.
    pub fn unknown(server: impl Into<SocketAddrV4>) -> Nat64 {
        let (address, discard) = fresh_address();
        Nat64::assemble(server.into(), address, Arc::new(discard), 0)
    }

    /// At an address that this host has, unknown to the server.
    pub fn at(server: SocketAddrV4, address: Ipv4Addr) -> Nat64 {
        let discard = UdpSocket::bind((address, DISCARD)).unwrap();
        Nat64::assemble(server, address, Arc::new(discard), 0)
    }

    /// Known to the server.
    pub fn known(server: impl Into<SocketAddrV4>) -> Nat64 {
        let nat64 = Nat64::unknown(server);
        nat64.introduce();
        nat64
    }

    /// Unknown, with a control port of the caller's choice.
    pub fn with_port(server: impl Into<SocketAddrV4>, port: u16) -> Nat64 {
        let (address, discard) = fresh_address();
        Nat64::assemble(server.into(), address, Arc::new(discard), port)
    }

    fn assemble(
        server: SocketAddrV4,
        address: Ipv4Addr,
        discard: Arc<UdpSocket>,
        port: u16,
    ) -> Nat64 {
        let control = UdpSocket::bind((address, port)).unwrap();
        let (token, serial) = (fresh_token(), Cell::new(0));
        Nat64 { address, server, token, control, discard, serial }
    }

    /// The same NAT64 with another control port and the same token.
    pub fn other_port(&self, port: u16) -> Nat64 {
        let discard = Arc::clone(&self.discard);
        let other = Nat64::assemble(self.server, self.address, discard, port);
        Nat64 { token: self.token.clone(), ..other }
    }

    /// The same NAT64 and control port with another token.
    pub fn other_token(&self, token: &[u8]) -> Nat64 {
        let control = self.control.try_clone().unwrap();
        let discard = Arc::clone(&self.discard);
        let (address, server) = (self.address, self.server);
        Nat64 { address, server, token: token.to_vec(), control, discard, serial: Cell::new(0) }
    }

    /// As after a reboot: another token, another port.
    pub fn rebooted(&self) -> Nat64 {
        let token = fresh_token();
        Nat64 { token, ..self.other_port(0) }
    }

    /// The same sockets towards another address of the server.
    pub fn towards(&self, server: SocketAddrV4) -> Nat64 {
        Nat64 { server, ..self.other_token(&self.token) }
    }

    pub fn port(&self) -> u16 {
        self.control.local_addr().unwrap().port()
    }

    /// A port that is eligible here, spread by the number.
    pub fn eligible_port(&self, number: u16) -> u16 {
        let mut port = 10_000 + number % 50_000;
        while !self.is_eligible(port) {
            port += 1;
        }
        port
    }

    pub fn is_eligible(&self, port: u16) -> bool {
        port >= 1024 && ![3544, 6081, self.server.port(), self.port()].contains(&port)
    }

    pub fn token_message(&self) -> Vec<u8> {
        wire::token(&self.token)
    }

    /// 4, 6, IPv6.
    pub fn client_request(&self, authenticator: &[u8], packet: &[u8]) -> Vec<u8> {
        payload(&[&self.token_message(), &wire::authenticator(authenticator), packet])
    }

    /// 4, IPv4.
    pub fn service_request(&self, packet: &[u8]) -> Vec<u8> {
        payload(&[&self.token_message(), packet])
    }

    /// 1, 4, 6, 7.
    pub fn report_request(&self, authenticator: &[u8], entry: Entry) -> Vec<u8> {
        payload(&[
            &wire::identifier(),
            &self.token_message(),
            &wire::authenticator(authenticator),
            &wire::entry(entry),
        ])
    }

    /// 1, 4, then 6 and 7 for each entry, with the usual authenticators.
    pub fn multi_request(&self, entries: &[Entry]) -> Vec<u8> {
        let mut octets = payload(&[&wire::identifier(), &self.token_message()]);
        let mut last = None;
        for &entry in entries {
            if last != Some(entry.client.address) {
                octets.extend(wire::authenticator(&entry.client.authenticator()));
                last = Some(entry.client.address);
            }
            octets.extend(wire::entry(entry));
        }
        octets
    }

    pub fn send(&self, octets: &[u8]) {
        assert_eq!(self.control.send_to(octets, self.server).unwrap(), octets.len());
    }

    fn receive(&self, socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
        socket.set_read_timeout(Some(patience)).unwrap();
        let mut octets = vec![0; 65536];
        loop {
            match socket.recv_from(&mut octets) {
                Ok((length, from)) => {
                    assert_eq!(from, SocketAddr::V4(self.server), "sender of what arrived");
                    octets.truncate(length);
                    return Some(octets);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("receive: {error}"),
            }
        }
    }

    /// The next reply, if one comes.
    pub fn try_reply(&self, patience: Duration) -> Option<Reply> {
        let octets = self.receive(&self.control, patience)?;
        Some(Reply::parse(&octets).unwrap_or_else(|error| panic!("{error}: {octets:02x?}")))
    }

    pub fn reply(&self) -> Reply {
        self.try_reply(PATIENCE).expect("a reply")
    }

    pub fn ask(&self, request: &[u8]) -> Reply {
        self.send(request);
        self.reply()
    }

    /// The packet that answers a client's, of a server that delivers. Beside it, a NAT64 may be
    /// told that somebody is here.
    pub fn delivered(&self, authenticator: &[u8], packet: &[u8]) -> Vec<u8> {
        self.send(&self.client_request(authenticator, packet));
        loop {
            let reply = self.reply();
            if reply.authenticator.is_none() {
                assert!(reply.token == Some(self.token.clone()) && reply.entry.is_none());
                continue;
            }
            assert_eq!((reply.authenticator.as_deref(), reply.entry), (Some(authenticator), None));
            return reply.packet.expect("a packet");
        }
    }

    /// What arrives at port 9.
    pub fn try_challenge(&self, patience: Duration) -> Option<Vec<u8>> {
        self.receive(&self.discard, patience)
    }

    /// What waits at port 9 now; nothing is waited for.
    pub fn waiting_challenge(&self) -> Option<Vec<u8>> {
        self.discard.set_nonblocking(true).unwrap();
        let octets = self.receive(&self.discard, Duration::from_secs(1));
        self.discard.set_nonblocking(false).unwrap();
        octets
    }

    /// What comes first: the reply, or else a validation packet.
    pub fn reply_or_challenge(&self, patience: Duration) -> Option<Result<Reply, Vec<u8>>> {
        for _ in 0..patience.as_millis() {
            if let Some(reply) = self.try_reply(Duration::from_millis(1)) {
                return Some(Ok(reply));
            }
            if let Some(challenge) = self.waiting_challenge() {
                return Some(Err(challenge));
            }
        }
        None
    }

    pub fn forget_challenges(&self) {
        while self.waiting_challenge().is_some() {}
    }

    /// Sends a request that does not have a known identity, again where attenuation drops it
    /// (never two in a row from one sender alone), until a validation packet arrives.
    pub fn challenge(&self, request: &[u8]) -> Vec<u8> {
        self.forget_challenges();
        for sent in 1..=12 {
            self.send(request);
            if let Some(octets) = self.try_challenge(if sent < 12 { SHORT } else { PATIENCE }) {
                return octets;
            }
        }
        panic!("no validation packet for {request:02x?}");
    }

    /// The same, faster: an answer to another, known NAT64 shows that none will come. Needs a
    /// server with one shard.
    pub fn challenge_beside(&self, known: &Nat64, request: &[u8]) -> Vec<u8> {
        self.forget_challenges();
        for _ in 0..12 {
            self.send(request);
            known.fence();
            if let Some(octets) = self.waiting_challenge() {
                return octets;
            }
        }
        panic!("no validation packet for {request:02x?}");
    }

    /// The whole IPv4 packet that arrived at port 9, the headers made anew.
    pub fn as_packet(&self, challenge: &[u8]) -> Vec<u8> {
        let from = (*self.server.ip(), self.server.port());
        Ipv4::udp(from, (self.address, DISCARD), challenge).octets()
    }

    /// Returns a validation packet; the server must answer with the same, TTL 1.
    pub fn prove(&self, challenge: &[u8]) {
        let packet = self.as_packet(challenge);
        let reply = self.ask(&self.service_request(&packet));
        assert_eq!(reply, Reply::returned(&self.token, &packet::with_ttl(&packet, 1)));
    }

    /// The whole validation round.
    pub fn introduce(&self) {
        let challenge = self.challenge(&self.service_request(&self.unmapped_packet()));
        self.prove(&challenge);
        self.fence();
        // Of requests that were sent again before their answers came.
        self.forget_challenges();
    }

    /// A service packet to a port that cannot be mapped, different each time.
    pub fn unmapped_packet(&self) -> Vec<u8> {
        let serial = self.serial.get();
        self.serial.set(serial.wrapping_add(1));
        let data = [b"fence----", &serial.to_be_bytes()[..], &self.port().to_be_bytes()].concat();
        Ipv4::udp((SERVICE, 443), (PUBLIC, 7), &data).octets()
    }

    /// Whether the server knows this identity. It asks with a service packet that is not found.
    pub fn is_known(&self) -> bool {
        self.forget_challenges();
        let packet = self.unmapped_packet();
        let expected = Reply::returned(&self.token, &packet::with_ttl(&packet, packet::TTL - 1));
        // Of an unknown identity's requests, attenuation may drop one.
        for sent in 1..=3 {
            self.send(&self.service_request(&packet));
            match self.reply_or_challenge(if sent < 3 { SHORT } else { PATIENCE }) {
                Some(Ok(reply)) => {
                    assert_eq!(reply, expected);
                    (1..sent).for_each(|_| assert_eq!(self.reply(), expected));
                    return true;
                }
                Some(Err(_)) => return false,
                None => {}
            }
        }
        panic!("{}: neither an answer nor a validation packet", self.address);
    }

    /// Sends a known request twice and takes its two answers: nothing else may have come before.
    /// (Twice, because an answer that announces a change may be later than one that does not.)
    pub fn fence(&self) {
        let what = |request: &[u8]| format!("{:02x?}", &request[..request.len().min(80)]);
        for _ in 0..2 {
            let packet = self.unmapped_packet();
            let reply = self.ask(&self.service_request(&packet));
            let expected =
                Reply::returned(&self.token, &packet::with_ttl(&packet, packet::TTL - 1));
            assert_eq!(reply, expected, "instead of the answer to {}", what(&packet));
        }
    }

    /// Neither an answer nor a validation packet. The NAT64 must be known.
    pub fn silent(&self, what: &str, request: &[u8]) {
        self.send(request);
        let unmapped = self.unmapped_packet();
        let expected = Reply::returned(&self.token, &packet::with_ttl(&unmapped, packet::TTL - 1));
        for _ in 0..2 {
            let reply = self.ask(&self.service_request(&unmapped));
            assert_eq!(reply, expected, "{what}: answered, {request:02x?}");
        }
        assert_eq!(self.waiting_challenge(), None, "{what}: validation packet");
    }

    /// A client packet (UDP) with the client's usual authenticator; checks the whole answer.
    pub fn map(&self, client: Client) -> u16 {
        self.map_with(client, &client.authenticator())
    }

    pub fn map_with(&self, client: Client, authenticator: &[u8]) -> u16 {
        let packet = client.udp(b"data of a client");
        let reply = self.ask(&self.client_request(authenticator, &packet));
        let entry = reply.entry.unwrap_or_else(|| panic!("no entry in {reply:?}"));
        assert_eq!(reply, Reply::mapping(authenticator, client.at(entry.mapped), &packet));
        assert!(self.is_eligible(entry.mapped), "port {} is not eligible", entry.mapped);
        entry.mapped
    }

    /// With a hint.
    pub fn map_hinted(&self, client: Client, hint: u16) -> u16 {
        let packet = client.tcp(b"");
        let authenticator = client.authenticator();
        let reply = self.ask(&payload(&[
            &self.token_message(),
            &wire::authenticator(&authenticator),
            &wire::hint(hint),
            &packet,
        ]));
        let entry = reply.entry.unwrap_or_else(|| panic!("no entry in {reply:?}"));
        assert_eq!(reply, Reply::mapping(&authenticator, client.at(entry.mapped), &packet));
        assert!(self.is_eligible(entry.mapped), "port {} is not eligible", entry.mapped);
        entry.mapped
    }

    /// A service packet to the mapped port: its entry and authenticator. Checks the whole answer.
    pub fn find(&self, mapped: u16) -> Option<(Entry, Vec<u8>)> {
        let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, mapped), b"data of the service").octets();
        let reply = self.ask(&self.service_request(&packet));
        let Some(entry) = reply.entry else {
            let aged = packet::with_ttl(&packet, packet::TTL - 1);
            assert_eq!(reply, Reply::returned(&self.token, &aged));
            return None;
        };
        let authenticator = reply.authenticator.clone().expect("an authenticator");
        assert_eq!(reply, Reply::mapping(&authenticator, entry, &packet));
        assert_eq!(entry.mapped, mapped);
        Some((entry, authenticator))
    }

    /// Reports an entry; the entry that the answer names. Checks the rest of the answer.
    pub fn report(&self, entry: Entry) -> Entry {
        let authenticator = entry.client.authenticator();
        let reply = self.ask(&self.report_request(&authenticator, entry));
        let answer = reply.entry.unwrap_or_else(|| panic!("no entry in {reply:?}"));
        assert_eq!(reply, Reply::report(&authenticator, answer));
        assert_eq!(answer.client, entry.client);
        assert!(self.is_eligible(answer.mapped), "port {} is not eligible", answer.mapped);
        answer
    }

    /// Sends all requests with a bounded number under way; each must get one reply.
    pub fn pipeline(
        &self,
        requests: impl IntoIterator<Item = Vec<u8>>,
        mut each: impl FnMut(Reply),
    ) {
        const WINDOW: usize = 48;
        let mut under_way = 0;
        for request in requests {
            if under_way == WINDOW {
                each(self.reply());
                under_way -= 1;
            }
            self.send(&request);
            under_way += 1;
        }
        for _ in 0..under_way {
            each(self.reply());
        }
    }

    /// Sends `count` requests in their order, and takes the answer of each, of which `place` tells
    /// to which it is. Where none comes (the server takes no new entries while its log is behind),
    /// it goes on from the first without one: whatever else is asked again, the order stays.
    pub fn in_order(
        &self,
        count: usize,
        request: impl Fn(usize) -> Vec<u8>,
        mut place: impl FnMut(Reply) -> usize,
    ) {
        const WINDOW: usize = 48;
        let (mut answered, mut sent) = (0, 0);
        let (mut silent, mut again) = (Duration::ZERO, false);
        while answered < count {
            while sent < count.min(answered + WINDOW) {
                self.send(&request(sent));
                sent += 1;
            }
            match self.try_reply(SHORT).map(&mut place) {
                Some(place) if place == answered => {
                    answered += 1;
                    silent = Duration::ZERO;
                }
                Some(_) => {}
                None => {
                    silent += SHORT;
                    assert!(silent < PATIENCE, "no answer to request {answered}");
                    (sent, again) = (answered, true);
                }
            }
        }
        if again {
            self.forget_replies();
        }
    }

    /// Reports all entries, in this order, by multi reports of at most 1232 octets. None may differ
    /// from what the table makes of them.
    pub fn fill(&self, entries: &[Entry]) {
        const OF_A_REPORT: usize = 20;
        let reports: Vec<_> = entries.chunks(OF_A_REPORT).collect();
        let about: BTreeMap<_, _> =
            entries.iter().enumerate().map(|(place, entry)| (entry.mapped, place)).collect();
        let request = |place| {
            let request = self.multi_request(reports[place]);
            assert!(request.len() <= 1232);
            request
        };
        self.in_order(reports.len(), request, |reply| {
            let entry = reply.entry.expect("the answer to a multi report");
            assert_eq!(reply, Reply::report(&entry.client.authenticator(), entry));
            about[&entry.mapped] / OF_A_REPORT
        });
    }

    /// Takes what still arrives, up to the answer to a packet that nobody has a port for.
    fn forget_replies(&self) {
        let packet = Ipv4::udp((SERVICE, 443), (PUBLIC, 1), b"the last").octets();
        self.send(&self.service_request(&packet));
        let last = Reply::returned(&self.token, &packet::with_ttl(&packet, packet::TTL - 1));
        while self.reply() != last {}
    }
}
