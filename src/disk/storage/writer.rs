//! [`JournalWriter`]: the journal of one shard, as its reactor writes it. It waits for no other
//! thread, makes no file and syncs nothing: the thread in `sync` does that.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rtrb::{Consumer, Producer};
use thiserror::Error;

use super::SyncPolicy;
use super::shard::{Segment, ShardState, Wake};
use crate::disk::fs::is_no_room;
use crate::disk::journal::{self, HEADER_LENGTH, Position, RecordNumber};
use crate::handoff::change::{Change, Timestamp};
use crate::handoff::entry::TableKey;

/// Whether the journal takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalState {
    /// All that is appended gets into the file.
    Fine,
    /// Not before [`JournalWriter::retry`] succeeds: there is no room for the last changes.
    NoSpace,
    /// It has as many octets as it may, see [`super::StorageConfig::journal_max`]: not before a
    /// compaction. All changes so far are in it.
    Full,
    /// Never again: a write or a sync failed.
    Failed,
}

/// Why changes are not in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum JournalError {
    /// See [`JournalState::NoSpace`].
    #[error("no room for the journal; free some space")]
    NoSpace,
    /// See [`JournalState::Failed`].
    #[error(
        "the journal cannot be written any more; see what the kernel's log says about the \
         disk, and start again"
    )]
    Failed,
}

/// Writes the journal of one shard.
#[derive(Debug)]
pub struct JournalWriter {
    shard: Arc<ShardState>,
    /// The segment that is being written, and its octets.
    segment: Option<(Segment, u64)>,
    /// The segment after it, as soon as it is made.
    next_segment: Consumer<Segment>,
    /// Takes each segment when it is begun.
    begun: Producer<Segment>,
    position: Position,
    /// Octets to be written at the end of the segment, of which the first `written` are.
    pending: Vec<u8>,
    written: usize,
    /// Whether the segment ends with what is pending.
    ends: bool,
    state: JournalState,
    cause: Option<io::Error>,
}

impl JournalWriter {
    pub(super) fn new(
        shard: Arc<ShardState>,
        next_segment: Consumer<Segment>,
        begun: Producer<Segment>,
        position: Position,
    ) -> Self {
        let mut writer = Self {
            shard,
            segment: None,
            next_segment,
            begun,
            position,
            pending: Vec::new(),
            written: 0,
            ends: false,
            state: JournalState::Fine,
            cause: None,
        };
        if !writer.begin() {
            writer.state = JournalState::NoSpace;
        }
        writer
    }

    /// Writes `changes`, which happened at `time`, and returns the number of the last record of
    /// them: they may be announced as soon as [`JournalWriter::durable`] has reached it. Nothing is
    /// written where there is no change.
    ///
    /// # Errors
    /// Where the state is [`JournalState::Fine`] before the call and [`JournalState::NoSpace`]
    /// after it, the changes are kept with their numbers, and written by [`JournalWriter::retry`].
    /// In all other cases they are refused: make no change unless [`JournalWriter::state`] is fine.
    pub fn append(
        &mut self,
        time: Timestamp,
        changes: &[(TableKey, Change)],
    ) -> Result<RecordNumber, JournalError> {
        match self.state() {
            // A compaction may have made it full since the state was asked for.
            JournalState::Fine | JournalState::Full => {}
            JournalState::NoSpace => return Err(JournalError::NoSpace),
            JournalState::Failed => return Err(JournalError::Failed),
        }
        if changes.is_empty() {
            return Ok(self.last());
        }
        if !self.begin() {
            self.state = JournalState::NoSpace;
            return Err(JournalError::NoSpace);
        }
        self.encode(time, changes);
        self.flush()?;
        Ok(self.last())
    }

    /// Tries again to write the changes there was no room for.
    ///
    /// # Errors
    /// As before, or for good.
    pub fn retry(&mut self) -> Result<(), JournalError> {
        match self.state() {
            JournalState::Fine | JournalState::Full => Ok(()),
            JournalState::NoSpace if self.begin() => self.flush(),
            JournalState::NoSpace => Err(JournalError::NoSpace),
            JournalState::Failed => Err(JournalError::Failed),
        }
    }

    /// The number that the next record will have.
    pub fn next_number(&self) -> RecordNumber {
        self.position.record
    }

    /// The number that the next event will have.
    pub fn next_event(&self) -> u64 {
        self.position.event
    }

    /// The last record that is as durable as the sync policy asks for: all up to it may be
    /// announced.
    pub fn durable(&self) -> RecordNumber {
        match self.shard.policy {
            SyncPolicy::Always => RecordNumber(self.shard.synced.load(Ordering::Acquire)),
            // These policies promise that a record is written, not that it is synced.
            SyncPolicy::None | SyncPolicy::Interval(_) => {
                RecordNumber(self.shard.written.load(Ordering::Relaxed))
            }
        }
    }

    /// Whether changes can be made.
    pub fn state(&mut self) -> JournalState {
        if self.shard.failed.load(Ordering::Acquire) {
            self.state = JournalState::Failed;
        }
        match self.state {
            JournalState::Fine if self.shard.is_full() => JournalState::Full,
            state => state,
        }
    }

    /// The system's error that made the state other than fine. For a failed sync see
    /// [`super::Storage::trouble`].
    pub fn cause(&self) -> Option<&io::Error> {
        self.cause.as_ref()
    }

    /// Sets what the sync thread calls when a sync has advanced [`JournalWriter::durable`] or has
    /// failed.
    pub fn set_wake(&self, wake: Arc<Wake>) {
        self.shard.set_wake(wake);
    }

    /// Ends the journal with an end record, as after a clean stop. Waits for the disk.
    ///
    /// # Errors
    /// Where a change could not be made durable.
    pub fn close(mut self, time: Timestamp) -> Result<(), JournalError> {
        let flushed = if self.state() == JournalState::NoSpace { self.flush() } else { Ok(()) };
        if self.state() == JournalState::Failed {
            return Err(JournalError::Failed);
        }
        self.shard.stop();
        // Also where there is still no room for the last changes: nobody else syncs the ones before
        // them.
        self.shard.sync().map_err(|_| JournalError::Failed)?;
        flushed?;
        // Where a segment was just closed, the end record goes into the next one.
        let closed = self.segment.is_none() && self.begin();
        if let Some((segment, length)) = self.segment.clone()
            && (closed || length > HEADER_LENGTH as u64)
        {
            let last = self.last();
            journal::encode_end(&mut self.pending, segment.seal, &mut self.position, last, time);
            self.flush()?;
            self.shard.sync().map_err(|_| JournalError::Failed)?;
        }
        Ok(())
    }

    fn last(&self) -> RecordNumber {
        RecordNumber(self.position.record.0.saturating_sub(1))
    }

    fn encode(&mut self, time: Timestamp, changes: &[(TableKey, Change)]) {
        let Some((Segment { seal, .. }, length)) = self.segment else {
            return;
        };
        let synced = RecordNumber(self.shard.synced.load(Ordering::Acquire));
        let Self { pending, position, .. } = self;
        journal::encode(pending, seal, position, synced, time, changes);
        let room = self.shard.segment_max.saturating_sub(length);
        // The end record is part of the same write, so that only one write can fail.
        self.ends =
            pending.len() as u64 >= room && self.next_segment.slots() > 0 && self.begun.slots() > 0;
        if self.ends {
            journal::encode_end(pending, seal, position, synced, time);
        }
    }

    /// Begins the next segment if none is open. Returns whether there is one to write to.
    fn begin(&mut self) -> bool {
        if self.segment.is_none()
            && self.begun.slots() > 0
            && let Ok(segment) = self.next_segment.pop()
        {
            self.shard.begin(segment.number);
            self.segment = Some((segment.clone(), HEADER_LENGTH as u64));
            drop(self.begun.push(segment));
        }
        self.segment.is_some()
    }

    fn flush(&mut self) -> Result<(), JournalError> {
        while self.written < self.pending.len() {
            let Some((segment, length)) = &self.segment else {
                break;
            };
            let rest = &self.pending[self.written..];
            match segment.file.write_at(rest, *length + self.written as u64) {
                Ok(0) => return Err(self.give_up(io::ErrorKind::WriteZero.into())),
                Ok(n) => self.written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.give_up(error)),
            }
        }
        if let Some((_, length)) = &mut self.segment {
            *length += self.pending.len() as u64;
            self.shard.length.store(*length, Ordering::Relaxed);
        }
        self.pending.clear();
        self.written = 0;
        if std::mem::take(&mut self.ends)
            && let Some((_, length)) = self.segment.take()
        {
            self.shard.length.store(0, Ordering::Relaxed);
            self.shard.closed.fetch_add(length, Ordering::Relaxed);
        }
        self.state = JournalState::Fine;
        self.cause = None;
        self.shard.wrote(self.last());
        Ok(())
    }

    fn give_up(&mut self, error: io::Error) -> JournalError {
        let refused = if is_no_room(&error) {
            self.state = JournalState::NoSpace;
            JournalError::NoSpace
        } else {
            self.state = JournalState::Failed;
            self.shard.fail(&error);
            JournalError::Failed
        };
        self.cause = Some(error);
        refused
    }
}
