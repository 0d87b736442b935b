//! The records of one file, one after the other, from a buffer that always holds a whole one.

use std::io;
use std::sync::Arc;

use crate::disk::fs::{DiskFile, read_full};
use crate::disk::journal::{FileId, HEADER_LENGTH, Header, Invalid, RECORD_MAX, Record, Seal};

/// How much of a file is read at a time, at most.
const BUFFER: usize = 1 << 20;

const _: () = assert!(BUFFER >= 2 * RECORD_MAX);

/// A file from some offset on.
pub(in super::super) struct RecordReader {
    file: Arc<dyn DiskFile>,
    seal: Seal,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The offset of `start` in the file.
    offset: u64,
    file_ended: bool,
}

/// What stands at an offset.
pub(in super::super) enum Step<'a> {
    Record(Record<'a>),
    Invalid(Invalid),
    End,
}

impl RecordReader {
    /// Reads from `offset` on, or from the first record.
    pub fn new(file: Arc<dyn DiskFile>, id: FileId, offset: Option<u64>) -> io::Result<Self> {
        let mut header = [0; HEADER_LENGTH];
        read_full(&*file, &mut header, 0)?;
        let seal = id.seal(&Header::boot_in(&header));
        let offset = offset.unwrap_or(HEADER_LENGTH as u64);
        // One octet more than there is shows that it ends.
        let rest = file.length()?.saturating_sub(offset).saturating_add(1);
        let buffer = vec![0; rest.min(BUFFER as u64) as usize];
        Ok(Self { file, seal, buffer, start: 0, end: 0, offset, file_ended: false })
    }

    /// The offset in the file of what [`Self::step`] returns next.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What stands at [`Self::offset`]. If it is a record, the next step is behind it.
    pub fn step(&mut self) -> io::Result<Step<'_>> {
        self.fill()?;
        let octets = &self.buffer[self.start..self.end];
        if octets.is_empty() {
            return Ok(Step::End);
        }
        Ok(match Record::decode(octets, self.seal) {
            Ok(record) => {
                self.start += record.length;
                self.offset += record.length as u64;
                Step::Record(record)
            }
            Err(invalid) => Step::Invalid(invalid),
        })
    }

    /// Searches for the next valid record behind something invalid. Returns whether there is one.
    pub fn skip(&mut self) -> io::Result<bool> {
        loop {
            self.fill()?;
            if self.start == self.end {
                return Ok(false);
            }
            if Record::decode(&self.buffer[self.start..self.end], self.seal).is_ok() {
                return Ok(true);
            }
            self.start += 1;
            self.offset += 1;
        }
    }

    /// Fills the buffer, so that a whole record is in it, if it is in the file.
    fn fill(&mut self) -> io::Result<()> {
        if self.end - self.start >= RECORD_MAX || self.file_ended {
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let rest = &mut self.buffer[self.end..];
        let length = read_full(&*self.file, rest, self.offset + self.end as u64)?;
        self.file_ended = length < rest.len();
        self.end += length;
        Ok(())
    }
}
