//! The names of peers: programs of the host ask them of the kernel, whose map is memory here.
//!
//! At any instant a name is of the client that the NAT64 was told last to have that port, or of the
//! one that it is about to be told. While the disk fails, a change that is not recorded yet leaves
//! the name as it was: its NAT64 is not told of it, either. When nothing is under way, names are
//! those of the tables; one may be missing where there was no room for it, or nobody could tell
//! whose the port was.

use std::collections::BTreeMap;

use nat64handoff::handoff::entry::{Client, Entry, MappedPort, TableKey};
use nat64handoff::kernel::bpf::names::PeerName;

use crate::host::Tables;
use crate::verdict::{Property, Violation};

/// See above.
#[derive(Default)]
pub struct NameJudge {
    /// What NAT64s were told last of their ports.
    announced: BTreeMap<(TableKey, MappedPort), Client>,
    /// The names that were right the last time.
    right: BTreeMap<(TableKey, MappedPort), PeerName>,
}

fn is_of(name: &PeerName, client: Option<&Client>) -> bool {
    client.is_some_and(|client| (client.address, client.port) == (name.client, name.client_port))
}

fn wrong(what: &str, table: TableKey, port: MappedPort, name: &PeerName) -> Violation {
    let PeerName { client, client_port, .. } = name;
    let what = format!("{}:{port} is called [{client}]:{client_port}, {what}", table.nat64);
    Violation::new(Property::NamesAreTrue, what)
}

impl NameJudge {
    /// A NAT64 is told that a client has a port.
    pub fn announced(&mut self, table: TableKey, entry: Entry) {
        self.announced.insert((table, entry.port), entry.client);
    }

    /// A port has this name, and this `client` in its table, whose changes may not be recorded.
    pub fn check(
        &mut self,
        (table, port, name): (TableKey, MappedPort, PeerName),
        client: Option<Client>,
        may_lack_records: bool,
    ) -> Result<(), Violation> {
        let announced = self.announced.get(&(table, port));
        // Also where it was given and its entry deleted within one step: nobody has the port since.
        let as_it_was =
            may_lack_records && (self.right.get(&(table, port)) == Some(&name) || client.is_none());
        if !(as_it_was || is_of(&name, client.as_ref()) || is_of(&name, announced)) {
            return Err(wrong("and its NAT64 has another client there", table, port, &name));
        }
        self.right.insert((table, port), name);
        Ok(())
    }
}

/// Nothing is under way: names are those of the tables, but for so many that are `unnamed`.
pub fn check_all(
    names: &[(TableKey, MappedPort, PeerName)],
    tables: &Tables,
    unnamed: u64,
) -> Result<(), Violation> {
    for &(table, port, ref name) in names {
        let mut entries = tables.get(&table).into_iter().flatten();
        let client = entries.find(|entry| entry.port == port).map(|entry| &entry.client);
        if !is_of(name, client) {
            return Err(wrong("and the table has another client there", table, port, name));
        }
    }
    let entries: usize = tables.values().map(Vec::len).sum();
    match (names.len() as u64).saturating_add(unnamed) < entries as u64 {
        true => {
            let what = format!("{entries} entries have {} names, {unnamed} none", names.len());
            Err(Violation::new(Property::NamesAreTrue, what))
        }
        false => Ok(()),
    }
}
