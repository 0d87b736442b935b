//! Whether a file beside the log was the log since the cursor, or is a copy that somebody made of
//! what was the log before: only lines since then can be of what the journal has lost.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem;

use super::super::output::open_to_read;
use super::super::{LINE_MAX, ahead, beside};
use crate::handoff::logged::time_of;

/// Octets that are read at once.
const PIECE_OCTETS: usize = 64 * 1024;
/// The most octets in which the original of a line is searched for.
const SEARCHED_MAX: u64 = 64 << 20;

/// Whether all lines of a file were written since those that the cursor counts, the last of which
/// is `counted`, in `old`.
///
/// If its first line is later than that one, they were. It may be earlier where the clock was set
/// back: then it stands in no file from before. Where that cannot be told, they were not.
pub(super) fn is_since(file: &File, counted: &str, old: &Path, log: &Path) -> io::Result<bool> {
    let Some((first, at)) = first_line(file)? else { return Ok(false) };
    if ahead::is_before(counted, &at) {
        return Ok(true);
    }
    let (mut left, before) = (SEARCHED_MAX, beside::before(old, log));
    for original in std::iter::once(old).chain(before.iter().map(|path| &**path)) {
        if may_have(&open_to_read(original)?, first.as_bytes(), &mut left)? {
            return Ok(false);
        }
    }
    Ok(!beside::has_compressed(log))
}

/// The first line of a log, with its time. None where the file does not begin with one.
fn first_line(file: &File) -> io::Result<Option<(String, String)>> {
    let mut octets = vec![0; PIECE_OCTETS];
    let read = file.read_at(&mut octets, 0)?;
    let lines = octets[..read].split_inclusive(|&octet| octet == b'\n');
    let mut lines = lines.filter_map(|line| str::from_utf8(line).ok()?.strip_suffix('\n'));
    Ok(lines.find_map(|line| Some((line.to_owned(), time_of(line)?.to_string()))))
}

/// Whether a file has this line, or more octets than are left to be searched.
fn may_have(file: &File, line: &[u8], left: &mut u64) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let Some(after) = left.checked_sub(length) else { return Ok(true) };
    *left = after;
    let finder = memmem::Finder::new(line);
    let mut octets = vec![0; PIECE_OCTETS + LINE_MAX];
    let mut offset = 0;
    while offset < length {
        let read = file.read_at(&mut octets, offset)?;
        if finder.find(&octets[..read]).is_some() {
            return Ok(true);
        }
        if read == 0 || offset + read as u64 >= length {
            break;
        }
        // The next piece begins with what may be a part of the line.
        offset += (read.saturating_sub(LINE_MAX) as u64).max(1);
    }
    Ok(false)
}
