//! Lines of the log that are later than what the journal has: it lost them in a power cut, or the
//! whole state was restored from an older copy.
//!
//! The tables do not have what these lines say. So that each entry's beginning and end stand in the
//! log once, its lines since then are taken back by new lines: an entry that was made is `Deleted`,
//! and one that was deleted is `Created` again; so are names `Unnamed` and `Named` again. Which
//! these are can be told from the lines alone: the first of a port, or of an address of the pool,
//! says what the tables have, and the last what the log has.
//!
//! Pure. Not here: where the lines are found (`complete`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::handoff::change::{LogFormat, Timestamp};
use crate::handoff::logged::{JSON_BEGIN, LoggedLine, split_time, time_of};

/// How much earlier than the line before it a line may be: lines of several reactors are in order
/// only within each.
const SLACK: Duration = Duration::from_secs(60);
/// Ports of which lines are remembered. Of others nothing is taken back.
const PORTS_MAX: usize = 1 << 20;

/// What lines can be of.
const KINDS: [&str; 7] =
    ["Initialized", "Created", "Deleted", "Conflict", "Forgotten", "Named", "Unnamed"];

/// The lines that were found.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// They are later than this. None: nothing is ahead.
    after: Option<String>,
    lines: u64,
    /// By NAT64, port and local address; and by address of the pool.
    ports: BTreeMap<String, Port>,
    /// By what stands behind `Initialized` or `Forgotten`.
    tables: BTreeMap<String, TableSaid>,
}

/// What the lines say of a table.
#[derive(Debug)]
struct TableSaid {
    /// The state has it.
    had: bool,
    /// The log has it.
    has: bool,
}

/// What the lines say of a port, as the ends of lines, behind `Created` or `Deleted`; or of an
/// address of the pool, behind `Named` or `Unnamed`.
#[derive(Debug, Default)]
struct Port {
    is_name: bool,
    /// The tables have this.
    had: Option<String>,
    /// The log has this.
    has: Option<String>,
}

impl Ahead {
    /// Whether lines that come next are ahead if they are not earlier than `after`, a line.
    pub(super) fn watch(&mut self, after: Option<&str>) {
        self.after = after.map(|line| earlier(line).unwrap_or_default());
    }

    /// The number of lines that are ahead.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether this is half a line that is ahead, or one without its line feed: it may read like
    /// another one that is whole.
    pub(super) fn is_half(&self, line: &[u8]) -> bool {
        let (Some(after), Ok(line)) = (&self.after, str::from_utf8(line)) else { return false };
        let Some((time, rest)) = split_time(line) else { return false };
        let begins =
            |kind: &&str| rest.strip_prefix(kind).is_some_and(|what| what.starts_with(' '));
        time >= after.as_str() && KINDS.iter().any(begins)
    }

    /// A line of no event of the journal.
    pub(super) fn take(&mut self, line: &str) {
        let Some(after) = &self.after else { return };
        let full = || Some(LoggedLine::parse(line)?.line(LogFormat::Full).to_string());
        let json = line.starts_with(JSON_BEGIN).then(full).flatten();
        let line = json.as_deref().unwrap_or(line);
        let Some((time, rest)) = split_time(line) else { return };
        if time < after.as_str() {
            return;
        }
        let Some((kind, what)) = rest.split_once(' ') else { return };
        match kind {
            "Created" | "Deleted" | "Named" | "Unnamed" => self.lines += 1,
            "Initialized" | "Forgotten" => {
                self.lines += 1;
                return self.take_table(kind == "Initialized", what);
            }
            "Conflict" => {
                self.lines += 1;
                return;
            }
            _ => return,
        }
        let local = what.split_once(" to ").and_then(|(_, to)| to.split(' ').next());
        let port = what.split(' ').next().unwrap_or_default();
        let key = format!("{port} {}", local.unwrap_or_default());
        let is_new = !self.ports.contains_key(&key);
        let created = matches!(kind, "Created" | "Named");
        if is_new && self.ports.len() >= PORTS_MAX {
            return;
        }
        let is_name = matches!(kind, "Named" | "Unnamed");
        let port = self.ports.entry(key).or_insert_with(|| Port { is_name, ..Port::default() });
        if is_new && !created {
            port.had = Some(what.to_owned());
        }
        port.has = created.then(|| what.to_owned());
    }

    fn take_table(&mut self, begins: bool, what: &str) {
        if let Some(table) = self.tables.get_mut(what) {
            table.has = begins;
        } else if self.tables.len() < PORTS_MAX {
            self.tables.insert(what.to_owned(), TableSaid { had: !begins, has: begins });
        }
    }

    /// The lines that take it back, each with a line feed. They tell as much as those that they
    /// take back, in JSON where that is the format. A table that was given up is `Initialized`
    /// before its entries are `Created` again; one that the state does not have stays, as it is
    /// `Initialized` once more when it comes again.
    pub(super) fn taken_back(
        &self,
        now: Timestamp,
        format: LogFormat,
    ) -> impl Iterator<Item = String> {
        let lost = self.tables.iter().filter(|(_, table)| table.had && !table.has);
        let tables = lost.map(move |(what, _)| format!("{now} Initialized {what}"));
        let changed = || self.ports.values().filter(|port| port.had != port.has);
        let line =
            move |kind, what: &Option<String>| Some(format!("{now} {kind} {}", what.as_ref()?));
        let ends = changed().filter_map(move |Port { is_name, has, .. }| {
            line(if *is_name { "Unnamed" } else { "Deleted" }, has)
        });
        let begins = changed().filter_map(move |Port { is_name, had, .. }| {
            line(if *is_name { "Named" } else { "Created" }, had)
        });
        // All ends are first: a client may have its port back from another one.
        ends.chain(tables).chain(begins).map(move |line| match LoggedLine::parse(&line) {
            Some(logged) if format == LogFormat::Json => {
                format!("{}\n", logged.line(LogFormat::Json))
            }
            _ => line + "\n",
        })
    }
}

/// The time before which no line stands behind `line`, as it is written.
pub(super) fn earlier(line: &str) -> Option<String> {
    let slack = u64::try_from(SLACK.as_micros()).ok()?;
    let at = time_of(line)?.as_micros().saturating_sub(slack);
    Some(Timestamp::from_micros(at).to_string())
}

/// Whether `line` is of a time before `time`.
pub(super) fn is_before(line: &str, time: &str) -> bool {
    time_of(line).is_some_and(|at| at.to_string().as_str() < time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: &str = "2019-03-18 10:06:28.000000 Created 192.0.2.7:1 [2001:db8::1]:1";

    fn taken_back(lines: &[&str]) -> (u64, Vec<String>) {
        let mut ahead = Ahead::default();
        ahead.watch(Some(AFTER));
        lines.iter().for_each(|line| ahead.take(&format!("2019-03-18 10:06:29.000000 {line}")));
        let now = Timestamp::from_micros(1_552_903_600_000_000);
        let back = ahead.taken_back(now, LogFormat::Plain).map(|line| {
            line.strip_prefix("2019-03-18 10:06:40.000000 ").unwrap().trim_end().to_owned()
        });
        (ahead.lines(), back.collect())
    }

    #[test]
    fn what_the_tables_do_not_have_is_taken_back() {
        let (a, b) = ("192.0.2.7:9 [2001:db8::a]:1", "192.0.2.7:9 [2001:db8::b]:1");
        let (made, gone) = (|what| format!("Created {what}"), |what| format!("Deleted {what}"));
        let cases: [(Vec<String>, Vec<String>); 6] = [
            (vec![made(a)], vec![gone(a)]),
            (vec![gone(a)], vec![made(a)]),
            (vec![made(a), gone(a)], vec![]),
            (vec![gone(a), made(b)], vec![gone(b), made(a)]),
            (vec![gone(a), made(b), gone(b), made(a)], vec![]),
            // What took it back is ahead of the journal too, after a crash just then.
            (vec![made(a), gone(a), made(b), gone(b)], vec![]),
        ];
        for (lines, expected) in cases {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            assert_eq!(taken_back(&lines), (lines.len() as u64, expected), "{lines:?}");
        }
    }

    /// Else its entries would be `Created` in a table that the log does not have.
    #[test]
    fn a_table_that_was_given_up_is_initialized_again() {
        let a = "192.0.2.7:9 [2001:db8::a]:1";
        let gone = [format!("Deleted {a}"), "Forgotten 192.0.2.7".to_owned()];
        let began = ["Initialized 192.0.2.7".to_owned(), format!("Created {a}")];
        let [deleted, forgotten] = gone.each_ref().map(String::as_str);
        let [initialized, created] = began.each_ref().map(String::as_str);
        assert_eq!(taken_back(&[deleted, forgotten]), (2, began.to_vec()));
        assert_eq!(taken_back(&[deleted, forgotten, initialized]), (3, began[1..].to_vec()));
        let all = [deleted, forgotten, initialized, created];
        assert_eq!(taken_back(&all), (4, vec![]));
        // What the state does not have comes again, or never.
        assert_eq!(taken_back(&[initialized]), (1, vec![]));
        assert_eq!(taken_back(&[initialized, forgotten]), (2, vec![]));
    }

    /// No client stands on two ports meanwhile.
    #[test]
    fn what_ended_begins_again_when_all_that_began_has_ended() {
        let (one, other) = ("192.0.2.7:1 [2001:db8::a]:1", "192.0.2.7:2 [2001:db8::a]:1");
        let lines = [format!("Deleted {one}"), format!("Created {other}")];
        let back = vec![format!("Deleted {other}"), format!("Created {one}")];
        assert_eq!(taken_back(&[&lines[0], &lines[1]]), (2, back));
    }

    #[test]
    fn tables_of_two_local_addresses_are_two() {
        let a = "192.0.2.7:9 [2001:db8::a]:1 to 203.0.113.1 via 64:ff9b::/96";
        let b = "192.0.2.7:9 [2001:db8::b]:1 to 203.0.113.2 via 64:ff9b::/96";
        let lines = [format!("Created {a}"), format!("Created {b}")];
        let back = vec![format!("Deleted {a}"), format!("Deleted {b}")];
        assert_eq!(taken_back(&[&lines[0], &lines[1]]), (2, back));
    }

    #[test]
    fn names_that_the_state_does_not_have_are_taken_back() {
        let (a, b) = ("100.64.0.7 [2001:db8::a]", "100.64.0.7 [2001:db8:0:1::/64]");
        let line = |kind, what| format!("{kind} {what}");
        let cases: [(Vec<String>, Vec<String>); 4] = [
            (vec![line("Named", a)], vec![line("Unnamed", a)]),
            (vec![line("Unnamed", b)], vec![line("Named", b)]),
            (vec![line("Named", a), line("Unnamed", a)], vec![]),
            (
                vec![line("Unnamed", a), line("Named", b)],
                vec![line("Unnamed", b), line("Named", a)],
            ),
        ];
        for (lines, expected) in cases {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            assert_eq!(taken_back(&lines), (lines.len() as u64, expected), "{lines:?}");
        }
        let json = |at: &str, kind: &str| {
            let line = format!("2019-03-18 10:06:{at}.000000 {kind} {b}");
            LoggedLine::parse(&line).unwrap().line(LogFormat::Json).to_string()
        };
        let mut ahead = Ahead::default();
        ahead.watch(Some(AFTER));
        ahead.take(&json("29", "Named"));
        let now = Timestamp::from_micros(1_552_903_600_000_000);
        let back: Vec<_> = ahead.taken_back(now, LogFormat::Json).collect();
        assert_eq!(back, [json("40", "Unnamed") + "\n"]);
    }

    #[test]
    fn a_log_of_json_is_taken_back_in_json() {
        let json = |at: &str, what: &str| {
            let line = format!(
                "2019-03-18 10:06:{at} {what} 192.0.2.7:9 [2001:db8::a]:1 to 203.0.113.1 via 64:ff9b::/96"
            );
            LoggedLine::parse(&line).unwrap().line(LogFormat::Json).to_string()
        };
        let mut ahead = Ahead::default();
        ahead.watch(Some(&json("28.000000", "Created")));
        ahead.take(&json("27.999999", "Created"));
        let now = Timestamp::from_micros(1_552_903_600_000_000);
        let back: Vec<_> = ahead.taken_back(now, LogFormat::Json).collect();
        assert_eq!(back, [json("40.000000", "Deleted") + "\n"]);
        assert_eq!(ahead.lines(), 1);
        assert!(is_before(&json("28.000000", "Created"), "2019-03-18 10:06:28.000001"));
        assert!(!is_before(&json("28.000000", "Created"), "2019-03-18 10:06:28.000000"));
    }

    #[test]
    fn other_lines_are_not_ahead() {
        let mut ahead = Ahead::default();
        ahead.take("2019-03-18 10:06:29.000000 Created 192.0.2.7:9 [2001:db8::a]:1");
        assert_eq!(ahead.lines(), 0, "nobody watches");
        ahead.watch(Some(AFTER));
        for line in [
            "2019-03-18 10:05:27.999999 Created 192.0.2.7:9 [2001:db8::a]:1",
            "2019-03-18 10:06:29 Created 192.0.2.7:9 [2001:db8::a]:1",
            "2019-03-18 10:06:29.000000 Thought 192.0.2.7:9 [2001:db8::a]:1",
            "by hand",
            "",
        ] {
            ahead.take(line);
            assert_eq!(ahead.lines(), 0, "{line}");
        }
        ahead.take("2019-03-18 10:05:28.000000 Initialized 192.0.2.7");
        assert_eq!(ahead.lines(), 1, "within the slack");
    }
}
