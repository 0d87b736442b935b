//! Reads the lines of the event log once, and says up to which place ([`LogPlace`]).
//!
//! Not here: how a place is found again (`past`).

use std::io;
use std::path::PathBuf;
use std::vec;

use memchr::memrchr;

use super::past::PastFile;
use super::place::{LogPlace, Passed};

/// Octets in memory, more than a line has.
const BUFFER_OCTETS: usize = 1 << 20;

/// Gives the lines of some files, one after another.
pub struct LogReader {
    files: vec::IntoIter<PastFile>,
    file: Option<PastFile>,
    buffer: Vec<u8>,
    /// What is in the buffer, and was not taken.
    begin: usize,
    end: usize,
    passed: Passed,
    /// That in the file before, where nothing was taken of this one.
    before: Option<LogPlace>,
    /// Octets of the files on the disk; of those that were read to their end; and of these files.
    octets: u64,
    done: u64,
}

impl LogReader {
    pub fn new(files: Vec<PastFile>) -> Self {
        let octets = files.iter().map(|file| file.progress().0).sum();
        let mut files = files.into_iter();
        let file = files.next();
        let passed = file.as_ref().map(|file| file.begin.clone()).unwrap_or_default();
        let buffer = vec![0; BUFFER_OCTETS];
        Self { files, file, buffer, begin: 0, end: 0, passed, before: None, octets, done: 0 }
    }

    /// Whole lines that were not taken; none where there are no more now. A line that has no end is
    /// none.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub fn lines(&mut self) -> Result<&[u8], (PathBuf, io::Error)> {
        loop {
            if let Some(length) = memrchr(b'\n', &self.buffer[self.begin..self.end]) {
                return Ok(&self.buffer[self.begin..=self.begin + length]);
            }
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            if self.end == self.buffer.len() {
                // No line of ours is as long.
                self.take(self.end);
                continue;
            }
            let Some(file) = &mut self.file else { return Ok(&[]) };
            match file.reader.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.files.len() == 0 => return Ok(&[]),
                Ok(0) => self.next_file()?,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((file.path.clone(), error)),
            }
        }
    }

    /// Takes some of what [`Self::lines`] gave: the first octets, up to the end of a line.
    pub fn take(&mut self, octets: usize) {
        self.passed.pass(&self.buffer[self.begin..self.begin + octets]);
        self.begin += octets;
    }

    fn next_file(&mut self) -> Result<(), (PathBuf, io::Error)> {
        self.sync()?;
        self.before = self.place();
        self.done += self.file.as_ref().map_or(0, |file| file.progress().0);
        self.file = self.files.next();
        (self.begin, self.end) = (0, 0);
        self.passed = Passed::default();
        Ok(())
    }

    /// Behind what was taken. At the beginning of a file, where nothing was taken of it and some of
    /// it is known: the file before may be compressed by the time that this place is looked for.
    /// None where nothing is known of any file.
    pub fn place(&self) -> Option<LogPlace> {
        let begins = || LogPlace::at_begin(&self.buffer[self.begin..self.end]);
        self.passed.place().or_else(begins).or(self.before)
    }

    /// What was taken stays in the log, also when the power goes.
    ///
    /// # Errors
    /// Which file cannot be synced, and why.
    pub fn sync(&self) -> Result<(), (PathBuf, io::Error)> {
        // A compressed one was synced as it was made.
        let Some(PastFile { path, plain: Some(file), .. }) = &self.file else { return Ok(()) };
        file.sync_data().map_err(|error| (path.clone(), error))
    }

    /// How many octets the files have on the disk, and how many of these were read.
    pub fn progress(&self) -> (u64, u64) {
        (self.octets, self.done + self.file.as_ref().map_or(0, |file| file.progress().1))
    }
}
