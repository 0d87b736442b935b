//! What a thread of the server does, as far as the kernel tells.

use std::fs::read_to_string;

/// How often the thread that asks the kernel for live connections has gone to rest so far. When it
/// is two more it has looked once at least from beginning to end.
pub fn looks(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let its = tasks.map(|task| task.unwrap().path()).find(|task| {
        read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == "connections")
    });
    let status = read_to_string(its.expect("a thread that looks").join("status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}
