//! `nat64handoff peer-names`: programs on this host see the clients of NAT64s as their peers.
//!
//! `attach` is for root: it loads the programs into the kernel, attaches them to control groups and
//! makes the maps that they look into, which belong to the server's user. The server, which has no
//! privilege, only writes into these (`serve --peer-names`). All stays until `detach`, or until the
//! machine is switched off; names alone mean nothing without a server that says it is there.
//!
#![doc = include_str!("../../PEERNAMES.md")]

mod refused;
mod status;

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use self::refused::explained;
use crate::kernel::bpf::peer_names::{self, EVERYWHERE, PeerLink, PeerMaps};
use crate::kernel::bpf::place;
use crate::kernel::limits;
use crate::programs::accounts::number_of;
use crate::programs::exit::{ExitError, print};
use crate::programs::options::{AttachOptions, PeerNames, PeerNamesCommand};

/// What the maps are pinned as, in the directory of `--maps`.
pub const NAMES_FILE: &str = "names";
pub const STATE_FILE: &str = "state";
const PEERS_FILE: &str = "peers";
/// A directory that says: the bpffs was for root alone before.
const OPENED: &str = "opened";
/// Users of no name here may pass through.
const PASS: u32 = 0o001;
/// Links are pinned as this, the number of their control group, and what they are.
const LINK: &str = "link-";

/// Attaches, detaches, or says what is attached.
///
/// # Errors
/// Where the kernel refuses: why, and what to do.
pub fn run(command: PeerNamesCommand) -> Result<(), ExitError> {
    match command {
        PeerNamesCommand::Attach(options) => attach(&options),
        PeerNamesCommand::Detach(options) => detach(&options.maps),
        PeerNamesCommand::Status(options) => status::run(&options),
    }
}

fn attach(options: &AttachOptions) -> Result<(), ExitError> {
    // Before Linux 5.11 maps are locked memory; later ones do not ask.
    limits::lock_any_memory();
    let groups = groups(&options.cgroup)?;
    let owner = owner(&options.user)?;
    let maps = &options.pinned.maps;
    make_directory(maps)?;
    let former = links(maps)?;
    let (found, is_new) = match PeerMaps::open(&maps_at(maps)) {
        Ok(found) if found.names.names_max() == options.names_max => (found, false),
        Err(error) if !(error.is_missing() || error.is_of_another_version()) => {
            return Err(explained(error));
        }
        _ => (PeerMaps::create(options.names_max).map_err(explained)?, true),
    };
    let mut attached = Vec::new();
    for (number, (path, group)) in groups.iter().enumerate() {
        let names = options.peer_names;
        let links = found.attach(group, names.has_ipv6(), names.has_ipv4()).map_err(|error| {
            ExitError::failed(format_args!("{}: {}", path.display(), explained(error).message))
        })?;
        attached.extend(links.into_iter().map(|link| (number, link)));
    }
    // From here on the new ones are attached; what is there of former ones goes.
    for link in former {
        fs::remove_file(&link).map_err(|error| cannot("removed", &link, &error))?;
    }
    if is_new {
        pin_maps(&found, maps)?;
    }
    give_away(maps, owner)?;
    for (number, link) in &attached {
        let path = maps.join(format!("{LINK}{number}-{}", link.name));
        PeerLink::pin(link, &path).map_err(explained)?;
    }
    let shown: Vec<_> = groups.iter().map(|(path, _)| path.display().to_string()).collect();
    print(format!(
        "attached to {}: at most {} names, of the server of {} (serve --peer-names {})\n",
        shown.join(", "),
        options.names_max,
        options.user,
        options.peer_names,
    ))?;
    if attached.iter().any(|(_, link)| link.name == EVERYWHERE) {
        print(
            "this kernel cannot tell network namespaces apart (Linux 5.15 can): where another one of these \
             control groups has the same addresses, its peers get names, too\n",
        )?;
    }
    if is_new {
        print("the maps are new: a server that runs already is to be restarted\n")?;
    }
    Ok(())
}

/// Where the maps of this directory are: names, state, peers.
fn maps_at(maps: &Path) -> [PathBuf; 3] {
    [NAMES_FILE, STATE_FILE, PEERS_FILE].map(|file| maps.join(file))
}

fn pin_maps(found: &PeerMaps, maps: &Path) -> Result<(), ExitError> {
    let paths = maps_at(maps);
    for path in &paths {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(cannot("removed", path, &error));
            }
            _ => {}
        }
    }
    found.pin(&paths).map_err(explained)
}

/// Names and state become the server's, and it may come to them. So may the group root: root
/// without CAP_DAC_OVERRIDE opens them when it attaches again.
fn give_away(maps: &Path, owner: u32) -> Result<(), ExitError> {
    for path in &maps_at(maps)[..2] {
        // It may be the server's already, whose mode root without CAP_FOWNER cannot change.
        chown(path, Some(0), Some(0)).map_err(|error| cannot("given away", path, &error))?;
        let mode = fs::Permissions::from_mode(0o660);
        fs::set_permissions(path, mode).map_err(|error| cannot("given a mode", path, &error))?;
        chown(path, Some(owner), None).map_err(|error| cannot("given away", path, &error))?;
    }
    // systemd mounts it for root alone. What others have pinned there has modes of its own.
    let root = maps.parent().unwrap_or(Path::new("/"));
    let mode = fs::metadata(root).map_err(|error| cannot("read", root, &error))?.permissions();
    if owner == 0 || mode.mode() & PASS == PASS {
        return Ok(());
    }
    let opened = fs::Permissions::from_mode(mode.mode() & 0o7777 | PASS);
    fs::set_permissions(root, opened).map_err(|error| cannot("opened", root, &error))?;
    make(&maps.join(OPENED))
}

/// Makes a directory, unless it is there.
fn make(path: &Path) -> Result<(), ExitError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(cannot("made", path, &error))
        }
        _ => Ok(()),
    }
}

fn detach(maps: &Path) -> Result<(), ExitError> {
    let links = links(maps)?;
    for link in &links {
        // Where this fails, it is detached when its file is gone.
        let _ = peer_names::detach(link);
    }
    let files: Vec<_> =
        links.into_iter().chain(maps_at(maps)).filter(|path| path.exists()).collect();
    if files.is_empty() {
        return print("nothing is attached\n");
    }
    for path in &files {
        fs::remove_file(path).map_err(|error| cannot("removed", path, &error))?;
    }
    if fs::remove_dir(maps.join(OPENED)).is_ok() {
        close_or_leave(maps)?;
    }
    // Somebody may have pinned something else there.
    let _ = fs::remove_dir(maps);
    print("detached: peers are what they are\n")
}

/// The bpffs is for root alone again, unless the server of other maps passes there: then it is
/// closed when these go.
fn close_or_leave(maps: &Path) -> Result<(), ExitError> {
    let root = maps.parent().unwrap_or(Path::new("/"));
    let others = fs::read_dir(root).map_err(|error| cannot("read", root, &error))?;
    let mut others = others.flatten().map(|entry| entry.path()).filter(|other| other != maps);
    if let Some(other) = others.find(|other| links(other).is_ok_and(|links| !links.is_empty())) {
        return make(&other.join(OPENED));
    }
    let mode = fs::metadata(root).map_err(|error| cannot("read", root, &error))?.permissions();
    let closed = fs::Permissions::from_mode(mode.mode() & 0o7777 & !PASS);
    fs::set_permissions(root, closed).map_err(|error| cannot("closed", root, &error))
}

/// Which sockets are to have names and are not attached; and the other way round. Empty where that
/// cannot be seen.
pub fn attached_otherwise(maps: &Path, wanted: PeerNames) -> [Vec<PeerNames>; 2] {
    let links = links(maps).unwrap_or_default();
    let has = |name: &str| links.iter().any(|link| link.to_string_lossy().ends_with(name));
    let all = [
        (PeerNames::Ipv6, wanted.has_ipv6(), "peer6"),
        (PeerNames::Ipv4, wanted.has_ipv4(), "peer4"),
    ];
    let all = all.map(|(names, is_wanted, name)| (names, is_wanted, has(name)));
    let find = |wanted, there| {
        let found = all.iter().filter(|&&(_, is_wanted, is_there)| {
            !links.is_empty() && (is_wanted, is_there) == (wanted, there)
        });
        found.map(|(names, ..)| *names).collect()
    };
    [find(true, false), find(false, true)]
}

/// The pinned links.
fn links(maps: &Path) -> Result<Vec<PathBuf>, ExitError> {
    let entries = match fs::read_dir(maps) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("read", maps, &error)),
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_link = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK))
    };
    Ok(paths.filter(is_link).collect())
}

/// The control groups to attach to, opened.
fn groups(wanted: &[PathBuf]) -> Result<Vec<(PathBuf, File)>, ExitError> {
    let root = || {
        place::control_groups().ok_or_else(|| {
            ExitError::failed(
                "there are no control groups v2 here, which the programs are attached to; boot with \
                 systemd.unified_cgroup_hierarchy=1, or mount them: mount -t cgroup2 none /sys/fs/cgroup/unified",
            )
        })
    };
    let paths = if wanted.is_empty() { vec![root()?] } else { wanted.to_vec() };
    let open = |path: PathBuf| match place::is_control_group(&path) {
        Ok(true) => File::open(&path)
            .map(|group| (path.clone(), group))
            .map_err(|error| cannot("opened", &path, &error)),
        Ok(false) => Err(ExitError::failed(format_args!(
            "{} is no control group v2; those of services are below {}",
            path.display(),
            root()?.join("system.slice").display()
        ))),
        Err(error) => Err(cannot("opened", &path, &error)),
    };
    paths.into_iter().map(open).collect()
}

fn make_directory(maps: &Path) -> Result<(), ExitError> {
    let parent = maps.parent().unwrap_or(Path::new("/"));
    if !place::is_bpffs(parent).unwrap_or(false) {
        return Err(ExitError::failed(format_args!(
            "maps cannot be kept at {}: there is no bpffs; mount -t bpf bpf /sys/fs/bpf, or name another one by \
             --maps",
            maps.display()
        )));
    }
    make(maps)?;
    // Whatever the umask was: the server passes through it.
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(maps, mode).map_err(|error| cannot("given a mode", maps, &error))
}

/// The number of a user.
fn owner(user: &str) -> Result<u32, ExitError> {
    if let Ok(number) = user.parse() {
        return Ok(number);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    number_of(&users, user).ok_or_else(|| {
        ExitError::failed(format_args!(
            "there is no user {user}, whose server is to write the names; name one by --user"
        ))
    })
}

fn cannot(done: &str, path: &Path, error: &dyn Display) -> ExitError {
    ExitError::failed(format_args!("{} cannot be {done}: {error}; try it as root", path.display()))
}
