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

use rustix::fs::{Access, access};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::disk::fs::parent;
use crate::kernel::service::PassedFile;
use crate::kernel::socket::kept::{KeptSockets, handed_over_as};
use crate::kernel::stderr::warn;
use crate::programs::accounts::number_of;
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
    /// without, and that is said. So is any, where this process goes on with the port of another
    /// one: nobody else would serve then.
    pub fn open(config: &ServeConfig, kept: &mut KeptSockets) -> Result<Self, DoorError> {
        let goes_on = kept.goes_on();
        let unix = match &config.admin {
            AdminPlace::Off => None,
            AdminPlace::At(path) => unless_missed(unix(path, kept), goes_on)?,
            AdminPlace::Default(path) => {
                unix(path, kept).inspect_err(|error| warn(format_args!("{error}"))).ok()
            }
        };
        let web = match config.web {
            Some(address) => unless_missed(web_with_token(address, config, kept), goes_on)?,
            None => None,
        };
        let (web, token) = web.map_or((None, None), |(web, token)| (Some(web), token));
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

/// Nothing where this process `goes_on` without, and says so.
fn unless_missed<T>(had: Result<T, DoorError>, goes_on: bool) -> Result<Option<T>, DoorError> {
    match had {
        Err(error) if goes_on => {
            warn(format_args!("{error}; until a restart, the server does without"));
            Ok(None)
        }
        had => had.map(Some),
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
    let new = new_name(path);
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

/// Never without the token that is wanted.
fn web_with_token(
    address: SocketAddr,
    config: &ServeConfig,
    kept: &mut KeptSockets,
) -> Result<(TcpListener, Option<Vec<u8>>), DoorError> {
    let token = config.web_token.as_deref().map(token).transpose()?;
    Ok((web(address, kept)?, token))
}

fn web(address: SocketAddr, kept: &mut KeptSockets) -> Result<TcpListener, DoorError> {
    let failed = |cause: io::Error| {
        let cause = match cause.kind() {
            io::ErrorKind::PermissionDenied => io::Error::other(format!(
                "{cause}: a port below 1024 wants a privilege, and one that is not the server's \
                 already wants a restart instead of SIGUSR2"
            )),
            _ if cause.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
                io::Error::other(format!(
                    "{cause}: give an IPv4 address, or let the server have IPv6 \
                     (RestrictAddressFamilies=)"
                ))
            }
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

/// What would keep the doors shut, as far as that can be found while a server may run already;
/// nothing is made.
pub fn door_troubles(config: &ServeConfig) -> Vec<DoorError> {
    let is_asked = || config.admin.path().is_some_and(|path| UnixStream::connect(path).is_ok());
    let port = config.web.and_then(|address| match TcpListener::bind(address) {
        // It may be that server's own.
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse && is_asked() => None,
        // Asked by a server that is confined, this may bind nothing: see `unless_missed`.
        Err(cause)
            if cause.kind() == io::ErrorKind::PermissionDenied && !is_privileged(address) =>
        {
            None
        }
        Err(cause) => Some(DoorError::Web { address, cause }),
        Ok(_) => None,
    });
    let path = match &config.admin {
        AdminPlace::At(path) => {
            not_possible(path).map(|cause| DoorError::Unix { path: path.clone(), cause })
        }
        AdminPlace::Off | AdminPlace::Default(_) => None,
    };
    let token = config.web_token.as_deref().and_then(|path| token(path).err());
    [port, path, token].into_iter().flatten().collect()
}

fn is_privileged(address: SocketAddr) -> bool {
    address.port() < 1024
}

/// Why no socket can be made at a path.
fn not_possible(path: &Path) -> Option<io::Error> {
    let is_other = fs::symlink_metadata(path).is_ok_and(|there| !there.file_type().is_socket());
    if is_other {
        return Some(io::Error::other("there is something else at this path"));
    }
    let named = SocketAddrUnix::new(new_name(path)).err();
    let writable = || access(parent(path), Access::WRITE_OK | Access::EXEC_OK).err();
    named.or_else(writable).map(io::Error::from)
}

/// What it is called before it has its mode.
fn new_name(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    PathBuf::from(new)
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
    use crate::programs::options::{Cli, Command, Environment};
    use clap::Parser;

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
    fn what_cannot_be_had_is_found_beforehand() {
        let directory = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().to_string();
        let admin = directory.path().join("admin.sock");
        let troubles = |admin: &Path, web: &str| {
            let words = ["nat64handoff", "serve", "--admin", admin.to_str().unwrap(), "--web", web];
            let Command::Serve(options) = Cli::try_parse_from(words).unwrap().command else {
                panic!("it is serve")
            };
            let config = options.resolve(&Environment::default()).unwrap();
            door_troubles(&config).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(troubles(&admin, "off"), [""; 0]);
        let said = troubles(&admin, &port);
        assert!(
            said.len() == 1 && said[0].contains("--web") && said[0].contains(&port),
            "{said:?}"
        );
        // That of a server that is asked there.
        let door = at(&admin).unwrap();
        assert_eq!(troubles(&admin, &port), [""; 0]);
        drop(door);
        let elsewhere = troubles(&directory.path().join("not/there"), "off");
        assert!(elsewhere.len() == 1 && elsewhere[0].contains("--admin"), "{elsewhere:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing was made");
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
