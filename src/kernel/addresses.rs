//! Addresses, where this process may not have as many as it likes (RLIMIT_AS).

use std::fmt;

use rustix::process::{Resource, getrlimit};

use super::backend::Io;

/// Mebioctets of addresses that a server has besides those of its reactors, while it has no
/// entries: the program, its libraries, threads that answer the operator and make the history.
const OTHERS: u64 = if cfg!(feature = "fleet") { 50 } else { 40 };

/// Those of a thread that has its stack alone.
const STACK: u64 = 2;

/// Those of a reactor: the stacks of its threads, its ring, its buffers, what waits to be sent, its
/// journal.
fn of_reactor(io: Io) -> u64 {
    match io {
        Io::Uring => 15,
        Io::Mmsg => 27,
    }
}

/// There are too few addresses. Its text ends in what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFewAddresses {
    reactors: usize,
    /// Mebioctets.
    needed: u64,
    allowed: u64,
}

impl fmt::Display for TooFewAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reactors, needed, allowed } = self;
        write!(
            f,
            "{reactors} reactors need about {needed} MB of addresses without any entries, and this process may have \
             {allowed} (RLIMIT_AS): raise it (LimitAS= in systemd, `ulimit -v` in a shell)"
        )?;
        if *reactors > 1 {
            f.write_str(", or have fewer --reactors")?;
        }
        Ok(())
    }
}

impl std::error::Error for TooFewAddresses {}

/// Has all threads that start from now on allocate from one arena. Each would have one of its own
/// otherwise: 64 MiB of addresses, which may be limited, and no huge pages, as malloc asks the
/// kernel for those in the first arena alone ([`super::huge_pages`]). Whoever allocates at the same
/// time as others waits for them then: seldom, as a reactor that serves does not allocate.
pub fn share_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers alone, and is called while this is the only thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    };
}

/// Finds out whether there are addresses for this number of reactors, and before that for this
/// number of threads that fill their tables.
///
/// # Errors
/// Where there are not: better now than in the middle of the start.
pub fn check(reactors: usize, io: Io, threads: usize) -> Result<(), TooFewAddresses> {
    let Some(octets) = getrlimit(Resource::As).current else { return Ok(()) };
    let later = of_reactor(io) * reactors as u64;
    let (needed, allowed) = (OTHERS + later.max(STACK * threads as u64), octets >> 20);
    match allowed < needed {
        true => Err(TooFewAddresses { reactors, needed, allowed }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_addresses_are_told_with_what_to_do() {
        assert_eq!(check(1, Io::Uring, 9), Ok(()), "tests have no limit");
        let line = TooFewAddresses { reactors: 8, needed: 128, allowed: 127 }.to_string();
        assert!(line.starts_with("8 reactors need about 128 MB"), "{line}");
        assert!(line.contains("LimitAS=") && line.ends_with("fewer --reactors"), "{line}");
        let line = TooFewAddresses { reactors: 1, needed: 37, allowed: 35 }.to_string();
        assert!(!line.contains("--reactors"), "{line}");
    }
}
