//! What the event logs of all hosts say together, and whether what NAT64s were told is so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::asker::{Micros, Told};
use crate::judge::client::{Client, PREFIX};
use crate::judge::eventlog::{Event, Kind, stamp};
use crate::site::Host;

/// How much later a clock may be read than something was so.
const LATE: Micros = 2_000;

/// A host that has lost a table, and does not know it yet, may say for so long that nobody has a
/// port that was given since: `OwnershipLimits::silent_after`, and a little more.
const STALE: Micros = 2_200_000;

/// From when until when a client had a port. A line's time, as it is written.
#[derive(Debug)]
struct Had {
    client: (Ipv6Addr, u16),
    from: String,
    until: Option<String>,
}

/// All that the logs say.
#[derive(Default)]
pub struct Lines {
    ports: HashMap<(Ipv4Addr, u16), Vec<Had>>,
    /// What each client has at the end.
    clients: BTreeMap<(Ipv4Addr, Ipv6Addr, u16), u16>,
    pub created: usize,
    pub deleted: usize,
}

fn written(at: Micros) -> String {
    stamp(at / 1_000_000, (at % 1_000_000) as u32)
}

impl Lines {
    /// Each line stands there once, and is true: none has a port that another client has.
    ///
    /// # Errors
    /// What is wrong. Where a host is not yet done with writing, something is.
    pub fn of(hosts: &[Host]) -> Result<Self, String> {
        Self::read(hosts.iter().flat_map(Host::events).collect())
    }

    pub fn read(mut events: Vec<Event>) -> Result<Self, String> {
        // Hosts of a test have one clock.
        events.sort_by(|one, other| one.when.cmp(&other.when));
        let (mut lines, mut known) = (Self::default(), HashSet::new());
        let mut once = HashSet::new();
        for event in &events {
            if !once.insert((&event.when, event.kind as u8, event.nat64, event.entry)) {
                return Err(format!("a line twice: {event:?}"));
            }
            if event.kind == Kind::Initialized && !known.insert(event.nat64) {
                return Err(format!("initialized twice: {event:?}"));
            }
            if !known.contains(&event.nat64) {
                return Err(format!("before Initialized: {event:?}"));
            }
            lines.take(event)?;
        }
        Ok(lines)
    }

    fn take(&mut self, event: &Event) -> Result<(), String> {
        let Some((port, address, client_port)) = event.entry else { return Ok(()) };
        let client = (address, client_port);
        let had = self.ports.entry((event.nat64, port)).or_default();
        let last = had.last_mut().filter(|had| had.until.is_none());
        let by_client = (event.nat64, address, client_port);
        match (event.kind, last) {
            (Kind::Created, None) => {
                had.push(Had { client, from: event.when.clone(), until: None });
                self.created += 1;
                match self.clients.insert(by_client, port) {
                    None => Ok(()),
                    Some(other) => Err(format!("the client has port {other}: {event:?}")),
                }
            }
            (Kind::Deleted, Some(had)) if had.client == client => {
                had.until = Some(event.when.clone());
                self.deleted += 1;
                self.clients.remove(&by_client);
                Ok(())
            }
            (Kind::Created | Kind::Deleted, last) => Err(format!("{event:?}, where {last:?}")),
            _ => Ok(()),
        }
    }

    /// Whether all that a NAT64 was told was so at some time between question and answer.
    ///
    /// # Errors
    /// What was not.
    pub fn check(&self, nat64: Ipv4Addr, all: &[Told]) -> Result<(), String> {
        for told in all {
            let (asked, came) = (written(told.asked - LATE), written(told.came + LATE));
            let known = written(told.asked - STALE);
            let had = self.ports.get(&(nat64, told.port)).map_or(&[][..], Vec::as_slice);
            let is_so = match told.client {
                Some(Client { address, port, .. }) => had.iter().any(|had| {
                    let is_over = had.until.as_ref().is_some_and(|until| *until < asked);
                    had.client == (address, port) && had.from <= came && !is_over
                }),
                // Nobody had it at some time, or it was given a short time ago.
                None => !had.iter().any(|had| {
                    let is_over = had.until.as_ref().is_some_and(|until| *until <= came);
                    had.from < known && !is_over
                }),
            };
            if !is_so {
                let (client, port) = (told.client, told.port);
                return Err(format!(
                    "{nat64} was told between {asked} and {came} that {port} is {client:?}; \
                     the logs say {had:?}"
                ));
            }
        }
        Ok(())
    }

    /// Which client of a NAT64 has which port at the end.
    pub fn entries(&self, nat64: Ipv4Addr) -> Vec<(Client, u16)> {
        let of_nat64 = self.clients.iter().filter(|((of, ..), _)| *of == nat64);
        let entries = of_nat64.map(|(&(_, address, port), &mapped)| {
            (Client { prefix: PREFIX, address, port }, mapped)
        });
        entries.collect()
    }
}
