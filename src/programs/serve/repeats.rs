//! Troubles that come again with each attempt, as on a full disk: each is said once a minute.

use std::time::Duration;

/// The shortest time between two equal lines.
const EVERY: Duration = Duration::from_mins(1);
/// The most lines that are remembered; the oldest is forgotten first.
const LINES_MAX: usize = 32;

/// The lines of the last minute, with the time at which each was said, oldest first.
#[derive(Debug, Default)]
pub struct Repeats(Vec<(String, Duration)>);

impl Repeats {
    /// Whether `line` was not said in the last minute, and is to be said `now`.
    pub fn is_due(&mut self, line: &str, now: Duration) -> bool {
        self.0.retain(|&(_, at)| now.saturating_sub(at) < EVERY);
        if self.0.iter().any(|(said, _)| said == line) {
            return false;
        }
        if self.0.len() == LINES_MAX {
            self.0.remove(0);
        }
        self.0.push((line.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_line_is_said_once_a_minute() {
        let mut repeats = Repeats::default();
        let mut due = |line: &str, seconds| repeats.is_due(line, Duration::from_secs(seconds));
        assert!(due("compaction: no room", 10));
        assert!(!due("compaction: no room", 11));
        assert!(due("sync: no room", 11), "another line does not wait");
        assert!(!due("compaction: no room", 69));
        assert!(due("compaction: no room", 70));
        assert!(!due("compaction: no room", 71));
    }

    #[test]
    fn few_lines_are_remembered() {
        let mut repeats = Repeats::default();
        for number in 0..=LINES_MAX {
            assert!(repeats.is_due(&number.to_string(), Duration::ZERO));
        }
        assert_eq!(repeats.0.len(), LINES_MAX);
        assert!(!repeats.is_due(&LINES_MAX.to_string(), Duration::ZERO));
        assert!(repeats.is_due("0", Duration::ZERO), "the oldest is forgotten");
    }
}
