//! [`RoutesKeeping`]: writes the routes of clients to the state directory, so that a service
//! reaches them after a restart before they speak; and the gateways that have a tunnel of Geneve.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::disk::fs::RealDisk;
use crate::disk::routes;
use crate::handoff::delivery::{GeneveGateways, HostDelivery};
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
                let gateways = delivery.geneve.as_ref().map_or(Ok(()), |gateways| {
                    keep_gateways(&state, gateways, failed)
                });
                if failed || gateways.is_err() || delivery.routes.take_changed() {
                    let written =
                        gateways.and(routes::write(&RealDisk, &state, &delivery.routes));
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

/// Writes the gateways, where one came or changed, or that `failed` before.
fn keep_gateways(state: &Path, gateways: &GeneveGateways, failed: bool) -> io::Result<()> {
    if !gateways.take_changed() && !failed {
        return Ok(());
    }
    routes::write_gateways(&RealDisk, state, gateways)
}
