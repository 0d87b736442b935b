//! The options of `gateway`: one row an option, of the command line alone.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv6Net;

use super::about::About;
use super::config::{Configuration, Options, options};
use super::delivery;
use super::environment::Environment;
use super::layers::{Layers, Origin, Row, UsageError, UsageErrors};
use super::table::LogDestination;
use super::values::{self, not_empty, web, whole_number};
use crate::ip::address::Prefix96;
use crate::ip::address::is_single_host;
use crate::kernel::interface::NAME_MAX;
use crate::nat64::gateway::ADDRESSES_MAX;
use crate::nat64::translate::IPV6_MTU_MIN;

const ROTATIONS: RangeInclusive<Duration> = Duration::from_mins(2)..=Duration::from_hours(24 * 365);
const PREFIXES_MAX: usize = 64;
const QUEUES: RangeInclusive<usize> = 1..=64;

options! {
    /// How a gateway is to run: complete and valid.
    #[derive(Debug, Clone, PartialEq)]
    struct GatewaySetup;
    mod rows;

    pub pool: Vec<Ipv4Addr> =
        "A public IPv4 address; it must be routed to this host, and not be an address of this host; may \
         be repeated: each client keeps one of them",
        Row::list("pool", "ADDRESS", |list, _| distinct(list, ADDRESSES_MAX, pool_address)).required();

    pub prefixes: Vec<Prefix96> =
        "A prefix of 96 bits that clients reach it by; may be repeated",
        Row::list("prefix", "PREFIX", |list, _| distinct(list, PREFIXES_MAX, prefix)).default("64:ff9b::/96");

    pub tun: String =
        "Name of the TUN device",
        Row::word("tun", "NAME", device).default("nat64");

    pub mtu: u16 =
        "MTU of the TUN device, 1280 to 65535 octets",
        Row::number("mtu", "N", |text| whole_number(text, IPV6_MTU_MIN..=u16::MAX)).default("1500");

    pub lowest_ipv6_mtu: u16 =
        "The lowest MTU of any link in the IPv6 network, 1280 octets up to --mtu: IPv4 packets that may \
         be fragmented are, so that they are no longer as IPv6",
        Row::number("lowest-ipv6-mtu", "N", |text| whole_number(text, IPV6_MTU_MIN..=u16::MAX))
            .default("1280");

    pub zero_traffic_class: bool =
        "Traffic class and type of service become 0, and not one the other",
        Row::switch("zero-traffic-class", || true).without(|_| Ok((false, Origin::Default)));

    pub drop_unsummed_udp: bool =
        "UDP datagrams that come without a checksum, as they may in IPv4, are dropped; else they get one",
        Row::switch("drop-unsummed-udp", || true).without(|_| Ok((false, Origin::Default)));

    pub queues: usize =
        "Queues of the TUN device, 1 to 64, each with a thread: the kernel deals flows out to them",
        Row::number("queues", "N", |text| whole_number(text, QUEUES)).default("1");

    pub handoff_port: u16 =
        "The UDP port of handoff servers",
        Row::number("handoff-port", "N", |text| whole_number(text, 1..=u16::MAX)).default("64064");

    pub client_share: f64 =
        "Share that one client network (/64) may have of the ports towards each server, and of all \
         entries, where the gateway makes them without a server, 1/1024 to 1",
        Row::number("client-share", "F", values::client_share).default("0.125");

    pub rotate: Duration =
        "How often the key of the tokens is replaced, 2m to 365d",
        Row::word("rotate", "DURATION", rotation).default("1h");

    pub secret: Option<PathBuf> =
        "File with the key of the authenticators; made if it does not exist. With it, a service that \
         speaks first after a restart reaches its client at once",
        Row::path("secret", "FILE", |path| Ok(Some(path.to_owned())))
            .default_with("another key at each start", |_| Ok((None, Origin::Default)));

    pub geneve: bool =
        "Offer servers a Geneve tunnel by which they get clients' packets as they are; wants --secret",
        Row::word("geneve", "on|off", delivery::geneve).default("off");

    pub state: Option<PathBuf> =
        "File with the entries that the gateway made without a server; made if it does not exist. With \
         it, connections to hosts without a server go on after a restart",
        Row::path("state", "FILE", |path| not_empty(path).map(|path| Some(path.to_owned())))
            .default_with("none", |_| Ok((None, Origin::Default)));

    pub log: Option<LogDestination> =
        "File to append a line to for each entry that is made or gone, in the form of the server's \
         log, - for standard output",
        Row::path("log", "FILE|-", |path| not_empty(path).map(|path| Some(LogDestination::of(path))))
            .default_with("none", |_| Ok((None, Origin::Default)));

    pub metrics: Option<SocketAddr> =
        "Address and port at which its counters can be read over HTTP, or off",
        Row::word("metrics", "ADDR:PORT|off", web).default("off");
}

/// The options of `gateway`.
pub type GatewayOptions = Options<GatewaySetup>;

impl GatewayOptions {
    /// What these options come to.
    ///
    /// # Errors
    /// All that mean nothing.
    pub fn resolve(self) -> Result<GatewaySetup, UsageErrors> {
        let setup = GatewaySetup::take(&mut Layers::new(self.written, &Environment::default()))?;
        if setup.lowest_ipv6_mtu > setup.mtu {
            let cause = format!("{} is longer than --mtu; raise that", setup.lowest_ipv6_mtu);
            let place = "--lowest-ipv6-mtu".into();
            return Err(UsageErrors(vec![UsageError { place, cause }]));
        }
        if setup.geneve && setup.secret.is_none() {
            let cause = "the numbers of tunnels must not change with a start: name a file for a key by --secret";
            let place = "--geneve".into();
            return Err(UsageErrors(vec![UsageError { place, cause: cause.into() }]));
        }
        Ok(setup)
    }
}

/// All of a list, none of which may stand there twice, and no more than `most`.
fn distinct<T: PartialEq + Display>(
    list: &[&str],
    most: usize,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut all = Vec::new();
    for text in list {
        let one = read(text.trim())?;
        if all.contains(&one) {
            return Err(format!("{one} stands there twice; remove one of them"));
        }
        all.push(one);
    }
    if all.len() > most {
        return Err(format!("there are more than {most} of them; leave some out"));
    }
    Ok(all)
}

fn pool_address(text: &str) -> Result<Ipv4Addr, String> {
    match text.parse::<Ipv4Addr>() {
        Ok(address) if !is_single_host(address) => {
            Err(format!("{text:?} is not the address of one host; give one that is routed here"))
        }
        Ok(address) => Ok(address),
        Err(_) => Err(format!("{text:?} is no IPv4 address; write it like 192.0.2.7")),
    }
}

fn prefix(text: &str) -> Result<Prefix96, String> {
    let advice = "write it like 64:ff9b::/96";
    let network: Ipv6Net = match (text.parse(), text.parse::<Ipv6Addr>()) {
        (Ok(network), _) => network,
        (_, Ok(address)) => Ipv6Net::from(address),
        _ => return Err(format!("{text:?} is no IPv6 prefix; {advice}")),
    };
    if network.prefix_len() != 96 {
        let length = network.prefix_len();
        return Err(format!("{text:?} has {length} bits, and handoff knows 96 alone; {advice}"));
    }
    if network != network.trunc() {
        return Err(format!("{text:?} has bits set beyond 96; did you mean {}?", network.trunc()));
    }
    let first = network.addr().octets()[0];
    if first == 0xff || network.addr().is_unicast_link_local() {
        return Err(format!("{text:?} cannot be routed; {advice}"));
    }
    // RFC 6052 section 2.2: bits 64 to 71.
    if network.addr().octets()[8] != 0 {
        return Err(format!("{text:?} has other bits than 0 at 64 to 71; choose one without"));
    }
    Ok(Prefix96::of(network.addr()))
}

fn device(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    let good = (1..=NAME_MAX).contains(&text.len())
        && text.chars().all(allowed)
        && !text.starts_with(['.', '-']);
    good.then(|| text.to_owned()).ok_or_else(|| {
        format!("{text:?} is no name of a device; use up to {NAME_MAX} letters and digits")
    })
}

fn rotation(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if ROTATIONS.contains(&time) => Ok(time),
        Ok(_) => Err(format!("{text:?} is too short or too long; choose 2m to 365d")),
        Err(cause) => {
            Err(format!("{text:?} is no duration ({cause}); write a number and a unit, like 1h"))
        }
    }
}
