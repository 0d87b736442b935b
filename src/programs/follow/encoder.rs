//! What makes messages of events, and what several of them have in common.

use crate::disk::eventlog::Lost;
use crate::handoff::change::LogFormat;
use crate::handoff::logged::{LoggedKind, LoggedLine};

/// What the program is called in messages.
pub(super) const IDENTIFIER: &str = "nat64handoff";
/// `2019-03-18 10:06:28.491727 `
const TIME_OCTETS: usize = 27;

/// Makes messages of events.
pub(super) trait EventEncoder {
    /// Begins anew: a connection, of which the collector knows nothing yet.
    fn connected(&mut self) {}

    /// Appends one message with the first of these events, and as many of the next as go into it.
    /// Returns how many that are. Nothing is appended where the format has no word for them.
    fn message(&mut self, events: &[LoggedLine], out: &mut Vec<u8>) -> usize;

    /// Appends a message that says that lines may be missing, where the format has one.
    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>);
}

/// The line without its time, for people.
pub(super) fn what(event: &LoggedLine) -> String {
    let line = event.line(LogFormat::Full).to_string();
    line.get(TIME_OCTETS..).unwrap_or_default().to_owned()
}

/// How much it matters, as syslog counts: a contradiction is worth a notice.
pub(super) fn notice(event: &LoggedLine) -> u8 {
    match event.kind {
        LoggedKind::Conflict(_) => 5,
        _ => 6,
    }
}
