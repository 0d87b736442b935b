//! What the shell and the server hand each other: a [`Batch`] of [`Datagram`]s goes in, replies and
//! changes come out in an [`Outbox`].

use std::net::{Ipv6Addr, SocketAddrV4};
use std::ops::Range;
use std::time::Duration;

use super::late::RECORD_EVERY;
use crate::handoff::change::{Change, Now};
use crate::handoff::entry::TableKey;
use crate::handoff::message::{ENTRY_LENGTH, Span};
use crate::handoff::stats::DropReason;
use crate::handoff::table::LivePorts;

/// What holds for all datagrams that are handled together.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// The time, read once: see [`Batch::set_time`].
    pub now: Now,
    /// The same, coarser.
    pub coarse: Coarse,
    /// The number of the record that the changes of this batch will stand in.
    pub record: u64,
    /// The number of the last record that is durable.
    pub durable: u64,
    /// Why nothing can be recorded now, where that is so: there must be no change.
    pub frozen: Option<DropReason>,
    /// No entry may be deleted: another host may still answer by it.
    pub keeps_all: bool,
}

impl Batch {
    /// For a shard without a journal: nothing has to become durable.
    pub fn at(now: Now) -> Self {
        let coarse = Coarse::of(now.monotonic);
        Self { now, coarse, record: 0, durable: 0, frozen: None, keeps_all: false }
    }

    /// Makes it one at this time.
    pub fn set_time(&mut self, monotonic: Duration) {
        self.now.monotonic = monotonic;
        self.coarse = Coarse::of(monotonic);
    }
}

/// How often the use of an entry is recorded: a restart keeps the order of use as coarsely as that.
const USE_RECORDED_EVERY: Duration = Duration::from_secs(30 * 60);

/// A time in units that take little room where they are kept, calculated once for a batch.
#[derive(Debug, Clone, Copy)]
pub struct Coarse {
    pub second: u32,
    /// Another one whenever uses are to be recorded again. Never 0, which is the tick of entries
    /// that were replayed.
    pub tick: u16,
}

// An authenticator is recorded once in a `second`.
const _: () = assert!(RECORD_EVERY.as_secs() == 1);

impl Coarse {
    fn of(now: Duration) -> Self {
        let ticks = now.as_secs() / USE_RECORDED_EVERY.as_secs();
        Self { second: now.as_secs() as u32, tick: 1 + (ticks % u64::from(u16::MAX)) as u16 }
    }
}

/// Upper bound of the events that a datagram with a payload of `octets` can lead to: a conflict, a
/// deletion and a creation for each entry that can stand in it, and some more for the request as a
/// whole.
pub const fn events_max(octets: usize) -> usize {
    EVENTS_BESIDE + 3 * (octets / ENTRY_LENGTH)
}

/// The events of a request beside those about the entries in it: the table is initialized, the
/// entry on its control port is deleted, a client packet deletes an entry and creates one.
pub const EVENTS_BESIDE: usize = 16;

/// Tells on which mapped ports this host has a live TCP connection with the NAT64: eviction passes
/// over those entries (PROTOCOL.md section 6), and a table with one is not given up (section 5).
///
/// An argument of [`Server::handle`](super::Server::handle), as the time is. It is asked rather
/// than told, as most batches need no answer, and what is known of all tables is too much to pass
/// on with each.
pub trait LiveConnections: Send {
    /// What is known of `table`, which is full or soon will be. Must not wait.
    fn of(&mut self, table: TableKey) -> Option<LivePorts<'_>>;

    /// Whether this host has any live connection with a NAT64, which may have no table, at a local
    /// address; `None` where that is not known. Must not wait.
    fn any(&mut self, table: TableKey) -> Option<bool> {
        self.of(table).map(|live| !live.ports.is_empty())
    }
}

/// Knows of no connection.
#[derive(Debug, Clone, Copy)]
pub struct NoneKnown;

impl LiveConnections for NoneKnown {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        None
    }
}

/// A request, and whom it came from.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Which one of its batch it is. Replies carry this number.
    pub index: usize,
    /// The addresses that it was sent between.
    pub table: TableKey,
    /// The port that it came from.
    pub port: u16,
    /// The buffer that it stands in. Replies are written into it.
    pub buffer: &'a mut [u8],
    /// Where the payload stands in the buffer.
    pub payload: Range<usize>,
    /// From here on the buffer can be written to. A reply that has no room in front of its packet
    /// is written elsewhere; with [`HEAD_ROOM`](crate::handoff::message::HEAD_ROOM) octets in front
    /// of the payload there is always room.
    pub room: usize,
}

impl Datagram<'_> {
    /// Where it came from, which is where its replies go.
    pub fn source(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.table.nat64, self.port)
    }

    pub fn payload(&self) -> &[u8] {
        &self.buffer[self.payload.clone()]
    }

    /// Where a part of the payload stands in the buffer.
    pub fn range(&self, span: Span) -> Range<usize> {
        self.payload.start + span.start()..self.payload.start + span.end()
    }

    /// The octets of a part of the payload.
    #[inline]
    pub fn octets(&self, span: Span) -> &[u8] {
        span.of(self.payload())
    }
}

/// Where a reply's payload stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In the buffer of the datagram that is answered.
    InPlace(Range<usize>),
    /// In [`Outbox::copies`].
    Copied(Range<usize>),
}

/// A payload to send to the NAT64, from the address that the request was sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Which datagram of the batch it answers: see [`Datagram::index`].
    pub datagram: usize,
    /// Where it goes.
    pub to: SocketAddrV4,
    /// What it says.
    pub body: Body,
    /// It announces what this record says: it may leave when that is durable.
    pub after: u64,
}

/// A client's packet for a program on this host (PROTOCOL.md section 11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredPacket {
    /// Which datagram of the batch it came in: see [`Datagram::index`].
    pub datagram: usize,
    /// Where it stands in the buffer of that.
    pub range: Range<usize>,
    /// `None`: it stays IPv6.
    pub translated: Option<Translated>,
}

/// A client's packet becomes IPv4, of its own address of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Translated {
    /// Whose flow it is of.
    pub client: Ipv6Addr,
    /// By which NAT64 it came, and to which address of this host: the service's.
    pub table: TableKey,
}

/// What came of a batch of datagrams, in order. It is kept from batch to batch, and allocates no
/// more once it is large enough.
#[derive(Debug, Default)]
pub struct Outbox {
    /// What is to be sent.
    pub replies: Vec<Reply>,
    /// What changed, and in which table.
    pub changes: Vec<(TableKey, Change)>,
    /// What this host itself takes.
    pub delivered: Vec<DeliveredPacket>,
    copies: Vec<u8>,
}

impl Outbox {
    /// Removes all of it, and keeps the allocations.
    pub fn clear(&mut self) {
        self.replies.clear();
        self.changes.clear();
        self.delivered.clear();
        self.copies.clear();
    }

    /// The payloads that were not written in place.
    pub fn copies(&self) -> &[u8] {
        &self.copies
    }

    /// Delivers a packet, which is `range` of the buffer of datagram `index`.
    pub fn deliver(&mut self, index: usize, range: Range<usize>, translated: Option<Translated>) {
        self.delivered.push(DeliveredPacket { datagram: index, range, translated });
    }

    /// Replies to datagram `index` with what was written to `range` of its buffer.
    pub fn in_place(&mut self, index: usize, to: SocketAddrV4, after: u64, range: Range<usize>) {
        self.replies.push(Reply { datagram: index, to, body: Body::InPlace(range), after });
    }

    /// Replies to datagram `index` with a payload that `emit` appends; nothing is sent where that
    /// fails.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn copy(
        &mut self,
        index: usize,
        to: SocketAddrV4,
        after: u64,
        emit: impl FnOnce(&mut Vec<u8>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let start = self.copies.len();
        let result = emit(&mut self.copies);
        match result {
            Ok(()) => {
                let body = Body::Copied(start..self.copies.len());
                self.replies.push(Reply { datagram: index, to, body, after });
            }
            Err(_) => self.copies.truncate(start),
        }
        result
    }
}
