//! What a thread yields to others.
//!
//! Not here: the scheduling of reactors, which have the usual priority.

use rustix::process::setpriority_process;

/// The least of the priorities that share a core.
const NICE_MAX: i32 = 19;
/// Of `ioprio_set`: the thread of this number, or the calling one.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// Reads and writes when nobody else does.
const IOPRIO_IDLE: libc::c_int = 3 << 13;

/// From now on, the calling thread computes, reads and writes after all others. Where that is
/// refused, it stays as it was.
pub fn lower() {
    // To Linux, a process that is not named is the calling thread.
    let _ = setpriority_process(None, NICE_MAX);
    // SAFETY: takes numbers alone.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getpriority_process;

    #[test]
    fn the_calling_thread_alone_is_lowered() {
        let before = getpriority_process(None).unwrap();
        std::thread::spawn(|| {
            lower();
            assert_eq!(getpriority_process(None).unwrap(), NICE_MAX);
            // SAFETY: takes numbers alone.
            let io = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
            assert_eq!(io, i64::from(IOPRIO_IDLE));
        })
        .join()
        .unwrap();
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
