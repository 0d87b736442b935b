//! What the requests of one channel may cost (PROTOCOL.md section 6): its buckets, and which of its
//! conflicts were recorded a moment ago.

use std::time::Duration;

use crate::handoff::change::Change;
use crate::handoff::entry::MappedPort;
use crate::handoff::message::ENTRY_LENGTH;
use crate::handoff::ports::TABLE_CAPACITY;
use crate::handoff::rate::Bucket;
use crate::handoff::stats::DropReason;
use crate::handoff::table::HashedClient;

/// The default of `--create-rate`. A NAT64 keeps a TCP connection that was closed for four minutes
/// (RFC 6146 section 4), so its ports last for 269 new connections a second to one server: this is
/// seven times as many.
pub const CREATE_RATE_DEFAULT: u32 = 2000;
/// At once, a whole table can be created, and replaced; or be in conflict, twice.
const AT_ONCE: u32 = 2 * TABLE_CAPACITY as u32;
/// The most entries in multi reports of one NAT64 in a second: a whole table; and at once.
const REPORTED_RATE_MAX: u32 = TABLE_CAPACITY as u32;
const REPORTED_AT_ONCE: u32 = 4 * TABLE_CAPACITY as u32;
/// What an answer costs beside that, in entries.
const ANSWER_COST: u32 = 7;
/// The most identities of one NAT64 that become known in a second, and at once.
const IDENTITY_RATE_MAX: u32 = 10;
const IDENTITIES_AT_ONCE: u32 = 1000;
/// For how long a conflict that is reported again is not recorded again.
const CONFLICT_FOLDED: Duration = Duration::from_secs(60);
/// The recent conflicts that are kept of one channel, by their port: 6 KiB, from its first one on.
const CONFLICTS_KEPT: usize = 256;

/// What a channel has used of what it may.
#[derive(Debug, Default)]
pub struct Buckets {
    creates: Bucket,
    conflicts: Bucket,
    reported: Bucket,
    identities: Bucket,
    recent: Option<Box<[Recent; CONFLICTS_KEPT]>>,
}

/// A conflict.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    hash: u64,
    at: Duration,
    /// The record that it stands in.
    record: u64,
}

impl Buckets {
    /// One more entry.
    ///
    /// # Errors
    /// Here and below: there were too many.
    pub fn create(&mut self, now: Duration, rate: u32) -> Result<(), DropReason> {
        self.creates.take(now, rate, AT_ONCE, 1).ok_or(DropReason::CreateRate)
    }

    /// A multi report of `octets`.
    pub fn multi_report(&mut self, now: Duration, octets: usize) -> Result<(), DropReason> {
        let entries = (octets / ENTRY_LENGTH) as u32;
        let taken = self.reported.take(now, REPORTED_RATE_MAX, REPORTED_AT_ONCE, entries);
        taken.ok_or(DropReason::ReportRate)
    }

    /// Answers to a multi report, each of which takes several times as long as an entry, as it may
    /// be a conflict that is recorded.
    pub fn answers(&mut self, now: Duration, count: u32) {
        self.reported.charge(now, REPORTED_RATE_MAX, ANSWER_COST * count);
    }

    /// One more identity.
    pub fn identity(&mut self, now: Duration) -> Result<(), DropReason> {
        let taken = self.identities.take(now, IDENTITY_RATE_MAX, IDENTITIES_AT_ONCE, 1);
        taken.ok_or(DropReason::IdentityRate)
    }

    /// A conflict, which is to be recorded in `record`: `None` if that is so, and otherwise the
    /// record that it stands in, as it was reported a moment ago too.
    pub fn conflict(
        &mut self,
        now: Duration,
        rate: u32,
        (port, client): (MappedPort, &HashedClient),
        record: u64,
    ) -> Result<Option<u64>, DropReason> {
        // Another client of the same hash and ports, one in 2^32, would be taken for this one.
        let hash = u64::from(client.hash()) << 32
            | u64::from(port.0) << 16
            | u64::from(client.client.port);
        let recent = self.recent.get_or_insert_with(|| Box::new([Recent::default(); _]));
        let recent = &mut recent[usize::from(port.0) % CONFLICTS_KEPT];
        if recent.hash == hash && now < recent.at + CONFLICT_FOLDED {
            return Ok(Some(recent.record));
        }
        self.conflicts.take(now, rate, AT_ONCE, 1).ok_or(DropReason::ConflictRate)?;
        *recent = Recent { hash, at: now, record };
        Ok(None)
    }

    /// Where another line names a port now, what was reported about it before is recorded again
    /// when it is reported again, so that the last line about a port is what the NAT64 said last.
    pub fn changed(&mut self, change: &Change) {
        if let Change::Created { port, .. } | Change::Deleted { port, .. } = change
            && let Some(recent) = &mut self.recent
        {
            recent[usize::from(port.0) % CONFLICTS_KEPT] = Recent::default();
        }
    }
}
