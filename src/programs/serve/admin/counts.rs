//! How many connections there are at the admin socket and `--web`, what is refused there, and that
//! the operator is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::kernel::stderr::warn;
use crate::programs::serve::repeats::Repeats;

/// The most connections at one door.
const CONNECTIONS_MAX: u32 = 32;

/// Places for connections at each door.
#[derive(Debug)]
pub struct ConnectionPlaces {
    pub unix: Arc<Semaphore>,
    pub web: Arc<Semaphore>,
}

impl Default for ConnectionPlaces {
    fn default() -> Self {
        let [unix, web] = [CONNECTIONS_MAX; 2].map(|most| Arc::new(Semaphore::new(most as usize)));
        Self { unix, web }
    }
}

impl ConnectionPlaces {
    /// Waits until all connections are closed, but no longer than this.
    pub async fn all_left(&self, wait: Duration) {
        let left = async {
            for places in [&self.unix, &self.web] {
                drop(places.acquire_many(CONNECTIONS_MAX).await);
            }
        };
        // Those that stay are cut off.
        let _ = tokio::time::timeout(wait, left).await;
    }
}

/// What is refused here.
#[derive(Debug, Default)]
pub struct AdminCounts {
    /// Connections, as there were too many.
    pub connections_refused: AtomicU64,
    /// Answers that were not read in time.
    pub cut_off: AtomicU64,
    /// Requests that the guard refused.
    pub requests_refused: AtomicU64,
    told: Mutex<(Repeats, u64, u64)>,
}

impl AdminCounts {
    /// Tells the operator what is refused, once a minute at most.
    pub fn tell(&self, now: Duration) {
        let Ok(mut told) = self.told.try_lock() else { return };
        let (repeats, refused_before, cut_before) = &mut *told;
        let refused = self.connections_refused.load(Ordering::Relaxed);
        let cut = self.cut_off.load(Ordering::Relaxed);
        let lines = [
            (
                refused,
                refused_before,
                "connections to the admin socket or --web are refused, as there \
                are too many; see what asks so often (admin_connections_refused)",
            ),
            (
                cut,
                cut_before,
                "answers of the admin socket or --web are cut off, as they are not read \
                in time; see what asks and does not read (admin_cut_off)",
            ),
        ];
        for (count, before, line) in lines {
            if count > *before && repeats.is_due(line, now) {
                *before = count;
                warn(format_args!("{line}"));
            }
        }
    }
}
