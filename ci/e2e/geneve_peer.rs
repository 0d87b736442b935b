//! A NAT64 that knows Geneve alone, as plain as can be, written from what the author of the
//! protocol publishes: it offers a tunnel, and gives what clients send to it, by a TUN device, to
//! the server and back.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::field::{SERVICE, SERVICE6, Site};
use crate::judge::geneve::{self, FROM, Frame, Neighbor, PORT, VNI, frame, solicitation};
use crate::process::wait_until;

const DEVICE: &str = "gnv";
/// Offers are repeated so often.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Peer {
    socket: Arc<UdpSocket>,
    link: [u8; 6],
    learned: Arc<Mutex<Learned>>,
}

/// What the server has told.
#[derive(Default)]
struct Learned {
    /// Its link-layer address.
    link: Option<[u8; 6]>,
    answers: usize,
    /// What is not as it must be.
    wrong: Vec<String>,
}

impl Peer {
    /// At the site's public address, which is an address of its NAT64's host from now on. The
    /// site's clients reach the service through it.
    pub fn start(site: &Site, link: [u8; 6]) -> Peer {
        site.nat64.ip(&format!(
            "address add {pool}/32 dev lo\ntuntap add dev {DEVICE} mode tun\n\
             link set {DEVICE} mtu 1400 addrgenmode none up\nroute add {SERVICE6}/128 dev {DEVICE}",
            pool = site.pool
        ));
        let bind = || UdpSocket::bind(SocketAddrV4::new(site.pool, PORT)).unwrap();
        let (socket, device) = site.nat64.inside(|| (Arc::new(bind()), open()));
        let (learned, device) = (Arc::<Mutex<Learned>>::default(), Arc::new(device));
        let (from_server, known) = (Arc::clone(&socket), Arc::clone(&learned));
        let to_clients = Arc::clone(&device);
        thread::spawn(move || take_all(&from_server, &to_clients, link, &known));
        let (to_server, known) = (Arc::clone(&socket), Arc::clone(&learned));
        thread::spawn(move || send_all(&device, &to_server, link, &known));
        Peer { socket, link, learned }
    }

    /// Offers the tunnel until the server takes it.
    pub fn offer(&self) {
        let before = self.answers();
        wait_until("the server takes the offer", || {
            send(&self.socket, &offer(self.link));
            thread::sleep(AGAIN / 10);
            self.answers() > before
        });
    }

    /// Asks the server whether it is there, as neighbors do.
    pub fn probe(&self) {
        let (before, link) = (self.answers(), self.server_link());
        let asked = Neighbor { to: SERVICE6, ..solicitation(SERVICE6, self.link) };
        wait_until("the server is reachable", || {
            send(&self.socket, &frame(link, self.link, asked.write()).write());
            thread::sleep(AGAIN / 10);
            self.answers() > before
        });
    }

    /// The server's link-layer address, that it told last.
    pub fn server_link(&self) -> [u8; 6] {
        self.learned.lock().unwrap().link.expect("it has answered")
    }

    fn answers(&self) -> usize {
        self.learned.lock().unwrap().answers
    }

    /// What the server did that it must not do.
    pub fn wrong(&self) -> Vec<String> {
        self.learned.lock().unwrap().wrong.clone()
    }
}

/// An offer of a tunnel from this link-layer address.
pub fn offer(link: [u8; 6]) -> Vec<u8> {
    geneve::offer(SERVICE6, link).write()
}

fn send(socket: &UdpSocket, payload: &[u8]) {
    // Where nobody listens, the kernel says so of the next datagram: it is lost.
    let _ = socket.send_to(payload, SocketAddrV4::new(SERVICE, PORT));
}

/// Gives clients what the server sends.
fn take_all(socket: &UdpSocket, device: &File, link: [u8; 6], learned: &Mutex<Learned>) {
    let mut buffer = [0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let mut learned = learned.lock().unwrap();
        let Some(frame) = Frame::read(&buffer[..length]) else {
            learned.wrong.push(format!("no frame: {:02x?}", &buffer[..length]));
            continue;
        };
        let ours = from == SocketAddrV4::new(SERVICE, PORT).into()
            && (frame.vni, frame.to, frame.message) == (VNI, link, None);
        if !ours {
            learned.wrong.push(format!("from {from}, {:02x?}", &buffer[..length]));
            continue;
        }
        if let Some(told) = Neighbor::read(&frame.packet) {
            let expected = Neighbor {
                kind: 136,
                flags: 0x60,
                from: SERVICE6,
                to: FROM,
                target: SERVICE6,
                link: Some(frame.from),
            };
            if told != expected || length > offer(link).len() {
                learned.wrong.push(format!("{told:?} in {length} octets"));
            }
            learned.link = Some(frame.from);
            learned.answers += 1;
        } else if learned.link == Some(frame.from) {
            // What its device does not take is lost, as on any link.
            let _ = (&mut &*device).write(&frame.packet);
        } else {
            learned.wrong.push(format!("from another address: {:02x?}", frame.from));
        }
    }
}

/// Gives the server what clients send.
fn send_all(device: &File, socket: &UdpSocket, link: [u8; 6], learned: &Mutex<Learned>) {
    let mut buffer = [0; 65_536];
    loop {
        let length = (&mut &*device).read(&mut buffer).unwrap();
        let server = learned.lock().unwrap().link;
        // Its own host speaks to neighbors as well.
        let of_client = buffer[0] >> 4 == 6 && buffer[8..10] == [0x20, 0x01];
        if let Some(server) = server.filter(|_| of_client) {
            send(socket, &frame(server, link, buffer[..length].to_vec()).write());
        }
    }
}

/// The device, without offloads.
fn open() -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, octet) in request.ifr_name.iter_mut().zip(DEVICE.bytes()) {
        *place = octet as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes the request, which is whole.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    file
}

/// Sends so many offers from addresses and ports that are forged, one after the other.
pub fn forge(site: &Site, count: u32) {
    let socket = site.nat64.inside(|| {
        // SAFETY: takes numbers alone.
        let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW) };
        assert!(raw >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is ours alone.
        unsafe { <UdpSocket as std::os::fd::FromRawFd>::from_raw_fd(raw) }
    });
    for number in 0..count {
        let payload = offer([2, 7, 7, 7, 7, number as u8]);
        let from = Ipv4Addr::from_bits(0xc633_6400 + 0x100 * (number % 200) + 1 + number % 250);
        let mut packet = vec![0x45, 0];
        packet.extend((28 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
        packet.extend(from.octets());
        packet.extend(SERVICE.octets());
        packet.extend([40_000_u16 + (number % 1000) as u16, PORT].map(u16::to_be_bytes).concat());
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        let _ = socket.send_to(&packet, SocketAddrV4::new(SERVICE, 0));
    }
}
