//! One NAT64: its entries, what is known of who speaks for it, and that it is given up.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::future::join_all;
use ipnet::Ipv6Net;

use crate::handoff::entry::{Entry, TableKey};
use crate::programs::report::{
    DropReport, DroppedEntries, EntryStatus, IdentitiesReport, TableEntries, TableIdentities,
    TableReport, rfc3339,
};
use crate::programs::serve::admin::AdminShared;
use crate::programs::serve::admin::status::identity_status;
use crate::programs::serve::inquiry::{Inquiry, NoAnswer, Question};

/// How often it is looked whether a table has gone, and for how long.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const GONE_WAIT: Duration = Duration::from_secs(8);

/// Why a table did not go.
#[derive(Debug, thiserror::Error)]
pub enum NotDropped {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// There is none.
    #[error("there is no table of {0}; `nat64handoff status` names those that are there")]
    NoTable(Ipv4Addr),
    /// Nothing can be recorded.
    #[error(
        "nothing is changed, as nothing can be recorded now; see `nat64handoff status` for the reason"
    )]
    Frozen,
    /// Too many are on their way.
    #[error("too many tables are on their way out; ask again in a while")]
    TooMany,
    /// It takes long.
    #[error(
        "the table is being given up, but that is not durable yet; see `nat64handoff status` for the reason"
    )]
    Late,
}

/// The tables of a NAT64, with the number of their reactor.
///
/// # Errors
/// Where a reactor does not answer.
async fn find(shared: &AdminShared, nat64: Ipv4Addr) -> Result<Vec<(usize, TableKey)>, NoAnswer> {
    let mut found = Vec::new();
    for reactor in 0..shared.desks.len() {
        let mut below = Some(usize::MAX);
        while let Some(place) = below {
            let read = |inquiry: &Inquiry| {
                found.extend(inquiry.found.iter().map(|&key| (reactor, key)));
                inquiry.next
            };
            below = shared.ask(reactor, Question::Find(nat64, place), read).await?;
        }
    }
    // One that moved meanwhile was found twice.
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// What a NAT64's tables have. `None`: it has none.
///
/// # Errors
/// Where a reactor does not answer.
pub async fn entries(
    shared: &AdminShared,
    nat64: Ipv4Addr,
    clients: Option<Ipv6Net>,
) -> Result<Option<TableReport>, NoAnswer> {
    let mut tables = Vec::new();
    for (reactor, key) in find(shared, nat64).await? {
        let mut entries = Vec::new();
        let mut from = Some(0);
        while let Some(place) = from {
            let question = Question::Entries(key, place);
            let is_asked = |entry: &&Entry| {
                clients.is_none_or(|clients| clients.contains(&entry.client.address))
            };
            from = shared
                .ask(reactor, question, |inquiry| {
                    entries.extend(inquiry.entries.iter().filter(is_asked).map(entry_status));
                    inquiry.next
                })
                .await?;
        }
        entries.sort_unstable_by_key(|entry: &EntryStatus| entry.port);
        tables.push(TableEntries { local: key.local.to_string(), entries });
    }
    let time = rfc3339(shared.clock.now().wall);
    let is_there = !tables.is_empty();
    Ok(is_there.then(|| TableReport { nat64: nat64.to_string(), time, tables }))
}

/// An entry, as it is told.
pub fn entry_status(entry: &Entry) -> EntryStatus {
    EntryStatus {
        port: entry.port.0,
        client: entry.client.address.to_string(),
        client_port: entry.client.port,
        prefix: entry.client.prefix.to_string(),
    }
}

/// All identities, of at most so many tables.
///
/// # Errors
/// Where a reactor does not answer.
pub async fn identities(shared: &AdminShared, most: usize) -> Result<IdentitiesReport, NoAnswer> {
    let survey = shared.state.surveys.lock().await.take(shared).await?;
    let now = shared.clock.now();
    let mut tables: Vec<_> = survey.tables.values().map(|table| &table.seen).collect();
    tables.sort_unstable_by_key(|seen| (seen.key.nat64, seen.key.local));
    let tables_all = tables.len();
    let tables = tables.into_iter().take(most).map(|seen| TableIdentities {
        nat64: seen.key.nat64.to_string(),
        local: seen.key.local.to_string(),
        identities: seen.identities().iter().map(|each| identity_status(each, now)).collect(),
    });
    Ok(IdentitiesReport { time: rfc3339(now.wall), tables: tables.collect(), tables_all })
}

/// Gives up the tables of a NAT64, and returns when that is durable.
///
/// # Errors
/// Why they did not go.
pub async fn drop_all(shared: &AdminShared, nat64: Ipv4Addr) -> Result<DropReport, NotDropped> {
    let found = find(shared, nat64).await?;
    if found.is_empty() {
        return Err(NotDropped::NoTable(nat64));
    }
    let drops = found.iter().map(|&(reactor, key)| drop_one(shared, reactor, key));
    let dropped = join_all(drops).await;
    let mut tables = Vec::new();
    for ((_, key), entries) in found.iter().zip(dropped) {
        tables.push(DroppedEntries { local: key.local.to_string(), entries: entries? });
    }
    // What is known of it is out of date.
    shared.state.surveys.lock().await.clear();
    Ok(DropReport { nat64: nat64.to_string(), tables })
}

/// Returns how many entries went with it.
async fn drop_one(shared: &AdminShared, reactor: usize, key: TableKey) -> Result<u64, NotDropped> {
    if shared.ask(reactor, Question::Alive, |inquiry| inquiry.frozen).await?.is_some() {
        return Err(NotDropped::Frozen);
    }
    let order = shared.ask(reactor, Question::Drop(key), |inquiry| inquiry.order).await;
    // Who does not answer may have heard it.
    let order = order.map_err(|_| NotDropped::Late)?.ok_or(NotDropped::TooMany)?;
    let gone = async {
        loop {
            let gone = shared.ask(reactor, Question::Dropped(order), |inquiry| {
                inquiry.dropped.filter(|dropped| dropped.record <= inquiry.durable)
            });
            if let Some(dropped) = gone.await? {
                return Ok::<_, NoAnswer>(dropped.entries);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if let Ok(Ok(entries)) = tokio::time::timeout(GONE_WAIT, gone).await {
        return Ok(entries);
    }
    // It must not go by itself, hours later.
    match shared.ask(reactor, Question::Revoke(order), |inquiry| inquiry.revoked).await {
        Ok(true) => Err(NotDropped::Frozen),
        Ok(false) | Err(NoAnswer) => Err(NotDropped::Late),
    }
}
