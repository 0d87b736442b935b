//! Waits until something may be new in the log's directory: inotify, or a look now and then where
//! there is none (a network file system, no instance left).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::disk::fs::parent;

/// How often to look where nothing tells.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The same with inotify: a network file system does not tell what other hosts do.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct DirectoryWatch {
    /// With the directory that is watched.
    inotify: Option<(OwnedFd, PathBuf)>,
}

impl DirectoryWatch {
    /// Watches the directory of this file, which may be another one than before.
    pub(super) fn on(&mut self, log: &Path) {
        let folder = parent(log);
        if self.inotify.as_ref().is_some_and(|(_, watched)| watched == folder) {
            return;
        }
        let changes = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE;
        let watched = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .and_then(|inotify| inotify::add_watch(&inotify, folder, changes).map(|_| inotify));
        self.inotify = watched.ok().map(|inotify| (inotify, folder.to_owned()));
    }

    /// Waits until something may be new, one of `also` is ready for what it is asked for or has an
    /// error, or `patience` is over. Returns whether one of `also` is.
    pub(super) fn wait(
        &self,
        also: &[(BorrowedFd<'_>, PollFlags)],
        patience: Duration,
    ) -> io::Result<bool> {
        let interval = if self.inotify.is_some() { DOUBT_INTERVAL } else { LOOK_INTERVAL };
        let mut polled: Vec<_> =
            also.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        if let Some((inotify, _)) = &self.inotify {
            polled.push(PollFd::new(inotify, PollFlags::IN));
        }
        // At most a second.
        let timeout = Timespec::try_from(patience.min(interval)).unwrap_or_default();
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = polled.iter().take(also.len()).any(|fd| !fd.revents().is_empty());
        if let Some((inotify, _)) = &self.inotify {
            let mut events = [0; 4096];
            while matches!(rustix::io::read(inotify, &mut events), Ok(1..)) {}
        }
        Ok(ready)
    }
}
