//! What is simulated: all follows from it.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::kind::{Kind, Kinds};

/// The stream of the choice of kinds.
const STREAM: u64 = 1000;
/// How long faults go on, at most.
const FAULTS_MAX: Duration = Duration::from_secs(120);

/// A simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub seed: u64,
    /// The kinds of faults that may happen.
    pub kinds: Kinds,
    /// Until when they do.
    pub faults_until: Duration,
    /// Those that do not happen, by their numbers in the order of their happening.
    pub without: BTreeSet<u32>,
}

impl Plan {
    /// What a seed alone leads to: some of the kinds, for some time.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed, STREAM);
        // Each subset is as likely as any other of its size: few kinds are as good as many.
        let share = [500, 1500, 3000, 6000][dice.below(4)];
        let kinds = Kind::ALL.iter().copied().filter(|_| dice.chance(share));
        let kinds = kinds.fold(Kinds::default(), Kinds::with);
        let faults_until = dice.time(Duration::from_secs(10), FAULTS_MAX);
        Self { seed, kinds, faults_until, without: BTreeSet::new() }
    }

    /// Reads what [`fmt::Display`] writes: `--seed N`, and what differs from what N alone leads to.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut plan: Option<Self> = None;
        for pair in words.chunks(2) {
            let &[name, value] = pair else { return Err(format!("{} has no value", pair[0])) };
            let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
            if name == "--seed" {
                plan = Some(Self::of(number(value)?));
                continue;
            }
            let plan = plan.as_mut().ok_or("--seed stands first")?;
            let parts = || value.split(',').filter(|part| !part.is_empty());
            match name {
                "--kinds" => {
                    let kind = |name: &str| {
                        let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
                        kind.copied().ok_or(format!("{name} is no kind of fault"))
                    };
                    let kinds = parts().map(kind).collect::<Result<Vec<_>, _>>()?;
                    plan.kinds = Kinds::of(&kinds);
                }
                "--faults-until-ms" => {
                    plan.faults_until = Duration::from_millis(number(value)?);
                }
                "--without" => {
                    let numbers = parts().map(|part| number(part).map(|number| number as u32));
                    plan.without = numbers.collect::<Result<_, _>>()?;
                }
                _ => return Err(format!("{name} is no option")),
            }
        }
        plan.ok_or("--seed is missing".into())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = Plan::of(self.seed);
        write!(f, "--seed {}", self.seed)?;
        if self.kinds != plain.kinds {
            let names: Vec<_> = self.kinds.iter().map(Kind::name).collect();
            write!(f, " --kinds {},", names.join(","))?;
        }
        if self.faults_until != plain.faults_until {
            write!(f, " --faults-until-ms {}", self.faults_until.as_millis())?;
        }
        if !self.without.is_empty() {
            let numbers: Vec<_> = self.without.iter().map(u32::to_string).collect();
            write!(f, " --without {}", numbers.join(","))?;
        }
        Ok(())
    }
}
