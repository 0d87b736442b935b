//! Hosts ask each other for live connections, and tell them: see [`CellLive`].

use std::rc::Rc;

use tokio::time::{Instant, timeout_at};

use super::thread::Fleet;
use crate::disk::fleet::FleetEngine;
use crate::handoff::entry::TableKey;
use crate::handoff::ownership::{CellLive, HostWord, LivePart, WANTED_AT_ONCE, WantedTables};
use crate::programs::serve::live::LiveAnswer;

impl<E: FleetEngine + 'static> Fleet<E> {
    /// Asks the other hosts now and then for what is wanted here, and tells them what they want as
    /// soon as that is known.
    pub(super) async fn tells_live(self: Rc<Self>, key: [u8; 16]) {
        let live = &self.place.live;
        let mut due = Instant::now();
        loop {
            let _ = timeout_at(due, live.notified()).await;
            let is_due = Instant::now() >= due;
            if is_due {
                due = Instant::now() + CellLive::ASKED_EACH;
            }
            let (asks, answers) = (live.take_asks(is_due), live.take_answers());
            self.asks_for(&key, &asks).await;
            self.answers(&key, &answers).await;
        }
    }

    async fn asks_for(&self, key: &[u8; 16], tables: &[TableKey]) {
        let number = self.next_number();
        let hosts: Vec<_> = self.hosts.borrow().values().copied().collect();
        for tables in tables.chunks(WANTED_AT_ONCE) {
            let mut octets = Vec::new();
            let Some(tables) = WantedTables::of(tables, &mut octets) else { continue };
            let datagram = self.datagram(key, number, HostWord::WantsLive(tables));
            for to in &hosts {
                // One that is lost is as one that the network loses.
                let _ = self.socket.send_to(&datagram, to).await;
            }
        }
    }

    async fn answers(&self, key: &[u8; 16], answers: &[LiveAnswer]) {
        let number = self.next_number();
        for LiveAnswer { table, ports, to } in answers {
            let mut datagrams = Vec::new();
            LivePart::each_of(*table, ports, |part| {
                datagrams.push(self.datagram(key, number, HostWord::Live(part)));
            });
            let to: Vec<_> = {
                let hosts = self.hosts.borrow();
                to.iter().filter_map(|host| hosts.get(host).copied()).collect()
            };
            for (to, datagram) in to.iter().flat_map(|to| datagrams.iter().map(move |it| (to, it)))
            {
                // As above.
                let _ = self.socket.send_to(datagram, to).await;
            }
        }
    }
}
