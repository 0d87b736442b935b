//! The files that were the event log before: their names, and what stands in them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// How the names of compressed files of the log end.
pub const COMPRESSED: &str = ".gz";

/// What stands in a file of the log.
pub fn text_of(path: &Path) -> String {
    let octets = fs::read(path).unwrap_or_default();
    let is_compressed = path.to_str().is_some_and(|path| path.ends_with(COMPRESSED));
    let mut text = String::new();
    let read = match is_compressed {
        true => GzDecoder::new(&octets[..]).read_to_string(&mut text),
        false => (&octets[..]).read_to_string(&mut text),
    };
    read.expect("lines of a log");
    text
}

/// The path of the log when it is moved away: of the day of the file before, or the first day.
pub fn next_former(files: &[PathBuf], log: &Path) -> PathBuf {
    let name =
        |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("events.log-").map(String::from);
    let last = files.iter().filter_map(name).next_back().unwrap_or_else(|| "20260101".into());
    let (day, number) = last.trim_end_matches(COMPRESSED).split_once('.').unwrap_or((&last, "0"));
    let number = number.parse::<usize>().unwrap_or_default() + 1;
    log.with_file_name(format!("events.log-{day}.{number}"))
}
