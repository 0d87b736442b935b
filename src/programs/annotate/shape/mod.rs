//! Where a line of an access log names its client, and when it was, in each of the shapes that
//! programs write.
//!
//! Most of a line is what strangers sent: what they may choose must never be taken for the client,
//! its port or the time. So each of these is looked for where only the program writes.

mod json;
mod pattern;
mod syslog;
mod text;
mod web;

use std::net::Ipv4Addr;
use std::ops::Range;

use crate::programs::annotate::times::TimeReader;
use crate::programs::who::when::TimeSpan;

pub use pattern::LinePattern;

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessLine {
    /// The client's address, perhaps a NAT64's.
    pub address: Ipv4Addr,
    /// Its port, if the line has it.
    pub port: Option<u16>,
    /// When; None where it says no time that can be read.
    pub time: Option<TimeSpan>,
    pub writer: LineWriterKind,
}

/// Who writes such lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LineWriterKind {
    /// nginx, Apache and all that write the common log format.
    Web,
    HaProxy,
    Sshd,
    Postfix,
    Json,
    Pattern,
}

/// A part of a line that another text replaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineEdit {
    pub range: Range<usize>,
    pub part: ClientPart,
}

/// What takes that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientPart {
    Address,
    /// The address in brackets, as a port is behind it.
    InBrackets,
    Port,
}

/// Looks into lines.
#[derive(Debug)]
pub struct LineFinder {
    /// The only shape, if it is said.
    pattern: Option<LinePattern>,
    pub times: TimeReader,
    /// Those of the last line, in order.
    pub edits: Vec<LineEdit>,
}

impl LineFinder {
    pub fn new(pattern: Option<LinePattern>, times: TimeReader) -> Self {
        Self { pattern, times, edits: Vec::new() }
    }

    /// None: it is in no shape that is known, or its client has no IPv4 address. `line` is without
    /// its end.
    pub fn find(&mut self, line: &[u8]) -> Option<AccessLine> {
        self.edits.clear();
        let (times, edits) = (&mut self.times, &mut self.edits);
        if let Some(pattern) = &self.pattern {
            return pattern.find(line, times, edits);
        }
        let found = match line.first()? {
            b'{' => json::find(line, 0, times, edits),
            b'[' if line.starts_with(b"[::") => web::find(line, 0, times, edits),
            b'[' => web::error(line, times, edits),
            b':' => web::find(line, 0, times, edits),
            first if first.is_ascii_digit() => web::find(line, 0, times, edits),
            _ => None,
        };
        let found = found.or_else(|| syslog::find(line, times, edits));
        found.or_else(|| web::behind_a_word(line, times, edits))
    }
}

#[cfg(test)]
mod tests;
