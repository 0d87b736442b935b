//! A [`Gateway`] on a TUN device: the loop that gives it packets, the time and randomness, and logs
//! what happens.
//!
//! It reads packets one by one and writes the output of each at once, but for those that go to a
//! server which delivers them, and datagrams of one flow that come one behind the other: they are
//! collected, so that many are written as one. What the kernel gives and takes at once may be a
//! super-packet, of up to 64 KiB. The thread of the first queue handles signals and timers between
//! batches, and writes the log; other queues have one each (`queue`). A packet that the kernel
//! does not take is counted and lost, as on any link.
//!
#![doc = include_str!("../../GATEWAY.md")]

mod kept;
mod log;
mod metrics;
mod queue;

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::disk::fs::{RealDisk, write_full, write_new};
use crate::ip::address::Prefix96;
use crate::kernel::clock::Clock;
use crate::kernel::core_dump;
use crate::kernel::entropy;
use crate::kernel::link::LinkChange;
use crate::kernel::signals::{self, Signal, Signals};
use crate::kernel::stderr::{self, say, warn};
use crate::kernel::tun::{self, Tun, TunError};
use crate::nat64::engine::{AuthenticatorKey, Nat64Config};
use crate::nat64::gateway::{Done, Gateway, GatewayConfig, Notice, ServerChange};
use crate::programs::options::{GatewaySetup, LogDestination};
use kept::EntryKeeper;
use log::GatewayLog;
use metrics::{Published, ShellCounts};
use queue::{GatewayQueue, SharedGateway};

/// Time between two ticks of the gateway.
const TICK: Duration = Duration::from_secs(1);
/// The maximum number of lines about servers per second.
const LINES_MAX: u32 = 10;
/// The kernel settings without which no packet is forwarded to the device.
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// Why a gateway did not start, or ended by itself.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// There is no device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The device, of this name, went away.
    #[error("the TUN device {0} is gone: {1}; start the gateway again, to make another")]
    Gone(String, io::Error),
    /// The file with the key of authenticators cannot be used, and why.
    #[error("--secret {path}: {cause}", path = .0.display(), cause = .1)]
    Secret(PathBuf, String),
    /// The file with the entries cannot be used.
    #[error("--state {path}: {cause}; name another file", path = .0.display(), cause = .1)]
    State(PathBuf, io::Error),
    /// The file of the log cannot be opened.
    #[error("--log {path}: {cause}; name a file that can be written", path = .0.display(), cause = .1)]
    Log(PathBuf, io::Error),
    /// Nobody can ask for the metrics.
    #[error("--metrics {0}: {1}; choose another address or port")]
    Metrics(SocketAddr, io::Error),
    /// The system refused what must work.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

/// Runs a gateway until a signal ends it.
///
/// # Errors
/// Where it cannot start, or its device goes away.
pub fn run(config: &GatewaySetup) -> Result<(), GatewayError> {
    core_dump::without_memory();
    stderr::in_background();
    let authenticator_key = config.secret.as_deref().map(authenticator_key).transpose()?;
    let log = config.log.as_ref().map(open_log).transpose()?;
    let keeper = config.state.as_deref().map(open_state).transpose()?;
    let published = config.metrics.map(listen).transpose()?;
    let (mut tun, queues) = Tun::open(&config.tun, config.queues)?;
    tun.set_up(config.mtu, &config.pool, &config.prefixes)?;
    while tun.next_change().is_some() {} // It was set up.
    let signals = Signals::new().map_err(|error| GatewayError::System("signals", error))?;
    signals::let_through();
    let nat64 = Nat64Config {
        tells_changes: log.is_some(),
        keeps_entries: keeper.is_some(),
        ..engine_of(config, authenticator_key).ok_or_else(|| invalid("--pool"))?
    };
    let gateway_config = GatewayConfig {
        further: config.pool[1..].to_vec(),
        lowest_ipv6_mtu: config.lowest_ipv6_mtu,
        copies_traffic_class: !config.zero_traffic_class,
        makes_udp_checksums: !config.drop_unsummed_udp,
        ..GatewayConfig::new(nat64, config.mtu)
    };
    let gateway = Gateway::new(gateway_config, randomness()?).ok_or_else(|| invalid("--mtu"))?;
    let (prefixes, pool) = (listed(&config.prefixes), listed(&config.pool));
    say(format_args!("gateway {prefixes} -> {pool} on {}", config.tun));
    if let Some(Published { address, .. }) = published {
        say(format_args!("metrics at http://{address}/metrics"));
    }
    warn_of_forwarding();
    config.pool.iter().for_each(|&address| warn_of_address(address));
    let shared = SharedGateway::new(gateway, log.is_some())
        .map_err(|error| GatewayError::System("eventfd", error))?;
    let mut queues = queues.into_iter().map(|queue| GatewayQueue::new(&shared, queue));
    let first = queues.next().ok_or_else(|| invalid("--queues"))?;
    let mut running = Running {
        shared: Arc::clone(&shared),
        first,
        tun,
        clock: Clock::new(),
        log,
        keeper,
        published,
        routes: Routes {
            pool: config.pool.clone(),
            prefixes: config.prefixes.clone(),
            due: false,
            failed: false,
        },
    };
    running.restore()?;
    let others = queues
        .enumerate()
        .map(|(number, queue)| queue.spawn(running.clock.clone(), number + 1))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| GatewayError::System("a thread for a queue", error))?;
    let result = running.run(&signals, config.rotate);
    shared.end();
    // One that panicked ended the process.
    others.into_iter().for_each(|thread| drop(thread.join()));
    running.keep_or_end();
    running.write_log();
    running.say_counts();
    result
}

/// What the engine of the first public address is set up with, but for who is told.
fn engine_of(
    config: &GatewaySetup,
    authenticator_key: Option<AuthenticatorKey>,
) -> Option<Nat64Config> {
    Some(Nat64Config {
        prefixes: config.prefixes.clone(),
        handoff_port: config.handoff_port,
        client_share: config.client_share,
        authenticator_key,
        tunnel_key: authenticator_key.filter(|_| config.geneve),
        ..Nat64Config::new(*config.pool.first()?)
    })
}

/// What the options cannot come to.
fn invalid(option: &'static str) -> GatewayError {
    GatewayError::System(option, ErrorKind::InvalidInput.into())
}

struct Running {
    shared: Arc<SharedGateway>,
    /// The queue of this thread.
    first: GatewayQueue,
    tun: Tun,
    clock: Clock,
    log: Option<GatewayLog>,
    keeper: Option<EntryKeeper>,
    published: Option<Published>,
    routes: Routes,
}

/// What is routed to the device.
struct Routes {
    pool: Vec<Ipv4Addr>,
    prefixes: Vec<Prefix96>,
    /// The device was down, and the routes are not set again yet.
    due: bool,
    /// That failed since, and was said.
    failed: bool,
}

impl Running {
    fn run(&mut self, signals: &Signals, rotate: Duration) -> Result<(), GatewayError> {
        let mut tick_due = TICK;
        let mut rotation_due = rotate;
        // Whether there may be something else than packets.
        let mut others = true;
        loop {
            let now = self.clock.monotonic();
            if others || now >= tick_due {
                while let Some(signal) = signals.next_signal() {
                    match signal {
                        Signal::Stop => return Ok(()),
                        Signal::Flush => self.forget(now)?,
                    }
                }
                self.follow_device(now);
            }
            if now >= rotation_due {
                self.shared.lock().gateway().rotate_token(now);
                rotation_due = now.saturating_add(rotate);
            }
            if now >= tick_due {
                self.restore_routes();
                self.first.tick(now);
                if let Some(log) = &mut self.log {
                    log.tick();
                }
                self.publish();
                tick_due = now.saturating_add(TICK);
            }
            let keeps = match &mut self.keeper {
                Some(keeper) => keeper.step(now, &self.clock, self.shared.lock().gateway()),
                None => false,
            };
            let idle = self
                .first
                .batch(now)
                .map_err(|error| GatewayError::Gone(self.tun.name().to_owned(), error))?;
            self.write_log();
            // Behind a whole batch nothing was asked: so it is looked for.
            others = !idle;
            if idle && !keeps {
                let left = tick_due.saturating_sub(self.clock.monotonic());
                let (queue, changes) = (self.first.queue(), self.shared.changes());
                others = tun::wait(&self.tun, queue, changes, signals, left)
                    .map_err(|error| GatewayError::System("poll", error))?;
                if others {
                    changes.was_woken();
                }
            }
        }
    }

    /// Forgets all entries, those that are kept too.
    fn forget(&mut self, now: Duration) -> Result<(), GatewayError> {
        if let Some(keeper) = &mut self.keeper {
            keeper.forget(now, self.shared.lock().gateway());
        }
        let seed = randomness()?;
        self.shared.lock().gateway().reboot(seed);
        say(format_args!("all entries are forgotten, as after a reboot"));
        Ok(())
    }

    /// Takes over the entries of before, before any packet.
    fn restore(&mut self) -> Result<(), GatewayError> {
        if let Some(keeper) = &self.keeper {
            let restored = keeper.restore(&self.clock, self.shared.lock().gateway());
            restored.map_err(|error| GatewayError::State(keeper.path().to_owned(), error))?;
            self.write_log();
        }
        Ok(())
    }

    /// All entries are over, but for those that are kept.
    fn keep_or_end(&mut self) {
        let (keeper, mut locked) = (self.keeper.as_mut(), self.shared.lock());
        let gateway = locked.gateway();
        if keeper.is_some_and(|keeper| keeper.stop(&self.clock, gateway)) {
            gateway.tell_stop();
        } else {
            gateway.tell_end();
        }
    }

    /// Hears whether the device went down or came up, and sets its routes again where it did.
    fn follow_device(&mut self, now: Duration) {
        while let Some(change) = self.tun.next_change() {
            if change != LinkChange::Down {
                self.routes.due = true;
                self.restore_routes();
            } else if self.shared.lock().may_say(now) {
                let name = self.tun.name();
                warn(format_args!(
                    "warning: {name} is down, so nothing is translated; set it up: ip link set \
                     {name} up"
                ));
            }
        }
    }

    /// Sets the routes again, if that is due. It stays due where it fails.
    fn restore_routes(&mut self) {
        let routes = &mut self.routes;
        if !routes.due {
            return;
        }
        match self.tun.set_routes(&routes.pool, &routes.prefixes) {
            Ok(()) => {
                (routes.due, routes.failed) = (false, false);
                say(format_args!("{} is up, and its routes are set again", self.tun.name()));
            }
            Err(error) if !routes.failed => {
                routes.failed = true;
                warn(format_args!("warning: routes cannot be set again yet: {error}"));
            }
            Err(_) => {}
        }
    }

    /// Writes what happened to entries since the last call.
    fn write_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.add(self.clock.wall(), self.shared.lock().gateway().changes());
            log.write();
        }
    }

    fn publish(&self) {
        if let Some(published) = &self.published {
            let lines_lost = self.log.as_ref().map_or(0, GatewayLog::lost);
            let shell = ShellCounts { unwritten: self.shared.unwritten(), lines_lost };
            published.publish(metrics::metrics(self.shared.lock().gateway(), shell));
        }
    }

    fn say_counts(&self) {
        let mut line = String::from("stopped:");
        let mut locked = self.shared.lock();
        let unsaid = locked.unsaid();
        let gateway = locked.gateway();
        for &done in Done::ALL {
            line.push_str(&format!(" {} {},", done.name(), gateway.done(done)));
        }
        line.push_str(&format!(" unwritten {}; drops:", self.shared.unwritten()));
        let mut none = true;
        for (name, count) in gateway.drops() {
            none = false;
            line.push_str(&format!(" {name} {count}"));
        }
        if none {
            line.push_str(" none");
        }
        if unsaid > 0 {
            line.push_str(&format!("; {unsaid} lines about servers left out"));
        }
        say(format_args!("{line}"));
    }
}

/// As `1, 2`.
fn listed(list: &[impl ToString]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn open_state(path: &Path) -> Result<EntryKeeper, GatewayError> {
    EntryKeeper::open(path).map_err(|error| GatewayError::State(path.to_owned(), error))
}

fn open_log(destination: &LogDestination) -> Result<GatewayLog, GatewayError> {
    GatewayLog::open(destination).map_err(|error| {
        let path = match destination {
            LogDestination::Stdout => PathBuf::from("-"),
            LogDestination::File(path) => path.clone(),
        };
        GatewayError::Log(path, error)
    })
}

fn listen(address: SocketAddr) -> Result<Published, GatewayError> {
    Published::listen(address).map_err(|error| GatewayError::Metrics(address, error))
}

/// `named`: the public address is told too, as there are several.
fn say_notice(notice: &Notice, named: bool) {
    let Notice { nat64, server, change } = notice;
    let to = if named { format!(" to {nat64}") } else { String::new() };
    match change {
        ServerChange::Known => say(format_args!("server {server} is known{to}")),
        ServerChange::Back => say(format_args!("server {server} is back{to}")),
        ServerChange::Down => {
            warn(format_args!("server {server} is down{to}: making entries ourselves"))
        }
        ServerChange::TunnelTaken => {
            say(format_args!("server {server} takes packets by Geneve{to}"))
        }
        ServerChange::TunnelLost => {
            warn(format_args!("server {server} takes no packets by Geneve any more{to}"))
        }
        ServerChange::Silent => warn(format_args!(
            "server {server} answers nothing{to}: making entries ourselves until it does; it may have \
             no room for another NAT64 (its --max-nat64s and --max-entries)"
        )),
    }
}

/// Forwarding is a decision about all of the host, so the gateway only warns.
fn warn_of_forwarding() {
    for name in FORWARDING {
        let value = fs::read_to_string(format!("/proc/sys/{name}"));
        if value.is_ok_and(|value| value.trim() == "0") {
            let name = name.replace('/', ".");
            warn(format_args!(
                "warning: {name} is 0, so nothing reaches the gateway; set it: sysctl -w {name}=1"
            ));
        }
    }
}

/// Warns if the public address can be bound: then it is one of this host.
fn warn_of_address(address: Ipv4Addr) {
    if UdpSocket::bind((address, 0)).is_ok() {
        warn(format_args!(
            "warning: {address} is an address of this host, so nothing to it reaches the gateway; take it \
             away from its device, or choose another"
        ));
    }
}

/// The key in the file. Where there is no file, it is made, with a new key.
fn authenticator_key(path: &Path) -> Result<AuthenticatorKey, GatewayError> {
    let failed = |cause: String| GatewayError::Secret(path.to_owned(), cause);
    let mut read = fs::read(path);
    if read.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        let key: AuthenticatorKey = randomness()?;
        write_new(&RealDisk, path, |file| write_full(file, &key, 0)).map_err(|error| {
            failed(format!("it cannot be made: {error}; name a file in a directory of yours"))
        })?;
        // Another gateway may have made the file at the same time: what is kept is what counts.
        read = fs::read(path);
    }
    let octets =
        read.map_err(|error| failed(format!("it cannot be read: {error}; name one that can be")))?;
    AuthenticatorKey::try_from(octets).map_err(|octets| {
        let length = octets.len();
        failed(format!("it has {length} octets, not 16; remove it, and another one is made"))
    })
}

fn randomness<const N: usize>() -> Result<[u8; N], GatewayError> {
    entropy::octets().map_err(|error| GatewayError::System("no randomness", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::fs::temporary;

    #[test]
    fn the_secret_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let key = authenticator_key(&path).unwrap();
        assert_ne!(key, AuthenticatorKey::default());
        assert_eq!(authenticator_key(&path).unwrap(), key);
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        // What a gateway that was killed left of a file does not count.
        fs::remove_file(&path).unwrap();
        let rest = temporary(&path);
        fs::write(&rest, [7; 3]).unwrap();
        assert_ne!(authenticator_key(&path).unwrap(), key);
        assert!(!rest.exists());
        fs::write(&path, [7; 15]).unwrap();
        let error = authenticator_key(&path).unwrap_err().to_string();
        assert!(error.contains("15 octets, not 16; remove it"), "{error}");
        let nowhere = directory.path().join("none").join("secret");
        let error = authenticator_key(&nowhere).unwrap_err().to_string();
        assert!(error.contains("cannot be made"), "{error}");
    }
}
