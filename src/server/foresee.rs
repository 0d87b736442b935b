//! What can be known of a datagram before those ahead of it were answered.
//!
//! A batch is handled in two passes. The first parses all of its datagrams ([`Server::foresee`]) and looks at all
//! the memory that the second will need ([`Server::look_ahead`]), step by step: first at the NAT64s of all of them,
//! then at the indexes, then at the entries, then at what stands around these. The steps of one request must wait
//! for each other, those of different requests need not, so that the processor waits for many of them at once. The
//! second pass ([`Server::handle_foreseen`]) answers one after the other and relies on nothing that a request may
//! have changed meanwhile: what was foreseen saves time, and never alters an answer.

use super::{Server, nat64s};
use crate::change::TableKey;
use crate::packet::{self, Ipv4, Ipv6};
use crate::stats::DropReason;
use crate::table::HashedClient;
use crate::wire::{self, Client, MappedPort, Request, RequestKind};

/// From so many datagrams on, looking ahead pays.
const LOOK_AHEAD_MIN: usize = 4;
/// So many are looked after at once.
const STRIDE: usize = 32;

/// What can be known of one datagram.
#[derive(Debug)]
pub struct Foreseen {
    table: TableKey,
    pub(super) nat64_hash: u64,
    pub(super) request: Result<Request, DropReason>,
    wanted: Wanted,
}

/// By what an entry will be looked for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Client(HashedClient),
    Port(MappedPort),
    Nothing,
}

impl Foreseen {
    /// `client`, which is probably the one that was foreseen, with its hash.
    pub(super) fn hashed(
        &self,
        client: Client,
        hash: impl FnOnce(Client) -> HashedClient,
    ) -> HashedClient {
        match self.wanted {
            Wanted::Client(foreseen) if foreseen.client == client => foreseen,
            _ => hash(client),
        }
    }
}

impl Server {
    /// Parses a payload that was sent between the addresses of `table`.
    pub fn foresee(&self, table: TableKey, payload: &[u8]) -> Foreseen {
        let hash = &self.context.hash;
        let request = wire::parse(payload);
        let wanted = match &request {
            Ok(request) => match wanted(request, payload) {
                Some(Ok(client)) => Wanted::Client(HashedClient::new(hash, client)),
                Some(Err(port)) => Wanted::Port(port),
                None => Wanted::Nothing,
            },
            Err(_) => Wanted::Nothing,
        };
        Foreseen { table, nat64_hash: nat64s::hash_of(hash, table), request, wanted }
    }

    /// Looks at what [`Server::handle_foreseen`] will need, so that it is in the caches. Changes nothing.
    pub fn look_ahead(&self, foreseen: &[Foreseen]) {
        if foreseen.len() < LOOK_AHEAD_MIN {
            return;
        }
        for foreseen in foreseen.chunks(STRIDE) {
            let mut nat64s = [None; STRIDE];
            for (nat64, foreseen) in nat64s.iter_mut().zip(foreseen) {
                *nat64 = self.nat64s.find(foreseen.nat64_hash, foreseen.table);
            }
            let nat64s = &nat64s[..foreseen.len()];
            // The sum is there so that nobody can say that nothing was looked at.
            let mut seen = 0;
            for nat64 in nat64s.iter().flatten() {
                seen ^= nat64.glance();
            }
            let mut slots = [None; STRIDE];
            for ((slot, nat64), foreseen) in slots.iter_mut().zip(nat64s).zip(foreseen) {
                *slot = nat64.and_then(|nat64| match foreseen.wanted {
                    Wanted::Client(ref sought) => nat64.table().probable(sought),
                    Wanted::Port(port) => nat64.table().find_port(port),
                    Wanted::Nothing => None,
                });
            }
            let mut footholds = [None; STRIDE];
            for ((foothold, nat64), slot) in footholds.iter_mut().zip(nat64s).zip(slots) {
                if let (Some(nat64), Some(slot)) = (nat64, slot) {
                    *foothold = Some(nat64.table().foothold(slot));
                }
            }
            for (foothold, nat64) in footholds.iter().zip(nat64s) {
                if let (Some(nat64), Some(foothold)) = (nat64, foothold) {
                    seen ^= nat64.table().glance(foothold);
                }
            }
            std::hint::black_box(seen);
        }
    }
}

/// The client or the mapped port that a request is about, where that is easily told.
fn wanted(request: &Request, payload: &[u8]) -> Option<Result<Client, MappedPort>> {
    match request.kind {
        RequestKind::ClientPacket(parts) => {
            let view = Ipv6::new(parts.packet.of(payload))?;
            let walk = view.walk().ok()?;
            let upper = view.octets().get(walk.upper_at..)?;
            let (port, _) =
                packet::ports(upper).filter(|_| packet::has_entries(walk.protocol))?;
            Some(Ok(Client { prefix: view.destination_prefix(), address: view.source(), port }))
        }
        RequestKind::ServicePacket { packet } => {
            let view = Ipv4::new(packet.of(payload))?;
            let (_, port) =
                packet::ports(view.data()).filter(|_| packet::has_entries(view.protocol()))?;
            Some(Err(MappedPort(port)))
        }
        RequestKind::Report { entry, .. } => Some(Ok(entry.client)),
        RequestKind::MultiReport => None,
    }
}
