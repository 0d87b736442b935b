//! What delivery needs of this host: whether it is there, and how it is made (DELIVERY.md).
//!
//! Said at the start of a server that delivers, and printed as commands by `check-config --host`.

mod firewall;
mod networkd;
mod remove;
mod step;
mod steps;

use std::fmt::{self, Write};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::geteuid;

use crate::ip::address::{Prefix96, synthesize};
use crate::kernel::interface;
use crate::kernel::network::{HostAddress, HostDevice, HostNetwork};
use crate::kernel::tun_queue::DEVICE;
use crate::programs::accounts;
use crate::programs::options::ServeConfig;

pub use firewall::firewall_lines;
pub use remove::removal;
use step::HostStep;
pub use step::StepCommand;
use steps::{Account, HostFound, HostWanted, TunFile, overlaps, shown, steps};

/// Who runs the server where nothing else says so.
const USER: &str = "nat64ho";
/// The prefix that NAT64s have where nobody chose another: the well-known one.
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
/// Written where the service's address is not known.
const UNKNOWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Any client.
const CLIENT: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);
/// Any NAT64: nothing is sent there.
const NAT64: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Where nothing says how long packets may be.
const PATH_MTU: u32 = 1500;

/// For whom a host is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostUser {
    /// The user of this process.
    This,
    /// Whoever runs the server.
    Server,
}

/// What was found.
#[derive(Debug)]
pub struct HostReport {
    steps: Vec<HostStep>,
    /// Where the device is made anew if that would be better.
    anew: Vec<HostStep>,
    /// What the steps are for.
    about: Vec<String>,
    /// What else this host does with such addresses.
    notes: Vec<String>,
    wanted: HostWanted,
    /// Why the address of the service is not known for sure, and what to do.
    doubt: Option<String>,
}

impl HostReport {
    /// Asks the kernel. The routes of this host are many, maybe: with `all` they are looked through
    /// even where nothing is missing.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub fn of(config: &ServeConfig, user: HostUser, all: bool) -> io::Result<Self> {
        let mut network = HostNetwork::open()?;
        let device = network.device(&config.deliver_device)?;
        let addresses = network.addresses()?;
        let mut about = Vec::new();
        let index = device.as_ref().map(|device| device.index);
        let native = config.delivers_native() || !config.translates();
        let pool = config.pool().filter(|pool| pool.translates).map(|pool| pool.network);
        let hosts = Hosts::of(config, &mut network)?;
        let its = addresses.iter().filter(|address| Some(address.device) == index);
        let its: Vec<_> = its.map(|it| it.address).filter(can_be_service).collect();
        let (services, doubt) = match native {
            true => services(config, its, &hosts, &mut about),
            false => {
                about.push(format!("The service: {hosts}."));
                (Vec::new(), hosts.unknown())
            }
        };
        let mut wanted = HostWanted {
            device: config.deliver_device.clone(),
            queues: config.reactors,
            user: account(config, user),
            native,
            services,
            pool,
            host: hosts.list.first().copied().filter(|_| hosts.list.len() == 1),
            path_mtu: PATH_MTU,
        };
        find_path_mtu(config, &mut network, &mut wanted, &mut about)?;
        let found = found(&mut network, &wanted, device, addresses, all)?;
        let mut name = |index: u32| -> String {
            let device = network.device_of(index).ok().flatten();
            device.map_or_else(|| format!("device {index}"), |device| device.name)
        };
        let notes = overlaps(&wanted, &found, &mut name);
        let [steps, anew] = [false, true].map(|anew| steps(&wanted, &found, anew, &mut name));
        Ok(Self { steps, anew, about, notes, wanted, doubt })
    }

    /// The commands that make what is not there, each as its words.
    ///
    /// # Errors
    /// What somebody has to decide before, a line each.
    pub fn plan(&self) -> Result<Vec<&[String]>, Vec<String>> {
        if let Some(doubt) = &self.doubt {
            return Err(vec![doubt.clone()]);
        }
        // A device that somebody uses is not made anew.
        let whole = self.anew.iter().all(|step| !step.is_to_do() || step.can_run());
        let steps = if whole { &self.anew } else { &self.steps };
        let to_do = || steps.iter().filter(|step| step.is_to_do());
        let undecided = to_do().filter(|step| step.is_missing() && !step.can_run());
        let undecided: Vec<_> = undecided.filter_map(HostStep::line).collect();
        if !undecided.is_empty() {
            return Err(undecided);
        }
        let commands = to_do().filter(|step| step.can_run()).flat_map(|step| &step.commands);
        Ok(commands.filter_map(StepCommand::words).collect())
    }

    /// The device, and the addresses that lead there, for people.
    pub fn summary(&self) -> String {
        let services = self.wanted.services.iter().map(|&it| shown(it));
        let all: Vec<_> = services.chain(self.wanted.pool.map(|pool| pool.to_string())).collect();
        format!("{}, for {}", self.wanted.device, all.join(", "))
    }

    /// What nothing is delivered without, a line each.
    pub fn missing(&self) -> Vec<String> {
        let missing = self.steps.iter().filter(|step| step.is_missing());
        missing.filter_map(HostStep::line).collect()
    }

    /// What more of it would work with.
    pub fn better(&self) -> Vec<String> {
        let better = self.steps.iter().filter(|step| !step.is_missing());
        better.filter_map(HostStep::line).collect()
    }

    /// All steps, as commands for a shell of root: those that are done are comments.
    pub fn recipe(&self) -> String {
        let mut out = String::from("# What --deliver needs of this host, as root:\n");
        for line in &self.about {
            let _ = writeln!(out, "# {line}");
        }
        for step in &self.anew {
            let _ = writeln!(out, "\n# {}: {}", step.what, step.state);
            for command in &step.commands {
                let _ = writeln!(out, "{}{command}", if step.is_to_do() { "" } else { "#   " });
            }
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(out, "# note: {note}");
        }
        out.push_str(
            "\n# The device is gone with the next boot: have these commands run then, before the server starts. What its\n\
             # unit needs, and ports that containers publish: see DELIVERY.md. nat64handoff deliver-device make does the\n\
             # same.\n",
        );
        out
    }
}

/// Whether clients can send to this address of the device.
pub(super) fn can_be_service(address: &Ipv6Addr) -> bool {
    !address.is_unicast_link_local() && !address.is_multicast() && !address.is_loopback()
}

fn found(
    network: &mut HostNetwork,
    wanted: &HostWanted,
    device: Option<HostDevice>,
    addresses: Vec<HostAddress>,
    all: bool,
) -> io::Result<HostFound> {
    let client = IpAddr::V6(CLIENT);
    let mut answers = Vec::new();
    for &service in &wanted.services {
        answers.push(network.way(Some(service.into()), client)?);
    }
    let index = device.as_ref().map(|device| device.index);
    let work = answers.iter().all(|way| way.is_some_and(|way| Some(way.device) == index));
    let own = match network.way(None, client)? {
        None => None,
        Some(way) => network.device_of(way.device)?.map(|device| (way, device.name)),
    };
    // A host whose packets leave by the device has no other default route.
    let by_own = own.as_ref().is_some_and(|(way, _)| Some(way.device) == index);
    let routes = if all || !work || by_own { network.routes()? } else { Vec::new() };
    let (mut to_pool, mut ipv4_routes) = (None, Vec::new());
    if let Some(pool) = wanted.pool {
        to_pool = network.way(None, pool.hosts().next().unwrap_or(pool.network()).into())?;
        ipv4_routes = network.ipv4_routes()?;
    }
    Ok(HostFound {
        file: tun_file(&wanted.user),
        device,
        has_ipv6: interface::has_ipv6(),
        is_ipv6_off: fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6")
            .is_ok_and(|text| text.trim() == "1"),
        addresses,
        rules: network.rules()?,
        routes,
        answers,
        own,
        to_pool,
        ipv4_routes,
    })
}

/// The addresses that NAT64s send to: those of --listen, or the one that packets to elsewhere leave
/// with.
struct Hosts {
    list: Vec<Ipv4Addr>,
    from: &'static str,
    are_known: bool,
}

impl Hosts {
    fn of(config: &ServeConfig, network: &mut HostNetwork) -> io::Result<Self> {
        let listen = config.listen.iter().map(|address| *address.ip());
        let mut list: Vec<_> = listen.filter(|host| !host.is_unspecified()).collect();
        list.dedup();
        if !list.is_empty() {
            return Ok(Self { list, from: "which --listen names", are_known: true });
        }
        let way = network.way(None, NAT64.into())?;
        Ok(match way.and_then(|way| way.source) {
            Some(IpAddr::V4(host)) => {
                let from = "with which this host sends to elsewhere";
                Self { list: vec![host], from, are_known: true }
            }
            _ => {
                let from =
                    "in whose place write the public one of the service: it is not known here";
                Self { list: vec![UNKNOWN], from, are_known: false }
            }
        })
    }

    /// What to say where nothing can be made for them.
    fn unknown(&self) -> Option<String> {
        let what = "the address of this host is not known here: name it by --listen";
        (!self.are_known).then(|| what.to_owned())
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<_> = self.list.iter().map(Ipv4Addr::to_string).collect();
        write!(f, "{}, {}", list.join(", "), self.from)
    }
}

/// The addresses that clients will send to: those that are configured, or that the device has, or
/// the host's behind the prefix that most NAT64s have. And why these may be wrong, and what to do.
fn services(
    config: &ServeConfig,
    its: Vec<Ipv6Addr>,
    hosts: &Hosts,
    about: &mut Vec<String>,
) -> (Vec<Ipv6Addr>, Option<String>) {
    let named = &config.deliver_services;
    let (known, from) = match named.is_empty() {
        false => (named.clone(), "which --deliver-service names"),
        true => (its, "which the device has"),
    };
    if !known.is_empty() {
        let list: Vec<_> = known.iter().map(|&service| shown(service)).collect();
        about.push(format!("The service: {}, {from}.", list.join(", ")));
        return (known, None);
    }
    about.push(format!("The service: {hosts};"));
    let private = hosts.list.iter().find(|host| host.is_private());
    if private.is_some() {
        about.push("where that is behind a 1:1 NAT, write the public address in its place;".into());
    }
    about.push("behind 64:ff9b::/96: where your NAT64 has another prefix, write that.".into());
    let why = match (hosts.are_known, private) {
        (false, _) => Some("the public address of this host is not known here".to_owned()),
        (_, private) => {
            private.map(|it| format!("clients cannot send to {it}, this host's address"))
        }
    };
    let cure = format!("name the service's by --deliver-service, like 64:ff9b::{UNKNOWN}");
    let guessed = hosts.list.iter().map(|&host| synthesize(Prefix96::of(PREFIX), host));
    (guessed.collect(), why.map(|why| format!("{why}: {cure}")))
}

/// The longest packet that leaves for a NAT64 in one piece.
fn find_path_mtu(
    config: &ServeConfig,
    network: &mut HostNetwork,
    wanted: &mut HostWanted,
    about: &mut Vec<String>,
) -> io::Result<()> {
    let nat64 = config.allow.first().map_or(NAT64, |network| network.addr());
    let Some(way) = network.way(None, nat64.into())? else {
        about.push(format!("The path to the NAT64s is taken for one of {PATH_MTU} octets."));
        return Ok(());
    };
    let device = network.device_of(way.device)?;
    let (name, mtu) = device.map_or(("?".to_owned(), PATH_MTU), |it| (it.name, it.mtu));
    wanted.path_mtu = way.mtu.unwrap_or(mtu);
    about.push(format!(
        "The path to the NAT64s carries {} octets, by {name}: {} remain for a packet.",
        wanted.path_mtu,
        wanted.mtu()
    ));
    Ok(())
}

/// Who opens the device.
fn account(config: &ServeConfig, user: HostUser) -> Account {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |number: u32| {
        let name = accounts::name_of(&users, number);
        Account { number, name: name.unwrap_or_else(|| number.to_string()) }
    };
    let this = geteuid();
    if user == HostUser::This || !this.is_root() {
        return of(this.as_raw());
    }
    let owner = fs::metadata(&config.state).map(|state| state.uid()).unwrap_or(0);
    match (owner, accounts::number_of(&users, USER)) {
        (0, Some(number)) => of(number),
        (owner, _) => of(owner),
    }
}

/// Whether the user can open TUN devices.
fn tun_file(user: &Account) -> TunFile {
    let hidden = || Path::new("/sys/class/misc/tun").exists();
    let of_error = |error: &io::Error| match error.kind() {
        ErrorKind::NotFound if hidden() => TunFile::Hidden,
        ErrorKind::NotFound => TunFile::Missing,
        _ => TunFile::Refused(error.to_string()),
    };
    if user.number == geteuid().as_raw() {
        let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
        return opened.map_or_else(|error| of_error(&error), |_| TunFile::Good);
    }
    match fs::metadata(DEVICE) {
        Err(error) => of_error(&error),
        Ok(file) => {
            let shift = if file.uid() == user.number { 6 } else { 0 };
            match file.mode() >> shift & 0o6 {
                0o6 => TunFile::Good,
                _ => TunFile::Refused(format!("its mode is {:o}", file.mode() & 0o777)),
            }
        }
    }
}
