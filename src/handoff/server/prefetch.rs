//! The first pass over a batch: parse, hash and prefetch, before the first datagram is answered.
//!
//! [`Server::prepare`] parses a datagram, and [`Server::prefetch`] reads the memory that answers
//! will need, step by step: first the channels of all datagrams, then the indexes, then the
//! entries, then the records around these. The steps of one request depend on each other, those of
//! different requests do not, so that the processor waits for many of them at once. The second pass
//! ([`Server::handle_prepared`]) answers one after the other and relies on nothing that a request
//! may have changed meanwhile: what was prepared saves time, and never alters an answer.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::Server;
use super::channels::{self, ChannelNumber};
use super::delivered::opens;
use super::exchange::Wanted;
use crate::handoff::delivery::HostDelivery;
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::handoff::message::{self, Request, RequestKind};
use crate::handoff::stats::DropReason;
use crate::handoff::table::{HashedClient, Slot};
use crate::ip::fields::protocol;
use crate::ip::flow::{self, Class};
use crate::ip::ipv4::Ipv4;
use crate::ip::ipv6::Ipv6;

/// How many datagrams are best prepared at once: more of them push each other out of the caches
/// again.
pub const PREFETCH_MAX: usize = 64;
/// With fewer datagrams than this, prefetching costs more than it saves.
const PREFETCH_MIN: usize = 4;

/// What is known of one datagram before those in front of it were answered.
#[derive(Debug)]
pub struct Prepared {
    table: TableKey,
    /// The hash of `table`.
    pub(super) hash: u64,
    /// Which channel it came by, if there was one.
    pub(super) channel: Option<ChannelNumber>,
    pub(super) request: Result<Request, DropReason>,
    pub(super) wanted: Wanted,
    /// Where the wanted entry probably was at the time of [`Server::prefetch`].
    pub(super) probable: Option<Slot>,
}

/// A place for [`Server::prepare`] to write to.
impl Default for Prepared {
    fn default() -> Self {
        let nowhere = Ipv4Addr::UNSPECIFIED;
        Self {
            table: TableKey { local: nowhere, nat64: nowhere },
            hash: 0,
            channel: None,
            request: Err(DropReason::Empty),
            wanted: Wanted::Nothing,
            probable: None,
        }
    }
}

impl Prepared {
    /// Whether to answer it may cost much more than to answer a known client: a multi report, or
    /// what comes from a known NAT64 about an entry that was not found, and is not delivered. Only
    /// told after [`Server::prefetch`].
    #[inline]
    pub fn is_costly(&self) -> bool {
        self.probable.is_none()
            && self.channel.is_some()
            && !matches!(self.wanted, Wanted::Delivered(_))
    }
}

impl Server {
    /// Parses the payload of datagram `index` of a batch, which was sent between the addresses of
    /// `table`. The datagrams in front of it must be prepared already.
    ///
    /// # Panics
    /// Where `batch` has no place `index`.
    #[inline]
    pub fn prepare(&self, table: TableKey, payload: &[u8], index: usize, batch: &mut [Prepared]) {
        // Many datagrams in a row come from the same NAT64.
        let before = index.checked_sub(1).map(|before| &batch[before]);
        let (hash, channel) = match before {
            Some(before) if before.table == table => (before.hash, before.channel),
            _ => {
                let hash = channels::hash_of(&self.shared.hash, table);
                (hash, self.admission.channels.find(hash, table))
            }
        };
        // Each field is written to its final place: `Prepared` is large, and moving it would take
        // longer than making it. The request is not read back from there either, which would stall
        // on store forwarding.
        let prepared = &mut batch[index];
        prepared.table = table;
        prepared.hash = hash;
        prepared.channel = channel;
        prepared.probable = None;
        match message::parse_plain(payload) {
            Some(request) => {
                prepared.wanted = self.wanted(&request, payload).unwrap_or(Wanted::Nothing);
                prepared.request = Ok(request);
            }
            None => self.prepare_any(payload, prepared),
        }
    }

    #[inline(never)]
    fn prepare_any(&self, payload: &[u8], prepared: &mut Prepared) {
        prepared.request = message::parse_any(payload);
        prepared.wanted = match &prepared.request {
            Ok(request) => self.wanted(request, payload).unwrap_or(Wanted::Nothing),
            Err(_) => Wanted::Nothing,
        };
    }

    /// Reads what [`Server::handle_prepared`] will need, so that it is in the caches. Notes in
    /// `batch` where the entries probably are, and changes nothing else.
    pub fn prefetch(&self, batch: &mut [Prepared]) {
        if batch.len() < PREFETCH_MIN {
            return;
        }
        let channel_of = |prepared: &Prepared| Some(self.admission.channels.get(prepared.channel?));
        // The sum keeps the compiler from leaving the reads out.
        let mut seen = 0;
        let mut last = None;
        for prepared in &*batch {
            if last != prepared.channel {
                last = prepared.channel;
                seen ^= channel_of(prepared).map_or(0, |channel| channel.prefetch());
            }
        }
        for prepared in &mut *batch {
            prepared.probable = channel_of(prepared).and_then(|channel| match &prepared.wanted {
                Wanted::Sender(client) | Wanted::Delivered(client) | Wanted::Reported(client) => {
                    channel.table().probable(client)
                }
                Wanted::Port(port) => channel.table().find_port(*port),
                Wanted::Nothing => None,
            });
        }
        for prepared in &*batch {
            if let (Some(channel), Some(slot)) = (channel_of(prepared), prepared.probable) {
                seen ^= channel.table().prefetch(slot);
            }
        }
        for prepared in &*batch {
            if let (Some(channel), Some(slot)) = (channel_of(prepared), prepared.probable) {
                seen ^= channel.table().prefetch_client(slot);
            }
        }
        std::hint::black_box(seen);
    }

    /// The client or the mapped port that a request is about, where that is easily told.
    #[inline(always)] // To avoid a store-forwarding stall on what it returns.
    fn wanted(&self, request: &Request, payload: &[u8]) -> Option<Wanted> {
        match request.kind {
            RequestKind::ClientPacket(parts) => {
                let view = Ipv6::new(parts.packet.of(payload))?;
                let walk = view.walk().ok()?;
                if walk.fragment.is_some() {
                    return None;
                }
                let Ok(Class::Ports { transport, source_port: port, destination_port }) =
                    flow::classify_ipv6(view, &walk)
                else {
                    return None;
                };
                let (prefix, address) = (view.destination_prefix(), view.source());
                let client = Client { prefix, address, port };
                if !Client::can_have(address) || port == 0 {
                    return None;
                }
                let client = HashedClient::new(&self.shared.hash, client);
                let delivery = self.shared.delivery.as_ref();
                // Where ports may change, connections may go on: which ones is looked up later.
                let may_be = |its: &Arc<HostDelivery>| {
                    its.ports.has(transport, destination_port)
                        || (its.ports.follows()
                            && walk.protocol == protocol::TCP
                            && !opens(view, &walk))
                };
                match delivery.is_some_and(may_be) {
                    true => Some(Wanted::Delivered(client)),
                    false => Some(Wanted::Sender(client)),
                }
            }
            RequestKind::ServicePacket { packet } => {
                let view = Ipv4::new(packet.of(payload))?;
                match flow::classify_ipv4(view) {
                    Ok(Class::Ports { destination_port, .. }) => {
                        Some(Wanted::Port(MappedPort(destination_port)))
                    }
                    _ => None,
                }
            }
            RequestKind::Report { entry, .. } => {
                Some(Wanted::Reported(HashedClient::new(&self.shared.hash, entry.client)))
            }
            RequestKind::MultiReport => None,
        }
    }
}
