//! A run of the program under test, from its beginning to its end.

use crate::harness::process::Process;
use crate::harness::program::command;
use std::time::Duration;

/// How long a command may take, however busy the cores are.
const END_MAX: Duration = Duration::from_secs(60);

/// Runs the program until it ends: exit code, standard output, standard error.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut process = Process::spawn(command().args(arguments));
    let status = process.wait(END_MAX);
    let (out, err) = (process.stdout.get(), process.stderr.get());
    let status = status.unwrap_or_else(|| panic!("{arguments:?} does not end\n{err}"));
    (status.code().unwrap_or(-1), out, err)
}
