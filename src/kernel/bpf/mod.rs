//! Programs in the kernel (eBPF) that tell programs on this host who their peer is, and the maps
//! that they look into.
//!
//! The programs are short, so they are assembled here: who builds us needs no compiler for them.
//! What they do stands in [`peer_names`], how in `programs`; `call` is the system call, `assembler`
//! the instructions.
//!
//! Not the crate aya: it loads object files of a compiler, and we have none.

mod assembler;
mod call;
mod layout;
mod map;
pub mod names;
pub mod peer_names;
pub mod place;
mod programs;
mod words;

pub use call::{BpfError, BpfStep, MapShape};
pub use map::BpfMap;
