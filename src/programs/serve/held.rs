//! Replies that wait for the disk.

use std::collections::VecDeque;
use std::net::SocketAddrV4;

use crate::handoff::entry::TableKey;
use crate::kernel::backend::ReturnPath;

/// The most replies that wait for the disk, and the most octets in them.
const HELD_MAX: usize = 65_536;
const HELD_OCTETS_MAX: usize = 16 << 20;

/// A reply that announces a change that is not durable yet.
pub struct HeldReply {
    pub after: u64,
    pub return_path: ReturnPath,
    pub to: SocketAddrV4,
    pub payload: Box<[u8]>,
}

impl HeldReply {
    /// Which table it is about.
    pub fn table(&self) -> TableKey {
        TableKey { local: self.return_path.local, nat64: *self.to.ip() }
    }
}

/// Replies that wait until their record is durable, first in, first out: a reply about an older
/// record may wait behind one about a newer record, a little longer than it must.
#[derive(Default)]
pub struct HeldReplies {
    replies: VecDeque<HeldReply>,
    octets: usize,
}

impl HeldReplies {
    /// Keeps a reply, if there is room for it.
    pub fn hold(&mut self, reply: HeldReply) -> bool {
        let octets = self.octets + reply.payload.len();
        if self.replies.len() >= HELD_MAX || octets > HELD_OCTETS_MAX {
            return false;
        }
        self.octets = octets;
        self.replies.push_back(reply);
        true
    }

    /// The next one whose record is durable.
    pub fn next(&mut self, durable: u64) -> Option<HeldReply> {
        self.replies.front().filter(|held| held.after <= durable)?;
        let reply = self.replies.pop_front()?;
        self.octets -= reply.payload.len();
        Some(reply)
    }

    /// Whether replies about a table wait.
    pub fn has(&self, table: TableKey) -> bool {
        self.replies.iter().any(|held| held.table() == table)
    }

    /// Gives those about a table up, and returns how many there were.
    pub fn give_up_of(&mut self, table: TableKey) -> usize {
        let before = self.replies.len();
        self.replies.retain(|held| held.table() != table);
        self.octets = self.replies.iter().map(|held| held.payload.len()).sum();
        before - self.replies.len()
    }

    /// Gives all of them up, and returns how many there were.
    pub fn give_up(&mut self) -> usize {
        let count = self.replies.len();
        *self = Self::default();
        count
    }
}
