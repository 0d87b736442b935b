//! How a receive buffer is divided: head room, what comes with a datagram, the payload.
//!
//! ```text
//! 0            RECEIVE_START   + 16    + 16              PAYLOAD_AT (no control data: earlier)
//! │ head room   │ ring's header │ name │ control data     │ payload, up to PAYLOAD_MAX octets
//! ```
//!
//! A ring puts the payload right behind the control data that it was told to expect; the other backend
//! always at [`PAYLOAD_AT`].

use std::mem::size_of;

use crate::handoff::message::{HEAD_ROOM, PAYLOAD_MAX};

use super::cmsg;

/// `struct io_uring_recvmsg_out`: four u32, the lengths of name, control and payload, and flags.
pub(crate) const RING_HEADER: usize = 16;
/// `struct sockaddr_in`.
pub(crate) const NAME: usize = size_of::<libc::sockaddr_in>();
/// Where the kernel begins to write in a slot: behind the head room, on a cache line.
pub(crate) const RECEIVE_START: usize = HEAD_ROOM.next_multiple_of(64);
/// Where the name, the sender's address, stands.
pub(crate) const NAME_AT: usize = RECEIVE_START + RING_HEADER;
/// Where the control data stands.
pub(crate) const CONTROL_AT: usize = NAME_AT + NAME;
/// Behind all the control data that there can be.
pub(crate) const PAYLOAD_AT: usize = CONTROL_AT + cmsg::SPACE_MAX;
const PAGE: usize = 4096;
/// From one slot to the next, in octets. Of a slot, only the pages that were ever used cost memory.
pub(crate) const SLOT_SIZE: usize = (PAYLOAD_AT + PAYLOAD_MAX).next_multiple_of(PAGE);
/// What the kernel may write into one slot.
pub(crate) const RECEIVE_MAX: usize = SLOT_SIZE - RECEIVE_START;

const _: () = assert!(RECEIVE_START >= HEAD_ROOM);
const _: () = assert!(CONTROL_AT.is_multiple_of(align_of::<libc::cmsghdr>()));
