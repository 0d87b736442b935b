//! SIGUSR2 under a service manager: the next process reads the state beside the one that serves,
//! and takes over; or it does not, and nothing has happened (PROTOCOL.md section 9: nothing that
//! was announced is lost, each event is logged once).

use crate::ask::check_entries;
use crate::harness::process::{Process, print_if_failed, wait_until};
use crate::harness::program::{LOCAL, SERVING, free_port, without_variables};
use crate::http;
use crate::judge::PATIENCE;
use crate::judge::client::{Client, Entry};
use crate::judge::eventlog::{self, Kind};
use crate::judge::nat64::Nat64;
use crate::manager::Manager;
use crate::restart::{check_known, map_all};
use crate::server::Server;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nat64handoff");
const BESIDE: &str = "starting the program anew, beside this server";
const EXECUTING: &str = "executing the program anew";
/// How often a hand-over is tried: see [`Service::hand_over`].
const HAND_OVERS_MAX: usize = 5;

/// A server that is a service, and the processes that come after its first one.
struct Service {
    /// What it works with. Nothing runs in it.
    server: Server,
    manager: Manager,
    first: Process,
    /// The path that it is started with.
    path: PathBuf,
}

impl Service {
    fn start(extra: &[&str]) -> Service {
        let server = Server::new();
        let manager = Manager::new();
        let path = server.directory.path().join("nat64handoff");
        symlink(PROGRAM, &path).unwrap();
        let first = Service::spawn(&server, &manager, &path, extra);
        Service { server, manager, first, path }
    }

    fn spawn(server: &Server, manager: &Manager, path: &Path, extra: &[&str]) -> Process {
        // As the service manager does.
        let mut command = without_variables(Command::new("bash"));
        command.args(["-c", "SYSTEMD_EXEC_PID=$$ exec \"$0\" \"$@\""]).arg(path);
        command.args(server.serve(extra).get_args());
        manager.watches(&mut command);
        let mut first = Process::spawn(&mut command);
        assert!(first.says(SERVING, PATIENCE), "{}", first.said());
        first
    }

    /// From now on it is this script that is started to serve, with the program as `$real`.
    fn next_is(&self, script: &str) {
        let new = self.path.with_extension("new");
        let text = format!(
            "#!/bin/bash\nreal={PROGRAM}\n[ \"$1\" = serve ] || exec $real \"$@\"\n{script}\n"
        );
        // Not by this process: its threads start others, which would have the file open to write,
        // and nobody could execute it then.
        let mut write = Command::new("bash");
        write.args(["-c", "printf %s \"$1\" >\"$0\"; chmod 755 \"$0\""]).arg(&new).arg(text);
        assert!(write.status().unwrap().success());
        fs::rename(new, &self.path).unwrap();
    }

    /// From now on it is the program again.
    fn next_is_the_program(&self) {
        let new = self.path.with_extension("new");
        symlink(PROGRAM, &new).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    /// The process that serves.
    fn process(&self) -> u32 {
        self.manager.service().unwrap_or(self.first.id)
    }

    fn signal(&self, signal: i32) {
        // SAFETY: takes numbers alone.
        assert_eq!(unsafe { libc::kill(self.process() as i32, signal) }, 0);
    }

    /// How often it was said.
    fn said(&self, text: &str) -> usize {
        self.first.stderr.get().matches(text).count()
    }

    /// Waits until it was said so often.
    fn says(&self, text: &str, times: usize) {
        assert!(wait_until(PATIENCE, || self.said(text) >= times), "{text}: {}", self.first.said());
    }

    /// Another process takes over, and serves. Where the disk is so busy that the log's last sync
    /// takes long, the same process executes the program instead: then once more.
    fn hand_over(&self) {
        for _ in 0..HAND_OVERS_MAX {
            let (before, serving) = (self.process(), self.said(SERVING));
            let executed = self.said(EXECUTING);
            self.signal(libc::SIGUSR2);
            self.says(SERVING, serving + 1);
            if self.process() != before {
                assert!(wait_until(PATIENCE, || has_ended(before)), "{}", self.first.said());
                return;
            }
            assert_eq!(self.said(EXECUTING), executed + 1, "{}", self.first.said());
        }
        panic!("it never takes over: {}", self.first.said());
    }

    /// Stops what serves, and returns its log.
    fn stop(&mut self) -> Vec<eventlog::Event> {
        self.signal(libc::SIGTERM);
        assert!(wait_until(PATIENCE, || has_ended(self.process())), "{}", self.first.said());
        let status = self.first.wait(PATIENCE).expect("all have ended");
        assert_eq!(status.code(), Some(0), "{}", self.first.said());
        let events = eventlog::parse_all(&fs::read_to_string(&self.server.log).unwrap());
        eventlog::check_consistency(&events);
        events
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        print_if_failed("the service", &self.first.stderr.get());
        if let Some(process) = self.manager.service().filter(|&process| !has_ended(process)) {
            // SAFETY: takes numbers alone.
            unsafe { libc::kill(process as i32, libc::SIGKILL) };
        }
    }
}

/// It may still be waited for.
fn has_ended(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

fn are_logged_once(events: &[eventlog::Event], nat64: &Nat64, entries: &[Entry]) {
    let mut lines: HashMap<_, usize> = HashMap::new();
    let created = events.iter().filter(|event| event.kind == Kind::Created);
    for event in created.filter(|event| event.nat64 == nat64.address) {
        *lines.entry(event.entry.unwrap()).or_default() += 1;
    }
    for entry in entries {
        let line = (entry.mapped, entry.client.address, entry.client.port);
        assert_eq!(lines.get(&line), Some(&1), "{entry:?}");
    }
}

/// Several times in a row, while new clients come and known ones ask without a pause: every one of
/// them is answered, and the next process knows them all.
#[test]
fn section_9_a_successor_takes_over_beside() {
    let mut service = Service::start(&["--reactors", "2"]);
    let nat64s: Vec<_> = (0..4).map(|_| Nat64::known(&service.server)).collect();
    let end = AtomicBool::new(false);
    let told: Vec<(Nat64, Vec<Entry>)> = thread::scope(|scope| {
        let ask = |nat64: Nat64| {
            let mut told = Vec::new();
            while !end.load(Ordering::Acquire) {
                // Both wait for their answers.
                let client = Client::nth(told.len() as u32);
                told.push(client.at(nat64.map(client)));
                check_entries("meanwhile", &nat64, &told[told.len() / 2..][..1]);
            }
            (nat64, told)
        };
        let asking: Vec<_> =
            nat64s.into_iter().map(|nat64| scope.spawn(move || ask(nat64))).collect();
        for _ in 0..4 {
            service.hand_over();
        }
        end.store(true, Ordering::Release);
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (nat64, told) in &told {
        check_known("after all", nat64);
        check_entries("after all", nat64, told);
        assert!(told.len() > 10, "{}", told.len());
    }
    assert_eq!(service.said(BESIDE) - service.said(EXECUTING), 4);
    // Whoever serves tells the service manager that it is alive.
    let signs = service.manager.signs_of_life();
    assert!(wait_until(PATIENCE, || service.manager.signs_of_life() > signs));
    let events = service.stop();
    told.iter().for_each(|(nat64, told)| are_logged_once(&events, nat64, told));
}

/// With another number of reactors, what waits in the sockets is lost: nothing else is.
#[test]
fn section_9_a_successor_with_another_number_of_reactors() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let write =
        |reactors: usize| fs::write(file.path(), format!("reactors = {reactors}\n")).unwrap();
    write(1);
    let mut service = Service::start(&["--config", file.path().to_str().unwrap()]);
    let nat64s: Vec<_> = (0..6).map(|_| Nat64::known(&service.server)).collect();
    let mut told: Vec<Vec<Entry>> = vec![Vec::new(); nat64s.len()];
    for (round, reactors) in [3, 2, 4].into_iter().enumerate() {
        for (nat64, told) in nat64s.iter().zip(&mut told) {
            let first = 100 * round as u32;
            told.extend(map_all(nat64, (first..first + 30).map(Client::nth)));
        }
        write(reactors);
        service.hand_over();
        assert!(service.said(&format!("with {reactors} reactors")) > 0);
        for (nat64, told) in nat64s.iter().zip(&told) {
            check_known("after a hand-over", nat64);
            check_entries("after a hand-over", nat64, told);
        }
    }
    let events = service.stop();
    nat64s.iter().zip(&told).for_each(|(nat64, told)| are_logged_once(&events, nat64, told));
}

/// Who asks what the server does is answered by the one or the other, at the same sockets: under a
/// service manager, and where the same process executes the program.
#[test]
fn section_9_a_successor_is_asked_at_the_same_sockets() {
    let web: SocketAddr = (LOCAL, free_port()).into();
    let arguments = ["--reactors", "2", "--web", &web.to_string()];
    let mut service = Service::start(&arguments);
    let path = service.server.state.join("admin.sock");
    asking_all_the_time(&path, web, 4, || service.hand_over());
    service.stop();
    assert!(!path.exists(), "nobody is there any more");

    let mut server = Server::started(&arguments);
    let path = server.state.join("admin.sock");
    asking_all_the_time(&path, web, 3, || {
        let before = server.stderr().matches(SERVING).count();
        server.signal(libc::SIGUSR2);
        let serves = || server.stderr().matches(SERVING).count() > before;
        assert!(wait_until(PATIENCE, serves), "{}", server.stderr());
    });
    // One that is killed leaves its socket, and the next one takes its place.
    server.kill();
    assert!(path.exists());
    server.start(&arguments);
    assert_eq!(http::get(&path, "/status").json()["ready"], true);
    server.stop();
    assert!(!path.exists());
}

/// Asks at both sockets, while this number of processes follow each other: somebody listens all the
/// time, and each of them answers. What one has no time to answer before it ends is asked again.
fn asking_all_the_time(path: &Path, web: SocketAddr, processes: usize, mut next: impl FnMut()) {
    let host = format!("Host: {web}");
    let since = |answer: http::Answered| {
        let begin = "nat64handoff_start_time_seconds ";
        let line = answer.body.lines().find_map(|line| line.strip_prefix(begin));
        line.map(str::to_owned)
    };
    let (seen, end) = (Mutex::new([BTreeSet::new(), BTreeSet::new()]), AtomicBool::new(false));
    let seen_by_both = || seen.lock().unwrap().iter().map(BTreeSet::len).min().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Acquire) {
                // To connect never fails.
                let unix = http::try_ask(http::unix(path), "GET /metrics", &["Host: localhost"]);
                let tcp = http::try_ask(http::tcp(web), "GET /metrics", &[&host]);
                for (seen, answer) in seen.lock().unwrap().iter_mut().zip([unix, tcp]) {
                    seen.extend(answer.and_then(since));
                }
            }
        });
        // Ends the thread also where this fails.
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for process in 1..=processes {
                assert!(wait_until(PATIENCE, || seen_by_both() >= process), "{seen:?}");
                if process < processes {
                    next();
                }
            }
        }));
        end.store(true, Ordering::Release);
        asked.unwrap();
    });
    assert_eq!(seen_by_both(), processes, "{seen:?}");
}

/// What a process that goes on cannot have any more is said, and done without: a restart has it.
#[test]
fn section_9_a_successor_serves_without_another_web_address() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let [before, after] = [(); 2].map(|()| SocketAddr::from((LOCAL, free_port())));
    let write = |web: SocketAddr| fs::write(file.path(), format!("web = '{web}'\n")).unwrap();
    write(before);
    let mut service = Service::start(&["--config", file.path().to_str().unwrap()]);
    let nat64 = Nat64::known(&service.server);
    let ready = |web| http::ask(http::tcp(web), "GET /readyz", &["Host: localhost"]).code;
    assert_eq!(ready(before), 200);
    write(after);
    service.hand_over();
    service.says("until a restart, the server does without", 1);
    check_known("without", &nat64);
    // The former server's socket is gone once that has ended, a moment after it said so.
    let is_closed = || TcpStream::connect(before).is_err() && TcpStream::connect(after).is_err();
    assert!(wait_until(PATIENCE, is_closed), "{}", service.first.said());
    assert_eq!(http::get(&service.server.state.join("admin.sock"), "/readyz").code, 200);
    service.stop();
    service.first = Service::spawn(
        &service.server,
        &service.manager,
        &service.path,
        &["--config", file.path().to_str().unwrap()],
    );
    assert_eq!(ready(after), 200);
    service.first.signal(libc::SIGTERM);
    assert!(service.first.wait(PATIENCE).is_some());
}

/// What would take over ends, hangs, or has nothing to say: the server goes on, and can be told
/// again, or be stopped.
#[test]
fn section_9_a_successor_that_fails_changes_nothing() {
    const GOES_ON: &str = "this server goes on, as the program that would take over has ended";
    let service = Service::start(&[]);
    let nat64 = Nat64::known(&service.server);
    let mut told = map_all(&nat64, (0..50).map(Client::nth));
    let scripts =
        ["exit 3", "kill -9 $$", "printf xxxxx >&$CHANNEL_OF_NAT64HANDOFF; exec sleep 1000"];
    for (times, script) in scripts.into_iter().enumerate() {
        service.next_is(script);
        service.signal(libc::SIGUSR2);
        service.says(GOES_ON, times + 1);
        told.extend(map_all(&nat64, (100 * (times + 1) as u32..).take(20).map(Client::nth)));
        check_entries(script, &nat64, &told);
    }
    for how in ["exit status: 3", "signal: 9", "does not understand"] {
        assert!(service.said(how) > 0, "{how}");
    }
    // One that can read nothing beforehand: the same process executes the program.
    service.next_is(
        "[ -n \"$CHANNEL_OF_NAT64HANDOFF\" ] || exec -a \"$0\" $real \"$@\"\n\
         printf c0000 >&$CHANNEL_OF_NAT64HANDOFF; exec sleep 1000",
    );
    service.signal(libc::SIGUSR2);
    service.says(SERVING, 2);
    assert_eq!((service.manager.service(), service.said(EXECUTING)), (None, 1));
    check_known("executed", &nat64);
    check_entries("executed", &nat64, &told);
    // One that is never ready is no reason not to stop.
    service.next_is("exec sleep 1000");
    service.signal(libc::SIGUSR2);
    service.says(BESIDE, 5);
    check_entries("beside one that hangs", &nat64, &told);
    service.signal(libc::SIGTERM);
    assert!(wait_until(PATIENCE, || has_ended(service.process())), "{}", service.first.said());
    let events = eventlog::parse_all(&fs::read_to_string(&service.server.log).unwrap());
    are_logged_once(&events, &nat64, &told);
}

/// The server is killed while its successor reads: that one takes nothing, and the next start has
/// all there is.
#[test]
fn section_9_a_server_that_is_killed_has_no_successor() {
    let mut service = Service::start(&[]);
    let nat64 = Nat64::known(&service.server);
    let told = map_all(&nat64, (0..50).map(Client::nth));
    let (go, numbers) = (service.path.with_extension("go"), service.path.with_extension("numbers"));
    service.next_is(&format!(
        "echo $$ >>{numbers}\n[ -z \"$DETACH_BY_NAT64HANDOFF\" ] || exec -a \"$0\" $real \"$@\"\n\
         while [ ! -e {go} ]; do sleep 0.01; done\nexec $real \"$@\"",
        numbers = numbers.display(),
        go = go.display()
    ));
    service.signal(libc::SIGUSR2);
    // The process that starts it, and the successor itself.
    let mut successor = 0;
    assert!(wait_until(PATIENCE, || {
        let text = fs::read_to_string(&numbers).unwrap_or_default();
        let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.nth(1).is_some_and(|line| {
            successor = line.trim().parse().unwrap();
            true
        })
    }));
    // It can neither answer its successor nor end.
    service.signal(libc::SIGSTOP);
    fs::write(&go, "").unwrap();
    let program = fs::canonicalize(PROGRAM).unwrap();
    let executes =
        || fs::read_link(format!("/proc/{successor}/exe")).is_ok_and(|exe| exe == program);
    assert!(wait_until(PATIENCE, executes));
    service.signal(libc::SIGKILL);
    assert!(wait_until(PATIENCE, || has_ended(successor)), "{}", service.first.said());
    assert!(service.first.wait(PATIENCE).is_some());
    assert_eq!((service.manager.service(), service.said(SERVING)), (None, 1));
    assert_eq!(service.said("not taking over"), 1, "{}", service.first.said());

    service.next_is_the_program();
    service.first = Service::spawn(&service.server, &service.manager, &service.path, &[]);
    check_known("after a kill", &nat64);
    check_entries("after a kill", &nat64, &told);
    are_logged_once(&service.stop(), &nat64, &told);
}
