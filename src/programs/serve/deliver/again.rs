//! [`DeviceAgain`]: a device that goes away while the server runs, and comes again.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::handoff::delivery::HostDelivery;
use crate::kernel::stderr::{say, warn};
use crate::kernel::tun_queue::TunQueue;

/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the reactors and a thread that looks for the device have in common.
pub struct DeviceAgain {
    device: String,
    delivery: Arc<HostDelivery>,
    /// How many reactors have no queue.
    wanted: AtomicUsize,
    /// Queues for these.
    found: Mutex<Vec<TunQueue>>,
}

impl DeviceAgain {
    pub fn new(device: String, delivery: Arc<HostDelivery>) -> Self {
        let (wanted, found) = Default::default();
        Self { device, delivery, wanted, found }
    }

    /// Looks for it once in a while, where it is gone, as long as there is a reactor.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let again = Arc::downgrade(self);
        let look = move || {
            let mut said = None;
            loop {
                thread::sleep(LOOK_EVERY);
                let Some(again) = Weak::upgrade(&again) else { return };
                again.look(&mut said);
            }
        };
        thread::Builder::new().name("device".into()).spawn(look).map(drop)
    }

    /// `said`: why it cannot be used, as was said last.
    fn look(&self, said: &mut Option<String>) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted == 0 {
            return;
        }
        match TunQueue::attach(&self.device, wanted) {
            Ok(queues) => {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(queues);
                self.wanted.fetch_sub(wanted, Ordering::Relaxed);
                self.delivery.set_away(false);
                *said = None;
                say(format_args!("--deliver: the device {} is there again", self.device));
            }
            Err(why) => {
                let why = why.to_string();
                if said.as_ref().is_some_and(|said| *said != why) {
                    warn(format_args!("--deliver: the device {}: {why}", self.device));
                }
                *said = Some(why);
            }
        }
    }

    /// A reactor's queue cannot be read any more.
    pub fn lost(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        if !self.delivery.set_away(true) {
            warn(format_args!(
                "--deliver: the device {} is gone: new clients have entries, as with cache, and what was delivered waits, until \
                 it is made again: systemctl restart nat64handoff-deliver",
                self.device
            ));
        }
    }

    /// A queue for a reactor that has none, if the device is there again.
    pub fn take(&self) -> Option<TunQueue> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}
