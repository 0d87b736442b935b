//! Where the server is asked: the Unix socket of `--admin`, and `--web` over TCP. Both are opened
//! before the process is confined, as it may open no TCP port then, and both are handed over to the
//! next process: whoever connects meanwhile waits.
//!
//! A new Unix socket is made under another name and put in its place when it has its mode, so that
//! nobody but its owner and group ever connects, and one that a dead process left is no hindrance.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::disk::fs::parent;
use crate::kernel::service::PassedFile;
use crate::kernel::socket::kept::{KeptSockets, handed_over_as};
use crate::kernel::stderr::warn;
use crate::programs::options::{AdminPlace, ServeConfig};

/// Whose members may ask, beside the server's own user.
const GROUP: &str = "nat64ho";
const MODE: u32 = 0o660;
/// The most connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// The shortest token, and the longest file of one, in octets.
const TOKEN_MIN: usize = 16;
const TOKEN_MAX: u64 = 4096;

/// Why the server cannot be asked as it should be.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// The Unix socket cannot be made.
    #[error("the admin socket {} cannot be made: {cause}; choose another path by --admin, or off", path.display())]
    Unix { path: PathBuf, cause: io::Error },
    /// Somebody else's.
    #[error("another server answers at the admin socket {}; choose another path by --admin, or off", .0.display())]
    Taken(PathBuf),
    /// The port cannot be had.
    #[error(
        "--web: {address} cannot be had: {cause}; choose another one, or see who has it (ss -ltnp)"
    )]
    Web { address: SocketAddr, cause: io::Error },
    /// The token cannot be used.
    #[error("--web-token-file: {} {cause}", path.display())]
    Token { path: PathBuf, cause: String },
}

/// A Unix socket that listens.
#[derive(Debug)]
pub struct UnixDoor {
    pub listener: UnixListener,
    pub path: PathBuf,
    file: (u64, u64),
}

/// All places where the server is asked.
#[derive(Debug, Default)]
pub struct Doors {
    pub unix: Option<UnixDoor>,
    pub web: Option<TcpListener>,
    /// What who comes by `web` has to know.
    pub token: Option<Vec<u8>>,
}

impl Doors {
    /// Those that are wanted. What was handed over is taken again.
    ///
    /// # Errors
    /// Where one that somebody asked for cannot be had. The default of the Unix socket is done
    /// without, and that is said.
    pub fn open(config: &ServeConfig, kept: &mut KeptSockets) -> Result<Self, DoorError> {
        let unix = match &config.admin {
            AdminPlace::Off => None,
            AdminPlace::At(path) => Some(unix(path, kept)?),
            AdminPlace::Default(path) => {
                unix(path, kept).inspect_err(|error| warn(format_args!("{error}"))).ok()
            }
        };
        let token = config.web_token.as_deref().map(token).transpose()?;
        let web = config.web.map(|address| web(address, kept)).transpose()?;
        Ok(Self { unix, web, token })
    }

    /// Where a file is made when they are opened anew.
    pub fn directory(&self) -> Option<PathBuf> {
        self.unix.as_ref().map(|door| parent(&door.path).to_owned())
    }

    /// Their sockets, for the next process.
    ///
    /// # Errors
    /// Where the process may not have another descriptor.
    pub fn passed(&self) -> io::Result<Vec<PassedFile>> {
        let mut passed = Vec::new();
        if let Some(door) = &self.unix {
            passed.push(handed_over_as(&unix_name(door.file), door.listener.as_fd())?);
        }
        if let Some(web) = &self.web {
            passed.push(handed_over_as(&web_name(web.local_addr()?), web.as_fd())?);
        }
        Ok(passed)
    }
}

impl UnixDoor {
    /// Removes its name, unless that is another one's by now.
    pub fn remove(path: &Path, file: (u64, u64)) {
        if file_of(path).is_some_and(|there| there == file) {
            drop(fs::remove_file(path));
        }
    }

    /// Device and inode.
    pub fn file(&self) -> (u64, u64) {
        self.file
    }
}

fn unix_name((device, inode): (u64, u64)) -> String {
    format!("admin-{device}-{inode}")
}

fn web_name(address: SocketAddr) -> String {
    format!("web-{address}")
}

/// Device and inode of the socket at a path.
fn file_of(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
}

fn unix(path: &Path, kept: &mut KeptSockets) -> Result<UnixDoor, DoorError> {
    let failed = |cause| DoorError::Unix { path: path.to_owned(), cause };
    let there = file_of(path);
    let listener = match there.and_then(|file| kept.take_listening(&unix_name(file))) {
        Some(before) => UnixListener::from(before),
        None if there.is_some() && UnixStream::connect(path).is_ok() => {
            return Err(DoorError::Taken(path.to_owned()));
        }
        None => new_unix(path).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let file = file_of(path).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    Ok(UnixDoor { listener, path: path.to_owned(), file })
}

fn new_unix(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket()) {
        return Err(io::Error::other("there is something else at this path"));
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // One that a process left that was killed just here.
    if file_of(&new).is_some() {
        fs::remove_file(&new)?;
    }
    let address = SocketAddrUnix::new(&new)?;
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    bind(&socket, &address)?;
    // Before it listens, so that nobody gets in by the mode that it was made with.
    let made = fs::set_permissions(&new, fs::Permissions::from_mode(MODE)).and_then(|()| {
        give_to_group(&new);
        listen(&socket, BACKLOG)?;
        fs::rename(&new, path)
    });
    if made.is_err() {
        drop(fs::remove_file(&new));
    }
    made.map(|()| socket.into())
}

/// Where there is the group, and this user may give it something.
fn give_to_group(path: &Path) {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let is_others = |group: &u32| fs::metadata(path).is_ok_and(|file| file.gid() != *group);
    if let Some(group) = number_of(&groups, GROUP).filter(is_others) {
        drop(chown(path, None, Some(group)));
    }
}

/// The number of a group, as `/etc/group` has it.
fn number_of(groups: &str, name: &str) -> Option<u32> {
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields[0] == name)?.get(2)?.parse().ok()
}

fn web(address: SocketAddr, kept: &mut KeptSockets) -> Result<TcpListener, DoorError> {
    let failed = |cause: io::Error| {
        let cause = match cause.kind() {
            io::ErrorKind::PermissionDenied => io::Error::other(format!(
                "{cause}: a port below 1024 wants a privilege, and one that is not the server's \
                 already wants a restart instead of SIGUSR2"
            )),
            _ => cause,
        };
        DoorError::Web { address, cause }
    };
    let listener = match kept.take_listening(&web_name(address)) {
        Some(before) => TcpListener::from(before),
        None => TcpListener::bind(address).map_err(failed)?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// What is wrong with the token's file, if anything is.
pub fn token_trouble(config: &ServeConfig) -> Option<DoorError> {
    config.web_token.as_deref().and_then(|path| token(path).err())
}

/// The first line of a file that no stranger may read.
fn token(path: &Path) -> Result<Vec<u8>, DoorError> {
    let failed = |cause: String| DoorError::Token { path: path.to_owned(), cause };
    let unread =
        |cause: io::Error| failed(format!("cannot be read: {cause}; see its owner and mode"));
    let metadata = fs::metadata(path).map_err(unread)?;
    if metadata.mode() & 0o007 != 0 {
        return Err(failed(
            "can be read by everybody: chmod o= it, and choose another token".into(),
        ));
    }
    if metadata.len() > TOKEN_MAX {
        return Err(failed(format!("has more than {TOKEN_MAX} octets; name the file of a token")));
    }
    let octets = fs::read(path).map_err(unread)?;
    let line = octets.split(|&octet| octet == b'\n').next().unwrap_or_default().trim_ascii();
    match line.len() < TOKEN_MIN || !line.iter().all(u8::is_ascii_graphic) {
        true => Err(failed(format!(
            "has no token of at least {TOKEN_MIN} letters and digits in its first line; make one \
             by `openssl rand -hex 16`"
        ))),
        false => Ok(line.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> Result<UnixDoor, DoorError> {
        unix(path, &mut KeptSockets::default())
    }

    #[test]
    fn a_socket_is_its_owners_and_groups_and_replaces_a_dead_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let door = at(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no other name is left");
        assert!(matches!(at(&path), Err(DoorError::Taken(_))), "it answers");
        drop(door.listener);
        let next = at(&path).unwrap();
        assert_ne!(next.file, door.file);
        UnixStream::connect(&path).unwrap();
        UnixDoor::remove(&path, door.file);
        assert!(path.exists(), "it is the next one's");
        UnixDoor::remove(&path, next.file);
        assert!(!path.exists());
        // Nothing else is replaced.
        fs::write(&path, "text").unwrap();
        let said = at(&path).unwrap_err().to_string();
        assert!(said.contains("something else") && said.contains("--admin"), "{said}");
        let long = directory.path().join("x".repeat(200));
        assert!(at(&long).unwrap_err().to_string().contains("--admin"));
    }

    #[test]
    fn groups_have_numbers() {
        let groups = "root:x:0:\nnat64ho:x:997:a,b\nnat64hog:x:5:\n";
        assert_eq!(number_of(groups, "nat64ho"), Some(997));
        assert_eq!(number_of(groups, "nat64"), None);
        assert_eq!(number_of("nat64ho", "nat64ho"), None);
    }

    #[test]
    fn a_token_is_long_and_no_strangers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let with = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            token(&path).map_err(|error| error.to_string())
        };
        assert_eq!(with("0123456789abcdef\nmore\n", 0o640).unwrap(), b"0123456789abcdef");
        assert!(with("0123456789abcdef\n", 0o644).unwrap_err().contains("chmod"));
        assert!(with("0123456789abcde\n", 0o600).unwrap_err().contains("openssl"));
        assert!(with("0123456789 abcdef\n", 0o600).unwrap_err().contains("openssl"));
        assert!(with(&"x".repeat(5000), 0o600).unwrap_err().contains("octets"));
        fs::remove_file(&path).unwrap();
        assert!(token(&path).unwrap_err().to_string().contains("cannot be read"));
    }
}
