//! `nat64handoff journal`: what is damaged in the state directory of a server that does not run.

use crate::disk::counted::{CountedDisk, octets_in};
use crate::disk::fs::{Disk, RealDisk};
use crate::disk::storage::{self, StorageError};
use crate::kernel::clock::Clock;
use crate::kernel::core_dump;
use crate::programs::exit::{ExitError, print};
use crate::programs::options::JournalCommand;
use crate::programs::progress::Progress;

/// Checks or repairs a state directory.
///
/// # Errors
/// Also where the check finds damage, so that scripts see it.
pub fn run(command: JournalCommand) -> Result<(), ExitError> {
    core_dump::without_memory();
    match command {
        JournalCommand::Check { dir } => {
            let progress = Progress::begin("checking", octets_in(&dir));
            let disk: Box<dyn Disk> = match progress.counter() {
                Some(read) => Box::new(CountedDisk::new(read)),
                None => Box::new(RealDisk),
            };
            let checked = storage::check_by(&*disk, &dir).map_err(failed)?;
            drop(progress);
            print(checked.to_string())?;
            if !checked.is_good() {
                return Err(ExitError::failed(format_args!(
                    "{0} is damaged; keep a copy of it, then: nat64handoff journal repair {0}",
                    dir.display()
                )));
            }
        }
        JournalCommand::Repair { dir } => {
            let now = Clock::new().now().wall;
            let repaired = storage::repair(&dir, now).map_err(failed)?;
            print(repaired.to_string())?;
        }
    }
    Ok(())
}

/// Here the directory is what it is: to choose another one with an option is advice for `serve`.
fn failed(error: StorageError) -> ExitError {
    let mut error = ExitError::failed(error);
    if let Some(end) = error.message.find("choose another ") {
        let kept = error.message[..end].trim_end_matches("or ").trim_end_matches([' ', ',', ';']);
        error.message.truncate(kept.len());
    }
    error
}
