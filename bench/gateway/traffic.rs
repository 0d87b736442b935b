//! Traffic between client and service.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;

const BLOCK: usize = 128 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that wait for their answer at once.
const WINDOW: usize = 32;
const ECHO: usize = 64;

/// Seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

/// What TCP is measured with: the direction, and how many flows at once.
pub const FLOWS: [(Direction, usize); 4] =
    [(Direction::Up, 1), (Direction::Up, 8), (Direction::Down, 1), (Direction::Down, 8)];

/// What such a row is called.
pub fn label(direction: Direction, flows: usize) -> String {
    format!("{flows} {}", if direction == Direction::Up { "up" } else { "down" })
}

/// Takes what it is sent, or sends, or answers: at one port, for both IP versions.
pub struct Service {
    pub port: u16,
}

impl Service {
    /// It ends with the process.
    pub fn start(host: &Namespace) -> Self {
        let any = (Ipv6Addr::UNSPECIFIED, 0);
        let (listener, echo) = host.inside(|| {
            let listener = TcpListener::bind(any).unwrap();
            let port = listener.local_addr().unwrap().port();
            // Through IPv4: a socket of [::] answers from any address there.
            (listener, UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap())
        });
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || serve(stream.unwrap()));
            }
        });
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = echo.recv_from(&mut buffer).unwrap();
                let _ = echo.send_to(&buffer[..length], from);
            }
        });
        Self { port }
    }

    /// Sends as much as can be in this time. Returns how many octets arrived.
    pub fn bulk(
        &self,
        client: &Namespace,
        to: SocketAddr,
        direction: Direction,
        flows: usize,
        time: Duration,
    ) -> u64 {
        let streams: Vec<_> =
            client.inside(|| (0..flows).map(|_| TcpStream::connect(to).unwrap()).collect());
        let run = |stream| thread::spawn(move || flow(stream, direction, time));
        let threads: Vec<_> = streams.into_iter().map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }

    /// Asks for this time, and returns how often it was answered.
    pub fn echoes(&self, client: &Namespace, to: SocketAddr, time: Duration) -> u64 {
        let socket = client.inside(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
        socket.connect(to).unwrap();
        // One that is lost is asked again: a full queue is no reason to stop.
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (mut answered, begin) = (0, Instant::now());
        let (request, mut answer) = ([7; ECHO], [0; 2048]);
        let send = |count: usize| (0..count).for_each(|_| drop(socket.send(&request)));
        send(WINDOW);
        while begin.elapsed() < time {
            match socket.recv(&mut answer) {
                Ok(_) => {
                    answered += 1;
                    send(1);
                }
                Err(_) => send(WINDOW),
            }
        }
        answered
    }
}

pub fn reaches(client: &Namespace, to: SocketAddr) -> bool {
    let patience = Duration::from_millis(300);
    client.inside(|| TcpStream::connect_timeout(&to, patience)).is_ok()
}

/// The first octet says what is wanted.
fn serve(mut stream: TcpStream) {
    let mut wanted = [0];
    if stream.read_exact(&mut wanted).is_err() {
        return;
    }
    if wanted == *b"d" {
        let block = vec![7; BLOCK];
        while stream.write_all(&block).is_ok() {}
    } else {
        let count = sink(&mut stream, None);
        let _ = stream.write_all(&count.to_be_bytes());
    }
}

fn flow(mut stream: TcpStream, direction: Direction, time: Duration) -> u64 {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let until = Instant::now() + time;
    if direction == Direction::Down {
        stream.write_all(b"d").unwrap();
        return sink(&mut stream, Some(until));
    }
    stream.write_all(b"u").unwrap();
    let block = vec![7; BLOCK];
    while Instant::now() < until {
        stream.write_all(&block).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    let mut count = [0; 8];
    stream.read_exact(&mut count).unwrap();
    u64::from_be_bytes(count)
}

/// Reads until the end, or for so long. Returns how many octets came.
fn sink(stream: &mut TcpStream, until: Option<Instant>) -> u64 {
    let (mut buffer, mut count) = (vec![0; BLOCK], 0);
    while until.is_none_or(|until| Instant::now() < until) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => count += length as u64,
        }
    }
    count
}
