//! What `nat64handoff serve` does, from options to the last line; and `check-config`.

use crate::kernel::stderr::{self, say};
use crate::kernel::{core_dump, huge_pages, limits, signals};
use crate::programs::exit::{ExitError, print};
use crate::programs::options::{Environment, ServeConfig, ServeOptions};
use crate::programs::serve::check;
use crate::programs::serve::start::{StartError, choose_io};
use crate::programs::serve::stop::{Serving, Totals};
use crate::programs::serve::supervise::{self, Alarm};

/// Runs a server until a signal ends it.
///
/// # Errors
/// Where an option is wrong, or the server does not start or ends by itself.
pub fn run(options: ServeOptions) -> Result<(), ExitError> {
    signals::ignore_those_without_use();
    core_dump::without_memory();
    huge_pages::ask();
    stderr::in_background();
    let config = options.resolve(&Environment::of_process()).map_err(ExitError::usage)?;
    limits::raise_descriptors(config.reactors, config.listen.len()).map_err(ExitError::failed)?;
    let io = choose_io(config.io).map_err(ExitError::failed)?;
    let config = ServeConfig { io: Some(io), ..config };
    let alarm = Alarm::default();
    let raise = alarm.clone();
    let start = || {
        let serving = Serving::start(config, move || raise.raise())?;
        serving.found().iter().for_each(|line| say(format_args!("{line}")));
        let listen: Vec<_> = serving.listen().iter().map(ToString::to_string).collect();
        let (listen, reactors) = (listen.join(", "), serving.reactors());
        say(format_args!("serving {listen} with {reactors} reactors on {io}"));
        Ok::<_, StartError>(serving)
    };
    let supervised = supervise::supervise(io, &alarm, start).map_err(ExitError::failed)?;
    let serving = supervised.map_err(ExitError::failed)?;
    let Totals { datagrams, replies, drops, drops_by_reason, nat64s, lines } =
        serving.stop().map_err(ExitError::failed)?;
    say(format_args!(
        "stopped: {nat64s} NAT64s, {datagrams} datagrams, {replies} replies, {drops} drops{drops_by_reason}, \
         {lines} log lines"
    ));
    Ok(())
}

/// Prints the configuration that [`run`] would use, as a TOML file with where each value comes
/// from, and finds what would keep [`run`] from starting now.
///
/// # Errors
/// All that is wrong: with options, or else with what they name.
pub fn check(options: ServeOptions) -> Result<(), ExitError> {
    let (config, text) = options.effective(&Environment::of_process()).map_err(ExitError::usage)?;
    print(text)?;
    let troubles = check::troubles(&config);
    if troubles.is_empty() {
        return print("# good: nothing here keeps it from starting\n");
    }
    Err(ExitError::failed(troubles.join("\n")))
}
