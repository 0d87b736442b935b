//! What the operating system does for us: clock, entropy, signals, sockets, io_uring, TUN devices, steering, live
//! connections, huge pages. The only room with `unsafe`, and each block of it says why it is sound.
//!
//! Uses nothing of the rooms above but the types that it hands over. Decides nothing of the protocol.

pub mod backend;
pub mod clock;
mod cmsg;
pub mod entropy;
pub mod holder;
pub mod huge_pages;
pub mod interface;
mod mapping;
pub mod mmsg;
mod outgoing;
pub mod ring;
pub mod signals;
mod slot;
pub mod sock_diag;
pub mod socket;
pub mod stderr;
pub mod tun;
pub mod waker;
