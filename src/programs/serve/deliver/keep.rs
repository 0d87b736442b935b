//! [`RoutesKeeping`]: writes the routes of clients to the state directory, so that a service
//! reaches them after a restart before they speak.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::disk::fs::RealDisk;
use crate::disk::routes;
use crate::handoff::delivery::HostDelivery;
use crate::kernel::stderr::{say, warn};

/// How often they are written, where one came or changed. What came since then is lost with a
/// process that is killed.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// A thread that does so until it is told to end.
pub struct RoutesKeeping {
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl RoutesKeeping {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn start(delivery: Arc<HostDelivery>, state: PathBuf) -> io::Result<Self> {
        let (end, told) = mpsc::channel();
        let thread = thread::Builder::new().name("routes".into()).spawn(move || {
            let mut failed = false;
            loop {
                let ends = told.recv_timeout(WRITE_EVERY) != Err(RecvTimeoutError::Timeout);
                if failed || delivery.routes.take_changed() {
                    let written = routes::write(&RealDisk, &state, &delivery.routes);
                    match (&written, failed) {
                        (Err(why), false) => warn(format_args!(
                            "routes to clients cannot be kept ({why}): after a restart, services reach those \
                             that came since when these speak"
                        )),
                        (Ok(()), true) => say(format_args!("routes to clients are kept again")),
                        _ => {}
                    }
                    failed = written.is_err();
                }
                if ends {
                    return;
                }
            }
        })?;
        Ok(Self { end, thread })
    }

    /// Writes them a last time: when no reactor receives any more.
    pub fn end(self) {
        drop(self.end);
        drop(self.thread.join());
    }
}
