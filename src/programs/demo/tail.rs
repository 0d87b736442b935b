//! [`LogTail`]: an event log that the demo reads as it is written, and the parser of its lines.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The format of a line's time, with `0` for any digit.
const TIME: &[u8] = b"0000-00-00 00:00:00.000000 ";

/// An event log in memory: one clone is its destination, another is read line by line.
///
/// It prints nothing itself. The reader does, so that the log's lines and the demo's own stay in
/// order and the log's thread never waits for a terminal.
#[derive(Debug, Clone, Default)]
pub struct LogTail(Arc<TailShared>);

#[derive(Debug, Default)]
struct TailShared {
    text: Mutex<TailText>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct TailText {
    lines: VecDeque<String>,
    /// The start of a line whose end has not been written yet.
    begun: Vec<u8>,
}

impl LogTail {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next line, without its line feed, if one comes within `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<String> {
        self.next_if(timeout, |_| true)
    }

    /// The next line, if one comes within `timeout` and is `wanted`. Any other line is not
    /// consumed.
    pub fn next_if(&self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let (mut text, _) = self
            .0
            .more
            .wait_timeout_while(self.text(), timeout, |text| text.lines.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        text.lines.front().is_some_and(|line| wanted(line)).then(|| text.lines.pop_front())?
    }

    fn text(&self) -> MutexGuard<'_, TailText> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LogTail {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut text = self.text();
        for &octet in octets {
            if octet == b'\n' {
                let line = String::from_utf8_lossy(&text.begun).into_owned();
                text.begun.clear();
                text.lines.push_back(line);
            } else {
                text.begun.push(octet);
            }
        }
        drop(text);
        self.0.more.notify_all();
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event in a line, behind its time. `None` where the time is malformed.
pub(super) fn event_of(line: &str) -> Option<&str> {
    let (time, event) = line.split_at_checked(TIME.len())?;
    let is_time = time
        .bytes()
        .zip(TIME)
        .all(|(octet, &form)| if form == b'0' { octet.is_ascii_digit() } else { octet == form });
    is_time.then_some(event)
}

/// The client's address and port at the end of an event.
pub(super) fn client_of(event: &str) -> Option<(Ipv6Addr, u16)> {
    let client: SocketAddrV6 = event.rsplit(' ').next()?.parse().ok()?;
    Some((*client.ip(), client.port()))
}
