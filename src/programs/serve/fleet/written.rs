//! [`WrittenLines`]: up to which revision the event log has the lines of all that this shard has
//! recorded. What is behind that is not removed from the engine.

use std::collections::VecDeque;

use crate::handoff::ownership::Revision;

/// A record whose lines may not be in the log.
#[derive(Debug)]
struct Unwritten {
    number: u64,
    revision: Revision,
    /// It is when the log has so many lines of the shard.
    written_at: Option<u64>,
}

/// Records of this shard that were watched, until their lines are written.
#[derive(Debug, Default)]
pub struct WrittenLines {
    unwritten: VecDeque<Unwritten>,
    /// The last record whose lines were given to the log.
    given: u64,
    /// How many records were found to be written.
    pub records: u64,
}

impl WrittenLines {
    /// A record was seen among what is done. With the number 0: those of an earlier run, whose
    /// lines are given to the log with this turn.
    pub fn watched(&mut self, number: u64, revision: Revision) {
        self.unwritten.push_back(Unwritten { number, revision, written_at: None });
    }

    /// The lines of a record are given to the log with this turn.
    pub fn recorded(&mut self, number: u64) {
        self.given = self.given.max(number);
    }

    /// At the end of a turn: so many lines of this shard were given to the log until now, and so
    /// many are in it. Returns up to which revision all are, where all was watched up to one.
    pub fn written(&mut self, given: u64, written: u64, watched: Revision) -> Revision {
        for record in self.unwritten.iter_mut().rev() {
            if record.written_at.is_some() {
                break;
            }
            if record.number <= self.given {
                record.written_at = Some(given);
            }
        }
        let is_written = |at: &Unwritten| at.written_at.is_some_and(|at| at <= written);
        while self.unwritten.front().is_some_and(is_written) {
            self.unwritten.pop_front();
            self.records += 1;
        }
        let first = self.unwritten.front();
        first.map_or(watched, |first| Revision(first.revision.0.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_yet_holds_all_behind_it() {
        let mut lines = WrittenLines::default();
        let revision = |number| Revision(number);
        assert_eq!(lines.written(0, 0, revision(10)), revision(10));
        lines.watched(1, revision(20));
        lines.watched(2, revision(25));
        assert_eq!(lines.written(0, 0, revision(30)), revision(19));
        lines.recorded(1);
        // It is in the log when the log has its lines.
        assert_eq!(lines.written(7, 6, revision(30)), revision(19));
        assert_eq!(lines.written(7, 7, revision(30)), revision(24));
        // This one was given before it was watched.
        lines.recorded(3);
        assert_eq!(lines.written(9, 9, revision(30)), revision(30));
        lines.watched(3, revision(40));
        assert_eq!(lines.written(9, 8, revision(40)), revision(39));
        assert_eq!(lines.written(9, 9, revision(45)), revision(45));
    }

    #[test]
    fn lines_of_an_earlier_run_hold_everything() {
        let mut lines = WrittenLines::default();
        lines.watched(0, Revision(0));
        assert_eq!(lines.written(3, 2, Revision(10)), Revision(0));
        assert_eq!(lines.written(5, 3, Revision(10)), Revision(10));
    }
}
