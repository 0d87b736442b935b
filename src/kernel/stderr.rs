//! Our own messages, for people: standard error. Events go to the event log and nowhere else.

use std::fmt;
use std::io::{self, Write};

/// Writes one line, with the program's name in front. A closed standard error is no reason to fail.
pub fn say(message: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "nat64handoff: {message}"));
}
