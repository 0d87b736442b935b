//! What a test does that cannot run here.

use std::fs::OpenOptions;
use std::io::Write;

/// Fails the test with what it wants. `ci/test` names a file by `CI_SKIPS`: what stands there was
/// not tested, and is counted as skipped instead of failed.
pub fn cannot_run(wants: &str) -> ! {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let reason = wants.trim().replace('\n', "; ");
    if let Some(path) = std::env::var_os("CI_SKIPS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{test}: {reason}\n").as_bytes()).unwrap();
    }
    panic!("{test} cannot run here: {reason}");
}
