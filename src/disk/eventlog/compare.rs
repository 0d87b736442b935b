//! Which of the journal's events some octets of the log lack, and whether those end in half a line.
//!
//! Pure: octets go in, in pieces of any size, and what is missing comes out. A line of the log
//! stands for an event whose line it is, in any format. Where several events have the same line,
//! it stands for the first of them that had none yet. An event without a line is missing. Time and
//! memory grow linearly with the events, and not at all with the octets.
//!
//! Not here: where the octets are found, and what is done to the file (`complete`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::hash::BuildHasher;

use super::LINE_MAX;
use super::ahead::{self, Ahead};
use crate::handoff::change::{Event, LogFormat};
use crate::handoff::line::LineWriter;
use crate::handoff::logged::{JSON_BEGIN, LoggedLine};
use crate::handoff::random::SecretHash;

/// What follows the end of a [`LogFormat::Plain`] line in [`LogFormat::Full`].
const FULL_FROM: &str = " to ";
const FORMATS: [LogFormat; 3] = [LogFormat::Plain, LogFormat::Full, LogFormat::Json];
/// Octets of a line's time.
const TIME_OCTETS: usize = "2019-03-18 10:06:28.491727".len();
/// The end of a chain.
const NONE: usize = usize::MAX;

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a whole line, or with nothing.
    Whole,
    /// With the beginning of a line that is missing, or that the journal has lost, at this offset:
    /// it can be cut.
    Half(u64),
    /// With something else that has no line feed.
    Strange,
}

/// The comparison, while octets come in.
pub(super) struct Comparison<'a> {
    /// For each shard its events with their numbers, in order.
    pending: &'a [Vec<(u64, Event)>],
    /// Events are indexed through all shards. This is the index of each shard's first.
    starts: Vec<usize>,
    /// Whether there is a line for it.
    found: Vec<bool>,
    /// From the hash of a plain line to the first event that has it and no line yet.
    heads: HashMap<u64, usize>,
    /// From an event to the next one with the same hash.
    next: Vec<usize>,
    /// Keyed, as remotes chose what is in the lines.
    hash: SecretHash,
    /// One formatted line, kept to save allocations.
    text: String,
    lines: LineWriter,
    /// The line that is being read, up to `LINE_MAX` octets.
    line: Vec<u8>,
    /// The offset at which that line begins.
    line_at: u64,
    /// Octets of zero after that line: a power cut can leave them in a file.
    zeros: u64,
    /// The line cannot be ours, nor half of one of ours.
    odd: bool,
    /// The offset of the next octet.
    offset: u64,
    /// Whole lines that stand for an event.
    own: u64,
    /// Whole lines that stand for no event.
    strangers: u64,
    /// Those of them that are later than what the journal has.
    pub(super) ahead: Ahead,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(pending: &'a [Vec<(u64, Event)>], hash: SecretHash) -> Self {
        let mut events = 0;
        let starts = pending
            .iter()
            .map(|shard| {
                let start = events;
                events += shard.len();
                start
            })
            .collect();
        let mut comparison = Self {
            pending,
            starts,
            found: vec![false; events],
            heads: HashMap::with_capacity(events),
            next: vec![NONE; events],
            hash,
            text: String::with_capacity(LINE_MAX),
            lines: LineWriter::default(),
            line: Vec::with_capacity(LINE_MAX),
            line_at: 0,
            zeros: 0,
            odd: false,
            offset: 0,
            own: 0,
            strangers: 0,
            ahead: Ahead::default(),
        };
        // From the last to the first, so that a chain begins with the first.
        for number in (0..events).rev() {
            comparison.format(number, LogFormat::Plain);
            let hash = comparison.hash.hash_one(comparison.text.as_bytes());
            comparison.next[number] = comparison.heads.insert(hash, number).unwrap_or(NONE);
        }
        comparison
    }

    /// The octets that come next are those of a file, from this offset, where a line begins.
    pub(super) fn begin(&mut self, offset: u64) {
        self.offset = offset;
        self.begin_line();
    }

    /// The same, if it is not known where a line begins: what comes before the next one is ignored.
    pub(super) fn begin_inside(&mut self, offset: u64) {
        self.begin(offset);
        self.odd = true;
    }

    /// Takes octets, a piece of any size.
    pub(super) fn feed(&mut self, octets: &[u8]) {
        for piece in octets.split_inclusive(|&octet| octet == b'\n') {
            self.offset += piece.len() as u64;
            match piece.split_last() {
                Some((b'\n', rest)) => {
                    self.extend(rest);
                    self.end_line();
                    self.begin_line();
                }
                _ => self.extend(piece),
            }
        }
    }

    /// Ends a file, and says how it ended.
    pub(super) fn end(&mut self) -> Ending {
        if self.offset == self.line_at {
            return Ending::Whole;
        }
        let line = std::mem::take(&mut self.line);
        let ours = (0..self.found.len()).any(|number| self.is_half(number, &line))
            || self.ahead.is_half(&line);
        let half = !self.odd && ours;
        self.line = line;
        if half { Ending::Half(self.line_at) } else { Ending::Strange }
    }

    /// The number of whole lines that stood for no event.
    pub(super) fn strangers(&self) -> u64 {
        self.strangers
    }

    /// The number of whole lines that stood for an event.
    pub(super) fn own(&self) -> u64 {
        self.own
    }

    /// Whether only this server can have written the half line that [`Comparison::end`] found: it
    /// has the time of a missing event, to the microsecond.
    pub(super) fn is_half_own(&self) -> bool {
        let is_json = self.line.starts_with(JSON_BEGIN.as_bytes());
        self.line.len() >= TIME_OCTETS + if is_json { JSON_BEGIN.len() } else { 0 }
    }

    /// The time before which no pending event is, as the log has it.
    pub(super) fn earliest(&self) -> Option<String> {
        let firsts = self.pending.iter().filter_map(|events| events.first());
        let (_, first) = firsts.min_by_key(|(_, event)| event.at)?;
        ahead::earlier(&first.line(LogFormat::Plain).to_string())
    }

    /// The number of pending events.
    pub(super) fn events(&self) -> usize {
        self.found.len()
    }

    /// Events without a line, in order of time as far as the order within each shard allows.
    pub(super) fn missing(&self) -> impl Iterator<Item = (u64, Event)> {
        let next_of = |shard: usize, from: usize| {
            let start = self.starts[shard];
            let (events, found) = (&self.pending[shard], &self.found[start..]);
            let index = (from..events.len()).find(|&index| !found[index])?;
            Some(Reverse((events[index].1.at, shard, index)))
        };
        let mut heads: BinaryHeap<_> =
            (0..self.pending.len()).filter_map(|shard| next_of(shard, 0)).collect();
        std::iter::from_fn(move || {
            let Reverse((_, shard, index)) = heads.pop()?;
            heads.extend(next_of(shard, index + 1));
            Some(self.pending[shard][index])
        })
    }

    /// Whether there is a line for the first pending event of a shard.
    pub(super) fn begins(&self, shard: usize) -> bool {
        self.found.get(self.starts[shard]).is_some_and(|&found| found)
            && !self.pending[shard].is_empty()
    }

    fn begin_line(&mut self) {
        self.line.clear();
        self.line_at = self.offset;
        self.zeros = 0;
        self.odd = false;
    }

    fn extend(&mut self, octets: &[u8]) {
        let text = octets.iter().rposition(|&octet| octet != 0).map_or(0, |last| last + 1);
        let (text, zeros) = octets.split_at(text);
        if !text.is_empty() {
            self.odd |= self.zeros > 0 || self.line.len() + text.len() > LINE_MAX;
            if !self.odd {
                self.line.extend_from_slice(text);
            }
        }
        self.zeros += zeros.len() as u64;
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let text = std::str::from_utf8(&line).ok().filter(|_| !self.odd && self.zeros == 0);
        if text.is_some_and(|line| self.find(line)) {
            self.own += 1;
        } else {
            self.strangers += 1;
            text.into_iter().for_each(|line| self.ahead.take(line));
        }
        self.line = line;
    }

    /// Whether there is an event for this line. The event is taken: another such line needs
    /// another.
    fn find(&mut self, line: &str) -> bool {
        let hash = match line.starts_with(JSON_BEGIN) {
            true => {
                let Some(line) = LoggedLine::parse(line) else { return false };
                self.text.clear();
                self.lines.append_again(&mut self.text, &line, LogFormat::Plain);
                self.hash.hash_one(self.text.as_bytes())
            }
            false => {
                let plain = line.split_once(FULL_FROM).map_or(line, |(plain, _)| plain);
                self.hash.hash_one(plain.as_bytes())
            }
        };
        let Some(&head) = self.heads.get(&hash) else {
            return false;
        };
        let mut number = head;
        while number != NONE && (self.found[number] || !self.is(number, line)) {
            number = self.next[number];
        }
        if number == NONE {
            return false;
        }
        self.found[number] = true;
        // The chain begins with the first event that has no line yet.
        let mut head = head;
        while head != NONE && self.found[head] {
            head = self.next[head];
        }
        self.heads.insert(hash, head);
        true
    }

    /// Whether this is the event's line, in any format.
    fn is(&mut self, number: usize, line: &str) -> bool {
        FORMATS.into_iter().any(|format| {
            self.format(number, format);
            self.text == line
        })
    }

    fn is_half(&mut self, number: usize, half: &[u8]) -> bool {
        if self.found[number] {
            return false;
        }
        // A full line begins with the plain one.
        [LogFormat::Full, LogFormat::Json].into_iter().any(|format| {
            self.format(number, format);
            self.text.as_bytes().starts_with(half)
        })
    }

    fn format(&mut self, number: usize, format: LogFormat) {
        // A shard without events starts at the same index as the next one: the event is in the last
        // such shard.
        let shard = self.starts.partition_point(|&start| start <= number) - 1;
        let (_, event) = self.pending[shard][number - self.starts[shard]];
        self.text.clear();
        self.lines.append(&mut self.text, &event, format);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::*;
    use crate::handoff::change::EventKind;
    use crate::handoff::entry::TableKey;
    use proptest::prelude::*;

    type Pending = Vec<Vec<(u64, Event)>>;

    fn pending(events: &[usize]) -> Pending {
        (1..)
            .zip(events)
            .map(|(table, &events)| (0..events as u64).map(|n| (n, event(table, n))).collect())
            .collect()
    }

    fn text(event: &Event, format: LogFormat) -> String {
        format!("{}\n", event.line(format))
    }

    /// What a completed file says, and how it ended before.
    fn completed(tail: &[u8], pending: &Pending) -> (Vec<u8>, Ending) {
        let mut comparison = Comparison::new(pending, SecretHash::new([7; 16]));
        comparison.begin(0);
        comparison.feed(tail);
        let ending = comparison.end();
        let mut octets = tail.to_vec();
        match ending {
            Ending::Whole => {}
            Ending::Half(at) => octets.truncate(at as usize),
            Ending::Strange => octets.push(b'\n'),
        }
        for (_, event) in comparison.missing() {
            octets.extend(text(&event, LogFormat::Plain).bytes());
        }
        (octets, ending)
    }

    /// Every event has one line, in any format, and those of a shard are in order.
    fn assert_once_in_order(octets: &[u8], pending: &Pending) {
        let mut lines: Vec<_> = std::str::from_utf8(octets).unwrap().lines().map(Some).collect();
        for shard in pending {
            let mut at = 0;
            for (number, event) in shard {
                let plain = event.line(LogFormat::Plain).to_string();
                let full = event.line(LogFormat::Full).to_string();
                let json = event.line(LogFormat::Json).to_string();
                let is = |l: &&str| *l == plain || *l == full || *l == json;
                let is = |line: &Option<&str>| line.as_ref().is_some_and(is);
                let found = lines[at..].iter().position(is);
                let index = at + found.unwrap_or_else(|| panic!("no {number} behind {at}"));
                lines[index] = None;
                at = index + 1;
            }
        }
        assert!(lines.iter().all(Option::is_none), "{lines:?}");
    }

    #[test]
    fn every_cut_of_what_three_shards_wrote_is_completed() {
        let pending = pending(&[5, 0, 9, 4]);
        let mut log = Vec::new();
        let mut ends = vec![(0, vec![0; 4])];
        let mut counts = vec![0; 4];
        // Taken in turns of changing length, in changing formats.
        for turn in 0..40 {
            let shard = turn * 7 % 4;
            for _ in 0..turn % 3 {
                if let Some((_, event)) = pending[shard].get(counts[shard]) {
                    let format = FORMATS[turn % 3];
                    log.extend(text(event, format).bytes());
                    counts[shard] += 1;
                    ends.push((log.len(), counts.clone()));
                }
            }
        }
        assert_eq!(counts, [5, 0, 9, 4]);
        for (start, counts) in &ends {
            let rest: Pending =
                pending.iter().zip(counts).map(|(shard, &n)| shard[n..].to_vec()).collect();
            for cut in *start..=log.len() {
                let (octets, ending) = completed(&log[*start..cut], &rest);
                assert_ne!(ending, Ending::Strange);
                assert_once_in_order(&octets, &rest);
            }
        }
    }

    #[test]
    fn equal_lines_are_counted() {
        // The same port, created and deleted in the same microsecond, over and over.
        let pending = vec![vec![(0, event(1, 0)), (1, event(2, 0)), (2, event(1, 0))]];
        let lines: Vec<_> =
            pending[0].iter().map(|(_, event)| text(event, LogFormat::Plain)).collect();
        for written in 0..=3 {
            let tail = lines[..written].concat();
            assert_eq!(completed(tail.as_bytes(), &pending).0, lines.concat().as_bytes());
        }
    }

    /// Lines of a block of the pool have no local address in any format.
    #[test]
    fn every_cut_of_lines_with_names_is_completed() {
        let name = |number: u64, address: [u8; 4], client: &str, named: bool| {
            let (address, client) = (address.into(), client.parse().unwrap());
            let kind = match named {
                true => EventKind::Named { address, client },
                false => EventKind::Unnamed { address, client },
            };
            (number, Event { table: TableKey::block_of(address), kind, ..event(1, number) })
        };
        let (one, net) = ("2001:db8::17/128", "2001:db8:0:1::/64");
        let shards = vec![
            vec![
                name(0, [100, 64, 0, 7], one, true),
                (1, event(1, 1)),
                name(2, [100, 64, 0, 7], one, false),
                name(3, [100, 64, 0, 7], net, true),
            ],
            vec![name(0, [100, 64, 0, 70], net, true), (1, event(2, 1))],
        ];
        for format in FORMATS {
            let lines = shards.iter().flatten().map(|(_, event)| text(event, format));
            let log = lines.collect::<String>();
            for cut in 0..=log.len() {
                let (octets, ending) = completed(&log.as_bytes()[..cut], &shards);
                assert_ne!(ending, Ending::Strange);
                assert_once_in_order(&octets, &shards);
            }
        }
    }

    #[test]
    fn other_tables_with_the_same_plain_line() {
        let (mut a, mut b) = (event(1, 0), event(1, 0));
        a.table.local = [127, 0, 0, 1].into();
        b.table.local = [127, 0, 0, 2].into();
        let pending = vec![vec![(0, a), (1, b)]];
        let (octets, _) = completed(text(&b, LogFormat::Full).as_bytes(), &pending);
        let expected = text(&b, LogFormat::Full) + &text(&a, LogFormat::Plain);
        assert_eq!(octets, expected.as_bytes());
    }

    #[test]
    fn strange_lines_stay_and_are_counted() {
        let pending = pending(&[3]);
        let lines: Vec<_> =
            pending[0].iter().map(|(_, event)| text(event, LogFormat::Plain)).collect();
        let tail = format!("{}# by hand\n\n{}\u{1f}\u{fffd}", lines[0], lines[2]);
        let mut comparison = Comparison::new(&pending, SecretHash::new([7; 16]));
        comparison.begin(1_000);
        comparison.feed(tail.as_bytes());
        assert_eq!(comparison.end(), Ending::Strange);
        assert_eq!(comparison.strangers(), 2);
        assert_eq!(comparison.missing().collect::<Vec<_>>(), [pending[0][1]]);
        assert!(comparison.begins(0));

        let invalid = [lines[0].as_bytes(), b"\xff\n", &[b'x'; 1 << 20], b"\n"].concat();
        let (octets, ending) = completed(&invalid, &pending);
        assert_eq!(ending, Ending::Whole);
        assert_eq!(octets, [&invalid, lines[1..].concat().as_bytes()].concat());
    }

    #[test]
    fn only_half_of_a_missing_line_is_cut() {
        let pending = pending(&[2]);
        let first = text(&pending[0][0].1, LogFormat::Plain);
        let end = |tail: &str| completed(tail.as_bytes(), &pending).1;
        let at = Ending::Half(first.len() as u64);
        assert_eq!(end(&format!("{first}2019-03-18 10:06:2")), at);
        assert_eq!(end(&format!("{first}2019-03-18 11")), Ending::Strange);
        // The line that this is a half of is there.
        assert_eq!(end(&format!("{first}{}", &first[..30])), Ending::Strange);
        // A power cut.
        assert_eq!(end(&format!("{first}2019-03-18 10:06:2\0\0\0")), at);
        assert_eq!(end(&format!("{first}{}", "\0".repeat(10_000))), at);
        assert_eq!(end(&format!("{first}2019\0\0-03-")), Ending::Strange);
    }

    proptest! {
        /// Turns, formats, the cursor, the cut and the pieces that are fed: all by chance.
        #[test]
        fn any_cut_is_completed(
            turns in prop::collection::vec((0usize..5, 1usize..20, 0usize..3), 1..40),
            cursor in any::<prop::sample::Index>(),
            cut in any::<prop::sample::Index>(),
            beyond in 0u64..30,
            piece in 1usize..300,
        ) {
            let mut events: Pending = vec![Vec::new(); 5];
            let mut log = Vec::new();
            let mut ends = vec![(0, vec![0; 5])];
            for (shard, count, format) in turns {
                for _ in 0..count {
                    let number = events[shard].len() as u64;
                    let event = event(shard as u8, number);
                    events[shard].push((number, event));
                    log.extend(text(&event, FORMATS[format]).bytes());
                    ends.push((log.len(), events.iter().map(Vec::len).collect()));
                }
            }
            // The journal is ahead of the log.
            for (shard, events) in events.iter_mut().enumerate() {
                for _ in 0..beyond {
                    let number = events.len() as u64;
                    events.push((number, event(shard as u8, number)));
                }
            }
            let (start, counts) = &ends[cursor.index(ends.len())];
            let rest: Pending =
                events.iter().zip(counts).map(|(shard, &n)| shard[n..].to_vec()).collect();
            let tail = &log[*start..start + cut.index(log.len() - start + 1)];
            let (octets, ending) = completed(tail, &rest);
            prop_assert_ne!(ending, Ending::Strange);
            assert_once_in_order(&octets, &rest);

            let mut comparison = Comparison::new(&rest, SecretHash::new([7; 16]));
            comparison.begin(0);
            tail.chunks(piece).for_each(|piece| comparison.feed(piece));
            prop_assert_eq!(comparison.end(), ending);
        }

        /// Whatever the log says: no panic, every event has its line, no line goes.
        #[test]
        fn any_octets(tail in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let pending = pending(&[2, 2]);
            let (octets, ending) = completed(&tail, &pending);
            let kept = if let Ending::Half(at) = ending { at as usize } else { tail.len() };
            prop_assert!(octets.starts_with(&tail[..kept]));
            prop_assert!(!tail[kept..].contains(&b'\n'));
            for (_, event) in pending.iter().flatten() {
                let line = text(event, LogFormat::Plain);
                prop_assert!(octets.windows(line.len()).any(|octets| octets == line.as_bytes()));
            }
        }
    }
}
