//! The service manager, as systemd speaks with its services: it is told that this one serves, is
//! alive or ends, and it keeps descriptors while one process ends and the next starts.
//!
//! Without a service manager nothing here does anything, but for [`execute`]: by the same kind of
//! variable a process hands its descriptors over to the program that it executes.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use sd_notify::NotifyState;

use crate::kernel::signals;
use crate::kernel::stderr::warn;

/// What [`execute`] hands over: `17:name 18:name`.
const HANDED_OVER: &str = "HANDED_OVER_TO_NAT64HANDOFF";
/// In it systemd tells the service which process that is.
const SERVICE: &str = "SYSTEMD_EXEC_PID";
static IS_SERVICE: AtomicBool = AtomicBool::new(false);
/// What a [`super::successor`] has its channel by.
pub(super) const CHANNEL: &str = "CHANNEL_OF_NAT64HANDOFF";
/// What tells of descriptors that the service manager passed.
const LISTEN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// A descriptor that outlives the process.
#[derive(Debug)]
pub struct PassedFile {
    pub name: String,
    pub file: OwnedFd,
    /// Whether the service manager has it open all the time, and [`forget`] does not change that.
    pub is_units: bool,
}

/// The descriptors that were passed to this process, once: later calls have none.
pub fn passed(is_ours: impl Fn(&str) -> bool) -> Vec<PassedFile> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let handed = handed_over(&env::var(HANDED_OVER).unwrap_or_default());
    let given = sd_notify::listen_fds_with_names().map(Iterator::collect);
    let all = handed.into_iter().chain(given.unwrap_or_else(|_| Vec::new()));
    all.filter_map(|(descriptor, name)| {
        // SAFETY: whoever started this process gave it to us alone; no number is named twice, and
        // this is done once.
        let file = unsafe { started_with(descriptor) }?;
        let is_units = !is_ours(&name);
        Some(PassedFile { name, file, is_units })
    })
    .collect()
}

/// A descriptor that this process was started with, if it has it. Programs that are executed from
/// now on do not have it.
///
/// # Safety
/// Nobody else in this process may own it.
pub(super) unsafe fn started_with(descriptor: RawFd) -> Option<OwnedFd> {
    // SAFETY: takes numbers alone, and fails where there is no such descriptor.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return None;
    }
    // SAFETY: it is open, and the caller says that it is nobody's.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn handed_over(text: &str) -> Vec<(RawFd, String)> {
    let one = |word: &str| {
        let (number, name) = word.split_once(':')?;
        let number = number.parse().ok().filter(|&number| number > 2)?;
        Some((number, name.to_owned()))
    };
    text.split_ascii_whitespace().filter_map(one).collect()
}

/// Executes the program of this process anew, perhaps another version of it, with the same
/// arguments, and with these descriptors. Returns only if that failed.
pub fn execute(files: &[PassedFile]) -> io::Error {
    if let Err(error) = pass(files, FdFlags::empty()) {
        return error;
    }
    signals::hold();
    let error = anew(files).exec();
    signals::ignore_broken_pipes();
    error
}

/// The program, with the arguments of this process, that is told of these descriptors.
pub(super) fn anew(files: &[PassedFile]) -> Command {
    let names = files.iter().map(|file| format!("{}:{}", file.file.as_raw_fd(), file.name));
    let names: Vec<_> = names.collect();
    let mut command = program();
    for variable in LISTEN.into_iter().chain([CHANNEL]) {
        command.env_remove(variable);
    }
    if is_service() {
        command.env(SERVICE, process::id().to_string());
    }
    command.args(env::args_os().skip(1)).env(HANDED_OVER, names.join(" "));
    command
}

/// With these flags: whether programs that are executed from now on have these descriptors.
pub(super) fn pass(files: &[PassedFile], flags: FdFlags) -> io::Result<()> {
    files.iter().try_for_each(|file| Ok(fcntl_setfd(&file.file, flags)?))
}

/// Whether this process is the service of a service manager, which can be told that another one is:
/// not something that a service has started, nor the first process of a container.
pub fn is_service() -> bool {
    let is_named = || env::var(SERVICE).is_ok_and(|name| name == process::id().to_string());
    env::var_os("NOTIFY_SOCKET").is_some() && (IS_SERVICE.load(Ordering::Relaxed) || is_named())
}

/// The service manager was told that this process is the service.
pub(super) fn is_this_process() {
    IS_SERVICE.store(true, Ordering::Relaxed);
}

/// Tells the service manager that another process is the service now.
///
/// # Errors
/// Where it cannot be told.
pub(super) fn is_now(process: u32) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::MainPid(process)])
}

/// Asks the program that [`execute`] would execute whether it would start like this one: runs it
/// with `command` in place of the first argument.
///
/// # Errors
/// What it says, or why it cannot be executed.
pub fn rehearse(command: &str) -> Result<(), String> {
    let arguments = env::args_os().skip(2);
    let output = program().arg(command).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// By the path that this process was started with: behind a link, it may be a newer version.
pub(super) fn program() -> Command {
    let name = env::args_os().next().unwrap_or_default();
    let has_path = name.as_encoded_bytes().contains(&b'/');
    let path = match has_path {
        true => PathBuf::from(&name),
        false => env::current_exe().unwrap_or_else(|_| PathBuf::from(&name)),
    };
    let mut command = Command::new(path);
    command.arg0(OsString::from(&name));
    command
}

/// Has the service manager keep a descriptor when this process ends, however it ends, and pass it
/// to the next one.
pub fn keep(name: &str, file: BorrowedFd<'_>) {
    // It must not look for errors of the sockets, and drop them: that is what FDPOLL=0 says.
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    drop(sd_notify::notify_with_fds(&state, &[file]));
}

/// Has the service manager close what [`keep`] gave it.
pub fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Tells the service manager that this process serves. One that waits for that, and is not reached,
/// will end this process.
pub fn ready(status: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]) {
        warn(format_args!(
            "the service manager cannot be told that this serves (NOTIFY_SOCKET: {error}), and may end it \
             for that; let it open Unix sockets (RestrictAddressFamilies=AF_UNIX)"
        ));
    }
}

/// Tells the service manager that this process ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the service manager that this process works.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Whether the service manager wants to be told by [`alive`], and how often at least.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// A service manager that does not listen is no reason to fail.
fn tell(state: &[NotifyState<'_>]) {
    drop(sd_notify::notify(state));
}

impl AsFd for PassedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_is_read_again() {
        assert_eq!(handed_over(""), []);
        let both = [(17, "a-0".to_owned()), (4, "b".to_owned())];
        assert_eq!(handed_over("17:a-0 4:b"), both);
        assert_eq!(handed_over("2:a x:b 4 -1:c"), [], "standard error is nobody's");
    }
}
