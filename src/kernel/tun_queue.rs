//! [`TunQueue`]: one queue of a TUN device, by which packets are read and written behind an offload
//! header (IFF_VNET_HDR): the kernel gives and takes super-packets and packets whose checksum is
//! not made, as far as it can. Nothing here looks into a packet.
//!
//! A queue is of a device that this process [makes](TunQueue::make), which disappears with it, or
//! of one that an operator made for it, which [stays](TunQueue::attach): to open that one takes no
//! privilege.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::ip::offload::{OFFLOAD_HEADER, Offload, OffloadMalformed};
use crate::kernel::interface::{self, NAME_MAX};

/// The device that makes and opens TUN devices.
pub const DEVICE: &str = "/dev/net/tun";
/// What the kernel may leave to us, the most first: checksums, segments of TCP with and without
/// signs of congestion, and, both at once and since Linux 6.2, segments of UDP.
const OFFLOADS: [libc::c_uint; 2] = {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    [tcp | USO4 | USO6, tcp]
};
/// TUN_F_USO4 and TUN_F_USO6 of linux/if_tun.h.
const USO4: libc::c_uint = 0x20;
const USO6: libc::c_uint = 0x40;
/// What every queue is opened with.
const FLAGS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
/// The most parts of one packet that is written.
pub const PARTS_MAX: usize = 67;

/// Why a device that is there cannot be used.
#[derive(Debug)]
pub enum AttachError {
    /// There is none of this name.
    Missing,
    /// It was not made with `multi_queue`, and this many queues are wanted.
    OneQueue(usize),
    /// Another program opened it first, without offload headers.
    NoOffloads,
    /// It cannot be opened: it is another user's, or has an owner but is in use.
    Refused(io::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::Missing => f.write_str("there is no such device"),
            AttachError::OneQueue(wanted) => {
                write!(f, "it was made without multi_queue, and {wanted} queues are wanted")
            }
            AttachError::NoOffloads => {
                f.write_str("another program has it open without offload headers (vnet_hdr)")
            }
            AttachError::Refused(error) => match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => write!(f, "it is another user's: {error}"),
                Some(libc::EBUSY | libc::E2BIG) => write!(f, "another program has it: {error}"),
                _ => write!(f, "{error}"),
            },
        }
    }
}

/// One queue. Reads and writes never block.
#[derive(Debug)]
pub struct TunQueue {
    file: File,
    udp_segments: bool,
}

impl TunQueue {
    /// So many queues of a new device, one at least.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where the name is taken or cannot be a device's.
    pub fn make(name: &str, queues: usize) -> io::Result<Vec<Self>> {
        let flags = if queues > 1 { FLAGS | libc::IFF_MULTI_QUEUE } else { FLAGS };
        // A device that is there already would outlive this process, and its routes with it.
        let mut made = vec![Self::open(name, flags | libc::IFF_TUN_EXCL)?];
        while made.len() < queues {
            made.push(Self::open(name, flags)?);
        }
        Ok(made)
    }

    /// So many queues of a device that is there. One queue may also be had of a device that was
    /// made for one alone.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(name: &str, queues: usize) -> Result<Vec<Self>, AttachError> {
        // Whoever may would make a new one by the call below.
        if !interface::exists(name) {
            return Err(AttachError::Missing);
        }
        let several = FLAGS | libc::IFF_MULTI_QUEUE;
        let first = match Self::open(name, several) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                if queues > 1 {
                    return Err(AttachError::OneQueue(queues));
                }
                Self::open(name, FLAGS)
            }
            outcome => outcome,
        };
        let mut opened = vec![first.map_err(AttachError::Refused)?];
        while opened.len() < queues {
            opened.push(Self::open(name, several).map_err(AttachError::Refused)?);
        }
        // A device keeps the flags that it was first opened with, whatever others ask for.
        match opened[0].flags().map_err(AttachError::Refused)? & libc::IFF_VNET_HDR {
            0 => Err(AttachError::NoOffloads),
            _ => Ok(opened),
        }
    }

    fn open(name: &str, flags: libc::c_int) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = options.open(DEVICE)?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut request = interface::request(name);
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads name and flags in the ifreq, and writes the name that the device
        // got.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let udp_segments = leave_to_us(&file);
        Ok(Self { file, udp_segments })
    }

    /// The flags that the device has.
    fn flags(&self) -> io::Result<libc::c_int> {
        let mut request = interface::request("");
        let fd = self.file.as_raw_fd();
        // SAFETY: TUNGETIFF writes name and flags into the ifreq.
        if unsafe { libc::ioctl(fd, libc::TUNGETIFF as _, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel wrote the flags into this member, and any value is one of theirs.
        Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags } as libc::c_ushort))
    }

    /// Whether super-packets of UDP can be given to the kernel, which knows them since Linux 6.2.
    pub fn takes_udp_segments(&self) -> bool {
        self.udp_segments
    }

    /// Reads the next packet, if there is one. `buffer` has room for the longest packet and
    /// [`OFFLOAD_HEADER`].
    ///
    /// # Errors
    /// Mostly that the device is gone.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<DevicePacket<'a>>> {
        let length = loop {
            match (&self.file).read(buffer) {
                Ok(length) => break length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        };
        let (header, packet) = buffer[..length].split_first_chunk_mut().ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidData, "a packet without its offload header")
        })?;
        Ok(Some(DevicePacket { offload: Offload::parse(header, packet), packet }))
    }

    /// Gives the kernel a packet, which is `front` and, behind it, all of `rest`.
    ///
    /// # Errors
    /// Where the kernel does not take this packet.
    ///
    /// # Panics
    /// Where `rest` is more than [`PARTS_MAX`] - 2 parts.
    pub fn send<'a>(
        &self,
        offload: &Offload,
        front: &'a [u8],
        rest: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let header: [u8; OFFLOAD_HEADER] = offload.emit(front);
        let mut rest = rest.into_iter();
        // Most packets are of one part or two.
        let (first, second) = (rest.next().unwrap_or_default(), rest.next());
        let some = [&header, front, first].map(IoSlice::new);
        let Some(second) = second else {
            return (&self.file).write_vectored(&some).map(drop);
        };
        let mut parts = [IoSlice::new(&[]); PARTS_MAX];
        parts[..some.len()].copy_from_slice(&some);
        let mut count = some.len();
        for part in std::iter::once(second).chain(rest) {
            parts[count] = IoSlice::new(part);
            count += 1;
        }
        (&self.file).write_vectored(&parts[..count]).map(drop)
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A packet as the device gave it.
#[derive(Debug)]
pub struct DevicePacket<'a> {
    /// What is left to do about it.
    pub offload: Result<Offload, OffloadMalformed>,
    pub packet: &'a mut [u8],
}

/// Tells the kernel that it may leave checksums and segments to us. One that refuses does both
/// itself. Returns whether it knows segments of UDP.
fn leave_to_us(file: &File) -> bool {
    let taken = OFFLOADS.into_iter().find(|&offloads| {
        let offloads = libc::c_ulong::from(offloads);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) == 0 }
    });
    taken.is_some_and(|offloads| offloads & USO4 != 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    #[test]
    fn a_device_that_is_there_is_opened_as_it_was_made() {
        let outcome = thread::spawn(|| {
            // SAFETY: no pointers; only this thread, which ends with the test, changes its
            // namespace.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return false;
            }
            assert!(matches!(TunQueue::attach("none", 1), Err(AttachError::Missing)));
            assert!(matches!(TunQueue::attach("lo", 1), Err(AttachError::Refused(_))));
            ip("tuntap add dev many mode tun multi_queue vnet_hdr");
            let queues = TunQueue::attach("many", 3).unwrap();
            let wanted = FLAGS | libc::IFF_MULTI_QUEUE;
            assert_eq!((queues.len(), queues[2].flags().unwrap() & wanted), (3, wanted));
            ip("tuntap add dev single mode tun vnet_hdr");
            assert!(matches!(TunQueue::attach("single", 2), Err(AttachError::OneQueue(2))));
            let single = TunQueue::attach("single", 1).unwrap();
            assert!(matches!(TunQueue::attach("single", 1), Err(AttachError::Refused(_))));
            // It stays.
            drop(single);
            TunQueue::attach("single", 1).unwrap();
            // Another program has it open in its own way.
            ip("tuntap add dev plain mode tun multi_queue");
            let plain = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE;
            let _open = TunQueue::open("plain", plain).unwrap();
            assert!(matches!(TunQueue::attach("plain", 1), Err(AttachError::NoOffloads)));
            true
        });
        if !outcome.join().unwrap() {
            crate::skip::cannot_run("a network namespace and a TUN device: run it as root");
        }
    }
}
