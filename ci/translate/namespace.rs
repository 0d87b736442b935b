//! A network namespace for the calling thread, and packets in and out of its devices.

use crate::skip::cannot_run;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long to wait for a packet that must come.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for one that may come.
const SOON: Duration = Duration::from_millis(50);
/// Longer than any packet.
const PACKET_MAX: usize = 65_536;

/// Gives this thread, and what it starts, a network namespace of its own, without IPv6 on new
/// devices unless that is asked for.
pub fn private_namespace(ipv6: bool) {
    // SAFETY: takes flags alone; only this thread changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let error = io::Error::last_os_error();
        cannot_run(&format!("a network namespace: run it as root ({error})"));
    }
    if !Path::new("/dev/net/tun").exists() {
        cannot_run("/dev/net/tun: load the module tun");
    }
    for devices in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{devices}/disable_ipv6");
        std::fs::write(path, if ipv6 { "0" } else { "1" }).unwrap();
    }
}

/// Installs the Debian package of `program` if it is missing.
pub fn install(program: &str) {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/ci/packages");
    let output = Command::new(packages).arg(program).output().unwrap();
    if !output.status.success() {
        cannot_run(&String::from_utf8_lossy(&output.stderr));
    }
}

/// Runs `ip` in this thread's namespace.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
}

/// The number of the device `name` in this thread's namespace.
pub fn device_number(name: &str) -> Option<i32> {
    let name = CString::new(name).unwrap();
    // SAFETY: the name is a string that lives long enough.
    let number = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (number > 0).then_some(number as i32)
}

/// A TUN device: the kernel on one side, this test on the other.
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes the device. It is gone with the value.
    pub fn new(name: &str) -> Tun {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: all octets zero are a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: the request lives as long as the call, and is of the kind that it reads and
        // writes.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(done, 0, "{name}: {}", io::Error::last_os_error());
        Tun { file }
    }

    /// To the kernel.
    pub fn send(&self, packet: &[u8]) {
        assert_eq!((&self.file).write(packet).unwrap(), packet.len());
    }

    /// The next packet from the kernel, if one comes soon.
    pub fn receive(&self) -> Option<Vec<u8>> {
        if !is_ready(self.file.as_raw_fd(), SOON) {
            return None;
        }
        let mut packet = vec![0; PACKET_MAX];
        let length = (&self.file).read(&mut packet).unwrap();
        packet.truncate(length);
        Some(packet)
    }
}

/// Whether there is something to read, or will be in that time.
fn is_ready(descriptor: RawFd, time: Duration) -> bool {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, which lives as long as the call.
    unsafe { libc::poll(&raw mut poll, 1, time.as_millis() as i32) == 1 }
}

/// The kernel's side of a device, past its IP: what is sent here goes out of it, what comes in is
/// received.
pub struct Wire {
    socket: OwnedFd,
    device: i32,
}

impl Wire {
    /// On the device with that number.
    pub fn new(device: i32) -> Wire {
        let all = (libc::ETH_P_ALL as u16).to_be();
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: takes numbers alone.
        let socket = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(all)) };
        assert!(socket >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let wire = Wire { socket, device };
        let address = wire.address(all);
        let length = size_of_val(&address) as u32;
        // SAFETY: the address lives as long as the call, with its own length.
        let done =
            unsafe { libc::bind(wire.socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        wire
    }

    fn address(&self, protocol: u16) -> libc::sockaddr_ll {
        // SAFETY: all octets zero are a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = self.device;
        address
    }

    /// Out of the device.
    pub fn send(&self, packet: &[u8]) {
        let ipv4 = packet[0] >> 4 == 4;
        let protocol = if ipv4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 } as u16;
        let address = self.address(protocol.to_be());
        // SAFETY: packet and address live as long as the call, with their own lengths.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(sent, packet.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next packet that comes in, each within that time.
    pub fn receive(&self, time: Duration) -> Option<Vec<u8>> {
        loop {
            if !is_ready(self.socket.as_raw_fd(), time) {
                return None;
            }
            let mut packet = vec![0; PACKET_MAX];
            let mut address = self.address(0);
            let mut length = size_of_val(&address) as u32;
            // SAFETY: buffer and address live as long as the call, with their own lengths.
            let received = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    packet.as_mut_ptr().cast(),
                    packet.len(),
                    0,
                    (&raw mut address).cast(),
                    &raw mut length,
                )
            };
            packet.truncate(usize::try_from(received).expect("a packet is ready"));
            if address.sll_pkttype != libc::PACKET_OUTGOING {
                return Some(packet);
            }
        }
    }
}
