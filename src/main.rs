//! The program `nat64handoff`: dispatch and exit codes (0 after a signal, 2 for usage and
//! configuration, 1 for anything else).

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use nat64handoff::kernel::stderr;
use nat64handoff::programs::exit::ExitError;
use nat64handoff::programs::options::{Cli, Command, GatewayOptions};
use nat64handoff::programs::{demo, gateway, journal, manual, serve};

fn main() -> ExitCode {
    // Prints help and usage errors itself, with exit code 0 or 2.
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(options) => serve::command::run(options),
        Command::Demo(options) => demo::command::run(&options),
        Command::Gateway(options) => gateway(options),
        Command::Journal { command } => journal::run(command),
        Command::CheckConfig(options) => serve::command::check(options).and_then(print),
        Command::Completions { shell } => print(manual::completions(shell)),
        Command::Man => manual::man().map_err(ExitError::failed).and_then(print),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(ExitError { code, message }) => {
            stderr::say(format_args!("{message}"));
            ExitCode::from(code)
        }
    }
}

fn gateway(options: GatewayOptions) -> Result<(), ExitError> {
    let config = options.resolve().map_err(ExitError::usage)?;
    gateway::run(&config).map_err(ExitError::failed)
}

fn print(text: impl AsRef<[u8]>) -> Result<(), ExitError> {
    io::stdout().write_all(text.as_ref()).map_err(ExitError::failed)
}
