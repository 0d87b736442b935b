//! How a ring is made, what it is kept from, and how it receives.

use std::io;
use std::mem;

use io_uring::register::Restriction;
use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};

use super::{BUFFER_GROUP, COMPLETIONS, SUBMISSIONS};
use crate::kernel::cmsg::{NAME, receive_space};
use crate::kernel::socket::ReactorSocket;

/// From now on the ring takes only the operations that are used here: a filter of system calls
/// does not see what is submitted to a ring.
pub(super) fn restrict(uring: &IoUring) -> io::Result<()> {
    /// From linux/io_uring.h.
    const UNREGISTER_FILES: u8 = 3;
    const UNREGISTER_BUFFER_RING: u8 = 23;
    let flags =
        squeue::Flags::FIXED_FILE | squeue::Flags::BUFFER_SELECT | squeue::Flags::SKIP_SUCCESS;
    let operations = [
        opcode::RecvMsgMulti::CODE,
        opcode::SendMsg::CODE,
        opcode::Read::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel2::CODE,
    ];
    let registrations = [UNREGISTER_FILES, UNREGISTER_BUFFER_RING];
    let mut allowed: Vec<_> = operations.into_iter().map(Restriction::sqe_op).collect();
    allowed.extend(registrations.map(Restriction::register_op));
    allowed.push(Restriction::sqe_flags_allowed(flags.bits()));
    let submitter = uring.submitter();
    submitter.register_restrictions(&mut allowed)?;
    submitter.register_enable_rings()
}

/// A ring of the newest kind that this kernel makes.
pub(super) fn build() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_r_disabled()
        .setup_cqsize(COMPLETIONS);
    let mut faster = builder.clone();
    match faster.setup_no_sqarray().build(SUBMISSIONS) {
        // It exists since Linux 6.6.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => builder.build(SUBMISSIONS),
        outcome => outcome,
    }
}

/// The receive of a socket. The kernel reads only the lengths in its msghdr, when it is submitted.
/// The two possible ones are statics, so that the pointers are good at any time.
pub(super) fn receive(index: usize, socket: &ReactorSocket) -> squeue::Entry {
    struct ReceiveHeader(libc::msghdr);
    // SAFETY: its pointers are null and nothing writes to it, so all threads can read it.
    unsafe impl Sync for ReceiveHeader {}

    const fn header(control: usize) -> ReceiveHeader {
        // SAFETY: null pointers and zero lengths are a valid msghdr.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_namelen = NAME as _;
        header.msg_controllen = control as _;
        ReceiveHeader(header)
    }
    static BOUND: ReceiveHeader = header(receive_space(false));
    static WILDCARD: ReceiveHeader = header(receive_space(true));

    let header = if socket.is_wildcard() { &WILDCARD } else { &BOUND };
    opcode::RecvMsgMulti::new(Fixed(index as u32), &raw const header.0, BUFFER_GROUP).build()
}
