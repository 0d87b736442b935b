//! Which process has a UDP port: for the error message when the handoff port is taken.

use std::fmt;
use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::process::parent_id;

/// What `ps` calls a server.
const NAME: &str = "nat64handoff";

/// A process that has a socket open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// As `ps` shows it.
    pub name: String,
    pub pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

impl Holder {
    /// Whether it may be a server like this one, one that runs this process to ask something, or
    /// the service manager that keeps sockets for one.
    pub(crate) fn may_be_ours(&self) -> bool {
        let own = fs::read_to_string("/proc/self/comm").unwrap_or_default();
        [1, parent_id()].contains(&self.pid) || [NAME, own.trim_end()].contains(&&*self.name)
    }

    /// The process with a UDP socket that overlaps with `address`. Reads through all of /proc.
    ///
    /// /proc/net/udp has the inode of the socket, and the process has a descriptor of that inode.
    /// `None` where we may not look, or where the process has ended already.
    pub(crate) fn of(address: SocketAddrV4) -> Option<Self> {
        let sockets = fs::read_to_string("/proc/net/udp").ok()?;
        let inodes: Vec<&str> = sockets
            .lines()
            .skip(1)
            .filter_map(udp_line)
            .filter(|(local, _)| overlap(*local, address))
            .map(|(_, inode)| inode)
            .collect();
        for entry in fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
                continue;
            };
            let holds = descriptors
                .flatten()
                .filter_map(|fd| fs::read_link(fd.path()).ok())
                .filter_map(|target| socket_inode(target.to_str()?).map(str::to_owned))
                .any(|inode| inodes.contains(&inode.as_str()));
            if holds {
                let name = fs::read_to_string(entry.path().join("comm")).ok()?;
                return Some(Self { name: name.trim_end().to_owned(), pid });
            }
        }
        None
    }
}

fn overlap(one: SocketAddrV4, other: SocketAddrV4) -> bool {
    one.port() == other.port()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

/// The local address and the inode in a line of /proc/net/udp. The kernel prints the address as a
/// number in the host's byte order.
fn udp_line(line: &str) -> Option<(SocketAddrV4, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = words.nth(7)?;
    Some((SocketAddrV4::new(address.into(), port), inode))
}

/// `socket:[12345]`
fn socket_inode(target: &str) -> Option<&str> {
    target.strip_prefix("socket:[")?.strip_suffix(']')
}

#[cfg(test)]
mod tests {
    #[cfg(target_endian = "little")]
    #[test]
    fn a_line_of_proc_net_udp() {
        use std::net::Ipv4Addr;

        use super::*;

        let line = "  524: 0100007F:FA40 00000000:0000 07 00000000:00000000 00:00000000 00000000  \
                    1000        0 48213 2 0000000000000000 0";
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 64064);
        assert_eq!(udp_line(line), Some((address, "48213")));
        assert_eq!(udp_line("  524: 0100007F"), None);
        assert_eq!(socket_inode("socket:[48213]"), Some("48213"));
        assert_eq!(socket_inode("/dev/null"), None);
    }
}
