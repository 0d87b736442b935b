//! `nat64handoff self-check`: the demo's NAT64 against a server that runs, or against one that is
//! started for it with the options, state directory and log of that one, or copies of them.
//!
//! The NAT64 proves itself (PROTOCOL.md section 5), reports a client and asks for another (section
//! 7), over real UDP on loopback. It is the same NAT64 with the same clients each time, so a server
//! that is checked often has one table with two entries for it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};

use super::host::Nat64Host;
use super::{Failure, client, failure, socket};
use crate::handoff::entry::{Client, Entry};
use crate::handoff::message::VALIDATION_PORT;
use crate::handoff::server::AccessList;
use crate::ip::fields::tcp::SYN;
use crate::kernel::clock;
use crate::kernel::socket::kept::KeptSockets;
use crate::nat64::engine::{Action, WELL_KNOWN_PREFIX};
use crate::programs::exit::{ExitError, print};
use crate::programs::options::{Deliver, Environment, PeerNames, SelfCheckOptions, ServeConfig};
use crate::programs::serve::Serving;

/// Not one that another program is likely to use port 9 of.
const NAT64: Ipv4Addr = Ipv4Addr::new(127, 64, 64, 9);
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x64);
const CLIENT_PORT: u16 = 64_064;

/// Checks the server, and says what it did.
///
/// # Errors
/// What did not go as it must, and what to do about it.
pub fn run(options: SelfCheckOptions) -> Result<(), ExitError> {
    let config = options.serve.resolve(&Environment::of_process()).map_err(ExitError::usage)?;
    may_have_port_9()?;
    if options.start {
        return with_own(config);
    }
    let access = AccessList { allow: config.allow.clone(), deny: config.deny.clone() };
    if !access.permits(NAT64) {
        return print(format!(
            "self-check: not done, as --allow and --deny keep out {NAT64}, which it would be done with\n"
        ));
    }
    for listen in &config.listen {
        let ip = if listen.ip().is_unspecified() { Ipv4Addr::LOCALHOST } else { *listen.ip() };
        check(SocketAddrV4::new(ip, listen.port()), &config)?;
    }
    Ok(())
}

/// Starts a server for the check, on a port that nobody has.
fn with_own(config: ServeConfig) -> Result<(), ExitError> {
    let config = ServeConfig {
        listen: vec![SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)],
        allow: Vec::new(),
        deny: Vec::new(),
        // Those are the other server's to give, and its device is its alone: two would share what
        // clients are answered.
        peer_names: PeerNames::Off,
        deliver: Deliver::Cache,
        deliver_ports: Vec::new(),
        ..config
    };
    let kept = KeptSockets::default();
    let serving = Serving::start(config.clone(), kept, None, || {}).map_err(ExitError::failed)?;
    let checked = check(serving.listen()[0], &config);
    let stopped = serving.stop().map_err(ExitError::failed);
    checked.and(stopped.map(drop))
}

fn check(server: SocketAddrV4, config: &ServeConfig) -> Result<(), ExitError> {
    let failed =
        |error: Failure| ExitError::failed(format_args!("self-check of {server}: {error}"));
    let Entry { port, client } = introduced(server, config).map_err(failed)?;
    print(format!(
        "self-check: {server} sent a validation packet to port {VALIDATION_PORT} of {NAT64}, and took the proof that \
         came back; its client {} has port {port} there\n",
        socket(client)
    ))
}

/// The entry that the server has for the client.
fn introduced(server: SocketAddrV4, config: &ServeConfig) -> Result<Entry, Failure> {
    let mut host = Nat64Host::start(NAT64, vec![WELL_KNOWN_PREFIX], server, clock::instant())?;
    let client = Client { port: CLIENT_PORT, ..client(WELL_KNOWN_PREFIX, CLIENT) };
    let packet = host.segment(client, SYN);
    let actions = host.client_packet(&packet);
    let report = actions.iter().find_map(|action| match action {
        Action::Request { payload, .. } => Some(payload.clone()),
        _ => None,
    });
    let Some(report) = report else {
        return failure("the NAT64 has nothing to report");
    };
    let validation = host.provoke_validation(&report, client.address)?;
    host.prove(&validation)?;
    let answer = host.exchange(&report)?;
    host.take(&answer)?;
    let Some(entry) = host.entry_of(client) else {
        return failure("the answer to a report has no entry of the client");
    };
    let service = host.service(client.prefix);
    if config.deliver_to(service.port()) != Deliver::Cache {
        // What is delivered gets no entry.
        return Ok(entry);
    }
    let client = Client { port: CLIENT_PORT + 1, ..client };
    let packet = host.segment(client, SYN);
    host.ask(&packet, client)
}

fn may_have_port_9() -> Result<(), ExitError> {
    let bound = UdpSocket::bind((NAT64, VALIDATION_PORT));
    bound.map(drop).map_err(|error| {
        ExitError::failed(format_args!(
            "self-check: UDP port {VALIDATION_PORT} of {NAT64} cannot be had: {error}; it takes \
             CAP_NET_BIND_SERVICE, which an installed `nat64handoff` has where root runs it; else: systemd-run --pipe \
             --uid=nat64ho -p AmbientCapabilities=CAP_NET_BIND_SERVICE"
        ))
    })
}
