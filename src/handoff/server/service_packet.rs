//! Service packets: IPv4, from the service to the NAT64's address (PROTOCOL.md section 7).

use super::channel::Channel;
use super::exchange::{Effects, Exchange};
use super::reply::{AuthenticatorFrom, return_packet};
use crate::handoff::entry::{ControlPort, MappedPort};
use crate::handoff::fragments::FragmentKey;
use crate::handoff::message::{self, Span, message_type};
use crate::handoff::stats::DropReason;
use crate::handoff::table::Slot;
use crate::ip::icmp;
use crate::ip::packet::{self, Fragment, ICMP_HEADER, Ipv4, protocol};

/// What a service packet belongs to.
enum Owner {
    /// An entry, if one is mapped to the port.
    Entry(Option<Slot>),
    /// Nothing that a NAT64 translates by entries.
    Protocol,
}

impl Channel {
    /// Answers one. `proof`: it is the proof by which its sender has just become known.
    pub(super) fn service_packet(
        &mut self,
        token: Span,
        packet: Span,
        proof: bool,
        exchange: &mut Exchange<'_>,
    ) -> Result<(), DropReason> {
        if proof {
            return return_packet(token, packet, exchange, |_| Some(1));
        }
        let Exchange { datagram, effects, .. } = &mut *exchange;
        let view = Ipv4::new(datagram.octets(packet)).ok_or(DropReason::PacketTruncated)?;
        let Owner::Entry(slot) = self.owner(view, effects)? else {
            return self.unreachable(token, packet, exchange);
        };
        let Some(slot) = slot else {
            // A proof that comes again, as several validation packets were under way, is still one.
            let (port, token_octets) = (ControlPort(datagram.port), datagram.octets(token));
            let keys = &effects.shared.keys;
            let again = keys.verify(datagram.table, port, token_octets, view.data());
            return return_packet(token, packet, exchange, |ttl| {
                if again { Some(1) } else { ttl.checked_sub(1).filter(|&ttl| ttl > 0) }
            });
        };
        if let Some(fragment) = view.fragment().filter(|fragment| fragment.first) {
            effects.leave_note(note_of(view, fragment), self.table.entry(slot).client);
        }
        self.touch(slot, effects);
        self.answer(slot, AuthenticatorFrom::Table, packet, exchange);
        Ok(())
    }

    #[inline]
    fn owner(&self, view: Ipv4<'_>, effects: &Effects<'_>) -> Result<Owner, DropReason> {
        match view.fragment() {
            Some(fragment) if !fragment.first => {
                let client = effects.noted(note_of(view, fragment));
                let slot = client.and_then(|client| self.table.find(&client));
                slot.map(|slot| Owner::Entry(Some(slot))).ok_or(DropReason::FragmentUnknown)
            }
            _ if packet::has_entries(view.protocol()) => {
                let (_, port) = packet::ports(view.data()).ok_or(DropReason::HeaderTruncated)?;
                Ok(Owner::Entry(self.table.find_port(MappedPort(port))))
            }
            _ if view.protocol() == protocol::ICMP => self.icmp_owner(view),
            _ => Ok(Owner::Protocol),
        }
    }

    /// An ICMP error belongs to the entry that the packet it is about was translated by.
    fn icmp_owner(&self, view: Ipv4<'_>) -> Result<Owner, DropReason> {
        let kind = *view.data().first().ok_or(DropReason::HeaderTruncated)?;
        if packet::icmp_is_query(kind) {
            return Ok(Owner::Protocol);
        }
        if !packet::icmp_is_error(kind) {
            return Err(DropReason::IcmpIgnored);
        }
        let about = view.data().get(ICMP_HEADER..).and_then(Ipv4::new);
        let about = about.filter(|about| packet::has_entries(about.protocol()));
        let about = about.ok_or(DropReason::IcmpErrorUnmatched)?;
        let is_first = about.fragment().is_none_or(|fragment| fragment.first);
        let ports = packet::ports(about.data()).filter(|_| is_first);
        Ok(Owner::Entry(ports.and_then(|(port, _)| self.table.find_port(MappedPort(port)))))
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
        let (now, rate) = (effects.now(), &mut self.icmp_rate);
        effects.outbox.copy(datagram.index, datagram.source(), *known_since, |out| {
            message::emit(out, message_type::TOKEN, datagram.octets(token));
            icmp::emit_protocol_unreachable(out, about, datagram.table)?;
            rate.take(now, icmp::RATE_MAX).then_some(()).ok_or(DropReason::IcmpRate)
        })
    }
}

/// Which packet a fragment is a part of.
fn note_of(view: Ipv4<'_>, fragment: Fragment) -> FragmentKey {
    FragmentKey::Ipv4 {
        source: view.source(),
        destination: view.destination(),
        protocol: view.protocol(),
        identification: fragment.identification,
    }
}
