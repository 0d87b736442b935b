//! What the folders of several hosts say is what one log with all their lines says.

use super::*;
use crate::disk::fs::parent;
use crate::programs::options::CopyPlace;

impl World {
    /// Of three hosts. Clocks are ahead by so many microseconds.
    fn of_hosts(full: bool, ahead: [u64; 3]) -> Self {
        let mut world = Self::of_few(full);
        (world.hosts, world.ahead) = (ahead.len(), ahead.to_vec());
        for host in 0..world.hosts {
            let log = world.host_log(host);
            fs::create_dir_all(parent(&log)).unwrap();
            fs::write(log, "").unwrap();
        }
        world
    }

    /// As [`World::step`]; often another host takes a table first, or an address of the pool.
    fn step_of_fleet(&mut self, (step, pause, place, who): (u8, u8, u8, u8), taken: u8) {
        // Lines of several hosts have times of their own.
        self.now += 1;
        let host = usize::from(taken) % self.hosts;
        if taken < 120 {
            let local = Ipv4Addr::new(203, 0, 113, 5 + place % 2);
            let nat64 = *address(place).ip();
            self.owners.insert(TableKey { local, nat64 }, host);
        }
        self.step((step.min(249), pause, place, who), false);
    }

    fn fleet_answer(&self, sought: Sought) -> Answer {
        self.answer_in(self.fleet(), sought)
    }

    /// By what is in a folder.
    fn answer_in(&self, folder: PathBuf, sought: Sought) -> Answer {
        let options = WhoOptions {
            who: sought.asked,
            at: None,
            to: sought.to,
            log: None,
            history: None,
            config: None,
            fleet: Some(CopyPlace::Folder(folder)),
            json: true,
        };
        told(&options, sought).unwrap_or_else(|error| panic!("{sought:?}: {}", error.message))
    }

    fn check_fleet(&self, sought: Sought) {
        let by_one = self.answer(sought, Path::new("off"));
        let answer = self.fleet_answer(sought);
        let by_fleet = answer.to_string() + &answer.json().unwrap();
        if by_one != by_fleet {
            let log = fs::read_to_string(self.log()).unwrap();
            panic!("{sought:?}\n{log}\nby one log:\n{by_one}\nby those of hosts:\n{by_fleet}");
        }
        #[cfg(feature = "fleet")]
        {
            let answer = self.answer_in(self.copies(), sought);
            assert_eq!(
                answer.to_string() + &answer.json().unwrap(),
                by_one,
                "by copies: {sought:?}"
            );
        }
    }

    #[cfg(feature = "fleet")]
    fn copies(&self) -> PathBuf {
        self.folder.path().join("copies")
    }

    #[cfg(not(feature = "fleet"))]
    fn copy(&self) {}

    /// Copies what all hosts have by now.
    #[cfg(feature = "fleet")]
    fn copy(&self) {
        let store = crate::disk::copies::folder::CopyFolder::new(self.copies());
        for host in 0..self.hosts {
            let log = self.host_log(host);
            let place = HistoryPlace::new(log.with_file_name("history"), log);
            let copying = crate::disk::history::HistoryCopying {
                place: &place,
                store: &store,
                host: &format!("host-{host}"),
                removes: false,
                progress: &|_, _| (),
            };
            copying.copy().unwrap();
        }
    }
}

type FleetSteps = Vec<((u8, u8, u8, u8), u8)>;

fn fleet_steps() -> impl Strategy<Value = FleetSteps> {
    prop::collection::vec(any::<((u8, u8, u8, u8), u8)>(), 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Of ports, of addresses of the pool, and of clients, at moments, at spans and ever.
    #[test]
    fn hosts_say_together_what_one_log_says(steps in fleet_steps(), full: bool, moments: [u8; 5]) {
        let mut world = World::of_hosts(full, [0; 3]);
        for steps in steps.chunks(40) {
            steps.iter().for_each(|&(step, taken)| world.step_of_fleet(step, taken));
            world.copy();
        }
        let length = world.now - BEGIN + 2 * SECOND;
        for (place, moment) in (0..24).zip(moments.into_iter().cycle()) {
            let from = BEGIN - SECOND + length / 255 * u64::from(moment);
            for length in [0, length / 5] {
                let [from, until] = [from, from + length].map(Timestamp::from_micros);
                let span = Some(TimeSpan { from, until });
                let to = (full && place % 8 == 3).then_some(Ipv4Addr::new(203, 0, 113, 5));
                world.check_fleet(Sought { asked: port(place), span, to });
                world.check_fleet(Sought { asked: Asked::Pool(pool(place)), span, to: None });
                let asked = clients(place * 7);
                world.check_fleet(Sought { asked, span, to });
                world.check_fleet(Sought { asked, span: None, to });
                let asked = Asked::Port(SocketAddrV4::new(pool(place), 53186));
                world.check_fleet(Sought { asked, span, to: None });
            }
        }
    }

    /// Whatever the clocks of hosts say, up to three seconds apart: a table moves no more often
    /// than each ten seconds, and who takes it deletes nothing for three.
    #[test]
    fn who_has_a_port_now_is_told_where_clocks_differ(
        steps in fleet_steps(),
        ahead in any::<[u16; 3]>(),
    ) {
        let ahead = ahead.map(|ahead| u64::from(ahead) * 2_900_000 / u64::from(u16::MAX));
        let mut world = World::of_hosts(true, ahead);
        for ((step, pause, place, who), taken) in steps {
            let pause = pause.min(239);
            // Of one port; no table is lost.
            let step = if (180..220).contains(&step) { 0 } else { step.min(249) };
            let key = TableKey { local: Ipv4Addr::new(203, 0, 113, 5 + place % 2), nat64: *address(0).ip() };
            if taken < 120 && world.owners.get(&key).copied().unwrap_or(0) != usize::from(taken) % 3 {
                // The one before has deleted it, or the new one does so later.
                if taken % 2 == 0 {
                    world.step_of_fleet((140, 0, place % 2, who), 255);
                } else {
                    world.now += 3 * SECOND;
                }
                world.step_of_fleet((step, pause % 100, place % 2, who), taken);
                world.now += 10 * SECOND;
            } else {
                world.step_of_fleet((step, pause, place % 2, who), 255);
            }
        }
        let span = Some(TimeSpan::moment(Timestamp::from_micros(world.now + 5 * SECOND)));
        let answer = world.fleet_answer(Sought { asked: port(0), span, to: None });
        let told = answer.holdings.iter().filter(|held| held.until.is_none());
        let mut told: Vec<_> = told.map(|held| (held.local, held.client, held.client_port)).collect();
        let is_it = |key: &TableKey, number: u16| key.nat64 == *address(0).ip() && number == 3719;
        let holders = world.tables.iter().filter(|((key, number), _)| is_it(key, *number));
        let mut holders: Vec<_> =
            holders.map(|((key, _), client)| (Some(key.local), client.address, client.port)).collect();
        told.sort_unstable();
        holders.sort_unstable();
        let log = fs::read_to_string(world.log()).unwrap();
        prop_assert_eq!(&told, &holders, "{:?}\n{}", ahead, log);
        let unknown = answer.holdings.iter().filter(|held| held.from.is_none()).count();
        prop_assert_eq!(unknown, 0, "{:?}\n{}\n{:?}", ahead, log, answer.holdings);
    }
}

/// Hosts whose lines may be missing are named, and the answer has what the others say.
#[test]
fn hosts_that_cannot_be_read_are_named() {
    let world = World::of_hosts(true, [0; 3]);
    let line = |minute: u8, what: &str| {
        format!(
            "2019-03-18 10:{minute:02}:00.000000 {what} 192.0.2.7:3719 [2001:db8::17]:1 to 203.0.113.5 via 64:ff9b::/96\n"
        )
    };
    fs::write(world.host_log(0), line(1, "Created")).unwrap();
    fs::write(world.host_log(1), line(2, "Deleted")).unwrap();
    fs::remove_file(world.host_log(2)).unwrap();
    let now = Timestamp::from_micros(BEGIN);
    let find = |at: &str| {
        let span = Some(TimeSpan::parse(at, now).unwrap());
        let sought = Sought { asked: "192.0.2.7:3719".parse().unwrap(), span, to: None };
        super::super::fleet::find(&CopyPlace::Folder(world.fleet()), sought, now)
    };
    let (found, warnings) = find("2019-03-18 10:01:30").unwrap();
    assert_eq!(found.holdings.len(), 1);
    assert_eq!(found.holdings[0].until, Some(Timestamp::from_micros(BEGIN - 268 * SECOND)));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("host host-2: its event log"), "{warnings:?}");
    let older = "of host host-0 at 2019-03-18 10:01:00.000000 UTC, host-2 before all;";
    assert!(warnings[1].contains(older), "{warnings:?}");
    let (_, warnings) = find("2019-03-18 10:01:00.000000").unwrap();
    assert!(warnings[1].contains("of host host-2 before all;"), "{warnings:?}");
    // A damaged history: its log is read.
    build(&world.host_log(1).with_file_name("history"), &world.host_log(1), 1);
    let held = world.host_log(1).with_file_name("history").join("held");
    let file = fs::read_dir(held).unwrap().next().unwrap().unwrap().path();
    fs::write(file, "none").unwrap();
    let (found, warnings) = find("2019-03-18 10:01:30").unwrap();
    assert!(found.holdings[0].until.is_some());
    assert!(warnings.iter().any(|said| said.contains("event log was read alone")), "{warnings:?}");
    // None can be read.
    fs::remove_dir_all(parent(&world.host_log(1))).unwrap();
    fs::remove_dir_all(parent(&world.host_log(0))).unwrap();
    assert!(find("2019-03-18 10:01:30").is_err());
    fs::remove_dir_all(world.fleet()).unwrap();
    let error = find("2019-03-18 10:01:30").err().unwrap();
    assert!(error.message.starts_with("--fleet: "), "{}", error.message);
}
