//! Where the event log is that a command reads.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::programs::exit::ExitError;
use crate::programs::options::{Cli, Command, Environment, LogDestination};

/// Where the service of the Debian package has it, whose directory is told to the service alone.
const PACKAGED_LOG: &str = "/var/log/nat64handoff/events.log";

/// Where the server that runs with this configuration logs, unless it is said. None: standard
/// input, which was said.
///
/// # Errors
/// Where no file is configured, or the configuration is wrong.
pub fn event_log(log: Option<&Path>, config: Option<&Path>) -> Result<Option<PathBuf>, ExitError> {
    match destination(log, config)? {
        LogDestination::File(path) => Ok(Some(path)),
        LogDestination::Stdout if log.is_some() => Ok(None),
        LogDestination::Stdout if Path::new(PACKAGED_LOG).exists() => Ok(Some(PACKAGED_LOG.into())),
        LogDestination::Stdout => Err(ExitError::usage(
            "no file of the event log is configured here: name it by --log, or - to read standard input",
        )),
    }
}

fn destination(log: Option<&Path>, config: Option<&Path>) -> Result<LogDestination, ExitError> {
    let mut words: Vec<OsString> = vec!["nat64handoff".into(), "serve".into()];
    for (name, value) in [("--log", log), ("--config", config)] {
        if let Some(value) = value {
            words.extend([name.into(), value.into()]);
        }
    }
    let serve = match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Serve(serve)) => serve,
        Ok(_) => return Err(ExitError::failed("the log's path cannot be found: name it by --log")),
        Err(error) => return Err(ExitError::usage(error)),
    };
    serve.resolve(&Environment::of_process()).map(|config| config.log).map_err(ExitError::usage)
}
