//! What a table is to this run.

use std::time::Duration;

use super::OwnershipLimits;
use super::transaction::{Cause, Claim, HostId, Revision};
use super::ways::Ways;

/// A table that this run owns.
#[derive(Debug)]
pub(super) struct Mine {
    pub(super) claimed: Revision,
    /// Entries may be deleted from then on.
    pub(super) deletes_from: Duration,
    /// It was owned then, or later. `None`: nothing is known but what was watched.
    pub(super) confirmed: Option<Duration>,
    pub(super) ways: Ways,
}

impl Mine {
    /// Whether it was owned so short a time ago that it may be answered for.
    pub(super) fn is_confirmed(&self, now: Duration, limits: &OwnershipLimits) -> bool {
        self.confirmed.is_some_and(|at| now.saturating_sub(at) < limits.silent_after)
    }
}

/// What a table is to this run.
#[derive(Debug, Default)]
pub(super) enum Stand {
    /// Another's, or nobody's.
    #[default]
    Other,
    /// Another's, by a claim that is not watched yet.
    Behind,
    /// It is being claimed by this transaction.
    Claiming(u64),
    /// The claim was put there at this revision, which is not watched yet.
    Claimed(Revision, Duration),
    Mine(Mine),
    /// It is to be given to this host: nothing new is answered or changed.
    Stopping(Mine, HostId),
    /// It is being given.
    Giving(Revision),
}

impl Stand {
    /// What is known of the table, as long as it may be answered for.
    pub(super) fn owned(&self) -> Option<&Mine> {
        match self {
            Self::Mine(mine) | Self::Stopping(mine, _) => Some(mine),
            _ => None,
        }
    }

    /// As [`Self::owned`].
    pub(super) fn owned_mut(&mut self) -> Option<&mut Mine> {
        match self {
            Self::Mine(mine) | Self::Stopping(mine, _) => Some(mine),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct TableStand {
    /// The last claim that was watched.
    pub(super) claim: Option<(Revision, Claim)>,
    /// When it was watched.
    pub(super) claimed: Duration,
    /// How often it was taken from an owner who seemed to be gone, each time within
    /// [`OwnershipLimits::window`] of the last.
    pub(super) taken: u32,
    pub(super) stand: Stand,
}

impl TableStand {
    pub(super) fn claimed(
        &mut self,
        now: Duration,
        revision: Revision,
        claim: Claim,
        window: Duration,
    ) {
        let is_soon = now.saturating_sub(self.claimed) < window;
        self.taken = match claim.cause {
            Cause::New | Cause::Given => 0,
            Cause::Lost => 1 + if is_soon { self.taken } else { 0 },
        };
        (self.claim, self.claimed) = (Some((revision, claim)), now);
    }

    /// What it is to a run that does not own it, or no more, as another claim came after the one
    /// that was `seen`.
    pub(super) fn stand_after(&self, seen: Option<Revision>) -> Stand {
        let is_watched = self.claim.map(|(revision, _)| revision) != seen;
        if is_watched { Stand::Other } else { Stand::Behind }
    }

    /// Whether it is too soon to take it once more: hosts that do not hear each other would take it
    /// from each other with each request.
    pub(super) fn was_taken(&self, now: Duration, limits: &OwnershipLimits) -> bool {
        let times = 1 << self.taken.saturating_sub(1).min(16);
        let pause = (limits.gone_after * times).min(limits.window);
        self.taken > 0 && now.saturating_sub(self.claimed) < pause
    }
}
