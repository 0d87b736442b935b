//! Time in which others had the cores: it is not the program's own.

use std::fs::read_to_string;
use std::time::Duration;

/// How long a thread has been ready to run so far, and did not. `thread` is its folder in /proc;
/// that of a process is its main thread.
pub fn waited(thread: &str) -> Duration {
    let schedstat = read_to_string(format!("/proc/{thread}/schedstat"));
    let waited = schedstat.ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}
