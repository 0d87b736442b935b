//! [`Nat64`]: the other end of the protocol, as a pure function of what it is told.
//!
//! Implements PROTOCOL.md section 10 with its repairs, and what sections 3 to 5 ask of a
//! NAT64: the four shapes of a request, the return of validation packets, token rotation, the
//! strict check of what a server says. Its inputs are packets, payloads and the time; its outputs
//! are [`Action`]s, which the gateway, the demo and the tests carry out in their own ways.
//!
//! It does not translate: [`Action::Forward`] names the entry that a translator uses. It keeps no
//! mappings for ICMP queries. It keeps no fragments: a fragment is sent to the server, which
//! remembers the first one, unless the caller does ([`Nat64Config::remembers_fragments`]). It
//! queues no packet while it asks about it: the request carries the packet, and the answer brings
//! it back. Only an ICMP error is a sign that a server is gone. One that answers nothing for a
//! while is as one of which nothing was heard: it may have no room for this NAT64.

mod answers;
mod hairpin;
mod holders;
mod kept;
mod keys;
mod lifetime;
mod packet;
mod peer;
mod reply;
mod requests;
mod reserved;
mod sources;
mod told;
mod traffic;
mod tunnel;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::Duration;

pub use kept::{KEPT_ENTRY, Restored};
pub use keys::{AuthenticatorKey, ROTATION_LIFETIME};
pub use packet::{Inbound, Outbound};
pub use peer::{
    ASK_INTERVAL, REPORT_INTERVAL, REPORT_REPEATS_MAX, RETURN_MAX, SILENCE_MAX, UNANSWERED_MAX,
};
pub use sources::{Network, PROBE_RATE_MAX, SILENT_MAX};

use crate::handoff::entry::{Client, ControlPort, Entry, MappedPort};
use crate::handoff::message::{HANDOFF_PORT, MULTI_REPORT_MAX, PAYLOAD_MAX};
use crate::handoff::random::{Random, SEED_LENGTH, SecretHash};
use crate::handoff::stats::counters;
use crate::ip::address::Prefix96;
use keys::Keys;
use packet::{DataPacket, PacketKind};
use peer::Peer;
use requests::{report, send_reports};
use sources::Sources;
use told::ChangesTold;
use tunnel::Verified;

/// How long an entry lives after a UDP datagram used it (RFC 6146 section 4: UDP_DEFAULT).
pub const UDP_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long an entry with an established TCP connection lives (TCP_EST).
pub const TCP_ESTABLISHED_LIFETIME: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// How long an entry lives whose TCP connection opens or closes (TCP_TRANS).
pub const TCP_TRANSITORY_LIFETIME: Duration = Duration::from_secs(4 * 60);
/// The maximum number of servers of which state is kept. No entries are made towards others.
pub const SERVERS_MAX: usize = 65_536;
/// From this many servers on, those without entries are forgotten although they answered once.
/// Otherwise a client could fill the memory with them for good. The first report to such a server
/// makes it known again.
const SERVERS_CROWDED: usize = SERVERS_MAX / 2;
/// The maximum number of entries, of all servers together. Beyond it none are made or learned.
pub const ENTRIES_MAX: usize = 1 << 20;
/// Time between two searches for expired entries.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);
/// Random ports that are tried before the next free one is taken.
const PORT_DRAWS: u32 = 32;
/// The lowest control port: that of the dynamic ports (RFC 6335 section 6).
const CONTROL_PORT_MIN: u16 = 49152;

/// `64:ff9b::/96`, the well-known prefix (RFC 6052).
pub const WELL_KNOWN_PREFIX: Prefix96 = Prefix96([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]);

/// What the keys, the control port and the mapped ports are drawn from.
pub type Seed = [u8; SEED_LENGTH];

/// How a NAT64 is set up.
#[derive(Debug, Clone)]
pub struct Nat64Config {
    pub address: Ipv4Addr,
    /// The prefixes by which clients reach it.
    pub prefixes: Vec<Prefix96>,
    /// The UDP port on which servers listen.
    pub handoff_port: u16,
    /// The length of tokens, in units of 2 octets.
    pub token_units: u8,
    /// The length of authenticators, in units of 2 octets.
    pub authenticator_units: u8,
    /// Whether requests suggest the client's own port to the server (type 8).
    pub hints: bool,
    /// Whether the caller remembers first fragments, so that it knows without a server whose the
    /// later ones are.
    pub remembers_fragments: bool,
    /// The key of authenticators, where that is to outlive a reboot. Without it, the server's
    /// answer to a service that speaks first after a reboot is not believed until the client has
    /// spoken. Whoever knows the key can forge authenticators.
    pub authenticator_key: Option<AuthenticatorKey>,
    /// What numbers of tunnels of Geneve are made of, where servers are to be offered such.
    pub tunnel_key: Option<[u8; 16]>,
    /// The MTU of the path to servers: a longer request goes there in fragments. Where it is given,
    /// clients' packets that would make one are refused if the server delivers packets, so that
    /// clients learn to send shorter ones. See [`Nat64::tunnel_mtu`].
    pub path_mtu: Option<u16>,
    /// The share that one /64 of clients may have of the ports towards each server, and of all
    /// entries, as far as they are made without a server (RFC 6888 section 3, REQ-4); 1: all.
    pub client_share: f64,
    /// Whether the caller asks for changes of entries: [`Nat64::changes`].
    pub tells_changes: bool,
    /// Whether the caller keeps entries over a restart: [`Nat64::keep`].
    pub keeps_entries: bool,
}

impl Nat64Config {
    /// The well-known prefix and the default port; tokens and authenticators of 16 octets; no
    /// hints.
    pub fn new(address: Ipv4Addr) -> Self {
        Self {
            address,
            prefixes: vec![WELL_KNOWN_PREFIX],
            handoff_port: HANDOFF_PORT,
            token_units: 8,
            authenticator_units: 8,
            hints: false,
            remembers_fragments: false,
            authenticator_key: None,
            tunnel_key: None,
            path_mtu: None,
            client_share: 1.0,
            tells_changes: false,
            keeps_entries: false,
        }
    }
}

/// What the NAT64 believes about the handoff server of an IPv4 host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerState {
    /// Nothing was heard of it, or nothing any more.
    #[default]
    Unknown,
    /// It answered.
    Alive,
    /// Its host reported that nobody listens on the handoff port.
    Dead,
}

/// What the caller is to do about an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a control payload from the control port to the handoff port of `server`.
    Request {
        /// The address that it is sent to.
        server: Ipv4Addr,
        payload: Vec<u8>,
    },
    /// Translate a packet by `entry` and send it on: an IPv6 packet to `server`, an IPv4 packet to
    /// the client.
    Forward {
        /// The host that runs the service.
        server: Ipv4Addr,
        /// The client and its mapped port.
        entry: Entry,
        /// The packet before translation.
        packet: Vec<u8>,
    },
    /// Send a packet as it is: the server translated it, or made it in place of a translated
    /// answer.
    Deliver {
        /// IPv4 or IPv6.
        packet: Vec<u8>,
    },
    /// A packet of a service for which neither this NAT64 nor the server has an entry. The caller
    /// may take it for one to its own host, or drop it. Validation packets end here.
    Unmapped {
        /// The server that returned it.
        server: Ipv4Addr,
        packet: Vec<u8>,
    },
}

counters! {
/// Why the NAT64 ignored a payload, or dropped a packet.
Ignored:
    /// A control payload that does not parse.
    Malformed = "malformed",
    /// A control payload from another port than the handoff port.
    NotHandoffPort = "not_handoff_port",
    /// A control payload of none of the shapes of PROTOCOL.md section 4.
    Shape = "shape",
    /// A token that this NAT64 did not make, or that a rotation has outdated.
    BadToken = "bad_token",
    /// An authenticator that this NAT64 did not make for that client.
    BadAuthenticator = "bad_authenticator",
    /// An entry of an impossible client, of another prefix, or with a port that is never mapped.
    BadEntry = "bad_entry",
    /// An answer that contradicts an entry of our own (section 10, repair 3).
    Contradicted = "contradicted",
    /// An answer whose packet does not belong to its entry or to its server.
    PacketMismatch = "packet_mismatch",
    /// A packet shorter than it says.
    PacketTruncated = "packet_truncated",
    /// A packet whose headers cannot be walked.
    PacketHeaders = "packet_headers",
    /// A packet too long for a payload together with the messages in front of it.
    PacketTooLong = "packet_too_long",
    /// A client's packet that a server would deliver, longer than [`Nat64::tunnel_mtu`].
    TunnelTooBig = "tunnel_too_big",
    /// A client's packet whose source cannot be a client.
    ClientAddress = "client_address",
    /// A packet to none of this NAT64's prefixes, or not to its public address.
    NotOurs = "not_ours",
    /// A packet about which only the server could be asked, and it is dead.
    ServerDead = "server_dead",
    /// No mapped port is free.
    NoPort = "no_port",
    /// More than [`SERVERS_MAX`] servers.
    ServersLimit = "servers_limit",
    /// More than [`ENTRIES_MAX`] entries.
    EntriesLimit = "entries_held_limit",
    /// More entries than [`Nat64Config::client_share`] allows one /64 of clients.
    ClientShare = "client_share",
    /// A packet about which a host of which nothing was heard would be asked, beyond
    /// [`PROBE_RATE_MAX`] of its client's /64.
    ProbeRate = "probe_rate",
    /// Not a packet: an entry that was evicted, as its /64 made [`SILENT_MAX`] newer ones, or no
    /// more can be had, and neither a server nor the service ever used it.
    SilentLimit = "silent_entries_limit",
}

/// An entry was made, by a server or without one, or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryChange {
    /// The public address whose port the entry has.
    pub nat64: Ipv4Addr,
    /// The host that runs the service.
    pub server: Ipv4Addr,
    pub entry: Entry,
    pub made: bool,
}

/// The handoff protocol's side of a NAT64: its entries, and what it knows of servers.
#[derive(Debug)]
pub struct Nat64 {
    config: Nat64Config,
    random: Random,
    keys: Keys,
    control_port: ControlPort,
    peers: BTreeMap<Ipv4Addr, Peer>,
    /// The sum of the peers' lengths.
    entries_held: usize,
    sources: Sources,
    expiry_due: Duration,
    /// The last server that answered nothing any more: see [`Nat64::take_silent`].
    silent: Option<Ipv4Addr>,
    verified: Verified,
    told: ChangesTold,
    ignored: [u64; Ignored::ALL.len()],
}

impl Nat64 {
    /// A NAT64 that has just booted: without entries.
    pub fn new(config: Nat64Config, seed: Seed) -> Self {
        let mut random = Random::new(seed);
        let mut keys = Keys::draw(&mut random, config.token_units, config.authenticator_units);
        if let Some(key) = config.authenticator_key {
            keys.use_authenticator_key(key);
        }
        let control_port = draw_control_port(&mut random, config.handoff_port, None);
        let hash = SecretHash::new(random.key());
        let sources = Sources::new(hash);
        Self {
            told: ChangesTold::new(&config, hash),
            config,
            random,
            sources,
            keys,
            control_port,
            peers: BTreeMap::new(),
            entries_held: 0,
            expiry_due: Duration::ZERO,
            silent: None,
            verified: Verified::default(),
            ignored: [0; Ignored::ALL.len()],
        }
    }

    /// The octets of a packet of a client to one of the prefixes, before translation.
    pub fn client_packet(&mut self, now: Duration, packet: &[u8], actions: &mut Vec<Action>) {
        let outcome = self.try_client_packet(now, packet, actions);
        self.count(outcome);
    }

    /// The octets of a packet to the public address, before translation: anything but control
    /// payloads, validation packets included.
    pub fn service_packet(&mut self, now: Duration, packet: &[u8], actions: &mut Vec<Action>) {
        let outcome = self.try_service_packet(now, packet, actions);
        self.count(outcome);
    }

    /// A client's packet that was found to be to one of the prefixes. Returns the server and the
    /// entry by which to forward it, before `actions` are carried out; `None` where the server is
    /// asked about it.
    ///
    /// # Errors
    /// It is dropped, and counted.
    pub fn outbound(
        &mut self,
        now: Duration,
        packet: &Outbound<'_>,
        actions: &mut Vec<Action>,
    ) -> Result<Option<(Ipv4Addr, Entry)>, Ignored> {
        let outcome = self.try_outbound(now, packet, actions);
        if let Err(reason) = outcome {
            self.count(Err(reason));
        }
        outcome
    }

    /// The server and the entry by which to forward a packet to the public address. Where there is
    /// none, [`Self::request_for_inbound`] asks the server.
    pub fn entry_of_inbound(
        &mut self,
        now: Duration,
        packet: &Inbound<'_>,
    ) -> Option<(Ipv4Addr, Entry)> {
        let (server, port) = match packet.kind {
            PacketKind::Data(DataPacket { key, .. }) | PacketKind::Error(key) => key,
            PacketKind::LaterFragment | PacketKind::Other => return None,
        };
        let peer = self.peers.get_mut(&server)?;
        let client = peer.client_of(port)?;
        if let PacketKind::Data(data) = packet.kind {
            let unknown_here = data.fragment && !self.config.remembers_fragments;
            if unknown_here && peer.state == ServerState::Alive {
                return None;
            }
            peer.touch(&client, now, data.usage);
        }
        Some((server, Entry { port, client }))
    }

    /// Asks the server about a packet to the public address for which there is no entry.
    pub fn request_for_inbound(
        &mut self,
        now: Duration,
        packet: &Inbound<'_>,
        actions: &mut Vec<Action>,
    ) {
        let outcome = self.try_request_for_inbound(now, packet, actions);
        self.count(outcome);
    }

    /// A UDP payload that arrived at the control port.
    pub fn control_payload(
        &mut self,
        now: Duration,
        from: SocketAddrV4,
        payload: &[u8],
        actions: &mut Vec<Action>,
    ) {
        let outcome = self.try_control_payload(now, from, payload, actions);
        self.count(outcome);
    }

    /// An ICMP error about a request to `server` that says that nobody listens there, or that the
    /// host rejects it. `quoted` is the part of the payload that it quotes.
    pub fn port_unreachable(&mut self, now: Duration, server: Ipv4Addr, quoted: &[u8]) {
        let outcome = self.try_port_unreachable(now, server, quoted);
        self.count(outcome);
    }

    /// Forgets everything and draws a new control port and new keys, except where
    /// [`Nat64Config::authenticator_key`] is given.
    pub fn reboot(&mut self, seed: Seed) {
        let before = self.control_port;
        self.tell_end();
        let changes = self.told.take();
        *self = Self::new(self.config.clone(), seed);
        self.told.keep(changes);
        if self.control_port == before {
            let handoff_port = self.config.handoff_port;
            self.control_port = draw_control_port(&mut self.random, handoff_port, Some(before));
        }
    }

    /// Replaces the key of tokens. For [`ROTATION_LIFETIME`], requests carry the token before as
    /// well.
    pub fn rotate_token(&mut self, now: Duration) {
        self.keys.rotate(now, &mut self.random);
    }

    /// Repeats reports and removes expired entries. To be called about once a second.
    pub fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let expiry = now >= self.expiry_due;
        if expiry {
            self.expiry_due = now.saturating_add(EXPIRY_INTERVAL);
        }
        let mut questions = Vec::new();
        for (&server, peer) in &mut self.peers {
            if expiry {
                peer.expire(now);
                self.told.hear(server, peer);
            }
            send_reports(&self.keys, now, server, peer, actions);
            questions.extend(peer.late_question(now).map(|entry| (server, entry)));
        }
        for (server, entry) in questions {
            actions.push(self.report_request(now, server, entry));
        }
        if expiry {
            // Whether nobody listens on a host is learned again from the next report to it.
            let crowded = self.peers.len() >= SERVERS_CROWDED;
            self.peers.retain(|_, peer| peer.length() > 0 || (peer.has_answered && !crowded));
            self.entries_held = self.peers.values().map(Peer::length).sum();
            let peers = &self.peers;
            self.sources.count_own(peers.values().flat_map(Peer::own));
            self.sources.retain(now, |server, client| {
                peers.get(&server).is_some_and(|peer| peer.is_silent(client))
            });
        }
    }

    /// What happened to entries since the last call, the oldest first. Of the same port, one is
    /// gone before another is made. Nothing where [`Nat64Config::tells_changes`] is not set.
    pub fn changes(&mut self) -> impl Iterator<Item = EntryChange> {
        self.told.drain()
    }

    /// Whether there are any.
    pub fn has_changes(&self) -> bool {
        !self.told.is_empty()
    }

    /// Adds to the changes that each entry is gone, as it will be.
    pub fn tell_end(&mut self) {
        self.told.end(&self.peers, false);
    }

    /// The same of those entries that are not kept over a restart.
    pub fn tell_stop(&mut self) {
        self.told.end(&self.peers, self.config.keeps_entries);
    }

    pub fn address(&self) -> Ipv4Addr {
        self.config.address
    }

    /// The source port of requests, drawn from the seed.
    pub fn control_port(&self) -> ControlPort {
        self.control_port
    }

    /// Replaces the drawn control port by that of the caller's socket.
    pub fn use_control_port(&mut self, port: ControlPort) {
        self.control_port = port;
    }

    /// What is believed about `server`. [`ServerState::Unknown`] where nothing was heard of it.
    pub fn state(&self, server: Ipv4Addr) -> ServerState {
        self.peers.get(&server).map_or_else(ServerState::default, |peer| peer.state)
    }

    /// A server that was alive and answers nothing, if one counts as unknown for that since this
    /// was asked last.
    pub fn take_silent(&mut self) -> Option<Ipv4Addr> {
        self.silent.take()
    }

    /// Whether `server` answered since the NAT64 booted.
    pub fn has_answered(&self, server: Ipv4Addr) -> bool {
        self.peers.get(&server).is_some_and(|peer| peer.has_answered)
    }

    /// The mapped port of `client` towards `server`.
    pub fn port_of(&self, server: Ipv4Addr, client: &Client) -> Option<MappedPort> {
        self.peers.get(&server)?.port_of(client)
    }

    /// The client behind a mapped port towards `server`.
    pub fn client_of(&self, server: Ipv4Addr, port: MappedPort) -> Option<Client> {
        self.peers.get(&server)?.client_of(port)
    }

    /// Whether a client with this address has an entry, towards any server.
    pub fn has_client(&self, client: Ipv6Addr) -> bool {
        self.told.has_client(client)
    }

    /// How many entries there are, towards all servers.
    pub fn entries_held(&self) -> usize {
        self.entries_held
    }

    /// How many servers state is kept of.
    pub fn servers(&self) -> usize {
        self.peers.len()
    }

    /// All entries towards `server`, in the order of their clients.
    pub fn entries(&self, server: Ipv4Addr) -> impl Iterator<Item = Entry> {
        self.peers.get(&server).into_iter().flat_map(Peer::entries)
    }

    /// How many payloads and packets were ignored for this reason since the NAT64 booted.
    pub fn ignored(&self, reason: Ignored) -> u64 {
        self.ignored[reason as usize]
    }

    /// The current token for `server`.
    pub fn token(&self, server: Ipv4Addr) -> Vec<u8> {
        self.keys.token(server).to_vec()
    }

    /// The authenticator of `client` for `server`.
    pub fn authenticator(&self, server: Ipv4Addr, client: Ipv6Addr) -> Vec<u8> {
        self.keys.authenticator(server, client).to_vec()
    }

    /// The payload of a report of `entries` to `server`: a multi report where there are several. No
    /// answer is awaited, and the entries need not be in the table.
    pub fn report(&self, now: Duration, server: Ipv4Addr, entries: &[Entry]) -> Vec<u8> {
        report(&self.keys, now, server, entries)
    }

    fn count(&mut self, outcome: Result<(), Ignored>) {
        if let Err(reason) = outcome {
            self.ignored[reason as usize] += 1;
        }
    }

    fn try_port_unreachable(
        &mut self,
        now: Duration,
        server: Ipv4Addr,
        quoted: &[u8],
    ) -> Result<(), Ignored> {
        let token = reply::quoted_token(quoted).ok_or(Ignored::Malformed)?;
        if !self.keys.begins_token(now, server, token.start, token.length) {
            return Err(Ignored::BadToken);
        }
        let peer = peer_of(&mut self.peers, server)?;
        peer.dies(now);
        Ok(())
    }
}

fn forward(server: Ipv4Addr, entry: Entry, packet: &[u8]) -> Action {
    let packet = packet.to_vec();
    Action::Forward { server, entry, packet }
}

fn push_request(
    server: Ipv4Addr,
    payload: Vec<u8>,
    actions: &mut Vec<Action>,
) -> Result<(), Ignored> {
    if payload.len() > PAYLOAD_MAX {
        return Err(Ignored::PacketTooLong);
    }
    actions.push(Action::Request { server, payload });
    Ok(())
}

fn peer_of(peers: &mut BTreeMap<Ipv4Addr, Peer>, server: Ipv4Addr) -> Result<&mut Peer, Ignored> {
    if peers.len() >= SERVERS_MAX && !peers.contains_key(&server) {
        return Err(Ignored::ServersLimit);
    }
    Ok(peers.entry(server).or_default())
}

/// Uniform in `min..=65535`.
fn draw(random: &mut Random, min: u16) -> u16 {
    min + random.below(u32::from(u16::MAX - min) + 1) as u16
}

fn draw_control_port(
    random: &mut Random,
    handoff_port: u16,
    before: Option<ControlPort>,
) -> ControlPort {
    loop {
        let port = ControlPort(draw(random, CONTROL_PORT_MIN));
        if port.0 != handoff_port && Some(port) != before {
            return port;
        }
    }
}

#[cfg(test)]
mod tests;
