//! What happened, in order: a hash of it always, and lines for people where they are wanted.

use std::fmt;
use std::time::Duration;

/// The most lines that are kept: the last ones.
const LINES_MAX: usize = 100_000;

/// Whom a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Client(usize),
    Nat64(usize),
    Stranger,
    Network,
    Host,
    Server,
    Service,
    Operator,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Who::Client(number) => format!("client {number}"),
            Who::Nat64(number) => format!("nat64 {number}"),
            other => format!("{other:?}").to_lowercase(),
        };
        f.pad(&text)
    }
}

/// See above.
#[derive(Default)]
pub struct Trace {
    pub hash: u64,
    /// Lines are kept.
    pub keeps: bool,
    pub lines: Vec<String>,
}

impl Trace {
    /// Something happened; `mark` tells it from others of its kind.
    pub fn note(&mut self, at: Duration, who: Who, mark: u64, what: impl FnOnce() -> String) {
        let mixed = (self.hash ^ mark ^ (at.as_micros() as u64).rotate_left(32))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = mixed ^ (mixed >> 29);
        if self.keeps && self.lines.len() < LINES_MAX {
            self.lines.push(format!("{:>12.6} {who:<9} {}", at.as_secs_f64(), what()));
        }
    }
}

/// A mark of octets.
pub fn mark(octets: &[u8]) -> u64 {
    let word = |part: &[u8]| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    };
    let mix = |mark: u64, part| (mark ^ word(part)).wrapping_mul(0x100_0000_01b3).rotate_left(23);
    octets.chunks(8).fold(octets.len() as u64, mix)
}
