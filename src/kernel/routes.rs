//! Networks that this host has an IPv4 address of, or a route to.

use std::fs;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Where the kernel tells all of its tables.
const TABLES: &str = "/proc/self/net/fib_trie";
/// Routes to larger networks are taken for a default route, or a part of one.
const LENGTH_LEAST: u8 = 8;

/// Those that have addresses in common with this network. None where the kernel does not say.
pub fn overlapping(network: Ipv4Net) -> Vec<Ipv4Net> {
    overlapping_in(&fs::read_to_string(TABLES).unwrap_or_default(), network)
}

fn overlapping_in(tables: &str, network: Ipv4Net) -> Vec<Ipv4Net> {
    let mut found = Vec::new();
    let mut address: Option<Ipv4Addr> = None;
    for line in tables.lines() {
        let line = line.trim_start();
        if let Some(leaf) = line.strip_prefix("|-- ") {
            address = leaf.trim().parse().ok();
        } else if let Some(route) = line.strip_prefix('/')
            && let Some(length) = route.split(' ').next()
            && let (Some(address), Ok(length)) = (address, length.parse())
            && let Ok(route) = Ipv4Net::new(address, length)
            && length >= LENGTH_LEAST
            && (network.contains(&route) || route.contains(&network))
        {
            found.push(route);
        }
    }
    found.sort_unstable();
    found.dedup();
    // What is within another is told by that.
    let all = found.clone();
    found.retain(|route| !all.iter().any(|other| other != route && other.contains(route)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
        /1 universe UNICAST
     +-- 100.64.0.0/10 2 0 2
        |-- 100.64.0.0
           /16 link UNICAST
           /10 universe UNICAST
        |-- 100.96.0.0
           /16 link UNICAST
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 100.96.0.1
        /32 host LOCAL
     |-- 127.0.0.0
        /8 host LOCAL
";

    #[test]
    fn routes_and_addresses_in_a_network_are_told() {
        let overlapping = |network: &str| -> Vec<String> {
            let found = overlapping_in(TRIE, network.parse().unwrap());
            found.iter().map(ToString::to_string).collect()
        };
        assert_eq!(overlapping("100.96.0.0/26"), ["100.64.0.0/10"]);
        assert_eq!(overlapping("100.0.0.0/9"), ["100.64.0.0/10"]);
        assert_eq!(overlapping("127.1.0.0/16"), ["127.0.0.0/8"]);
        assert_eq!(overlapping("198.51.100.0/24"), [""; 0]);
        assert_eq!(overlapping_in("", "100.64.0.0/12".parse().unwrap()), []);
    }

    #[test]
    fn this_host_is_on_loopback() {
        let found = overlapping("127.0.0.0/24".parse().unwrap());
        assert!(found.iter().all(|route| route.network().is_loopback()), "{found:?}");
    }
}
