//! [`FleetEngine`]: what the hosts of a cell share, as narrow as [`crate::handoff::ownership`]
//! wants it, and how what they put there is written.
//!
//! The engine is the authority: what it has done is recorded, and nothing else is. It has to give
//! what `ownership` says of transactions, all that was done since a revision in that order, and all
//! that there is at one. That is etcd, where the feature `fleet` is on.
//!
//! | key, behind `nat64handoff/CELL/` | value |
//! | --- | --- |
//! | `own/LOCAL/NAT64` | who owns that table: host, run, cause, and by whom and which transaction |
//! | `log/HOST/RUN/SHARD/NUMBER` | the changes of one transaction: records of the journal |
//! | `snap/LOCAL/NAT64` | which snapshot that table has: revision, by whom, parts, octets |
//! | `part/LOCAL/NAT64/REVISION/HOST/RUN/NUMBER` | a part of a snapshot: records of the journal |
//! | `folded` | the revision that all snapshots cover, octets of the log then and of snapshots |
//! | `cursor/HOST` | the revision up to which that host has written the lines of its records |
//! | `host/HOST` | run, address and port to which the others pass requests on |
//! | `run/HOST` | the run of that host: others of it record nothing, however late that arrives |
//! | `secret/NUMBER` | 32 octets from which keys of MACs are derived |
//!
//! Numbers of runs have 16 hexadecimal digits, those of transactions 20 decimal ones. The number 0
//! of a shard has no changes: it is there before the shard records anything, as each record needs
//! the one before it.
//!
//! The log does not grow for ever: [`fold()`] makes snapshots of it, and removes what they cover. A
//! host that starts reads the snapshots, and the log behind them: [`CellReader`].
//!
//! Not here: who may do what when, which is `ownership`'s; and what drives it, which is
//! `programs::serve::fleet`'s.

mod body;
#[cfg(feature = "fleet")]
pub mod etcd;
mod fold;
mod keys;
mod range;
mod read;

use std::future::Future;

use thiserror::Error;

use crate::handoff::ownership::{HostRun, Outcome, Revision, Transaction};
pub use body::{BodyDamaged, TimedChange, body_of, changes_in_part, changes_of, parts_of};
pub use fold::{FoldError, FoldLimits, Folder, fold};
pub use keys::{
    CellName, FleetKey, Folded, PartKey, RecordKey, SnapshotId, TableSnapshot, claim_in,
    claim_value, host_in, host_value, parts_of_snapshot, run_value,
};
pub use range::KeyRange;
pub use read::{CellBeside, CellReader, read_all};

/// Why the engine gave no answer.
#[derive(Debug, Clone, Error)]
pub enum FleetEngineError {
    /// It may have been done, or not.
    #[error("{0}")]
    Unanswered(String),
    /// It can be used in no way, until somebody does something about it.
    #[error("{0}")]
    Unusable(String),
    /// What was to be read at a revision is not kept any more.
    #[error("what was to be read is not kept any more")]
    Compacted,
}

/// A key, what it has, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetValue {
    pub key: FleetKey,
    /// `None`: the key was taken away at that revision.
    pub value: Option<Vec<u8>>,
    pub revision: Revision,
}

/// One shard of one run of a host: who records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardRun {
    pub run: HostRun,
    pub shard: u16,
}

/// Some of the keys of a range, in their order, and what they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetPage {
    /// When that was so.
    pub revision: Revision,
    pub values: Vec<FleetValue>,
    /// Where the rest is, if there is more.
    pub rest: Option<KeyRange>,
}

/// What has to be so for something to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyIs {
    /// Nothing has the key.
    Absent,
    /// It was put at this revision the last time.
    At(Revision),
}

/// What is done together, or not at all.
#[derive(Debug, Clone, Default)]
pub struct FleetCommit {
    pub conditions: Vec<(FleetKey, KeyIs)>,
    pub puts: Vec<(FleetKey, Vec<u8>)>,
    pub removes: Vec<KeyRange>,
}

/// Why there is nothing more to be watched.
#[derive(Debug, Clone, Error)]
pub enum WatchEnded {
    /// It can be watched anew, from where this ended.
    #[error("{0}")]
    Away(String),
    /// What would come next is not kept any more: all is to be read anew.
    #[error("what was to be watched is not kept any more")]
    Compacted,
}

/// What the hosts of a cell share. Nothing here waits longer than a deadline of its own.
pub trait FleetEngine {
    type Watch: FleetWatch;

    /// Does what a shard wants, with the body of the record where it is one, or says why not. As
    /// often as wanted: it is done once.
    fn transact(
        &self,
        by: ShardRun,
        transaction: &Transaction,
        body: &[u8],
    ) -> impl Future<Output = Outcome>;

    /// Puts a value there.
    ///
    /// # Errors
    /// It may be there, or not.
    fn put(
        &self,
        key: &FleetKey,
        value: &[u8],
    ) -> impl Future<Output = Result<(), FleetEngineError>>;

    /// Puts a value where nothing is. Returns what is there then.
    ///
    /// # Errors
    /// Something may be there, or not.
    fn put_first(
        &self,
        key: &FleetKey,
        value: &[u8],
    ) -> impl Future<Output = Result<Vec<u8>, FleetEngineError>>;

    /// The first keys of a range, at most so many, as they were at a revision; or as they are.
    ///
    /// # Errors
    /// Nothing was read.
    fn page(
        &self,
        range: &KeyRange,
        most: usize,
        at: Option<Revision>,
    ) -> impl Future<Output = Result<FleetPage, FleetEngineError>>;

    /// Does all of it, if it may; returns whether it did. Sent again, what was done may be refused.
    ///
    /// # Errors
    /// It may be done, or not.
    fn commit(&self, commit: &FleetCommit) -> impl Future<Output = Result<bool, FleetEngineError>>;

    /// What was done before this revision, and is not so any more, need not be kept.
    ///
    /// # Errors
    /// It may be kept, or not.
    fn compact(&self, before: Revision) -> impl Future<Output = Result<(), FleetEngineError>>;

    /// All that is done from this revision on, to the keys of [`KeyRange::watched`].
    ///
    /// # Errors
    /// Nothing is watched.
    fn watch(&self, from: Revision) -> impl Future<Output = Result<Self::Watch, FleetEngineError>>;

    /// How many nodes of it answer now, and how many there are.
    fn answering(&self) -> impl Future<Output = (usize, usize)>;

    /// Why it did not answer the last time that it did not.
    fn why_away(&self) -> String;

    /// What is watched has ended: it is to be asked elsewhere, where that can be.
    fn leave_node(&self);
}

/// What was watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedValues {
    pub values: Vec<FleetValue>,
    /// Nothing before that comes any more, where that is known.
    pub revision: Option<Revision>,
}

/// What is done, as it is done.
pub trait FleetWatch {
    /// What was done next: all of it up to a revision, in order. It may be nothing.
    ///
    /// # Errors
    /// This watch is over.
    fn next(&mut self) -> impl Future<Output = Result<WatchedValues, WatchEnded>>;
}
