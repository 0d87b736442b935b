//! Each kind of fault finds what it is for: with it, its canary is caught, and without it, not.

use std::time::Duration;

use crate::kind::{Kind, Kinds};
use crate::plan::Plan;
use crate::run::simulate;
use crate::verdict::Property;
use crate::world::World;

/// Within so many seeds a canary is caught.
const SEEDS: u64 = 100;
/// So many seeds without its kind of fault do not catch it.
const SEEDS_WITHOUT: u64 = 20;
/// How long faults go on.
const FAULTS: Duration = Duration::from_secs(60);

fn catches(seed: u64, canary: Kind, kinds: Kinds) -> Option<String> {
    let plan = Plan { kinds, faults_until: FAULTS, ..Plan::of(seed) };
    let broken = simulate(&plan, Some(canary), false).broken?;
    Some(format!("{:?}: {}", broken.property, broken.what))
}

fn check(canary: Kind) {
    let with = Kinds::default().with(canary);
    let caught = (0..SEEDS).find_map(|seed| Some((seed, catches(seed, canary, with)?)));
    let (seed, what) = caught.unwrap_or_else(|| panic!("{} finds nothing", canary.name()));
    println!("{}: seed {seed}: {what}", canary.name());
    for seed in 0..SEEDS_WITHOUT {
        let caught = catches(seed, canary, Kinds::default());
        assert_eq!(caught, None, "seed {seed} without {}", canary.name());
    }
}

/// A start that takes the names that it finds for right gives some to clients that have gone.
#[test]
fn names_that_a_start_does_not_compare() {
    let broken = |seed, trusts| {
        // Entries go and come all the time.
        let kinds = Kinds::of(&[Kind::PowerCut, Kind::Limits, Kind::Reboot]);
        let plan = Plan { kinds, faults_until: FAULTS, ..Plan::of(seed) };
        let mut world = World::new(plan, None, false);
        if trusts {
            world.host.trust_names();
        }
        world.run();
        world.broken.take().map(|broken| broken.property)
    };
    assert!((0..SEEDS).any(|seed| broken(seed, true) == Some(Property::NamesAreTrue)));
    assert!((0..SEEDS_WITHOUT).all(|seed| broken(seed, false).is_none()));
}

macro_rules! canaries {
    ($($name:ident: $kind:ident;)*) => {
        $(#[test]
        fn $name() {
            check(Kind::$kind);
        })*

        #[test]
        fn every_kind_has_a_canary() {
            let all = [$(Kind::$kind,)*];
            assert_eq!(all, *Kind::ALL);
        }
    };
}

canaries! {
    loss: Loss;
    duplication: Duplication;
    delay: Delay;
    corruption: Corruption;
    lost_fragments: LostFragments;
    rebinding: Rebinding;
    unreachable: Unreachable;
    forged_unreachable: ForgedUnreachable;
    strangers: Strangers;
    false_reports: FalseReports;
    kill: Kill;
    kill_in_disk: KillInDisk;
    power_cut: PowerCut;
    disk_error: DiskError;
    disk_full: DiskFull;
    slow_disk: SlowDisk;
    reactors: Reactors;
    hand_over: HandOver;
    wall_jump: WallJump;
    pause: Pause;
    limits: Limits;
    reboot: Reboot;
    rotation: Rotation;
    ban: Ban;
    drop_table: DropTable;
    reload: Reload;
    log_rotation: LogRotation;
}
