//! The lines of the event log that one file of a history is made of.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::path::PathBuf;

use memchr::memchr;

use super::columns::text_key;
use crate::disk::eventlog::{Day, LogReader};
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Beginning, Contradiction};
use crate::handoff::logged::{LineReader, LoggedEntry, LoggedKind, LoggedLine};
use crate::ip::address::Prefix96;

/// Lines between two looks whether to stop.
const STOP_LINES: u64 = 1 << 16;
/// The most days of a piece.
const DAYS_MAX: u64 = 7;

/// Lines that were read: those that say who has a port, by ports, and those of whole tables.
#[derive(Default)]
pub(super) struct Piece {
    events: Vec<PieceEvent>,
    /// For each NAT64: before which event, when, and of which address of the server.
    begun: HashMap<Ipv4Addr, Vec<(u32, Timestamp, Option<Ipv4Addr>)>>,
    pub(super) conflicts: Vec<Contradiction>,
    /// Those about the pool.
    pub(super) names: Vec<LoggedLine>,
    nat64s: Numbered<Ipv4Addr>,
    locals: Numbered<Option<Ipv4Addr>>,
    prefixes: Numbered<Option<Prefix96>>,
    /// The earliest and the latest of their times.
    pub(super) times: Option<(Timestamp, Timestamp)>,
    /// That of the last line.
    pub(super) last: Timestamp,
    /// How many lines of the event log, and octets of all lines.
    pub(super) lines: u64,
    pub(super) octets: u64,
    /// Whether it ends before the log does.
    pub(super) is_cut: bool,
}

/// Of how many lines a piece is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct PieceSize {
    /// At the end of a day, with so many.
    pub(super) day: u64,
    pub(super) most: u64,
}

impl PieceSize {
    /// Whether lines from one day on are enough for a file, when another day begins.
    pub(super) fn is_enough(&self, lines: u64, first: Day, now: Day) -> bool {
        now > first && (lines >= self.day || now.since(first) >= DAYS_MAX)
    }
}

/// A line about a port, as it is kept until all of a piece are there.
struct PieceEvent {
    at: Timestamp,
    client: [u8; 16],
    port: u16,
    client_port: u16,
    nat64: u16,
    local: u16,
    prefix: u16,
    created: bool,
}

/// Values that are few, by numbers.
struct Numbered<T> {
    numbers: HashMap<T, u16>,
    values: Vec<T>,
    last: Option<(T, u16)>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), values: Vec::new(), last: None }
    }
}

impl<T: Copy + Eq + Hash> Numbered<T> {
    /// None where there are too many.
    fn of(&mut self, value: T) -> Option<u16> {
        if let Some((last, number)) = self.last
            && last == value
        {
            return Some(number);
        }
        let number = match self.numbers.get(&value) {
            Some(&number) => number,
            None => {
                let number = u16::try_from(self.values.len()).ok()?;
                self.values.push(value);
                self.numbers.insert(value, number);
                number
            }
        };
        self.last = Some((value, number));
        Some(number)
    }
}

/// Why no piece was read.
pub(super) enum NoPiece {
    Stopped,
    Unreadable(PathBuf, std::io::Error),
}

impl Piece {
    /// Takes lines up to the end of a day, as `size` has it, that are later than `after`. Asks now
    /// and then whether to `stop`.
    pub(super) fn read(
        log: &mut LogReader,
        size: &PieceSize,
        after: Option<Timestamp>,
        stop: impl Fn() -> bool,
    ) -> Result<Self, NoPiece> {
        let (mut piece, mut reader) = (Self::default(), LineReader::default());
        let mut looked = 0;
        loop {
            let text = log.lines().map_err(|(path, error)| NoPiece::Unreadable(path, error))?;
            if text.is_empty() {
                return Ok(piece);
            }
            let mut begin = 0;
            while let Some(length) = memchr(b'\n', &text[begin..]) {
                let line = reader.read(&text[begin..begin + length]);
                let line = line.filter(|line| after.is_none_or(|after| line.at > after));
                if let Some(line) = line
                    && (piece.lines >= size.most || !piece.take(&line, size))
                {
                    piece.is_cut = true;
                    break;
                }
                begin += length + 1;
            }
            piece.octets += begin as u64;
            log.take(begin);
            if piece.is_cut {
                return Ok(piece);
            }
            if piece.lines - looked >= STOP_LINES && stop() {
                return Err(NoPiece::Stopped);
            }
            looked = piece.lines / STOP_LINES * STOP_LINES;
        }
    }

    /// False where it belongs to the next piece.
    fn take(&mut self, line: &LoggedLine, size: &PieceSize) -> bool {
        // Where the clock was ahead for a while, the latest one says nothing of the days.
        if let Some((earliest, _)) = self.times
            && Day::of(line.at) > Day::of(self.last)
            && size.is_enough(self.lines, Day::of(earliest), Day::of(line.at))
        {
            return false;
        }
        // A piece has fewer lines than that.
        let next = self.events.len() as u32;
        match &line.kind {
            LoggedKind::Forgotten => {}
            LoggedKind::Named(_) | LoggedKind::Unnamed(_) => self.names.push(line.clone()),
            LoggedKind::Initialized => {
                let begun = self.begun.entry(line.nat64).or_default();
                begun.push((next, line.at, line.local));
                if self.nat64s.of(line.nat64).is_none() {
                    return false;
                }
            }
            LoggedKind::Conflict(_) => self.conflicts.extend(Contradiction::of(line)),
            LoggedKind::Created(entry) | LoggedKind::Deleted(entry) => {
                let (Some(nat64), Some(local), Some(prefix)) = (
                    self.nat64s.of(line.nat64),
                    self.locals.of(line.local),
                    self.prefixes.of(entry.prefix),
                ) else {
                    return false;
                };
                self.events.push(PieceEvent {
                    at: line.at,
                    client: entry.client.octets(),
                    port: entry.port,
                    client_port: entry.client_port,
                    nat64,
                    local,
                    prefix,
                    created: matches!(line.kind, LoggedKind::Created(_)),
                });
            }
        }
        (self.lines, self.last) = (self.lines + 1, line.at);
        let (earliest, latest) = self.times.unwrap_or((line.at, line.at));
        self.times = Some((earliest.min(line.at), latest.max(line.at)));
        true
    }

    /// What is said of ports, port by port in the order of the files.
    pub(super) fn by_port(&self) -> ByPort<'_> {
        let mut order: Vec<usize> = (0..self.nat64s.values.len()).collect();
        order.sort_unstable_by_key(|&number| text_key(self.nat64s.values[number]));
        let mut ranks = vec![0_u64; order.len()];
        for (rank, &number) in (0..).zip(&order) {
            ranks[number] = rank;
        }
        let key = |(index, event): (u64, &PieceEvent)| {
            ranks[usize::from(event.nat64)] << 48 | u64::from(event.port) << 32 | index
        };
        let mut keys: Vec<u64> = (0..).zip(&self.events).map(key).collect();
        keys.sort_unstable();
        let nat64s = order.into_iter().map(|number| {
            let nat64 = self.nat64s.values[number];
            (nat64, text_key(nat64))
        });
        let nat64s = nat64s.collect();
        ByPort { piece: self, keys, nat64s, next: 0 }
    }

    /// Whether something is said of all ports of a NAT64.
    pub(super) fn begins(&self, nat64: Ipv4Addr) -> bool {
        self.begun.contains_key(&nat64)
    }

    /// When tables began, in the order of a file of these.
    pub(super) fn beginnings(&self) -> Vec<Beginning> {
        let all = self.begun.iter().flat_map(|(&nat64, begun)| {
            begun.iter().map(move |&(_, at, local)| Beginning { at, nat64, local })
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by_cached_key(|begun| (text_key(begun.nat64), *begun));
        all
    }

    /// What the event of that number says.
    fn line(&self, index: u32) -> LoggedLine {
        let event = &self.events[index as usize];
        let entry = LoggedEntry {
            port: event.port,
            client: Ipv6Addr::from(event.client),
            client_port: event.client_port,
            prefix: self.prefixes.values[usize::from(event.prefix)],
        };
        LoggedLine {
            at: event.at,
            kind: match event.created {
                true => LoggedKind::Created(entry),
                false => LoggedKind::Deleted(entry),
            },
            nat64: self.nat64s.values[usize::from(event.nat64)],
            local: self.locals.values[usize::from(event.local)],
        }
    }
}

/// The lines of a piece, port by port.
pub(super) struct ByPort<'p> {
    piece: &'p Piece,
    /// Of each event: the rank of its NAT64, its port, its number.
    keys: Vec<u64>,
    /// In the order of their ranks.
    nat64s: Vec<(Ipv4Addr, [u8; 15])>,
    next: usize,
}

impl ByPort<'_> {
    /// The port that is next.
    pub(super) fn peek(&self) -> Option<SocketAddrV4> {
        let key = *self.keys.get(self.next)?;
        let (nat64, _) = self.nat64s[(key >> 48) as usize];
        Some(SocketAddrV4::new(nat64, (key >> 32) as u16))
    }

    /// By what the NAT64 of that port is sorted.
    pub(super) fn text_key(&self) -> [u8; 15] {
        let key = self.keys.get(self.next).copied().unwrap_or_default();
        self.nat64s.get((key >> 48) as usize).map_or([0; 15], |(_, text)| *text)
    }

    /// The lines of a port, which has none where it is not the next one, and those of all ports of
    /// its NAT64, in the order of the log.
    pub(super) fn take(&mut self, port: SocketAddrV4, mut each: impl FnMut(&LoggedLine)) {
        let begun = self.piece.begun.get(port.ip()).map_or(&[][..], Vec::as_slice);
        let mut begun = begun.iter().peekable();
        let nat64 = *port.ip();
        let initialized = |&(_, at, local): &(u32, Timestamp, Option<Ipv4Addr>)| LoggedLine {
            at,
            kind: LoggedKind::Initialized,
            nat64,
            local,
        };
        while self.peek() == Some(port) {
            let index = self.keys[self.next] as u32;
            while let Some(table) = begun.next_if(|(before, ..)| *before <= index) {
                each(&initialized(table));
            }
            each(&self.piece.line(index));
            self.next += 1;
        }
        begun.for_each(|table| each(&initialized(table)));
    }
}
