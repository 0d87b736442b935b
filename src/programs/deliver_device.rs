//! `nat64handoff deliver-device`: the TUN device of `serve --deliver`, with all that leads to it
//! (DELIVERY.md).
//!
//! For root, by the commands that `check-config --host` prints: the server, which has no privilege,
//! only opens the device. All stays until `remove`, or until the machine is switched off.

use std::io::{self, ErrorKind};
use std::process::{Command, Stdio};

use crate::programs::exit::{ExitError, print};
use crate::programs::options::{
    DeliverDeviceCommand, DeliverDeviceOptions, Environment, ServeConfig, ServeOptions,
};
use crate::programs::serve::deliver::{HostReport, HostUser, StepCommand, removal};

/// How often it is looked at what is missing: some of it is seen only when the rest is there.
const ROUNDS: usize = 2;

/// Makes the device or removes it.
///
/// # Errors
/// Where a command fails, or something is missing still: what it is, and what to do.
pub fn run(command: DeliverDeviceCommand) -> Result<(), ExitError> {
    match command {
        DeliverDeviceCommand::Make(options) => make(&config(options)?),
        DeliverDeviceCommand::Remove(options) => remove(&config(options)?),
    }
}

fn config(options: DeliverDeviceOptions) -> Result<ServeConfig, ExitError> {
    let serve = ServeOptions::of_file(options.config);
    serve.resolve(&Environment::of_process()).map_err(ExitError::usage)
}

fn make(config: &ServeConfig) -> Result<(), ExitError> {
    let look = || HostReport::of(config, HostUser::Server, true).map_err(unknown);
    let mut report = look()?;
    for _ in 0..ROUNDS {
        let plan = report.plan().map_err(|lines| ExitError::failed(lines.join("\n")))?;
        if plan.is_empty() {
            break;
        }
        plan.into_iter().try_for_each(execute)?;
        report = look()?;
    }
    for line in report.better() {
        print(format!("better: {line}\n"))?;
    }
    match report.missing() {
        missing if missing.is_empty() => {
            print(format!("the device is there: {}\n", report.summary()))
        }
        missing => Err(ExitError::failed(missing.join("\n"))),
    }
}

fn remove(config: &ServeConfig) -> Result<(), ExitError> {
    let commands = removal(&config.deliver_device).map_err(unknown)?;
    if commands.is_empty() {
        return print(format!("there is no device {} to remove\n", config.deliver_device));
    }
    commands.iter().filter_map(StepCommand::words).try_for_each(execute)
}

/// Says a command, and runs it.
fn execute(words: &[String]) -> Result<(), ExitError> {
    let line = words.join(" ");
    print(format!("{line}\n"))?;
    let [program, arguments @ ..] = words else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => ExitError::failed(format_args!(
            "there is no program {program}, by which that is done: install iproute2 and procps"
        )),
        _ => ExitError::failed(format_args!("{program} cannot be run: {error}")),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it does not say why");
    let cure = if said.contains("not permitted") { "; try it as root" } else { "" };
    Err(ExitError::failed(format_args!("{line}: {said}{cure}")))
}

fn unknown(error: io::Error) -> ExitError {
    ExitError::failed(format_args!("the kernel does not say what this host has: {error}"))
}
