//! The journal's format: changes as records, and records in files. This page is its documentation.
//!
//! A pure codec: octets in, [`Record`]s out, and back. It knows no files; `storage` writes, reads
//! and replaces them. Decoding never panics and never yields what was not written.
//!
//! All numbers are unsigned and in network order.
//!
//! # Files
//!
//! A file is a header and then records, without gaps. It is a *segment* (changes as they happened)
//! or a *snapshot* (changes that make the state that all earlier segments of its shard led to).
//! Segments of a shard are numbered without gaps; snapshot *n* is the state before segment *n*.
//!
//! | at | octets | header |
//! | --- | --- | --- |
//! | 0 | 8 | `NAT64jnl` |
//! | 8 | 2 | version of the format: 3; 2 is the same without changes 12 and 13, 1 also without 11 |
//! | 10 | 1 | kind: 1 segment, 2 snapshot |
//! | 11 | 1 | 0 |
//! | 12 | 2 | shard, from 0 |
//! | 14 | 2 | shards of the epoch |
//! | 16 | 8 | epoch |
//! | 24 | 8 | number of the file |
//! | 32 | 8 | snapshot: number of the record that comes next in the segments; segment: 0 |
//! | 40 | 8 | snapshot: number of the event that comes next in the segments; segment: 0 |
//! | 48 | 8 | time at which the file was made, in microseconds since 1970 |
//! | 56 | 2 | handoff port |
//! | 58 | 2 | 0 |
//! | 60 | 16 | boot: which run of the machine made the file (0: not known) |
//! | 76 | 4 | CRC32C of the octets before it |
//!
//! In every version the first 10 octets mean this, the header has 80 octets, and its last 4 are
//! this checksum.
//!
//! # Records
//!
//! | at | octets | record |
//! | --- | --- | --- |
//! | 0 | 4 | length of the body, 1 to 262144 |
//! | 4 | 8 | number of the record |
//! | 12 | 8 | events of the shard before the record |
//! | 20 | 8 | number of the last record of the shard that was known to be synced by then |
//! | 28 | 8 | time of all changes in the record, in microseconds since 1970 |
//! | 36 | 4 | CRC32C of the body |
//! | 40 | 4 | CRC32C of the *seal* and then of the octets before it |
//! | 44 | | body: changes |
//!
//! The seal is kind (1 octet), shard (2), epoch (8), number (8) and boot (16) of the file, so that
//! a record is valid in its own file alone. No remote knows the boot, so nothing that it sends,
//! like a token, can look like a record when the next one is searched for behind damage. The
//! records of a shard are numbered from 1 through all segments of an epoch; those of a snapshot
//! from 1 in each snapshot. There are two checksums so that the length is checked before it is
//! used, and a flipped octet is found wherever it is.
//!
//! An *event* is a change that has a line in the event log (`Initialized`, `Created`, `Deleted`,
//! `Conflict`, `Forgotten`, `Named`, `Unnamed`) and stands in a segment. Those of a shard are
//! numbered from 0 in an epoch.
//!
//! # Changes
//!
//! A change is an octet that says which, and fields:
//!
//! | octet | change | fields |
//! | --- | --- | --- |
//! | 1 | table of the changes up to the next 1 | local address (4), NAT64 address (4) |
//! | 2 | `Initialized` | |
//! | 3 | `Created` | mapped port (2), prefix (12), client address (16), client port (2) |
//! | 4 | `Deleted` | as `Created` |
//! | 5 | `Conflict` | as `Created` |
//! | 6 | `IdentityKnown` | control port (2), half the token's length (1), token |
//! | 7 | `AuthenticatorLearned` | client address (16), half its length (1), authenticator |
//! | 8 | `IdentityForgotten` | as `IdentityKnown` |
//! | 9 | `Used` | mapped port (2) |
//! | 10 | the file ends with this record, of which this is the only change | |
//! | 11 | `Forgotten` | |
//! | 12 | `Named` | address of the pool (4), bits of the client's network (1), network (16) |
//! | 13 | `Unnamed` | as `Named` |
//!
//! The table of a name is the block of 64 addresses of the pool that its address is in: the local
//! address is 0.0.0.0, and the NAT64 address the first of the block. It has names alone.
//!
//! A program reads the newest version that it knows and all before it, and writes version 3 where
//! names of the pool may be recorded or there are some, else 2, so that an earlier release can go
//! on. What it does not know is a newer version, which it refuses by name: so a new kind of change
//! needs a new version, and files of both stand in an epoch side by side.
//!
//! A snapshot has each table once, in the order of their keys. A table starts a new record, whose
//! first change is `Initialized` and whose time is that of the initialization. Then come its
//! identities and its entries, both from the least to the most recently used, and a `Conflict` for
//! each port that is avoided: of that, only the port means anything. Of a block of the pool,
//! `Initialized` means nothing, and its names come, by address; a block without names is left out.
//! The snapshot ends with an end record.
//!
//! # What is torn, and what is damaged
//!
//! A writer that was killed leaves a part of a record, or a few records, at the end of the last
//! segment: nothing valid is behind that. A power cut may also leave a hole with valid records
//! behind it; then no record behind the hole says that the missing ones had been synced, and the
//! machine has another boot than the file. The sync policy had promised neither, and both are cut
//! off. Everything else that is not as described here is damage, and only a repair skips it.

mod change;
mod fields;
mod header;
mod position;
mod record;

pub use change::{Growth, RawChange, changes_in, encode_change, growth_in};
pub use header::{
    FileId, FileKind, HEADER_LENGTH, Header, HeaderError, Seal, VERSION, VERSION_WITHOUT_NAMES,
};
pub use position::{Position, RecordNumber};
pub use record::{
    BODY_MAX, Changes, Encoder, Invalid, RECORD_HEADER_LENGTH, RECORD_MAX, Record, encode,
    encode_end,
};

#[cfg(test)]
mod tests;
