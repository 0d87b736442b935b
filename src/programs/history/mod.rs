//! `nat64handoff history`: makes the history of an event log by hand, reads all of it, and copies
//! it.

#[cfg(feature = "fleet")]
mod copy;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;

use crate::disk::history::{Building, Due, HistoryChecked, HistoryPlace};
use crate::kernel::clock;
use crate::kernel::priority;
use crate::kernel::stderr::say;
use crate::programs::exit::{ExitError, print};
use crate::programs::log_place::LogPlaces;
use crate::programs::options::{HistoryCommand, HistoryOptions};
use crate::programs::progress::Progress;

/// Builds, checks or copies a history.
///
/// # Errors
/// What is in the way; of a check, also where something is wrong, so that scripts see it.
pub fn run(command: HistoryCommand) -> Result<(), ExitError> {
    match command {
        HistoryCommand::Build(options) => build(&options),
        HistoryCommand::Check(options) => check(&options),
        #[cfg(feature = "fleet")]
        HistoryCommand::Copy(options) => copy::copy(&options),
        #[cfg(not(feature = "fleet"))]
        HistoryCommand::Copy(_) => Err(crate::programs::copies::not_built("history copy")),
    }
}

fn place(options: &HistoryOptions) -> Result<HistoryPlace, ExitError> {
    let HistoryOptions { log, history, config } = options;
    let places = LogPlaces::find(log.as_deref(), history.as_deref(), config.as_deref())?;
    match (places.log, places.history) {
        (Some(log), Some(folder)) => Ok(HistoryPlace::new(folder, log)),
        (Some(_), None) => Err(ExitError::usage(
            "there is no history (--history off): name its folder by --history",
        )),
        (None, _) => Err(ExitError::usage("a history is made of a file: name it by --log")),
    }
}

fn build(options: &HistoryOptions) -> Result<(), ExitError> {
    let place = place(options)?;
    priority::lower();
    let begin = clock::instant();
    let bar = RefCell::new(None);
    let building = Building {
        place: &place,
        due: Due::Now,
        lines_max: None,
        stop: &|| false,
        progress: &shown(&bar),
    };
    let built = building.build();
    drop(bar.take());
    let built = built.map_err(ExitError::failed)?;
    if let Some(path) = &built.damaged {
        say(format_args!(
            "{} is a file of the history that was damaged; what the event log has of its time is in the history \
             again, and the file may be removed",
            path.display()
        ));
    }
    if let Some(reached) = built.gap {
        say(format_args!(
            "where the history ended is not in the log any more: it goes on with what is later than {reached} UTC"
        ));
    }
    print(format!(
        "{} files of {} lines, {} rows in {} octets, in {:.1} s: {}\n",
        built.files,
        built.lines,
        built.rows,
        built.octets,
        begin.elapsed().as_secs_f64(),
        place.folder().display()
    ))
}

fn check(options: &HistoryOptions) -> Result<(), ExitError> {
    let place = place(options)?;
    let bar = RefCell::new(None);
    let checked = HistoryChecked::of(&place, &shown(&bar));
    drop(bar.take());
    let checked = checked.map_err(|(path, error): (PathBuf, io::Error)| {
        ExitError::failed(format_args!("{} cannot be read: {error}", path.display()))
    })?;
    print(checked.to_string())?;
    match checked.wrong.len() {
        0 => Ok(()),
        wrong => Err(ExitError::failed(format_args!(
            "{wrong} files of the history in {} are wrong, as said above",
            place.folder().display()
        ))),
    }
}

/// Shows how far it is, once it is known how much there is to do.
fn shown(bar: &RefCell<Option<Progress>>) -> impl Fn(u64, u64) {
    |all, done| {
        let mut bar = bar.borrow_mut();
        bar.get_or_insert_with(|| Progress::begin("history", all)).teller().set(done);
    }
}
