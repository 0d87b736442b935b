//! [`steps`]: what a host has to have for delivery, each with the commands that make it, and
//! whether it is there. Nothing here asks the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::ip::address::extract;
use crate::ip::fields::{IPV4_HEADER, IPV6_HEADER};
use crate::kernel::network::{HostAddress, HostDevice, HostRoute, HostRule, HostWay, TABLE_MAIN};

use super::step::{HostStep, StepCommand, StepState};

/// The table of routes that a rule leads answers to, and the rule's priority.
pub const TABLE: u32 = 6464;
/// Behind all routes that a host has of its own.
pub const METRIC: u32 = 9999;
/// How many packets wait in the device, so that a burst is not lost.
pub const QUEUE_LENGTH: u32 = 1000;
/// What every path of IPv6 carries.
const MTU_MIN: u32 = 1280;
/// A packet that is translated is so much shorter.
const SHORTER: u32 = (IPV6_HEADER - IPV4_HEADER) as u32;
/// A route to less than so many bits is to everywhere, rather than to the pool.
const POOL_LENGTH_LEAST: u8 = 8;
/// What stands before a packet in a path of IPv4: IPv4 and UDP header, and a token, a rotation and
/// an authenticator of 16 octets each.
const BEFORE: u32 = 28 + 3 * (2 + 16);

/// What is to be there.
#[derive(Debug, Clone)]
pub struct HostWanted {
    pub device: String,
    pub queues: usize,
    pub user: Account,
    /// Whether packets are delivered as they are.
    pub native: bool,
    /// Behind the prefixes of NAT64s: of packets that are delivered as they are.
    pub services: Vec<Ipv6Addr>,
    /// From where clients come whose packets are translated, if any are.
    pub pool: Option<Ipv4Net>,
    /// The address of this host that those send to, if it is known.
    pub host: Option<Ipv4Addr>,
    /// The longest packet to the NAT64s.
    pub path_mtu: u32,
}

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub number: u32,
    pub name: String,
}

/// Whether the user can open the file that TUN devices are opened by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunFile {
    Good,
    Missing,
    /// The kernel has such devices, and this process does not see them.
    Hidden,
    Refused(String),
}

impl HostWanted {
    /// The longest packet that is for the device, so that nothing leaves in fragments.
    pub fn mtu(&self) -> u32 {
        let shorter = if self.pool.is_some() { SHORTER } else { 0 };
        self.path_mtu.saturating_sub(BEFORE + shorter).max(self.mtu_min())
    }

    fn mtu_min(&self) -> u32 {
        if self.native { MTU_MIN } else { MTU_MIN - SHORTER }
    }
}

/// What there is.
#[derive(Debug, Clone)]
pub struct HostFound {
    pub file: TunFile,
    pub device: Option<HostDevice>,
    /// The kernel was not started without IPv6.
    pub has_ipv6: bool,
    /// New devices have none.
    pub is_ipv6_off: bool,
    pub addresses: Vec<HostAddress>,
    pub rules: Vec<HostRule>,
    pub routes: Vec<HostRoute>,
    /// How answers of each service would leave.
    pub answers: Vec<Option<HostWay>>,
    /// How packets of this host's own would leave, and by which device.
    pub own: Option<(HostWay, String)>,
    /// How packets to an address of the pool would.
    pub to_pool: Option<HostWay>,
    /// Routes of IPv4.
    pub ipv4_routes: Vec<HostRoute<Ipv4Net>>,
}

/// All steps, in the order in which they are done: where `anew`, of a device that is made anew if
/// that would be better.
pub fn steps(
    wanted: &HostWanted,
    found: &HostFound,
    anew: bool,
    name_of: impl FnMut(u32) -> String,
) -> Vec<HostStep> {
    let look = HostLook { wanted, found, device: found.device.as_ref() };
    let device = look.device_step();
    // What is made anew has nothing of what the one before had.
    let stays = match device.state {
        StepState::Better(_) => !anew,
        StepState::Missing(_) => false,
        StepState::Done | StepState::NotNeeded(_) => true,
    };
    let look = HostLook { device: look.device.filter(|_| stays), ..look };
    let mut steps = vec![look.file_step(), device];
    steps.extend(look.ipv6_step().filter(|_| wanted.native));
    steps.push(look.link_step());
    if wanted.native {
        let services = || wanted.services.iter().zip(&found.answers);
        steps.extend(services().map(|(&service, _)| look.address_step(service)));
        steps.push(look.route_step());
        steps.extend(services().map(|(&service, way)| look.rule_step(service, *way)));
        steps.push(look.own_step());
    }
    steps.extend(wanted.pool.map(|pool| look.pool_step(pool, name_of)));
    steps
}

struct HostLook<'a> {
    wanted: &'a HostWanted,
    found: &'a HostFound,
    /// What the device has that is there and stays.
    device: Option<&'a HostDevice>,
}

impl HostLook<'_> {
    fn name(&self) -> &str {
        &self.wanted.device
    }

    fn file_step(&self) -> HostStep {
        let user = &self.wanted.user.name;
        let unit =
            "systemctl edit nat64handoff, with DeviceAllow=/dev/net/tun rw and PrivateDevices=no";
        let load = StepCommand::run("modprobe tun");
        let (state, command) = match &self.found.file {
            TunFile::Good => (StepState::Done, load),
            TunFile::Missing => (StepState::Missing("there is no /dev/net/tun".to_owned()), load),
            TunFile::Hidden => {
                let why = "/dev/net/tun is hidden from the service".to_owned();
                (StepState::Missing(why), StepCommand::by_hand(unit))
            }
            TunFile::Refused(why) => {
                let why = format!("{user} cannot open /dev/net/tun ({why})");
                (StepState::Missing(why), StepCommand::run("chmod 666 /dev/net/tun"))
            }
        };
        let what = format!("/dev/net/tun, which {user} can open");
        HostStep { what, state, commands: vec![command] }
    }

    fn device_step(&self) -> HostStep {
        let (name, user) = (self.name(), &self.wanted.user);
        let make = StepCommand::run(&format!(
            "ip tuntap add dev {name} mode tun user {} multi_queue vnet_hdr",
            user.name
        ));
        let state = match self.device.map(|device| device.tun) {
            None => StepState::Missing(format!("there is no device {name}")),
            Some(tun) => match tun.filter(|tun| tun.has_packets) {
                None => StepState::Missing(format!("the device {name} is no TUN device")),
                Some(tun) if !tun.multi_queue && self.wanted.queues > 1 => {
                    StepState::Missing(format!(
                        "the device {name} was made without multi_queue, and {} queues are wanted",
                        self.wanted.queues
                    ))
                }
                Some(tun) if tun.queues > 0 && !tun.vnet_hdr => StepState::Missing(format!(
                    "another program has the device {name} open without offload headers (vnet_hdr)"
                )),
                Some(tun) => match tun.owner {
                    // Root may open any.
                    Some(owner) if owner != user.number && user.number != 0 => StepState::Missing(
                        format!("the device {name} belongs to another user than {}", user.name),
                    ),
                    Some(_) => StepState::Done,
                    None => StepState::Better(format!(
                        "the device {name} belongs to nobody: any program can take packets of clients"
                    )),
                },
            },
        };
        let there = self.device.filter(|_| state != StepState::Done);
        let remove = there.map(|device| {
            let line = format!("ip link del {name}");
            match device.tun {
                Some(tun) if tun.has_packets && tun.queues == 0 => StepCommand::run(&line),
                // What somebody uses, or made for something else.
                _ => StepCommand::ByHand(line),
            }
        });
        let what = format!("the device {name}, which {} can open", user.name);
        HostStep { what, state, commands: remove.into_iter().chain([make]).collect() }
    }

    /// Only where IPv6 is off.
    fn ipv6_step(&self) -> Option<HostStep> {
        let name = &self.wanted.device;
        let what = "IPv6".to_owned();
        if !self.found.has_ipv6 {
            let state = StepState::Missing("this kernel was started without IPv6".to_owned());
            let command = StepCommand::by_hand("start it without ipv6.disable=1");
            return Some(HostStep { what, state, commands: vec![command] });
        }
        let is_off = match self.device {
            Some(device) => device.ipv6.is_some_and(|ipv6| ipv6.is_off),
            None => self.found.is_ipv6_off,
        };
        let command = StepCommand::run(&match name.contains('.') {
            true => format!("sysctl -w net/ipv6/conf/{name}/disable_ipv6=0"),
            false => format!("sysctl -w net.ipv6.conf.{name}.disable_ipv6=0"),
        });
        is_off.then(|| HostStep {
            what,
            state: StepState::Missing(format!("IPv6 is off at the device {name}")),
            commands: vec![command],
        })
    }

    fn link_step(&self) -> HostStep {
        let (name, most, least) = (self.name(), self.wanted.mtu(), self.wanted.mtu_min());
        let of_device = |device: &HostDevice| {
            let HostDevice { is_up, mtu, queue_length, .. } = *device;
            if !is_up {
                StepState::Missing(format!("the device {name} is down"))
            } else if mtu < least {
                StepState::Missing(format!(
                    "the device {name} has an MTU of {mtu}, and IPv6 wants {least}"
                ))
            } else if mtu > most {
                StepState::Better(format!(
                    "the device {name} has an MTU of {mtu}, more than the {most} that a path of {} carries in one \
                     packet",
                    self.wanted.path_mtu
                ))
            } else if device.ipv6.is_some_and(|ipv6| ipv6.makes_address) {
                StepState::Better(format!(
                    "the device {name} makes a link-local address for itself"
                ))
            } else if queue_length < QUEUE_LENGTH {
                StepState::Better(format!(
                    "a queue of {queue_length} packets at the device {name} may be too short for a burst"
                ))
            } else {
                StepState::Done
            }
        };
        let state = self.device.map(of_device).unwrap_or_else(|| self.without_device());
        // One that is less by intention stays.
        let its = self.device.map(|device| device.mtu).filter(|mtu| (least..most).contains(mtu));
        let mtu = its.unwrap_or(most);
        let command = StepCommand::run(&format!(
            "ip link set {name} mtu {mtu} txqueuelen {QUEUE_LENGTH} addrgenmode none up"
        ));
        let what = format!("the device {name} up, with an MTU of {mtu}");
        HostStep { what, state, commands: vec![command] }
    }

    fn without_device(&self) -> StepState {
        StepState::Missing(format!("the device {} is to be made", self.name()))
    }

    /// Of which it is only said whether it is there: nobody else can have it.
    fn address_step(&self, service: Ipv6Addr) -> HostStep {
        let name = self.name();
        let address = self.device.and_then(|device| {
            let its =
                |there: &&HostAddress| (there.device, there.address) == (device.index, service);
            self.found.addresses.iter().find(its)
        });
        let (state, verb) = match address {
            None => (
                StepState::Missing(format!("the device {name} has no address {}", shown(service))),
                "add",
            ),
            Some(address) if address.is_tentative => (
                StepState::Missing(format!(
                    "{} is kept back, as others might have it",
                    shown(service)
                )),
                "replace",
            ),
            Some(address) if !address.is_deprecated => (
                StepState::Better(format!(
                    "this host may take {} for connections of its own, too",
                    shown(service)
                )),
                "change",
            ),
            Some(_) => (StepState::Done, "add"),
        };
        let command = StepCommand::run(&format!(
            "ip -6 addr {verb} {}/128 dev {name} nodad preferred_lft 0 noprefixroute",
            shown(service)
        ));
        let what = format!("the service's address, {}", shown(service));
        HostStep { what, state, commands: vec![command] }
    }

    fn is_by_device(&self, way: Option<HostWay>) -> bool {
        self.device.is_some_and(|device| way.is_some_and(|way| way.device == device.index))
    }

    /// Whether this host has no IPv6 but by the device: what it sends itself would go there.
    fn is_own_by_device(&self) -> bool {
        self.found.own.as_ref().is_some_and(|(way, _)| self.is_by_device(Some(*way)))
    }

    /// Whether answers have a route in this table.
    fn has_route(&self, table: u32) -> bool {
        let device = self.device.map(|device| device.index);
        let leads = |route: &HostRoute| {
            route.to.prefix_len() == 0 && route.table == table && Some(route.device) == device
        };
        self.found.routes.iter().any(leads)
    }

    fn rules_of(&self, service: Ipv6Addr) -> impl Iterator<Item = &HostRule> {
        let its = move |rule: &&HostRule| {
            let HostRule { from, has_mark, .. } = rule;
            from.prefix_len() > 0 && from.contains(&service) && !has_mark
        };
        self.found.rules.iter().filter(its)
    }

    fn route_step(&self) -> HostStep {
        let name = self.name();
        let works = self.found.answers.iter().all(|&way| self.is_by_device(way));
        let services = &self.wanted.services;
        let tables = services.iter().flat_map(|&service| self.rules_of(service));
        let is_there =
            self.has_route(TABLE) || tables.into_iter().any(|rule| self.has_route(rule.table));
        let why = format!("answers have no route to the device {name} of their own");
        let state = match works && self.device.is_some() {
            _ if is_there => StepState::Done,
            true if self.is_own_by_device() => StepState::Better(why),
            true => StepState::Done,
            false => StepState::Missing(why),
        };
        let command =
            StepCommand::run(&format!("ip -6 route add default dev {name} table {TABLE}"));
        let what = format!("a route for answers, in table {TABLE}");
        HostStep { what, state, commands: vec![command] }
    }

    fn rule_step(&self, service: Ipv6Addr, way: Option<HostWay>) -> HostStep {
        let shown = shown(service);
        let add = |priority: u32| {
            let line =
                format!("ip -6 rule add from {shown} iif lo lookup {TABLE} priority {priority}");
            StepCommand::run(&line)
        };
        let what = format!("a rule that leads answers of {shown} there");
        let mut its = self.rules_of(service);
        let leads = its.find(|rule| rule.table == TABLE || self.has_route(rule.table));
        if !self.is_by_device(way) {
            let why = match leads {
                // Without a route, or a device, no rule leads anywhere.
                Some(rule) if !self.has_route(rule.table) => {
                    return HostStep { what, state: StepState::Done, commands: vec![add(TABLE)] };
                }
                Some(_) => format!("another rule than that for answers of {shown} comes first"),
                None => format!("no rule leads answers of {shown} to table {TABLE}"),
            };
            let commands = match leads {
                Some(_) => vec![add(1), StepCommand::by_hand("ip -6 rule show")],
                None => vec![add(TABLE)],
            };
            return HostStep { what, state: StepState::Missing(why), commands };
        }
        if leads.is_none() && self.is_own_by_device() {
            let why = format!("no rule leads answers of {shown} to table {TABLE}");
            return HostStep { what, state: StepState::Better(why), commands: vec![add(TABLE)] };
        }
        let Some((rule, why)) = leads.and_then(|rule| Some((rule, self.takes_more(rule)?))) else {
            return HostStep { what, state: StepState::Done, commands: vec![add(TABLE)] };
        };
        let HostRule { from, table, priority, .. } = rule;
        let remove = StepCommand::run(&format!(
            "ip -6 rule del from {from} lookup {table} priority {priority}"
        ));
        HostStep { what, state: StepState::Better(why), commands: vec![add(TABLE), remove] }
    }

    /// What else a rule leads to the device that should not go there.
    fn takes_more(&self, rule: &HostRule) -> Option<String> {
        let device = self.device?;
        let from = rule.from;
        if device.ipv6.is_some_and(|ipv6| ipv6.forwards) && !rule.has_device {
            return Some(format!(
                "the rule from {from} is for packets that this host forwards, too: others could send answers as \
                 the service"
            ));
        }
        let others = self.found.addresses.iter().find(|other| {
            other.device != device.index
                && from.contains(&other.address)
                && !self.wanted.services.contains(&other.address)
        })?;
        Some(format!(
            "the rule from {from} takes what this host sends from {}, too",
            shown(others.address)
        ))
    }

    /// Where answers to addresses of the pool go.
    fn pool_step(&self, pool: Ipv4Net, mut name_of: impl FnMut(u32) -> String) -> HostStep {
        let name = self.name();
        let source = self.wanted.host.map(|host| format!(" src {host}")).unwrap_or_default();
        let what = format!("a route to the addresses that clients come from, {pool}");
        let ours = self.device.map(|device| device.index);
        let is_of_others = |route: &&HostRoute<Ipv4Net>| {
            let is_near = pool.contains(&route.to) || route.to.contains(&pool);
            is_near && route.to.prefix_len() >= POOL_LENGTH_LEAST && Some(route.device) != ours
        };
        if let Some(HostRoute { to, device, .. }) = self.found.ipv4_routes.iter().find(is_of_others)
        {
            let why = format!(
                "this host has a route to {to} by {}, and clients would come from {pool}",
                name_of(*device)
            );
            let command =
                StepCommand::by_hand("choose a network that is not in use, by --peer-pool");
            return HostStep { what, state: StepState::Missing(why), commands: vec![command] };
        }
        let state = match self.device {
            None => self.without_device(),
            Some(_) if self.is_by_device(self.found.to_pool) => StepState::Done,
            Some(_) => StepState::Missing(format!("no route leads to {pool} by the device {name}")),
        };
        let command = StepCommand::run(&format!("ip route add {pool} dev {name}{source}"));
        HostStep { what, state, commands: vec![command] }
    }

    /// What UDP programs need that do not choose their source.
    fn own_step(&self) -> HostStep {
        let name = self.name();
        let service = self.wanted.services.first().copied().unwrap_or(Ipv6Addr::UNSPECIFIED);
        let is_service = |source: Option<IpAddr>| {
            source.is_some_and(|source| self.wanted.services.iter().any(|&it| source == it))
        };
        let make = |verb: &str| {
            StepCommand::run(&format!(
                "ip -6 route {verb} default dev {name} src {} metric {METRIC}",
                shown(service)
            ))
        };
        let mut commands = vec![make("add")];
        let what =
            "on a host without IPv6 of its own, a route for UDP programs that choose no source";
        let gone = self.found.device.as_ref().filter(|_| self.device.is_none());
        let goes = |way: &HostWay| gone.is_some_and(|gone| gone.index == way.device);
        let state = match self.found.own.as_ref().filter(|(way, _)| !goes(way)) {
            None => StepState::Better(
                "UDP programs that choose no source may have no way to answer, as there is no route of IPv6"
                    .to_owned(),
            ),
            Some((way, _)) if self.is_by_device(Some(*way)) && !is_service(way.source) => {
                commands = vec![make("replace")];
                StepState::Better(
                    "UDP programs that choose no source answer from another address".to_owned(),
                )
            }
            Some((way, _)) if self.is_by_device(Some(*way)) => StepState::Done,
            Some((way, by)) if is_service(way.source) => {
                let line = format!("ip -6 addr add ADDRESS dev {by}, with one of its own");
                commands = vec![StepCommand::ByHand(line)];
                StepState::Better(format!(
                    "this host takes the service's address for connections of its own, as {by} has no global \
                     address of IPv6"
                ))
            }
            Some(_) => StepState::NotNeeded(
                "this host has IPv6; such programs bind to the service's address",
            ),
        };
        HostStep { what: what.to_owned(), state, commands }
    }
}

/// An address behind a prefix, with the IPv4 address that people know it by.
pub fn shown(service: Ipv6Addr) -> String {
    let prefix = Ipv6Addr::from_bits(service.to_bits() >> 32 << 32).to_string();
    let prefix = prefix.strip_suffix("0:0").unwrap_or(&prefix);
    let ipv4 = extract(service);
    // Two colons are for two groups or more.
    let tried =
        [prefix, prefix.strip_suffix(':').unwrap_or(prefix)].map(|it| format!("{it}{ipv4}"));
    let is_it = |text: &String| text.parse() == Ok(service);
    tried.into_iter().find(is_it).unwrap_or_else(|| service.to_string())
}

/// Of a prefix of NAT64s, what this host itself has in it.
pub fn overlaps(
    wanted: &HostWanted,
    found: &HostFound,
    mut names: impl FnMut(u32) -> String,
) -> Vec<String> {
    let mut lines = Vec::new();
    let prefixes = wanted.services.iter().filter_map(|&service| Ipv6Net::new(service, 96).ok());
    let mut prefixes: Vec<_> = prefixes.map(|prefix| prefix.trunc()).collect();
    prefixes.dedup();
    let ours = |device: u32| found.device.as_ref().is_some_and(|it| it.index == device);
    for prefix in prefixes {
        let addresses = found.addresses.iter().filter(|it| prefix.contains(&it.address));
        for HostAddress { address, device, .. } in addresses.filter(|it| !ours(it.device)) {
            let shown = shown(*address);
            lines.push(match wanted.services.contains(address) {
                true => format!(
                    "{shown} is an address of {}, too, which may answer in the service's place: take it from there",
                    names(*device)
                ),
                false => format!(
                    "{} has {shown}, behind {prefix}: it stays as it is, as only the service's address is delivered to",
                    names(*device)
                ),
            });
        }
        let routes = found.routes.iter().filter(|it| it.table == TABLE_MAIN);
        let within =
            |to: &Ipv6Net| prefix.contains(to) || (to.contains(&prefix) && to.prefix_len() >= 32);
        for HostRoute { to, device, .. } in routes.filter(|it| within(&it.to) && !ours(it.device)) {
            lines.push(format!(
                "this host has a route to {to} by {}: it stays, as the rule for answers looks at their source",
                names(*device)
            ));
        }
    }
    lines
}
