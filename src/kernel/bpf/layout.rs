//! What the maps of [`super::peer_names`] are made of: the server writes them, and the programs
//! read them.
//!
//! Maps outlive the programs that made them. So what they mean has a version, which is the number
//! at the end of their names: it changes with any change here, also where all sizes stay.

use super::call::{MapShape, name_of};

const KIND_ARRAY: u32 = 2;
const KIND_SOCKET_STORAGE: u32 = 24;
/// Which a map of sockets must have.
const NOT_PREALLOCATED: u32 = 1;
/// A process may write into its memory, without a system call.
const MAPPED: u32 = 1 << 10;

/// The map of the names: buckets, which [`super::names`] fills.
pub const NAMES: MapShape = MapShape {
    name: name_of("n64_names_3"),
    kind: KIND_ARRAY,
    key_octets: 4,
    value_octets: BUCKET_WORDS * 8,
    flags: MAPPED,
};
/// The map of the state.
pub const STATE: MapShape = MapShape {
    name: name_of("n64_state_3"),
    kind: KIND_ARRAY,
    key_octets: 4,
    value_octets: 32,
    flags: 0,
};
/// The map of the names of sockets.
pub const PEERS: MapShape = MapShape {
    name: name_of("n64_peers_3"),
    kind: KIND_SOCKET_STORAGE,
    key_octets: 4,
    value_octets: PEER_OCTETS as usize,
    flags: NOT_PREALLOCATED,
};

/// A bucket has the tags of its slots first, which are together in a line of the cache.
pub const SLOTS: usize = 8;
/// Table, ports and pool, client, client, check.
pub const SLOT_WORDS: usize = 5;
pub const BUCKET_WORDS: usize = SLOTS + SLOTS * SLOT_WORDS;

/// In a slot, in octets; the table is first.
pub const SLOT_PORTS_AT: i16 = 8;
pub const SLOT_CLIENT_PORT_AT: i16 = 10;
pub const SLOT_POOL_AT: i16 = 12;
pub const SLOT_CLIENT_AT: i16 = 16;
pub const SLOT_CHECK_AT: i16 = 32;

/// In a value of `peers`.
pub const CLIENT_AT: i16 = 0;
pub const CLIENT_PORT_AT: i16 = 16;
pub const POOL_AT: i16 = 20;
pub const PEER_OCTETS: i16 = 24;

/// In the value of `state`. The first three are where former versions have them.
pub const CURRENT_AT: i16 = 0;
pub const NAMES_MAX_AT: i16 = 4;
pub const UNTIL_AT: i16 = 8;
pub const NAMESPACE_AT: i16 = 16;
pub const SEED_AT: i16 = 24;
/// A server never says that names are valid for longer than this, in nanoseconds.
pub const VALID_MAX: u64 = 10_000_000_000;

/// Odd, and as many ones as zeros: 2^64 divided by the golden ratio.
pub const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The types in [`peer_type`].
pub const TYPE_INTEGER: u32 = 1;
pub const TYPE_PEER: u32 = 2;

/// What the kernel wants to know of the map of sockets (BTF): its keys are integers of four octets,
/// and its values are arrays of these.
pub fn peer_type() -> Vec<u8> {
    const MAGIC: u16 = 0xeb9f;
    const VERSION: u8 = 1;
    const HEADER_OCTETS: u32 = 24;
    const KIND_INTEGER: u32 = 1 << 24;
    const KIND_ARRAY: u32 = 3 << 24;
    const BITS_SIGNED: u32 = 1 << 24 | 32;
    let count = PEER_OCTETS as u32 / 4;
    let mut types = vec![1, KIND_INTEGER, 4, BITS_SIGNED];
    types.extend([0, KIND_ARRAY, 0, TYPE_INTEGER, TYPE_INTEGER, count]);
    let types_octets = 4 * types.len() as u32;
    let names = b"\0int\0";
    let mut octets = Vec::new();
    octets.extend(MAGIC.to_ne_bytes());
    octets.extend([VERSION, 0]);
    for word in [HEADER_OCTETS, 0, types_octets, types_octets, names.len() as u32] {
        octets.extend(word.to_ne_bytes());
    }
    types.iter().for_each(|word| octets.extend(word.to_ne_bytes()));
    octets.extend(names);
    octets
}
