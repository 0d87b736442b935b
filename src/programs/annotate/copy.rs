//! Lines from a reader to standard output, in blocks: each whole line of what a read gives goes out
//! before the next read. So a line goes out as it comes where the reader is slow, and many at once
//! where it is not.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use memchr::{memchr, memchr_iter, memrchr};

use crate::programs::annotate::Annotator;
use crate::programs::annotate::known::{ANNOTATING, LogTrouble};
use crate::programs::progress::ProgressTeller;

/// Octets that are read at once. A line that is longer goes out as it is.
const BLOCK_OCTETS: usize = 1 << 20;

/// Why not all was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{name} cannot be read: {cause}{}", advice(cause))]
    Read { name: String, cause: io::Error },
    #[error("standard output cannot be written: {0}; give it a file with room")]
    Write(io::Error),
}

/// What to do where a file cannot be read: the installed command runs as the service's user.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; give it to standard input: nat64handoff annotate <FILE",
        _ => "",
    }
}

/// From one or several readers to standard output.
pub struct Copying {
    annotator: Annotator,
    progress: ProgressTeller,
    block: Vec<u8>,
    out: Vec<u8>,
    /// Those of the files that were copied, as they are on the disk.
    octets: u64,
    to: Option<File>,
}

impl Copying {
    pub fn new(annotator: Annotator, progress: ProgressTeller) -> Self {
        // Not through a buffer of lines.
        let to = io::stdout().as_fd().try_clone_to_owned().map(File::from).ok();
        let block = vec![0; BLOCK_OCTETS];
        Self { annotator, progress, block, out: Vec::new(), octets: 0, to }
    }

    /// What is to be said at the end.
    ///
    /// # Errors
    /// Where the event log could not be read.
    pub fn end(self) -> Result<(), LogTrouble> {
        self.annotator.end()
    }

    /// All that `reader` gives. Where it is in `file` is how far it is.
    ///
    /// # Errors
    /// Where it cannot be read, or standard output not be written.
    pub fn copy(&mut self, mut reader: impl Read, file: &impl AsFd) -> Result<(), CopyError> {
        let before = self.octets;
        // What is in the block already, and whether it goes on a line that was too long for one.
        let (mut filled, mut is_long) = (0, false);
        loop {
            let read = match reader.read(&mut self.block[filled..]) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(cause) => {
                    let name = "standard input".to_owned();
                    return Err(CopyError::Read { name, cause });
                }
            };
            self.annotator.begin();
            if read == 0 {
                break;
            }
            let end = memrchr(b'\n', &self.block[filled..filled + read]);
            let end = end.map_or(0, |end| filled + end + 1);
            filled += read;
            let taken = self.lines(end, filled, &mut is_long);
            self.block.copy_within(taken..filled, 0);
            filled -= taken;
            self.write()?;
            self.progress.say(|| ANNOTATING.to_owned());
            // A pipe is at no place.
            self.octets = before + rustix::fs::tell(file).unwrap_or(0);
            self.progress.set(self.octets);
        }
        if !is_long && filled > 0 {
            self.annotator.line(&self.block[..filled], &mut self.out);
        }
        self.write()
    }

    /// The lines up to `end`. Returns how many octets of the block were taken.
    fn lines(&mut self, end: usize, filled: usize, is_long: &mut bool) -> usize {
        let block = &self.block[..filled];
        let mut start = 0;
        if *is_long {
            let rest = memchr(b'\n', block).map_or(filled, |end| end + 1);
            *is_long = rest > end;
            self.out.extend(&block[..rest]);
            start = rest;
        }
        let first = start;
        for length in memchr_iter(b'\n', block.get(first..end).unwrap_or_default()) {
            self.annotator.line(&block[start..first + length], &mut self.out);
            self.out.push(b'\n');
            start = first + length + 1;
        }
        if filled == BLOCK_OCTETS && start == 0 {
            *is_long = true;
            self.out.extend(block);
            start = filled;
        }
        start
    }

    fn write(&mut self) -> Result<(), CopyError> {
        let written = match &mut self.to {
            Some(to) => to.write_all(&self.out),
            None => Err(ErrorKind::BrokenPipe.into()),
        };
        self.out.clear();
        written.map_err(CopyError::Write)
    }
}
