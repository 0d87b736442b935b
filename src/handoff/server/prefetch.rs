//! What can be known of a datagram before those ahead of it were answered.
//!
//! A batch is handled in two passes. The first parses its datagrams ([`Server::foresee`]) and looks at the memory
//! that the second will need ([`Server::look_ahead`]), step by step: first at the NAT64s of all of them, then at the
//! indexes, then at the entries, then at what stands around these. The steps of one request must wait for each
//! other, those of different requests need not, so that the processor waits for many of them at once. The second
//! pass ([`Server::handle_foreseen`]) answers one after the other and relies on nothing that a request may have
//! changed meanwhile: what was foreseen saves time, and never alters an answer.

use std::net::Ipv4Addr;

use super::channels::{self, Number};
use super::{Nat64, Server};
use crate::handoff::entry::{Client, MappedPort, TableKey};
use crate::handoff::message::{self, Request, RequestKind};
use crate::handoff::stats::DropReason;
use crate::handoff::table::{HashedClient, Slot};
use crate::ip::packet::{self, Ipv4, Ipv6};

/// How many datagrams are best foreseen and then handled: more of them push each other out of the caches again.
pub const AHEAD_MAX: usize = 64;
/// From so many datagrams on, looking ahead pays.
const LOOK_AHEAD_MIN: usize = 4;

/// What can be known of one datagram.
#[derive(Debug)]
pub struct Foreseen {
    table: TableKey,
    pub(super) nat64_hash: u64,
    /// Which NAT64 it comes from, if that was known.
    pub(super) nat64: Option<Number>,
    pub(super) request: Result<Request, DropReason>,
    wanted: Wanted,
    /// Where the entry of the client that is wanted was, probably, when somebody looked ahead.
    pub(super) probable: Option<Slot>,
}

/// By what an entry will be looked for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// It sent the packet: TCP or UDP, not a fragment, from an address and port that a client can have.
    Sender(HashedClient),
    /// It was reported.
    Reported(HashedClient),
    /// A packet was sent there.
    Port(MappedPort),
    Nothing,
}

/// Of no datagram.
impl Default for Foreseen {
    fn default() -> Self {
        let nowhere = Ipv4Addr::UNSPECIFIED;
        Self {
            table: TableKey { local: nowhere, nat64: nowhere },
            nat64_hash: 0,
            nat64: None,
            request: Err(DropReason::Empty),
            wanted: Wanted::Nothing,
            probable: None,
        }
    }
}

impl Foreseen {
    /// Who sent the client packet that came alone, where that needs no closer look.
    pub(super) fn sender(&self) -> Option<&HashedClient> {
        match &self.wanted {
            Wanted::Sender(client) => Some(client),
            _ => None,
        }
    }

    /// Whose entry was reported, if one was.
    pub(super) fn reported(&self) -> Option<&HashedClient> {
        match &self.wanted {
            Wanted::Reported(client) => Some(client),
            _ => None,
        }
    }
}

impl Server {
    /// Parses the payload of datagram `index` of a batch, which was sent between the addresses of `table`, and
    /// writes down what is known of it. That of the datagrams in front of it is known already.
    ///
    /// # Panics
    /// Where `batch` is not so long.
    #[inline]
    pub fn foresee(&self, table: TableKey, payload: &[u8], index: usize, batch: &mut [Foreseen]) {
        // Many in a row come from the same NAT64.
        let before = index.checked_sub(1).map(|before| &batch[before]);
        let (nat64_hash, nat64) = match before {
            Some(before) if before.table == table => (before.nat64_hash, before.nat64),
            _ => {
                let hash = channels::hash_of(&self.context.hash, table);
                (hash, self.nat64s.find(hash, table))
            }
        };
        // Piece by piece where it is to be: it is large, and to move it would take longer than to make it. Nor is
        // the request read back from where it was just written: that is done in pieces of other sizes, and stalls.
        let foreseen = &mut batch[index];
        foreseen.table = table;
        foreseen.nat64_hash = nat64_hash;
        foreseen.nat64 = nat64;
        foreseen.probable = None;
        match message::parse_plain(payload) {
            Some(request) => {
                foreseen.wanted = self.wanted(&request, payload).unwrap_or(Wanted::Nothing);
                foreseen.request = Ok(request);
            }
            None => self.foresee_any(payload, foreseen),
        }
    }

    #[inline(never)]
    fn foresee_any(&self, payload: &[u8], foreseen: &mut Foreseen) {
        foreseen.request = message::parse_any(payload);
        foreseen.wanted = match &foreseen.request {
            Ok(request) => self.wanted(request, payload).unwrap_or(Wanted::Nothing),
            Err(_) => Wanted::Nothing,
        };
    }

    /// Looks at what [`Server::handle_foreseen`] will need, so that it is in the caches. Changes nothing but what is
    /// foreseen.
    pub fn look_ahead(&self, foreseen: &mut [Foreseen]) {
        if foreseen.len() < LOOK_AHEAD_MIN {
            return;
        }
        let nat64_of = |foreseen: &Foreseen| Some(self.nat64s.get(foreseen.nat64?));
        // The sum is there so that nobody can say that nothing was looked at.
        let mut seen = 0;
        let mut last = None;
        for foreseen in &*foreseen {
            if last != foreseen.nat64 {
                last = foreseen.nat64;
                seen ^= nat64_of(foreseen).map_or(0, Nat64::glance);
            }
        }
        for foreseen in &mut *foreseen {
            foreseen.probable = nat64_of(foreseen).and_then(|nat64| match &foreseen.wanted {
                Wanted::Sender(client) | Wanted::Reported(client) => nat64.table().probable(client),
                Wanted::Port(port) => nat64.table().find_port(*port),
                Wanted::Nothing => None,
            });
        }
        for foreseen in &*foreseen {
            if let (Some(nat64), Some(slot)) = (nat64_of(foreseen), foreseen.probable) {
                seen ^= nat64.table().glance(slot);
            }
        }
        for foreseen in &*foreseen {
            if let (Some(nat64), Some(slot)) = (nat64_of(foreseen), foreseen.probable) {
                seen ^= nat64.table().glance_around(slot);
            }
        }
        std::hint::black_box(seen);
    }

    /// The client or the mapped port that a request is about, where that is easily told.
    #[inline(always)] // Else what it finds is moved, and that stalls.
    fn wanted(&self, request: &Request, payload: &[u8]) -> Option<Wanted> {
        match request.kind {
            RequestKind::ClientPacket(parts) => {
                let view = Ipv6::new(parts.packet.of(payload))?;
                let walk = view.walk().ok()?;
                if walk.fragment.is_some() || !packet::has_entries(walk.protocol) {
                    return None;
                }
                let (port, _) = packet::ports(view.octets().get(walk.upper_at..)?)?;
                let (prefix, address) = (view.destination_prefix(), view.source());
                let client = Client { prefix, address, port };
                (Client::can_have(address) && port != 0)
                    .then(|| Wanted::Sender(HashedClient::new(&self.context.hash, client)))
            }
            RequestKind::ServicePacket { packet } => {
                let view = Ipv4::new(packet.of(payload))?;
                let ports = packet::ports(view.data());
                let (_, port) = ports.filter(|_| packet::has_entries(view.protocol()))?;
                Some(Wanted::Port(MappedPort(port)))
            }
            RequestKind::Report { entry, .. } => {
                Some(Wanted::Reported(HashedClient::new(&self.context.hash, entry.client)))
            }
            RequestKind::MultiReport => None,
        }
    }
}
