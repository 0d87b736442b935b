//! Whether a firewall of this host seems to keep out what clients send by the device: each port
//! that it lets others in to, or that is delivered to in its own way, and what lets it in from
//! there. Nothing is changed.

mod rules;

use std::io::ErrorKind;
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use crate::ip::transport::Transport;
use crate::programs::options::{Deliver, ServeConfig};

use rules::{Chain, Fate, Incoming, Ruleset};

/// What firewalld's table is called, and its chain that tells devices apart.
const FIREWALLD: &str = "firewalld";
const FIREWALLD_ZONES: &str = "filter_INPUT_ZONES";
const FIREWALLD_ZONE: &str = "filter_IN_";
/// The zone of firewalld where nothing else is known.
const ZONE: &str = "public";

/// A port of no service: where it is kept out, and others have it in, all are.
const NO_SERVICE: u16 = 1;

/// Lines for who looks at this host, for delivery as `config` has it.
pub fn firewall_lines(config: &ServeConfig) -> Vec<String> {
    match ruleset() {
        Ok(text) => {
            let lines = advice(&text, config);
            let device = &config.deliver_device;
            let good = || vec![format!("nothing here seems to keep out what comes by {device}")];
            if lines.is_empty() { good() } else { lines }
        }
        Err(why) => vec![format!("not looked at, as {why}")],
    }
}

/// All rules, as nft prints them: those of iptables and firewalld, too.
fn ruleset() -> Result<String, String> {
    if !geteuid().is_root() {
        return Err("only root may read its rules".into());
    }
    let mut command = Command::new("nft");
    let output = command.args(["list", "ruleset"]).stdin(Stdio::null()).output();
    let output = output.map_err(|error| match error.kind() {
        ErrorKind::NotFound => "there is no program nft (nftables)".to_owned(),
        _ => format!("nft cannot be run: {error}"),
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    let why = || said.lines().next().unwrap_or("it does not say why").to_owned();
    output.status.success().then_some(()).ok_or_else(|| format!("nft: {}", why()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What seems to be kept out, a line for each chain and transport.
fn advice(text: &str, config: &ServeConfig) -> Vec<String> {
    let ruleset = Ruleset::parse(text);
    let look = FirewallLook { config, others: others(&ruleset, config), ruleset: &ruleset };
    let ports = look.ports();
    let mut lines = Vec::new();
    for chain in ruleset.entries() {
        if look.keeps_out(chain, Transport::Tcp, NO_SERVICE) {
            lines.push(look.line(chain, Transport::Tcp, &[]));
            continue;
        }
        for transport in [Transport::Tcp, Transport::Udp] {
            let of_it = ports.iter().filter(|(other, _)| *other == transport);
            let mut kept: Vec<_> = of_it
                .map(|(_, port)| *port)
                .filter(|&port| look.keeps_out(chain, transport, port))
                .collect();
            kept.dedup();
            if !kept.is_empty() {
                lines.push(look.line(chain, transport, &kept));
            }
        }
    }
    lines.dedup();
    lines
}

/// Devices that rules name, and one that none does.
fn others<'a>(ruleset: &'a Ruleset, config: &ServeConfig) -> Vec<&'a str> {
    let mut others = ruleset.devices();
    others.retain(|device| *device != config.deliver_device);
    others.push("");
    others
}

struct FirewallLook<'a> {
    config: &'a ServeConfig,
    ruleset: &'a Ruleset,
    others: Vec<&'a str>,
}

impl FirewallLook<'_> {
    /// The ports that clients may want to send to, in their order.
    fn ports(&self) -> Vec<(Transport, u16)> {
        let config = self.config;
        let named = config.deliver_ports.iter().map(|named| named.port);
        let named = named.flat_map(|port| [(Transport::Tcp, port), (Transport::Udp, port)]);
        // What NAT64s send themselves does not come by the device.
        let own: Vec<_> = config.sockets().iter().map(|socket| socket.port()).collect();
        let is_own = |(transport, port): &(Transport, u16)| {
            *transport == Transport::Udp && own.contains(port)
        };
        let mut ports: Vec<_> =
            self.ruleset.ports().into_iter().filter(|port| !is_own(port)).chain(named).collect();
        ports.sort_unstable_by_key(|&(transport, port)| (transport == Transport::Udp, port));
        ports.dedup();
        ports
    }

    /// Whether packets to this port are kept out by this chain, which has others in.
    fn keeps_out(&self, chain: &Chain, transport: Transport, port: u16) -> bool {
        let Some(ipv6) = self.is_ipv6(port) else { return false };
        let fate = |device| self.ruleset.fate(chain, Incoming { device, ipv6, transport, port });
        // A port of UDP that nobody opened is none that is served, though one of TCP is.
        let is_named = transport == Transport::Tcp
            && self.config.deliver_ports.iter().any(|named| named.port == port);
        fate(&self.config.deliver_device) == Fate::Out
            && (is_named || self.others.iter().any(|device| fate(device) == Fate::In))
    }

    /// Whether packets to this port come as IPv6. `None`: they do not come by the device.
    fn is_ipv6(&self, port: u16) -> Option<bool> {
        let config = self.config;
        match config.deliver_to(port) {
            Deliver::Native | Deliver::Auto => Some(true),
            Deliver::Translate => Some(false),
            // Nothing is delivered yet.
            Deliver::Cache if !config.delivers_native() && !config.translates() => Some(true),
            Deliver::Cache => None,
        }
    }

    /// What is said where what is for these ports is kept out; none: all.
    fn line(&self, chain: &Chain, transport: Transport, ports: &[u16]) -> String {
        let Chain { family, table, name, .. } = chain;
        let device = &self.config.deliver_device;
        let word = word_of(transport);
        let list: Vec<_> = ports.iter().map(u16::to_string).collect();
        let is_ufw = name == "INPUT" && self.ruleset.has_chain("ufw");
        let lets_in = if table == FIREWALLD {
            self.by_zone(chain, transport, ports)
        } else if is_ufw {
            let all = format!("ufw allow in on {device}");
            let each = |port| format!("{all} to any port {port} proto {word}");
            let each: Vec<_> = list.iter().map(each).collect();
            if each.is_empty() { all } else { each.join(" && ") }
        } else {
            let to = match &list[..] {
                [] => String::new(),
                [port] => format!(" {word} dport {port}"),
                _ => format!(" {word} dport {{ {} }}", list.join(", ")),
            };
            format!("nft insert rule {family} {table} {name} iifname {device}{to} accept")
        };
        let to = match &list[..] {
            [] => String::new(),
            _ => format!(" to {} {}", word.to_uppercase(), list.join(", ")),
        };
        let what = format!("what clients send by {device}{to}");
        // For ufw there is one rule for both families.
        let where_ = if is_ufw { "ufw".to_owned() } else { format!("{family} {table} {name}") };
        format!("{where_} keeps out {what}; this lets it in:  {lets_in}")
    }

    /// The commands of firewalld.
    fn by_zone(&self, chain: &Chain, transport: Transport, ports: &[u16]) -> String {
        let device = &self.config.deliver_device;
        let has_in = |other: &&&str| {
            let any = [NO_SERVICE];
            let mut ports = if ports.is_empty() { any.iter() } else { ports.iter() };
            ports.all(|&port| {
                let ipv6 = self.is_ipv6(port).unwrap_or(true);
                let packet = Incoming { device: other, ipv6, transport, port };
                self.ruleset.fate(chain, packet) == Fate::In
            })
        };
        let (zone, what) = match self.others.iter().find(has_in) {
            Some(other) => (self.zone(other), format!(" --add-interface={device}")),
            None => {
                let word = word_of(transport);
                let add = ports.iter().map(|port| format!(" --add-port={port}/{word}"));
                (self.zone(device), add.collect())
            }
        };
        format!("firewall-cmd --permanent --zone={zone}{what} && firewall-cmd --reload")
    }

    /// The zone of firewalld that a device is in.
    fn zone(&self, device: &str) -> &str {
        let chain = self.ruleset.goes_to(FIREWALLD_ZONES, device);
        chain.and_then(|chain| chain.strip_prefix(FIREWALLD_ZONE)).unwrap_or(ZONE)
    }
}

fn word_of(transport: Transport) -> &'static str {
    if transport == Transport::Tcp { "tcp" } else { "udp" }
}
