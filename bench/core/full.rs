//! What each new client takes in a full table in which all entries are live but a few, where the
//! connections are polled anew for every 64th of them: a search for entries that can go is the
//! longest that any request holds up others.
//!
//! The same clients come again and again to a table made anew, and what counts is the shortest time
//! of each: where cores are busy with other things, a time can only be too long.

use std::time::{Duration, Instant};

use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::ports::{PortSet, TABLE_CAPACITY};
use nat64handoff::handoff::server::LiveConnections;
use nat64handoff::handoff::table::LivePorts;

use crate::requests::Requests;
use crate::shard::{Shape, Shard, client};

/// New clients for each poll of the connections.
pub const POLLED_EVERY: u32 = 64;
const CLIENTS: usize = 4096;
const ROUNDS: usize = 5;
pub const SHAPES: [Shape; 2] = [Shape::FourPorts, Shape::Heavy];

/// What new clients take.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub average: Duration,
    pub longest: Duration,
}

/// All entries are live but those on the ports that can go.
struct Polled {
    asked: u32,
    live: Option<PortSet>,
}

impl LiveConnections for Polled {
    fn of(&mut self, _: TableKey) -> Option<LivePorts<'_>> {
        let poll = u64::from(self.asked / POLLED_EVERY);
        self.asked += 1;
        self.live.as_ref().map(|ports| LivePorts { poll, ports })
    }
}

/// `can_go`: how many entries can go, or `None` where nothing is known of connections.
pub fn taken(shape: Shape, can_go: Option<usize>) -> Taken {
    let mut least = vec![Duration::MAX; CLIENTS];
    let mut batch = Requests::new(1);
    for _ in 0..ROUNDS {
        let mut shard = Shard::new(shape, 1, TABLE_CAPACITY);
        shard.fill();
        shard.use_all();
        let live = can_go.map(|can_go| {
            let can_go = &shard.ports[..can_go];
            PortSet::new((0..=u16::MAX).filter(|port| !can_go.contains(port)).collect())
        });
        let mut live = Polled { asked: 0, live };
        for (number, least) in least.iter_mut().enumerate() {
            batch.clear();
            batch.client_packet(0, &client(0x1_0000, number, 40_000));
            let begin = Instant::now();
            shard.answer_with(&mut batch, &mut live);
            *least = (*least).min(begin.elapsed());
            assert_eq!(shard.outbox.changes.len(), 3, "one goes, one comes, with an authenticator");
        }
    }
    let sum: Duration = least.iter().sum();
    let longest = least.iter().max().copied().unwrap_or_default();
    Taken { average: sum / CLIENTS as u32, longest }
}
