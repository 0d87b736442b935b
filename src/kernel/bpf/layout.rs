//! What keys and values of the maps of [`super::peer_names`] are made of: the server writes them,
//! and the programs read them.

//!
//! Maps outlive the programs that made them. So what they mean has a version, which is the number
//! at the end of their names: it changes with any change here, also where all sizes stay.

use super::call::{MapShape, name_of};

const KIND_HASH: u32 = 1;
const KIND_ARRAY: u32 = 2;
const KIND_SOCKET_STORAGE: u32 = 24;
/// Which a map of sockets must have.
const NOT_PREALLOCATED: u32 = 1;

/// The map of the names.
pub const NAMES: MapShape = MapShape {
    name: name_of("n64_names_2"),
    kind: KIND_HASH,
    key_octets: 12,
    value_octets: 40,
    flags: 0,
};
/// The map of the state.
pub const STATE: MapShape = MapShape {
    name: name_of("n64_state_2"),
    kind: KIND_ARRAY,
    key_octets: 4,
    value_octets: 24,
    flags: 0,
};
/// The map of the names of sockets.
pub const PEERS: MapShape = MapShape {
    name: name_of("n64_peers_2"),
    kind: KIND_SOCKET_STORAGE,
    key_octets: 4,
    value_octets: PEER_OCTETS as usize,
    flags: NOT_PREALLOCATED,
};

/// In a value of `names`. The first [`PEER_OCTETS`] are the value of `peers`, too.
pub const CLIENT_AT: i16 = 0;
pub const CLIENT_PORT_AT: i16 = 16;
pub const POOL_AT: i16 = 20;
pub const GENERATION_AT: i16 = 24;
pub const CHECK_AT: i16 = 32;
pub const PEER_OCTETS: i16 = 24;
/// In the value of `state`.
pub const CURRENT_AT: i16 = 0;
pub const UNTIL_AT: i16 = 8;
pub const NAMESPACE_AT: i16 = 16;
/// A server never says that names are valid for longer than this, in nanoseconds.
pub const VALID_MAX: u64 = 10_000_000_000;

/// Odd, and as many ones as zeros: 2^64 divided by the golden ratio.
pub const CHECK_MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
