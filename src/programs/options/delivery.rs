//! What is delivered on this host: `--deliver` and its exceptions.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::ip::address::is_routable_client;
use crate::kernel::interface::NAME_MAX;

/// How packets of clients reach the programs of this host (PROTOCOL.md section 11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deliver {
    /// Through the cache of their NAT64, which translates.
    Cache,
    /// From here, as they are: programs see IPv6.
    Native,
    /// From here, as IPv4 from an address of the pool for each client.
    Translate,
    /// As they are where a socket of IPv6 takes packets of the port, else through the cache.
    Auto,
}

impl Deliver {
    /// As it is written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let all = [Self::Cache, Self::Native, Self::Translate, Self::Auto];
        let named = all.into_iter().find(|deliver| deliver.to_string() == text.trim());
        named.ok_or_else(|| {
            format!("{text:?} is not known; choose cache, native, translate or auto")
        })
    }
}

impl fmt::Display for Deliver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cache => "cache",
            Self::Native => "native",
            Self::Translate => "translate",
            Self::Auto => "auto",
        })
    }
}

/// A port to which packets are delivered in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliverPort {
    pub port: u16,
    pub deliver: Deliver,
}

impl fmt::Display for DeliverPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.port, self.deliver)
    }
}

/// Each port once.
pub(super) fn ports(list: &[&str]) -> Result<Vec<DeliverPort>, String> {
    let mut all: Vec<DeliverPort> = Vec::with_capacity(list.len());
    for text in list {
        let (port, deliver) = text.split_once('=').ok_or_else(|| {
            format!("{text:?} names no way; write a port and one, like 80=native")
        })?;
        let port = super::values::whole_number(port, 1..=u16::MAX)?;
        let deliver = Deliver::parse(deliver)?;
        if all.iter().any(|other| other.port == port) {
            return Err(format!("port {port} is named twice; name it once"));
        }
        all.push(DeliverPort { port, deliver });
    }
    Ok(all)
}

/// Addresses that packets of clients can go to, each once.
pub(super) fn services(list: &[&str]) -> Result<Vec<Ipv6Addr>, String> {
    let mut all = Vec::with_capacity(list.len());
    for text in list {
        let service = text.trim().parse::<Ipv6Addr>().ok().filter(|&it| is_routable_client(it));
        let service = service.ok_or_else(|| {
            format!(
                "{text:?} is no IPv6 address that clients can send to; write the service's behind the prefix of a \
                 NAT64, like 64:ff9b::203.0.113.5"
            )
        })?;
        if all.contains(&service) {
            return Err(format!("{service} stands there twice; remove one of them"));
        }
        all.push(service);
    }
    Ok(all)
}

/// `on` or `off`.
pub(super) fn geneve(text: &str) -> Result<bool, String> {
    match text.trim() {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is not known; choose on or off")),
    }
}

pub(super) fn shown_geneve(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// What to do with the device of a server that delivers.
#[derive(Debug, Subcommand)]
pub enum DeliverDeviceCommand {
    /// Make device, addresses, routes and rules, as far as they are not there; as root
    Make(DeliverDeviceOptions),
    /// Remove them; as root
    Remove(DeliverDeviceOptions),
}

/// Whose device it is.
#[derive(Debug, Args)]
pub struct DeliverDeviceOptions {
    /// The file of options that `serve` has
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(super) fn device(text: &str) -> Result<String, String> {
    let name = text.trim();
    let fits = (1..=NAME_MAX).contains(&name.len()) && !matches!(name, "." | "..");
    if !fits || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        return Err(format!(
            "{text:?} cannot be the name of a device; choose one of at most {NAME_MAX} letters, like ho0"
        ));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_one_way() {
        let both = ports(&["80=native", " 22 = cache", "53=auto", "25=translate"]).unwrap();
        assert_eq!(
            both.iter().map(DeliverPort::to_string).collect::<Vec<_>>(),
            ["80=native", "22=cache", "53=auto", "25=translate"]
        );
        for bad in ["80", "0=native", "80=", "80=ipv6", "x=native", "65536=cache"] {
            assert!(ports(&[bad]).is_err(), "{bad}");
        }
        assert!(ports(&["80=native", "80=cache"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn services_are_addresses_that_clients_send_to() {
        let both = services(&["64:ff9b::203.0.113.5", " 2001:db8:64::cb00:7105"]).unwrap();
        assert_eq!(both.len(), 2);
        for bad in ["203.0.113.5", "64:ff9b::/96", "::", "::1", "fe80::1", "ff02::1", "x"] {
            assert!(services(&[bad]).is_err(), "{bad}");
        }
        let twice = services(&["64:ff9b::203.0.113.5", "64:ff9b::cb00:7105"]);
        assert!(twice.unwrap_err().contains("twice"));
    }

    #[test]
    fn devices_have_names() {
        for good in ["ho0", "a-device.15chr"] {
            assert!(device(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a b", "..", "sixteen-octets-1", "a:b"] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}
