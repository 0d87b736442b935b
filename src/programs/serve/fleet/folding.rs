//! The log is folded when it has grown, by one host of the cell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use crate::disk::fleet::{FleetEngine, FoldError, Folded, Folder, fold};
use crate::handoff::ownership::HostDropReason;
use crate::kernel::stderr::{say, warn};

/// How often it is looked whether there is something to do.
const LOOKED: Duration = Duration::from_millis(500);
/// The time between two folds: what was before the last but one is not kept for who watches.
const APART: Duration = Duration::from_secs(5);
/// What fails is tried again after that.
const PAUSE: Duration = Duration::from_secs(10);

/// What the threads know of the cell and of its engine, for whoever asks.
#[derive(Debug, Default)]
pub struct FleetGauges {
    /// Octets of records.
    pub log: AtomicU64,
    /// Octets of snapshots.
    pub snapshots: AtomicU64,
    /// No host with a lower number is there.
    pub is_ours: AtomicBool,
    /// How often it was folded here.
    pub folds: AtomicU64,
    /// The last revision that is known.
    pub newest: AtomicU64,
    /// The last one that was watched...
    pub watched: AtomicU64,
    /// ...and when the watch said anything the last time, in microseconds of the monotonic clock.
    pub watched_at: AtomicU64,
    /// When the last transaction was done, likewise. 0: never.
    pub done_at: AtomicU64,
    /// Transactions that were done.
    pub done: AtomicU64,
    /// Those that had no answer in time, and were sent again.
    pub unanswered: AtomicU64,
    /// How many nodes the engine has...
    pub nodes: AtomicU64,
    /// ...and how many of them answer.
    pub answering: AtomicU64,
    /// Datagrams of other hosts that were dropped, by reason.
    dropped: [AtomicU64; HostDropReason::ALL.len()],
}

impl FleetGauges {
    /// A datagram of another host was dropped.
    pub fn count_drop(&self, reason: HostDropReason) {
        self.dropped[reason as usize].fetch_add(1, Ordering::AcqRel);
    }

    /// How many were, for this reason.
    pub fn dropped(&self, reason: HostDropReason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Acquire)
    }

    /// It was folded so far.
    pub fn folded(&self, folded: &Folded) {
        self.log.store(folded.log, Ordering::Release);
        self.snapshots.store(folded.snapshots, Ordering::Release);
    }

    /// Whether it is to be folded, where that is to be at so many octets. Snapshots that are
    /// larger than that are not written again for so little.
    fn is_due(&self, at: u64) -> bool {
        let snapshots = self.snapshots.load(Ordering::Acquire);
        self.is_ours.load(Ordering::Acquire)
            && self.log.load(Ordering::Acquire) >= at.max(snapshots / 2)
    }
}

/// Folds the log at so many octets, until `stop` is set.
pub async fn folds(
    engine: impl FleetEngine,
    folder: Folder,
    at: u64,
    gauges: Arc<FleetGauges>,
    stop: Arc<AtomicBool>,
) {
    let mut is_said = false;
    while !stop.load(Ordering::Acquire) {
        sleep(LOOKED).await;
        if !gauges.is_due(at) {
            continue;
        }
        match fold(&engine, &folder).await {
            Ok(folded) => {
                gauges.folds.fetch_add(1, Ordering::AcqRel);
                is_said = false;
                say(format_args!(
                    "--fleet: folded up to revision {}: {} octets of records are left, and {} of snapshots",
                    folded.at.0, folded.log, folded.snapshots
                ));
                sleep(APART).await;
            }
            // That one does it.
            Err(FoldError::Overtaken) => sleep(PAUSE).await,
            Err(why) => {
                if !std::mem::replace(&mut is_said, true) {
                    warn(format_args!("--fleet: records are not folded into snapshots: {why}"));
                }
                sleep(PAUSE).await;
            }
        }
    }
}
