//! The programs of [`super::peer_names`], as instructions.

use std::os::fd::{AsFd, BorrowedFd};

use super::assembler::{Assembler, Condition, Function, Instruction, Label, Register, Width};
use super::layout::{
    CLIENT_AT, CLIENT_PORT_AT, CURRENT_AT, MULTIPLIER, NAMESPACE_AT, POOL_AT, SEED_AT,
    SLOT_CHECK_AT, SLOT_CLIENT_AT, SLOT_CLIENT_PORT_AT, SLOT_POOL_AT, SLOT_PORTS_AT, SLOT_WORDS,
    SLOTS, UNTIL_AT, VALID_MAX,
};
use super::map::BpfMap;

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

/// On the stack: addresses of the table, the number of a bucket, and what is in a slot.
const TABLE_AT: i16 = -8;
const BUCKET_AT: i16 = -16;
const SLOT_AT: i16 = BUCKET_AT - 8 * SLOT_WORDS as i16;

/// Gives a connection that is established its name: in AF_INET6 sockets, in AF_INET sockets, or in
/// both. A socket that connects loses the one that it had. Where the kernel can tell network
/// namespaces apart here, that is so in the server's alone.
pub(super) fn established(
    names: &BpfMap,
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
    for (word, from) in [(0, LOCAL_IP4), (4, PEER_IP4)] {
        p.load(Width::Word, R2, R7, from);
        p.store(Width::Word, R10, TABLE_AT + word, R2);
    }
    hash(p, state);
    // Most peers have no name.
    find(p, names);
    copy_if_whole(p, state);
    p.load(Width::Half, R2, R10, SLOT_AT + SLOT_CLIENT_PORT_AT);
    p.leave_if_word(R2, Condition::Equal, 0);
    p.skip_if_word(R6, Condition::NotEqual, FAMILY_IPV4, 2);
    p.load(Width::Word, R2, R10, SLOT_AT + SLOT_POOL_AT);
    p.leave_if_word(R2, Condition::Equal, 0);
    leave_unless_valid(p, state, tells_namespaces);
    // Where there is no memory for it, the peer is what it is.
    storage(p, peers, CREATE);
    for (width, from, to) in [
        (Width::Double, SLOT_CLIENT_AT, CLIENT_AT),
        (Width::Double, SLOT_CLIENT_AT + 8, CLIENT_AT + 8),
        (Width::Word, SLOT_POOL_AT, POOL_AT),
    ] {
        p.load(width, R2, R10, SLOT_AT + from);
        p.store(width, R0, to, R2);
    }
    p.load(Width::Half, R2, R10, SLOT_AT + SLOT_CLIENT_PORT_AT);
    p.store(Width::Word, R0, CLIENT_PORT_AT, R2);
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

/// `hash` = the hash of all words before, and of `word`, for the multiplier in `R4`. `R3` is lost.
fn mix(p: &mut Assembler, hash: Register, word: Register) {
    use Register::*;
    p.exclusive_or(hash, word);
    p.multiply(hash, R4);
    p.copy(R3, hash);
    p.shift_right(R3, 32);
    p.exclusive_or(hash, R3);
}

/// `R9` = the hash of the table on the stack, and of the port of the socket `R7`.
fn hash(p: &mut Assembler, state: BorrowedFd<'_>) {
    use Register::*;
    p.map_value(R1, state);
    p.load(Width::Double, R9, R1, SEED_AT);
    p.set_wide(R4, MULTIPLIER);
    p.load(Width::Double, R2, R10, TABLE_AT);
    mix(p, R9, R2);
    p.load(Width::Word, R2, R7, PEER_PORT);
    mix(p, R9, R2);
}

/// `R0` = the slot that has the tag of the hash `R9`, or leaves.
fn find(p: &mut Assembler, names: &BpfMap) {
    use Register::*;
    let mut found = Label::default();
    for half in [0, 32] {
        p.copy(R2, R9);
        p.shift_left(R2, half);
        p.shift_right(R2, 32);
        p.multiply_by(R2, names.entries_max().cast_signed());
        p.shift_right(R2, 32);
        p.store(Width::Word, R10, BUCKET_AT, R2);
        p.map(R1, names.as_fd());
        p.copy(R2, R10);
        p.add(R2, i32::from(BUCKET_AT));
        p.call(Function::MapLookup);
        p.leave_if_null(R0, Condition::Equal);
        p.copy(R1, R9);
        p.or(R1, 1);
        for slot in 0..SLOTS as i32 {
            p.load(Width::Double, R2, R0, 8 * slot as i16);
            let at = 8 * (SLOTS + SLOT_WORDS * slot as usize) as i32;
            p.go_if_equal(R1, R2, (R0, at), &mut found);
        }
    }
    p.leave_unless_gone(found);
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

/// The name in the slot `R0` is on the stack, as it was when it was given to the hash `R9` in the
/// generation that is valid; or leaves. `R9` is lost.
fn copy_if_whole(p: &mut Assembler, state: BorrowedFd<'_>) {
    use Register::*;
    p.map_value(R1, state);
    p.load(Width::Word, R2, R1, CURRENT_AT);
    p.exclusive_or(R9, R2);
    p.set_wide(R4, MULTIPLIER);
    for at in (SLOT_PORTS_AT..SLOT_CHECK_AT).step_by(8) {
        p.load(Width::Double, R2, R0, at);
        p.store(Width::Double, R10, SLOT_AT + at, R2);
        mix(p, R9, R2);
    }
    p.load(Width::Double, R2, R0, SLOT_CHECK_AT);
    p.leave_if(R9, Condition::NotEqual, R2);
}

/// Leaves where no name counts now, for the context `R8`. `R9` is lost.
fn leave_unless_valid(p: &mut Assembler, state: BorrowedFd<'_>, tells_namespaces: bool) {
    use Register::*;
    if tells_namespaces {
        p.copy(R1, R8);
        p.call(Function::Namespace);
        p.map_value(R1, state);
        p.load(Width::Double, R2, R1, NAMESPACE_AT);
        p.leave_if(R0, Condition::NotEqual, R2);
    }
    p.map_value(R1, state);
    p.load(Width::Double, R9, R1, UNTIL_AT);
    p.call(Function::BootTime);
    p.leave_if(R0, Condition::Greater, R9);
    // Nor what no server says.
    p.set_wide(R2, VALID_MAX);
    p.add_register(R0, R2);
    p.leave_if(R9, Condition::Greater, R0);
}

/// Nothing.
pub(super) fn empty() -> Vec<Instruction> {
    Assembler::default().finish()
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
