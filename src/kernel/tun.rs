//! A TUN device, and the wait for it and for signals: all that the gateway needs of the kernel.
//!
//! The device carries bare packets of both versions (IFF_NO_PI), without offloads. It is gone with its
//! descriptor, and so are its routes. It is set up by `ip`, of iproute2. Nothing here looks into a packet.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

use crate::handoff::message::Prefix96;

/// The longest name of a device, in octets.
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;
const DEVICE: &str = "/dev/net/tun";

/// Why there is no device.
#[derive(Debug)]
pub enum TunError {
    /// It cannot be made.
    Open(String, io::Error),
    /// `ip` is not there, or cannot be run.
    NoIp(io::Error),
    /// `ip` refused to do this, and said why.
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

/// A TUN device of this process.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
}

impl Tun {
    /// Makes the device, which neither waits to be read nor to be written.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN, or where the name is taken.
    pub fn open(name: &str) -> Result<Self, TunError> {
        let failed = |error| TunError::Open(name.to_owned(), error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let file = options.open(DEVICE).map_err(failed)?;
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(failed(ErrorKind::InvalidInput.into()));
        }
        // SAFETY: an ifreq is plain data, for which all zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // One that is there already, of whatever kind, would stay behind, and its routes with it.
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads name and flags in the ifreq, and writes the name that the device got.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if done != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Self { file, name: name.to_owned() })
    }

    /// Brings it up, with routes for what the gateway is to see.
    ///
    /// # Errors
    /// Where `ip` is not there, or refuses.
    pub fn set_up(&self, mtu: u16, pool: Ipv4Addr, prefixes: &[Prefix96]) -> Result<(), TunError> {
        let name = &self.name;
        ip(&format!("link set dev {name} mtu {mtu} up"))?;
        ip(&format!("-4 route add {pool}/32 dev {name}"))?;
        for prefix in prefixes {
            ip(&format!("-6 route add {prefix} dev {name}"))?;
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next packet, if there is one.
    ///
    /// # Errors
    /// As the kernel says, mostly as the device is gone.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.file).read(buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the kernel a packet.
    ///
    /// # Errors
    /// As the kernel says: it does not take every packet.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
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

/// The signals that a gateway knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: the end.
    Stop,
    /// SIGUSR1: all is to be forgotten.
    Flush,
}

/// Signals as something to be read. SIGHUP is among them, and means nothing.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// From now on, they do not interrupt this thread, nor those that it starts.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a sigset_t is plain data, which sigemptyset makes valid.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set lives as long as the calls, and the numbers are those of signals.
        unsafe {
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
        }
        // SAFETY: the set lives as long as the call; the set before is not asked for.
        let error =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
        // SAFETY: the set lives as long as the call; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that came, if one did.
    pub fn next_signal(&self) -> Option<Signal> {
        loop {
            // SAFETY: a signalfd_siginfo is plain data, for which all zeros are valid.
            let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
            let length = size_of_val(&info);
            // SAFETY: the buffer lives as long as the call, with its own length.
            let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), length) };
            if usize::try_from(got) != Ok(length) {
                return None;
            }
            match info.ssi_signo as libc::c_int {
                libc::SIGTERM | libc::SIGINT => return Some(Signal::Stop),
                libc::SIGUSR1 => return Some(Signal::Flush),
                _ => {}
            }
        }
    }
}

/// Waits until there is a packet or a signal, or that much time has passed.
///
/// # Errors
/// As the kernel says.
pub fn wait(tun: &Tun, signals: &Signals, time: Duration) -> io::Result<()> {
    let poll = |fd: &dyn AsFd| libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polls = [poll(&tun.file), poll(&signals.0)];
    // A millisecond more than asked rather than less, so that nobody turns in circles.
    let time = i32::try_from(time.as_millis() + 1).unwrap_or(i32::MAX);
    // SAFETY: the descriptors and their array live as long as the call.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, time) };
    match io::Error::last_os_error() {
        error if ready < 0 && error.kind() != ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}
