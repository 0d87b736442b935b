//! [`Gateway`]: a NAT64 (RFC 6146) that translates (RFC 7915) and hands its entries over
//! (PROTOCOL.md section 10), as a pure function of the packets that its device receives.
//!
//! It combines [`Nat64`], which has the entries, with [`crate::nat64::translate`], which rewrites
//! packets, and adds what neither does: ICMP echo, later fragments, the control channel as IPv4
//! packets of a public address, with fragmentation and reassembly, and ICMP errors to senders.
//!
//! A packet is parsed once, by translation: the engine takes the result. Only what a server returns
//! is parsed twice, since the engine verifies it before it may be translated.
//!
//! Mappings of all kinds are kept per server address, since each server has a table of its own: so
//! mapping and filtering are address-dependent (RFC 4787 sections 4.1 and 5). RFC 6146 section 3.1
//! asks for endpoint-independent mapping: here a client that talks to two servers from one port may
//! have two mapped ports.
//! But where no server names it, a client has the same towards all of them, as long as it is free.

mod channel;
mod counts;
mod echo;
mod ends;
mod errors;
mod geneve;
mod hairpin;
mod kept;
mod offloaded;
mod outbox;
mod pool;
mod reassembly;
mod tunnel;
mod tunnels;
mod waiting;
mod written;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub use counts::{Done, Dropped};
pub use echo::{ECHO_LIFETIME, ECHOES_MAX};
pub use errors::ICMP_RATE_MAX;
pub use kept::{KEPT_MAX, KeptEntries};
pub use outbox::{DATAGRAMS_MAX, GatewayOutbox, Notice, ServerChange};
pub use pool::{ADDRESSES_MAX, PAIRING_LIFETIME, PAIRINGS_MAX};
pub use reassembly::{FRAGMENTS_MAX, PACKET_LIFETIME, PACKETS_MAX};
pub use tunnel::{Delivered, Deliveries};
pub use tunnels::{
    OFFER_AGAIN, OFFER_INTERVAL, OFFERS_MAX, PROBE_AFTER, TUNNEL_LIFETIME, TUNNELS_MAX, TunnelKey,
};
pub use waiting::{WAITING_LIFETIME, WAITING_MAX, WAITING_SHARER_MAX};

use crate::handoff::entry::{Client, Entry, TableKey};
use crate::handoff::fragments::FragmentNotes;
use crate::handoff::random::{Random, SecretHash};
use crate::handoff::rate::Rate;
use crate::ip::address::Prefix96;
use crate::ip::address::{extract, is_routable_host};
use crate::ip::fragment::FragmentKey;
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;
use crate::nat64::engine::{Action, EntryChange, Inbound, Nat64, Nat64Config, Seed, ServerState};
use crate::nat64::translate::{
    Flow, GROWTH_MAX, IPV6_MTU_MIN, Inside, Ipv4Packet, Ipv6Packet, Limits, Transport,
};
use counts::Counts;
use echo::Echoes;
use pool::{Public, PublicAddresses, Which};
use reassembly::Reassembly;
use tunnels::GeneveTunnels;
use waiting::Waiting;
use written::push_all;

/// The maximum number of unsolicited packets per second that cause requests: those without an
/// entry, from hosts that are not known to be servers.
pub const UNSOLICITED_RATE_MAX: u32 = 1000;
/// The longest packet: an IPv6 one with all that its length can say.
const PACKET_MAX: usize = 40 + u16::MAX as usize;

/// How a gateway is set up.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// The configuration of its NAT64, and its first public address.
    pub nat64: Nat64Config,
    /// Its other public addresses.
    pub further: Vec<Ipv4Addr>,
    /// The MTU of its device in octets, the same for both IP versions; at least 1280.
    pub mtu: u16,
    /// The lowest MTU of any link in the IPv6 network (RFC 7915 section 4), in octets: packets that
    /// may be fragmented are no longer as IPv6. At least 1280, at most `mtu`.
    pub lowest_ipv6_mtu: u16,
    /// Whether the traffic class becomes the type of service and back, or both become 0 (RFC 7915
    /// sections 4.1 and 5.1).
    pub copies_traffic_class: bool,
    /// Whether a UDP datagram without a checksum gets one, or is dropped (RFC 7915 section 4.5).
    pub makes_udp_checksums: bool,
}

impl GatewayConfig {
    /// One public address; the lowest MTU is 1280, and what RFC 7915 leaves to the operator is as
    /// it prefers it.
    pub fn new(nat64: Nat64Config, mtu: u16) -> Self {
        Self {
            nat64,
            further: Vec::new(),
            mtu,
            lowest_ipv6_mtu: IPV6_MTU_MIN,
            copies_traffic_class: true,
            makes_udp_checksums: true,
        }
    }
}

/// A NAT64 with its translation.
#[derive(Debug)]
pub struct Gateway {
    pool: PublicAddresses,
    prefixes: Vec<Prefix96>,
    handoff_port: u16,
    client_share: f64,
    tunnel_key: Option<TunnelKey>,
    mtu: u16,
    limits: Limits,
    random: Random,
    notes: FragmentNotes,
    /// Of packets whose first fragment the server was asked about: the others follow it there.
    asked_notes: FragmentNotes,
    reassembly: Reassembly,
    waiting: Waiting,
    icmp: Rate,
    unsolicited: Rate,
    actions: Vec<Action>,
    buffer: Vec<u8>,
    /// For the segments of a super-packet, one after the other.
    segment: Vec<u8>,
    /// For what becomes of a client's packet to another client, half way.
    turned: GatewayOutbox,
    /// The messages before a packet that a server delivers.
    front: Vec<u8>,
    counts: Counts,
}

impl Gateway {
    /// A gateway that has just booted: without entries. `None` where its MTU is less than 1280.
    pub fn new(config: GatewayConfig, seed: Seed) -> Option<Self> {
        let GatewayConfig { nat64, further, mtu, .. } = config;
        let mut limits = Limits::new(mtu, mtu)?;
        limits.ipv6_path_mtu = config.lowest_ipv6_mtu;
        limits.copy_traffic_class = config.copies_traffic_class;
        limits.make_udp_checksums = config.makes_udp_checksums;
        let mut random = Random::new(seed);
        let hash = SecretHash::new(random.key());
        let (first, share) = (nat64.address, nat64.client_share);
        let engine = Nat64Config { remembers_fragments: true, path_mtu: Some(mtu), ..nat64 };
        let publics = [first].into_iter().chain(further).map(|address| Public {
            nat64: Nat64::new(Nat64Config { address, ..engine.clone() }, derived(&mut random)),
            echoes: Echoes::new(hash, share),
            tunnels: engine
                .tunnel_key
                .map(|key| GeneveTunnels::new(address, key, random.key(), hash)),
        });
        Some(Self {
            pool: PublicAddresses::new(publics.collect(), hash),
            prefixes: engine.prefixes,
            handoff_port: engine.handoff_port,
            client_share: share,
            tunnel_key: engine.tunnel_key,
            mtu,
            limits,
            notes: FragmentNotes::new(hash),
            asked_notes: FragmentNotes::new(hash),
            reassembly: Reassembly::default(),
            waiting: Waiting::new(hash),
            random,
            icmp: Rate::default(),
            unsolicited: Rate::default(),
            actions: Vec::new(),
            buffer: vec![0; PACKET_MAX + GROWTH_MAX],
            segment: vec![0; PACKET_MAX],
            turned: GatewayOutbox::default(),
            front: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// A packet from the device, of either IP version. What is to be written is appended to `out`.
    pub fn packet(&mut self, now: Duration, packet: &[u8], out: &mut GatewayOutbox) {
        let outcome = match packet.first().map(|octet| octet >> 4) {
            Some(6) => self.take_from_client(now, packet, out),
            Some(4) => self.take_from_service(now, packet, out),
            _ => Err(Dropped::NotIp),
        };
        if let Err(reason) = outcome {
            self.drop(reason);
        }
    }

    /// Repeats reports and removes expired state. To be called about once a second.
    pub fn tick(&mut self, now: Duration, out: &mut GatewayOutbox) {
        for which in self.pool.all() {
            self.with_nat64(now, which, out, |nat64, actions| nat64.tick(now, actions));
            self.pool[which].echoes.tick(now);
            self.tick_tunnels(now, which, out);
        }
        self.pool.tick(now);
        let expired = self.waiting.expire(now);
        self.counts.drop_several(Dropped::FragmentUnknown, expired);
    }

    /// Forgets everything except the counts. See [`Nat64::reboot`].
    pub fn reboot(&mut self, seed: Seed) {
        for public in self.pool.each() {
            self.counts.keep(&public.nat64);
        }
        self.random = Random::new(seed);
        let hash = SecretHash::new(self.random.key());
        self.notes = FragmentNotes::new(hash);
        self.asked_notes = FragmentNotes::new(hash);
        self.reassembly.clear();
        self.waiting = Waiting::new(hash);
        self.pool.forget_pairings();
        for public in self.pool.each_mut() {
            public.echoes = Echoes::new(hash, self.client_share);
            let (address, random) = (public.nat64.address(), &mut self.random);
            public.tunnels =
                self.tunnel_key.map(|key| GeneveTunnels::new(address, key, random.key(), hash));
            public.nat64.reboot(derived(&mut self.random));
        }
    }

    /// Replaces the key of tokens. See [`Nat64::rotate_token`].
    pub fn rotate_token(&mut self, now: Duration) {
        self.pool.each_mut().for_each(|public| public.nat64.rotate_token(now));
    }

    /// What happened to entries since the last call. See [`Nat64::changes`].
    pub fn changes(&mut self) -> impl Iterator<Item = EntryChange> {
        self.pool.each_mut().flat_map(|public| public.nat64.changes())
    }

    /// Whether there are any.
    pub fn has_changes(&self) -> bool {
        self.pool.each().any(|public| public.nat64.has_changes())
    }

    /// Adds to the changes that each entry is gone. See [`Nat64::tell_end`].
    pub fn tell_end(&mut self) {
        self.pool.each_mut().for_each(|public| public.nat64.tell_end());
    }

    /// The engine of the first public address, with what it knows of servers and their entries.
    pub fn nat64(&self) -> &Nat64 {
        &self.pool.first().nat64
    }

    /// The engines of all public addresses.
    pub fn nat64s(&self) -> impl Iterator<Item = &Nat64> {
        self.pool.each().map(|public| &public.nat64)
    }

    /// Counts a packet that is dropped.
    pub fn drop(&mut self, reason: Dropped) {
        self.counts.drop(reason);
    }

    fn did(&mut self, done: Done) {
        self.counts.did(done);
    }

    fn take_from_client(
        &mut self,
        now: Duration,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let view = Ipv6::new(packet).ok_or(Dropped::NotIp)?;
        match self.ends_of_client(view) {
            Ok(()) => {}
            Err(Dropped::Hairpin) => return self.hairpin(now, packet, out),
            Err(reason) => {
                if reason == Dropped::Destination {
                    self.tell_client(now, errors::PROHIBITED, view.octets(), out);
                }
                return Err(reason);
            }
        }
        match Ipv6Packet::parse(packet) {
            Ok(packet) => self.outbound(now, &packet, out),
            Err(refused) => {
                self.untranslatable(now, packet, refused, out);
                Ok(())
            }
        }
    }

    /// Whether a client may send from and to these addresses.
    fn ends_of_client(&self, view: Ipv6<'_>) -> Result<(), Dropped> {
        if !self.prefixes.contains(&view.destination_prefix()) {
            return Err(Dropped::NotOurs);
        }
        if self.prefixes.contains(&Prefix96::of(view.source())) {
            return Err(Dropped::Loop);
        }
        let server = extract(view.destination());
        if self.pool.has(server) {
            return Err(Dropped::Hairpin);
        }
        is_routable_host(server).then_some(()).ok_or(Dropped::Destination)
    }

    /// To which public address a packet is, if a packet to us may have these addresses.
    fn ends_of_service(&self, view: Ipv4<'_>) -> Result<Which, Dropped> {
        let which = self.pool.which(view.destination()).ok_or(Dropped::NotOurs)?;
        (!self.pool.has(view.source())).then_some(which).ok_or(Dropped::Loop)
    }

    fn outbound(
        &mut self,
        now: Duration,
        packet: &Ipv6Packet<'_>,
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let which = self.pool.of_sender(now, packet);
        let table = self.pool.table(which, extract(packet.view().destination()));
        self.offer_tunnel(now, which, packet.view(), out);
        match packet.inside() {
            Inside::Flow { flow, .. } if flow.transport == Transport::Echo => {
                if self.takes_whole(which, table.local) {
                    self.tunnel(now, which, packet.view(), out);
                    return Ok(());
                }
                let (client, echoes) = (client_of(flow), &mut self.pool[which].echoes);
                match echoes.identifier(now, table.local, client, &mut self.random) {
                    Ok(port) => self.write_ipv4(now, packet, table, port, out),
                    Err(reason) => {
                        self.tell_client(now, errors::NO_RESOURCES, packet.view().octets(), out);
                        return Err(reason);
                    }
                }
            }
            Inside::Error(flow) if flow.transport == Transport::Echo => {
                // The quoted packet came from the server.
                let of = extract(flow.service);
                match self.pool[which].echoes.identifier_of(of, client_of(flow)) {
                    Some(port) => {
                        self.write_ipv4(now, packet, self.pool.table(which, of), port, out);
                    }
                    None if self.takes_whole(which, of) => {
                        self.tunnel(now, which, packet.view(), out);
                    }
                    None => return Err(Dropped::NoEcho),
                }
            }
            Inside::Later(key) => {
                if self.notes.find(now, table, key).is_some() {
                    self.write_ipv4(now, packet, table, 0, out);
                } else if self.asked_notes.find(now, table, key).is_some() {
                    self.outbound_by_entry(now, which, packet, out);
                } else {
                    self.hold(now, key, packet.view().octets());
                }
            }
            Inside::Flow { .. } | Inside::Error(_) => {
                self.outbound_by_entry(now, which, packet, out);
            }
        }
        Ok(())
    }

    fn take_from_service(
        &mut self,
        now: Duration,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let view = Ipv4::new(packet).ok_or(Dropped::NotIp)?;
        let which = self.ends_of_service(view)?;
        if let Some(outcome) = self.control(now, which, view, out) {
            return outcome;
        }
        match Ipv4Packet::parse(packet) {
            Ok(packet) => self.inbound(now, which, &packet, out),
            Err(refused) => {
                self.refuse_service(now, refused, packet, out);
                Ok(())
            }
        }
    }

    fn inbound(
        &mut self,
        now: Duration,
        which: Which,
        packet: &Ipv4Packet<'_>,
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let server = packet.view().source();
        match packet.inside() {
            Inside::Flow { flow, .. } | Inside::Error(flow) if self.pool.has(flow.service) => {
                return Err(Dropped::Loop);
            }
            Inside::Flow { flow, .. } if flow.transport == Transport::Echo => {
                let client = self.pool[which].echoes.client(now, server, flow.client_port, true);
                self.write_ipv6(now, packet, server, client.ok_or(Dropped::NoEcho)?, out);
            }
            Inside::Error(flow) if flow.transport == Transport::Echo => {
                let of = flow.service;
                let client = self.pool[which].echoes.client(now, of, flow.client_port, false);
                self.write_ipv6(now, packet, of, client.ok_or(Dropped::NoEcho)?, out);
            }
            Inside::Later(key) => {
                let table = self.pool.table(which, server);
                if let Some(client) = self.notes.find(now, table, key) {
                    self.write_ipv6(now, packet, server, client, out);
                } else {
                    self.hold(now, key, packet.view().octets());
                }
            }
            Inside::Flow { .. } => self.inbound_by_entry(now, which, server, packet, out)?,
            Inside::Error(flow) => {
                self.inbound_by_entry(now, which, flow.service, packet, out)?;
            }
        }
        Ok(())
    }

    /// Forwards a packet to a public address by its entry towards `server`, or asks that.
    /// Rate-limits the requests that unsolicited packets cause, since anybody can send these.
    fn inbound_by_entry(
        &mut self,
        now: Duration,
        which: Which,
        server: Ipv4Addr,
        packet: &Ipv4Packet<'_>,
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let inbound = Inbound::translatable(packet);
        let nat64 = &mut self.pool[which].nat64;
        if let Some((server, entry)) = nat64.entry_of_inbound(now, &inbound) {
            self.forward_inbound(now, self.pool.table(which, server), entry, packet, out);
            return Ok(());
        }
        let solicited = nat64.state(server) == ServerState::Alive;
        if !solicited && !self.unsolicited.take(now, UNSOLICITED_RATE_MAX) {
            return Err(Dropped::UnsolicitedRate);
        }
        self.with_nat64(now, which, out, |nat64, actions| {
            nat64.request_for_inbound(now, &inbound, actions);
        });
        Ok(())
    }

    /// Keeps a later fragment until the first of its packet arrives.
    fn hold(&mut self, now: Duration, key: FragmentKey, packet: &[u8]) {
        let expired = self.waiting.expire(now);
        self.counts.drop_several(Dropped::FragmentUnknown, expired);
        let evicted = self.waiting.hold(now, key, packet);
        self.counts.drop_several(Dropped::FragmentsWaiting, evicted);
    }

    /// The first fragment of a packet was forwarded: so are those that wait for it.
    fn release(&mut self, now: Duration, key: FragmentKey, out: &mut GatewayOutbox) {
        for packet in self.waiting.take(now, key) {
            self.packet(now, &packet, out);
        }
    }

    /// Gives the engine an input and carries out its actions.
    fn with_nat64(
        &mut self,
        now: Duration,
        which: Which,
        out: &mut GatewayOutbox,
        tell: impl FnOnce(&mut Nat64, &mut Vec<Action>),
    ) {
        let mut actions = std::mem::take(&mut self.actions);
        tell(&mut self.pool[which].nat64, &mut actions);
        self.carry_out(now, which, actions, out);
    }

    /// The same for an input that may change the state of `server`. Leaves a notice where it does.
    fn hear_of_server(
        &mut self,
        now: Duration,
        which: Which,
        server: Ipv4Addr,
        out: &mut GatewayOutbox,
        tell: impl FnOnce(&mut Nat64, &mut Vec<Action>),
    ) {
        let nat64 = &self.pool[which].nat64;
        let (before, known) = (nat64.state(server), nat64.has_answered(server));
        self.with_nat64(now, which, out, tell);
        let change = match (before, self.pool[which].nat64.state(server)) {
            (ServerState::Unknown | ServerState::Dead, ServerState::Alive) if known => {
                ServerChange::Back
            }
            (ServerState::Unknown | ServerState::Dead, ServerState::Alive) => ServerChange::Known,
            (ServerState::Alive, ServerState::Dead) => ServerChange::Down,
            _ => return,
        };
        out.notice(self.pool.table(which, server), change);
    }

    /// Carries out `actions`, whose allocation is kept for the next input.
    fn carry_out(
        &mut self,
        now: Duration,
        which: Which,
        mut actions: Vec<Action>,
        out: &mut GatewayOutbox,
    ) {
        for action in actions.drain(..) {
            match action {
                Action::Request { server, payload } => {
                    self.send_control(which, server, &payload, out);
                }
                Action::Forward { server, entry, packet } => {
                    self.forward(now, self.pool.table(which, server), entry, &packet, out);
                }
                Action::Deliver { packet } => {
                    self.did(Done::Delivered);
                    out.push(&[&packet]);
                }
                Action::Unmapped { .. } => self.drop(Dropped::Unmapped),
            }
        }
        self.actions = actions;
    }

    /// Forwards a packet that came back from a server: about one of each new connection.
    ///
    /// This is the second time that it is parsed. The engine, which believes nothing unverified,
    /// has looked whose it is, and cannot pass that on: an action outlives the payload, so it owns
    /// the packet, and what was parsed borrows from it.
    fn forward(
        &mut self,
        now: Duration,
        table: TableKey,
        entry: Entry,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) {
        if packet.first().is_some_and(|octet| octet >> 4 == 6) {
            match Ipv6Packet::parse(packet) {
                Ok(packet) => self.forward_outbound(now, table, entry, &packet, out),
                Err(refused) => self.refuse_client(now, refused, packet, out),
            }
        } else {
            match Ipv4Packet::parse(packet) {
                Ok(packet) => self.forward_inbound(now, table, entry, &packet, out),
                Err(refused) => self.refuse_service(now, refused, packet, out),
            }
        }
    }

    /// Translates a client's packet by its entry, of which it leaves a note for later fragments.
    fn forward_outbound(
        &mut self,
        now: Duration,
        table: TableKey,
        entry: Entry,
        packet: &Ipv6Packet<'_>,
        out: &mut GatewayOutbox,
    ) {
        self.write_ipv4(now, packet, table, entry.port.0, out);
        if let Inside::Flow { fragments: Some(key), .. } = packet.inside() {
            self.notes.leave(now, table, key, entry.client);
            self.release(now, key, out);
        }
    }

    /// The same for a packet to a public address.
    fn forward_inbound(
        &mut self,
        now: Duration,
        table: TableKey,
        entry: Entry,
        packet: &Ipv4Packet<'_>,
        out: &mut GatewayOutbox,
    ) {
        self.write_ipv6(now, packet, table.local, entry.client, out);
        if let Inside::Flow { fragments: Some(key), .. } = packet.inside() {
            self.notes.leave(now, table, key, entry.client);
            self.release(now, key, out);
        }
    }
}

fn client_of(flow: Flow<Ipv6Addr>) -> Client {
    let prefix = Prefix96::of(flow.service);
    Client { prefix, address: flow.client, port: flow.client_port }
}

/// The seed of an independent generator.
fn derived(random: &mut Random) -> Seed {
    let mut seed = Seed::default();
    seed[..16].copy_from_slice(&random.key());
    seed[16..].copy_from_slice(&random.key());
    seed
}

#[cfg(test)]
mod tests;
