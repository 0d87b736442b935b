//! The program `nat64handoff`: command line, wiring, exit codes (0 after a signal, 2 for usage and
//! configuration, 1 for anything else).

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{self, ExitCode};

use clap::{CommandFactory, Parser};

use nat64handoff::disk::eventlog::Destination;
use nat64handoff::disk::storage;
use nat64handoff::disk::storage::SyncPolicy;
use nat64handoff::handoff::change::LogFormat;
use nat64handoff::handoff::ports::TABLE_CAPACITY;
use nat64handoff::handoff::server::AccessList;
use nat64handoff::handoff::table::TableLimits;
use nat64handoff::kernel::backend::Io;
use nat64handoff::kernel::clock::Clock;
use nat64handoff::kernel::huge_pages;
use nat64handoff::kernel::interface;
use nat64handoff::kernel::ring::{self, Refused};
use nat64handoff::kernel::stderr;
use nat64handoff::programs::demo::{self, LogTail};
use nat64handoff::programs::gateway;
use nat64handoff::programs::options::{
    Cli, Command, DemoOptions, EXIT_USAGE, Environment, GatewayOptions, JournalCommand,
    LogDestination, ServeConfig, ServeOptions,
};
use nat64handoff::programs::serve::supervise::{self, Alarm};
use nat64handoff::programs::serve::{self, Serving, StartError, Totals};

/// Set in the environment of a demo that runs in a network of its own.
const IN_NAMESPACE: &str = "NAT64HANDOFF_DEMO_IN_NAMESPACE";

fn main() -> ExitCode {
    // Prints help and usage errors itself, with exit code 0 or 2.
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(options) => serve(options),
        Command::Demo(options) => demo(options),
        Command::Gateway(options) => gateway(&options),
        Command::Journal { command } => journal(command),
        Command::CheckConfig(options) => check_config(options),
        Command::Completions { shell } => completions(shell),
        Command::Man => man(),
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

fn say(message: &dyn Display) {
    stderr::say(format_args!("{message}"));
}

fn check_config(options: ServeOptions) -> Result<(), Failure> {
    let text = options.effective(&Environment::of_process()).map_err(usage)?;
    io::stdout().write_all(text.as_bytes()).map_err(failed)
}

/// Fails where there is damage, so that scripts see it.
fn journal(command: JournalCommand) -> Result<(), Failure> {
    match command {
        JournalCommand::Check { dir } => {
            let checked = storage::check(&dir).map_err(failed)?;
            write!(io::stdout(), "{checked}").map_err(failed)?;
            if !checked.is_good() {
                return Err(failed(format_args!(
                    "{0} is damaged; keep a copy of it, then: nat64handoff journal repair {0}",
                    dir.display()
                )));
            }
        }
        JournalCommand::Repair { dir } => {
            let now = Clock::new().now().wall;
            let repaired = storage::repair(&dir, now).map_err(failed)?;
            write!(io::stdout(), "{repaired}").map_err(failed)?;
        }
    }
    Ok(())
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nat64handoff", &mut text);
    io::stdout().write_all(&text).map_err(failed)
}

/// One page for the program and all of its commands.
fn man() -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text).map_err(failed)?;
    let mut below: Vec<_> = command.get_subcommands().cloned().collect();
    below.reverse();
    while let Some(subcommand) = below.pop() {
        below.extend(subcommand.get_subcommands().cloned());
        if subcommand.get_name() == "help" {
            continue;
        }
        let page = clap_mangen::Man::new(subcommand);
        page.render_name_section(&mut text).map_err(failed)?;
        page.render_synopsis_section(&mut text).map_err(failed)?;
        page.render_options_section(&mut text).map_err(failed)?;
    }
    io::stdout().write_all(&text).map_err(failed)
}

fn serve(options: ServeOptions) -> Result<(), Failure> {
    huge_pages::ask();
    let config = options.resolve(&Environment::of_process()).map_err(usage)?;
    let io = choose_io(config.io).map_err(failed)?;
    let alarm = Alarm::default();
    let raise = alarm.clone();
    let start = || {
        let serving = Serving::start(wire_up(config, io), move || raise.raise())?;
        serving.found().iter().for_each(|line| say(line));
        let listen: Vec<_> = serving.listen().iter().map(ToString::to_string).collect();
        let (listen, reactors) = (listen.join(", "), serving.reactors());
        say(&format_args!("serving {listen} with {reactors} reactors on {io}"));
        Ok::<_, StartError>(serving)
    };
    let serving = supervise::supervise(io, &alarm, start).map_err(failed)?.map_err(failed)?;
    let Totals { datagrams, replies, drops, nat64s, lines } = serving.stop().map_err(failed)?;
    say(&format_args!(
        "stopped: {nat64s} NAT64s, {datagrams} datagrams, {replies} replies, {drops} drops, {lines} log lines"
    ));
    Ok(())
}

/// io_uring where it is to be had, unless another way is wanted.
fn choose_io(wanted: Option<Io>) -> Result<Io, Refused> {
    if wanted == Some(Io::Mmsg) {
        return Ok(Io::Mmsg);
    }
    match ring::probe() {
        Ok(()) => Ok(Io::Uring),
        Err(refused) if wanted.is_some() => Err(refused),
        Err(refused) => {
            say(&format_args!("using recvmmsg and sendmmsg instead: {refused}"));
            Ok(Io::Mmsg)
        }
    }
}

fn gateway(options: &GatewayOptions) -> Result<(), Failure> {
    let config = options.resolve().map_err(usage)?;
    gateway::run(&config).map_err(failed)
}

fn demo(options: DemoOptions) -> Result<(), Failure> {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        interface::loopback_up().map_err(failed)?;
    } else if !demo::can_bind_validation_port().map_err(failed)? {
        return demo_in_namespace(&options);
    }
    let state = std::env::temp_dir().join(format!("nat64handoff-demo-{}", std::process::id()));
    // Fails where there is something of that name: it might be somebody else's.
    std::fs::create_dir(&state).map_err(|error| {
        failed(format_args!("{} cannot be made for the demo's state: {error}", state.display()))
    })?;
    let result = demo_with(&state, options.port.unwrap_or(0));
    // Nothing in there is of use to anyone.
    drop(std::fs::remove_dir_all(&state));
    result
}

fn demo_with(state: &Path, port: u16) -> Result<(), Failure> {
    let log = LogTail::new();
    let config = serve::Config {
        listen: vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)],
        state: state.to_owned(),
        log: Destination::Writer(Box::new(log.clone())),
        log_format: LogFormat::Plain,
        reactors: 2,
        io: choose_io(None).map_err(failed)?,
        nat64s_max: 10,
        entries_max: 2 * TABLE_CAPACITY,
        limits: TableLimits::default(),
        validation_rate: 1000,
        access: AccessList::default(),
        sync: Some(SyncPolicy::None),
    };
    let serving = Serving::start(config, || {}).map_err(failed)?;
    let server = serving.listen()[0];
    let played = demo::run(server, &log, &mut io::stdout().lock()).map_err(failed);
    let stopped = serving.stop().map_err(failed);
    played.and(stopped.map(drop))
}

/// The demo's NAT64s take their validation packets at UDP port 9, which is root's: so it becomes root, of a
/// network of its own.
fn demo_in_namespace(options: &DemoOptions) -> Result<(), Failure> {
    const HINT: &str =
        "the demo's NAT64s listen on UDP port 9, which takes root or user namespaces: try sudo";
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = process::Command::new("unshare");
    command
        .args(["--map-root-user", "--net", "--"])
        .arg(program)
        .arg("demo")
        .env(IN_NAMESPACE, "1");
    if let Some(port) = options.port {
        command.args(["--port", &port.to_string()]);
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(failed(format_args!("the demo in a namespace failed ({HINT})"))),
        Err(error) => Err(failed(format_args!("unshare: {error} ({HINT})"))),
    }
}

fn wire_up(config: ServeConfig, io: Io) -> serve::Config {
    serve::Config {
        listen: config.listen,
        state: config.state,
        log: match config.log {
            LogDestination::Stdout => Destination::Stdout,
            LogDestination::File(path) => Destination::File(path),
        },
        log_format: config.log_format,
        reactors: config.reactors,
        io,
        nat64s_max: config.nat64s_max,
        entries_max: config.entries_max,
        limits: TableLimits { client_share: config.client_share, ..TableLimits::default() },
        validation_rate: config.validation_rate,
        access: AccessList { allow: config.allow, deny: config.deny },
        sync: config.journal.then_some(config.sync),
    }
}
