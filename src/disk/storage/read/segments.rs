//! Reads the segments of a shard, and tells a torn end from damage.

use std::sync::Arc;

use super::{Common, Damage, OnDamage, RecordReader, ShardEnd, ShardReader, Sink, Step, Tear};
use crate::disk::fs::Boot;
use crate::disk::journal::{FileId, FileKind, HEADER_LENGTH, Position, Record, RecordNumber};
use crate::disk::storage::{StorageError, epoch};

/// What is valid behind something invalid.
struct Remainder {
    /// The number of its first record.
    first: RecordNumber,
    in_same_file: bool,
    /// The offset of the first record in its file.
    offset: u64,
    records: u64,
    /// The last record that one of these knew to be synced.
    synced: RecordNumber,
}

/// What an invalid stretch of a segment is.
enum Verdict {
    /// The end of the journal was torn off. `records`: valid records behind a hole, which go with
    /// it.
    Torn { records: u64 },
    /// Damage. Reading goes on at `resume`, or else in the next segment.
    Damaged { octets: u64, records: Option<(RecordNumber, RecordNumber)>, resume: Option<u64> },
}

/// A segment that is being read.
struct SegmentFile<'a> {
    id: FileId,
    /// Octets of the file.
    length: u64,
    /// As its header says, if that can be read.
    boot: Option<Boot>,
    /// Those that come after it.
    later: &'a [u64],
}

/// What is read of the segments.
#[derive(Default)]
pub(super) struct Reach {
    /// The segment to begin with: by default that of the snapshot.
    pub first: Option<u64>,
    /// The first record that is wanted.
    pub from: RecordNumber,
    /// Whether somebody writes meanwhile: what is not whole yet in the last segments is not there.
    pub live: bool,
}

/// How far the segments were read.
struct SegmentsProgress<'a> {
    reader: &'a ShardReader<'a>,
    reach: Reach,
    /// Whether the number of the next record is known.
    known: bool,
    on_damage: OnDamage<'a>,
    sink: Sink<'a>,
    end: &'a mut ShardEnd,
}

impl ShardReader<'_> {
    /// Reads segments. `known`: the position of the first record is that of `end`.
    pub(super) fn read_segments(
        &self,
        reach: Reach,
        known: bool,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
        end: &mut ShardEnd,
    ) -> Result<(), StorageError> {
        let mut expected = reach.first.unwrap_or(end.snapshot);
        let mut progress = SegmentsProgress { reader: self, reach, known, on_damage, sink, end };
        let segments: Vec<u64> =
            self.files.segments.iter().copied().filter(|&number| number >= expected).collect();
        if segments.is_empty() {
            return progress.missing(expected);
        }
        for (index, &number) in segments.iter().enumerate() {
            if number != expected {
                progress.missing(expected)?;
            }
            expected = number + 1;
            if progress.read_segment(number, &segments[index + 1..], common)? {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl SegmentsProgress<'_> {
    fn damage(&mut self, damage: Damage) -> Result<(), StorageError> {
        (self.on_damage)(damage)?;
        self.known = false;
        Ok(())
    }

    fn missing(&mut self, segment: u64) -> Result<(), StorageError> {
        self.damage(self.reader.missing(self.reader.id(FileKind::Segment, segment)))
    }

    /// Returns whether the journal ends here, torn off.
    fn read_segment(
        &mut self,
        number: u64,
        later: &[u64],
        common: &mut Option<Common>,
    ) -> Result<bool, StorageError> {
        let id = self.reader.id(FileKind::Segment, number);
        let path = epoch::path(self.reader.root, id);
        let failed = |cause| StorageError::io("read", &path)(cause);
        let file = self.reader.open(id)?;
        let length = file.length().map_err(failed)?;
        self.end.segment_octets += length;
        let mut segment = SegmentFile { id, length, boot: None, later };
        match ShardReader::check_common(common, self.reader.header(id, &*file)?) {
            Ok(header) => segment.boot = Some(header.boot),
            Err(what) => {
                let octets = length.min(HEADER_LENGTH as u64);
                // The records behind it still tell their numbers.
                (self.on_damage)(Damage { id, offset: 0, what, octets, records: None })?;
            }
        }
        let mut records = RecordReader::new(Arc::clone(&file), id, None).map_err(failed)?;
        loop {
            let offset = records.offset();
            let what = match records.step().map_err(failed)? {
                Step::End => return Ok(false),
                Step::Record(record) if self.fits(&record) => {
                    self.take(id, &record)?;
                    continue;
                }
                Step::Record(record) => {
                    format!("record {} where {} should be", record.number, self.end.position.record)
                }
                Step::Invalid(why) => why.to_string(),
            };
            // Behind the segment that is written, the next one is ready.
            if self.reach.live && later.len() <= 1 {
                return Ok(true);
            }
            match self.judge(&segment, offset)? {
                Verdict::Torn { records } => {
                    self.end.tear = Some(Tear { id, offset, octets: length - offset, records });
                    return Ok(true);
                }
                Verdict::Damaged { octets, records: lost, resume } => {
                    self.damage(Damage { id, offset, what, octets, records: lost })?;
                    let Some(resume) = resume else {
                        return Ok(false);
                    };
                    records =
                        RecordReader::new(Arc::clone(&file), id, Some(resume)).map_err(failed)?;
                }
            }
        }
    }

    /// Whether this is the record that comes next.
    fn fits(&self, record: &Record<'_>) -> bool {
        let here = Position { record: record.number, event: record.event };
        !self.known || here == self.end.position
    }

    fn take(&mut self, id: FileId, record: &Record<'_>) -> Result<(), StorageError> {
        self.known = true;
        self.end.position = Position {
            record: record.number.next(),
            event: record.event.saturating_add(record.events),
        };
        let is_wanted = record.number >= self.reach.from;
        self.end.records += u64::from(is_wanted);
        self.end.last_segment = Some(id.number);
        // An end record that only closes a segment comes in the same write as the record before it,
        // which is not synced yet.
        self.end.ended = record.is_end() && record.synced.next() == record.number;
        if record.is_end() || !is_wanted { Ok(()) } else { (self.sink)(id, record) }
    }

    /// Whether what is invalid from `offset` on is a torn end or damage.
    fn judge(&self, segment: &SegmentFile<'_>, offset: u64) -> Result<Verdict, StorageError> {
        let remainder = self.reader.remainder(segment, offset)?;
        let expected = self.end.position.record;
        let unsynced = |remainder: &Remainder| {
            let power_cut = segment.boot.is_some_and(|boot| {
                boot != self.reader.boot && boot != [0; 16] && self.reader.boot != [0; 16]
            });
            power_cut && self.known && remainder.synced < expected
        };
        // A segment whose header is damaged may have records that do not show.
        let hidden = remainder.as_ref().is_none_or(unsynced)
            && self.reader.is_a_header_damaged(segment.later)?;
        let rest = segment.length - offset;
        Ok(match remainder {
            None if hidden => Verdict::Damaged { octets: rest, records: None, resume: None },
            None => Verdict::Torn { records: 0 },
            Some(remainder) if !hidden && unsynced(&remainder) => {
                Verdict::Torn { records: remainder.records }
            }
            Some(remainder) => {
                let last = RecordNumber(remainder.first.0.saturating_sub(1));
                let resume = remainder.in_same_file.then_some(remainder.offset);
                Verdict::Damaged {
                    octets: resume.map_or(rest, |resume| resume - offset),
                    records: self.known.then_some((expected, last)),
                    resume,
                }
            }
        })
    }
}

impl ShardReader<'_> {
    fn is_a_header_damaged(&self, segments: &[u64]) -> Result<bool, StorageError> {
        for &number in segments {
            let id = self.id(FileKind::Segment, number);
            if self.header(id, &*self.open(id)?)?.is_err() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is valid from `offset` of a segment on, and in those after it.
    fn remainder(
        &self,
        segment: &SegmentFile<'_>,
        offset: u64,
    ) -> Result<Option<Remainder>, StorageError> {
        let mut remainder: Option<Remainder> = None;
        let first = segment.id.number;
        for number in std::iter::once(first).chain(segment.later.iter().copied()) {
            let id = self.id(FileKind::Segment, number);
            let path = epoch::path(self.root, id);
            let failed = |cause| StorageError::io("read", &path)(cause);
            let start = (number == first).then_some(offset);
            let mut records = RecordReader::new(self.open(id)?, id, start).map_err(failed)?;
            while records.skip().map_err(failed)? {
                let offset = records.offset();
                if let Step::Record(record) = records.step().map_err(failed)? {
                    let remainder = remainder.get_or_insert(Remainder {
                        first: record.number,
                        in_same_file: number == first,
                        offset,
                        records: 0,
                        synced: RecordNumber(0),
                    });
                    remainder.records += 1;
                    remainder.synced = remainder.synced.max(record.synced);
                }
            }
        }
        Ok(remainder)
    }
}
