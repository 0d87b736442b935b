//! What holds throughout: the properties, checked on what the server said, logged and has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use nat64handoff::handoff::entry::{Client, Entry, MappedPort, TableKey};
use nat64handoff::handoff::logged::{LineReader, LoggedEntry, LoggedKind, LoggedLine};

/// What a run can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// What was announced stands in the table and in the log, whatever happens.
    AnnouncedIsKept,
    /// The log has each event once, in order, and leads to the tables.
    LogIsTrue,
    /// A port stands for one client, and a client has one port.
    BothWaysUnique,
    /// The name of a port is that of the client that the NAT64 has there, or none.
    NamesAreTrue,
    /// A client gets what the service sent to it, and nothing else.
    NobodyElsesPacket,
    /// A packet arrives as it was sent.
    ContentIsKept,
    /// A datagram is answered, or counted as dropped.
    AnsweredOrCounted,
    /// Whoever may not speak for a NAT64 is not believed.
    ForgeryIsNotBelieved,
    /// When all is well again, all is served.
    ServedInTheEnd,
    /// The limits.
    WithinBudget,
    /// The server starts on whatever it left, and ends only where its disk fails.
    RunsOn,
    /// No assertion fails.
    NoPanic,
}

/// A property that was broken.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    pub property: Property,
    pub what: String,
}

impl Violation {
    pub fn new(property: Property, what: impl Into<String>) -> Self {
        Self { property, what: what.into() }
    }
}

/// An entry in a table.
pub type Placed = (TableKey, MappedPort, Client);

/// A packet of the service that reached another client than it was sent to.
#[derive(Debug, Clone)]
pub struct Astray {
    /// When the client that it is for was last heard by that port.
    pub heard: Duration,
    pub table: TableKey,
    pub port: MappedPort,
    pub sent_to: Client,
    pub got_by: Client,
}

/// What is known of the log and of what was announced.
#[derive(Default)]
pub struct Judge {
    /// Octets of the log that were read.
    read: usize,
    reader: LineReader,
    /// The tables as the log tells them.
    told: BTreeMap<TableKey, BTreeMap<MappedPort, Client>>,
    /// All that stood there at some time since the last check.
    stood: BTreeSet<Placed>,
    /// When it was read that an entry is created, and deleted, the last time.
    created: BTreeMap<Placed, Duration>,
    deleted: BTreeMap<Placed, Duration>,
    /// What was reported and contradicted.
    conflicts: BTreeSet<Placed>,
    /// What was announced since the last check, and when.
    announced: Vec<(Placed, Duration)>,
    /// When anything was announced the last time.
    announced_last: BTreeMap<Placed, Duration>,
    /// What was announced and stood at the last check, and when that was announced last.
    known: BTreeMap<Placed, Duration>,
    astray: Vec<Astray>,
    /// The power was cut before.
    was_cut: bool,
}

fn broken<T>(property: Property, what: String) -> Result<T, Violation> {
    Err(Violation { property, what })
}

/// An entry, as people read it.
pub fn shown(&(table, port, client): &Placed) -> String {
    let Client { address, port: client_port, .. } = client;
    format!("{}:{port} [{address}]:{client_port} to {}", table.nat64, table.local)
}

fn has(tables: &BTreeMap<TableKey, Vec<Entry>>, (table, port, client): &Placed) -> bool {
    let entry = Entry { port: *port, client: *client };
    tables.get(table).is_some_and(|entries| entries.contains(&entry))
}

impl Judge {
    /// The server sent this entry to its NAT64.
    pub fn announced(&mut self, table: TableKey, entry: Entry, at: Duration) {
        let placed = (table, entry.port, entry.client);
        self.announced.push((placed, at));
        self.announced_last.insert(placed, at);
    }

    /// The server has these tables: what it has no more was deleted, also where the log has that
    /// not yet.
    pub fn looked_at(&mut self, tables: &BTreeMap<TableKey, Vec<Entry>>, now: Duration) {
        let announced = self.announced.iter().map(|(placed, _)| placed);
        for &placed in announced.chain(self.known.keys()) {
            if !has(tables, &placed) {
                self.deleted.insert(placed, now);
            }
        }
    }

    /// A client got what was sent to another one. It is judged when the log is complete.
    pub fn went_astray(&mut self, astray: Astray) {
        self.astray.push(astray);
    }

    /// Whether the log tells who was behind that port: by an entry, or as a conflict.
    pub fn names(&self, placed: &Placed) -> bool {
        let now = self.told.get(&placed.0).and_then(|table| table.get(&placed.1));
        now == Some(&placed.2) || self.conflicts.contains(placed)
    }

    /// The clients that the log has.
    pub fn clients(&self) -> impl Iterator<Item = (TableKey, &Client)> {
        self.told.iter().flat_map(|(&key, table)| table.values().map(move |client| (key, client)))
    }

    /// The power was cut, after a sync that began at that time: the log may be shorter, and what
    /// was announced since may be lost.
    pub fn power_was_cut(&mut self, synced: Duration) {
        (self.read, self.reader) = (0, LineReader::default());
        self.was_cut = true;
        self.told.clear();
        self.stood.clear();
        self.conflicts.clear();
        for (placed, at) in std::mem::take(&mut self.announced) {
            self.known.insert(placed, at);
        }
        self.known.retain(|_, at| *at < synced);
        self.astray.clear();
    }

    /// Reads what the log has more, which is complete; `tables` are what the server has.
    pub fn check(
        &mut self,
        log: &str,
        tables: &BTreeMap<TableKey, Vec<Entry>>,
        now: Duration,
    ) -> Result<(), Violation> {
        self.read_log(log, now)?;
        self.compare(tables)?;
        for (placed, _) in &self.announced {
            if !self.stood.contains(placed) {
                let what = format!("announced, and the log has it not: {}", shown(placed));
                return broken(Property::AnnouncedIsKept, what);
            }
        }
        for astray in std::mem::take(&mut self.astray) {
            let held = (astray.table, astray.port, astray.sent_to);
            let created = self.created.get(&held).is_some_and(|at| *at <= astray.heard);
            // What was announced first may come last.
            let got_by = (astray.table, astray.port, astray.got_by);
            let announced = |placed| self.announced_last.get(placed);
            let is_late = announced(&got_by).is_some_and(|at| Some(at) < announced(&held));
            if self.holds(&held) && created && !is_late {
                let what = format!(
                    "sent to {}, got by [{}]:{}",
                    shown(&held),
                    astray.got_by.address,
                    astray.got_by.port
                );
                return broken(Property::NobodyElsesPacket, what);
            }
        }
        for (placed, at) in std::mem::take(&mut self.announced) {
            self.known.insert(placed, at);
        }
        let told = &self.told;
        self.known.retain(|placed, _| holds(told, placed));
        self.stood = told
            .iter()
            .flat_map(|(&key, table)| table.iter().map(move |(&port, &client)| (key, port, client)))
            .collect();
        Ok(())
    }

    /// The server was started again, on what it left: what was announced of `before` is there.
    pub fn check_kept(
        &self,
        before: &BTreeMap<TableKey, Vec<Entry>>,
        after: &BTreeMap<TableKey, Vec<Entry>>,
    ) -> Result<(), Violation> {
        let announced = self.announced.iter().map(|(placed, at)| (placed, at)).chain(&self.known);
        // Where it was deleted since, it may have come again without being announced.
        let stands = |placed: &Placed, at| self.deleted.get(placed).is_none_or(|gone| gone < at);
        let announced =
            announced.filter(|(placed, at)| stands(placed, at)).map(|(placed, _)| placed);
        let mut lost = announced.filter(|placed| has(before, placed) && !has(after, placed));
        match lost.next() {
            Some(placed) => broken(
                Property::AnnouncedIsKept,
                format!("announced, and lost by a restart: {}", shown(placed)),
            ),
            None => Ok(()),
        }
    }

    fn holds(&self, placed: &Placed) -> bool {
        holds(&self.told, placed)
    }

    /// Reads what the log has more.
    pub fn read_log(&mut self, log: &str, now: Duration) -> Result<(), Violation> {
        let Some(news) = log.get(self.read..) else {
            return broken(Property::LogIsTrue, "the log is shorter than it was".into());
        };
        let complete = news.rfind('\n').map_or(0, |end| end + 1);
        for line in news[..complete].lines() {
            let read = self.reader.read(line.as_bytes());
            // A line that the power cut short may end where it was cut.
            let is_cut = read.as_ref().is_none_or(|line| line.local.is_none()) && self.was_cut;
            let fine = read.is_some_and(|line| self.take(&line, now)) || is_cut;
            if !fine {
                let what = format!("this line cannot stand here: {line}");
                return broken(Property::LogIsTrue, what + &like(log, line));
            }
        }
        self.read += complete;
        Ok(())
    }

    /// Whether the line can follow those before it.
    fn take(&mut self, line: &LoggedLine, now: Duration) -> bool {
        let Some(local) = line.local else { return false };
        let key = TableKey { local, nat64: line.nat64 };
        let table = self.told.get_mut(&key);
        let placed = |entry: &LoggedEntry| {
            let prefix = entry.prefix.unwrap_or_else(|| panic!("the full form has it"));
            let client = Client { prefix, address: entry.client, port: entry.client_port };
            (key, MappedPort(entry.port), client)
        };
        match (&line.kind, table) {
            // The table was lost, where there is one: only a power cut does that.
            (LoggedKind::Initialized, _) => {
                self.told.insert(key, BTreeMap::new()).is_none() || self.was_cut
            }
            (LoggedKind::Forgotten, Some(table)) => {
                table.is_empty() && self.told.remove(&key).is_some()
            }
            (LoggedKind::Created(entry), Some(table)) => {
                let placed = placed(entry);
                self.created.insert(placed, now);
                self.stood.insert(placed);
                let twice = table.values().any(|client| *client == placed.2);
                !twice && table.insert(placed.1, placed.2).is_none()
            }
            (LoggedKind::Deleted(entry), Some(table)) => {
                let placed = placed(entry);
                self.deleted.insert(placed, now);
                table.remove(&placed.1) == Some(placed.2)
            }
            (LoggedKind::Conflict(entry), Some(_)) => {
                self.conflicts.insert(placed(entry));
                true
            }
            _ => false,
        }
    }

    fn compare(&self, tables: &BTreeMap<TableKey, Vec<Entry>>) -> Result<(), Violation> {
        for (&table, entries) in tables {
            let mut ports = BTreeMap::new();
            let mut clients = BTreeSet::new();
            for entry in entries {
                let twice = ports.insert(entry.port, entry.client).is_some();
                if twice || !clients.insert(entry.client) {
                    let what = shown(&(table, entry.port, entry.client));
                    return broken(Property::BothWaysUnique, what);
                }
            }
            let told = self.told.get(&table);
            if told.is_none_or(|told| *told != ports) && !(told.is_none() && ports.is_empty()) {
                let differs = difference(table, &ports, told);
                return broken(Property::LogIsTrue, differs);
            }
        }
        let lost =
            self.told.iter().find(|(key, told)| !told.is_empty() && !tables.contains_key(key));
        match lost {
            Some((key, _)) => {
                let what = format!("the log has a table that is not there: {key:?}");
                broken(Property::LogIsTrue, what)
            }
            None => Ok(()),
        }
    }
}

fn holds(told: &BTreeMap<TableKey, BTreeMap<MappedPort, Client>>, placed: &Placed) -> bool {
    told.get(&placed.0).and_then(|table| table.get(&placed.1)) == Some(&placed.2)
}

fn difference(
    table: TableKey,
    has: &BTreeMap<MappedPort, Client>,
    told: Option<&BTreeMap<MappedPort, Client>>,
) -> String {
    let none = BTreeMap::new();
    let told = told.unwrap_or(&none);
    let only = |a: &BTreeMap<MappedPort, Client>, b: &BTreeMap<MappedPort, Client>| {
        let other = a.iter().filter(|(port, client)| b.get(port) != Some(client));
        let all: Vec<_> = other.map(|(&port, &client)| shown(&(table, port, client))).collect();
        all.join(", ")
    };
    format!("only in the table: {}; only in the log: {}", only(has, told), only(told, has))
}

/// The lines of the log with a word of that line in them that names a port or a client.
fn like(log: &str, line: &str) -> String {
    let words: Vec<_> = line.split(' ').skip(3).take(2).collect();
    let alike = log.lines().filter(|other| words.iter().any(|word| other.contains(word)));
    alike.flat_map(|other| ["\n    ", other]).collect()
}

/// The entry that a payload of the server announces.
pub fn entry_of(payload: &[u8]) -> Option<Entry> {
    let mut rest = payload;
    while let &[head, units, ref behind @ ..] = rest {
        if head >> 4 != 3 {
            return None;
        }
        let (data, next) = behind.split_at_checked(2 * usize::from(units))?;
        if head == 0x37 {
            return entry(data);
        }
        rest = next;
    }
    None
}

fn entry(data: &[u8]) -> Option<Entry> {
    let &[high, low, ref rest @ ..] = data else { return None };
    let prefix = nat64handoff::ip::address::Prefix96(*rest.first_chunk()?);
    let address: [u8; 16] = *rest.get(12..)?.first_chunk()?;
    let port = u16::from_be_bytes(*rest.get(28..)?.first_chunk()?);
    let client = Client { prefix, address: address.into(), port };
    Some(Entry { port: MappedPort(u16::from_be_bytes([high, low])), client })
}

/// Whether a NAT64's address is one of a stranger.
pub fn is_stranger(address: Ipv4Addr) -> bool {
    address.octets()[..3] == [198, 51, 100]
}
