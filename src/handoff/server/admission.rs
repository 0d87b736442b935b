//! [`Admission`]: which channel a request belongs to, and what an unknown identity gets
//! (PROTOCOL.md section 5).

use std::net::{Ipv4Addr, SocketAddrV4};

use super::ServerConfig;
use super::batch::Datagram;
use super::channel::Channel;
use super::channels::Channels;
use super::exchange::{Exchange, Shared, record};
use super::prefetch::Prepared;
use super::tend::Tending;
use crate::handoff::change::Change;
use crate::handoff::entry::{ControlPort, MappedPort};
use crate::handoff::identity::Attenuation;
use crate::handoff::message::{ReportedPacket, Request, RequestKind, VALIDATION_PORT};
use crate::handoff::opaque::Token;
use crate::handoff::proof::{self, ProofKeys};
use crate::handoff::stats::{Counter, DropReason};
use crate::handoff::validation::Validation;
use crate::ip::ipv4::Ipv4;

/// The channels of a shard, and what decides who gets one.
pub struct Admission {
    pub config: ServerConfig,
    pub channels: Channels,
    /// For addresses that are not known: they have no state of their own.
    pub attenuation: Attenuation,
    pub validation: Validation,
    pub tending: Tending,
}

impl Admission {
    /// Answers a request of a known identity, asks an unknown one for its proof, or says why it
    /// gets nothing.
    #[inline]
    pub fn receive(
        &mut self,
        prepared: &Prepared,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = exchange;
        if datagram.port == 0 {
            return Err(DropReason::SourcePortZero);
        }
        if !self.permits(datagram.table.nat64) {
            return Err(DropReason::NotAllowed);
        }
        let request = prepared.request.as_ref().map_err(|&reason| reason)?;
        let Shared { keys, random, .. } = &mut *effects.shared;
        keys.renew(effects.batch.now, random);
        let port = ControlPort(datagram.port);
        let known = self.channels.find_mut(prepared.channel, prepared.hash, datagram.table);
        let is_known_nat64 = known.is_some();
        let now = effects.batch.coarse.second;
        let mut rotated = false;
        if let Some(channel) = known {
            if let Some(since) = channel.recognize(port, datagram.octets(request.token), now) {
                exchange.known_since = since;
                if channel.is_proof_due(now) {
                    return self.ask_and_answer(request, prepared, exchange);
                }
                return channel.request(request, false, exchange);
            }
            let old = request.rotation.map(|old| datagram.octets(old));
            // This is a use of the old token: it must not be the one that makes room for its
            // successor.
            rotated = old.is_some_and(|old| channel.recognize(port, old, now).is_some());
        }
        if let Some(reason) = effects.batch.frozen {
            return Err(reason);
        }
        let proof = carries_proof(request, &exchange.datagram, &exchange.effects.shared.keys);
        if proof || rotated {
            self.admit(request, proof, exchange)
        } else {
            self.validate(request, prepared, exchange, is_known_nat64)
        }
    }

    fn permits(&self, nat64: Ipv4Addr) -> bool {
        self.config.access.permits(nat64)
    }

    /// Answers a request of a known identity whose last proof is old, and has it asked for another,
    /// unless the request carries that.
    #[cold]
    fn ask_and_answer(
        &mut self,
        request: &Request,
        prepared: &Prepared,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let proof = carries_proof(request, &exchange.datagram, &exchange.effects.shared.keys);
        let second = exchange.effects.batch.coarse.second;
        let table = exchange.datagram.table;
        let mut asks = false;
        if let Some(channel) = self.channels.find_mut(prepared.channel, prepared.hash, table) {
            if proof {
                channel.prove(second);
            } else {
                asks = channel.asks(second);
            }
        }
        if asks {
            // If this one is held back, another minute's is not.
            let _ = self.validate(request, prepared, exchange, true);
        }
        match self.channels.find_mut(prepared.channel, prepared.hash, table) {
            Some(channel) => channel.request(request, proof, exchange),
            // Cannot be: it was recognized.
            None => Err(DropReason::Nat64sLimit),
        }
    }

    /// The identity of this request has proved itself, or is the successor of one that had.
    fn admit(
        &mut self,
        request: &Request,
        proof: bool,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = exchange;
        let (limits, handoff_port) = (self.config.limits, self.config.handoff_port);
        let (now, table) = (effects.now(), effects.table);
        if self.tending.is_going(table) {
            return Err(DropReason::Nat64sLimit);
        }
        let Shared { budget, stats, hash, .. } = &*effects.shared;
        let make = || -> Result<_, DropReason> {
            budget.admit(now, table.nat64, || effects.live.any(table) == Some(true))?;
            record(stats, effects.outbox, table, Change::Initialized);
            Ok(Channel::new(limits, handoff_port, *hash).made_at(now))
        };
        let channel = self.channels.find_or_insert(hash, datagram.table, make)?;
        // A token that was parsed has a length that a token can have.
        if let Some(token) = Token::new(datagram.octets(request.token)) {
            channel.buckets.identity(effects.now())?;
            let bars = channel.table().find_port(MappedPort(datagram.port)).is_some();
            if effects.batch.keeps_all && bars {
                return Err(DropReason::FleetAway);
            }
            channel.admit(ControlPort(datagram.port), token, proof, effects);
        }
        exchange.known_since = effects.batch.record;
        channel.request(request, proof, exchange)
    }

    /// Asks an unknown identity for its proof, keeping nothing.
    fn validate(
        &mut self,
        request: &Request,
        prepared: &Prepared,
        exchange: &mut Exchange<'_>,
        is_known_nat64: bool,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = exchange;
        let attenuation =
            match self.channels.find_mut(prepared.channel, prepared.hash, datagram.table) {
                Some(channel) => channel.attenuation(),
                None => &mut self.attenuation,
            };
        if !attenuation.passes(&mut effects.shared.random) {
            return Err(DropReason::Attenuated);
        }
        let (table, port) = (datagram.table, ControlPort(datagram.port));
        let token = datagram.octets(request.token);
        let now = effects.now();
        let random = &mut effects.shared.random;
        self.validation.take(now, is_known_nat64, table, port, token, random)?;
        let proof = effects.shared.keys.proof(table, port, token);
        let authenticator = request.authenticator.map(|span| datagram.octets(span));
        let to = SocketAddrV4::new(datagram.table.nat64, VALIDATION_PORT);
        effects.shared.stats.add(Counter::ValidationPackets, 1);
        let length = datagram.payload.len();
        effects.outbox.copy(datagram.index, to, 0, |out| {
            proof::emit_validation_packet(out, length, token, authenticator, &proof);
            Ok(())
        })
    }
}

/// Whether the request returns the proof that was sent to whoever it comes from.
pub(super) fn carries_proof(request: &Request, datagram: &Datagram<'_>, keys: &ProofKeys) -> bool {
    let (RequestKind::ServicePacket { packet }
    | RequestKind::Report { packet: Some(ReportedPacket::Service(packet)), .. }) = request.kind
    else {
        return false;
    };
    let (port, token) = (ControlPort(datagram.port), datagram.octets(request.token));
    Ipv4::new(datagram.octets(packet))
        .is_some_and(|packet| keys.verify(datagram.table, port, token, packet.data()))
}
