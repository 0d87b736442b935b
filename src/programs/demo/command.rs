//! What `nat64handoff demo` does: it starts a server, plays all scenes with it, and stops it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::process::ExitStatusExt;
use std::process;

use super::LogTail;
use super::scratch::{self, Scratch};
use crate::disk::eventlog::Destination;
use crate::disk::storage::SyncPolicy;
use crate::handoff::ports::TABLE_CAPACITY;
use crate::handoff::server::CREATE_RATE_DEFAULT;
use crate::kernel::{interface, signals};
use crate::programs::exit::{ExitError, StandardOutput};
use crate::programs::options::{DemoOptions, Environment, ServeConfig, ServeOptions};
use crate::programs::serve::Serving;

/// Set in the environment of a demo that runs in a network of its own.
const IN_NAMESPACE: &str = "NAT64HANDOFF_DEMO_IN_NAMESPACE";

/// The whole demo; in a namespace of its own, where it may not have UDP port 9 in this one.
///
/// # Errors
/// Where it cannot run, or shows something else than it must.
pub fn run(options: &DemoOptions) -> Result<(), ExitError> {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        interface::loopback_up().map_err(ExitError::failed)?;
    } else if !interface::is_loopback_up()
        || !super::can_bind_validation_port().map_err(ExitError::failed)?
    {
        return in_namespace(options);
    }
    let state = Scratch::new(std::env::temp_dir())?;
    with_state(&state, options.port.unwrap_or(0))
}

fn with_state(scratch: &Scratch, port: u16) -> Result<(), ExitError> {
    let log = LogTail::new();
    // The environment stays out of it.
    let defaults = ServeOptions::default().resolve(&Environment::default());
    let config = ServeConfig {
        listen: vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)],
        state: scratch.path().to_owned(),
        reactors: 2,
        nat64s_max: 10,
        entries_max: 2 * TABLE_CAPACITY,
        validation_rate: 1000,
        create_rate: CREATE_RATE_DEFAULT,
        sync: SyncPolicy::None,
        ..defaults.map_err(ExitError::usage)?
    };
    let destination = Destination::Writer(Box::new(log.clone()));
    let start = || Serving::start_with_log(config, destination, || {});
    let serving = scratch.while_there(start).map_err(ExitError::failed)?;
    let server = serving.listen()[0];
    let played = super::run(server, &log, &mut StandardOutput).map_err(ExitError::failed);
    let stopped = serving.stop().map_err(ExitError::failed);
    played.and(stopped.map(drop))
}

/// The demo's NAT64s receive validation packets at UDP port 9, which only root may bind: so the
/// demo runs as root of a user namespace, with a network of its own.
fn in_namespace(options: &DemoOptions) -> Result<(), ExitError> {
    const HINT: &str =
        "the demo's NAT64s listen on UDP port 9, which takes root or user namespaces: try sudo";
    let program = std::env::current_exe().map_err(ExitError::failed)?;
    let mut command = process::Command::new("unshare");
    command
        .args(["--map-root-user", "--net", "--"])
        .arg(program)
        .arg("demo")
        .env(IN_NAMESPACE, "1");
    if let Some(port) = options.port {
        command.args(["--port", &port.to_string()]);
    }
    let started = command.spawn().inspect(|child| {
        let id = child.id();
        // The demo cleans up, and this process ends as that one does.
        scratch::on_signal(move |signal| signals::pass_on(id, signal));
    });
    match started.and_then(|mut child| child.wait()) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if status.signal().is_some() => signals::end_by(status.signal().unwrap_or(0)),
        Ok(_) => Err(ExitError::failed(format_args!("the demo in a namespace failed ({HINT})"))),
        Err(error) => Err(ExitError::failed(format_args!("unshare: {error} ({HINT})"))),
    }
}
