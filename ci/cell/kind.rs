//! Kinds of faults of a cell, and what a host may do wrong, which has to be found.

/// What can go wrong around the hosts. Each seed has some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Requests to the engine, and answers of it, are lost.
    Loss,
    /// They take so long that nobody waits for them any more, and arrive all the same.
    Late,
    /// The engine does nothing for a while.
    EngineDown,
    /// A host does not reach the engine for a while, but all others.
    CutFromEngine,
    /// A host does not reach the others for a while, but the engine.
    CutFromHosts,
    /// A host stops for a while, and goes on as if nothing had been.
    Pause,
    /// A host ends at once, and starts again with nothing.
    Kill,
    /// What a host watches comes late.
    WatchLag,
    /// What was not watched in time is not kept.
    Compaction,
    /// The network sends each request to another host.
    Flapping,
    /// The clocks of hosts have different speeds.
    Drift,
    /// A host gives its tables away, and ends; or all do at nearly the same time.
    Leaving,
}

impl Kind {
    pub const ALL: &[Kind] = &[
        Kind::Loss,
        Kind::Late,
        Kind::EngineDown,
        Kind::CutFromEngine,
        Kind::CutFromHosts,
        Kind::Pause,
        Kind::Kill,
        Kind::WatchLag,
        Kind::Compaction,
        Kind::Flapping,
        Kind::Drift,
        Kind::Leaving,
    ];
}

/// What is done wrong, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// An answer does not wait for its record.
    AnnouncesBefore,
    /// A host that took a table deletes at once.
    DeletesAtOnce,
    /// An owner answers however long ago it was confirmed.
    NeverSilent,
    /// What has no answer of the engine is taken for done.
    UnknownIsDone,
    /// What has no answer of the engine is taken for refused, and recorded once more.
    UnknownIsRefused,
    /// Claims have no condition.
    AnyClaim,
    /// Records have no condition.
    AnyRecord,
    /// The engine forgets what it answered.
    EngineForgets,
    /// The owner begins with what it knew at its claim, and not with what was recorded before it.
    OwnsBeforeItWatched,
    /// A part of what is watched is not applied.
    MissesRecords,
    /// Who lost a table takes it up again as it left it.
    KeepsWhatItLost,
    /// Tables move as soon as a request comes another way.
    MovesAtOnce,
    /// A host has the same run when it starts again.
    SameRun,
    /// A clock runs at a quarter of the speed.
    SlowClock,
    /// An answer that waited for its record leaves when the table belongs to another.
    AnswersLate,
    /// A host ends as soon as its tables are others', though these have not seen that.
    EndsAtOnce,
    /// A host does not say that it leaves.
    LeavesUnsaid,
}

impl Canary {
    pub const ALL: &[Canary] = &[
        Canary::AnnouncesBefore,
        Canary::DeletesAtOnce,
        Canary::NeverSilent,
        Canary::UnknownIsDone,
        Canary::UnknownIsRefused,
        Canary::AnyClaim,
        Canary::AnyRecord,
        Canary::EngineForgets,
        Canary::OwnsBeforeItWatched,
        Canary::MissesRecords,
        Canary::KeepsWhatItLost,
        Canary::MovesAtOnce,
        Canary::SameRun,
        Canary::SlowClock,
        Canary::AnswersLate,
        Canary::EndsAtOnce,
        Canary::LeavesUnsaid,
    ];
}
