//! The file of bans, in the state directory: text with a checksum, written anew with each change,
//! and durable before anybody is told that a client is banned.
//!
//! ```text
//! nat64handoff bans 1
//! 2001:db8::17/128 1553000000000000 1553000600000000
//! 2001:db8:5::/64 1553000000000000 -
//! crc32c 1d2c3b4a
//! ```
//!
//! A line has the network, and when the ban began and ends, in microseconds since 1970; `-` is
//! never. The checksum is that of all lines before it.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;

use crate::disk::fs::{Disk, parent, read_full, write_full, write_new};
use crate::handoff::bans::BANS_MAX;
use crate::handoff::change::Timestamp;

/// The name of the file in the state directory.
pub const BANS_FILE: &str = "bans";
/// What a damaged one is called from then on, in place of the one before.
const ASIDE: &str = "bans.damaged";

const FIRST_LINE: &str = "nat64handoff bans 1";
const CHECKSUM: &str = "crc32c ";
/// The longest line: a network, and two times.
const LINE_OCTETS_MAX: u64 = 96;
const FILE_OCTETS_MAX: u64 = (BANS_MAX as u64 + 2) * LINE_OCTETS_MAX;

/// A ban, as it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptBan {
    pub net: Ipv6Net,
    pub since: Timestamp,
    /// None: it does not end by itself.
    pub end: Option<Timestamp>,
}

/// Why there are no bans of before.
#[derive(Debug, thiserror::Error)]
pub enum BansLost {
    /// It is not what was written, or cannot be read.
    #[error("the file of bans is damaged ({what}); it is {} now, and nobody is banned: ban anew whom you \
         find in it", .aside.display())]
    Damaged { what: String, aside: PathBuf },
    /// Nor can it be put aside.
    #[error(
        "the file of bans cannot be read ({cause}): nobody is banned, and nobody can be until it is; see {} and \
         start again",
        .path.display()
    )]
    Unreadable { path: PathBuf, cause: io::Error },
}

/// Reads the bans that were kept in this state directory: none where there is no file. A damaged
/// file is put aside.
///
/// # Errors
/// Why there are none although there was a file.
pub fn read(disk: &dyn Disk, state: &Path) -> Result<Vec<KeptBan>, BansLost> {
    let path = state.join(BANS_FILE);
    let octets = match octets_of(disk, &path) {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(put_aside(disk, state, error.to_string())),
    };
    decode(&octets).map_err(|what| put_aside(disk, state, what.to_owned()))
}

fn put_aside(disk: &dyn Disk, state: &Path, what: String) -> BansLost {
    let (path, aside) = (state.join(BANS_FILE), state.join(ASIDE));
    match disk.rename(&path, &aside).and_then(|()| disk.sync_dir(parent(&path))) {
        Ok(()) => BansLost::Damaged { what, aside },
        Err(cause) => BansLost::Unreadable { path, cause },
    }
}

fn octets_of(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, false)?;
    // One octet more is damage.
    let mut octets = vec![0; file.length()?.min(FILE_OCTETS_MAX + 1) as usize];
    let read = read_full(&*file, &mut octets, 0)?;
    octets.truncate(read);
    Ok(octets)
}

/// Keeps these bans in place of all others. They are durable when this returns.
///
/// # Errors
/// Where the disk refuses: then those before are kept.
pub fn write(disk: &dyn Disk, state: &Path, octets: &[u8]) -> io::Result<()> {
    write_new(disk, &state.join(BANS_FILE), |file| write_full(file, octets, 0)).map(drop)
}

/// The content of a file with these bans.
pub fn encode(bans: impl Iterator<Item = KeptBan>) -> Vec<u8> {
    let mut text = format!("{FIRST_LINE}\n");
    for KeptBan { net, since, end } in bans {
        let end = end.map_or_else(|| "-".to_owned(), |end| end.as_micros().to_string());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{net} {} {end}", since.as_micros());
    }
    let checksum = crc32c::crc32c(text.as_bytes());
    let _ = writeln!(text, "{CHECKSUM}{checksum:08x}");
    text.into_bytes()
}

fn decode(octets: &[u8]) -> Result<Vec<KeptBan>, &'static str> {
    if octets.len() as u64 > FILE_OCTETS_MAX {
        return Err("it is too long");
    }
    let text = std::str::from_utf8(octets).map_err(|_| "it is no text")?;
    let (lines, checksum) = text.rsplit_once(CHECKSUM).ok_or("its end is missing")?;
    if checksum != format!("{:08x}\n", crc32c::crc32c(lines.as_bytes())) {
        return Err("its checksum is wrong");
    }
    let mut lines = lines.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err("it is of another version");
    }
    lines.map(|line| ban(line).ok_or("a line is no ban")).collect()
}

fn ban(line: &str) -> Option<KeptBan> {
    let mut words = line.split(' ');
    let net = words.next()?.parse().ok()?;
    let time = |word: &str| word.parse().ok().map(Timestamp::from_micros);
    let since = time(words.next()?)?;
    let end = match words.next()? {
        "-" => None,
        end => Some(time(end)?),
    };
    words.next().is_none().then_some(KeptBan { net, since, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fs::RealDisk;
    use std::fs;

    fn bans() -> Vec<KeptBan> {
        let ban = |net: &str, since, end: Option<u64>| KeptBan {
            net: net.parse().unwrap(),
            since: Timestamp::from_micros(since),
            end: end.map(Timestamp::from_micros),
        };
        vec![ban("2001:db8::17/128", 1, Some(7)), ban("2001:db8:5::/64", u64::MAX, None)]
    }

    #[test]
    fn what_was_written_is_read() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(&RealDisk, state.path()).unwrap(), []);
        for kept in [bans(), Vec::new()] {
            write(&RealDisk, state.path(), &encode(kept.iter().copied())).unwrap();
            assert_eq!(read(&RealDisk, state.path()).unwrap(), kept);
        }
        let text = String::from_utf8(encode(bans().into_iter())).unwrap();
        assert!(text.starts_with("nat64handoff bans 1\n2001:db8::17/128 1 7\n"), "{text}");
    }

    #[test]
    fn the_longest_lines_fit() {
        let (net, since) = ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", Timestamp::MAX);
        let ban = KeptBan { net: net.parse().unwrap(), since, end: Some(since) };
        let length = encode([ban].into_iter()).len() as u64;
        assert!(length < 3 * LINE_OCTETS_MAX, "{length}");
    }

    #[test]
    fn what_cannot_be_read_is_not_lost() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join(BANS_FILE)).unwrap();
        let error = read(&RealDisk, state.path()).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert!(state.path().join(ASIDE).is_dir() && !state.path().join(BANS_FILE).exists());
        fs::create_dir(state.path().join(BANS_FILE)).unwrap();
        fs::write(state.path().join(ASIDE).join("full"), "").unwrap();
        let error = read(&RealDisk, state.path()).unwrap_err();
        assert!(matches!(error, BansLost::Unreadable { .. }), "{error}");
    }

    /// However it is damaged, that is seen; and it is read no more.
    #[test]
    fn damage_is_put_aside() {
        let whole = encode(bans().into_iter());
        let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
        let flipped = (0..whole.len()).map(|at| {
            let mut octets = whole.clone();
            octets[at] ^= 1;
            octets
        });
        let long = vec![b'x'; FILE_OCTETS_MAX as usize + 1];
        for damaged in cut.chain(flipped).chain([long, [&whole[..], b"x"].concat()]) {
            let state = tempfile::tempdir().unwrap();
            fs::write(state.path().join(BANS_FILE), &damaged).unwrap();
            let error = read(&RealDisk, state.path()).unwrap_err();
            assert!(matches!(error, BansLost::Damaged { .. }), "{error}");
            assert_eq!(fs::read(state.path().join(ASIDE)).unwrap(), damaged);
            assert_eq!(read(&RealDisk, state.path()).unwrap(), []);
        }
    }
}
