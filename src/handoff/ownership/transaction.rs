//! What is asked of the engine that the hosts of a cell share, and what it says.
//!
//! All that is wanted of it: a transaction is done as a whole or not at all, its conditions hold at
//! the moment in which it is done, and one revision orders all that was done, for everybody. Not
//! that an answer comes: what has none is sent again as it was, and the answer then is about all
//! tries together.

use crate::handoff::entry::TableKey;

/// A moment in the history of a cell: what is done later has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// A host of the cell, by a number that no other has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

/// The server of a host from its start to its end: another number each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRun {
    pub host: HostId,
    /// Drawn at the start: what another run of the host left is never taken for this one's.
    pub number: u64,
}

/// How a table came to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Nobody had it.
    New,
    /// The host that had it was not heard any more. It may still answer for a while.
    Lost,
    /// The run that had it gave it, and had stopped before.
    Given,
}

/// Who owns a table: what the engine keeps for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub owner: HostRun,
    pub cause: Cause,
    /// Who put it there, and the number of the transaction: nobody puts the same twice.
    pub by: (HostRun, u64),
}

/// A table, and the revision at which it was claimed: it is owned as long as that is the last.
pub type Owned = (TableKey, Revision);

/// What is to be done, where its conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transaction {
    /// The table gets this owner, if its last claim is the one that was seen.
    Claim {
        table: TableKey,
        /// `None`: it was never claimed.
        seen: Option<Revision>,
        claim: Claim,
    },
    /// The changes with this number of the run are recorded, if these tables are owned still,
    /// nothing with this number is there, and the number before is. So it is not done once more
    /// when it was removed meanwhile: the last one that was done stays. And if no other run of the
    /// host has begun.
    Record {
        number: u64,
        /// All tables that have changes among them, at most [`TABLES_MAX`].
        tables: Vec<Owned>,
    },
    /// Nothing is done, if these tables are owned still.
    Confirm {
        /// At most [`TABLES_MAX`].
        tables: Vec<Owned>,
    },
}

/// The most tables of one transaction: etcd takes 128 operations.
pub const TABLES_MAX: usize = 100;

/// What became of a transaction, all tries of it together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, once, at this revision.
    Done(Revision),
    /// It was not done, and never will be: these tables have another claim.
    Refused(Vec<TableKey>),
    /// Nobody knows: no answer came in time.
    Unknown,
}
