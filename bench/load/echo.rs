//! Servers that do no work: what is left when the protocol is taken away.
//!
//! `uring` is the server's own reactor with a shard that gives a fixed answer: the limit for the server.
//! `tokio` is what most would write. Each answers with as many octets as the server would, written in place in
//! front of the packet, as the server does.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nat64handoff::change::{LogFormat, Now};
use nat64handoff::eventlog::{Destination, EventLog, LogConfig, LogSync};
use nat64handoff::reactor::{Clock, Reactor, Shard};
use nat64handoff::ring::Ring;
use nat64handoff::server::{Body, Datagram, Outbox, Reply};
use nat64handoff::socket;
use nat64handoff::stats::Stats;
use nat64handoff::wire::{HEAD_ROOM, PAYLOAD_MAX};

use crate::nat64::{CLIENT_REQUEST, MAPPING, REPORT_REQUEST};

/// The echoes there are, and what they are.
pub const ECHOES: [(&str, &str); 2] = [
    ("uring", "the reactor on io_uring, a fixed reply"),
    ("tokio", "tokio's UdpSocket, a loop of recv_from and send_to"),
];

/// Octets of `4` with 16 octets of data, and of `4, 6`.
const TOKEN: usize = 18;
const TOKEN_AUTHENTICATOR: usize = 36;

/// Runs until it is killed.
pub fn run(name: &str, address: SocketAddrV4) -> io::Result<()> {
    match name {
        "uring" => uring(address),
        "tokio" => tokio(address),
        _ => Err(io::Error::other("no such echo")),
    }
}

/// Writes a reply of the server's length in front of the packet, or of the end of a report; where it stands.
fn reply(buffer: &mut [u8], payload: Range<usize>) -> Range<usize> {
    let packet = match payload.len() {
        REPORT_REQUEST => payload.end,
        CLIENT_REQUEST => payload.start + TOKEN_AUTHENTICATOR,
        _ => (payload.start + TOKEN).min(payload.end),
    };
    let start = packet - MAPPING;
    buffer[start..packet].fill(0x36);
    start..payload.end
}

struct Echo;

impl Shard for Echo {
    fn handle(&mut self, _: Now, datagram: Datagram<'_>, outbox: &mut Outbox) {
        let Datagram { table, port, buffer, payload } = datagram;
        let to = SocketAddrV4::new(table.nat64, port);
        let body = Body::InPlace(reply(buffer, payload));
        outbox.replies.push(Reply { datagram: outbox.datagram, to, body, after: 0 });
    }
}

fn uring(address: SocketAddrV4) -> io::Result<()> {
    let sockets = socket::bind_group(&[address], 1).map_err(io::Error::other)?.remove(0);
    let log = LogConfig {
        destination: Destination::Writer(Box::new(io::sink())),
        format: LogFormat::Plain,
        sync: LogSync::None,
        cursor: None,
        first_events: vec![0],
    };
    let (_log, mut senders) = EventLog::start(log, || {}).map_err(io::Error::other)?;
    let (ring, _waker) = Ring::new(sockets)?;
    let stats = Arc::<Stats>::default();
    let sender = senders.remove(0);
    let mut reactor = Reactor::new(ring, Echo, None, sender, Clock::new(), stats, |_| {});
    reactor.run(&AtomicBool::new(false))
}

fn tokio(address: SocketAddrV4) -> io::Result<()> {
    // With the same options as the server's, so that it has the same queue.
    let sockets = socket::bind_group(&[address], 1).map_err(io::Error::other)?.remove(0);
    let socket = UdpSocket::from(sockets[0].as_fd().try_clone_to_owned()?);
    drop(sockets);
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build();
    let echo = async move {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let mut buffer = vec![0; HEAD_ROOM + PAYLOAD_MAX];
        loop {
            let (length, from) = socket.recv_from(&mut buffer[HEAD_ROOM..]).await?;
            let reply = reply(&mut buffer, HEAD_ROOM..HEAD_ROOM + length);
            // A full queue loses it, as in the server.
            drop(socket.send_to(&buffer[reply], from).await);
        }
    };
    runtime?.block_on(async { tokio::spawn(echo).await.map_err(io::Error::other)? })
}
