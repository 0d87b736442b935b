//! `nat64handoff history copy`: copies a history to where those of a fleet's hosts are.

use std::cell::RefCell;
use std::sync::Arc;

use super::{place, shown};
use crate::disk::copies::CopyStore;
use crate::disk::copies::folder::CopyFolder;
use crate::disk::history::{HistoryCopyError, HistoryCopying};
use crate::kernel::priority;
use crate::kernel::stderr::say;
use crate::programs::copies::{bucket, next_step};
use crate::programs::exit::{ExitError, print};
use crate::programs::options::{CopyOptions, CopyPlace, host_name};

/// Copies it, and says what was sent.
///
/// # Errors
/// What is in the way; also where a file is damaged, and was not sent.
pub fn copy(options: &CopyOptions) -> Result<(), ExitError> {
    let place = place(&options.history)?;
    let store = store(&options.to)?;
    let host = match &options.host {
        Some(host) => host.clone(),
        None => own_name()?,
    };
    priority::lower();
    let bar = RefCell::new(None);
    let copying = HistoryCopying {
        place: &place,
        store: &*store,
        host: &host,
        removes: options.delete,
        progress: &shown(&bar),
    };
    let copied = copying.copy();
    drop(bar.take());
    let copied = copied.map_err(|error| match error {
        HistoryCopyError::There(path, error) => {
            let is_bucket = matches!(options.to, CopyPlace::Bucket(..));
            let next = next_step(&error, is_bucket);
            ExitError::failed(format_args!("--to {path}: {error}; {next}"))
        }
        error => ExitError::failed(error),
    })?;
    for (path, error) in &copied.damaged {
        say(format_args!("{} is not sent: {error}", path.display()));
    }
    let removed = match copied.removed {
        0 => String::new(),
        removed => format!(", {removed} were removed"),
    };
    print(format!(
        "{} files of {} octets sent, {} were there{removed}: {store}/{host}\n",
        copied.sent, copied.octets, copied.unchanged
    ))?;
    match copied.damaged.len() {
        0 => Ok(()),
        damaged => Err(ExitError::failed(format_args!(
            "{damaged} files of the history in {} are damaged: nat64handoff history check says what to do",
            place.folder().display()
        ))),
    }
}

fn store(to: &CopyPlace) -> Result<Arc<dyn CopyStore>, ExitError> {
    match to {
        CopyPlace::Folder(folder) => Ok(Arc::new(CopyFolder::new(folder.clone()))),
        CopyPlace::Bucket(name, prefix) => bucket("--to", name, prefix),
    }
}

/// That of this machine.
fn own_name() -> Result<String, ExitError> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    host_name(&name).map_err(|error| {
        ExitError::usage(format_args!(
            "the name of this machine, {name}, is no name of a folder: name one by --host; {error}"
        ))
    })
}
