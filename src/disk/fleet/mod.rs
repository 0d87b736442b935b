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
//! | `host/HOST` | run, address and port to which the others pass requests on |
//! | `secret/NUMBER` | 32 octets from which keys of MACs are derived |
//!
//! Numbers of runs have 16 hexadecimal digits, those of transactions 20 decimal ones.
//!
//! Not here: who may do what when, which is `ownership`'s; and what drives it, which is
//! `programs::serve::fleet`'s.

mod body;
#[cfg(feature = "fleet")]
pub mod etcd;
mod keys;

use std::future::Future;

use thiserror::Error;

use crate::handoff::ownership::{HostRun, Outcome, Revision, Transaction};
pub use body::{BodyDamaged, TimedChange, body_of, changes_of};
pub use keys::{CellName, FleetKey, RecordKey, claim_in, claim_value, host_in, host_value};

/// Why the engine gave no answer.
#[derive(Debug, Clone, Error)]
pub enum FleetEngineError {
    /// It may have been done, or not.
    #[error("{0}")]
    Unanswered(String),
    /// It can be used in no way, until somebody does something about it.
    #[error("{0}")]
    Unusable(String),
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

    /// All that there is at one revision, in the order in which it was put.
    ///
    /// # Errors
    /// Nothing was read.
    fn read(&self) -> impl Future<Output = Result<(Revision, Vec<FleetValue>), FleetEngineError>>;

    /// All that is done from this revision on.
    ///
    /// # Errors
    /// Nothing is watched.
    fn watch(&self, from: Revision) -> impl Future<Output = Result<Self::Watch, FleetEngineError>>;

    /// Why it did not answer the last time that it did not.
    fn why_away(&self) -> String;

    /// What is watched has ended: it is to be asked elsewhere, where that can be.
    fn leave_node(&self);
}

/// What is done, as it is done.
pub trait FleetWatch {
    /// What was done next: all of it up to a revision, in order. It may be nothing.
    ///
    /// # Errors
    /// This watch is over.
    fn next(&mut self) -> impl Future<Output = Result<Vec<FleetValue>, WatchEnded>>;
}
