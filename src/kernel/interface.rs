//! Network interfaces by name, as the ioctls on them want it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Also where /proc has processes alone, as of a service that is confined.
const IPV6_ADDRESSES: &str = "/proc/self/net/if_inet6";

/// The longest name of an interface, in octets.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// An ioctl's argument about interface `name`, with all else 0.
///
/// # Panics
/// Where the name is longer than [`NAME_MAX`].
pub(crate) fn request(name: &str) -> libc::ifreq {
    assert!(name.len() <= NAME_MAX);
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_newname: [0; libc::IFNAMSIZ] };
    libc::ifreq { ifr_name, ifr_ifru }
}

/// Whether this thread's network namespace has an interface of this name.
pub fn exists(name: &str) -> bool {
    index(name) != 0
}

/// The number of the interface of this name in this thread's network namespace; 0 where there is
/// none.
pub fn index(name: &str) -> u32 {
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return 0 };
    if name.is_empty() || name.len() > NAME_MAX {
        return 0;
    }
    rustix::net::netdevice::name_to_index(&socket, name).unwrap_or(0)
}

/// Whether this kernel has IPv6.
pub fn has_ipv6() -> bool {
    Path::new(IPV6_ADDRESSES).exists()
}

/// The IPv6 addresses of an interface of this process's network namespace.
///
/// # Errors
/// Where /proc cannot be read. A kernel without IPv6 has no addresses.
pub fn ipv6_addresses(name: &str) -> io::Result<Vec<Ipv6Addr>> {
    let text = match std::fs::read_to_string(IPV6_ADDRESSES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read?,
    };
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let bits = u128::from_str_radix(words.next()?, 16).ok()?;
        (words.next_back()? == name).then(|| Ipv6Addr::from_bits(bits))
    };
    Ok(text.lines().filter_map(address).collect())
}

/// Whether loopback can be used in this thread's network namespace: in a new one it cannot.
pub fn is_loopback_up() -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    socket.is_ok_and(|socket| socket.connect((Ipv4Addr::LOCALHOST, 9)).is_ok())
}

/// Sets the loopback interface of this thread's network namespace up: in a new one it is down.
///
/// # Errors
/// As the kernel says; without CAP_NET_ADMIN in the namespace it is refused.
pub fn loopback_up() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut request = request("lo");
    // The other flags that could be set are off for this interface.
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads the name and the flags in the ifreq.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn loopback_can_be_set_up_in_a_new_namespace() {
        let outcome = thread::spawn(|| {
            // SAFETY: no pointers; only this thread, which ends with the test, changes its
            // namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return false;
            }
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let there = (Ipv4Addr::LOCALHOST, 9);
            assert!(socket.send_to(b"", there).is_err() && !is_loopback_up());
            assert!(exists("lo") && !exists("l") && !exists("") && !exists("sixteen-octets-1"));
            loopback_up().unwrap();
            socket.send_to(b"", there).unwrap();
            assert!(is_loopback_up());
            true
        });
        if !outcome.join().unwrap() {
            crate::skip::cannot_run("a network namespace: run it as root");
        }
    }
}
