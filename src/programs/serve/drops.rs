//! What was dropped and which limits were reached, for the operator: one line for each reason, not
//! more often than he wants to read it, and all reasons in the server's last line.

use std::time::Duration;

use crate::handoff::stats::{Advice, Concern, Counter, DropReason};

/// The shortest time between two lines about a limit of ours.
const US_EVERY: Duration = Duration::from_mins(1);
/// The shortest time between two lines about what a sender does: anybody can send anything, all the
/// time, and there is little to do about it.
const SENDER_EVERY: Duration = Duration::from_hours(1);

/// A counter that the operator is told about when it rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Drops of a reason.
    Drop(DropReason),
    /// Anything else that there is advice for.
    Other(Counter),
}

impl Watched {
    fn all() -> impl Iterator<Item = (Self, &'static str, Advice)> {
        let drops = DropReason::ALL
            .iter()
            .filter_map(|&reason| Some((Self::Drop(reason), reason.name(), reason.advice()?)));
        let others = Counter::ALL
            .iter()
            .filter_map(|&counter| Some((Self::Other(counter), counter.name(), counter.advice()?)));
        drops.chain(others)
    }
}

/// Which lines are due.
pub struct DropLines(Vec<Line>);

struct Line {
    of: Watched,
    name: &'static str,
    advice: Advice,
    /// The count that was told last, and when that was.
    told: u64,
    at: Option<Duration>,
}

impl Default for DropLines {
    fn default() -> Self {
        let line = |(of, name, advice)| Line { of, name, advice, told: 0, at: None };
        Self(Watched::all().map(line).collect())
    }
}

impl DropLines {
    /// The lines that are due `now`, by what `count` says; each with whether it concerns us.
    pub fn due(
        &mut self,
        now: Duration,
        count: impl Fn(Watched) -> u64,
    ) -> impl Iterator<Item = (Concern, String)> {
        self.0.iter_mut().filter_map(move |line| {
            let every = match line.advice.concern {
                Concern::Us => US_EVERY,
                Concern::Sender => SENDER_EVERY,
            };
            let counted = count(line.of);
            let new = counted.saturating_sub(line.told);
            if new == 0 || line.at.is_some_and(|at| now.saturating_sub(at) < every) {
                return None;
            }
            let since = match line.at {
                Some(at) => {
                    let seconds = Duration::from_secs(now.saturating_sub(at).as_secs());
                    format!(" in {}", humantime::format_duration(seconds))
                }
                None => String::new(),
            };
            line.told = counted;
            line.at = Some(now);
            Some((
                line.advice.concern,
                format!("{}: {new}{since}: {}", line.name, line.advice.text),
            ))
        })
    }
}

/// All drops by reason, for the server's last line: ` (no_token 2, nat64s_limit 18)`, or nothing.
pub fn by_reason(count: impl Fn(DropReason) -> u64) -> String {
    let counted = DropReason::ALL.iter().map(|&reason| (reason.name(), count(reason)));
    let parts: Vec<_> = counted
        .filter(|&(_, count)| count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_reason_not_too_often() {
        let mut lines = DropLines::default();
        let mut due = |seconds, limit, empty, waits| -> Vec<String> {
            let count = |of| match of {
                Watched::Drop(DropReason::Nat64sLimit) => limit,
                Watched::Drop(DropReason::Empty) => empty,
                Watched::Other(Counter::LogQueueWaits) => waits,
                _ => 0,
            };
            let due = lines.due(Duration::from_secs(seconds), count);
            due.map(|(_, line)| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect()
        };
        assert_eq!(due(1, 0, 0, 0), [""; 0]);
        assert_eq!(due(2, 3, 5, 0), ["empty 5", "nat64s_limit 3"]);
        assert_eq!(due(61, 900, 900, 7), ["log_queue_waits 7"]);
        assert_eq!(due(62, 1003, 1000, 7), ["nat64s_limit 1000 in 1m"]);
        assert_eq!(due(200, 1003, 1000, 7), [""; 0], "nothing new");
        assert_eq!(due(3602, 1004, 1005, 7), ["empty 1000 in 1h", "nat64s_limit 1 in 59m"]);
    }

    #[test]
    fn the_last_line_has_all_reasons() {
        let count = |reason| match reason {
            DropReason::NoToken => 2,
            DropReason::Nat64sLimit => 18,
            _ => 0,
        };
        assert_eq!(by_reason(count), " (no_token 2, nat64s_limit 18)");
        assert_eq!(by_reason(|_| 0), "");
    }
}
