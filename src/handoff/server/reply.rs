//! What the server sends (PROTOCOL.md section 4): answers with an entry, written in place in front
//! of the packet that is answered, and packets that are returned.

use std::net::SocketAddrV4;
use std::ops::Range;

use super::channel::Channel;
use super::exchange::Exchange;
use crate::handoff::entry::Entry;
use crate::handoff::message::{
    self, ENTRY_LENGTH, MESSAGE_HEADER, PAYLOAD_MAX, Span, message_type,
};
use crate::handoff::stats::DropReason;
use crate::handoff::table::Slot;
use crate::ip::ipv4;

/// Which authenticator an answer carries.
pub enum AuthenticatorFrom {
    /// The request's, which stands here in the buffer.
    Request(Range<usize>),
    /// The one that the table keeps for the entry's client.
    Table,
}

impl Channel {
    /// Replies with authenticator, entry and packet, in place, or without the packet where that
    /// would be too long.
    #[inline]
    pub(super) fn answer(
        &self,
        slot: Slot,
        authenticator: AuthenticatorFrom,
        packet: Span,
        exchange: &mut Exchange<'_>,
    ) {
        let after = self.durable_before(self.table.port(slot), exchange.known_since);
        let datagram = &mut exchange.datagram;
        let packet = datagram.range(packet);
        let length = match &authenticator {
            AuthenticatorFrom::Request(range) => range.len(),
            AuthenticatorFrom::Table => self.table.authenticator(slot).octets().len(),
        };
        let front = MESSAGE_HEADER + length + ENTRY_LENGTH;
        let end = if front + packet.len() > PAYLOAD_MAX { packet.start } else { packet.end };
        let start = packet.start.checked_sub(front);
        let Some(start) = start.filter(|&start| start >= datagram.room) else {
            return self.answer_elsewhere(slot, authenticator, packet.start..end, after, exchange);
        };
        let (index, to) = (datagram.index, datagram.source());
        let buffer = &mut *datagram.buffer;
        let entry_at = packet.start - ENTRY_LENGTH;
        // The authenticator moves first: the entry may be written over where it stood.
        let kind = message_type::AUTHENTICATOR;
        match authenticator {
            AuthenticatorFrom::Request(range) => {
                message::move_before(buffer, entry_at, kind, range)
            }
            AuthenticatorFrom::Table => {
                let octets = self.table.authenticator(slot).octets();
                message::write_before(buffer, entry_at, kind, octets)
            }
        };
        let (_, front) = buffer[..packet.start].split_last_chunk_mut().expect("there is room");
        self.table.emit_entry(slot, front);
        exchange.effects.outbox.in_place(index, to, after, start..end);
    }

    /// As [`Channel::answer`], where the buffer has no room in front of the packet, as behind
    /// another datagram of a GRO batch.
    fn answer_elsewhere(
        &self,
        slot: Slot,
        authenticator: AuthenticatorFrom,
        packet: Range<usize>,
        after: u64,
        exchange: &mut Exchange<'_>,
    ) {
        let datagram = &exchange.datagram;
        let buffer = &*datagram.buffer;
        let authenticator = match authenticator {
            AuthenticatorFrom::Request(range) => &buffer[range],
            AuthenticatorFrom::Table => self.table.authenticator(slot).octets(),
        };
        let front = MESSAGE_HEADER + authenticator.len() + ENTRY_LENGTH;
        let to: SocketAddrV4 = datagram.source();
        // `emit` does not fail, and so neither does this.
        let _ = exchange.effects.outbox.copy(datagram.index, to, after, |out| {
            let at = out.len();
            match packet.start.checked_sub(front) {
                // One copy takes along whatever stands in front of the packet, which is then
                // written over.
                Some(start) => out.extend_from_slice(&buffer[start..packet.end]),
                None => {
                    out.resize(at + front, 0);
                    out.extend_from_slice(&buffer[packet]);
                }
            }
            let front = &mut out[at..at + front];
            let (front, entry) = front.split_last_chunk_mut().expect("an entry fits in it");
            self.table.emit_entry(slot, entry);
            let kind = message_type::AUTHENTICATOR;
            message::write_before(front, front.len(), kind, authenticator);
            Ok(())
        });
    }
}

/// Writes an answer that has no packet.
pub fn emit_entry(out: &mut Vec<u8>, authenticator: &[u8], entry: Entry) -> Result<(), DropReason> {
    message::emit(out, message_type::AUTHENTICATOR, authenticator);
    out.extend_from_slice(&entry.emit());
    Ok(())
}

/// Sends a packet back with the token, in place, when record `after` is durable. `next_ttl` says
/// its time to live from the one it had.
pub fn return_packet(
    token: Span,
    packet: Span,
    after: u64,
    exchange: &mut Exchange<'_>,
    next_ttl: impl FnOnce(u8) -> Option<u8>,
) -> Result<(), DropReason> {
    let Exchange { datagram, effects, .. } = exchange;
    let (token, packet) = (datagram.range(token), datagram.range(packet));
    let (index, to) = (datagram.index, datagram.source());
    let octets = &mut datagram.buffer[packet.clone()];
    let ttl = next_ttl(ipv4::ttl(octets)).ok_or(DropReason::TtlExpired)?;
    ipv4::set_ttl(octets, ttl);
    let start = message::move_before(datagram.buffer, packet.start, message_type::TOKEN, token);
    effects.outbox.in_place(index, to, after, start..packet.end);
    Ok(())
}
