//! Signals of the process.

/// That nobody reads a pipe or socket any more is an error of the write, and does not end the program: as at the
/// start of every Rust program.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: no handler is set, so nothing of ours is called.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
