//! Service packets: IPv4, from the service to the NAT64's address (PROTOCOL.md section 7).

use super::channel::Channel;
use super::exchange::{Effects, Exchange};
use super::reply::{AuthenticatorFrom, return_packet};
use crate::handoff::entry::{ControlPort, MappedPort};
use crate::handoff::message::{self, Span, message_type};
use crate::handoff::stats::{Counter, DropReason};
use crate::handoff::table::Slot;
use crate::ip::flow::{self, Class, QuotedError};
use crate::ip::icmp;
use crate::ip::ipv4::Ipv4;

/// What a service packet belongs to.
enum BelongsTo {
    Entry(Slot),
    /// No entry is mapped to this port.
    Nobody(MappedPort),
    /// Nothing that a NAT64 translates by entries.
    Protocol,
}

impl Channel {
    /// Answers a service packet. `proof`: it is the proof by which its sender has just become
    /// known.
    pub(super) fn service_packet(
        &mut self,
        token: Span,
        packet: Span,
        proof: bool,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, effects, .. } = &mut *exchange;
        let view = Ipv4::new(datagram.octets(packet)).ok_or(DropReason::PacketTruncated)?;
        let owner = self.owner(view, effects);
        if let Ok(BelongsTo::Entry(slot)) = owner
            && self.is_banned(slot, effects)
        {
            // Who is banned has no entry for the service either; the NAT64 is not to ask again.
            effects.shared.stats.add(Counter::BannedQuietly, 1);
            return return_packet(token, packet, exchange.known_since, exchange, |_| Some(1));
        }
        if proof && !matches!(owner, Ok(BelongsTo::Entry(_))) {
            return return_packet(token, packet, exchange.known_since, exchange, |_| Some(1));
        }
        let slot = match owner? {
            BelongsTo::Entry(slot) => slot,
            BelongsTo::Nobody(port) => return self.not_found(port, token, packet, exchange),
            BelongsTo::Protocol => return self.unreachable(token, packet, exchange),
        };
        if let Some(fragment) = view.fragment().filter(|fragment| fragment.first) {
            effects.leave_note(view.fragment_key(fragment), self.table.entry(slot).client);
        }
        self.touch(slot, effects);
        self.answer(slot, AuthenticatorFrom::Table, packet, exchange);
        Ok(())
    }

    #[inline]
    fn owner(&self, view: Ipv4<'_>, effects: &Effects<'_>) -> Result<BelongsTo, DropReason> {
        match flow::classify_ipv4(view)? {
            Class::Later(fragment) => {
                let client = effects.noted(view.fragment_key(fragment));
                let slot = client.and_then(|client| self.table.find(&client));
                slot.map(BelongsTo::Entry).ok_or(DropReason::FragmentUnknown)
            }
            Class::Ports { destination_port, .. } => Ok(self.at_port(destination_port)),
            // An ICMP error belongs to the entry that the packet it quotes was translated by.
            Class::Error(quoted) => match flow::quoted_ipv4(quoted) {
                Ok(quoted) => Ok(self.at_port(quoted.source_port)),
                Err(QuotedError::NoPorts) => Ok(BelongsTo::Nobody(MappedPort(0))),
                Err(QuotedError::NoTransport) => Err(DropReason::IcmpErrorUnmatched),
            },
            Class::Icmp(kind) if !icmp::v4::is_query(kind.ok_or(DropReason::HeaderTruncated)?) => {
                Err(DropReason::IcmpIgnored)
            }
            Class::Icmp(_) | Class::Other => Ok(BelongsTo::Protocol),
        }
    }

    #[inline]
    fn at_port(&self, port: u16) -> BelongsTo {
        let port = MappedPort(port);
        self.table.find_port(port).map_or(BelongsTo::Nobody(port), BelongsTo::Entry)
    }

    /// Returns a packet to a port that no entry has: where one had it, that it went is recorded by
    /// then.
    fn not_found(
        &self,
        port: MappedPort,
        token: Span,
        packet: Span,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let after = self.durable_before(port, exchange.known_since);
        let Exchange { datagram, effects, .. } = &*exchange;
        let view = Ipv4::new(datagram.octets(packet)).ok_or(DropReason::PacketTruncated)?;
        // A proof that comes again, as several validation packets were under way, is still one.
        let (port, token_octets) = (ControlPort(datagram.port), datagram.octets(token));
        let again = effects.shared.keys.verify(datagram.table, port, token_octets, view.data());
        return_packet(token, packet, after, exchange, |ttl| {
            if again { Some(1) } else { ttl.checked_sub(1).filter(|&ttl| ttl > 0) }
        })
    }

    /// Answers anything else: no host behind the NAT64 would know this protocol.
    fn unreachable(
        &mut self,
        token: Span,
        packet: Span,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        let Exchange { datagram, known_since, effects, .. } = exchange;
        let about = Ipv4::new(datagram.octets(packet)).ok_or(DropReason::PacketTruncated)?;
        let between = (datagram.table.local, datagram.table.nat64);
        let (now, rate) = (effects.now(), &mut self.icmp_rate);
        effects.outbox.copy(datagram.index, datagram.source(), *known_since, |out| {
            message::emit(out, message_type::TOKEN, datagram.octets(token));
            icmp::protocol_unreachable(about, between)?.append_to(out);
            rate.take_icmp(now)
        })
    }
}
