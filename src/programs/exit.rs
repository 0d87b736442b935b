//! How the program ends: exit codes, and the line that goes with each but 0.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// The exit code for a command line or a configuration that is wrong.
pub const EXIT_USAGE: u8 = 2;
/// The exit code for anything else that goes wrong.
const EXIT_FAILED: u8 = 1;

/// Why a command ends with another exit code than 0.
#[derive(Debug)]
pub struct ExitError {
    /// The exit code, not 0.
    pub code: u8,
    /// What is wrong and what to do, in one line.
    pub message: String,
}

impl ExitError {
    /// The command line or the configuration is wrong: exit code 2.
    pub fn usage(error: impl Display) -> Self {
        Self { code: EXIT_USAGE, message: error.to_string() }
    }

    /// Any other failure: exit code 1.
    pub fn failed(error: impl Display) -> Self {
        Self { code: EXIT_FAILED, message: error.to_string() }
    }
}

/// Writes to standard output. A reader that has read enough, like `head`, is no error.
///
/// # Errors
/// Where standard output cannot be written.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), ExitError> {
    StandardOutput.write_all(text.as_ref()).map_err(|error| {
        ExitError::failed(format_args!(
            "standard output cannot be written: {error}; give it a file with room"
        ))
    })
}

/// Standard output, whose reader may go away at any time.
pub struct StandardOutput;

impl Write for StandardOutput {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match io::stdout().write(octets) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(octets.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match io::stdout().flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}
