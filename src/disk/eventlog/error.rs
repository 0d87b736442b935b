//! What can go wrong with the event log, as one line: what, why, and what to do.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::disk::fs::parent;
use crate::kernel::limits;

/// Why there is no event log, or not all of it.
#[derive(Debug, Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("the event log {} cannot be opened: {}", path.display(), why_not_opened(path, cause))]
    Open {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// What has the name cannot be a log.
    #[error("{} cannot be the event log: {}; choose another file with --log", .0.display(), .1)]
    NoLog(PathBuf, &'static str),
    /// A named pipe without a reader.
    #[error("the event log {} cannot be opened: nobody reads this named pipe", .0.display())]
    Unread(PathBuf),
    /// Standard output cannot be used.
    #[error("the event log cannot be written to standard output: {0}; choose a file with --log")]
    Stdout(#[source] io::Error),
    /// The cursor cannot be made.
    #[error(
        "the cursor of the event log, {}, cannot be written: {cause}; {}",
        path.display(),
        limits::advice(cause).unwrap_or("see that the state directory is writable for this user")
    )]
    Cursor {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// What a crash left unwritten cannot be written now.
    #[error(
        "{log} cannot be completed from the journal: {cause}; {}",
        limits::advice(cause).unwrap_or("make it readable and writable, and start again")
    )]
    Incomplete {
        /// The log, as [`EventLog`](super::EventLog) calls it in its messages.
        log: String,
        #[source]
        cause: io::Error,
    },
    /// The system gives us no thread.
    #[error("the event log gets no thread: {0}; see the limit on tasks of this service")]
    Thread(#[source] io::Error),
    /// The log ended before everything was written.
    #[error(
        "{lines} line{} could not be written to {log}: {}",
        if *lines == 1 { "" } else { "s" },
        cause.as_ref().map_or("it took too long".to_owned(), io::Error::to_string)
    )]
    Unwritten {
        /// The log, as [`EventLog`](super::EventLog) calls it in its messages.
        log: String,
        /// Lines that are missing.
        lines: u64,
        /// The write error, if there was one.
        #[source]
        cause: Option<io::Error>,
    },
}

impl LogError {
    /// For a message that has the log's name already.
    pub(super) fn into_cause(self) -> io::Error {
        match self {
            LogError::Open { cause, .. } => cause,
            LogError::Unread(_) => io::Error::other("nobody reads this named pipe"),
            error => io::Error::other(error.to_string()),
        }
    }
}

/// The directory that the file is in, or would be in: where `path` is a link, that of its target.
pub fn directory_of(mut path: PathBuf) -> PathBuf {
    // As many links as Linux follows.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = parent(&path).join(target);
    }
    parent(&path).to_owned()
}

fn why_not_opened(path: &Path, cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no directory {0}; create it, or choose another file with --log",
            directory_of(path.to_owned()).display()
        ),
        io::ErrorKind::PermissionDenied if fs::symlink_metadata(path).is_err() => format!(
            "{cause}; see that this user can make files in {}, or choose another file with --log",
            parent(path).display()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("{cause}; make it writable for this user, or choose another file with --log")
        }
        io::ErrorKind::IsADirectory => format!("{cause}; name a file in it with --log"),
        _ => {
            let advice = limits::advice(cause).unwrap_or("choose another file with --log");
            format!("{cause}; {advice}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dangling_link_names_the_directory_that_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let [link, gone] = ["events.log", "gone/x.log"].map(|name| directory.path().join(name));
        std::os::unix::fs::symlink("gone/x.log", &link).unwrap();
        let not_found = io::ErrorKind::NotFound.into();
        let line = why_not_opened(&link, &not_found);
        assert!(line.contains(&format!("no directory {};", parent(&gone).display())), "{line}");
        let line = why_not_opened(&gone, &not_found);
        assert!(line.contains(&format!("no directory {};", parent(&gone).display())), "{line}");
    }
}
