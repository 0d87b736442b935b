//! A TUN device for the gateway, and the wait for packets and signals.
//!
//! The device carries packets of both IP versions (IFF_NO_PI). It disappears with its descriptor,
//! and its routes with it. `ip`, of iproute2, sets it up.
//!
//! Not the crate tun-rs: it does not know IFF_TUN_EXCL, so it would take over a device that is
//! there already, and it brings eight more crates for the one ioctl below.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::ip::address::Prefix96;
use crate::kernel::link::{Link, LinkChange};
use crate::kernel::signals::Signals;
use crate::kernel::tun_queue::TunQueue;
use crate::kernel::waker::EventWaker;

/// Why there is no device.
#[derive(Debug)]
pub enum TunError {
    /// The device of this name cannot be made.
    Open(String, io::Error),
    /// `ip` is not there, or cannot be run.
    NoIp(io::Error),
    /// `ip` failed: its arguments, and what it said.
    Ip(String, String),
}

impl fmt::Display for TunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunError::Open(name, error) => {
                write!(f, "no TUN device {name}: {error}; ")?;
                f.write_str(match error.kind() {
                    ErrorKind::PermissionDenied => "it takes CAP_NET_ADMIN: try sudo",
                    ErrorKind::NotFound => "load the module: modprobe tun",
                    ErrorKind::ResourceBusy => {
                        "there is a device of that name: choose another with --tun"
                    }
                    _ => "see whether /dev/net/tun is there, and the name a device's (--tun)",
                })
            }
            TunError::NoIp(error) => {
                write!(f, "cannot run ip: {error}; install iproute2, which sets the device up")
            }
            TunError::Ip(arguments, said) => {
                write!(f, "ip {arguments}: {said}; try that by hand, as root")
            }
        }
    }
}

impl std::error::Error for TunError {}

/// A TUN device of this process. It is there as long as one of its queues.
#[derive(Debug)]
pub struct Tun {
    name: String,
    link: Link,
}

impl Tun {
    /// Makes the device, with so many queues. Their reads and writes never block.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where the name is taken or cannot be a device's.
    pub fn open(name: &str, queues: usize) -> Result<(Self, Vec<TunQueue>), TunError> {
        let failed = |error| TunError::Open(name.to_owned(), error);
        let queues = TunQueue::make(name, queues).map_err(failed)?;
        let link = Link::watch(name).map_err(failed)?;
        Ok((Self { name: name.to_owned(), link }, queues))
    }

    /// Brings the device up, and routes `pool` and `prefixes` to it.
    ///
    /// # Errors
    /// Where `ip` is not there, or refuses.
    pub fn set_up(
        &self,
        mtu: u16,
        pool: &[Ipv4Addr],
        prefixes: &[Prefix96],
    ) -> Result<(), TunError> {
        ip(&format!("link set dev {} mtu {mtu} up", self.name))?;
        self.route("add", pool, prefixes)
    }

    /// Routes `pool` and `prefixes` to the device again: it was down, and that removed the routes.
    ///
    /// # Errors
    /// As for [`Self::set_up`], and where the device is down.
    pub fn set_routes(&self, pool: &[Ipv4Addr], prefixes: &[Prefix96]) -> Result<(), TunError> {
        self.route("replace", pool, prefixes)
    }

    fn route(&self, how: &str, pool: &[Ipv4Addr], prefixes: &[Prefix96]) -> Result<(), TunError> {
        let name = &self.name;
        for address in pool {
            ip(&format!("-4 route {how} {address}/32 dev {name}"))?;
        }
        for prefix in prefixes {
            ip(&format!("-6 route {how} {prefix} dev {name}"))?;
        }
        Ok(())
    }

    /// Whether the device went down or came up, since the last call.
    pub fn next_change(&mut self) -> Option<LinkChange> {
        self.link.next_change()
    }

    /// The name that it was opened with.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn ip(arguments: &str) -> Result<(), TunError> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(TunError::NoIp)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it failed").trim().to_owned();
    Err(TunError::Ip(arguments.to_owned(), said))
}

/// Waits until there is a packet in this queue, a change of the device or a signal, or it was
/// woken, or until `time` has passed. Returns whether there is, or may be, more than packets.
///
/// # Errors
/// As the kernel says.
pub fn wait(
    tun: &Tun,
    queue: &TunQueue,
    woken: &EventWaker,
    signals: &Signals,
    time: Duration,
) -> io::Result<bool> {
    let [stop, flush] = signals.descriptors();
    let mut polled = [queue.as_fd(), tun.link.as_fd(), woken.as_fd(), stop, flush]
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    match poll(&mut polled, Some(&time)) {
        Ok(0) | Err(Errno::INTR) => Ok(true),
        Ok(_) => Ok(polled[1..].iter().any(|other| !other.revents().is_empty())),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const POOL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
    const PREFIX: Prefix96 = Prefix96([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]);

    /// How many routes lead to the device.
    fn routes(name: &str) -> usize {
        let count = |family| {
            let arguments = [family, "route", "show", "dev", name];
            let output = Command::new("ip").args(arguments).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines()
                .filter(|line| line.starts_with("192.0.2.7") || line.starts_with("64:"))
                .count()
        };
        count("-4") + count("-6")
    }

    #[test]
    fn routes_can_be_set_again_when_the_device_was_down() {
        let outcome = thread::spawn(|| {
            // SAFETY: no pointers; only this thread, which ends with the test, changes its
            // namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return false;
            }
            let (mut tun, _queues) = Tun::open("nat64", 2).unwrap();
            tun.set_up(1500, &[POOL], &[PREFIX]).unwrap();
            assert_eq!(routes("nat64"), 2);
            assert_eq!(tun.next_change(), Some(LinkChange::Up));
            assert_eq!(tun.next_change(), None);
            ip("link set nat64 down").unwrap();
            assert_eq!(tun.next_change(), Some(LinkChange::Down));
            assert_eq!(routes("nat64"), 0);
            assert!(tun.set_routes(&[POOL], &[PREFIX]).is_err(), "it is down");
            // However short: each change is told.
            ip("link set nat64 up").unwrap();
            ip("link set nat64 down").unwrap();
            ip("link set nat64 up").unwrap();
            let changes: Vec<_> = std::iter::from_fn(|| tun.next_change()).collect();
            assert_eq!(changes, [LinkChange::Up, LinkChange::Down, LinkChange::Up]);
            tun.set_routes(&[POOL], &[PREFIX]).unwrap();
            tun.set_routes(&[POOL], &[PREFIX]).unwrap();
            assert_eq!(routes("nat64"), 2);
            true
        });
        if !outcome.join().unwrap() {
            crate::skip::cannot_run("a network namespace and a TUN device: run it as root");
        }
    }
}
