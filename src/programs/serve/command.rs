//! What `nat64handoff serve` does, from options to the last line; and `check-config`.

use std::path::Path;

use crate::kernel::backend::Io;
use crate::kernel::socket::kept::KeptSockets;
use crate::kernel::stderr::{self, say, warn};
use crate::kernel::successor::{Predecessor, Successor};
use crate::kernel::{addresses, core_dump, huge_pages, limits, service, signals, successor};
use crate::programs::exit::{ExitError, print};
use crate::programs::options::{
    CheckOptions, Environment, PEER_MAPS, Places, ServeConfig, ServeOptions,
};
use crate::programs::serve::deliver::{HostReport, HostUser, firewall_lines};
use crate::programs::serve::names::pool_lines;
use crate::programs::serve::start::{StartError, choose_io};
use crate::programs::serve::stop::Serving;
use crate::programs::serve::supervise::{self, Alarm, ServeEnd};
use crate::programs::serve::{check, names, recovery};

/// Runs a server until a signal ends it.
///
/// # Errors
/// Where an option is wrong, or the server does not start or ends by itself.
pub fn run(options: ServeOptions) -> Result<(), ExitError> {
    successor::start_and_end();
    signals::ignore_those_without_use();
    addresses::share_arena();
    core_dump::without_memory();
    huge_pages::ask();
    let predecessor = Predecessor::of_process();
    stderr::in_background();
    let (config, _) =
        options.effective(&Environment::of_process()).map_err(|(errors, places)| {
            if service::is_service() && predecessor.is_none() {
                is_not_started_again(&places);
            }
            ExitError::usage(errors)
        })?;
    limits::raise_descriptors(config.reactors, config.sockets().len())
        .map_err(ExitError::failed)?;
    let kept = KeptSockets::of_process(&config.sockets());
    let reactors = kept.reactors(config.reactors);
    if reactors < config.reactors {
        say(format_args!(
            "{reactors} reactors, as the socket unit has as many sockets for an address"
        ));
    }
    // First what any reactor needs: io_uring would only say that it has no memory.
    addresses::check(reactors, Io::Uring, 0).map_err(ExitError::failed)?;
    let io = choose_io(config.io).map_err(ExitError::failed)?;
    addresses::check(reactors, io, recovery::threads(reactors)).map_err(ExitError::failed)?;
    let config = ServeConfig { io: Some(io), reactors, ..config };
    let alarm = Alarm::default();
    let raise = alarm.clone();
    let start = || {
        let serving = Serving::start(config, kept, predecessor, move || raise.raise())?;
        serving.found().iter().for_each(|line| say(format_args!("{line}")));
        let listen: Vec<_> = serving.listen().iter().map(ToString::to_string).collect();
        let (listen, reactors) = (listen.join(", "), serving.reactors());
        let status = format!("serving {listen} with {reactors} reactors on {io}");
        say(format_args!("{status}"));
        service::ready(&status);
        Ok::<_, StartError>(serving)
    };
    let supervised = supervise::supervise(io, &alarm, start).map_err(ExitError::failed)?;
    match supervised.map_err(ExitError::failed)? {
        (serving, ServeEnd::HandOver(successor)) => Err(hand_over(serving, successor)),
        (serving, ServeEnd::Stop) => {
            service::stopping();
            let totals = serving.stop().map_err(ExitError::failed)?;
            say(format_args!("stopped: {totals}"));
            Ok(())
        }
    }
}

/// The service manager does not start it again with such a configuration, and closes the sockets
/// that it kept: the names of the server before are not true much longer.
fn is_not_started_again(places: &Places) {
    let maps = places.peer_maps.as_deref().unwrap_or(Path::new(PEER_MAPS));
    // Where the kernel refuses, they end by themselves.
    let _ = names::forget_any(maps);
}

/// Ends a server, and lets the next process go on with its sockets. Returns only where that cannot
/// be executed.
fn hand_over(mut serving: Serving, successor: Option<Successor>) -> ExitError {
    // They are for whoever serves next.
    signals::hold();
    let sockets = serving.take_sockets();
    let stopped = serving.stop();
    match &stopped {
        Ok(totals) => say(format_args!("stopped: {totals}")),
        // The next one finds in the journal what is missing elsewhere.
        Err(error) => warn(format_args!("{error}")),
    }
    // Else some thread may still write what another process must not write at the same time.
    let is_alone = stopped.is_ok_and(|totals| totals.log_ended);
    if let Some(successor) = successor.filter(|_| is_alone) {
        stderr::flush();
        match successor.take_over() {
            // The sockets are closed with the process, when the other one has long had them.
            Ok(()) => std::process::exit(0),
            Err(error) => {
                warn(format_args!("the process beside this one cannot take over: {error}"))
            }
        }
    }
    say(format_args!("SIGUSR2: executing the program anew; what arrives waits in the sockets"));
    stderr::flush();
    let error = service::execute(&sockets);
    ExitError::failed(format_args!("the program cannot be executed: {error}"))
}

/// Prints the configuration that [`run`] would use, as a TOML file with where each value comes
/// from, and finds what would keep [`run`] from starting now.
///
/// # Errors
/// All that is wrong with options, and with what they name.
pub fn check(options: CheckOptions) -> Result<(), ExitError> {
    let effective = options.serve.effective(&Environment::of_process());
    let (config, text) = effective.map_err(|(errors, places)| {
        let lines = [errors.to_string()].into_iter().chain(check::troubles_of(&places));
        ExitError::usage(lines.collect::<Vec<_>>().join("\n"))
    })?;
    if options.host {
        return check_host(&config, options.networkd);
    }
    print(text)?;
    for line in pool_lines(&config) {
        print(format!("# {line}\n"))?;
    }
    let troubles = check::troubles(&config);
    if troubles.is_empty() {
        return print("# good: nothing here keeps it from starting\n");
    }
    Err(ExitError::failed(troubles.join("\n")))
}

/// Prints what delivery needs of this host, and what of it is there.
fn check_host(config: &ServeConfig, networkd: bool) -> Result<(), ExitError> {
    let report = HostReport::of(config, HostUser::Server, true);
    let report = report.map_err(|error| {
        ExitError::failed(format_args!("the kernel does not say what this host has: {error}"))
    })?;
    if networkd {
        return print(report.networkd());
    }
    print(report.recipe())?;
    for line in firewall_lines(config) {
        print(format!("# firewall: {line}\n"))?;
    }
    match report.missing() {
        missing if missing.is_empty() => Ok(()),
        missing => Err(ExitError::failed(missing.join("\n"))),
    }
}
