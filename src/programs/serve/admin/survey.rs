//! All tables, looked at in slices: see [`crate::programs::serve::inquiry`]. A survey is shared by
//! all who ask, and the next one is not made before a time that keeps its cost small, however many
//! tables there are and however often somebody asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::handoff::entry::TableKey;
use crate::handoff::server::SeenTable;
use crate::kernel::sock_diag::SockDiag;
use crate::programs::serve::admin::AdminShared;
use crate::programs::serve::inquiry::{Inquiry, NoAnswer, Question};

/// A survey is good for this long...
const GOOD_FOR: Duration = Duration::from_millis(500);
/// ...and for this many times as long as it took: a reactor spends at most 2 % of its time on them.
const GOOD_FACTOR: u32 = 50;
/// Rates are measured over this time at least...
const RATES_OVER_MIN: Duration = Duration::from_millis(400);
/// ...and, where the survey before is older than this, from a new one on.
const RATES_OVER_MAX: Duration = Duration::from_secs(120);
/// With more tables, nobody waits for that.
const WAITED_TABLES_MAX: usize = 20_000;
/// How long the kernel may take to tell all connections.
const CONNECTIONS_WAIT: Duration = Duration::from_secs(3);
/// Surveys are forgotten when nobody asked for this long.
const KEPT_FOR: Duration = Duration::from_secs(150);

/// What is known of a table at one time.
#[derive(Debug, Clone, Copy)]
pub struct Surveyed {
    pub seen: SeenTable,
    /// TCP connections of this host with its NAT64.
    pub live: Option<u64>,
    /// Requests and entries that came since the survey before.
    pub requests: u64,
    pub created: u64,
}

/// All tables at one time.
#[derive(Debug, Default)]
pub struct Survey {
    /// By the clock of the reactors.
    pub at: Duration,
    pub tables: HashMap<TableKey, Surveyed>,
    /// The time since the survey before, if there was one.
    pub over: Option<Duration>,
    took: Duration,
}

/// The last survey.
#[derive(Debug, Default)]
pub struct Surveys {
    last: Option<Arc<Survey>>,
}

impl Surveys {
    /// One that is good, or a new one.
    ///
    /// # Errors
    /// Where a reactor does not answer.
    pub async fn take(&mut self, shared: &AdminShared) -> Result<Arc<Survey>, NoAnswer> {
        let now = shared.clock.monotonic();
        if let Some(last) = self.last.as_ref().filter(|last| last.is_good(now)) {
            return Ok(Arc::clone(last));
        }
        let has_rates = self.last.as_ref().is_some_and(|last| now - last.at < RATES_OVER_MAX);
        if !has_rates {
            let first = survey(shared, None).await?;
            let is_small = first.tables.len() <= WAITED_TABLES_MAX;
            self.last = Some(Arc::new(first));
            if is_small {
                tokio::time::sleep(RATES_OVER_MIN).await;
            } else if let Some(last) = &self.last {
                return Ok(Arc::clone(last));
            }
        }
        let next = Arc::new(survey(shared, self.last.as_deref()).await?);
        self.last = Some(Arc::clone(&next));
        Ok(next)
    }

    /// Forgets the last one.
    pub fn clear(&mut self) {
        self.last = None;
    }

    /// Forgets what nobody asked for.
    pub fn forget(&mut self, now: Duration) {
        self.last.take_if(|last| now.saturating_sub(last.at) > KEPT_FOR);
    }
}

impl Survey {
    fn is_good(&self, now: Duration) -> bool {
        let age = now.saturating_sub(self.at);
        (self.over.is_some() && age < GOOD_FOR) || age < GOOD_FACTOR * self.took
    }
}

async fn survey(shared: &AdminShared, before: Option<&Survey>) -> Result<Survey, NoAnswer> {
    let at = shared.clock.monotonic();
    let mut tables = HashMap::new();
    for reactor in 0..shared.desks.len() {
        let mut below = Some(usize::MAX);
        while let Some(place) = below {
            let seen = |inquiry: &Inquiry| {
                for &seen in &inquiry.tables {
                    let before = before.and_then(|before| before.tables.get(&seen.key));
                    let since = |now: u64, then: fn(&SeenTable) -> u64| {
                        now.saturating_sub(before.map_or(0, |before| then(&before.seen)))
                    };
                    let requests = since(seen.requests, |seen| seen.requests);
                    let created = since(seen.created, |seen| seen.created);
                    let surveyed = Surveyed { seen, live: None, requests, created };
                    tables.insert(seen.key, surveyed);
                }
                inquiry.next
            };
            below = shared.ask(reactor, Question::Tables(place), seen).await?;
        }
    }
    let keys: HashMap<_, _> = tables.keys().map(|&key| (key, 0)).collect();
    let counted = tokio::task::spawn_blocking(|| connections(keys));
    if let Ok(Ok(Some(live))) = tokio::time::timeout(CONNECTIONS_WAIT, counted).await {
        for (key, table) in &mut tables {
            table.live = live.get(key).copied();
        }
    }
    let took = shared.clock.monotonic().saturating_sub(at);
    let over = before.map(|before| at.saturating_sub(before.at));
    Ok(Survey { at, tables, over, took })
}

/// Adds how many TCP connections this host has between these addresses.
fn connections(mut live: HashMap<TableKey, u64>) -> Option<HashMap<TableKey, u64>> {
    let mut sock_diag = SockDiag::open().ok()?;
    let counted = sock_diag.connections(&[], |connection| {
        let (local, nat64) = (*connection.local.ip(), *connection.remote.ip());
        if let Some(count) = live.get_mut(&TableKey { local, nat64 }) {
            *count += 1;
        }
    });
    counted.ok().map(|()| live)
}
