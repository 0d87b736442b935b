//! How a receive buffer is divided: head room, what comes with a datagram, the payload.
//!
//! ```text
//! 0            RECEIVE_START   + 16    + 16              PAYLOAD_AT (no control data: earlier)
//! │ head room   │ ring's header │ name │ control data     │ payload, up to PAYLOAD_MAX octets
//! ```
//!
//! A ring puts the payload right behind the control data that it was told to expect; `mmsg` always
//! puts it at [`PAYLOAD_AT`].

use crate::handoff::message::{HEAD_ROOM, PAYLOAD_MAX};

use super::cmsg::{self, NAME};

/// `struct io_uring_recvmsg_out`: four u32, the lengths of name, control and payload, and flags.
pub(crate) const RING_HEADER: usize = 16;
/// Where the kernel begins to write in a slot: after the head room, on a cache line.
pub(crate) const RECEIVE_START: usize = HEAD_ROOM.next_multiple_of(64);
/// The offset of the name, which is the sender's address.
pub(crate) const NAME_AT: usize = RECEIVE_START + RING_HEADER;
/// The offset of the control data.
pub(crate) const CONTROL_AT: usize = NAME_AT + NAME;
/// The offset of the payload after the most control data possible.
pub(crate) const PAYLOAD_AT: usize = CONTROL_AT + cmsg::SPACE_MAX;
const PAGE: usize = 4096;
/// Octets from one slot to the next. Only the pages of a slot that were ever used cost memory.
pub(crate) const SLOT_SIZE: usize = (PAYLOAD_AT + PAYLOAD_MAX).next_multiple_of(PAGE);
/// The most octets that the kernel may write to one slot.
pub(crate) const RECEIVE_MAX: usize = SLOT_SIZE - RECEIVE_START;

const _: () = assert!(RECEIVE_START >= HEAD_ROOM);
const _: () = assert!(CONTROL_AT.is_multiple_of(align_of::<libc::cmsghdr>()));
