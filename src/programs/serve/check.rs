//! What would keep a server from starting with this configuration on this machine, as far as that
//! can be found without starting it: nothing is made or changed, and one may be running already.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::disk::eventlog::{LogError, directory_of};
use crate::disk::fs::parent;
use crate::kernel::backend::Io;
use crate::kernel::limits;
use crate::kernel::socket;
use crate::programs::options::{LogDestination, ServeConfig};
use crate::programs::serve::start::choose_io;

/// All of it, a line each, with what to do.
pub(super) fn troubles(config: &ServeConfig) -> Vec<String> {
    let mut troubles = Vec::new();
    for &address in &config.listen {
        troubles.extend(socket::check(address).err().map(|error| error.to_string()));
    }
    troubles.extend(state(&config.state));
    if let LogDestination::File(path) = &config.log {
        troubles.extend(log(path).map(|error| error.to_string()));
    }
    if config.io == Some(Io::Uring) {
        troubles.extend(choose_io(config.io).err().map(|error| error.to_string()));
    }
    let descriptors = limits::raise_descriptors(config.reactors, config.listen.len());
    troubles.extend(descriptors.err().map(|error| error.to_string()));
    troubles
}

/// The state directory, or what it would be made in.
fn state(path: &Path) -> Option<String> {
    let mut there = path;
    let is_directory = loop {
        match fs::metadata(there) {
            Ok(metadata) => break metadata.is_dir(),
            Err(error) if error.kind() == ErrorKind::NotFound && there != parent(there) => {
                there = parent(there);
            }
            Err(_) => break false,
        }
    };
    let path = path.display();
    if !is_directory {
        let there = there.display();
        return Some(format!(
            "the state directory {path} cannot be used, as {there} is no directory that this user may \
             enter; choose another one with --state"
        ));
    }
    access(there, Access::WRITE_OK | Access::EXEC_OK).err().map(|cause| {
        let (cause, there) = (io::Error::from(cause), there.display());
        format!(
            "the state directory {path} cannot be used, as {there} cannot be written: {cause}; make it \
             writable for this user, or choose another one with --state"
        )
    })
}

/// The event log's file, or the directory that it would be made in.
fn log(path: &Path) -> Option<LogError> {
    let failed = |cause| Some(LogError::Open { path: path.to_owned(), cause });
    let place: PathBuf = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return failed(ErrorKind::IsADirectory.into()),
        Ok(_) => path.to_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => directory_of(path.to_owned()),
        Err(error) => return failed(error),
    };
    access(&place, Access::WRITE_OK).err().and_then(|cause| failed(cause.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let gone = directory.path().join("gone");
        assert_eq!(state(&gone.join("below")), None, "made with its parents");
        for path in [&file, &file.join("below")] {
            let said = state(path).unwrap();
            assert!(said.contains("--state") && said.contains(file.to_str().unwrap()), "{said}");
        }
        assert!(log(&file).is_none() && log(&gone).is_none());
        let said = log(&gone.join("events.log")).unwrap().to_string();
        assert!(said.contains(&format!("no directory {}", gone.display())), "{said}");
        assert!(log(directory.path()).is_some());
        assert!(fs::read_dir(directory.path()).unwrap().count() == 1, "nothing was made");
    }
}
