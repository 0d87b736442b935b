//! Where the event log is that a command reads, and its history.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::disk::fs::parent;
use crate::disk::history::FOLDER;
use crate::programs::exit::ExitError;
use crate::programs::options::{
    Cli, Command, Environment, HistoryDestination, LogDestination, ServeConfig,
};

/// Where the service of the Debian package has it, whose directory is told to the service alone.
const PACKAGED_LOG: &str = "/var/log/nat64handoff/events.log";

/// Where the server that runs with this configuration logs, unless it is said. None: standard
/// input, which was said.
///
/// # Errors
/// Where no file is configured, or the configuration is wrong.
pub fn event_log(log: Option<&Path>, config: Option<&Path>) -> Result<Option<PathBuf>, ExitError> {
    LogPlaces::find(log, None, config).map(|places| places.log)
}

/// Where the log and its history are.
#[derive(Debug)]
pub struct LogPlaces {
    /// None: standard input.
    pub log: Option<PathBuf>,
    /// The history's folder, unless it is off.
    pub history: Option<PathBuf>,
}

impl LogPlaces {
    /// Where the server that runs with this configuration has them, unless they are said: the
    /// history of a log that is said is beside it.
    ///
    /// # Errors
    /// Where no file is configured, or the configuration is wrong.
    pub fn find(
        log: Option<&Path>,
        history: Option<&Path>,
        config: Option<&Path>,
    ) -> Result<Self, ExitError> {
        let is_configured = log.is_none() || history.is_some();
        let config = configuration([("--log", log), ("--history", history), ("--config", config)])?;
        // Without a file of the log, there is none by default.
        let has_file = matches!(config.log, LogDestination::File(_));
        let is_off = history.is_some() || log.is_none() && has_file;
        let log = match config.log {
            LogDestination::File(path) => Some(path),
            LogDestination::Stdout if log.is_some() => None,
            LogDestination::Stdout if Path::new(PACKAGED_LOG).exists() => Some(PACKAGED_LOG.into()),
            LogDestination::Stdout => {
                return Err(ExitError::usage(
                    "no file of the event log is configured here: name it by --log, or - to read standard input",
                ));
            }
        };
        let beside = || log.as_deref().map(|log| parent(log).join(FOLDER));
        let history = match config.history {
            HistoryDestination::Folder(folder) if is_configured => Some(folder),
            HistoryDestination::Off if is_off => None,
            HistoryDestination::Folder(_) | HistoryDestination::Off => beside(),
        };
        Ok(Self { log, history })
    }
}

fn configuration(written: [(&str, Option<&Path>); 3]) -> Result<ServeConfig, ExitError> {
    let mut words: Vec<OsString> = vec!["nat64handoff".into(), "serve".into()];
    for (name, value) in written {
        if let Some(value) = value {
            words.extend([name.into(), value.into()]);
        }
    }
    let serve = match Cli::try_parse_from(words).map(|cli| cli.command) {
        Ok(Command::Serve(serve)) => serve,
        Ok(_) => return Err(ExitError::failed("the log's path cannot be found: name it by --log")),
        Err(error) => return Err(ExitError::usage(error)),
    };
    serve.resolve(&Environment::of_process()).map_err(ExitError::usage)
}
