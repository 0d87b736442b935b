//! What `top` shows, and what keys do.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use crate::programs::report::{EntryStatus, Status, TableReport, TableStatus};

/// How many seconds of rates are kept.
pub const RATES_MAX: usize = 600;
/// The same, of each table.
pub const TREND_MAX: usize = 24;
/// Lines that a page goes on.
const PAGE: isize = 20;

/// What the server is asked for, besides its status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopWanted {
    /// The address of a NAT64.
    pub table: Option<String>,
}

/// What tables are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopOrder {
    Address,
    Local,
    #[default]
    Entries,
    Live,
    Requests,
    Created,
    Seen,
}

impl TopOrder {
    /// All, with their keys and what stands above the column.
    pub const ALL: [(char, TopOrder, &'static str); 7] = [
        ('a', Self::Address, "NAT64"),
        ('l', Self::Local, "to"),
        ('e', Self::Entries, "entries"),
        ('o', Self::Live, "open"),
        ('r', Self::Requests, "requests"),
        ('c', Self::Created, "new"),
        ('s', Self::Seen, "seen"),
    ];
}

/// A table, by the address of its NAT64 and that of the server.
pub type TopKey = (String, String);

/// Rates, a second each.
#[derive(Debug, Default)]
pub struct TopRates {
    pub requests: VecDeque<f64>,
    pub created: VecDeque<f64>,
    pub drops: VecDeque<f64>,
}

/// All that is shown.
#[derive(Debug, Default)]
pub struct TopView {
    /// As it was last told.
    pub status: Status,
    /// When that was. None: never.
    told: Option<Instant>,
    /// Why it is not told now.
    pub trouble: Option<String>,
    pub rates: TopRates,
    /// Requests of each table, a second each.
    pub trends: HashMap<TopKey, VecDeque<f64>>,
    pub order: TopOrder,
    pub is_reversed: bool,
    /// The table that is chosen.
    pub chosen: Option<TopKey>,
    /// Whether its entries are shown.
    pub is_inside: bool,
    /// Its entries, and how many lines are above those that are shown.
    pub entries: Vec<EntryStatus>,
    pub above: usize,
    /// Whether the entries were told since they are shown.
    pub is_told: bool,
}

impl TopView {
    /// What the server said, or why it did not.
    pub fn take_status(&mut self, answer: Result<Status, String>, now: Instant) {
        let status = match answer {
            Ok(status) => status,
            Err(trouble) => {
                self.trouble = Some(trouble);
                return;
            }
        };
        let elapsed = self.told.map(|told| now.saturating_duration_since(told).as_secs_f64());
        // Another process counts from 0 on.
        let before = elapsed
            .filter(|_| self.status.process == status.process && self.status.since == status.since);
        if let Some(elapsed) = before.filter(|&elapsed| elapsed > 0.1) {
            let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / elapsed;
            let total =
                |status: &Status, name: &str| status.counters.get(name).map_or(0, |c| c.total);
            let counted = |name: &str| rate(total(&status, name), total(&self.status, name));
            push(&mut self.rates.requests, counted("datagrams"), RATES_MAX);
            push(&mut self.rates.created, counted("created"), RATES_MAX);
            let drops = |status: &Status| status.drops.iter().map(|drop| drop.total).sum();
            push(&mut self.rates.drops, rate(drops(&status), drops(&self.status)), RATES_MAX);
        }
        // Those that are gone are forgotten, so there are as many as there are tables.
        let mut before = std::mem::take(&mut self.trends);
        for table in &status.tables {
            let mut trend = before.remove(&key_of(table)).unwrap_or_default();
            push(&mut trend, table.requests.per_second, TREND_MAX);
            self.trends.insert(key_of(table), trend);
        }
        (self.status, self.told, self.trouble) = (status, Some(now), None);
        self.sort();
    }

    /// The entries of the NAT64 that is looked into.
    pub fn take_table(&mut self, report: Option<TableReport>) {
        let Some((nat64, local)) = &self.chosen else { return };
        let Some(report) = report.filter(|report| self.is_inside && report.nat64 == *nat64) else {
            return;
        };
        let table = report.tables.into_iter().find(|table| table.local == *local);
        self.entries = table.map(|table| table.entries).unwrap_or_default();
        self.above = self.above.min(self.entries.len().saturating_sub(1));
        self.is_told = true;
    }

    /// How long ago the server said what is shown.
    pub fn age(&self, now: Instant) -> Duration {
        self.told.map_or(Duration::ZERO, |told| now.saturating_duration_since(told))
    }

    pub fn wanted(&self) -> TopWanted {
        let inside = self.chosen.as_ref().filter(|_| self.is_inside);
        TopWanted { table: inside.map(|(nat64, _)| nat64.clone()) }
    }

    /// Where the chosen table is in the list.
    pub fn place(&self) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        self.status.tables.iter().position(|table| key_of(table) == *chosen)
    }

    /// Returns whether it is the end.
    pub fn key(&mut self, key: KeyCode, modifiers: KeyModifiers) -> bool {
        let is_control = modifiers.contains(KeyModifiers::CONTROL);
        match key {
            KeyCode::Char('c' | 'd') if is_control => return true,
            KeyCode::Char('q') => return true,
            KeyCode::Esc if !self.is_inside => return true,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => self.is_inside = false,
            KeyCode::Enter | KeyCode::Right => self.look_inside(),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::PageUp => self.go(-PAGE),
            KeyCode::PageDown | KeyCode::Char(' ') => self.go(PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.go(isize::MIN / 2),
            KeyCode::End | KeyCode::Char('G') => self.go(isize::MAX / 2),
            KeyCode::Char(letter) => self.sort_by(letter),
            _ => {}
        }
        false
    }

    fn look_inside(&mut self) {
        if self.chosen.is_none() {
            self.go(0);
        }
        if !self.is_inside && self.chosen.is_some() {
            (self.is_inside, self.is_told, self.above) = (true, false, 0);
            self.entries.clear();
        }
    }

    fn go(&mut self, lines: isize) {
        let within = |place: usize, count: usize| {
            let last = count.saturating_sub(1).cast_signed();
            place.cast_signed().saturating_add(lines).clamp(0, last).cast_unsigned()
        };
        if self.is_inside {
            self.above = within(self.above, self.entries.len());
            return;
        }
        let place = match self.place() {
            Some(place) => within(place, self.status.tables.len()),
            // The first line is chosen first.
            None => 0,
        };
        self.chosen = self.status.tables.get(place).map(key_of);
    }

    fn sort_by(&mut self, letter: char) {
        let Some((_, order, _)) = TopOrder::ALL.iter().find(|(key, ..)| *key == letter) else {
            return;
        };
        self.is_reversed = self.order == *order && !self.is_reversed;
        self.order = *order;
        self.sort();
    }

    fn sort(&mut self) {
        let by = |a: &TableStatus, b: &TableStatus| match self.order {
            TopOrder::Address => address(&a.nat64).cmp(&address(&b.nat64)),
            TopOrder::Local => address(&a.local).cmp(&address(&b.local)),
            TopOrder::Entries => b.entries.used.cmp(&a.entries.used),
            TopOrder::Live => b.live_connections.cmp(&a.live_connections),
            TopOrder::Requests => b.requests.per_second.total_cmp(&a.requests.per_second),
            TopOrder::Created => b.created.per_second.total_cmp(&a.created.per_second),
            TopOrder::Seen => a.last_seen_seconds.total_cmp(&b.last_seen_seconds),
        };
        let is_reversed = self.is_reversed;
        let same = |a: &TableStatus, b: &TableStatus| {
            (address(&a.nat64), address(&a.local)).cmp(&(address(&b.nat64), address(&b.local)))
        };
        self.status.tables.sort_by(|a, b| {
            let order = if is_reversed { by(b, a) } else { by(a, b) };
            order.then_with(|| same(a, b))
        });
    }
}

/// As numbers, not as texts.
fn address(text: &str) -> Result<std::net::IpAddr, &str> {
    text.parse().map_err(|_| text)
}

pub fn key_of(table: &TableStatus) -> TopKey {
    (table.nat64.clone(), table.local.clone())
}

fn push(values: &mut VecDeque<f64>, value: f64, most: usize) {
    values.push_back(value);
    while values.len() > most {
        values.pop_front();
    }
}

/// A small picture of values, the newest at the right end.
pub fn trend(values: &VecDeque<f64>) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().max_by(f64::total_cmp).filter(|&most| most > 0.0);
    let bar = |value: &f64| match most {
        // At most 7.
        Some(most) => BARS[(value / most * 7.0) as usize % BARS.len()],
        None => BARS[0],
    };
    values.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::report::{Capacity, Rated, TableEntries};

    fn table(nat64: &str, entries: u64, requests: f64) -> TableStatus {
        TableStatus {
            nat64: nat64.to_owned(),
            local: "203.0.113.5".to_owned(),
            entries: Capacity { used: entries, max: 64_508 },
            requests: Rated { total: 1, per_second: requests },
            ..TableStatus::default()
        }
    }

    fn status(datagrams: u64) -> Status {
        let counters = [("datagrams".to_owned(), Rated { total: datagrams, per_second: 0.0 })];
        Status {
            counters: counters.into(),
            tables: vec![
                table("192.0.2.9", 3, 5.0),
                table("192.0.2.10", 7, 1.0),
                table("192.0.2.7", 7, 9.0),
            ],
            ..Status::default()
        }
    }

    fn view() -> (TopView, Instant) {
        let (mut view, now) = (TopView::default(), crate::kernel::clock::instant());
        view.take_status(Ok(status(100)), now);
        (view, now)
    }

    fn last_octets(view: &TopView) -> Vec<&str> {
        view.status.tables.iter().map(|table| table.nat64.rsplit('.').next().unwrap()).collect()
    }

    fn types(view: &mut TopView, keys: &str) -> bool {
        keys.chars().any(|key| view.key(KeyCode::Char(key), KeyModifiers::NONE))
    }

    #[test]
    fn tables_are_sorted_by_what_is_asked_for() {
        let (mut view, _) = view();
        assert_eq!(last_octets(&view), ["7", "10", "9"], "by entries, then by address");
        types(&mut view, "r");
        assert_eq!(last_octets(&view), ["7", "9", "10"]);
        types(&mut view, "r");
        assert_eq!(last_octets(&view), ["10", "9", "7"], "the other way round");
        types(&mut view, "a");
        assert_eq!(last_octets(&view), ["7", "9", "10"]);
        types(&mut view, "z");
        assert_eq!(last_octets(&view), ["7", "9", "10"], "no key");
    }

    #[test]
    fn what_is_chosen_stays_chosen() {
        let (mut view, now) = view();
        types(&mut view, "j");
        assert_eq!(view.place(), Some(0));
        types(&mut view, "jjjjj");
        assert_eq!(view.chosen.as_ref().unwrap().0, "192.0.2.9");
        types(&mut view, "r");
        assert_eq!(
            (view.chosen.as_ref().unwrap().0.as_str(), view.place()),
            ("192.0.2.9", Some(1))
        );
        let mut without = status(100);
        without.tables.remove(0);
        view.take_status(Ok(without), now);
        assert_eq!(view.place(), None, "it is gone");
        types(&mut view, "k");
        assert_eq!(view.place(), Some(0));
    }

    #[test]
    fn a_table_is_looked_into() {
        let (mut view, _) = view();
        assert_eq!(view.wanted(), TopWanted::default());
        view.key(KeyCode::Enter, KeyModifiers::NONE);
        assert_eq!(view.wanted().table.as_deref(), Some("192.0.2.7"));
        let entries = (0..50).map(|port| EntryStatus { port, ..EntryStatus::default() }).collect();
        let of = |nat64: &str| TableReport {
            nat64: nat64.to_owned(),
            tables: vec![TableEntries { local: "203.0.113.5".to_owned(), entries }],
            ..TableReport::default()
        };
        view.take_table(Some(of("192.0.2.7")));
        assert_eq!((view.entries.len(), view.is_told), (50, true));
        view.take_table(Some(TableReport {
            nat64: "192.0.2.8".to_owned(),
            ..TableReport::default()
        }));
        assert_eq!(view.entries.len(), 50, "of another one");
        types(&mut view, "G");
        assert_eq!(view.above, 49);
        assert!(!view.key(KeyCode::Esc, KeyModifiers::NONE) && !view.is_inside, "back");
        assert!(view.key(KeyCode::Esc, KeyModifiers::NONE), "the end");
        assert!(types(&mut view, "q") && view.key(KeyCode::Char('c'), KeyModifiers::CONTROL));
    }

    #[test]
    fn rates_are_those_since_the_answer_before() {
        let (mut view, now) = view();
        view.take_status(Ok(status(300)), now + Duration::from_secs(2));
        assert_eq!(view.rates.requests, [100.0]);
        view.take_status(Err("gone".to_owned()), now + Duration::from_secs(3));
        assert_eq!(view.trouble.as_deref(), Some("gone"));
        assert_eq!(view.age(now + Duration::from_secs(5)), Duration::from_secs(3));
        // Another process.
        let restarted = Status { process: 7, ..status(5) };
        view.take_status(Ok(restarted), now + Duration::from_secs(6));
        assert_eq!((view.rates.requests.len(), view.trouble.as_deref()), (1, None));
        for second in 0..2 * RATES_MAX as u64 {
            let status = Status { process: 7, ..status(5 + second) };
            view.take_status(Ok(status), now + Duration::from_secs(7 + second));
        }
        assert_eq!(view.rates.requests.len(), RATES_MAX);
        assert!(view.trends.values().all(|trend| trend.len() == TREND_MAX));
        view.take_status(Ok(Status::default()), now + Duration::from_secs(9999));
        assert!(view.trends.is_empty(), "of tables that are gone");
    }

    #[test]
    fn trends_are_drawn() {
        let of = |values: &[f64]| trend(&values.iter().copied().collect());
        assert_eq!(of(&[0.0, 1.0, 50.0, 100.0]), "▁▁▄█");
        assert_eq!(of(&[0.0, 0.0]), "▁▁");
        assert_eq!(of(&[]), "");
    }
}
