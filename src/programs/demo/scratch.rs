//! The demo's directory, which is gone when the demo has ended: also by a signal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::kernel::signals;
use crate::programs::exit::ExitError;

/// How often it is tried to remove a directory in which a server still makes files.
const REMOVE_TRIES: u32 = 100;

/// A directory of ours, that is removed with this value.
pub(super) struct Scratch {
    path: PathBuf,
    /// Locked while the directory is made, used or removed, and for good once a signal came.
    made: Arc<Mutex<bool>>,
}

impl Scratch {
    /// Makes it in `parent`. From now on, SIGTERM, SIGINT and SIGHUP end the process only when it
    /// is removed.
    pub(super) fn new(parent: PathBuf) -> Result<Self, ExitError> {
        let path = parent.join(format!("nat64handoff-demo-{}", process::id()));
        let made = Arc::<Mutex<bool>>::default();
        let scratch = Self { path: path.clone(), made: Arc::clone(&made) };
        on_signal(move |signal| {
            let made = made.lock().unwrap_or_else(PoisonError::into_inner);
            if *made {
                remove(&path);
            }
            signals::end_by(signal)
        });
        let mut made = scratch.made.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails where there is something of that name: it might be somebody else's.
        fs::create_dir(&scratch.path).map_err(|error| {
            ExitError::failed(format_args!(
                "{} cannot be made for the demo's state: {error}; set TMPDIR to a directory that \
                 this user can write",
                scratch.path.display()
            ))
        })?;
        *made = true;
        drop(made);
        Ok(scratch)
    }

    /// Does what makes the directory again if it is not there: a signal waits meanwhile.
    pub(super) fn while_there<T>(&self, act: impl FnOnce() -> T) -> T {
        let _made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        act()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *made) {
            remove(&self.path);
        }
    }
}

/// Nothing in there is of use to anyone.
fn remove(path: &Path) {
    for _ in 0..REMOVE_TRIES {
        // What it was about to remove may have been removed or renamed, or there is more.
        if fs::remove_dir_all(path).is_ok() || !path.exists() {
            break;
        }
    }
}

/// Calls `act` with each SIGTERM, SIGINT and SIGHUP, which this process holds from its start on.
/// Without a thread for that, they stay held.
pub(super) fn on_signal(act: impl Fn(i32) + Send + 'static) {
    let waiting = move || {
        loop {
            act(signals::wait_for_end());
        }
    };
    drop(thread::Builder::new().name("signals".into()).spawn(waiting));
}
