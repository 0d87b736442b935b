//! What happens to hosts and to nodes of etcd: they are killed, stopped for a while, and cut off
//! from each other. Each comes back after a while.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::NODES;
use crate::dice::Dice;
use crate::site::Site;

/// The most of these that are away at a time.
const HOSTS_AWAY: usize = 2;
const NODES_AWAY: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Runs,
    Killed(Instant),
    Stopped(Instant),
}

/// What is wrong now, and until when.
pub struct Strikes {
    dice: Dice,
    hosts: Vec<State>,
    nodes: Vec<State>,
    cuts: Vec<((Ipv4Addr, Ipv4Addr), Instant)>,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, usize>,
}

fn away(states: &[State]) -> usize {
    states.iter().filter(|state| **state != State::Runs).count()
}

impl Strikes {
    pub fn new(site: &Site, dice: Dice) -> Self {
        let (hosts, nodes) = (vec![State::Runs; site.hosts.len()], vec![State::Runs; NODES]);
        Self { dice, hosts, nodes, cuts: Vec::new(), counts: BTreeMap::new() }
    }

    pub fn kills(&self) -> usize {
        let kills = self.counts.iter().filter(|(what, _)| what.ends_with("killed"));
        kills.map(|(_, count)| count).sum()
    }

    /// One thing more, and what else there is to be done until a while later.
    pub fn next(&mut self, site: &mut Site) {
        match self.dice.below(100) {
            0..40 => self.strike_host(site, true),
            40..60 => self.strike_node(site, true),
            60..70 => self.strike_host(site, false),
            70..80 => self.strike_node(site, false),
            _ => self.cut(site),
        }
        if self.dice.percent(40) {
            self.route(site);
        }
        let until = self.until(0, 1_000);
        while Instant::now() < until {
            self.recover(site);
            // Not for anything that would be so by then: this is how long the network is as it is.
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn until(&mut self, least: u64, most: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.dice.range(least, most))
    }

    /// How long something is away: mostly shorter than others wait for it, or about as long.
    fn away_until(&mut self) -> Instant {
        if self.dice.percent(20) { self.until(1_500, 4_500) } else { self.until(0, 1_000) }
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn strike_host(&mut self, site: &mut Site, kills: bool) {
        let host = self.dice.below(self.hosts.len());
        if self.hosts[host] != State::Runs || away(&self.hosts) >= HOSTS_AWAY {
            return;
        }
        let until = self.away_until();
        self.hosts[host] = if kills {
            site.hosts[host].kill();
            self.count("hosts killed");
            State::Killed(until)
        } else {
            site.hosts[host].process().signal(libc::SIGSTOP);
            self.count("hosts stopped");
            State::Stopped(until)
        };
        // Mostly the network notices.
        if self.dice.percent(70) {
            self.route(site);
        }
    }

    fn strike_node(&mut self, site: &mut Site, kills: bool) {
        let runs: Vec<_> = self.nodes.iter().map(|node| *node == State::Runs).collect();
        let leader = if self.dice.percent(60) { site.cluster.leader_among(&runs) } else { None };
        let node = leader.unwrap_or_else(|| self.dice.below(NODES));
        if !runs[node] || away(&self.nodes) >= NODES_AWAY {
            return;
        }
        let until = self.away_until();
        self.nodes[node] = if kills {
            site.cluster.kill(node);
            self.count("nodes killed");
            State::Killed(until)
        } else {
            site.cluster.signal(node, libc::SIGSTOP);
            self.count("nodes stopped");
            State::Stopped(until)
        };
        if leader.is_some() {
            self.count("leaders among them");
        }
    }

    /// Cuts two of all off from each other.
    fn cut(&mut self, site: &Site) {
        let hosts = site.hosts.iter().map(|host| host.address());
        let all: Vec<_> = hosts.chain(site.cluster.nodes.iter().map(|node| node.address)).collect();
        let one = self.dice.below(all.len());
        let other = (one + 1 + self.dice.below(all.len() - 1)) % all.len();
        let until = self.away_until();
        self.cuts.push(((all[one], all[other]), until));
        self.count("pairs cut");
        self.apply_cuts(site);
    }

    fn apply_cuts(&self, site: &Site) {
        let pairs: Vec<_> = self.cuts.iter().map(|(pair, _)| *pair).collect();
        site.cut(&pairs);
    }

    /// Requests go elsewhere: mostly to hosts that are there.
    fn route(&mut self, site: &Site) {
        let is_there = |host: &usize| self.hosts[*host] == State::Runs;
        let there: Vec<_> = (0..self.hosts.len()).filter(is_there).collect();
        let among = if self.dice.percent(85) && !there.is_empty() {
            there
        } else {
            (0..self.hosts.len()).collect()
        };
        if self.dice.percent(50) {
            site.route(among[self.dice.below(among.len())]);
        } else {
            site.route_among(&among);
        }
    }

    /// What is due comes back.
    fn recover(&mut self, site: &mut Site) {
        let now = Instant::now();
        for (host, state) in self.hosts.iter_mut().enumerate() {
            match *state {
                State::Killed(until) if until <= now => site.begin(host),
                State::Stopped(until) if until <= now => {
                    site.hosts[host].process().signal(libc::SIGCONT);
                }
                State::Runs => {
                    let process = site.hosts[host].process();
                    let ended = process.ended();
                    assert!(ended.is_none(), "host {host}, {ended:?}: {}", process.said());
                    continue;
                }
                _ => continue,
            }
            *state = State::Runs;
        }
        for (node, state) in self.nodes.iter_mut().enumerate() {
            match *state {
                State::Killed(until) if until <= now => site.cluster.begin(node),
                State::Stopped(until) if until <= now => site.cluster.signal(node, libc::SIGCONT),
                _ => continue,
            }
            *state = State::Runs;
        }
        let cuts = self.cuts.len();
        self.cuts.retain(|(_, until)| *until > now);
        if self.cuts.len() < cuts {
            self.apply_cuts(site);
        }
    }

    /// All that is away comes back now.
    pub fn end(&mut self, site: &mut Site) {
        let now = Instant::now();
        for state in self.hosts.iter_mut().chain(&mut self.nodes) {
            match state {
                State::Killed(until) | State::Stopped(until) => *until = now,
                State::Runs => {}
            }
        }
        self.cuts.iter_mut().for_each(|(_, until)| *until = now);
        self.recover(site);
        (0..site.hosts.len()).for_each(|host| site.wait_until_ready(host));
        site.cluster.wait_for_leader();
    }
}
