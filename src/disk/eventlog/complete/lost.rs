//! Lines that the cursor counts and the journal has lost: after a power cut, the log and its cursor
//! may have been on the disk before the journal was.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::super::output::open_to_read;
use super::super::{LINE_MAX, beside};
use crate::handoff::entry::TableKey;
use crate::handoff::logged::LoggedLine;

/// The most octets of a file in which they are looked for, from its end or the cursor's place.
const LOOKBACK_MAX: u64 = 64 << 20;

/// How far the journal is.
pub struct JournalEnds<'a> {
    /// For each shard of the epoch that ends, the number of the event after its last one.
    pub next_events: &'a [u64],
    /// The shard of a NAT64, of that many shards.
    pub shard_of: &'a dyn Fn(Ipv4Addr, usize) -> usize,
}

impl JournalEnds<'_> {
    /// The last lines before an offset whose events are not in the journal, in their order.
    /// `counted` is what the cursor counts. Where they are not all in this file, those that were
    /// the log before it have the rest: `earlier`, the latest first. None where they are not all
    /// in these.
    pub(super) fn lost_lines(
        &self,
        file: &File,
        offset: u64,
        earlier: &[PathBuf],
        counted: &[u64],
    ) -> io::Result<Option<Vec<String>>> {
        let each = counted.iter().zip(self.next_events);
        let mut left: Vec<u64> =
            each.map(|(&counted, &next)| counted.saturating_sub(next)).collect();
        let Some(mut found) = self.last_lines_of(file, offset, &mut left)? else {
            return Ok(None);
        };
        for path in earlier {
            if left.iter().all(|&left| left == 0) {
                break;
            }
            let lines = if beside::is_compressed(path) {
                let Some(octets) = decompressed(path) else { return Ok(None) };
                self.last_lines(&octets, true, &mut left)
            } else {
                let file = open_to_read(path)?;
                let end = file.metadata()?.len();
                let Some(lines) = self.last_lines_of(&file, end, &mut left)? else {
                    return Ok(None);
                };
                lines
            };
            found.splice(..0, lines);
        }
        Ok(left.iter().all(|&left| left == 0).then_some(found))
    }

    /// So many of the last lines of each shard before an offset, or fewer where the file has no
    /// more: they are taken from those that are left. None where they would stand too far before.
    fn last_lines_of(
        &self,
        file: &File,
        offset: u64,
        left: &mut Vec<u64>,
    ) -> io::Result<Option<Vec<String>>> {
        if left.iter().all(|&left| left == 0) {
            return Ok(Some(Vec::new()));
        }
        let mut lookback = LINE_MAX as u64;
        loop {
            let begin = offset.saturating_sub(lookback);
            let mut octets = vec![0; (offset - begin) as usize];
            file.read_exact_at(&mut octets, begin)?;
            let mut still = left.clone();
            let lines = self.last_lines(&octets, begin == 0, &mut still);
            if begin == 0 || still.iter().all(|&left| left == 0) {
                *left = still;
                return Ok(Some(lines));
            }
            if lookback >= LOOKBACK_MAX {
                return Ok(None);
            }
            lookback *= 2;
        }
    }

    /// So many of the last lines of each shard. `is_whole`: the first octets begin a line.
    fn last_lines(&self, octets: &[u8], is_whole: bool, left: &mut [u64]) -> Vec<String> {
        let begin = match octets.iter().position(|&octet| octet == b'\n') {
            Some(line_feed) if !is_whole => line_feed + 1,
            _ => 0,
        };
        let mut found = Vec::new();
        for line in octets[begin..].rsplit(|&octet| octet == b'\n') {
            if left.iter().all(|&left| left == 0) {
                break;
            }
            let Ok(line) = str::from_utf8(line) else { continue };
            let Some(logged) = LoggedLine::parse(line) else { continue };
            let nat64 = match logged.named() {
                Some(_) => TableKey::block_of(logged.nat64).nat64,
                None => logged.nat64,
            };
            let shard = (self.shard_of)(nat64, left.len());
            if let Some(left) = left.get_mut(shard).filter(|left| **left > 0) {
                *left -= 1;
                found.push(line.to_owned());
            }
        }
        found.reverse();
        found
    }
}

/// What is in a file. None where it cannot be read, or has too much.
fn decompressed(path: &Path) -> Option<Vec<u8>> {
    let file = BufReader::new(open_to_read(path).ok()?);
    let mut octets = Vec::new();
    let read = MultiGzDecoder::new(file).take(LOOKBACK_MAX + 1).read_to_end(&mut octets).ok()?;
    (read as u64 <= LOOKBACK_MAX).then_some(octets)
}
