//! How far long work is: a line on a terminal, and nothing anywhere else.
//!
//! A thread draws it, so that a terminal that is stopped stops nothing else.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// From one time that the line is drawn to the next.
const INTERVAL: Duration = Duration::from_millis(100);
/// Work on fewer octets is not long.
const LEAST_OCTETS: u64 = 1 << 20;
/// How long the end of the work waits for a terminal to have the line removed.
const END_WAIT: Duration = Duration::from_millis(300);
const TEMPLATE: &str = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} to go";

/// Long work. The line is gone with the value.
#[derive(Debug)]
pub struct Progress {
    told: Arc<ToldWork>,
    drawing: Option<Drawing>,
}

/// What is told by who works.
#[derive(Debug, Default)]
struct ToldWork {
    what: Mutex<String>,
    done: Arc<AtomicU64>,
    all: AtomicU64,
}

/// The thread's other ends.
#[derive(Debug)]
struct Drawing {
    end: SyncSender<()>,
    ended: mpsc::Receiver<()>,
}

/// Tells how far the work is.
#[derive(Debug, Clone)]
pub struct ProgressTeller(Option<Arc<ToldWork>>);

impl Progress {
    /// Of work on so many octets. Nothing is drawn where these are few, or standard error is no
    /// terminal.
    pub fn begin(what: &str, all: u64) -> Self {
        let told = ToldWork { what: Mutex::new(what.to_owned()), ..ToldWork::default() };
        told.all.store(all, Ordering::Relaxed);
        let told = Arc::new(told);
        let is_drawn = all >= LEAST_OCTETS && io::stderr().is_terminal();
        // Without a thread there is no line.
        let drawing = is_drawn.then(|| Drawing::start(Arc::clone(&told)).ok()).flatten();
        Self { told, drawing }
    }

    /// One that is never drawn.
    pub fn hidden() -> Self {
        Self { told: Arc::default(), drawing: None }
    }

    /// The octets that are done, if somebody sees them.
    pub fn counter(&self) -> Option<Arc<AtomicU64>> {
        self.drawing.as_ref().map(|_| Arc::clone(&self.told.done))
    }

    pub fn teller(&self) -> ProgressTeller {
        ProgressTeller(self.drawing.as_ref().map(|_| Arc::clone(&self.told)))
    }
}

impl ProgressTeller {
    /// What is done now.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if let Some(told) = &self.0 {
            *told.what.lock().unwrap_or_else(PoisonError::into_inner) = what();
        }
    }

    /// So much is done.
    pub fn set(&self, done: u64) {
        if let Some(told) = &self.0 {
            told.done.store(done, Ordering::Relaxed);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(Drawing { end, ended }) = self.drawing.take() {
            drop(end);
            // A terminal that is stopped keeps the line.
            let _ = ended.recv_timeout(END_WAIT);
        }
    }
}

impl Drawing {
    fn start(told: Arc<ToldWork>) -> io::Result<Self> {
        let (end, ending) = mpsc::sync_channel::<()>(0);
        let (has_ended, ended) = mpsc::sync_channel(1);
        let draw = move || {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
                bar.set_style(style);
            }
            loop {
                let (done, all) =
                    (told.done.load(Ordering::Relaxed), told.all.load(Ordering::Relaxed));
                bar.set_message(told.what.lock().unwrap_or_else(PoisonError::into_inner).clone());
                bar.set_length(all.max(done));
                bar.set_position(done);
                bar.tick();
                if ending.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            bar.finish_and_clear();
            let _ = has_ended.send(());
        };
        thread::Builder::new().name("progress".to_owned()).spawn(draw)?;
        Ok(Self { end, ended })
    }
}
