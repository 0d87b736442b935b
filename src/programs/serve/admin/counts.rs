//! How many connections there are at the admin socket and `--web`, what is refused there, and that
//! the operator is told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::kernel::stderr::warn;
use crate::programs::serve::admin::guard::Door;
use crate::programs::serve::repeats::Repeats;

/// Permits for something at each door.
#[derive(Debug)]
pub struct Permits {
    most: usize,
    unix: Arc<Semaphore>,
    web: Arc<Semaphore>,
}

impl Permits {
    /// As many at each door.
    pub fn new(most: usize) -> Self {
        let [unix, web] = [most; 2].map(|most| Arc::new(Semaphore::new(most)));
        Self { most, unix, web }
    }

    /// One, if there is one left.
    pub fn take(&self, door: Door) -> Option<OwnedSemaphorePermit> {
        let permits = match door {
            Door::Unix => &self.unix,
            Door::Web => &self.web,
        };
        Arc::clone(permits).try_acquire_owned().ok()
    }

    /// Waits until all are back, but no longer than this.
    pub async fn all_left(&self, wait: Duration) {
        let left = async {
            for permits in [&self.unix, &self.web] {
                drop(permits.acquire_many(self.most as u32).await);
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
    told: Mutex<(Repeats, [u64; 3])>,
}

impl AdminCounts {
    /// Tells the operator what is refused, once a minute at most.
    pub fn tell(&self, now: Duration) {
        let Ok(mut told) = self.told.try_lock() else { return };
        let (repeats, [refused_before, cut_before, requests_before]) = &mut *told;
        let refused = self.connections_refused.load(Ordering::Relaxed);
        let cut = self.cut_off.load(Ordering::Relaxed);
        let requests = self.requests_refused.load(Ordering::Relaxed);
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
            (
                requests,
                requests_before,
                "requests to the admin socket or --web are refused: without the token, of another \
                site or to a name that is not known; see who asks (admin_requests_refused)",
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
