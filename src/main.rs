//! The program `nat64handoff`: dispatch and exit codes (0 after a signal, 2 for usage and
//! configuration, 1 for anything else).

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

use nat64handoff::kernel::{signals, stderr};
use nat64handoff::programs::exit::{ExitError, print};
use nat64handoff::programs::options::{Cli, Command, FleetCommand, GatewayOptions};
use nat64handoff::programs::{
    annotate, ask, ban_set, deliver_device, demo, follow, gateway, history, journal, manual,
    peer_names, serve, top, who,
};

fn main() -> ExitCode {
    let held = signals::hold();
    // Prints help and usage errors itself, with exit code 0 or 2.
    let cli = Cli::parse();
    let has_handlers = matches!(
        cli.command,
        Command::Serve(_)
            | Command::Demo(_)
            | Command::Gateway(_)
            | Command::Follow(_)
            | Command::BanSet(_)
            | Command::Top(_)
    );
    if !has_handlers {
        held.let_go();
    }
    let result = match cli.command {
        Command::Serve(options) => serve::command::run(options),
        Command::Demo(options) => demo::command::run(&options),
        Command::Gateway(options) => gateway(options),
        Command::Journal { command } => journal::run(command),
        Command::CheckConfig(options) => serve::command::check(options),
        Command::SelfCheck(options) => demo::self_check::run(options),
        Command::Who(options) => who::run(options),
        Command::Follow(options) => follow::run(&options),
        Command::Annotate(options) => annotate::run(&options),
        Command::Status(options) => ask::status(&options),
        Command::Top(options) => top::run(&options),
        Command::Table(options) => ask::table(&options),
        Command::Identities(options) => ask::identities(&options),
        Command::DropTable(options) => ask::drop_table(&options),
        Command::Ban(options) => ask::ban(&options),
        Command::Unban(options) => ask::unban(&options),
        Command::Fleet { command: FleetCommand::Drain(options) } => ask::drain(&options),
        Command::Bans(options) => ask::bans(&options),
        Command::BanSet(options) => ban_set::run(&options),
        Command::History { command } => history::run(command),
        Command::PeerNames { command } => peer_names::run(command),
        Command::DeliverDevice { command } => deliver_device::run(command),
        Command::Completions { shell } => print(manual::completions(shell)),
        Command::Man { page } => manual::man(page).map_err(ExitError::failed).and_then(print),
    };
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(ExitError { code, message }) => {
            message.lines().for_each(|line| stderr::fail(format_args!("{line}")));
            ExitCode::from(code)
        }
    };
    stderr::flush();
    code
}

fn gateway(options: GatewayOptions) -> Result<(), ExitError> {
    let config = options.resolve().map_err(ExitError::usage)?;
    gateway::run(&config).map_err(ExitError::failed)
}
