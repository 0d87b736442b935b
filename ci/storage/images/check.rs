//! What must hold of each image: it is recovered, to a state that there was, with all that was
//! promised, twice, and also where the recovery is cut off itself.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use nat64handoff::disk::bans;
use nat64handoff::disk::storage::Cut;
use nat64handoff::handoff::random::Random;

use super::cuts::{Effort, Image, cuts, kills};
use super::workload::{Mark, ROOT, Workload, is_counted_first, seeded};
use crate::faults::{open, shard_of};
use crate::model::Model;
use crate::real::at;
use crate::sim::{Moment, SimDisk};

/// One image in so many has its recovery cut off.
const AGAIN: u64 = 8;
/// Images of such a recovery.
const AGAIN_IMAGES: usize = 6;

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Kill,
    PowerCut,
}

/// Images that were recovered, no two of them alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub kills: u64,
    pub cuts: u64,
    /// Of recoveries that were cut off.
    pub again: u64,
    /// Of the first two, those with a torn end.
    pub torn: u64,
}

impl Counts {
    pub fn all(&self) -> u64 {
        self.kills + self.cuts + self.again
    }

    pub fn add(&mut self, other: Self) {
        self.kills += other.kills;
        self.cuts += other.cuts;
        self.again += other.again;
        self.torn += other.torn;
    }
}

/// What an image was recovered to.
pub struct Recovered {
    life: usize,
    /// Of each shard, the last of its states that it is.
    reached: Vec<usize>,
    /// The first of its states that it is: others may differ by events alone.
    pub first: Vec<usize>,
    bans: Option<usize>,
}

/// Checks the images of a workload.
pub struct Checker<'a> {
    workload: &'a Workload,
    seen: HashMap<u64, Recovered>,
    random: Random,
    pub counts: Counts,
}

impl<'a> Checker<'a> {
    pub fn new(workload: &'a Workload) -> Self {
        let random = seeded(workload.seed, 6);
        Self { workload, seen: HashMap::new(), random, counts: Counts::default() }
    }

    /// All images of all moments. `Err` says what was lost.
    pub fn check_all(&mut self, effort: Effort) -> Result<(), String> {
        let moments = &self.workload.moments;
        for (number, moment) in moments.iter().enumerate() {
            let killed = kills(moment, moments.get(number + 1), effort);
            let cut = cuts(moment, effort, &mut self.random);
            for (end, images) in [(End::Kill, killed), (End::PowerCut, cut)] {
                for (index, image) in images.iter().enumerate() {
                    self.check(image, moment.mark, end).map_err(|what| {
                        let Workload { seed, policy, .. } = self.workload;
                        let what = format!("{what}\nseed {seed}, sync {policy}, moment {number}");
                        format!("{what}, {end:?}, image {index}: {}", contents(image))
                    })?;
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, image: &Image, mark: usize, end: End) -> Result<(), String> {
        let hash = image.hash();
        let mark = &self.workload.marks[mark];
        if let Some(recovered) = self.seen.get(&hash)
            && recovered.life == mark.life
        {
            return recovered.verify(mark, end);
        }
        let disk = image.disk();
        let is_deep = hash.is_multiple_of(AGAIN);
        if is_deep {
            disk.keep_moments();
        }
        let (model, cuts) = recover(&disk, 1, self.workload)?;
        let recovered = find(self.workload, &model, &disk, mark.life)?;
        recovered.verify(mark, end)?;
        let (again, cuts_again) = recover(&disk, 1, self.workload)?;
        if again != model || !cuts_again.is_empty() {
            return Err("recovered once more, it is another state".into());
        }
        if self.seen.insert(hash, recovered).is_none() && is_counted_first(hash) {
            match end {
                End::Kill => self.counts.kills += 1,
                End::PowerCut => self.counts.cuts += 1,
            }
            self.counts.torn += u64::from(!cuts.is_empty());
            if is_deep {
                self.check_again(&disk, &model, mark, end)?;
            }
        }
        Ok(())
    }

    /// The disk was recovered; now while the server starts, it ends once more.
    fn check_again(
        &mut self,
        disk: &SimDisk,
        model: &Model,
        mark: &Mark,
        end: End,
    ) -> Result<(), String> {
        let reading = disk.take_moments();
        disk.keep_moments();
        let shards = 1 + self.random.below(3) as usize;
        let policy = self.workload.policy;
        let (mut opened, _) = open(disk, shards, policy).map_err(|error| error.to_string())?;
        let started = opened.start(at(0), Arc::new(|_| u64::MAX));
        let started = started.map_err(|error| error.to_string())?;
        drop(started);
        let starting = disk.take_moments();
        for _ in 0..AGAIN_IMAGES {
            let is_reading = self.random.below(4) == 0;
            let moments = if is_reading { &reading } else { &starting };
            let (image, killed) = self.draw(moments);
            if self.seen.contains_key(&image.hash()) {
                continue;
            }
            let again = image.disk();
            let (found, _) = recover(&again, 1, self.workload)?;
            let recovered = find(self.workload, &found, &again, mark.life)?;
            recovered.verify(mark, if killed { end } else { End::PowerCut })?;
            if !is_reading && found != *model {
                return Err("after a start that was cut off it is another state".into());
            }
            self.seen.insert(image.hash(), recovered);
            self.counts.again += u64::from(is_counted_first(image.hash()));
        }
        Ok(())
    }

    /// An image of one of the moments, and whether it is that of a kill.
    fn draw(&mut self, moments: &[Moment]) -> (Image, bool) {
        let one = Effort { all_max: 1, drawn: 1, parts: 1 };
        let number = self.random.below(moments.len() as u32) as usize;
        let killed = self.random.below(3) == 0;
        let mut images = match killed {
            true => kills(&moments[number], moments.get(number + 1), one),
            false => cuts(&moments[number], one, &mut self.random),
        };
        (images.swap_remove(0), killed)
    }
}

impl Recovered {
    /// Whether it has all that was promised.
    pub fn verify(&self, mark: &Mark, end: End) -> Result<(), String> {
        for (shard, (&reached, least)) in self.reached.iter().zip(&mark.least).enumerate() {
            let least = match end {
                End::Kill => least.announced,
                End::PowerCut => least.promised,
            };
            if reached < least {
                let what = format!("shard {shard} is in state {reached}, {least} was promised");
                return Err(what);
            }
        }
        let (first, last) = mark.bans;
        match self.bans {
            Some(found) if (first..=last).contains(&found) => Ok(()),
            found => Err(format!("bans {found:?}, not of {first} to {last}")),
        }
    }
}

/// Which states of a life these are.
pub fn find(
    workload: &Workload,
    model: &Model,
    disk: &SimDisk,
    life: usize,
) -> Result<Recovered, String> {
    let states = &workload.lives[life].states;
    let of = shard_of(states.len());
    let (mut reached, mut first) = (Vec::new(), Vec::new());
    for (shard, states) in states.iter().enumerate() {
        let is_same = |state: &&Model| {
            let mine = model.0.iter().filter(|(key, _)| of(key.nat64) == shard);
            mine.eq(state.0.iter())
        };
        let found = states.iter().rev().position(|state| is_same(&state));
        let last = states.len() - 1;
        reached.push(last - found.ok_or(format!("shard {shard} is in a state that never was"))?);
        first.extend(states.iter().position(|state| is_same(&state)));
    }
    let kept = bans::read(disk, Path::new(ROOT)).map_err(|lost| lost.to_string())?;
    let bans = workload.bans.iter().rposition(|bans| *bans == kept);
    Ok(Recovered { life, reached, first, bans })
}

/// Reads all there is; also what was cut off.
pub fn recover(
    disk: &SimDisk,
    shards: usize,
    workload: &Workload,
) -> Result<(Model, Vec<Cut>), String> {
    let opened = catch_unwind(AssertUnwindSafe(|| open(disk, shards, workload.policy)));
    match opened {
        Ok(Ok((opened, model))) => Ok((model, opened.report.cuts)),
        Ok(Err(error)) => Err(format!("refused: {error}")),
        Err(_) => Err("a change that cannot be".into()),
    }
}

fn contents(image: &Image) -> String {
    let lengths = image.files.iter().map(|(path, content)| {
        let length = content.as_ref().map_or(0, Vec::len);
        format!("{} {length}", path.display())
    });
    lengths.collect::<Vec<_>>().join(", ")
}
