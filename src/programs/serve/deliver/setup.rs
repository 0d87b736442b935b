//! [`DeliverySetup`]: what is opened at the start, while the process may still open it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::vec;

use super::again::DeviceAgain;
use super::follow::PortsFollower;
use super::host::can_be_service;
use super::translate::Translator;
use super::{Deliverer, HostReport, HostUser, RoutesKeeping};
use crate::disk::fs::RealDisk;
use crate::disk::routes;
use crate::handoff::delivery::{DeliveredPorts, DeliveryRoutes, GeneveGateways, HostDelivery};
use crate::handoff::pool::AddressPool;
use crate::handoff::random::SEED_LENGTH;
use crate::handoff::server::Server;
use crate::handoff::stats::Stats;
use crate::kernel::network::HostNetwork;
use crate::kernel::stderr::warn;
use crate::kernel::tun_queue::{AttachError, DEVICE, TunQueue};
use crate::kernel::{entropy, interface};
use crate::programs::options::{Deliver, ServeConfig};

/// There is room for one client's routes where there is for so many entries.
const ENTRIES_FOR_CLIENT: usize = 4;

/// Why nothing can be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The device cannot be used.
    #[error("--deliver: the device {0}: {1}; nat64handoff check-config --host says how to make it")]
    Device(String, AttachError),
    /// The device has no address that a client could send to.
    #[error(
        "--deliver: the device {0} has no IPv6 address; give it the service's behind the prefix of \
         your NAT64: nat64handoff check-config --host says how"
    )]
    NoAddress(String),
    /// This host lacks what nothing is delivered without.
    #[error("{}", lines(.0))]
    Host(Vec<String>),
    #[error("--deliver: {0}")]
    System(io::Error),
}

/// The queues of the device, one for each reactor, and what is delivered.
pub struct DeliverySetup {
    device: String,
    delivery: Arc<HostDelivery>,
    queues: Vec<TunQueue>,
    /// What finds out to which ports, where that is not fixed.
    follower: Option<PortsFollower>,
    /// Where routes are kept.
    state: PathBuf,
    /// The longest packet that the device carries.
    mtu: u16,
    /// For what is to be unpredictable in packets that are translated, of each reactor.
    seeds: Vec<[u8; SEED_LENGTH]>,
}

impl DeliverySetup {
    /// `None` where nothing is to be delivered.
    ///
    /// # Errors
    /// See [`DeliveryError`].
    pub fn of(config: &ServeConfig) -> Result<Option<Self>, DeliveryError> {
        if !delivers(config) {
            return Ok(None);
        }
        look_at_host(config)?;
        let follower = PortsFollower::of(config);
        let device = &config.deliver_device;
        let queues = TunQueue::attach(device, config.reactors)
            .map_err(|error| DeliveryError::Device(device.clone(), error))?;
        let services = interface::ipv6_addresses(device).map_err(DeliveryError::System)?;
        let services: Vec<_> = services.into_iter().filter(can_be_service).collect();
        if services.is_empty() && config.delivers_native() {
            return Err(DeliveryError::NoAddress(device.clone()));
        }
        let delivered = DeliveredPorts::new(config.deliver != Deliver::Cache, |_, port| {
            matches!(config.deliver_to(port), Deliver::Native | Deliver::Translate)
        });
        let translates_others = config.deliver == Deliver::Translate;
        let delivered = delivered
            .translating(translates_others, |port| config.deliver_to(port) == Deliver::Translate);
        let delivered = if follower.is_some() { delivered.following() } else { delivered };
        let clients = config.entries_max / ENTRIES_FOR_CLIENT;
        let kept = routes::read(&RealDisk, &config.state, clients).unwrap_or_else(|why| {
            warn(format_args!("{why}"));
            None
        });
        let routes = match kept {
            Some(kept) => kept,
            None => DeliveryRoutes::new(entropy::octets().map_err(DeliveryError::System)?, clients),
        };
        let geneve = config.geneve.then(|| gateways_of(config)).transpose()?;
        let delivery = HostDelivery::new(delivered, services, routes).with_geneve(geneve);
        let delivery = Arc::new(delivery);
        let mtu = HostNetwork::open().and_then(|mut network| network.device(device));
        let mtu = mtu.map_err(DeliveryError::System)?.map_or(0, |device| device.mtu);
        let seed = |_| entropy::octets().map_err(DeliveryError::System);
        Ok(Some(Self {
            device: device.clone(),
            delivery,
            queues,
            follower,
            state: config.state.clone(),
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            seeds: (0..config.reactors).map(seed).collect::<Result<_, _>>()?,
        }))
    }

    /// What has to be writable for this process to open the device again when it is succeeded.
    pub fn device_file(&self) -> &'static Path {
        Path::new(DEVICE)
    }

    /// From now on these servers deliver, if they are to. Returns each reactor's end of the device,
    /// and what keeps the routes: without it, they are lost with the process.
    pub fn begin(
        setup: Option<Self>,
        servers: &mut [Server],
        stats: &[Arc<Stats>],
        pool: Option<&Arc<AddressPool>>,
    ) -> (vec::IntoIter<Deliverer>, Option<RoutesKeeping>) {
        let Some(Self { device, delivery, queues, follower, state, mtu, seeds }) = setup else {
            return (Vec::new().into_iter(), None);
        };
        if let Some(Err(why)) = follower.map(|follower| follower.start(&delivery)) {
            warn(format_args!(
                "--deliver auto: nothing more is looked up, as there is no thread: {why}"
            ));
        }
        servers.iter_mut().for_each(|server| server.deliver(Arc::clone(&delivery)));
        let pool = pool.filter(|pool| pool.settings().translates);
        let again = Arc::new(DeviceAgain::new(device, Arc::clone(&delivery)));
        if let Err(why) = again.start() {
            warn(format_args!(
                "--deliver: a device that goes away is not looked for, as there is no thread: {why}"
            ));
        }
        let deliverer = |((queue, seed), stats): ((TunQueue, _), &Arc<Stats>)| {
            let translator = pool.map(|pool| Translator::new(Arc::clone(pool), mtu, seed));
            let (delivery, stats) = (Arc::clone(&delivery), Arc::clone(stats));
            Deliverer::new(queue, delivery, translator, stats, Arc::clone(&again))
        };
        let deliverers: Vec<_> = queues.into_iter().zip(seeds).zip(stats).map(deliverer).collect();
        let keeping = RoutesKeeping::start(delivery, state).inspect_err(|why| {
            warn(format_args!("routes to clients are not kept: there is no thread for it: {why}"));
        });
        (deliverers.into_iter(), keeping.ok())
    }
}

/// The gateways that were known before, or the key for the first of them, which is kept at once.
fn gateways_of(config: &ServeConfig) -> Result<GeneveGateways, DeliveryError> {
    let kept = routes::read_gateways(&RealDisk, &config.state).unwrap_or_else(|why| {
        warn(format_args!("{why}"));
        None
    });
    if let Some(kept) = kept {
        return Ok(kept);
    }
    let gateways = GeneveGateways::new(entropy::octets().map_err(DeliveryError::System)?);
    if let Err(why) = routes::write_gateways(&RealDisk, &config.state, &gateways) {
        warn(format_args!(
            "--geneve: what gateways know this server by cannot be kept ({why}): after a restart, they have \
             to offer their tunnels anew"
        ));
    }
    Ok(gateways)
}

/// Whether anything is to be delivered.
pub fn delivers(config: &ServeConfig) -> bool {
    config.deliver_ways().any(|deliver| deliver != Deliver::Cache)
}

/// What this host lacks for what is to be delivered, as far as it can be asked: a line each.
pub fn host_troubles(config: &ServeConfig) -> Vec<String> {
    if !delivers(config) {
        return Vec::new();
    }
    let report = HostReport::of(config, HostUser::Server, false);
    let missing = report.map(|report| report.missing()).unwrap_or_default();
    missing.iter().map(|line| format!("--deliver: {line}")).collect()
}

/// Names all that this host lacks, each with the command that mends it.
fn look_at_host(config: &ServeConfig) -> Result<(), DeliveryError> {
    let report = match HostReport::of(config, HostUser::This, false) {
        Ok(report) => report,
        Err(error) => {
            warn(format_args!("--deliver: it is not known what this host lacks: {error}"));
            return Ok(());
        }
    };
    report.better().iter().for_each(|line| warn(format_args!("--deliver: {line}")));
    match report.missing() {
        missing if missing.is_empty() => Ok(()),
        missing => Err(DeliveryError::Host(missing)),
    }
}

fn lines(missing: &[String]) -> String {
    let lines: Vec<_> = missing.iter().map(|line| format!("--deliver: {line}")).collect();
    lines.join("\n")
}
