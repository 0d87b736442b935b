//! What the operating system does for us: clock, entropy, signals, sockets, io_uring, TUN devices,
//! live TCP connections, names of peers (BPF), huge pages. The only room with `unsafe`, and each
//! block says why it is sound.
//!
//! It knows no more of the protocol than some types and sizes, and decides nothing of it.

pub mod addresses;
mod answers;
pub mod backend;
pub mod bpf;
pub mod clock;
mod cmsg;
pub mod confine;
pub mod core_dump;
pub mod entropy;
pub mod holder;
pub mod huge_pages;
pub mod interface;
pub mod limits;
pub mod link;
mod mapping;
pub mod memory;
pub mod mmsg;
mod netlink;
pub mod network;
mod outgoing;
pub mod priority;
pub mod release;
pub mod ring;
pub mod routes;
pub mod service;
pub mod signals;
mod slot;
pub mod sock_diag;
pub mod socket;
pub mod stderr;
pub mod successor;
pub mod tun;
pub mod tun_queue;
pub mod unacknowledged;
pub mod waker;
