//! Refreshed authenticators that are recorded later: of one client at most one in a second
//! (PROTOCOL.md section 6), whatever a NAT64 sends. In memory the latest one is used at once.

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::Duration;

use crate::handoff::entry::TableKey;

/// How often an authenticator of a client is recorded.
pub const RECORD_EVERY: Duration = Duration::from_secs(1);
/// The most clients of a shard whose authenticator waits to be recorded. Those of others are
/// recorded at once, or, where nothing can be, not learned.
const LATE_MAX: usize = 65_536;

/// Whose authenticator is to be recorded, and when.
#[derive(Debug, Clone, Copy)]
pub struct LateRecord {
    pub due: Duration,
    pub table: TableKey,
    pub address: Ipv6Addr,
}

/// Those of one shard, in the order in which they are due.
#[derive(Debug, Default)]
pub struct LateRecords(VecDeque<LateRecord>);

impl LateRecords {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has_room(&self) -> bool {
        self.0.len() < LATE_MAX
    }

    /// Returns whether there is room for it.
    pub fn push(&mut self, late: LateRecord) -> bool {
        let has_room = self.has_room();
        if has_room {
            self.0.push_back(late);
        }
        has_room
    }

    /// Takes the next one that is due `now`.
    pub fn pop(&mut self, now: Duration) -> Option<LateRecord> {
        self.0.front().is_some_and(|late| late.due <= now).then(|| self.0.pop_front())?
    }
}
