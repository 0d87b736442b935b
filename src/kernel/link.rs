//! Tells when a network device of this namespace goes down or comes up, by rtnetlink (`man 7
//! rtnetlink`). That needs no privilege.
//!
//! Integers are in host byte order: `linux/netlink.h`, `linux/if_link.h`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netdevice::name_to_index;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The multicast group of changes of devices: RTMGRP_LINK.
const GROUP_LINK: u32 = 1;
/// A change of a device: RTM_NEWLINK.
const NEW_LINK: u16 = 16;
/// Sizes of `nlmsghdr` and of what matters of `ifinfomsg`; netlink pads to 4.
const HEADER: usize = 16;
const INFO: usize = 12;
const ALIGNMENT: usize = 4;
/// The kernel sends no longer datagrams.
const DATAGRAM_MAX: usize = 32 * 1024;

/// What became of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// It went down: the kernel removes its routes.
    Down,
    /// It came up.
    Up,
    /// The kernel had more to say than the socket could hold: anything may have happened.
    Unknown,
}

/// Watches one device.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    index: u32,
    up: bool,
    buffer: Vec<u8>,
    /// What was received and not yet returned, newest first.
    changes: Vec<LinkChange>,
}

impl Link {
    /// Watches the device of this name, which is down, from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(name: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUP_LINK))?;
        let index = name_to_index(&socket, name)?;
        let (buffer, changes) = (vec![0; DATAGRAM_MAX], Vec::new());
        Ok(Self { socket, index, up: false, buffer, changes })
    }

    /// The next change since the last call, if there is one.
    pub fn next_change(&mut self) -> Option<LinkChange> {
        while self.changes.is_empty() {
            let receive = || recv(&self.socket, &mut self.buffer[..], RecvFlags::empty());
            match retry_on_intr(receive) {
                Ok((length, _)) => self.take(length),
                Err(Errno::NOBUFS) => self.changes.push(LinkChange::Unknown),
                Err(_) => return None,
            }
        }
        self.changes.pop()
    }

    fn take(&mut self, length: usize) {
        let datagram = self.buffer.get(..length).unwrap_or_default();
        for up in states(datagram, self.index) {
            if self.up != up {
                self.up = up;
                self.changes.insert(0, if up { LinkChange::Up } else { LinkChange::Down });
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether the device is up, by each message about it.
fn states(mut datagram: &[u8], index: u32) -> Vec<bool> {
    let mut states = Vec::new();
    while let Some(&[l0, l1, l2, l3, t0, t1, ..]) = datagram.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let Some(data) = datagram.get(HEADER..length) else {
            break;
        };
        // Family, padding and type; index; flags.
        if u16::from_ne_bytes([t0, t1]) == NEW_LINK
            && let Some(&[_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3]) = data.first_chunk::<INFO>()
            && u32::from_ne_bytes([i0, i1, i2, i3]) == index
        {
            states.push(u32::from_ne_bytes([f0, f1, f2, f3]) & libc::IFF_UP as u32 != 0);
        }
        datagram = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let data = [0_u32.to_ne_bytes(), index.to_ne_bytes(), flags.to_ne_bytes()].concat();
        let length = (HEADER + data.len()) as u32;
        let mut out = length.to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(data);
        out
    }

    #[test]
    fn only_changes_of_the_device_count() {
        let all = [message(16, 7, 1), message(16, 8, 0), message(17, 7, 0), message(16, 7, 0x1002)];
        let whole = all.concat();
        assert_eq!(states(&whole, 7), [true, false]);
        for cut in 0..whole.len() {
            let found = states(&whole[..cut], 7);
            assert!([true, false].starts_with(&found), "{cut}");
        }
        // A length that says nothing ends it.
        assert!(states(&[0; 64], 7).is_empty());
    }
}
