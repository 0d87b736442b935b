//! What must hold of the event log of an image, once it was completed: each event of the recovered
//! state has one line, in order; none is lost that was there before; and all that it says is true.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use nat64handoff::disk::fs::Disk;
use nat64handoff::disk::storage::SyncPolicy;
use nat64handoff::handoff::logged::{LoggedKind, LoggedLine};
use nat64handoff::handoff::random::Random;

use super::check::{Counts, End, find};
use super::cuts::{Effort, Image, cuts, kills};
use super::log::{LOG, RealLog, open_with_log};
use super::workload::{LifeLog, Workload, is_counted_first, seeded};
use crate::model::Model;
use crate::sim::SimDisk;

/// Checks the logs of the images of a workload.
pub struct LogChecker<'a> {
    workload: &'a Workload,
    log: &'a RealLog,
    random: Random,
    pub counts: Counts,
    /// Whether a start says how far the journal is: false for the canary.
    pub says_journal: bool,
    /// Logs that were ahead of the journal, and say so since.
    pub ahead: u64,
}

/// The clients that a log says there are: by NAT64, port and local address.
type Said = BTreeMap<(Ipv4Addr, u16, Ipv4Addr), String>;

impl<'a> LogChecker<'a> {
    pub fn new(workload: &'a Workload, log: &'a RealLog) -> Self {
        let random = seeded(workload.seed, 8);
        Self { workload, log, random, counts: Counts::default(), says_journal: true, ahead: 0 }
    }

    pub fn check_all(&mut self, effort: Effort) -> Result<(), String> {
        let moments = &self.workload.moments;
        let mut seen = HashMap::new();
        for (number, moment) in moments.iter().enumerate() {
            let killed = kills(moment, moments.get(number + 1), effort);
            let cut = cuts(moment, effort, &mut self.random);
            for (end, images) in [(End::Kill, killed), (End::PowerCut, cut)] {
                for image in &images {
                    let hash = image.hash();
                    if seen.insert(hash, moment.mark) == Some(moment.mark) {
                        continue;
                    }
                    self.check(image, moment.mark, end).map_err(|what| {
                        let Workload { seed, policy, .. } = self.workload;
                        format!("{what}\nseed {seed}, sync {policy}, moment {number}, {end:?}")
                    })?;
                    if is_counted_first(hash) {
                        match end {
                            End::Kill => self.counts.kills += 1,
                            End::PowerCut => self.counts.cuts += 1,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, image: &Image, mark: usize, end: End) -> Result<(), String> {
        let workload = self.workload;
        let mark = &workload.marks[mark];
        let disk = image.disk();
        let before = image.files.get(Path::new(LOG)).cloned().flatten().unwrap_or_default();
        self.log.set(&before);
        let (model, text) = self.complete(&disk)?;
        let recovered = find(workload, &model, &disk, mark.life)?;
        recovered.verify(mark, end)?;
        let end = if mark.is_cut { End::PowerCut } else { end };
        let checked = workload.lives[mark.life].log.as_ref().map_or(Ok(false), |log| {
            let first = recovered.first.iter().zip(&mark.least);
            let reached: Vec<usize> = first
                .map(|(&first, least)| match end {
                    End::Kill => first.max(least.announced),
                    End::PowerCut => first.max(least.promised),
                })
                .collect();
            log.check(&text, &reached, &model, end, workload.policy)
        });
        let is_ahead = checked.map_err(|what| {
            let text = String::from_utf8_lossy(&text).into_owned();
            let before = String::from_utf8_lossy(&before).into_owned();
            format!("{what}\nthe log was:\n{before}\nand is:\n{text}")
        })?;
        self.ahead += u64::from(is_ahead);
        let (again, text_again) = self.complete(&disk)?;
        if again != model || text_again != text {
            return Err("completed once more, it is another log".into());
        }
        Ok(())
    }

    fn complete(&self, disk: &SimDisk) -> Result<(Model, Vec<u8>), String> {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let (_, model) =
            open_with_log(&disk, &self.log.path, 1, self.workload.policy, self.says_journal)?;
        Ok((model, self.log.content()))
    }
}

impl LifeLog {
    /// Returns whether the log was ahead of the journal.
    fn check(
        &self,
        text: &[u8],
        reached: &[usize],
        model: &Model,
        end: End,
        policy: SyncPolicy,
    ) -> Result<bool, String> {
        // Nothing is promised: the journal may have forgotten what the log loses.
        if policy == SyncPolicy::None && end == End::PowerCut {
            return Ok(false);
        }
        let rest = text.strip_prefix(&self.base[..]).ok_or("lines of the lives before are lost")?;
        let rest = String::from_utf8_lossy(rest);
        if !rest.is_empty() && !rest.ends_with('\n') {
            return Err("it ends within a line".into());
        }
        let mut places: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        for (shard, lines) in self.lines.iter().enumerate() {
            for (number, line) in lines.iter().enumerate().rev() {
                places.entry(line).or_default().push((shard, number));
            }
        }
        let mut next = vec![0; self.lines.len()];
        let (mut others, mut is_in_order) = (Vec::new(), true);
        for line in rest.lines() {
            match places.get_mut(line).map(Vec::pop) {
                Some(Some((shard, number))) => {
                    is_in_order &= number == next[shard];
                    next[shard] = number + 1;
                }
                Some(None) => return Err(format!("twice: {line}")),
                None => others.push(line),
            }
        }
        let missing = places
            .values()
            .flatten()
            .find(|&&(shard, number)| number < self.counts[shard][reached[shard]]);
        if let Some(&(shard, number)) = missing {
            return Err(format!("lost: {}", self.lines[shard][number]));
        }
        let halves = others.iter().filter(|line| LoggedLine::parse(line).is_none()).count();
        if end == End::Kill && !(others.is_empty() && is_in_order) {
            return Err(format!("not in order, or not ours: {others:?}"));
        }
        // Where sectors of the log came in another order, so do its lines.
        if halves == 0 && is_in_order {
            self.is_true(&rest, model)?;
        }
        Ok(others.len() > halves)
    }

    /// The log says what the tables have.
    fn is_true(&self, rest: &str, model: &Model) -> Result<(), String> {
        let mut said = said_by(&self.begin);
        for line in rest.lines().filter_map(LoggedLine::parse) {
            let local = line.local.unwrap_or(Ipv4Addr::UNSPECIFIED);
            match (&line.kind, line.entry()) {
                (LoggedKind::Created(_), Some(entry)) => {
                    let client = format!("{} {}", entry.client, entry.client_port);
                    said.insert((line.nat64, entry.port, local), client);
                }
                (LoggedKind::Deleted(_), Some(entry)) => {
                    said.remove(&(line.nat64, entry.port, local));
                }
                _ => {}
            }
        }
        let held = said_by(model);
        let differs = |key: &&(Ipv4Addr, u16, Ipv4Addr)| said.get(key) != held.get(key);
        match said.keys().chain(held.keys()).find(differs) {
            Some(key) => {
                let (said, held) = (said.get(key), held.get(key));
                Err(format!("{key:?} is {said:?} in the log, and {held:?} in its table"))
            }
            None => Ok(()),
        }
    }
}

fn said_by(model: &Model) -> Said {
    let tables = model.0.iter().filter(|(key, _)| !key.is_block());
    let entries = tables.flat_map(|(key, table)| {
        table.entries.iter().map(|(port, client)| {
            let said = format!("{} {}", client.address, client.port);
            ((key.nat64, *port, key.local), said)
        })
    });
    entries.collect()
}
