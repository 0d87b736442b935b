//! Makes a failing plan small: fewer kinds, less time, fewer faults, as long as the same property
//! is broken.

use std::time::Duration;

use crate::kind::Kind;
use crate::plan::Plan;
use crate::run::simulate;
use crate::verdict::Property;

/// The most simulations that this takes.
const RUNS_MAX: usize = 400;
/// Faults are left out in groups of this many at first.
const GROUPS: usize = 8;

struct Shrinking {
    property: Property,
    mutant: Option<Kind>,
    runs: usize,
}

impl Shrinking {
    fn fails(&mut self, plan: &Plan) -> bool {
        self.runs += 1;
        let broken = simulate(plan, self.mutant, false).broken;
        self.runs <= RUNS_MAX && broken.is_some_and(|broken| broken.property == self.property)
    }
}

/// The smallest plan that was found to break the same property.
pub fn shrink(plan: &Plan, property: Property, mutant: Option<Kind>) -> Plan {
    let mut shrinking = Shrinking { property, mutant, runs: 0 };
    let mut plan = plan.clone();
    for kind in plan.kinds.iter() {
        let fewer = Plan { kinds: plan.kinds.without(kind), ..plan.clone() };
        if shrinking.fails(&fewer) {
            plan = fewer;
        }
    }
    let (mut low, mut high) = (Duration::ZERO, plan.faults_until);
    while high - low > Duration::from_secs(1) {
        let shorter = Plan { faults_until: (low + high) / 2, ..plan.clone() };
        if shrinking.fails(&shorter) {
            (high, plan) = (shorter.faults_until, shorter);
        } else {
            low = shorter.faults_until;
        }
    }
    let struck = simulate(&plan, mutant, false).numbers;
    let mut size = struck.len().div_ceil(GROUPS).max(1);
    loop {
        for group in struck.chunks(size) {
            let mut fewer = plan.clone();
            fewer.without.extend(group);
            if fewer != plan && shrinking.fails(&fewer) {
                plan = fewer;
            }
        }
        if size == 1 {
            break plan;
        }
        size = size.div_ceil(2);
    }
}
