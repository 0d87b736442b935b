//! What would keep a server from starting with this configuration on this machine, as far as that
//! can be found without starting it: nothing is made or changed, and one may be running already.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::disk::eventlog::{LogError, directory_of, may_follow};
use crate::disk::fs::parent;
use crate::disk::storage::StateDirectory;
use crate::kernel::addresses;
use crate::kernel::backend::Io;
use crate::kernel::limits;
use crate::kernel::ring;
use crate::kernel::socket;
use crate::programs::options::{LogDestination, Places, ServeConfig};
use crate::programs::serve::admin::door_troubles;
use crate::programs::serve::deliver::host_troubles;
use crate::programs::serve::recovery;
use crate::programs::serve::start::choose_io;

/// All of it, a line each, with what to do.
pub(super) fn troubles(config: &ServeConfig) -> Vec<String> {
    let mut troubles = troubles_of(&Places {
        listen: config.sockets(),
        state: Some(config.state.clone()),
        log: Some(config.log.clone()),
        peer_maps: Some(config.peer_maps.clone()),
    });
    if config.io == Some(Io::Uring) {
        troubles.extend(choose_io(config.io).err().map(|error| error.to_string()));
    }
    troubles.extend(host_troubles(config));
    troubles.extend(config.fleet_lacks());
    troubles.extend(door_troubles(config).iter().map(ToString::to_string));
    let descriptors = limits::raise_descriptors(config.reactors, config.sockets().len());
    troubles.extend(descriptors.err().map(|error| error.to_string()));
    let works = || if ring::probe().is_ok() { Io::Uring } else { Io::Mmsg };
    let io = config.io.unwrap_or_else(works);
    let addresses = addresses::check(config.reactors, io, recovery::threads(config.reactors));
    troubles.extend(addresses.err().map(|error| error.to_string()));
    troubles
}

/// Those of the places alone.
pub(super) fn troubles_of(places: &Places) -> Vec<String> {
    let mut troubles = Vec::new();
    for &address in &places.listen {
        troubles.extend(socket::check(address).err().map(|error| error.to_string()));
    }
    troubles.extend(places.state.as_deref().and_then(state));
    if let Some(LogDestination::File(path)) = &places.log {
        troubles.extend(log(path).map(|error| error.to_string()));
    }
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
    let shown = path.display();
    if !is_directory {
        let there = there.display();
        return Some(format!(
            "the state directory {shown} cannot be used, as {there} is no directory that this user may \
             enter; choose another one with --state"
        ));
    }
    if let Err(cause) = access(there, Access::WRITE_OK | Access::EXEC_OK) {
        let (cause, there) = (io::Error::from(cause), there.display());
        return Some(format!(
            "the state directory {shown} cannot be used, as {there} cannot be written: {cause}; make it \
             writable for this user, or choose another one with --state"
        ));
    }
    let is_there = there == path;
    StateDirectory::look(path).err().filter(|_| is_there).map(|error| error.to_string())
}

/// The event log's file, or the directory that it would be made in.
fn log(path: &Path) -> Option<LogError> {
    if let Err(error) = may_follow(path) {
        return Some(error);
    }
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
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

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

    #[test]
    fn what_others_can_change_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::write(open.join("of others"), "").unwrap();
        assert_eq!(state(&open), None);
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        let said = state(&open).unwrap();
        assert!(said.contains("chmod 700"), "{said}");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        let link = directory.path().join("link");
        symlink("of others", &link).unwrap();
        assert!(log(&link).is_none(), "it is ours");
        // Root alone can give something away.
        if rustix::process::geteuid().is_root() {
            chown(&open, Some(65534), None).unwrap();
            let said = state(&open).unwrap();
            assert!(said.contains("belongs to"), "{said}");
            lchown(&link, Some(65534), None).unwrap();
            let said = log(&link).unwrap().to_string();
            assert!(said.contains("symbolic link that another user"), "{said}");
        }
    }
}
