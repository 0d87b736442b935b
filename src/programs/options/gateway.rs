//! The options of `gateway`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::Ipv6Net;

use super::UsageError;
use super::values::whole_number;
use crate::handoff::message::{HANDOFF_PORT, Prefix96};
use crate::ip::address::is_single_host;
use crate::kernel::interface::NAME_MAX;
use crate::nat64::engine::WELL_KNOWN_PREFIX;
use crate::nat64::translate::IPV6_MTU_MIN;
use crate::programs::gateway;

const MTUS: RangeInclusive<u64> = IPV6_MTU_MIN as u64..=65_535;
const MTU_DEFAULT: u16 = 1500;
const PORTS: RangeInclusive<u64> = 1..=65_535;
const TUN_DEFAULT: &str = "nat64";
const ROTATIONS: RangeInclusive<Duration> = Duration::from_mins(2)..=Duration::from_hours(24 * 365);
const ROTATION_DEFAULT: Duration = Duration::from_hours(1);
const PREFIXES_MAX: usize = 64;

/// Options of `gateway`, as they were written: nothing is checked.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args)]
pub struct GatewayOptions {
    /// The public IPv4 address; it must be routed to this host, and not be an address of this host
    #[arg(long, value_name = "ADDRESS")]
    pub pool: String,

    /// A prefix of 96 bits that clients reach it by; may be repeated [default: 64:ff9b::/96]
    #[arg(long, value_name = "PREFIX", value_delimiter = ',')]
    pub prefix: Vec<String>,

    /// Name of the TUN device [default: nat64]
    #[arg(long, value_name = "NAME")]
    pub tun: Option<String>,

    /// MTU of the TUN device, 1280 to 65535 octets [default: 1500]
    #[arg(long, value_name = "N")]
    pub mtu: Option<String>,

    /// The UDP port of handoff servers [default: 64064]
    #[arg(long, value_name = "N")]
    pub handoff_port: Option<String>,

    /// How often the key of the tokens is replaced, 2m to 365d [default: 1h]
    #[arg(long, value_name = "DURATION")]
    pub rotate: Option<String>,

    /// File with the key of the authenticators; made if it does not exist. With it, a service that speaks
    /// first after a restart reaches its client at once [default: another key at each start]
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
}

impl GatewayOptions {
    /// What these options come to.
    ///
    /// # Errors
    /// The first that means nothing.
    pub fn resolve(&self) -> Result<gateway::GatewaySetup, UsageError> {
        let error = |key: &str| {
            let place = format!("--{key}");
            move |cause| UsageError { place, cause }
        };
        let number = |key: &str, text: &Option<String>, range, default: u16| match text {
            None => Ok(default),
            Some(text) => whole_number(text, range).map(|n| n as u16).map_err(error(key)),
        };
        let mut prefixes = Vec::new();
        for text in &self.prefix {
            let prefix = prefix(text.trim()).map_err(error("prefix"))?;
            if prefixes.contains(&prefix) {
                let cause = format!("{prefix} stands there twice; remove one of them");
                return Err(error("prefix")(cause));
            }
            prefixes.push(prefix);
        }
        if prefixes.len() > PREFIXES_MAX {
            let cause = format!("there are more than {PREFIXES_MAX} of them; leave some out");
            return Err(error("prefix")(cause));
        }
        if prefixes.is_empty() {
            prefixes.push(WELL_KNOWN_PREFIX);
        }
        Ok(gateway::GatewaySetup {
            pool: pool(self.pool.trim()).map_err(error("pool"))?,
            prefixes,
            tun: device(self.tun.as_deref().unwrap_or(TUN_DEFAULT)).map_err(error("tun"))?,
            mtu: number("mtu", &self.mtu, MTUS, MTU_DEFAULT)?,
            handoff_port: number("handoff-port", &self.handoff_port, PORTS, HANDOFF_PORT)?,
            rotate: self
                .rotate
                .as_deref()
                .map_or(Ok(ROTATION_DEFAULT), rotation)
                .map_err(error("rotate"))?,
            secret: self.secret.clone(),
        })
    }
}

fn pool(text: &str) -> Result<Ipv4Addr, String> {
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
