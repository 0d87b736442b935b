//! The target `journal`: the codec of the journal, and all reading of a state directory at start.
//!
//! The first octet of an input says which of three it is:
//! - octets that are read as a header, as a record's body behind checksums that fit, and as a file;
//! - a program that writes the files of a state directory, and then flips octets of them: what
//!   `Storage::open_at` has to say of that is known exactly;
//! - the same, and any other damage: what it replays must be what was written, in order, from the
//!   beginning.
//!
//! | file | what it has |
//! | --- | --- |
//! | `input` | an input, octet by octet |
//! | `codec` | the first of the three |
//! | `memory` | a disk |
//! | `written` | the program that writes files, and what it wrote |
//! | `read` | the damage, and what a start says of it |
//!
//! Octets are never made up where a checksum covers them: the fuzzer could make up the checksum as
//! well.

mod codec;
mod input;
mod memory;
mod read;
mod written;

use input::Input;

/// `data` is one of the three above.
pub fn check(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => codec::check(input.0),
        1 => read::flipped(&mut input),
        _ => read::damaged(&mut input),
    }
}
