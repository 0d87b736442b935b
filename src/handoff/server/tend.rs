//! [`Tending`]: what a shard does besides answering. Where a newcomer found no room, the shard
//! looks for its least worthy table, and gives it up if no other shard has a less worthy one
//! (PROTOCOL.md section 5).
//!
//! A table is given up over several turns, so that no request waits long: first its identities are
//! forgotten, so that nobody is answered from it any more, then its entries are deleted, some at a
//! time, and in the end it is forgotten itself. Its room is free when what was recorded about that
//! is written.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::batch::{LiveConnections, Outbox};
use super::budget::Budget;
use super::channel::Channel;
use super::channels::{Channels, hash_of};
use super::exchange::{Shared, record};
use super::worth::{Merits, Newcomer, Worth};
use crate::handoff::change::Change;
use crate::handoff::entry::TableKey;
use crate::handoff::stats::Counter;

/// The most events that tending leads to at a time.
pub const TEND_EVENTS: usize = DELETED_MAX + 1;
/// The most entries that are deleted at a time.
const DELETED_MAX: usize = 256;
/// The most tables that are looked at at a time.
const LOOKS_MAX: usize = 64;
/// The least worthy tables that one round of looks finds, and for how long they are good for.
const CANDIDATES_MAX: usize = 64;
const CANDIDATES_KEPT: Duration = Duration::from_secs(10);
/// The same, where none of them may go.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The most orders of an operator that wait.
const ORDERS_MAX: usize = 16;

/// Where live connections are not known, they are waited for this long before a table is given up,
/// or an entry is taken from one...
const LIVE_AWAITED: Duration = Duration::from_secs(3);
/// ...and as long again from this time on, as by then nobody may know them any more because nobody
/// asked.
const AWAITED_KEPT: Duration = Duration::from_secs(60);

/// While a shard has something to do, it is tended this often also if no datagram comes...
const BUSY_EVERY: Duration = Duration::from_millis(2);
/// ...and this often while a newcomer is waited for...
const WANTED_EVERY: Duration = Duration::from_millis(20);
/// ...and this often where a newcomer may find no room, by another shard...
const LIMIT_EVERY: Duration = Duration::from_secs(1);
/// ...and this often where that is not so yet.
const IDLE_EVERY: Duration = Duration::from_secs(10);

/// A table that is being given up.
#[derive(Debug, Clone, Copy)]
struct Going {
    table: TableKey,
    newcomer: Newcomer,
    /// The order of the operator who wants that, if it is one.
    order: Option<u64>,
    /// Entries that were deleted so far.
    deleted: u64,
}

/// A table that went because an operator wanted it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedTable {
    /// What `Server::drop_table` returned.
    pub order: u64,
    /// Entries that were deleted with it.
    pub entries: u64,
    /// The record that says so: it has gone for good when that is durable.
    pub record: u64,
}

/// The tables that an operator wants to be given up.
#[derive(Debug, Default)]
struct Orders {
    /// Those that wait, first in, first out, at most [`ORDERS_MAX`].
    waiting: VecDeque<(u64, TableKey)>,
    /// The number of the last order.
    last: u64,
    /// What was carried out last, at most [`ORDERS_MAX`].
    done: VecDeque<DroppedTable>,
}

impl Orders {
    fn is_done(&mut self, dropped: DroppedTable) {
        if self.done.len() == ORDERS_MAX {
            self.done.pop_front();
        }
        self.done.push_back(dropped);
    }
}

/// What one shard knows of its least worthy tables.
#[derive(Debug)]
pub struct Tending {
    shard: usize,
    /// The table that was looked at last, and how many are left in this round.
    hand: usize,
    left: usize,
    /// When the round ended.
    looked: Option<Duration>,
    /// The least worthy tables that it found, the least first.
    candidates: Vec<(Worth, TableKey)>,
    /// Since when it is not known who has a live connection.
    unknown: Option<Duration>,
    going: Option<Going>,
    /// It is gone, and its place is free when this is written.
    gone: Option<Going>,
    fair: Fairness,
    orders: Orders,
    /// Whether entries are given back next, also while a table is going.
    is_fair_turn: bool,
}

/// What one shard knows of tables that have more entries than their share.
#[derive(Debug, Default)]
struct Fairness {
    /// The table that was looked at last.
    hand: usize,
    /// Tables that were looked at since one gave something back.
    in_vain: usize,
    /// When they were all looked at in vain.
    looked: Option<Duration>,
    /// Since when the live connections of a table are waited for.
    awaited: BTreeMap<TableKey, Duration>,
}

impl Tending {
    /// For the shard with this number.
    pub fn new(shard: usize) -> Self {
        let (looked, candidates, unknown, going, gone) = (None, Vec::new(), None, None, None);
        let fair = Fairness::default();
        Self {
            shard,
            hand: 0,
            left: 0,
            looked,
            candidates,
            unknown,
            going,
            gone,
            fair,
            orders: Orders::default(),
            is_fair_turn: false,
        }
    }

    /// Whether `table` is being given up.
    pub fn is_going(&self, table: TableKey) -> bool {
        self.going.is_some_and(|going| going.table == table)
    }

    fn is_busy(&self) -> bool {
        self.going.is_some() || self.gone.is_some() || !self.orders.waiting.is_empty()
    }

    /// A table is to be given up. Returns the number of this order, or nothing where too many wait.
    pub fn order(&mut self, table: TableKey) -> Option<u64> {
        let orders = &mut self.orders;
        (orders.waiting.len() < ORDERS_MAX).then(|| {
            orders.last += 1;
            orders.waiting.push_back((orders.last, table));
            orders.last
        })
    }

    /// Takes an order back. Returns false where it was begun, or carried out.
    pub fn revoke(&mut self, order: u64) -> bool {
        let waiting = &mut self.orders.waiting;
        let before = waiting.len();
        waiting.retain(|(number, _)| *number != order);
        waiting.len() < before
    }

    /// What came of an order.
    pub fn carried_out(&self, order: u64) -> Option<DroppedTable> {
        self.orders.done.iter().find(|done| done.order == order).copied()
    }

    /// Whether [`Tending::tend`] has anything to do now.
    pub fn has_work(&self, budget: &Budget) -> bool {
        self.is_busy() || budget.room.was_wanted() || budget.fair.was_wanted()
    }

    /// When the next [`Tending::tend`] is due, if no datagram comes before.
    pub fn due(&self, budget: &Budget, tables: usize) -> Option<Duration> {
        let is_wanted = budget.room.was_wanted() || budget.fair.was_wanted();
        if self.is_busy() || (budget.room.was_wanted() && self.left > 0) {
            Some(BUSY_EVERY)
        } else if is_wanted {
            Some(WANTED_EVERY)
        } else if budget.is_at_limit() || (tables > 0 && budget.is_nearly_full()) {
            Some(LIMIT_EVERY)
        } else {
            (tables > 0).then_some(IDLE_EVERY)
        }
    }

    /// Does what is to be done now, and leaves at most [`TEND_EVENTS`] events in `outbox`. To be
    /// called when the changes of the call before are written.
    pub fn tend(
        &mut self,
        now: Duration,
        number: u64,
        channels: &mut Channels,
        live: &mut dyn LiveConnections,
        outbox: &mut Outbox,
        shared: &mut Shared,
    ) {
        if let Some(Going { table, newcomer, .. }) = self.gone.take() {
            shared.budget.give_up(table.nat64, newcomer);
        }
        if self.going.is_none()
            && let Some((order, table)) = self.orders.waiting.pop_front()
        {
            let (newcomer, order) = (Newcomer::Connected, Some(order));
            self.going = Some(Going { table, newcomer, order, deleted: 0 });
        }
        if self.going.is_none() {
            self.choose(now, channels, live, shared);
        }
        // A large table goes for long, and others wait for entries meanwhile.
        self.is_fair_turn = !self.is_fair_turn && shared.budget.gives_above(now).is_some();
        match self.going {
            Some(going) if !self.is_fair_turn => {
                self.give_up(going, number, channels, outbox, shared);
            }
            _ => self.fair.tend(now, channels, live, outbox, shared),
        }
    }

    /// Chooses a table to give up, if one is to be given up here.
    fn choose(
        &mut self,
        now: Duration,
        channels: &Channels,
        live: &mut dyn LiveConnections,
        shared: &Shared,
    ) {
        let budget = &*shared.budget;
        budget.room.forget(now);
        let Some(newcomer) = budget.wants_room(now) else { return };
        if !self.knows_connected(now, channels, live) {
            // Those that were looked at already are looked at again.
            self.left = 0;
            return;
        }
        if !self.look(now, newcomer, channels, live, budget) {
            return;
        }
        let Some((worth, table)) = self.first(now, channels, live, shared) else {
            return budget.room.offer(self.shard, now, Worth::NONE);
        };
        budget.room.offer(self.shard, now, worth);
        let since = self.looked.unwrap_or(now);
        if worth.goes_for(newcomer)
            && budget.room.is_least(self.shard, worth, now, since)
            && budget.room.take_turn(now, newcomer)
        {
            self.candidates.remove(0);
            self.going = Some(Going { table, newcomer, order: None, deleted: 0 });
        }
    }

    /// Whether it is known who has a live connection, or was waited for long enough. To ask has it
    /// looked up.
    fn knows_connected(
        &mut self,
        now: Duration,
        channels: &Channels,
        live: &mut dyn LiveConnections,
    ) -> bool {
        if channels.nth(0).is_none_or(|(table, _)| live.any(table).is_some()) {
            self.unknown = None;
            return true;
        }
        has_waited(self.unknown.get_or_insert(now), now)
    }

    /// Looks at some tables, and returns whether the candidates are known.
    fn look(
        &mut self,
        now: Duration,
        newcomer: Newcomer,
        channels: &Channels,
        live: &mut dyn LiveConnections,
        budget: &Budget,
    ) -> bool {
        if let Some(looked) = self.looked {
            let goes = self.candidates.first().is_some_and(|first| first.0.goes_for(newcomer));
            let kept = if goes { CANDIDATES_KEPT } else { LOOK_AGAIN };
            if now.saturating_sub(looked) < kept {
                return true;
            }
            self.looked = None;
        }
        if self.left == 0 {
            self.candidates.clear();
            self.left = channels.len();
        }
        for _ in 0..LOOKS_MAX.min(self.left) {
            self.left -= 1;
            self.hand = after(self.hand, channels.len());
            let Some((table, channel)) = channels.nth(self.hand) else { continue };
            if let Some(worth) = worth(now, table, channel, live, budget) {
                self.add(worth, table);
            }
        }
        if self.left == 0 {
            self.looked = Some(now);
        }
        self.left == 0
    }

    fn add(&mut self, worth: Worth, table: TableKey) {
        let at = self.candidates.partition_point(|other| *other < (worth, table));
        // A table that went while the others were looked at moved another one to its place.
        if at < CANDIDATES_MAX && self.candidates.get(at) != Some(&(worth, table)) {
            self.candidates.insert(at, (worth, table));
            self.candidates.truncate(CANDIDATES_MAX);
        }
    }

    /// The first candidate that is worth no more than when it was looked at.
    fn first(
        &mut self,
        now: Duration,
        channels: &Channels,
        live: &mut dyn LiveConnections,
        Shared { budget, hash, .. }: &Shared,
    ) -> Option<(Worth, TableKey)> {
        while let Some(&(then, table)) = self.candidates.first() {
            let number = channels.find(hash_of(hash, table), table);
            let worth = number.and_then(|at| worth(now, table, channels.get(at), live, budget));
            if worth.is_some_and(|worth| worth <= then) {
                return Some((then, table));
            }
            self.candidates.remove(0);
        }
        None
    }

    /// Gives up a table, or some of its entries.
    fn give_up(
        &mut self,
        mut going: Going,
        number: u64,
        channels: &mut Channels,
        outbox: &mut Outbox,
        shared: &Shared,
    ) {
        let (table, stats, budget) = (going.table, &shared.stats, &shared.budget);
        let hash = hash_of(&shared.hash, table);
        let Some(channel) = channels.find_mut(None, hash, table) else {
            self.going = None;
            // What an operator wanted to go had gone by itself, in an earlier record.
            return self.ends(going, number.saturating_sub(1));
        };
        while let Some(change) = channel.next_identity() {
            channel.apply(&change, number);
            record(stats, outbox, table, change);
        }
        let before = channel.table().len();
        for change in channel.table().deletions(DELETED_MAX) {
            channel.apply(&change, number);
            record(stats, outbox, table, change);
        }
        going.deleted += (before - channel.table().len()) as u64;
        budget.entries_changed(before, channel.table().len());
        self.going = Some(going);
        if channel.table().is_empty() {
            channels.remove(&shared.hash, table);
            self.fair.awaited.remove(&table);
            match going.order {
                Some(_) => {
                    stats.add(Counter::TablesDropped, 1);
                    outbox.changes.push((table, Change::Forgotten));
                }
                None => record(stats, outbox, table, Change::Forgotten),
            }
            (self.going, self.gone) = (None, Some(going));
            self.ends(going, number);
        }
    }

    /// A table has gone, as this record says.
    fn ends(&mut self, Going { order, deleted, .. }: Going, record: u64) {
        if let Some(order) = order {
            self.orders.is_done(DroppedTable { order, entries: deleted, record });
        }
    }
}

impl Fairness {
    /// Has tables with more than their share give entries back, where others want them.
    fn tend(
        &mut self,
        now: Duration,
        channels: &mut Channels,
        live: &mut dyn LiveConnections,
        outbox: &mut Outbox,
        Shared { budget, stats, .. }: &Shared,
    ) {
        budget.fair.forget(now);
        let Some(share) = budget.gives_above(now) else { return };
        if self.looked.is_some_and(|looked| now.saturating_sub(looked) < LOOK_AGAIN) {
            return;
        }
        self.looked = None;
        let (mut left, common) = (DELETED_MAX, budget.fair.common());
        for _ in 0..LOOKS_MAX.min(channels.len()) {
            self.in_vain += 1;
            self.hand = after(self.hand, channels.len());
            let Some((table, channel)) = channels.nth_mut(self.hand) else { continue };
            if channel.table().len() <= share {
                continue;
            }
            let live = live.of(table);
            if live.is_some() {
                self.awaited.remove(&table);
            } else if !has_waited(self.awaited.entry(table).or_insert(now), now) {
                continue;
            }
            while left > 0 && channel.table().len() > share && budget.entries() > common {
                let buckets = &mut channel.buckets;
                if !channel.table.evict(live, |change| {
                    buckets.changed(&change);
                    record(stats, outbox, table, change);
                }) {
                    break;
                }
                self.in_vain = 0;
                left -= 1;
                budget.give_entry();
            }
            if self.in_vain == 0 {
                // To choose entries of another one takes as long again.
                break;
            }
        }
        if self.in_vain >= channels.len() {
            (self.in_vain, self.looked) = (0, Some(now));
        }
    }
}

/// The number after `hand` of so many tables, in turn.
fn after(hand: usize, tables: usize) -> usize {
    if hand + 1 < tables { hand + 1 } else { 0 }
}

/// Whether what is waited for `since` that time was waited for long enough.
fn has_waited(since: &mut Duration, now: Duration) -> bool {
    if now.saturating_sub(*since) >= AWAITED_KEPT {
        *since = now;
    }
    now.saturating_sub(*since) >= LIVE_AWAITED
}

fn worth(
    now: Duration,
    table: TableKey,
    channel: &Channel,
    live: &mut dyn LiveConnections,
    budget: &Budget,
) -> Option<Worth> {
    let merits = Merits {
        is_crowded: budget.crowds.is_over(table.nat64, 0),
        is_live: live.any(table),
        unused: now.saturating_sub(channel.last_used()),
        age: now.saturating_sub(channel.since),
        entries: channel.table().len(),
    };
    Worth::of(merits, now)
}
