//! What a completion is of, and what to do where the operation failed.

use std::io;

/// The most sockets of a ring.
pub const SOCKETS_MAX: usize = 256;

/// What a completion is of; its user data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// The multishot receive of the socket with this number.
    Receive(usize),
    /// The send of the message with this number among those that were laid out.
    Send(usize),
    /// The read of the waker's eventfd.
    Wake,
    /// The cancelling of all others.
    Cancel,
    /// The wait for what can be read where the backend is to watch.
    Watch,
    /// The wait for room in the send queue of a socket.
    Room,
}

impl Operation {
    pub(super) fn encode(self) -> u64 {
        match self {
            Operation::Receive(socket) => socket as u64,
            Operation::Wake => SOCKETS_MAX as u64,
            Operation::Cancel => SOCKETS_MAX as u64 + 1,
            Operation::Watch => SOCKETS_MAX as u64 + 2,
            Operation::Room => SOCKETS_MAX as u64 + 3,
            Operation::Send(message) => (SOCKETS_MAX + 4 + message) as u64,
        }
    }

    pub(super) fn decode(user_data: u64) -> Self {
        match (user_data as usize).checked_sub(SOCKETS_MAX) {
            None => Operation::Receive(user_data as usize),
            Some(0) => Operation::Wake,
            Some(1) => Operation::Cancel,
            Some(2) => Operation::Watch,
            Some(3) => Operation::Room,
            Some(message) => Operation::Send(message - 4),
        }
    }

    /// What to do about an operation that failed with `errno`.
    ///
    /// | operation | errno | meaning |
    /// | --- | --- | --- |
    /// | send | EMSGSIZE, EINVAL, EIO, EOPNOTSUPP | if GSO was used: send the replies one by one |
    /// | send | any | the replies are lost: full queue (EAGAIN), firewall (EPERM), no route, ... |
    /// | receive | ENOBUFS | every buffer is in use; the datagram waits in the socket |
    /// | receive | ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, ENETDOWN, EMSGSIZE | an earlier reply |
    /// | receive, wake | ECANCELED, EINTR, EAGAIN, ENOMEM, EOVERFLOW | passing trouble |
    /// | watch, room | any | as above: what is wrong there is seen where it is read |
    /// | receive, wake | else (EINVAL, EBADF, EOPNOTSUPP, ...) | our mistake, or a kernel too old |
    /// | cancel | any | what was to be cancelled has ended, or is ending |
    pub(super) fn on_error(self, errno: i32) -> Remedy {
        match (self, errno) {
            (Operation::Send(message), _) => Remedy::Refused(message),
            (Operation::Cancel, _) => Remedy::Ignore,
            (
                Operation::Receive(_),
                libc::ENOBUFS
                | libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EMSGSIZE,
            )
            | (
                Operation::Receive(_) | Operation::Wake,
                libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::EOVERFLOW,
            ) => Remedy::ArmAgain,
            (Operation::Watch | Operation::Room, _) => Remedy::ArmAgain,
            (Operation::Receive(_) | Operation::Wake, _) => Remedy::End,
        }
    }
}

/// What is done about a failed operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The message with this number did not leave: see `Outgoing::refuse`.
    Refused(usize),
    Ignore,
    ArmAgain,
    /// The reactor ends with this error.
    End,
}

/// What io_uring_enter's own errors mean: whether the ring can go on.
///
/// ETIME and EINTR end a wait. EAGAIN and EBUSY ask us to try again when there is memory, or when
/// completions were taken. Others end the reactor: EBADR says that completions are lost, so that we
/// no longer know which buffers are ours; EEXIST that this is not the ring's thread.
pub(super) fn can_go_on(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::outgoing::MESSAGES_MAX;

    #[test]
    fn user_data_tells_operations_apart() {
        for operation in [
            Operation::Receive(0),
            Operation::Receive(SOCKETS_MAX - 1),
            Operation::Send(0),
            Operation::Send(MESSAGES_MAX - 1),
            Operation::Wake,
            Operation::Cancel,
            Operation::Watch,
            Operation::Room,
        ] {
            assert_eq!(Operation::decode(operation.encode()), operation);
        }
    }

    #[test]
    fn errors_have_their_remedies() {
        let receive = Operation::Receive(3);
        for errno in [libc::ENOBUFS, libc::ECONNREFUSED, libc::EINTR] {
            assert_eq!(receive.on_error(errno), Remedy::ArmAgain);
        }
        for errno in [libc::EINVAL, libc::EBADF, libc::EFAULT] {
            assert_eq!(receive.on_error(errno), Remedy::End);
            assert_eq!(Operation::Wake.on_error(errno), Remedy::End);
            assert_eq!(Operation::Send(7).on_error(errno), Remedy::Refused(7));
            assert_eq!(Operation::Cancel.on_error(errno), Remedy::Ignore);
        }
        assert_eq!(Operation::Wake.on_error(libc::ENOBUFS), Remedy::End);
        let error = io::Error::from_raw_os_error;
        assert!(can_go_on(&error(libc::ETIME)) && can_go_on(&error(libc::EINTR)));
        assert!(!can_go_on(&error(libc::EBADR)) && !can_go_on(&error(libc::EEXIST)));
    }
}
