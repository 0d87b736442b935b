//! The control plane: signals, on the main thread, in a runtime of tokio-uring or, where io_uring
//! is refused, of tokio. It never touches a packet.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::kernel::backend::Io;
use crate::kernel::stderr;
use crate::programs::serve::stop::Serving;

/// How often the control plane asks the background work for troubles.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How the parts of the server wake [`supervise`].
#[derive(Debug, Clone, Default)]
pub struct Alarm(Arc<Notify>);

impl Alarm {
    /// A part of the server ended by itself. May be called from any thread.
    pub fn raise(&self) {
        self.0.notify_one();
    }
}

/// Starts the server, and returns it after SIGTERM, SIGINT or an alarm. SIGHUP reopens the event
/// log's file. A signal that comes while the server starts is handled when it has started: handlers
/// are installed before anything else.
///
/// # Errors
/// Where the runtime does not start, or signals cannot be handled; within, where the server does
/// not start.
pub fn supervise<E>(
    io: Io,
    alarm: &Alarm,
    start: impl FnOnce() -> Result<Serving, E>,
) -> io::Result<Result<Serving, E>> {
    let supervised = async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        let serving = match start() {
            Ok(serving) => serving,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(Ok(serving)),
                _ = interrupt.recv() => return Ok(Ok(serving)),
                () = alarm.0.notified() => return Ok(Ok(serving)),
                _ = hangup.recv() => serving.reopen_log(),
                _ = look.tick() => {
                    serving.troubles().iter().for_each(|trouble| stderr::say(format_args!("{trouble}")));
                }
            }
        }
    };
    match io {
        Io::Uring => tokio_uring::start(supervised),
        Io::Mmsg => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(supervised)
        }
    }
}
