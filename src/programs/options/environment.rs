//! What the process was given besides its command line: variables, CPUs and memory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::thread;

use crate::kernel::memory::{self, Memory};

/// Where variables and the defaults that depend on the machine are taken from.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The environment variables.
    pub variables: BTreeMap<OsString, OsString>,
    /// CPUs that we may use, if that is known.
    pub cpus: Option<usize>,
    /// The memory that we may have, if that is known.
    pub memory: Option<Memory>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os().collect(),
            cpus: thread::available_parallelism().ok().map(usize::from),
            memory: memory::of_process(),
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
