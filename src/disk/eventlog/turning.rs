//! [`Turning`]: which day the log's file is of, and when that is looked at.
//!
//! Not here: how the file is put aside (`logger`), and what becomes of it then (`archive`).

use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use rtrb::chunks::ReadChunk;

use super::Rotation;
use super::archive::{Archive, Job};
use super::days::Day;
use super::output::{LogFile, Output};
use crate::handoff::change::{Event, Timestamp};
use crate::kernel::stderr::Priority;

/// One file a day.
pub(super) struct Turning {
    pub(super) clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// The day of the lines that are taken.
    pub(super) day: Day,
    /// When the file is put aside once more, after that failed.
    pub(super) again_at: Option<Duration>,
    /// The day on which the files of former days were looked at.
    pub(super) tidied: Day,
    pub(super) archive: Archive,
}

impl Turning {
    /// None where the log is no regular file.
    pub(super) fn start(
        rotation: Rotation,
        output: &Output,
        threads: bool,
        say: impl FnMut(Priority, fmt::Arguments<'_>) + Send + 'static,
    ) -> io::Result<Option<Turning>> {
        let Output::File(LogFile { id: Some(_), path, .. }) = output else { return Ok(None) };
        let Rotation { keep_days, clock } = rotation;
        let today = Day::of(clock());
        let mut archive = Archive::start(path, keep_days, threads, say)?;
        archive.tidy(Job { today, compresses: true });
        let day = output.day().unwrap_or(today);
        Ok(Some(Turning { clock, day, again_at: None, tidied: today, archive }))
    }

    /// How many of the first of these events belong into the file.
    pub(super) fn fit(&self, chunk: &ReadChunk<'_, Event>) -> usize {
        let (first, second) = chunk.as_slices();
        let events = first.iter().chain(second);
        events.take_while(|event| self.day.has_room_for(event.at)).count()
    }

    /// How long nothing has to be done.
    pub(super) fn rest(&self, now: Duration) -> Duration {
        let again = self.again_at.map(|at| at.saturating_sub(now));
        Day::rest((self.clock)()).min(again.unwrap_or(Duration::MAX))
    }

    /// Has the files of former days looked at, once a day.
    pub(super) fn tidy(&mut self, compresses: bool) {
        let today = Day::of((self.clock)());
        if mem::replace(&mut self.tidied, today) != today {
            self.archive.tidy(Job { today, compresses });
        }
    }
}
