//! The thread that makes the history while a server runs. It has the lowest priority, and nobody
//! waits for it: what it does with one file is left undone when the server ends, and the next one,
//! or the next process, goes on.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::disk::eventlog::Day;
use crate::disk::history::{BuildError, Building, Built, Due, HistoryPlace};
use crate::kernel::clock;
use crate::kernel::priority;
use crate::kernel::stderr::{say, warn};
use crate::programs::options::{HistoryDestination, LogDestination, ServeConfig};

/// How often it is looked whether there is something to do.
const INTERVAL: Duration = Duration::from_secs(5);
/// At most, after several failures in a row: what a failure cost is done again.
const FAILED_INTERVAL: Duration = Duration::from_mins(10);
/// How many times as long as a look takes it is waited for the next one: the place where it goes on
/// may be far behind in a compressed file.
const LOOK_SHARE: u32 = 20;
/// At most.
const LOOK_MOST: Duration = Duration::from_mins(1);
/// The same, where the log has nothing that is later than the history: all of it was read.
const NOTHING_INTERVAL: Duration = Duration::from_hours(1);

/// The thread, as the server sees it: it ends soon when this is dropped.
pub(super) struct HistoryKeeping {
    _alive: mpsc::Sender<()>,
    shared: Arc<HistoryShared>,
}

#[derive(Default)]
struct HistoryShared {
    stop: AtomicBool,
    /// How often something was in the way.
    failures: Arc<AtomicU64>,
    trouble: Mutex<Option<String>>,
}

/// What the thread needs.
pub(super) struct HistorySetup {
    place: HistoryPlace,
    keep_days: u32,
}

impl HistorySetup {
    /// None where there is to be no history.
    pub(super) fn of(config: &ServeConfig) -> Option<Self> {
        let (LogDestination::File(log), HistoryDestination::Folder(folder)) =
            (&config.log, &config.history)
        else {
            return None;
        };
        let place = HistoryPlace::new(folder.clone(), log.clone());
        Some(Self { place, keep_days: config.log_keep })
    }

    pub(super) fn folder(&self) -> &Path {
        self.place.folder()
    }

    /// Makes the folder where it is not in the log's: later this process may not.
    pub(super) fn make_folder(&self) {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(self.place.folder());
        if let Err(error) = made {
            warn(format_args!(
                "the history's folder {} cannot be made: {error}; make it, let the service write there \
                 (ReadWritePaths= in a unit), and start again; or choose another one by --history, or off",
                self.place.folder().display()
            ));
        }
    }

    /// Starts the thread, which counts `failures`.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn start(self, failures: Arc<AtomicU64>) -> io::Result<HistoryKeeping> {
        let (alive, ended) = mpsc::channel();
        let shared = Arc::new(HistoryShared { failures, ..HistoryShared::default() });
        let shared_too = Arc::clone(&shared);
        let run = move || {
            priority::lower();
            let mut failed = 0;
            loop {
                let begin = clock::instant();
                let pause = self.turn(&shared_too, &mut failed);
                let pause = pause.max((LOOK_SHARE * begin.elapsed()).min(LOOK_MOST));
                if ended.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        thread::Builder::new().name("history".to_owned()).spawn(run)?;
        Ok(HistoryKeeping { _alive: alive, shared })
    }

    /// Does what is due. Returns after which time to look again.
    /// `failed`: how often that failed in a row.
    fn turn(&self, shared: &HistoryShared, failed: &mut u32) -> Duration {
        let today = Day::of(clock::wall());
        let building = Building {
            place: &self.place,
            due: Due::Later(today),
            lines_max: None,
            stop: &|| shared.stop.load(Ordering::Relaxed),
            progress: &|_, _| (),
        };
        let (damaged, built) = match building.build() {
            Ok(mut built) => (built.damaged.take(), Ok(built)),
            Err(BuildError::PutAside(path, cause)) => (Some(path), Err(*cause)),
            Err(error) => (None, Err(error)),
        };
        if let Some(path) = damaged {
            // It is one at most, and one of each name.
            warn(format_args!(
                "{} is a file of the history that was damaged; what the event log has of its time comes into the \
                 history again, and the file may be removed",
                path.display()
            ));
        }
        let expired = building.expire(self.keep_days, today);
        match built.and_then(|built| expired.map(|_| built)) {
            Ok(built) => {
                shared.set_trouble(None);
                *failed = 0;
                after(&built)
            }
            Err(BuildError::Stopped | BuildError::Busy(_)) => INTERVAL,
            Err(error) => {
                shared.failures.fetch_add(1, Ordering::Relaxed);
                shared.set_trouble(Some(format!(
                    "{error}; it is tried again, and the event log has all meanwhile"
                )));
                *failed = failed.saturating_add(1);
                pause_after(*failed)
            }
        }
    }
}

/// After so many failures in a row.
fn pause_after(failures: u32) -> Duration {
    INTERVAL.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(FAILED_INTERVAL)
}

fn after(built: &Built) -> Duration {
    match built.gap {
        None => INTERVAL,
        Some(_) if built.files == 0 => NOTHING_INTERVAL,
        Some(reached) => {
            say(format_args!(
                "where the history ended is not in the event log any more: it goes on with what is later than {reached} UTC"
            ));
            INTERVAL
        }
    }
}

impl HistoryShared {
    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

impl HistoryKeeping {
    /// How often something was in the way.
    pub(super) fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// What is in the way since the last call.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for HistoryKeeping {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_tried_again_less_and_less() {
        assert_eq!(pause_after(1), INTERVAL);
        assert_eq!(pause_after(3), 4 * INTERVAL);
        assert_eq!(pause_after(u32::MAX), FAILED_INTERVAL);
    }
}
