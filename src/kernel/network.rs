//! What the kernel knows of this thread's network: devices, addresses, rules and routes, by
//! rtnetlink (`man 7 rtnetlink`). That needs no privilege, and changes nothing.
//!
//! Integers are in host byte order, addresses not: `linux/if_link.h`, `linux/if_addr.h`,
//! `linux/rtnetlink.h`, `linux/fib_rules.h`, `linux/if_tun.h`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::netlink::{Netlink, REQUEST_ACKNOWLEDGED, REQUEST_DUMP, attribute, attributes};

/// Message types.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;
const NEW_RULE: u16 = 32;
const GET_RULE: u16 = 34;

const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

/// Sizes of `ifinfomsg`, `ifaddrmsg`, `rtmsg` and `fib_rule_hdr`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

/// The main table of routes.
pub const TABLE_MAIN: u32 = 254;
/// A route to elsewhere, one to an address of this host, and a rule that leads to a table.
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const TO_TABLE: u8 = 1;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostDevice {
    pub index: u32,
    pub name: String,
    pub is_up: bool,
    pub mtu: u32,
    /// How many packets wait in it.
    pub queue_length: u32,
    /// Where it is a TUN or TAP device.
    pub tun: Option<TunKind>,
    /// `None` where it has no IPv6, as its MTU is too small.
    pub ipv6: Option<DeviceIpv6>,
}

/// What a TUN device was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TunKind {
    /// It has IP packets: else it is a TAP device.
    pub has_packets: bool,
    pub multi_queue: bool,
    /// How many queues are open now.
    pub queues: u32,
    pub vnet_hdr: bool,
    /// The user who may open it. `None`: anybody may.
    pub owner: Option<u32>,
}

/// How a device does IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceIpv6 {
    pub is_off: bool,
    pub forwards: bool,
    /// It gives itself a link-local address.
    pub makes_address: bool,
}

/// An IPv6 address of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostAddress {
    pub device: u32,
    pub address: Ipv6Addr,
    /// It is not chosen as a source where there is another.
    pub is_deprecated: bool,
    /// It cannot be used yet, or not at all, as somebody else may have it.
    pub is_tentative: bool,
}

/// Where packets from somewhere find their route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRule {
    pub from: Ipv6Net,
    pub table: u32,
    pub priority: u32,
    /// Only those of a device count: for `lo`, those that this host makes itself.
    pub has_device: bool,
    /// Only those with a mark count.
    pub has_mark: bool,
}

/// A route of IPv6 by one device; or of IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRoute<Net = Ipv6Net> {
    pub to: Net,
    pub table: u32,
    pub device: u32,
}

/// How a packet would leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostWay {
    pub device: u32,
    /// The source that is chosen where the packet's sender leaves it open.
    pub source: Option<IpAddr>,
    /// Of the route, where it has one.
    pub mtu: Option<u32>,
}

/// The place to ask.
#[derive(Debug)]
pub struct HostNetwork {
    netlink: Netlink,
}

impl HostNetwork {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(None)? })
    }

    /// The device of this name, if there is one.
    ///
    /// # Errors
    /// The kernel's, or that its answer is malformed.
    pub fn device(&mut self, name: &str) -> io::Result<Option<HostDevice>> {
        const NAME: u16 = 3;
        let name = [name.as_bytes(), &[0]].concat();
        self.one_device([&[0; LINK][..], &attribute(NAME, &name)].concat())
    }

    /// The device of this number, if there is one.
    ///
    /// # Errors
    /// As of [`Self::device`].
    pub fn device_of(&mut self, index: u32) -> io::Result<Option<HostDevice>> {
        let mut request = vec![0; LINK];
        request[4..8].copy_from_slice(&index.to_ne_bytes());
        self.one_device(request)
    }

    fn one_device(&mut self, request: Vec<u8>) -> io::Result<Option<HostDevice>> {
        match self.all(GET_LINK, REQUEST_ACKNOWLEDGED, &request, NEW_LINK, device) {
            Ok(devices) => Ok(devices.into_iter().next()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All IPv6 addresses of this host.
    ///
    /// # Errors
    /// As of [`Self::device`].
    pub fn addresses(&mut self) -> io::Result<Vec<HostAddress>> {
        let mut request = [0; ADDRESS];
        request[0] = FAMILY_IPV6;
        self.all(GET_ADDRESS, REQUEST_DUMP, &request, NEW_ADDRESS, address)
    }

    /// All rules of IPv6 that lead to a table. None where the kernel has no such rules.
    ///
    /// # Errors
    /// As of [`Self::device`].
    pub fn rules(&mut self) -> io::Result<Vec<HostRule>> {
        let mut request = [0; ROUTE];
        request[0] = FAMILY_IPV6;
        match self.all(GET_RULE, REQUEST_DUMP, &request, NEW_RULE, rule) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
            found => found,
        }
    }

    /// All routes of IPv6 by devices: there may be many.
    ///
    /// # Errors
    /// As of [`Self::device`].
    pub fn routes(&mut self) -> io::Result<Vec<HostRoute>> {
        let mut request = [0; ROUTE];
        request[0] = FAMILY_IPV6;
        self.all(GET_ROUTE, REQUEST_DUMP, &request, NEW_ROUTE, route)
    }

    /// All routes of IPv4 by devices, likewise, and those to this host's own addresses.
    ///
    /// # Errors
    /// As of [`Self::device`].
    pub fn ipv4_routes(&mut self) -> io::Result<Vec<HostRoute<Ipv4Net>>> {
        let mut request = [0; ROUTE];
        request[0] = FAMILY_IPV4;
        self.all(GET_ROUTE, REQUEST_DUMP, &request, NEW_ROUTE, ipv4_route)
    }

    /// How a packet of this host would leave, if it would.
    ///
    /// # Errors
    /// That the kernel cannot be asked, or that its answer is malformed.
    pub fn way(&mut self, from: Option<IpAddr>, to: IpAddr) -> io::Result<Option<HostWay>> {
        const TO: u16 = 1;
        const FROM: u16 = 2;
        let mut request = vec![0; ROUTE];
        request[0] = if to.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
        let mut put = |kind, address: IpAddr| {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            request[kind as usize] = (octets.len() * 8) as u8;
            request.extend(attribute(kind, &octets));
        };
        put(TO, to);
        if let Some(from) = from {
            put(FROM, from);
        }
        match self.all(GET_ROUTE, REQUEST_ACKNOWLEDGED, &request, NEW_ROUTE, way) {
            Ok(ways) => Ok(ways.into_iter().next()),
            Err(error) => match error.raw_os_error() {
                // There is no route, a route that says so, or no IPv6.
                Some(
                    libc::ENETUNREACH
                    | libc::EHOSTUNREACH
                    | libc::EACCES
                    | libc::EINVAL
                    | libc::EOPNOTSUPP
                    | libc::EAFNOSUPPORT,
                ) => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn all<T>(
        &mut self,
        kind: u16,
        flags: u16,
        request: &[u8],
        answer: u16,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        let mut note = |kind: u16, data: &[u8]| {
            if kind == answer {
                all.extend(parse(data));
            }
            Ok(())
        };
        self.netlink.ask(kind, flags, request, &mut note)?;
        Ok(all)
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|&octets| u32::from_ne_bytes(octets))
}

fn ipv6(value: &[u8]) -> Option<Ipv6Addr> {
    value.first_chunk::<16>().map(|&octets| octets.into())
}

fn ipv4(value: &[u8]) -> Option<Ipv4Addr> {
    value.first_chunk::<4>().map(|&octets| octets.into())
}

fn name(value: &[u8]) -> String {
    let name = value.split(|&octet| octet == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn device(data: &[u8]) -> Option<HostDevice> {
    let (fixed, rest) = data.split_first_chunk::<LINK>()?;
    let is_up = number(&fixed[8..])? & libc::IFF_UP as u32 != 0;
    let mut device = HostDevice { index: number(&fixed[4..])?, is_up, ..HostDevice::default() };
    for (kind, value) in attributes(rest) {
        match kind {
            3 => device.name = name(value),
            4 => device.mtu = number(value)?,
            13 => device.queue_length = number(value)?,
            18 => device.tun = tun(value),
            26 => device.ipv6 = device_ipv6(value),
            _ => {}
        }
    }
    Some(device)
}

/// Of the attribute that says what kind of device it is.
fn tun(value: &[u8]) -> Option<TunKind> {
    let of =
        |wanted: u16| attributes(value).find_map(|(kind, value)| (kind == wanted).then_some(value));
    if name(of(1)?) != "tun" {
        return None;
    }
    let mut found = TunKind::default();
    for (kind, value) in attributes(of(2)?) {
        let flag = value.first() == Some(&1);
        match kind {
            1 => found.owner = number(value).filter(|&owner| owner != u32::MAX),
            3 => {
                found.has_packets =
                    value.first().map(|&flags| libc::c_int::from(flags)) == Some(libc::IFF_TUN)
            }
            5 => found.vnet_hdr = flag,
            7 => found.multi_queue = flag,
            8 => found.queues = number(value)?,
            _ => {}
        }
    }
    Some(found)
}

/// Of the attribute with what each family says.
fn device_ipv6(value: &[u8]) -> Option<DeviceIpv6> {
    let its = attributes(value).find_map(|(kind, value)| (kind == 10).then_some(value))?;
    let mut found = DeviceIpv6 { makes_address: true, ..DeviceIpv6::default() };
    for (kind, value) in attributes(its) {
        match kind {
            // All that stands in /proc/sys/net/ipv6/conf, by number.
            2 => {
                const FORWARDING: usize = 0;
                const DISABLE_IPV6: usize = 26;
                let is_set =
                    |at: usize| value.get(at * 4..).and_then(number).is_some_and(|it| it != 0);
                (found.forwards, found.is_off) = (is_set(FORWARDING), is_set(DISABLE_IPV6));
            }
            // How it makes an address: 1 is not at all.
            8 => found.makes_address = value.first() != Some(&1),
            _ => {}
        }
    }
    Some(found)
}

fn address(data: &[u8]) -> Option<HostAddress> {
    const TENTATIVE: u32 = 0x40 | 0x08;
    const DEPRECATED: u32 = 0x20;
    let (fixed, rest) = data.split_first_chunk::<ADDRESS>()?;
    let (mut flags, mut found) = (u32::from(fixed[2]), None);
    for (kind, value) in attributes(rest) {
        match kind {
            1 => found = found.or(ipv6(value)),
            // Its own, where the other is that of a peer.
            2 => found = ipv6(value),
            8 => flags = number(value)?,
            _ => {}
        }
    }
    Some(HostAddress {
        device: number(&fixed[4..])?,
        address: found.filter(|_| fixed[0] == FAMILY_IPV6)?,
        is_deprecated: flags & DEPRECATED != 0,
        is_tentative: flags & TENTATIVE != 0,
    })
}

fn rule(data: &[u8]) -> Option<HostRule> {
    let (fixed, rest) = data.split_first_chunk::<ROUTE>()?;
    let [FAMILY_IPV6, _, length, _, table, _, _, TO_TABLE, ..] = *fixed else { return None };
    let mut from = Ipv6Addr::UNSPECIFIED;
    let (mut table, mut priority) = (u32::from(table), 0);
    let (mut has_device, mut has_mark) = (false, false);
    for (kind, value) in attributes(rest) {
        match kind {
            2 => from = ipv6(value)?,
            3 => has_device = true,
            6 => priority = number(value)?,
            10 => has_mark = number(value)? != 0,
            15 => table = number(value)?,
            _ => {}
        }
    }
    let from = Ipv6Net::new(from, length).ok()?;
    Some(HostRule { from, table, priority, has_device, has_mark })
}

fn route(data: &[u8]) -> Option<HostRoute> {
    let (route, length) = route_of(FAMILY_IPV6, &[UNICAST], data)?;
    let HostRoute { to, table, device } = route;
    let to = to.map_or(Some(Ipv6Addr::UNSPECIFIED), ipv6)?;
    Some(HostRoute { to: Ipv6Net::new(to, length).ok()?, table, device })
}

fn ipv4_route(data: &[u8]) -> Option<HostRoute<Ipv4Net>> {
    let (route, length) = route_of(FAMILY_IPV4, &[UNICAST, LOCAL], data)?;
    let HostRoute { to, table, device } = route;
    let to = to.map_or(Some(Ipv4Addr::UNSPECIFIED), ipv4)?;
    Some(HostRoute { to: Ipv4Net::new(to, length).ok()?, table, device })
}

/// A route of a family and one of these kinds, with the octets of its address and the length of its
/// prefix.
fn route_of<'a>(
    family: u8,
    kinds: &[u8],
    data: &'a [u8],
) -> Option<(HostRoute<Option<&'a [u8]>>, u8)> {
    let (fixed, rest) = data.split_first_chunk::<ROUTE>()?;
    let [its, length, _, _, table, _, _, kind, ..] = *fixed;
    if its != family || !kinds.contains(&kind) {
        return None;
    }
    let (mut to, mut table, mut device) = (None, u32::from(table), None);
    for (kind, value) in attributes(rest) {
        match kind {
            1 => to = Some(value),
            4 => device = number(value),
            15 => table = number(value)?,
            _ => {}
        }
    }
    Some((HostRoute { to, table, device: device? }, length))
}

fn way(data: &[u8]) -> Option<HostWay> {
    let (fixed, rest) = data.split_first_chunk::<ROUTE>()?;
    // An answer that it is unreachable has another type; one to this host itself, too.
    if fixed[7] != UNICAST {
        return None;
    }
    let (mut device, mut source, mut mtu) = (None, None, None);
    for (kind, value) in attributes(rest) {
        match kind {
            4 => device = number(value),
            7 => {
                source = ipv6(value).map(IpAddr::from).or(ipv4(value).map(IpAddr::from));
            }
            8 => {
                mtu =
                    attributes(value).find_map(|(kind, value)| number(value).filter(|_| kind == 2))
            }
            _ => {}
        }
    }
    Some(HostWay { device: device?, source, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_device_like_no_tun() {
        let mut network = HostNetwork::open().unwrap();
        let lo = network.device("lo").unwrap().unwrap();
        assert_eq!((lo.index, lo.name.as_str(), lo.tun), (1, "lo", None));
        assert_eq!(network.device_of(1).unwrap(), Some(lo));
        assert_eq!(network.device("there-is-none").unwrap(), None);
        assert!(network.routes().is_ok() && network.rules().is_ok());
        assert!(network.ipv4_routes().is_ok());
        for address in network.addresses().unwrap() {
            assert!(network.device_of(address.device).unwrap().is_some(), "{address:?}");
        }
    }

    #[test]
    fn what_is_cut_off_is_no_message() {
        let whole = [0xff; 64];
        for cut in 0..whole.len() {
            let data = &whole[..cut];
            let _ = (device(data), address(data), rule(data), route(data), way(data));
            let _ = ipv4_route(data);
        }
        let mut data = vec![0; ROUTE];
        (data[0], data[7]) = (FAMILY_IPV6, UNICAST);
        data.extend(attribute(4, &7_u32.to_ne_bytes()));
        data.extend(attribute(15, &6464_u32.to_ne_bytes()));
        let everything = Ipv6Net::default();
        assert_eq!(route(&data), Some(HostRoute { to: everything, table: 6464, device: 7 }));
        assert_eq!(way(&data), Some(HostWay { device: 7, source: None, mtu: None }));
        assert_eq!(ipv4_route(&data), None);
        let mut of_ipv4 = data.clone();
        (of_ipv4[0], of_ipv4[1]) = (FAMILY_IPV4, 10);
        of_ipv4.extend(attribute(1, &[100, 64, 0, 0]));
        let to = "100.64.0.0/10".parse().unwrap();
        assert_eq!(ipv4_route(&of_ipv4), Some(HostRoute { to, table: 6464, device: 7 }));
        data.truncate(data.len() - 9);
        assert_eq!(route(&data), None);
    }
}
