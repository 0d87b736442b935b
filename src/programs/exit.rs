//! How the program ends: exit codes, and the line that goes with each but 0.

use std::fmt::Display;

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
    /// Something has to be written differently.
    pub fn usage(error: impl Display) -> Self {
        Self { code: EXIT_USAGE, message: error.to_string() }
    }

    /// Anything else.
    pub fn failed(error: impl Display) -> Self {
        Self { code: EXIT_FAILED, message: error.to_string() }
    }
}
