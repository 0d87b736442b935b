//! Packets of clients to the public addresses, which go to other clients (RFC 6146 section 3.8):
//! they are translated to IPv4, and each that comes of it is taken as if it had come from outside.

use std::time::Duration;

use super::{Dropped, Gateway, GatewayOutbox, errors};
use crate::ip::address::extract;
use crate::ip::fragment::FragmentKey;
use crate::nat64::engine::{Inbound, Outbound};
use crate::nat64::translate::{Inside, Ipv4Packet, Ipv6Packet, Transport};

impl Gateway {
    /// A client's packet to a public address. Tells the client where no other has the port.
    pub(super) fn hairpin(
        &mut self,
        now: Duration,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let packet = match Ipv6Packet::parse(packet) {
            Ok(packet) => packet,
            Err(refused) => {
                self.refuse_client(now, refused, packet, out);
                return Ok(());
            }
        };
        let mut turned = std::mem::take(&mut self.turned);
        let first = self.turn_to_ipv4(now, &packet, &mut turned);
        let mut outcome = first.map(drop);
        for translated in turned.packets() {
            if translated.first().is_some_and(|octet| octet >> 4 == 4) {
                outcome = outcome.and(self.turned(now, translated, out));
            } else {
                // An error to the client.
                out.push(&[translated]);
            }
        }
        turned.clear();
        self.turned = turned;
        if let Ok(Some(key)) = first {
            self.release(now, key, out);
        }
        if outcome == Err(Dropped::Hairpin) {
            self.tell_client(now, errors::PROHIBITED, packet.view().octets(), out);
        }
        outcome
    }

    /// The first half. Of the first of several fragments it returns which packet the others are of.
    fn turn_to_ipv4(
        &mut self,
        now: Duration,
        packet: &Ipv6Packet<'_>,
        turned: &mut GatewayOutbox,
    ) -> Result<Option<FragmentKey>, Dropped> {
        let which = self.pool.of_sender(now, packet);
        let table = self.pool.table(which, extract(packet.view().destination()));
        match packet.inside() {
            // There is nobody of whom to ask for an echo.
            Inside::Flow { flow, .. } | Inside::Error(flow)
                if flow.transport == Transport::Echo =>
            {
                return Err(Dropped::Hairpin);
            }
            Inside::Later(key) if self.notes.find(now, table, key).is_some() => {
                self.write_ipv4(now, packet, table, 0, turned);
            }
            Inside::Later(key) => self.hold(now, key, packet.view().octets()),
            Inside::Flow { .. } | Inside::Error(_) => {
                let nat64 = &mut self.pool[which].nat64;
                match nat64.hairpin_outbound(now, &Outbound::translatable(packet)) {
                    Ok(Some(entry)) => {
                        self.write_ipv4(now, packet, table, entry.port.0, turned);
                        if let Inside::Flow { fragments: Some(key), .. } = packet.inside() {
                            self.notes.leave(now, table, key, entry.client);
                            return Ok(Some(key));
                        }
                    }
                    Ok(None) => return Err(Dropped::Hairpin),
                    Err(ignored) => {
                        self.after_outbound(now, which, Some(ignored), packet.view(), turned);
                    }
                }
            }
        }
        Ok(None)
    }

    /// The second half: a packet from one public address to another, or to itself.
    fn turned(
        &mut self,
        now: Duration,
        packet: &[u8],
        out: &mut GatewayOutbox,
    ) -> Result<(), Dropped> {
        let packet = match Ipv4Packet::parse(packet) {
            Ok(packet) => packet,
            Err(refused) => {
                self.refuse_service(now, refused, packet, out);
                return Ok(());
            }
        };
        let (from, to) = (packet.view().source(), packet.view().destination());
        let which = self.pool.which(to).ok_or(Dropped::Hairpin)?;
        if let Inside::Later(key) = packet.inside() {
            // The first came before, or was dropped.
            let client = self.notes.find(now, self.pool.table(which, from), key);
            self.write_ipv6(now, &packet, from, client.ok_or(Dropped::FragmentUnknown)?, out);
            return Ok(());
        }
        let nat64 = &mut self.pool[which].nat64;
        let found = nat64.hairpin_inbound(now, &Inbound::translatable(&packet));
        let (server, entry) = found.ok_or(Dropped::Hairpin)?;
        self.forward_inbound(now, self.pool.table(which, server), entry, &packet, out);
        Ok(())
    }

    /// An error of our own about a packet in its second half, to the address that it came from.
    pub(super) fn turn_error(&mut self, now: Duration, error: &[u8], out: &mut GatewayOutbox) {
        if let Err(reason) = self.turned(now, error, out) {
            self.drop(reason);
        }
    }
}
