//! The state directory: found or made, private, and used by one server at a time.
//!
//! Not here: what is in it. See the modules beside this one.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;

use rustix::process::geteuid;

use crate::disk::fs::{DIRECTORY_MODE, FILE_MODE, is_no_room};
use crate::kernel::limits;

/// Locked as long as a server uses the directory. Contains the server's process id.
const LOCK_FILE: &str = "lock";
/// Names the epoch that counts. It exists from the first start on.
pub(super) const CURRENT: &str = "current";
/// Written and removed, to see that this can be done.
const PROBE_FILE: &str = "probe";

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o002;

/// A state directory that is ours alone until this is dropped.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    tightened_from: Option<u32>,
    /// Closing it ends the lock, however the process ends.
    _lock: File,
}

/// Why a directory cannot be the state directory.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Something else has this name.
    #[error(
        "{} is not a directory; choose another place for the state with --state",
        .0.display()
    )]
    NotADirectory(PathBuf),
    /// Another server has locked it.
    #[error(
        "state directory {} is in use by {}; \
         stop that server, or choose another directory with --state",
        path.display(),
        pid.map_or("another nat64handoff".into(), |pid| format!("nat64handoff (pid {pid})"))
    )]
    InUse {
        path: PathBuf,
        /// The process that holds the lock, if the lock file names it already.
        pid: Option<u32>,
    },
    /// Nobody has ever kept state in it.
    #[error(
        "there is no state in {}; name the directory that the server has as --state",
        .0.display()
    )]
    NoState(PathBuf),
    /// It, or what is in it, is another user's, who can do with it what he likes.
    #[error(
        "state directory {}: {} belongs to {owner}, and this is {}; run as that user, chown it, \
         or choose another directory with --state",
        path.display(),
        what.display(),
        User::current()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// What is not ours.
        what: PathBuf,
        /// Whose it is.
        owner: String,
    },
    /// A symbolic link stands where a file of ours should be.
    #[error(
        "state directory {}: {} is a symbolic link, which may lead anywhere; put there what it \
         leads to, or remove it",
        path.display(),
        link.display()
    )]
    Link {
        /// The directory.
        path: PathBuf,
        /// The link.
        link: PathBuf,
    },
    /// Everybody can change what is in it.
    #[error(
        "state directory {path} can be changed by everybody; \
         chmod 700 {path}, or choose a directory of its own with --state",
        path = .0.display()
    )]
    WorldWritable(PathBuf),
    /// It cannot be made, read, written or locked.
    #[error(
        "state directory {} cannot be {action} by {}: {cause}; {}",
        path.display(),
        User::current(),
        what_to_do(cause)
    )]
    Unusable {
        path: PathBuf,
        action: &'static str,
        #[source]
        cause: io::Error,
    },
}

fn what_to_do(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "make it writable for this user, or choose another one with --state"
        }
        _ => limits::advice(cause).unwrap_or("choose another one with --state"),
    }
}

impl StateDirectory {
    /// Makes the directory, with its parents, if it is not there; sees that it is a writable
    /// directory; locks it against a second server.
    ///
    /// One that is there already, and open to others, is made private if it is evidently meant for
    /// us: we own it, and it is empty or has our state in it. Somebody else's directory is left as
    /// it is.
    ///
    /// A full disk is no reason to refuse it: what is in it can be served.
    pub fn open(path: impl Into<PathBuf>) -> Result<StateDirectory, DirectoryError> {
        let path = path.into();
        create(&path)?;
        let unusable = |action| {
            let path = path.clone();
            move |cause| DirectoryError::Unusable { path, action, cause }
        };
        // Looked up before anything is put into it.
        refuse_strangers(&path)?;
        let is_for_us = is_for_us(&path)?;
        let lock = lock(&path)?;
        probe(&path).map_err(unusable("written"))?;

        let tightened_from = to_be_tightened(&path, is_for_us)?;
        if tightened_from.is_some() {
            fs::set_permissions(&path, Permissions::from_mode(DIRECTORY_MODE))
                .map_err(unusable("made private"))?;
        }
        Ok(StateDirectory { path, tightened_from, _lock: lock })
    }

    /// Whether [`Self::open`] would take a directory that is there, as far as that is seen without
    /// a change and without the lock.
    ///
    /// # Errors
    /// Why it would not.
    pub fn look(path: &Path) -> Result<(), DirectoryError> {
        refuse_strangers(path)?;
        to_be_tightened(path, is_for_us(path)?).map(drop)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The mode that it had, if we took permissions from others: to be told to the user.
    pub fn tightened_from(&self) -> Option<u32> {
        self.tightened_from
    }
}

/// Whether it is evidently meant for us: empty, or with our state in it.
fn is_for_us(path: &Path) -> Result<bool, DirectoryError> {
    let unreadable =
        |cause| DirectoryError::Unusable { path: path.to_owned(), action: "read", cause };
    let empty = fs::read_dir(path).map_err(unreadable)?.next().is_none();
    Ok(empty || path.join(LOCK_FILE).is_file() && path.join(CURRENT).is_file())
}

/// The mode of a directory that is ours, where others have permissions that are to be taken away.
fn to_be_tightened(path: &Path, is_for_us: bool) -> Result<Option<u32>, DirectoryError> {
    let directory = fs::metadata(path).map_err(|cause| DirectoryError::Unusable {
        path: path.to_owned(),
        action: "read",
        cause,
    })?;
    let mode = directory.mode() & 0o7777;
    let ours = directory.uid() == geteuid().as_raw() && is_for_us && mode & STICKY == 0;
    if ours && mode & 0o077 != 0 {
        Ok(Some(mode))
    } else if mode & OTHERS_WRITE != 0 {
        Err(DirectoryError::WorldWritable(path.to_owned()))
    } else {
        Ok(None)
    }
}

fn create(path: &Path) -> Result<(), DirectoryError> {
    let result = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    match result {
        Ok(()) if path.is_dir() => Ok(()),
        Err(cause) if !path.exists() => {
            Err(DirectoryError::Unusable { path: path.to_owned(), action: "created", cause })
        }
        _ => Err(DirectoryError::NotADirectory(path.to_owned())),
    }
}

/// Nothing is followed or changed that another user may have put there, and who is not root.
///
/// # Errors
/// Where the directory, or one of our files in it, is a link or somebody else's.
pub(super) fn refuse_strangers(path: &Path) -> Result<(), DirectoryError> {
    let unusable =
        |cause| DirectoryError::Unusable { path: path.to_owned(), action: "read", cause };
    let ours = |what: &Path, metadata: &fs::Metadata| {
        if [0, geteuid().as_raw()].contains(&metadata.uid()) {
            return Ok(());
        }
        let owner = User::with_id(metadata.uid()).to_string();
        Err(DirectoryError::NotOurs { path: path.to_owned(), what: what.to_owned(), owner })
    };
    ours(path, &fs::metadata(path).map_err(unusable)?)?;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(unusable)? {
            let entry = entry.map_err(unusable)?;
            let (name, inside) = (entry.file_name(), entry.path());
            let name = name.to_string_lossy();
            let is_folder = name.starts_with("epoch-");
            let named = [LOCK_FILE, PROBE_FILE, CURRENT];
            if folder == path && !is_folder && !named.iter().any(|own| name.starts_with(own)) {
                continue;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_symlink() {
                return Err(DirectoryError::Link { path: path.to_owned(), link: inside });
            }
            ours(&inside, &metadata)?;
            if folder == path && is_folder && metadata.is_dir() {
                folders.push(inside);
            }
        }
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, DirectoryError> {
    let unusable =
        |action, cause| DirectoryError::Unusable { path: path.to_owned(), action, cause };
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false) // Before it is ours, it says whose it is.
        .mode(FILE_MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path.join(LOCK_FILE))
        .map_err(|cause| unusable("written", cause))?;
    take(&lock, path)?;
    match lock.set_len(0).and_then(|()| writeln!(lock, "{}", process::id())) {
        // Then nobody can read whose it is.
        Err(cause) if is_no_room(&cause) => Ok(lock),
        written => written.map(|()| lock).map_err(|cause| unusable("written", cause)),
    }
}

/// Locks a state directory that is there already, and changes nothing in it. `None`: nobody has
/// ever locked it, so nobody does now.
///
/// # Errors
/// Where it is in use, or is no state directory.
pub(super) fn lock_existing(path: &Path) -> Result<Option<File>, DirectoryError> {
    if !path.is_dir() {
        return Err(DirectoryError::NoState(path.to_owned()));
    }
    let unusable =
        |action, cause| DirectoryError::Unusable { path: path.to_owned(), action, cause };
    match File::open(path.join(LOCK_FILE)) {
        Ok(lock) => take(&lock, path).map(|()| Some(lock)),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => path
            .join(CURRENT)
            .is_file()
            .then_some(None)
            .ok_or_else(|| DirectoryError::NoState(path.to_owned())),
        Err(cause) => Err(unusable("read", cause)),
    }
}

fn take(mut lock: &File, path: &Path) -> Result<(), DirectoryError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut pid = [0; 16];
            // Without the number, the message is less helpful and still true.
            let length = lock.read(&mut pid).unwrap_or(0);
            let pid = str::from_utf8(&pid[..length]).unwrap_or_default().trim().parse().ok();
            Err(DirectoryError::InUse { path: path.to_owned(), pid })
        }
        Err(TryLockError::Error(cause)) => {
            Err(DirectoryError::Unusable { path: path.to_owned(), action: "locked", cause })
        }
    }
}

/// Whether files can be made and written, as far as there is room. Under the lock, so nobody else
/// uses the name.
fn probe(path: &Path) -> io::Result<()> {
    let path = path.join(PROBE_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&path)
        .and_then(|mut probe| probe.write_all(b"probe\n"));
    match (written, fs::remove_file(path)) {
        // There may have been no room for its name either.
        (Err(error), _) if is_no_room(&error) => Ok(()),
        (written, removed) => written.and(removed),
    }
}

/// For error messages: who we are.
struct User {
    id: u32,
    name: Option<String>,
}

impl User {
    fn current() -> User {
        User::with_id(geteuid().as_raw())
    }

    fn with_id(id: u32) -> User {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        User { id, name: name_of(id, &users).map(str::to_owned) }
    }
}

/// Its line is `name:x:id:...`.
fn name_of(id: u32, users: &str) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "user {name} (uid {})", self.id),
            None => write!(f, "the user with uid {}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn made(parent: &Path, name: &str, mode: u32) -> PathBuf {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn made_with_parents_and_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b/state");
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(state.path(), path);
        assert_eq!(state.tightened_from(), None);
        assert_eq!(mode(&path), 0o700);
        let files: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, [LOCK_FILE]);
        assert_eq!(mode(&path.join(LOCK_FILE)), 0o600);
    }

    #[test]
    fn second_server_is_told_who_has_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("state");
        let first = StateDirectory::open(&path).unwrap();
        assert_eq!(
            StateDirectory::open(&path).unwrap_err().to_string(),
            format!(
                "state directory {} is in use by nat64handoff (pid {}); \
                 stop that server, or choose another directory with --state",
                path.display(),
                process::id()
            )
        );
        // A server that has locked it and not yet said who it is.
        fs::write(path.join(LOCK_FILE), "").unwrap();
        let error = StateDirectory::open(&path).unwrap_err();
        assert!(matches!(error, DirectoryError::InUse { pid: None, .. }), "{error}");
        drop(first);
        StateDirectory::open(&path).unwrap();
    }

    #[test]
    fn pid_of_an_earlier_server_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join(LOCK_FILE), "123456789012\nand more").unwrap();
        let _state = StateDirectory::open(parent.path()).unwrap();
        let pid = fs::read_to_string(parent.path().join(LOCK_FILE)).unwrap();
        assert_eq!(pid, format!("{}\n", process::id()));
    }

    #[test]
    fn looking_changes_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let path = made(parent.path(), "somebody's", 0o755);
        fs::write(path.join("file"), "").unwrap();
        let error = lock_existing(&path).unwrap_err().to_string();
        assert!(error.starts_with("there is no state in "), "{error}");
        fs::write(path.join(CURRENT), "").unwrap();
        assert!(lock_existing(&path).unwrap().is_none(), "nobody ever locked it");
        fs::write(path.join(LOCK_FILE), "1\n").unwrap();
        let lock = lock_existing(&path).unwrap();
        assert!(lock_existing(&path).unwrap_err().to_string().contains("nat64handoff (pid 1)"));
        drop(lock);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 3);
        assert_eq!(
            (mode(&path), fs::read(path.join(LOCK_FILE)).unwrap()),
            (0o755, b"1\n".to_vec())
        );
        // A lock alone is no reason to take a directory over.
        fs::remove_file(path.join(CURRENT)).unwrap();
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!((state.tightened_from(), mode(&path)), (None, 0o755));
    }

    #[test]
    fn directory_made_for_us_becomes_private() {
        let parent = tempfile::tempdir().unwrap();
        for permissions in [0o755, 0o750, 0o777] {
            let path = made(parent.path(), &format!("{permissions:o}"), permissions);
            let state = StateDirectory::open(&path).unwrap();
            assert_eq!(state.tightened_from(), Some(permissions));
            assert_eq!(mode(&path), 0o700);
            drop(state);
            // Again, after it was used.
            fs::write(path.join(CURRENT), "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(permissions)).unwrap();
            let state = StateDirectory::open(&path).unwrap();
            assert_eq!(state.tightened_from(), Some(permissions));
        }
    }

    #[test]
    fn directory_with_other_things_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = made(parent.path(), "home", 0o755);
        fs::write(path.join("letter"), "Dear Bertrand, ...").unwrap();
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(state.tightened_from(), None);
        assert_eq!(mode(&path), 0o755);
    }

    #[test]
    fn directory_of_everybody_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = made(parent.path(), "tmp", 0o1777);
        let error = StateDirectory::open(&path).unwrap_err();
        assert!(matches!(error, DirectoryError::WorldWritable(_)), "{error}");
        assert!(error.to_string().contains("chmod 700"), "{error}");
        assert_eq!(mode(&path), 0o1777);
    }

    #[test]
    fn not_a_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "").unwrap();
        let error = StateDirectory::open(&path).unwrap_err();
        assert!(matches!(error, DirectoryError::NotADirectory(_)), "{error}");
        let error = StateDirectory::open(path.join("state")).unwrap_err();
        assert!(matches!(error, DirectoryError::Unusable { .. }), "{error}");
        let error = StateDirectory::open("").unwrap_err();
        assert!(matches!(error, DirectoryError::NotADirectory(_)), "{error}");
    }

    #[test]
    fn no_symbolic_link_is_followed() {
        use std::os::unix::fs::symlink;
        let parent = tempfile::tempdir().unwrap();
        let path = made(parent.path(), "state", 0o700);
        let target = parent.path().join("target");
        fs::write(&target, "words").unwrap();
        for name in [LOCK_FILE, PROBE_FILE, CURRENT, "current.tmp", "epoch-1"] {
            symlink(&target, path.join(name)).unwrap();
            let error = StateDirectory::open(&path).unwrap_err();
            assert!(matches!(error, DirectoryError::Link { .. }), "{error}");
            assert_eq!(fs::read(&target).unwrap(), b"words");
            fs::remove_file(path.join(name)).unwrap();
        }
        fs::create_dir(path.join("epoch-1")).unwrap();
        symlink(&target, path.join("epoch-1/00-00000000.journal")).unwrap();
        let error = StateDirectory::open(&path).unwrap_err().to_string();
        assert!(error.contains("00-00000000.journal is a symbolic link"), "{error}");
        fs::remove_file(path.join("epoch-1/00-00000000.journal")).unwrap();
        StateDirectory::open(&path).unwrap();
    }

    #[test]
    fn nothing_of_another_user_is_used() {
        use std::os::unix::fs::chown;
        if !geteuid().is_root() {
            crate::skip::cannot_run("files of another user: run it as root");
        }
        let parent = tempfile::tempdir().unwrap();
        let path = made(parent.path(), "state", 0o700);
        StateDirectory::open(&path).unwrap();
        chown(path.join(LOCK_FILE), Some(65534), None).unwrap();
        let error = StateDirectory::open(&path).unwrap_err().to_string();
        assert!(error.contains("lock belongs to") && error.contains("chown"), "{error}");
        chown(path.join(LOCK_FILE), Some(0), None).unwrap();
        chown(&path, Some(65534), None).unwrap();
        let error = StateDirectory::open(&path).unwrap_err();
        assert!(matches!(error, DirectoryError::NotOurs { .. }), "{error}");
    }

    /// `/proc` takes no files, not even from root.
    #[test]
    fn not_writable() {
        let error = StateDirectory::open("/proc/self/fdinfo").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("state directory /proc/self/fdinfo cannot be written by "),
            "{text}"
        );
        let error = DirectoryError::Unusable {
            path: "/srv/state".into(),
            action: "created",
            cause: io::Error::from_raw_os_error(libc::EACCES),
        };
        assert_eq!(
            error.to_string(),
            format!(
                "state directory /srv/state cannot be created by {}: Permission denied \
                 (os error 13); make it writable for this user, or choose another one with --state",
                User::current()
            )
        );
    }

    #[test]
    fn names_of_users() {
        let users =
            "root:x:0:0:root:/root:/bin/bash\nbroken\n\nnobody:x:65534:65534::/:/bin/false\n";
        assert_eq!(name_of(0, users), Some("root"));
        assert_eq!(name_of(65534, users), Some("nobody"));
        assert_eq!(name_of(1000, users), None);
    }
}
