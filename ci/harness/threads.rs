//! What threads of the server do, as far as the kernel tells.

use std::fs::{read_dir, read_to_string};

/// The folder in /proc of the thread with that name.
pub fn task(process: u32, name: &str) -> String {
    let tasks = read_dir(format!("/proc/{process}/task")).unwrap();
    let mut numbers = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    let is_it = |number: &String| {
        let comm = read_to_string(format!("/proc/{process}/task/{number}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let number = numbers.find(is_it).unwrap_or_else(|| panic!("no thread {name}"));
    format!("{process}/task/{number}")
}

/// How often the thread that asks the kernel for live connections has gone to rest so far. When it
/// is two more it has looked once at least from beginning to end.
pub fn looks(process: u32) -> usize {
    let task = task(process, "connections");
    let status = read_to_string(format!("/proc/{task}/status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}
