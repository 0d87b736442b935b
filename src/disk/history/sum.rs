//! The checksum of a file: CRC32C of all its octets, which stands in the file itself, as a note at
//! its end; there, it counts as if it were zeros.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use memchr::memmem;

use super::{NOTE_SUM, NOTE_VERSION, VERSION_WITHOUT_SUM};

/// A checksum that is not known yet, as it is written.
pub(super) const NO_SUM: &[u8; 8] = b"00000000";
/// The length of the end of a file, and `PAR1`.
const LAST_OCTETS: usize = 8;
/// Octets that are read at once.
const READ_OCTETS: usize = 1 << 18;

/// A file that is written from its beginning to its end.
pub(super) struct Summed {
    file: BufWriter<File>,
    crc: u32,
}

impl Summed {
    pub(super) fn new(file: File) -> Self {
        Self { file: BufWriter::new(file), crc: 0 }
    }

    pub(super) fn file(&self) -> &File {
        self.file.get_ref()
    }

    /// The file with all that was written, and the checksum of that.
    pub(super) fn end(&mut self) -> io::Result<(&File, u32)> {
        self.file.flush()?;
        Ok((self.file.get_ref(), self.crc))
    }
}

impl Write for Summed {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        self.crc = crc32c::crc32c_append(self.crc, &octets[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Where the checksum stands: from which octet on. None where a release wrote the file whose files
/// have none.
fn place(file: &File) -> io::Result<Option<u64>> {
    let length = file.metadata()?.len();
    let mut last = [0; LAST_OCTETS];
    let end = length.checked_sub(LAST_OCTETS as u64).ok_or_else(|| damaged("it is too short"))?;
    file.read_exact_at(&mut last, end)?;
    let [a, b, c, d, magic @ ..] = last;
    let notes = u64::from(u32::from_le_bytes([a, b, c, d]));
    let begin = end.checked_sub(notes).filter(|_| magic == *b"PAR1");
    let begin = begin.ok_or_else(|| damaged("it does not end as a Parquet file does"))?;
    let mut octets = vec![0; usize::try_from(notes).unwrap_or(0)];
    file.read_exact_at(&mut octets, begin)?;
    // The name is followed by what kind the value is of, and by its length, an octet each.
    let value = |name: &str, length: usize| {
        let found = memmem::rfind(&octets, name.as_bytes()).map(|at| at + name.len() + 2);
        found.filter(|at| octets.len() >= at + length)
    };
    if let Some(found) = value(NOTE_SUM, NO_SUM.len()) {
        return Ok(Some(begin + found as u64));
    }
    let old = VERSION_WITHOUT_SUM.as_bytes();
    let version = value(NOTE_VERSION, old.len()).map(|at| &octets[at..at + old.len()]);
    if version == Some(old) { Ok(None) } else { Err(damaged("it has no checksum")) }
}

/// Writes the checksum of a file into it.
pub(super) fn put_sum(file: &File, crc: u32) -> io::Result<()> {
    let place = place(file)?.ok_or_else(|| damaged("it has no checksum"))?;
    file.write_all_at(format!("{crc:08x}").as_bytes(), place)
}

/// Fails where an octet of a file is not what was written, as far as that is known.
pub(super) fn verify(file: &File) -> io::Result<()> {
    let Some(place) = place(file)? else { return Ok(()) };
    let mut sum = [0; NO_SUM.len()];
    file.read_exact_at(&mut sum, place)?;
    let behind = place + NO_SUM.len() as u64;
    let crc = crc32c::crc32c_append(add(file, 0..place, 0)?, NO_SUM);
    let crc = add(file, behind..file.metadata()?.len(), crc)?;
    match format!("{crc:08x}").as_bytes() == sum {
        true => Ok(()),
        false => Err(damaged("its checksum is wrong: the disk, or somebody, changed it")),
    }
}

/// Whether what is wrong with a file are its octets. A disk that does not give them now may do so
/// later.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Adds some octets of a file to a checksum.
fn add(file: &File, range: Range<u64>, mut crc: u32) -> io::Result<u32> {
    let (mut offset, mut octets) = (range.start, vec![0; READ_OCTETS]);
    while offset < range.end {
        let most = usize::try_from(range.end - offset).unwrap_or(READ_OCTETS).min(READ_OCTETS);
        file.read_exact_at(&mut octets[..most], offset)?;
        crc = crc32c::crc32c_append(crc, &octets[..most]);
        offset += most as u64;
    }
    Ok(crc)
}
