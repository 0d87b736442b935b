//! What the system lets this process have: descriptors, memory, threads. And what to do where that
//! is not enough.

use std::fmt;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The descriptors that a program of ours has besides those of its reactors: standard input and
/// outputs, the runtime of the control plane, the state directory, the event log; the admin socket
/// with its connections.
const DESCRIPTORS_OTHERS: usize = 32 + 80;
/// Those of a reactor: its ring or the like, its eventfd, files of its journal while it is
/// compacted. Its sockets come on top.
const DESCRIPTORS_REACTOR: usize = 8;

/// Too few descriptors may be open at once. Its text ends in what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFew {
    needed: usize,
    allowed: u64,
    reactors: usize,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, allowed, reactors } = self;
        write!(
            f,
            "{reactors} reactors need about {needed} open files, and this process may have {allowed} (the hard limit \
             of RLIMIT_NOFILE): raise it (LimitNOFILE={needed} in systemd, `ulimit -Hn` in a shell)"
        )?;
        if *reactors > 1 {
            f.write_str(", or have fewer --reactors")?;
        }
        Ok(())
    }
}

impl std::error::Error for TooFew {}

/// Lifts the limit of memory that is locked, where this process may.
pub fn lock_any_memory() {
    // If that fails, it is as it was.
    let _ = setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
}

/// Raises the soft limit of descriptors to the hard one, and finds out whether that is enough for
/// this number of reactors with this number of sockets each.
///
/// # Errors
/// Where it is not: better now than in the middle of the start.
pub fn raise_descriptors(reactors: usize, sockets: usize) -> Result<(), TooFew> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // No limit is more than any number.
    let (soft, hard) = (current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX));
    if soft < hard {
        // If that fails, it is as it was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // Each socket once more, to be handed over.
    let needed = DESCRIPTORS_OTHERS + reactors * (DESCRIPTORS_REACTOR + 2 * sockets);
    match allowed < needed as u64 {
        true => Err(TooFew { needed, allowed, reactors }),
        false => Ok(()),
    }
}

/// An error of the system, with what to do about it where it is a limit that is reached.
pub fn explained(error: &io::Error) -> impl fmt::Display {
    match advice(error) {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}

/// What to do about an error where it is a limit that is reached.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    Some(match error.raw_os_error()? {
        libc::ENOSPC => "free some space (see df) or, where there is space, inodes (see df -i)",
        libc::EDQUOT => "free some space or files of this user, or raise its quota (see quota)",
        libc::EMFILE => {
            "this process may not open more files: raise the limit (LimitNOFILE= in systemd, \
             `ulimit -n`), or have fewer --reactors"
        }
        libc::ENFILE => "this machine has too many open files: raise sysctl fs.file-max",
        libc::EAGAIN => {
            "this service or user may not have more threads, or no memory for them: raise the limit \
             (TasksMax=, LimitNPROC= and LimitAS= in systemd, pids.max of the cgroup, sysctl \
             vm.overcommit_memory), or have fewer --reactors"
        }
        libc::ENOMEM | libc::ENOBUFS => {
            "this process gets no more memory: see its limits (MemoryMax=, LimitAS= and \
             LimitMEMLOCK= in systemd, sysctl vm.max_map_count and vm.overcommit_memory), or have \
             fewer --reactors"
        }
        libc::EFBIG => {
            "files may not be longer: raise the limit RLIMIT_FSIZE (LimitFSIZE= in systemd, `ulimit \
             -f`)"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_reached_is_explained_in_one_line() {
        for (errno, named) in [
            (libc::ENOSPC, "df -i"),
            (libc::EDQUOT, "quota"),
            (libc::EMFILE, "LimitNOFILE="),
            (libc::ENFILE, "fs.file-max"),
            (libc::EAGAIN, "TasksMax="),
            (libc::ENOMEM, "vm.max_map_count"),
            (libc::EFBIG, "LimitFSIZE="),
        ] {
            let line = explained(&io::Error::from_raw_os_error(errno)).to_string();
            assert!(line.contains(named) && !line.contains("  "), "{line}");
        }
        let other = io::Error::from_raw_os_error(libc::EIO);
        assert_eq!(explained(&other).to_string(), other.to_string());
    }

    #[test]
    fn descriptors_that_cannot_be_had_are_told_at_once() {
        raise_descriptors(1, 1).unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum, "the soft limit is raised");
        if let Some(maximum) = maximum {
            let line = raise_descriptors(maximum as usize, 1).unwrap_err().to_string();
            assert!(line.contains("LimitNOFILE=") && line.contains("fewer --reactors"), "{line}");
        }
    }
}
