//! The programs of [`super::peer_names`], as instructions.

use std::os::fd::BorrowedFd;

use super::assembler::{Assembler, Condition, Function, Instruction, Register, Width};
use super::layout::{
    CHECK_AT, CHECK_MULTIPLIER, CLIENT_AT, CLIENT_PORT_AT, CURRENT_AT, GENERATION_AT, NAMESPACE_AT,
    PEER_OCTETS, POOL_AT, UNTIL_AT, VALID_MAX,
};

/// In `struct bpf_sock_addr`.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;
const ADDRESS_SOCKET: i16 = 64;
/// In `struct bpf_sock_ops`.
const OPERATION: i16 = 0;
/// What the socket has sent itself: nothing yet, where it did not connect.
const SEGMENTS_OUT: i16 = 148;
const CONNECTION_SOCKET: i16 = 184;
/// In `struct bpf_sock`.
const FAMILY: i16 = 4;
const LOCAL_IP4: i16 = 24;
const PEER_PORT: i16 = 48;
const PEER_IP4: i16 = 52;
const PEER_IP6: i16 = 56;

/// This host opens a connection.
const CONNECTS: u32 = 3;
/// A connection that another host opened is established.
const PASSIVE_ESTABLISHED: u32 = 5;
const FAMILY_IPV4: u32 = 2;
const FAMILY_IPV6: u32 = 10;
/// Makes what is not there yet.
const CREATE: i32 = 1;
/// Leaves it at what is there.
const PRESENT: i32 = 0;

/// On the stack: the key, with zeros up to two words, and the value of a name.
const KEY_AT: i16 = -16;
const VALUE_AT: i16 = KEY_AT - CHECK_AT - 8;
const ZERO_AT: i16 = VALUE_AT - 8;

/// Gives a connection that is established its name: in AF_INET6 sockets, in AF_INET sockets, or in
/// both. A socket that connects loses the one that it had. Where the kernel can tell network
/// namespaces apart here, that is so in the server's alone.
pub(super) fn established(
    names: BorrowedFd<'_>,
    state: BorrowedFd<'_>,
    peers: BorrowedFd<'_>,
    ipv6: bool,
    ipv4: bool,
    tells_namespaces: bool,
) -> Vec<Instruction> {
    use Register::*;
    let mut program = Assembler::default();
    let p = &mut program;
    p.copy(R8, R1);
    p.load(Width::Word, R9, R8, OPERATION);
    p.unless_word(R9, Condition::Equal, CONNECTS, |p| {
        p.leave_if_word(R9, Condition::NotEqual, PASSIVE_ESTABLISHED);
    });
    p.load(Width::Double, R7, R8, CONNECTION_SOCKET);
    p.leave_if_null(R7, Condition::Equal);
    p.load(Width::Word, R6, R7, FAMILY);
    if !ipv4 {
        p.leave_if_word(R6, Condition::NotEqual, FAMILY_IPV6);
    }
    if !ipv6 {
        p.leave_if_word(R6, Condition::NotEqual, FAMILY_IPV4);
    }
    lose_where_it_connects(p, peers);
    // ::ffff:a.b.c.d, where it is no AF_INET socket.
    p.skip_if_word(R6, Condition::Equal, FAMILY_IPV4, 6);
    for (word, expected) in [(0, 0), (4, 0), (8, 0xffff_u32.to_be())] {
        p.load(Width::Word, R2, R7, PEER_IP6 + word);
        p.leave_if_word(R2, Condition::NotEqual, expected);
    }
    for (word, from) in [(0, LOCAL_IP4), (4, PEER_IP4), (8, PEER_PORT)] {
        p.load(Width::Word, R2, R7, from);
        p.store(Width::Word, R10, KEY_AT + word, R2);
    }
    p.store_word(R10, KEY_AT + 12, 0);
    // Most peers have no name.
    look_up(p, names, KEY_AT);
    for at in (0..=CHECK_AT).step_by(8) {
        p.load(Width::Double, R2, R0, at);
        p.store(Width::Double, R10, VALUE_AT + at, R2);
    }
    leave_unless_whole(p);
    p.skip_if_word(R6, Condition::NotEqual, FAMILY_IPV4, 2);
    p.load(Width::Word, R2, R10, VALUE_AT + POOL_AT);
    p.leave_if_word(R2, Condition::Equal, 0);
    leave_unless_valid(p, state, tells_namespaces);
    // Where there is no memory for it, the peer is what it is.
    storage(p, peers, CREATE);
    for at in (0..PEER_OCTETS).step_by(8) {
        p.load(Width::Double, R2, R10, VALUE_AT + at);
        p.store(Width::Double, R0, at, R2);
    }
    program.finish()
}

/// The socket `R7` loses its name, where that is the operation `R9`. It gets none either where the
/// other host connects at the same time: the kernel says then that the other one did.
fn lose_where_it_connects(p: &mut Assembler, peers: BorrowedFd<'_>) {
    use Register::*;
    p.unless_word(R9, Condition::Equal, PASSIVE_ESTABLISHED, |p| {
        storage(p, peers, PRESENT);
        p.store_word(R0, CLIENT_PORT_AT, 0);
        p.leave_if_word(R9, Condition::Equal, CONNECTS);
    });
    p.load(Width::Word, R2, R8, SEGMENTS_OUT);
    p.leave_if_word(R2, Condition::NotEqual, 0);
}

/// `R0` = the value of the key on the stack, or leaves.
fn look_up(p: &mut Assembler, map: BorrowedFd<'_>, key_at: i16) {
    use Register::*;
    p.map(R1, map);
    p.copy(R2, R10);
    p.add(R2, i32::from(key_at));
    p.call(Function::MapLookup);
    p.leave_if_null(R0, Condition::Equal);
}

/// `R0` = what `peers` has for the socket `R7`, or leaves.
fn storage(p: &mut Assembler, peers: BorrowedFd<'_>, flags: i32) {
    use Register::*;
    p.map(R1, peers);
    p.copy(R2, R7);
    p.set(R3, 0);
    p.set(R4, flags);
    p.call(Function::StorageGet);
    p.leave_if_null(R0, Condition::Equal);
}

/// Leaves where the name on the stack is not as it was made for this key.
fn leave_unless_whole(p: &mut Assembler) {
    use Register::*;
    p.set(R0, 0);
    p.set_wide(R4, CHECK_MULTIPLIER);
    let words = [KEY_AT, KEY_AT + 8].into_iter();
    for at in words.chain((VALUE_AT..VALUE_AT + CHECK_AT).step_by(8)) {
        p.load(Width::Double, R2, R10, at);
        p.exclusive_or(R0, R2);
        p.multiply(R0, R4);
        p.copy(R3, R0);
        p.shift_right(R3, 32);
        p.exclusive_or(R0, R3);
    }
    p.load(Width::Double, R2, R10, VALUE_AT + CHECK_AT);
    p.leave_if(R0, Condition::NotEqual, R2);
}

/// Leaves where the name on the stack does not count now, for the context `R8`. `R6` and `R9` are
/// lost.
fn leave_unless_valid(p: &mut Assembler, state: BorrowedFd<'_>, tells_namespaces: bool) {
    use Register::*;
    p.store_word(R10, ZERO_AT, 0);
    look_up(p, state, ZERO_AT);
    p.load(Width::Word, R2, R10, VALUE_AT + GENERATION_AT);
    p.load(Width::Word, R3, R0, CURRENT_AT);
    p.leave_if(R2, Condition::NotEqual, R3);
    p.load(Width::Double, R9, R0, UNTIL_AT);
    if tells_namespaces {
        p.load(Width::Double, R6, R0, NAMESPACE_AT);
        p.copy(R1, R8);
        p.call(Function::Namespace);
        p.leave_if(R0, Condition::NotEqual, R6);
    }
    p.call(Function::BootTime);
    p.leave_if(R0, Condition::Greater, R9);
    // Nor what no server says.
    p.set_wide(R2, VALID_MAX);
    p.add_register(R0, R2);
    p.leave_if(R9, Condition::Greater, R0);
}

/// The client is the peer of an AF_INET6 socket that has a name.
pub(super) fn tell_ipv6(peers: BorrowedFd<'_>) -> Vec<Instruction> {
    tell(peers, Width::Double, &[0, 8].map(|at| (CLIENT_AT + at, USER_IP6 + at)))
}

/// The address of the pool is the peer of an AF_INET socket that has a name.
pub(super) fn tell_ipv4(peers: BorrowedFd<'_>) -> Vec<Instruction> {
    tell(peers, Width::Word, &[(POOL_AT, USER_IP4)])
}

/// Parts of the name of a socket become parts of what is told of its peer, and the port, too.
fn tell(peers: BorrowedFd<'_>, width: Width, parts: &[(i16, i16)]) -> Vec<Instruction> {
    use Register::*;
    let mut program = Assembler::default();
    let p = &mut program;
    p.copy(R6, R1);
    p.load(Width::Double, R7, R6, ADDRESS_SOCKET);
    storage(p, peers, PRESENT);
    // No client has port 0: a name that is not written yet.
    p.load(Width::Word, R3, R0, CLIENT_PORT_AT);
    p.leave_if_word(R3, Condition::Equal, 0);
    for &(from, to) in parts {
        p.load(width, R2, R0, from);
        p.store(width, R6, to, R2);
    }
    p.store(Width::Word, R6, USER_PORT, R3);
    program.finish()
}
