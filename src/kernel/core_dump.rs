//! What a core dump of this process holds: no memory, as the memory holds MAC keys, tokens and
//! authenticators.
//!
//! They are all over the heap, in tables and buffers, and copies of them are on stacks. So it is
//! not one place that is kept out, but all memory that is not of a file: what is left says by what
//! signal the program ended, and where its threads were. The process stays as it is to those who
//! may look into it while it runs.
//!
//! Whoever wants all of it sets another filter than the kernel's default before the start
//! (`CoredumpFilter=` in systemd, /proc/self/coredump_filter in a shell): that is left alone.

use std::fs;

/// Bits of core(5), inherited by children: the kernel's default, with private and shared anonymous
/// memory.
const DEFAULT: u32 = 0x33;
/// The first page of mapped files, by which a debugger knows them.
const WITHOUT_MEMORY: u32 = 0x10;
const FILTER: &str = "/proc/self/coredump_filter";

/// Keeps memory out of core dumps of this process. Without /proc all is as before.
pub fn without_memory() {
    let filter = fs::read_to_string(FILTER).unwrap_or_default();
    if u32::from_str_radix(filter.trim(), 16) == Ok(DEFAULT) {
        // Refused where /proc cannot be written: nothing is lost but this.
        let _ = fs::write(FILTER, format!("{WITHOUT_MEMORY:#x}"));
    }
}
