//! A request about a table, and who answers it.

use super::transaction::{HostId, Revision};

/// A request that another host passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassedOn {
    /// The host that it reached first.
    pub by: HostId,
    /// How often it was passed on.
    pub times: u8,
    /// The claim that it was passed on by, the last time.
    pub claimed: Revision,
}

impl PassedOn {
    /// Twice: to who was the owner, and to whom that one gave the table meanwhile. More would go in
    /// a circle.
    pub const TIMES_MAX: u8 = 2;

    /// What it is when `host` passes it on, as the table was claimed at this revision.
    pub fn on(passed: Option<Self>, host: HostId, claimed: Revision) -> Self {
        let (by, times) = passed.map_or((host, 0), |passed| (passed.by, passed.times));
        Self { by, times: times.saturating_add(1), claimed }
    }
}

/// What to do with a request about a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhoAnswers {
    /// It is answered here.
    Answer {
        /// Whether an entry may be deleted for it.
        deletes: bool,
    },
    /// It is passed on to this host, as [`PassedOn::on`] says, with the revision of its claim.
    PassOn(HostId, Revision),
    /// That is not known yet, but soon: it may be kept until then, or asked again.
    Wait,
    /// It gets no answer.
    Silent(Unanswerable),
}

/// Why a request gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswerable {
    /// The engine has not confirmed for too long that the table is owned still.
    Unconfirmed,
    /// It was passed on [`PassedOn::TIMES_MAX`] times, and belongs to yet another host.
    PassedOnTooOften,
    /// This host gives all its tables away, and nobody else is there.
    NobodyElse,
}
