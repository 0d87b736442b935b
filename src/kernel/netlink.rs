//! Questions to the kernel over netlink, and its answers (`man 7 netlink`). That needs no
//! privilege.
//!
//! Integers are in host byte order: `linux/netlink.h`.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send,
    socket_with,
};

/// The kernel sends no longer datagrams.
const DATAGRAM_MAX: usize = 32 * 1024;
/// A longer answer is an error: it would have some 200 million connections.
const DATAGRAMS_MAX: usize = 1 << 20;
/// The kernel answers at once or not at all, so the wait for a datagram is bounded by this.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The size of `nlmsghdr`; netlink pads to 4.
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;

/// Message types.
const MESSAGE_NOOP: u16 = 1;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const MESSAGE_OVERRUN: u16 = 4;

/// Flags of a request for everything that matches.
pub(super) const REQUEST_DUMP: u16 = 0x301;
/// Flags of a request that says whether it was done.
pub(super) const REQUEST_ACKNOWLEDGED: u16 = 5;

/// A netlink socket, connected to the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Netlink {
    /// A socket for one of the kernel's protocols: `None` is NETLINK_ROUTE.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        // Connected to the kernel, so that nobody else can send to the socket.
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_MAX], sequence: 0 })
    }

    /// A socket with which every request fails.
    #[cfg(test)]
    pub fn broken() -> Self {
        let unconnected = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
        Self { socket: unconnected.into(), buffer: Vec::new(), sequence: 0 }
    }

    /// Sends a request, and calls `found` with type and data of each message of the answer. After
    /// an error that is not the kernel's the socket must not be used again: a late answer may still
    /// arrive.
    ///
    /// # Errors
    /// The kernel's, those of `found`, or that the answer is malformed.
    pub fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        found: &mut impl FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &message(kind, flags, self.sequence, body), SendFlags::empty())?;
        for _ in 0..DATAGRAMS_MAX {
            let receive = || recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC);
            let (_, length) = retry_on_intr(receive)?;
            let datagram = self.buffer.get(..length).ok_or_else(|| invalid("is too long"))?;
            if parse(datagram, self.sequence, found)? {
                return Ok(());
            }
        }
        Err(invalid("does not end"))
    }
}

/// The kernel's answer is not one.
pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's answer {what}"))
}

/// A message: its header, and `body`.
pub(super) fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    // The kernel knows whose socket it came by.
    out.extend([0; 4]);
    out.extend(body);
    out
}

/// Parses a datagram of the answer to request `sequence`. Returns whether it is the last one.
pub(super) fn parse(
    mut datagram: &[u8],
    sequence: u32,
    found: &mut impl FnMut(u16, &[u8]) -> io::Result<()>,
) -> io::Result<bool> {
    let cut_off = || invalid("is cut off");
    while !datagram.is_empty() {
        let header: &[u8; HEADER] = datagram.first_chunk().ok_or_else(cut_off)?;
        let [l0, l1, l2, l3, t0, t1, _, _, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let data = datagram.get(HEADER..length).ok_or_else(cut_off)?;
        datagram = datagram.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        if u32::from_ne_bytes([s0, s1, s2, s3]) != sequence {
            continue;
        }
        let code = || data.first_chunk().map(|&code| i32::from_ne_bytes(code)).ok_or_else(cut_off);
        match u16::from_ne_bytes([t0, t1]) {
            MESSAGE_DONE | MESSAGE_ERROR => match code()? {
                code if code < 0 => {
                    return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
                }
                _ => return Ok(true),
            },
            MESSAGE_OVERRUN => return Err(invalid("is lost")),
            MESSAGE_NOOP => {}
            kind => found(kind, data)?,
        }
    }
    Ok(false)
}

/// An attribute as a request has it.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

/// The attributes of a message, or of another attribute. What is cut off ends them.
pub(super) fn attributes(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // Whether it has others in it, and of which byte order it is.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let &[l0, l1, t0, t1] = data.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = data.get(4..length)?;
        data = data.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((u16::from_ne_bytes([t0, t1]) & !FLAGS, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_until_they_are_cut_off() {
        let two = [attribute(1, b"ho0\0"), attribute(0x8002, b"a")].concat();
        assert_eq!(two.len(), 16);
        let found: Vec<_> = attributes(&two).collect();
        assert_eq!(found, [(1, &b"ho0\0"[..]), (2, b"a")]);
        for cut in 0..two.len() {
            assert!(attributes(&two[..cut]).count() <= 2);
        }
        assert_eq!(attributes(&[0; 16]).count(), 0, "a length that says nothing ends it");
    }
}
