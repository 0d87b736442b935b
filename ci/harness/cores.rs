//! A bound on time must hold however busy the cores are with something else.

/// Does this before all other processes, where that is allowed; what it starts stays before them.
pub fn before_others<T>(work: impl FnOnce() -> T) -> T {
    schedule(libc::SCHED_FIFO, 1);
    let done = work();
    schedule(libc::SCHED_OTHER, 0);
    done
}

/// Without the privilege it does nothing.
fn schedule(policy: i32, priority: i32) {
    // SAFETY: all that it consists of is numbers, for which 0 is a value.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: 0 is the calling thread; the parameters live for as long as the call.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
}
