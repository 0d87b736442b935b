//! The event log as it grows over kills, restarts and rotations: every line is read once, strictly,
//! and replayed.

use crate::judge::client::{Client, PREFIX};
use crate::judge::eventlog::{Event, Kind};
use crate::judge::names::Names;
use flate2::read::MultiGzDecoder;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// Mapped port, client address and port. All clients here have one prefix: the log does not name
/// it.
pub type Key = (u16, Ipv6Addr, u16);

pub fn key(mapped: u16, client: Client) -> Key {
    assert_eq!(client.prefix, PREFIX);
    (mapped, client.address, client.port)
}

/// What the log says about one NAT64.
#[derive(Default, PartialEq, Debug)]
pub struct Table {
    pub initialized: usize,
    pub forgotten: usize,
    /// The replay.
    pub by_port: HashMap<u16, Client>,
    pub by_client: HashMap<Client, u16>,
    pub created: HashMap<Key, usize>,
    pub deleted: HashMap<Key, usize>,
    pub conflicts: HashMap<Key, usize>,
    /// Ports that lines have named since `take_touched`.
    touched: Vec<u16>,
    when: String,
}

pub struct Record {
    /// In the order of writing; the last one is the server's log now.
    files: Vec<PathBuf>,
    /// Which file is being read, and how much of it has been.
    reading: usize,
    offset: usize,
    /// Half lines at the ends of renamed files, which come whole later.
    halves: Vec<String>,
    pub lines: usize,
    pub tables: HashMap<Ipv4Addr, Table>,
    /// Of the pool.
    pub names: Names,
}

impl Record {
    pub fn new(log: &Path) -> Record {
        Record {
            files: vec![log.to_path_buf()],
            reading: 0,
            offset: 0,
            halves: Vec::new(),
            lines: 0,
            tables: HashMap::new(),
            names: Names::default(),
        }
    }

    /// Renames the log, as logrotate does before it sends SIGHUP.
    pub fn rename(&mut self) {
        let log = self.files.pop().unwrap();
        let old = log.with_extension(format!("log.{}", self.files.len() + 1));
        assert!(!old.exists());
        std::fs::rename(&log, &old).unwrap();
        self.files.extend([old, log]);
    }

    pub fn table(&mut self, nat64: Ipv4Addr) -> &mut Table {
        self.tables.entry(nat64).or_default()
    }

    /// Takes notice of the files that the server has put aside, at the ends of days. Returns
    /// whether there is another one.
    fn find_former(&mut self) -> bool {
        let log = self.files.pop().unwrap();
        let name = log.file_name().unwrap().to_str().unwrap();
        let folder = std::fs::read_dir(log.parent().unwrap()).unwrap().flatten();
        let others = folder.filter_map(|entry| entry.file_name().into_string().ok());
        let former = others.filter(|other| other.starts_with(&format!("{name}-")));
        // Compressed or not, it is the same file.
        let former = former.map(|other| log.with_file_name(other.trim_end_matches(".gz")));
        let fresh: BTreeSet<_> = former.filter(|file| !self.files.contains(file)).collect();
        let is_more = !fresh.is_empty();
        self.files.extend(fresh);
        self.files.push(log);
        is_more
    }

    /// Reads the complete lines that have come. Panics at a line that cannot stand where it stands.
    pub fn feed(&mut self) {
        self.find_former();
        loop {
            let is_last = self.reading + 1 == self.files.len();
            let fresh = read_from(&self.files[self.reading], self.offset);
            if self.find_former() && is_last {
                // What was read may be of the file that came in its place.
                continue;
            }
            let name = self.files[self.reading].display().to_string();
            let complete = fresh.rfind('\n').map_or(0, |end| end + 1);
            for line in fresh[..complete].lines() {
                self.lines += 1;
                self.halves.retain(|half| !line.starts_with(half));
                let line = &plain(line);
                match self.names.take(line) {
                    None => {}
                    Some(Ok(())) => continue,
                    Some(Err(error)) => panic!("{error}: {line:?}, line {} of all", self.lines),
                }
                let event = Event::parse(line).unwrap_or_else(|error| {
                    panic!("{name}: {error}, line {} of all", self.lines);
                });
                let table = self.tables.entry(event.nat64).or_default();
                if let Err(error) = table.apply(&event) {
                    panic!("{error}: {line:?}, line {} of all\n{}", self.lines, self.about(&event));
                }
            }
            self.offset += complete;
            if is_last {
                return;
            }
            if complete < fresh.len() {
                // Killed while it wrote, and renamed: such a file is not cut any more.
                self.halves.push(fresh[complete..].to_owned());
            }
            (self.reading, self.offset) = (self.reading + 1, 0);
        }
    }

    /// After the server has ended: nothing may be half, and what was read while the log grew is
    /// what stands there now.
    pub fn check_final(&mut self) {
        self.feed();
        let rest = read_from(&self.files[self.reading], self.offset);
        assert_eq!(rest, "", "the log ends in half a line");
        assert!(self.halves.is_empty(), "half lines that never come whole: {:?}", self.halves);
        let mut again = Record { files: self.files.clone(), ..Record::new(&self.files[0]) };
        again.feed();
        assert_eq!(again.names, self.names, "names that lines tell now, and told before");
        assert_eq!(again.lines, self.lines, "lines now, lines that were read while it grew");
        for (nat64, table) in &mut self.tables {
            table.touched.clear();
            let other = again.tables.get_mut(nat64).unwrap();
            other.touched.clear();
            assert!(*table == *other, "lines about {nat64} have changed after they were written");
        }
    }

    /// All lines of the same NAT64 about the port or the client of this event.
    fn about(&self, event: &Event) -> String {
        match event.entry {
            Some((mapped, address, port)) => {
                self.lines_with(event.nat64, &[mapped], &format!("[{address}]:{port}"))
            }
            None => self.lines_with(event.nat64, &[], "Initialized"),
        }
    }

    /// The lines about this NAT64 with one of these ports or with this text, for failures.
    pub fn lines_with(&self, nat64: Ipv4Addr, ports: &[u16], text: &str) -> String {
        let wanted: Vec<_> = ports.iter().map(|port| format!(" {nat64}:{port} ")).collect();
        let mut out = String::from("the log says about it:\n");
        let mut number = 0;
        for file in &self.files {
            let all = std::fs::read_to_string(file).unwrap_or_default();
            for line in all.lines() {
                number += 1;
                let ours = line.contains(&nat64.to_string()) && line.ends_with(text);
                if ours || wanted.iter().any(|port| line.contains(port)) {
                    out += &format!("  {}:{number}: {line}\n", file.display());
                }
            }
        }
        out
    }

    pub fn about_entry(&self, nat64: Ipv4Addr, mapped: u16, client: Client) -> String {
        self.lines_with(nat64, &[mapped], &format!(" [{}]:{}", client.address, client.port))
    }
}

/// The form that all formats have in common.
fn plain(line: &str) -> String {
    if !line.starts_with('{') {
        return line.split(" to ").next().unwrap_or_default().to_owned();
    }
    let json: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let text = |name: &str| json[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
    let at = text("at").replace('T', " ");
    let begin = format!("{} {}", at.trim_end_matches('Z'), text("event"));
    match (json.get("pool"), json.get("port")) {
        (Some(_), _) => format!("{begin} {} [{}]", text("pool"), text("client")),
        (None, Some(port)) => {
            format!("{begin} {}:{port} [{}]:{}", text("nat64"), text("client"), json["client_port"])
        }
        (None, None) => format!("{begin} {}", text("nat64")),
    }
}

/// What the file has from there on; nothing if it is not there (yet).
fn read_from(path: &Path, offset: usize) -> String {
    let mut text = String::new();
    if let Ok(compressed) = File::open(format!("{}.gz", path.display())) {
        MultiGzDecoder::new(compressed).read_to_string(&mut text).unwrap();
        text.split_off(offset)
    } else {
        read_plain(path, offset)
    }
}

fn read_plain(path: &Path, offset: usize) -> String {
    let mut text = String::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().unwrap().len() as usize;
        let name = path.display();
        assert!(
            length >= offset,
            "{name} has {length} octets; {offset} of them had been whole lines"
        );
        file.seek(SeekFrom::Start(offset as u64)).unwrap();
        file.read_to_string(&mut text).unwrap();
    } else {
        assert_eq!(offset, 0, "{} is gone", path.display());
    }
    text
}

impl Table {
    fn apply(&mut self, event: &Event) -> Result<(), String> {
        if self.when > event.when {
            return Err(format!("time goes back, from {}", self.when));
        }
        self.when = event.when.clone();
        let Some(key) = event.entry else {
            return self.begin_or_end(event.kind);
        };
        if self.initialized == self.forgotten {
            return Err("before Initialized".into());
        }
        let (mapped, address, port) = key;
        let client = Client { prefix: PREFIX, address, port };
        self.touched.push(mapped);
        match event.kind {
            Kind::Created => {
                *self.created.entry(key).or_default() += 1;
                if let Some(old) = self.by_port.insert(mapped, client) {
                    return Err(format!("the port has {old:?} already"));
                }
                if let Some(old) = self.by_client.insert(client, mapped) {
                    return Err(format!("the client has port {old} already"));
                }
            }
            Kind::Deleted => {
                *self.deleted.entry(key).or_default() += 1;
                let old = self.by_port.remove(&mapped);
                if old != Some(client) {
                    return Err(format!("deleted, but the port has {old:?}"));
                }
                self.by_client.remove(&client);
            }
            Kind::Conflict => *self.conflicts.entry(key).or_default() += 1,
            Kind::Initialized | Kind::Forgotten => unreachable!(),
        }
        Ok(())
    }

    /// `Initialized` or `Forgotten`.
    fn begin_or_end(&mut self, kind: Kind) -> Result<(), String> {
        if kind == Kind::Initialized {
            self.initialized += 1;
            let twice = self.initialized != self.forgotten + 1;
            return if twice { Err("initialized twice".into()) } else { Ok(()) };
        }
        self.forgotten += 1;
        if self.initialized != self.forgotten {
            return Err("forgotten before Initialized".into());
        }
        if !self.by_port.is_empty() {
            return Err("forgotten with entries".into());
        }
        Ok(())
    }

    pub fn take_touched(&mut self) -> Vec<u16> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    pub fn has_created(&self, key: Key) -> bool {
        self.created.contains_key(&key)
    }
}
