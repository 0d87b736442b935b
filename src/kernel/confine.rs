//! What the server's process may do once it has what it needs: change files in its own directories
//! and nowhere else, open no TCP port, connect to none, and signal no other program.
//!
//! By Landlock, which asks for no privilege and no service manager. It is narrower than what
//! systemd's unit allows, and holds without a unit. Reading and executing stay as they are: the
//! program executes itself anew at a hand-over. What it executes stays confined.

use std::io;
use std::path::Path;

use landlock::{
    ABI, AccessFs, AccessNet, CompatLevel, Compatible, RestrictSelfError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest that is asked for; older kernels do what they can of it.
const KNOWN: ABI = ABI::V6;

/// Confines the calling thread, and the threads and programs that it starts from now on: of files,
/// those below the `writable` directories alone can be changed, made or removed. False: this kernel
/// has no Landlock, or does not have it on.
///
/// # Errors
/// Where the kernel has it and refuses, as where a system call filter does.
pub fn to_directories<'p>(writable: impl IntoIterator<Item = &'p Path>) -> io::Result<bool> {
    let changes = AccessFs::from_write(KNOWN);
    let restrict = || -> Result<bool, RulesetError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(changes)?
            .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
            .scope(Scope::Signal)?
            .create()?
            .add_rules(path_beneath_rules(writable, changes))?;
        let status = ruleset.restrict_self()?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    };
    match restrict() {
        // As many times as can be: each hand-over adds one, and all of them say the same.
        Err(RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }))
            if source.raw_os_error() == Some(libc::E2BIG) =>
        {
            Ok(true)
        }
        done => done.map_err(io::Error::other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, OpenOptions};
    use std::net::{TcpListener, TcpStream};
    use std::process::Command;
    use std::thread;

    /// Confines a thread to a directory, and runs `tried` in it.
    fn confined<R: Send>(directory: &Path, tried: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let within = scope.spawn(|| {
                let done = to_directories([directory]).unwrap();
                assert!(done, "this kernel has no Landlock");
                tried()
            });
            within.join().unwrap()
        })
    }

    fn is_refused<T>(done: io::Result<T>) -> bool {
        done.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn files_are_changed_in_its_directories_alone() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (within, outside) = (own.path().join("a"), other.path().join("a"));
        fs::write(&outside, "theirs").unwrap();
        confined(own.path(), || {
            fs::write(&within, "ours").unwrap();
            fs::rename(&within, own.path().join("b")).unwrap();
            fs::remove_file(own.path().join("b")).unwrap();
            assert!(is_refused(OpenOptions::new().append(true).open(&outside)));
            assert!(is_refused(OpenOptions::new().write(true).truncate(true).open(&outside)));
            assert!(is_refused(File::create(other.path().join("new"))));
            assert!(is_refused(fs::remove_file(&outside)));
            assert!(is_refused(fs::create_dir(other.path().join("folder"))));
            assert_eq!(fs::read(&outside).unwrap(), b"theirs");
        });
        File::create(other.path().join("new")).unwrap();
    }

    #[test]
    fn no_tcp_and_no_signals_to_others() {
        let own = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let signal = format!("kill -0 {}", other.id());
        confined(own.path(), || {
            assert!(is_refused(TcpListener::bind("127.0.0.1:0")));
            assert!(is_refused(TcpStream::connect(address)));
            let status = Command::new("bash").args(["-c", &signal]).status().unwrap();
            assert!(!status.success(), "it can be signalled");
        });
        let status = Command::new("bash").args(["-c", &signal]).status().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(status.success());
    }

    /// As each hand-over does, and no kernel allows for ever.
    #[test]
    fn again_and_again() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        confined(own.path(), || {
            (0..40).for_each(|_| assert!(to_directories([own.path()]).unwrap()));
            fs::write(own.path().join("a"), "ours").unwrap();
            assert!(is_refused(File::create(other.path().join("a"))));
        });
    }
}
