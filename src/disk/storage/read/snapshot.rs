//! Reads a snapshot.

use super::{Common, Damage, OnDamage, RecordReader, ShardEnd, ShardReader, Sink, Step};
use crate::disk::journal::{FileId, HEADER_LENGTH, Header, Record, RecordNumber};
use crate::disk::storage::{StorageError, epoch};

/// How far a snapshot was read.
struct SnapshotProgress<'a> {
    id: FileId,
    sink: Sink<'a>,
    /// The number that the next record should have.
    expected: RecordNumber,
    /// Whether its end record was read.
    ended: bool,
}

impl SnapshotProgress<'_> {
    fn take(&mut self, record: &Record<'_>) -> Result<(), StorageError> {
        self.expected = record.number.next();
        self.ended = record.is_end();
        if self.ended { Ok(()) } else { (self.sink)(self.id, record) }
    }

    /// The records that are missing before number `next`.
    fn gap(&self, next: RecordNumber) -> (RecordNumber, RecordNumber) {
        (self.expected, RecordNumber(next.0.saturating_sub(1)))
    }
}

impl ShardReader<'_> {
    /// Returns the header, where it is not damaged.
    pub(super) fn read_snapshot(
        &self,
        id: FileId,
        common: &mut Option<Common>,
        on_damage: OnDamage<'_>,
        sink: Sink<'_>,
        end: &mut ShardEnd,
    ) -> Result<Option<Header>, StorageError> {
        let path = epoch::path(self.root, id);
        let failed = |cause| StorageError::io("read", &path)(cause);
        let file = self.open(id)?;
        end.snapshot_octets = file.length().map_err(failed)?;
        let header = match Self::check_common(common, self.header(id, &*file)?) {
            Ok(header) => Some(header),
            Err(what) => {
                let octets = HEADER_LENGTH as u64;
                on_damage(Damage { id, offset: 0, what, octets, records: None })?;
                None
            }
        };
        let mut reader = RecordReader::new(file, id, None).map_err(failed)?;
        let mut progress = SnapshotProgress { id, sink, expected: RecordNumber(1), ended: false };
        loop {
            let offset = reader.offset();
            let what = match reader.step().map_err(failed)? {
                Step::End if progress.ended => return Ok(header),
                Step::End => {
                    let what = "snapshot cut off".into();
                    on_damage(Damage { id, offset, what, octets: 0, records: None })?;
                    return Ok(header);
                }
                Step::Record(record) => {
                    let expected = progress.expected;
                    if record.number == expected && !progress.ended {
                        end.records += 1;
                    } else {
                        let what = format!("record {} where {expected} should be", record.number);
                        let records = Some(progress.gap(record.number));
                        on_damage(Damage { id, offset, what, octets: 0, records })?;
                    }
                    progress.take(&record)?;
                    continue;
                }
                Step::Invalid(why) => why.to_string(),
            };
            reader.skip().map_err(failed)?;
            let octets = reader.offset() - offset;
            // The next valid record shows which records are missing: they are one damage with this.
            let next = match reader.step().map_err(failed)? {
                Step::Record(record) => Some(record),
                _ => None,
            };
            let records = next.map(|next| progress.gap(next.number));
            // Reported before the record behind it is taken: who refuses damage must not see that
            // one.
            on_damage(Damage { id, offset, what, octets, records })?;
            if let Some(record) = next {
                progress.take(&record)?;
            }
        }
    }
}
