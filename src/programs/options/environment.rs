//! What the process was given besides its command line: variables, CPUs and memory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::thread;

/// Where variables and the defaults that depend on the machine are taken from.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The environment variables.
    pub variables: BTreeMap<OsString, OsString>,
    /// CPUs that we may use, if that is known.
    pub cpus: Option<usize>,
    /// Memory of the machine in octets, if that is known.
    pub memory: Option<u64>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            cpus: thread::available_parallelism().ok().map(usize::from),
            memory: memory_total(),
        }
    }

    /// The value of a variable. One that is set to the empty string counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value.as_os_str())
    }

    /// A directory that systemd made for the service; of several (`a:b`), the first.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        std::env::split_paths(self.variable(name)?)
            .next()
            .filter(|path| !path.as_os_str().is_empty())
    }
}

/// The machine's memory in octets.
pub(super) fn memory_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibioctets: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibioctets.checked_mul(1024)
}
