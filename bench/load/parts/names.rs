//! New clients, and known ones, with names of peers and without.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nat64handoff::kernel::bpf::peer_names::PeerMaps;

use super::{NO_END, TIME};
use crate::generator::{KNOWN, NEW, Sending};
use crate::nat64::Peer;
use crate::process::Process;
use crate::report::{Rounds, Sample, Target, goal};

const NAT64S: u32 = 16;
/// As in `create`.
const CLIENTS: u64 = 16 * 8192;
const NAMES_MAX: u32 = 1_000_000;
const SETTLE: Duration = Duration::from_millis(250);
const TIME_MAX: Duration = Duration::from_secs(10);

const VARIANTS: [&str; 4] =
    ["--peer-names both", "--peer-names ipv6", "--peer-names off, again", "--peer-names off"];
/// What comes, whether it is new, and how many clients a /64 has: with `both`, each /64 gets an
/// address of the pool, which is recorded and logged beside the entries.
const LOADS: [(&str, bool, u32); 3] = [
    ("new clients", true, 1),
    ("new clients, 4 of each /64", true, 4),
    ("known clients", false, 1),
];
/// So many of them are not off.
const ON: usize = 2;

pub fn run(rounds: usize) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mounted = Mounted::new(folder.path())?;
    let maps = PeerMaps::create(NAMES_MAX).map_err(|error| error.to_string())?;
    let place = mounted.0.join("maps");
    std::fs::create_dir(&place).map_err(|error| error.to_string())?;
    maps.pin(&["names", "state", "peers"].map(|file| place.join(file)))
        .map_err(|error| error.to_string())?;
    let maps = place.to_str().unwrap_or_default();
    let on = ["both", "ipv6"].map(|names| ["--peer-names", names, "--peer-maps", maps]);
    for (what, new, hosts) in LOADS {
        let mut samples = Rounds::new(VARIANTS.map(str::to_owned));
        for round in 0..rounds {
            for step in 0..VARIANTS.len() {
                let variant = (round + step) % VARIANTS.len();
                let process = Process::in_small_pages(on.get(variant).map_or(&[], |on| &on[..]));
                let name = VARIANTS[variant];
                let mut target = Target::new(name, process, Peer::Server, 0..NAT64S, 1);
                target.load.nat64s.iter_mut().for_each(|nat64| nat64.hosts = hosts);
                target.load.fill();
                let sample = target.measure(SETTLE, |load| match new {
                    true => load.closed(NEW, Sending::Plain, CLIENTS, TIME_MAX),
                    false => load.closed(KNOWN, Sending::Plain, NO_END, TIME),
                });
                samples.push(variant, sample);
            }
        }
        println!("{NAT64S} NAT64s, {what}, journal and event log in files");
        samples.print();
        let most = if new { "1.3" } else { "1.05" };
        for (variant, name) in VARIANTS.iter().enumerate().take(ON) {
            let ratio = samples.ratio(variant, Sample::micros);
            goal(&format!("{what}: CPU of all threads with {name} / without"), most, ratio);
        }
    }
    Ok(())
}

/// A bpffs, as long as the value lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(folder: &'a Path) -> Result<Self, String> {
        let mount = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder).status();
        match mount.is_ok_and(|status| status.success()) {
            true => Ok(Self(folder)),
            false => Err("no bpffs can be mounted: as root".into()),
        }
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}
