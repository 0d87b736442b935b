//! Clients that reach each other through the public addresses (RFC 6146 section 3.8, RFC 4787
//! REQ-9): a packet to one of these is translated as for a server at that address, and then as one
//! of a service at the sender's.
//!
//! Of a public address nobody is asked, and to none a report is sent. Each side has an entry of its
//! own: the sender one towards the address that it sends to, which it makes as towards any host;
//! the receiver one towards the sender's address, with the very port that was sent to, which is
//! made when the first packet arrives. Filtering is endpoint-independent here: whoever has a port
//! of this NAT64 is reached by its other clients. They can send each other IPv6 anyway.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::lifetime::Lifetime;
use super::packet::{Inbound, Outbound, PacketKind};
use super::peer::EntryOrigin;
use super::{ENTRIES_MAX, Ignored, Nat64, peer_of};
use crate::handoff::entry::Entry;
use crate::ip::address::extract;

impl Nat64 {
    /// The entry by which to forward a client's packet to a public address. `None` where there is
    /// none, and the packet opens no connection.
    ///
    /// # Errors
    /// None can be made. It is counted.
    pub fn hairpin_outbound(
        &mut self,
        now: Duration,
        packet: &Outbound<'_>,
    ) -> Result<Option<Entry>, Ignored> {
        let to = extract(packet.view.destination());
        if let Some(entry) = self.find_outbound(now, to, packet) {
            return Ok(Some(entry));
        }
        let PacketKind::Data(data) = packet.kind else { return Ok(None) };
        if !data.opens() {
            return Ok(None);
        }
        let made = self.own_entry(now, to, &data);
        if let Err(reason) = made {
            self.count(Err(reason));
        }
        made.map(Some)
    }

    /// The public address that a packet from one of these came from, or that it is about, and the
    /// entry by which to forward it. `None` where no client has the port that it is to.
    pub fn hairpin_inbound(
        &mut self,
        now: Duration,
        packet: &Inbound<'_>,
    ) -> Option<(Ipv4Addr, Entry)> {
        if let Some(found) = self.entry_of_inbound(now, packet) {
            return Some(found);
        }
        let PacketKind::Data(data) = packet.kind else { return None };
        let (from, port) = data.key;
        let client = self.told.holders().client_of(port).filter(|_| data.opens())?;
        let entry = Entry { port, client };
        // One that has another port towards that address answers from there.
        if self.entries_held < ENTRIES_MAX
            && !self.told.is_full()
            && self.port_of(from, &client).is_none()
            && !self.told.is_reserved(from, &entry)
            && let Ok(peer) = peer_of(&mut self.peers, from)
        {
            peer.insert(entry, EntryOrigin::Own, Lifetime::new(now, Some(data.usage)));
            self.entries_held += 1;
            self.told.hear(from, peer);
        }
        Some((from, entry))
    }
}
