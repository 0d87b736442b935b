//! The program `nat64handoff`: command line, wiring, exit codes (0 after a signal, 2 for usage and
//! configuration, 1 for anything else).

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use nat64handoff::cli::{
    Cli, Command, EXIT_USAGE, Environment, LogDestination, ServeConfig, ServeOptions,
};
use nat64handoff::control::{self, Alarm};
use nat64handoff::eventlog::Destination;
use nat64handoff::serve::{self, Serving, Totals};
use nat64handoff::server::AccessList;
use nat64handoff::table::TableLimits;

fn main() -> ExitCode {
    // Prints help and usage errors itself, with exit code 0 or 2.
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(options) => serve(options),
        Command::Demo(_) => Ok(()),
        Command::CheckConfig(options) => check_config(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            say(&message);
            ExitCode::from(code)
        }
    }
}

/// An exit code, and the line that goes with it.
type Failure = (u8, String);

fn usage(error: impl Display) -> Failure {
    (EXIT_USAGE, error.to_string())
}

fn failed(error: impl Display) -> Failure {
    (1, error.to_string())
}

/// Our own messages go to standard error. That it is closed is no reason to fail.
fn say(message: &dyn Display) {
    drop(writeln!(io::stderr(), "nat64handoff: {message}"));
}

fn check_config(options: ServeOptions) -> Result<(), Failure> {
    let text = options.effective(&Environment::of_process()).map_err(usage)?;
    io::stdout().write_all(text.as_bytes()).map_err(failed)
}

fn serve(options: ServeOptions) -> Result<(), Failure> {
    let config = options.resolve(&Environment::of_process()).map_err(usage)?;
    let sync = config.sync;
    let alarm = Alarm::default();
    let raise = alarm.clone();
    let serving = Serving::start(wire_up(config), move || raise.raise()).map_err(failed)?;
    if let Some(mode) = serving.state().tightened_from() {
        let path = serving.state().path().display();
        say(&format_args!("the state directory {path} had mode {mode:04o}, and has 0700 now"));
    }
    let ready = || {
        let listen: Vec<_> = serving.listen().iter().map(ToString::to_string).collect();
        let (listen, reactors) = (listen.join(", "), serving.reactors());
        say(&format_args!("serving {listen} with {reactors} reactors on io_uring"));
        say(&format_args!(
            "tables are kept in memory: this version has no journal, so --sync {sync} does nothing yet"
        ));
    };
    control::supervise(&serving, &alarm, ready).map_err(failed)?;
    let Totals { datagrams, replies, drops, nat64s, lines } = serving.stop().map_err(failed)?;
    say(&format_args!(
        "stopped: {nat64s} NAT64s, {datagrams} datagrams, {replies} replies, {drops} drops, {lines} log lines"
    ));
    Ok(())
}

fn wire_up(config: ServeConfig) -> serve::Config {
    serve::Config {
        listen: config.listen,
        state: config.state,
        log: match config.log {
            LogDestination::Stdout => Destination::Stdout,
            LogDestination::File(path) => Destination::File(path),
        },
        log_format: config.log_format,
        reactors: config.reactors,
        nat64s_max: config.nat64s_max,
        entries_max: config.entries_max,
        limits: TableLimits { client_share: config.client_share, ..TableLimits::default() },
        validation_rate: config.validation_rate,
        access: AccessList { allow: config.allow, deny: config.deny },
    }
}
