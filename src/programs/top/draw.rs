//! How `top` is drawn, on terminals of any size.

use std::collections::VecDeque;
use std::time::Instant;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState};

use crate::programs::ask::units::Units;
use crate::programs::report::{Capacity, FleetStatus, Status, TableStatus};
use crate::programs::top::view::{TopOrder, TopView, key_of, trend};

const UNITS: Units = Units { for_people: true };
/// From this part of a limit on, it is one to look after.
const NEARLY_FULL: f64 = 0.875;
/// An answer that is older than this is old.
const OLD_SECONDS: u64 = 3;
/// A host of a fleet that is so far behind is one to look after.
const BEHIND_SECONDS: f64 = 2.0;
/// Rows below which there is no room for more than the list.
const SMALL: u16 = 14;
/// Reasons of drops that are shown.
const DROPS_MAX: usize = 3;

/// All of it.
pub fn draw(frame: &mut Frame<'_>, view: &TopView, now: Instant) {
    let area = frame.area();
    let head = head(view, now);
    let drops = drops(&view.status);
    let is_small = area.height < SMALL;
    let rates_height = if is_small { 0 } else { 4 };
    let drops_height = if is_small { 0 } else { drops.len() as u16 };
    let [top, rates, middle, below, foot] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Length(rates_height),
        Constraint::Min(1),
        Constraint::Length(drops_height),
        Constraint::Length(u16::from(area.height > 3)),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head), top);
    draw_rates(frame, view, rates);
    match view.is_inside {
        true => draw_entries(frame, view, middle),
        false => draw_tables(frame, view, middle),
    }
    frame.render_widget(Paragraph::new(drops), below);
    let keys = match view.is_inside {
        true => "up, down: scroll   Esc: back   q: end",
        false => "a l e o r c s: sort, again: turn round   up, down, Enter: look into one   q: end",
    };
    frame.render_widget(Line::from(keys).dim(), foot);
}

fn head(view: &TopView, now: Instant) -> Vec<Line<'static>> {
    let status = &view.status;
    let up = UNITS.seconds(status.uptime_seconds);
    let mut first = vec![
        Span::from(format!("nat64handoff {}", status.version)).bold(),
        Span::from(format!(
            ", process {}, up {up}, {}  ",
            status.process,
            status.listen.join(", ")
        )),
    ];
    let age = view.age(now).as_secs();
    first.push(match (&view.trouble, status.ready) {
        (Some(why), _) => Span::from(format!("no answer for {age} s: {why}")).fg(Color::Red).bold(),
        (None, _) if age > OLD_SECONDS => {
            Span::from(format!("no answer for {age} s")).fg(Color::Yellow)
        }
        (None, true) => Span::from("ready").fg(Color::Green),
        (None, false) => {
            let why = status.not_ready.join("; ");
            Span::from(format!("new clients get no answer: {why}")).fg(Color::Red).bold()
        }
    });
    let mut second = vec![Span::from("NAT64s "), used(status.nat64s), Span::from("   entries ")];
    second.push(used(status.entries));
    if let Some(journal) = &status.journal {
        second.push(Span::from("   journal "));
        second.push(part(journal.fullest));
        second.push(Span::from(format!(", {} not durable", UNITS.count(journal.unsynced_records))));
    }
    if let Some(log) = &status.log {
        second.push(Span::from("   log queue "));
        second.push(part(log.waiting));
    }
    let mut lines = vec![Line::from(first), Line::from(second)];
    lines.extend(status.fleet.as_ref().map(fleet));
    lines
}

/// How it does among the hosts that share its tables.
fn fleet(fleet: &FleetStatus) -> Line<'static> {
    let etcd = format!("{} of {}", fleet.nodes_answering, fleet.nodes);
    let etcd = match 2 * fleet.nodes_answering <= fleet.nodes {
        true => Span::from(etcd).fg(Color::Red).bold(),
        false => Span::from(etcd),
    };
    let behind = format!("{:.1} s", fleet.behind_seconds);
    let behind = match fleet.behind_seconds >= BEHIND_SECONDS {
        true => Span::from(behind).fg(Color::Yellow),
        false => Span::from(behind),
    };
    let mut spans = vec![
        Span::from(format!("cell {}, host {}, ", fleet.cell, fleet.host)),
        Span::from(format!("owner of {} tables   etcd ", UNITS.count(fleet.tables))),
        etcd,
        Span::from(" nodes, behind "),
        behind,
    ];
    if fleet.drains {
        spans.push(Span::from("   gives its tables away").fg(Color::Yellow));
    } else if !fleet.hears_others {
        spans.push(Span::from("   hears no other host").fg(Color::Yellow));
    }
    Line::from(spans)
}

fn used(of: Capacity) -> Span<'static> {
    let text = format!("{} of {}", UNITS.count(of.used), UNITS.count(of.max));
    Span::styled(format!("{text} ({})", UNITS.part(of.used, of.max)), style_of(of))
}

fn part(of: Capacity) -> Span<'static> {
    Span::styled(UNITS.part(of.used, of.max), style_of(of))
}

fn style_of(of: Capacity) -> Style {
    match of.used as f64 >= NEARLY_FULL * of.max as f64 && of.max > 0 {
        true => Style::new().fg(Color::Yellow),
        false => Style::new(),
    }
}

/// What was counted, side by side.
fn draw_rates(frame: &mut Frame<'_>, view: &TopView, area: Rect) {
    let rates = &view.rates;
    let all = [
        ("requests", &rates.requests, Color::Cyan),
        ("new entries", &rates.created, Color::Green),
        ("drops", &rates.drops, Color::Red),
    ];
    let areas = Layout::horizontal([Constraint::Fill(1); 3]).spacing(2).split(area);
    for ((name, values, colour), area) in all.into_iter().zip(areas.iter()) {
        let [title, picture] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(*area);
        let rate = values.back().map_or("-".to_owned(), |rate| UNITS.rate(*rate));
        let most = values.iter().copied().fold(0.0, f64::max);
        let title_text = vec![
            Span::from(format!("{name} {rate}")).bold(),
            Span::from(format!("  at most {}", UNITS.rate(most))).dim(),
        ];
        frame.render_widget(Line::from(title_text), title);
        let data = newest(values, picture.width);
        frame.render_widget(Sparkline::default().data(data).fg(colour), picture);
    }
}

/// As many as there is room for, with the newest at the right.
fn newest(values: &VecDeque<f64>, width: u16) -> Vec<u64> {
    let width = usize::from(width);
    let from = values.len().saturating_sub(width);
    let room = width.saturating_sub(values.len());
    // Rates of less than one are seen, too.
    let scaled = values.iter().skip(from).map(|rate| (rate * 10.0) as u64);
    std::iter::repeat_n(0, room).chain(scaled).collect()
}

fn draw_tables(frame: &mut Frame<'_>, view: &TopView, area: Rect) {
    let titles = TopOrder::ALL.iter().map(|(_, order, title)| {
        let mark = match (*order == view.order, view.is_reversed) {
            (true, false) => "v",
            (true, true) => "^",
            (false, _) => "",
        };
        Cell::from(format!("{title}{mark}"))
    });
    let header = Row::new(titles.chain([Cell::from("requests, seconds")]));
    let rows = view.status.tables.iter().map(|table| row(view, table));
    let widths = [
        Constraint::Length(15),
        Constraint::Length(15),
        Constraint::Length(14),
        Constraint::Length(6),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let table = Table::new(rows, widths)
        .header(header.style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(view.place());
    frame.render_stateful_widget(table, area, &mut state);
}

fn row<'a>(view: &TopView, table: &TableStatus) -> Row<'a> {
    let entries = format!(
        "{} {}",
        UNITS.count(table.entries.used),
        UNITS.part(table.entries.used, table.entries.max)
    );
    let live = table.live_connections.map_or("-".to_owned(), |live| UNITS.count(live));
    let row = Row::new([
        Cell::from(table.nat64.clone()),
        Cell::from(table.local.clone()),
        Cell::from(Span::styled(entries, style_of(table.entries))),
        Cell::from(live),
        Cell::from(UNITS.rate(table.requests.per_second)),
        Cell::from(UNITS.rate(table.created.per_second)),
        Cell::from(UNITS.seconds(table.last_seen_seconds)),
        Cell::from(view.trends.get(&key_of(table)).map_or(String::new(), trend)).fg(Color::Cyan),
    ]);
    if table.going { row.dim() } else { row }
}

fn draw_entries(frame: &mut Frame<'_>, view: &TopView, area: Rect) {
    let Some((nat64, local)) = &view.chosen else { return };
    let title = match (view.is_told, view.place()) {
        (false, _) => format!("{nat64} to {local}: asking"),
        (true, None) => format!("{nat64} to {local}: it is not known any more"),
        (true, Some(_)) => {
            let count = UNITS.count(view.entries.len() as u64);
            format!("{nat64} to {local}: {count} entries")
        }
    };
    let [above, list] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Line::from(title).bold(), above);
    let shown = view.entries.iter().skip(view.above).take(usize::from(list.height));
    let rows = shown.map(|entry| {
        Row::new([
            entry.port.to_string(),
            format!("{} port {}", entry.client, entry.client_port),
            entry.prefix.clone(),
        ])
    });
    let widths = [Constraint::Length(6), Constraint::Fill(3), Constraint::Fill(1)];
    let header = Row::new(["port", "client", "by"]).style(Style::new().underlined());
    frame.render_widget(Table::new(rows, widths).header(header), list);
}

/// What is dropped now, and what to do.
fn drops(status: &Status) -> Vec<Line<'static>> {
    let now = status.drops.iter().filter(|drop| drop.per_second > 0.0);
    let lines = now.take(DROPS_MAX).map(|drop| {
        let rate = UNITS.rate(drop.per_second);
        let style = match drop.concerns.as_str() {
            "operator" => Style::new().fg(Color::Yellow),
            _ => Style::new().dim(),
        };
        Line::styled(format!("{rate} {}: {}", drop.reason, drop.advice), style)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyModifiers};

    use super::*;
    use crate::kernel::clock;
    use crate::programs::report::{DropStatus, Rated};

    fn view() -> TopView {
        let table = |number: u8| TableStatus {
            nat64: format!("192.0.2.{number}"),
            local: "203.0.113.5".to_owned(),
            entries: Capacity { used: 64_000, max: 64_508 },
            requests: Rated { total: 1, per_second: 1_500.0 },
            ..TableStatus::default()
        };
        let status = Status {
            version: "0.1.0".to_owned(),
            ready: true,
            tables: (0..200).map(table).collect(),
            drops: vec![DropStatus {
                reason: "no_port".to_owned(),
                per_second: 3.0,
                concerns: "operator".to_owned(),
                advice: "new clients get no answer".to_owned(),
                ..DropStatus::default()
            }],
            ..Status::default()
        };
        let mut view = TopView::default();
        view.take_status(Ok(status), clock::instant());
        view
    }

    fn drawn(view: &TopView, size: (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, view, clock::instant())).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn what_matters_can_be_read() {
        let mut view = view();
        let text = drawn(&view, (120, 30));
        for part in
            ["nat64handoff 0.1.0", "ready", "entriesv", "192.0.2.7 ", "1.5 k/s", "no_port: new"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        view.key(KeyCode::End, KeyModifiers::NONE);
        view.key(KeyCode::End, KeyModifiers::NONE);
        assert!(drawn(&view, (120, 30)).contains("192.0.2.199"), "the chosen one is in sight");
        view.key(KeyCode::Enter, KeyModifiers::NONE);
        assert!(drawn(&view, (120, 30)).contains("192.0.2.199 to 203.0.113.5: asking"));
        view.take_status(Err("no server runs".to_owned()), clock::instant());
        assert!(drawn(&view, (120, 30)).contains("no answer for 0 s: no server runs"));
    }

    #[test]
    fn a_fleet_has_a_line() {
        let mut view = view();
        let before = drawn(&view, (120, 30));
        assert!(!before.contains("cell"), "{before}");
        let fleet = FleetStatus {
            cell: "ams".to_owned(),
            host: 7,
            tables: 12,
            nodes_answering: 3,
            nodes: 3,
            hears_others: true,
            ..FleetStatus::default()
        };
        let mut shown = |fleet: FleetStatus| {
            view.status.fleet = Some(fleet);
            let text = drawn(&view, (120, 30));
            assert!(text.contains("192.0.2.7 "), "the list is there still: {text}");
            text.lines().find(|line| line.contains("cell")).unwrap().to_owned()
        };
        let said = "cell ams, host 7, owner of 12 tables   etcd 3 of 3 nodes, behind 0.0 s  ";
        assert!(shown(fleet.clone()).contains(said));
        let alone = FleetStatus { hears_others: false, behind_seconds: 3.21, ..fleet.clone() };
        assert!(shown(alone).contains("behind 3.2 s   hears no other host"));
        assert!(shown(FleetStatus { drains: true, ..fleet }).contains("gives its tables away"));
    }

    #[test]
    fn terminals_of_any_size() {
        let mut view = view();
        view.status.fleet = Some(FleetStatus::default());
        for inside in [false, true] {
            for width in [1, 2, 3, 7, 20, 79, 80, 300] {
                for height in [1, 2, 3, 4, 5, 13, 14, 15, 100] {
                    drawn(&view, (width, height));
                }
            }
            assert_eq!(view.is_inside, inside);
            view.key(KeyCode::Enter, KeyModifiers::NONE);
        }
    }
}
