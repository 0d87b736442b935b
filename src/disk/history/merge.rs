//! The rows of a file: of those that had ports at the end of the one before it, and of what the
//! next lines say.

use std::io;
use std::net::SocketAddrV4;

use super::columns::{HistoryRow, text_key};
use super::open::OpenHoldings;
use super::piece::{ByPort, Piece};
use super::ports::NotedPorts;
use super::read::{PieceFile, WantedRows};
use super::write::Writing;
use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Holding, PortHoldings, sort_holdings};

/// Ports between two looks whether to stop.
const STOP_PORTS: u32 = 1 << 15;

/// Puts together who had ports at the end of a file, and what the next lines say.
pub(super) struct Merging<'m> {
    lines: ByPort<'m>,
    piece: &'m Piece,
    /// Since when lines are missing before these.
    gap: Option<Timestamp>,
    out: &'m mut Writing,
    stop: &'m dyn Fn() -> bool,
    /// The port whose clients come now, and those that came.
    port: Option<(PortKey, SocketAddrV4)>,
    holdings: Vec<Holding>,
    /// Rows without an end.
    pub(super) open: u64,
    /// Ports that were somebody's since before the log begins.
    pub(super) older: NotedPorts,
    /// Those without an end.
    pub(super) kept: OpenHoldings,
    /// Those that it has lines about.
    pub(super) ports: NotedPorts,
    /// Ports since it was asked whether to stop.
    unasked: u32,
    pub(super) trouble: Option<MergeTrouble>,
}

/// By what the rows are sorted.
type PortKey = ([u8; 15], u16);

pub(super) enum MergeTrouble {
    Stopped,
    Write(io::Error),
}

impl<'m> Merging<'m> {
    pub(super) fn new(
        piece: &'m Piece,
        gap: Option<Timestamp>,
        out: &'m mut Writing,
        stop: &'m dyn Fn() -> bool,
    ) -> Self {
        let (port, holdings, lines) = (None, Vec::new(), piece.by_port());
        Self {
            lines,
            piece,
            gap,
            out,
            stop,
            port,
            holdings,
            open: 0,
            older: NotedPorts::default(),
            kept: OpenHoldings::default(),
            ports: NotedPorts::default(),
            unasked: 0,
            trouble: None,
        }
    }

    /// All rows, from those that `before` has without an end, or that are known of it. Fails where
    /// that cannot be read; what else went wrong is in `trouble`.
    pub(super) fn merge(
        &mut self,
        before: Option<&PieceFile>,
        known: Option<OpenHoldings>,
    ) -> io::Result<()> {
        if let Some(mut all) = known.as_ref().and_then(OpenHoldings::all) {
            all.try_for_each(|held| self.take(held))?;
        } else if let Some(before) = before {
            before.verify()?;
            before.scan(WantedRows::Open, |row| match row {
                HistoryRow::Held(held) => self.take(held),
                _ => Ok(()),
            })?;
        }
        self.end_port()?;
        while let Some(port) = self.lines.peek() {
            self.write_port(port, Vec::new())?;
        }
        Ok(())
    }

    /// One more client that had a port.
    fn take(&mut self, mut held: Holding) -> io::Result<()> {
        if let Some(gap) = self.gap {
            // Perhaps a line that is missing ended it.
            held.doubt(gap);
        }
        let nat64 = *held.nat64.ip();
        match self.port {
            Some((_, port)) if port == held.nat64 => {}
            last => {
                let text = match last {
                    Some(((text, _), port)) if *port.ip() == nat64 => text,
                    _ => text_key(nat64),
                };
                let key = (text, held.nat64.port());
                self.end_port()?;
                while let Some(port) = self.lines.peek()
                    && (self.lines.text_key(), port.port()) < key
                {
                    self.write_port(port, Vec::new())?;
                }
                self.port = Some((key, held.nat64));
            }
        }
        self.holdings.push(held);
        Ok(())
    }

    fn end_port(&mut self) -> io::Result<()> {
        let Some((_, port)) = self.port.take() else { return Ok(()) };
        let holdings = std::mem::take(&mut self.holdings);
        self.write_port(port, holdings)
    }

    /// Writes what becomes of those that had a port.
    fn write_port(&mut self, port: SocketAddrV4, holdings: Vec<Holding>) -> io::Result<()> {
        let mut all = holdings;
        if self.lines.peek() == Some(port) || self.piece.begins(*port.ip()) {
            self.ports.insert(port);
            let (mut ended, mut holder) = (Vec::new(), PortHoldings::of(all));
            self.lines.take(port, |line| holder.take(line, &mut ended));
            ended.append(&mut holder.into_open());
            all = ended;
            sort_holdings(&mut all);
        }
        self.unasked += 1;
        if self.unasked == STOP_PORTS && (self.stop)() {
            return self.fail(MergeTrouble::Stopped);
        }
        self.unasked %= STOP_PORTS;
        for held in all {
            if held.until.is_none() {
                self.open += 1;
                self.kept.push(&held);
            }
            if held.from.is_none() {
                self.older.insert(held.nat64);
            }
            if let Err(error) = self.out.push(HistoryRow::Held(held)) {
                return self.fail(MergeTrouble::Write(error));
            }
        }
        Ok(())
    }

    fn fail(&mut self, why: MergeTrouble) -> io::Result<()> {
        self.trouble = Some(why);
        Err(io::ErrorKind::Other.into())
    }
}
