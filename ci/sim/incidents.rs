//! Faults that are no packet's: what they do, and how they end.

use std::time::Duration;

use nat64handoff::handoff::entry::{Entry, MappedPort};
use nat64handoff::ip::build::ipv4_udp;

use crate::host::Host;
use crate::kind::Kind;
use crate::net::port_unreachable;
use crate::sim::Fault;
use crate::stranger::Control;
use crate::trace::Who;
use crate::world::{Event, World, handoff, host_now};

const SECOND: Duration = Duration::from_secs(1);
/// A server is killed after fewer steps than this, once there is something to do.
pub const STEPS_MAX: usize = 8;
/// A disk fails at one of so many operations from now on.
const OPERATIONS_MAX: usize = 24;

impl World {
    /// An incident of that kind happens.
    pub fn incident(&mut self, kind: Kind) {
        if !self.faults.counts(kind) {
            return;
        }
        let number = self.faults.last();
        self.note(Who::Network, kind as u64, || format!("fault {number}: {}", kind.name()));
        match kind {
            Kind::Rebinding => self.rebind(),
            Kind::Unreachable => self.close(),
            Kind::ForgedUnreachable => self.forge_unreachable(),
            Kind::Strangers => self.forge(),
            Kind::FalseReports => self.report_falsely(),
            Kind::Kill => self.state.dies_after = Some(self.faults.dice(kind).below(STEPS_MAX)),
            Kind::KillInDisk => self.kill_in_disk(),
            Kind::PowerCut => self.cut_power(),
            Kind::DiskError => self.fail_disk(kind, Fault::InputOutput),
            Kind::DiskFull => self.fail_disk(kind, Fault::NoSpace),
            Kind::SlowDisk => self.slow_disk(),
            Kind::HandOver => self.hand_over(),
            Kind::Ban => self.ban(),
            Kind::DropTable => self.drop_table(),
            Kind::Reload => self.host.reopen_log(),
            Kind::LogRotation if self.state.dark => {}
            Kind::LogRotation => self.host.rotate_log(),
            Kind::WallJump => self.set_clock(),
            Kind::Pause => self.pause(),
            Kind::Reactors => self.change_reactors(),
            Kind::Reboot => self.reboot(),
            Kind::Rotation => self.rotate(),
            Kind::Loss | Kind::Duplication | Kind::Delay | Kind::Corruption => {}
            Kind::LostFragments | Kind::Limits => {}
        }
        self.wake_server();
    }

    /// An incident is over.
    pub fn over(&mut self, kind: Kind, which: usize) {
        match kind {
            Kind::PowerCut if self.state.dark => {
                self.state.dark = false;
                self.start_server();
            }
            Kind::Unreachable => {
                self.state.closed = false;
                self.start_server();
            }
            Kind::DiskError | Kind::DiskFull => {
                self.host.heal_disk();
                self.state.disk_fails = false;
                self.forget_writes(kind);
                if kind == Kind::DiskError {
                    // The operator has seen it.
                    self.stop_server(false);
                }
                self.start_server();
            }
            Kind::SlowDisk => {
                self.host.disk_waits = false;
                self.forget_writes(kind);
            }
            Kind::HandOver => self.succeed(),
            Kind::Ban => self.unban(which),
            _ => {}
        }
        self.wake_server();
    }

    fn any_nat64(&mut self, kind: Kind) -> usize {
        let count = self.nat64s.len();
        self.faults.dice(kind).below(count)
    }

    fn lasts(&mut self, kind: Kind, from: Duration, to: Duration) {
        let lasts = self.faults.dice(kind).time(from, to);
        self.after(lasts, Event::Over(kind, 0));
    }

    fn rebind(&mut self) {
        let number = self.any_nat64(Kind::Rebinding);
        let port = 20_000 + self.faults.dice(Kind::Rebinding).below(20_000) as u16;
        self.nat64s[number].outer = Some(port);
        self.note(Who::Nat64(number), port.into(), || format!("is seen at port {port} now"));
    }

    fn close(&mut self) {
        self.end_server(Host::kill);
        self.state.closed = true;
        self.note(Who::Server, 1, || "ends, and its port is closed".into());
        self.lasts(Kind::Unreachable, SECOND, 20 * SECOND);
    }

    fn kill_in_disk(&mut self) {
        if !self.state.disk_fails && self.host.runs() && !self.host.is_to_die() {
            let operation = self.faults.dice(Kind::KillInDisk).below(OPERATIONS_MAX);
            self.host.die_in_disk(operation as u64);
        }
    }

    fn cut_power(&mut self) {
        let synced = self.host.is_synced_since();
        self.end_server(Host::kill);
        self.judge.power_was_cut(synced);
        (self.state.dark, self.state.booted) = (true, self.now);
        self.state.may_exceed = self.state.shards > 1;
        self.host.cut_power(host_now(self.now, &self.state));
        (self.state.disk_fails, self.state.disk_failed) = (false, false);
        self.note(Who::Host, 4, || "loses power".into());
        self.lasts(Kind::PowerCut, SECOND, 10 * SECOND);
    }

    fn fail_disk(&mut self, kind: Kind, fault: Fault) {
        if self.host.is_to_die() || self.state.disk_fails {
            return;
        }
        if self.mutant.is(kind) {
            self.host.remember_disk();
            return self.lasts(kind, SECOND / 10, 10 * SECOND);
        }
        let dice = self.faults.dice(kind);
        let (operation, for_good) = (dice.below(OPERATIONS_MAX) as u64, dice.chance(5000));
        let log_too = kind == Kind::DiskFull && dice.chance(5000);
        self.host.disk.fail(operation, fault, for_good);
        if log_too {
            self.host.fill_log_disk();
        }
        (self.state.disk_fails, self.state.disk_failed) = (true, true);
        self.lasts(kind, SECOND / 10, 10 * SECOND);
    }

    /// By a canary: the server takes for written what was not, as the disk failed or was slow.
    fn forget_writes(&mut self, kind: Kind) {
        if self.mutant.is(kind) && self.host.runs() {
            self.end_server(Host::kill);
            self.host.forget_writes();
            self.start_server();
        }
    }

    fn slow_disk(&mut self) {
        if self.mutant.is(Kind::SlowDisk) {
            self.host.remember_disk();
        }
        self.host.disk_waits = true;
        self.lasts(Kind::SlowDisk, SECOND / 10, 5 * SECOND);
    }

    fn hand_over(&mut self) {
        self.host.read_ahead();
        self.lasts(Kind::HandOver, SECOND / 1000, SECOND);
    }

    /// What was begun by [`World::hand_over`] ends, if the server still runs.
    fn succeed(&mut self) {
        if self.host.runs() && !self.state.disk_fails {
            self.stop_server(true);
            self.start_server();
        } else {
            self.host.read_in_vain();
        }
    }

    fn ban(&mut self) {
        let count = self.talkers.len();
        let number = self.faults.dice(Kind::Ban).below(count);
        let address = self.talkers[number].client.address;
        // Where it is killed meanwhile, nobody knows whether it has written that.
        let told = self.host.ban(address);
        self.talkers[number].banned = true;
        self.note(Who::Operator, told.into(), || format!("bans client {number}: {told}"));
        let lasts = self.faults.dice(Kind::Ban).time(SECOND, 20 * SECOND);
        self.after(lasts, Event::Over(Kind::Ban, number));
    }

    fn drop_table(&mut self) {
        let number = self.any_nat64(Kind::DropTable);
        let table = self.key(number, self.locals[0]);
        self.host.drop_table(table);
        self.note(Who::Operator, 3, || format!("drops the table of nat64 {number}"));
    }

    fn change_reactors(&mut self) {
        let dice = self.faults.dice(Kind::Reactors);
        let (reactors, gently) = (1 + dice.below(4), dice.chance(5000));
        if gently {
            self.stop_server(false);
        } else {
            self.end_server(Host::kill);
        }
        self.state.reactors = reactors;
        let later = self.faults.dice(Kind::Reactors).time(SECOND / 100, SECOND);
        self.after(later, Event::Start);
    }

    fn forge_unreachable(&mut self) {
        let number = self.any_nat64(Kind::ForgedUnreachable);
        let local = self.locals[0];
        let control = self.nat64s[number].gateway.nat64().control_port().0;
        let from = std::net::SocketAddrV4::new(self.nat64s[number].address, control);
        let dice = self.faults.dice(Kind::ForgedUnreachable);
        let token: Vec<u8> =
            [0x34, 8].into_iter().chain(dice.seed().into_iter().take(16)).collect();
        let length = if dice.chance(5000) { token.len() } else { dice.below(token.len()) };
        let about = ipv4_udp(from, handoff(local), &token[..length]);
        let error = port_unreachable(local, &about);
        self.after(SECOND / 100, Event::AtNat64(number, error));
    }

    fn forge(&mut self) {
        let number = self.any_nat64(Kind::Strangers);
        let local = self.locals[0];
        let source = self.control_source(number);
        let count = self.nat64s[number].seen.len();
        let dice = self.faults.dice(Kind::Strangers);
        let (way, which) = (dice.below(4), dice.below(count));
        let own = self.stranger.request(local);
        let control = match way {
            0 => own,
            // In the name of a NAT64, whose token it does not know.
            1 => Control { peer: source, ..own },
            // What a NAT64 said, once more.
            2 | 3 if count > 0 => {
                let seen = self.nat64s[number].seen[which].clone();
                let peer = if way == 2 { seen.peer } else { own.peer };
                Control { peer, ..seen }
            }
            _ => own,
        };
        self.note(Who::Stranger, way as u64, || format!("sends a request as {}", control.peer));
        let packet = ipv4_udp(control.peer, handoff(control.local), &control.payload);
        self.after(SECOND / 100, Event::AtHost(packet));
    }

    fn report_falsely(&mut self) {
        let number = self.any_nat64(Kind::FalseReports);
        let of: Vec<_> = self.talkers.iter().filter(|talker| talker.nat64 == number).collect();
        let (clients, ports): (Vec<_>, Vec<_>) = of
            .iter()
            .map(|talker| {
                let port =
                    self.nat64s[number].gateway.nat64().port_of(talker.local, &talker.client);
                (talker.client, port)
            })
            .unzip();
        let local = of[0].local;
        let dice = self.faults.dice(Kind::FalseReports);
        let lies = 1 + dice.below(3);
        let entries: Vec<_> = (0..lies)
            .map(|_| {
                let client = *dice.pick(&clients);
                let any = MappedPort(1024 + dice.below(60_000) as u16);
                Entry { port: dice.pick(&ports).unwrap_or(any), client }
            })
            .collect();
        let payload = self.nat64s[number].gateway.nat64().report(self.now, local, &entries);
        let table = self.key(number, local);
        self.mutant.reported.insert(table, entries[0].emit()[2..].to_vec());
        let source = self.control_source(number);
        let packet = ipv4_udp(source, handoff(local), &payload);
        self.note(Who::Nat64(number), lies as u64, || format!("reports {lies} entries falsely"));
        self.after(SECOND / 100, Event::AtHost(packet));
    }

    fn set_clock(&mut self) {
        let dice = self.faults.dice(Kind::WallJump);
        let by = dice.around(3600 * SECOND).as_micros() as i64;
        let by = if dice.chance(5000) { by } else { -by };
        self.state.ahead += by;
        self.note(Who::Host, by as u64, || format!("its clock is set by {} s", by / 1_000_000));
    }

    fn pause(&mut self) {
        let lasts = self.faults.dice(Kind::Pause).around(10 * SECOND);
        self.state.paused_until = self.state.paused_until.max(self.now + lasts);
        self.mutant.was_paused = true;
        self.note(Who::Server, 3, || format!("gets no time for {lasts:?}"));
    }

    fn reboot(&mut self) {
        let number = self.any_nat64(Kind::Reboot);
        let seed = self.faults.dice(Kind::Reboot).seed();
        let nat64 = &mut self.nat64s[number];
        nat64.gateway.reboot(seed);
        nat64.rebooted = self.now;
        self.note(Who::Nat64(number), 4, || "reboots".into());
    }

    fn rotate(&mut self) {
        let number = self.any_nat64(Kind::Rotation);
        self.nat64s[number].gateway.rotate_token(self.now);
        self.note(Who::Nat64(number), 5, || "rotates its token".into());
    }
}
