//! The live connections of the host, as the kernel would tell a process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nat64handoff::handoff::entry::TableKey;
use nat64handoff::handoff::ports::PortSet;
use nat64handoff::handoff::server::LiveConnections;
use nat64handoff::handoff::table::LivePorts;

/// The live TCP connections of the host, as the kernel would tell them.
pub type LiveTable = HashMap<TableKey, Vec<u16>>;

#[derive(Default)]
pub struct LiveShared {
    /// Another one whenever it changes.
    poll: AtomicU64,
    table: Mutex<LiveTable>,
}

/// What a shard knows of them.
pub struct SimLive {
    shared: Arc<LiveShared>,
    poll: u64,
    ports: HashMap<TableKey, PortSet>,
}

impl LiveShared {
    /// From now on there are these.
    pub fn set(&self, table: LiveTable) {
        *self.table.lock().unwrap() = table;
        self.poll.fetch_add(1, Ordering::Relaxed);
    }

    /// For a shard.
    pub fn view(self: &Arc<Self>) -> SimLive {
        SimLive { shared: Arc::clone(self), poll: u64::MAX, ports: HashMap::new() }
    }
}

impl LiveConnections for SimLive {
    fn of(&mut self, table: TableKey) -> Option<LivePorts<'_>> {
        let poll = self.shared.poll.load(Ordering::Relaxed);
        if self.poll != poll {
            let all = self.shared.table.lock().unwrap();
            let set = |(&key, ports): (&TableKey, &Vec<u16>)| (key, PortSet::new(ports.clone()));
            (self.poll, self.ports) = (poll, all.iter().map(set).collect());
        }
        let ports = self.ports.get(&table)?;
        Some(LivePorts { poll: self.poll, ports })
    }
}
