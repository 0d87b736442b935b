//! Servers without a protocol: what is left of the server when it is taken away.
//!
//! `uring` and `mmsg` are the server's own reactor with a shard that gives a fixed answer: the
//! lower limit of what the server can cost. `tokio` is what most would write. The answers have the
//! length of the server's, and are written in place in front of the packet, as the server's are.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nat64handoff::disk::eventlog::{Destination, EventLog, LogConfig, LogSync};
use nat64handoff::disk::fs::RealDisk;
use nat64handoff::handoff::change::LogFormat;
use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::message::{HEAD_ROOM, PAYLOAD_MAX};
use nat64handoff::handoff::server::{Batch, Datagram, Outbox};
use nat64handoff::handoff::stats::Stats;
use nat64handoff::kernel::backend::Backend;
use nat64handoff::kernel::clock::Clock;
use nat64handoff::kernel::mmsg::Mmsg;
use nat64handoff::kernel::ring::Ring;
use nat64handoff::kernel::socket::{self, ReactorSocket};
use nat64handoff::kernel::waker::EventWaker;
use nat64handoff::programs::serve::reactor::{ChangeRecorder, Reactor, Shard};

use crate::nat64::{CLIENT_REQUEST, MAPPING, REPORT_REQUEST};
use crate::net;

/// The echoes: name and meaning.
pub const ECHOES: [(&str, &str); 3] = [
    ("uring", "the reactor on io_uring, a fixed reply"),
    ("mmsg", "the same on recvmmsg and sendmmsg"),
    ("tokio", "tokio's UdpSocket, a loop of recv_from and send_to"),
];

/// Octets of `4` with 16 octets of data, and of `4, 6`.
const TOKEN: usize = 18;
const TOKEN_AUTHENTICATOR: usize = 36;

/// Runs until it is killed.
pub fn run(name: &str, address: SocketAddrV4) -> io::Result<()> {
    match name {
        "uring" => reactor(address, Ring::new),
        "mmsg" => reactor(address, Mmsg::new),
        "tokio" => tokio(address),
        _ => Err(io::Error::other("no such echo")),
    }
}

/// Where the packet of a request stands; the end of a report, which has none.
fn packet_of(payload: Range<usize>) -> Range<usize> {
    let start = match payload.len() {
        REPORT_REQUEST => payload.end,
        CLIENT_REQUEST => payload.start + TOKEN_AUTHENTICATOR,
        _ => (payload.start + TOKEN).min(payload.end),
    };
    start..payload.end
}

/// What is written in front of the packet. Nobody reads it.
const MAPPED: [u8; MAPPING] = [0x36; MAPPING];

struct Echo;

impl Shard for Echo {
    type Prepared = ();

    fn prepare(&self, _: TableKey, _: &[u8], _: usize, _: &mut [()]) {}

    fn prefetch(&self, _: &mut [()]) {}

    fn handle(&mut self, _: &Batch, datagram: Datagram<'_>, _: &(), outbox: &mut Outbox) {
        let to = datagram.source();
        let Datagram { index, buffer, payload, room, .. } = datagram;
        let packet = packet_of(payload);
        if packet.start < room + MAPPING {
            // It does not fail.
            let _ = outbox.copy(index, to, 0, |out| {
                out.extend_from_slice(&MAPPED);
                out.extend_from_slice(&buffer[packet]);
                Ok(())
            });
        } else {
            buffer[packet.start - MAPPING..packet.start].copy_from_slice(&MAPPED);
            outbox.in_place(index, to, 0, packet.start - MAPPING..packet.end);
        }
    }
}

fn reactor<B: Backend>(
    address: SocketAddrV4,
    backend: impl FnOnce(Vec<ReactorSocket>) -> io::Result<(B, EventWaker)>,
) -> io::Result<()> {
    let sockets = socket::bind_group(&[address], 1).map_err(io::Error::other)?.remove(0);
    let log = LogConfig {
        destination: Destination::Writer(Box::new(io::sink())),
        format: LogFormat::Plain,
        rotation: None,
        sync: LogSync::None,
        cursor: None,
        first_events: vec![0],
        clock: Clock::new(),
        threads: true,
    };
    let (_log, mut senders) = EventLog::start(&RealDisk, log, || {}).map_err(io::Error::other)?;
    let (backend, _waker) = backend(sockets)?;
    let stats = Arc::<Stats>::default();
    let mut recorder = Some(ChangeRecorder { journal: None, log: senders.remove(0) });
    let recorder = move || recorder.take();
    let mut reactor = Reactor::new(backend, Echo, recorder, Clock::new(), stats, |_| {});
    reactor.run(&AtomicBool::new(false))
}

fn tokio(address: SocketAddrV4) -> io::Result<()> {
    // With the same options as the server's, so that it has the same queue.
    let sockets = socket::bind_group(&[address], 1).map_err(io::Error::other)?.remove(0);
    let socket = UdpSocket::from(sockets[0].as_fd().try_clone_to_owned()?);
    drop(sockets);
    net::take_apart(&socket);
    socket.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_io().build();
    let echo = async move {
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        let mut buffer = vec![0; HEAD_ROOM + PAYLOAD_MAX];
        loop {
            let (length, from) = socket.recv_from(&mut buffer[HEAD_ROOM..]).await?;
            let packet = packet_of(HEAD_ROOM..HEAD_ROOM + length);
            let start = packet.start - MAPPING;
            buffer[start..packet.start].copy_from_slice(&MAPPED);
            drop(socket.send_to(&buffer[start..packet.end], from).await);
        }
    };
    runtime?.block_on(async { tokio::spawn(echo).await.map_err(io::Error::other)? })
}
