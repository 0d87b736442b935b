//! Machines that are odd: signals that come early, limits that are low, standard descriptors that
//! are closed, full or watched.

use crate::harness::process::{Process, wait_until};
use crate::harness::program::{
    LOCAL, SERVING, command, free_port, serves, wants_discard_port, without_variables,
};
use crate::harness::skip::cannot_run;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::{PATIENCE, SHORT};
use crate::run::run;
use crate::server::Server;
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nat64handoff");

/// A command that serves on 127.0.0.1, and what it serves with.
struct Serve {
    port: u16,
    directory: tempfile::TempDir,
}

impl Serve {
    fn new() -> Serve {
        wants_discard_port();
        Serve { port: free_port(), directory: tempfile::tempdir().unwrap() }
    }

    fn addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(LOCAL, self.port)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("events.log")
    }

    /// `prefix` is a command that executes the program.
    fn command(&self, prefix: &[&str], extra: &[&str]) -> Command {
        let mut words = prefix.iter().copied().chain([PROGRAM]);
        let mut command = without_variables(Command::new(words.next().unwrap()));
        command.args(words).args(["serve", "--listen", &self.addr().to_string()]);
        command.arg("--state").arg(self.directory.path().join("state"));
        command.arg("--log").arg(self.log()).args(extra);
        command
    }
}

/// Whether the process holds, ignores or handles each of these signals.
fn is_guarded(process: u32, signals: &[i32]) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let sets = ["SigBlk:", "SigIgn:", "SigCgt:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    });
    let guarded = sets.into_iter().fold(0, |all, set| all | set);
    signals.iter().all(|signal| guarded & 1 << (signal - 1) != 0)
}

const ENDING: [i32; 5] = [libc::SIGHUP, libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGUSR2];

/// From where `main` begins, no signal ends it that is not meant to, also where it executes itself
/// again; one that came before it serves is heeded when it does.
#[test]
fn command_line_signals_while_it_starts() {
    for _ in 0..10 {
        let serve = Serve::new();
        let mut process = Process::spawn(&mut serve.command(&[], &["--reactors", "1"]));
        let guarded = wait_until(PATIENCE, || is_guarded(process.id, &ENDING));
        assert!(guarded, "a signal ends it: {}", process.said());
        for signal in [libc::SIGHUP, libc::SIGUSR1] {
            process.signal(signal);
        }
        // Looked at all the time, so that no gap is missed but by chance.
        let serves = wait_until(PATIENCE, || {
            for _ in 0..100 {
                assert!(is_guarded(process.id, &ENDING), "for a moment, a signal ends it");
            }
            process.stderr.contains(SERVING)
        });
        assert!(serves, "{:?}\n{}", process.ended(), process.said());
        for signal in [libc::SIGHUP, libc::SIGUSR1] {
            process.signal(signal);
        }
        Nat64::known(serve.addr()).map(Client::nth(1));
        process.signal(libc::SIGTERM);
        assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0), "{}", process.said());
        assert!(process.stderr.contains("SIGHUP"), "{}", process.said());
    }
}

/// SIGUSR2 without a service manager: the same process executes the program that is at its path
/// now, and goes on with sockets and state. Where that one would not start, this one goes on.
#[test]
fn command_line_executes_anew() {
    let serve = Serve::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nat64handoff");
    std::fs::copy(PROGRAM, &path).unwrap();
    let mut command = without_variables(Command::new(&path));
    command.args(serve.command(&[], &["--reactors", "2"]).get_args());
    let mut process = Process::spawn(&mut command);
    assert!(process.says(SERVING, PATIENCE), "{}", process.said());
    let nat64 = Nat64::known(serve.addr());
    let mapped = nat64.map(Client::nth(1));
    let said = |process: &Process, text: &str| process.stderr.get().matches(text).count();

    std::fs::rename(&path, folder.path().join("old")).unwrap();
    process.signal(libc::SIGUSR2);
    assert!(process.says("this server goes on", PATIENCE), "{}", process.said());
    assert_eq!(nat64.map(Client::nth(1)), mapped);

    std::fs::copy(PROGRAM, &path).unwrap();
    let number = process.id;
    for times in 2..=4 {
        process.signal(libc::SIGUSR2);
        // Asked before it serves again: that waits in the socket.
        assert!(wait_until(PATIENCE, || said(&process, "executing") == times - 1));
        assert_eq!(nat64.map(Client::nth(1)), mapped);
        let serves = wait_until(PATIENCE, || said(&process, SERVING) == times);
        assert!(serves, "{}", process.said());
    }
    let program = std::fs::read_link(format!("/proc/{number}/exe")).unwrap();
    assert_eq!(program, path, "what is there now");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0), "{}", process.said());
}

#[test]
fn command_line_ended_while_it_starts() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let serve = Serve::new();
        let mut process = Process::spawn(&mut serve.command(&[], &[]));
        assert!(wait_until(PATIENCE, || is_guarded(process.id, &ENDING)));
        process.signal(signal);
        assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0), "{}", process.said());
        assert!(process.stderr.contains("stopped: "), "{}", process.said());
    }
}

/// A limit on the size of files is no room like any other: known clients are served, and the limit
/// is named.
#[test]
fn command_line_limit_on_files() {
    let serve = Serve::new();
    let limit = ["prlimit", "--core=0", "--fsize=65536:65536"];
    let mut process = Process::spawn(&mut serve.command(&limit, &["--reactors", "1"]));
    assert!(process.says(SERVING, PATIENCE), "{}", process.said());
    let nat64 = Nat64::known(serve.addr());
    let first = nat64.map(Client::nth(0));
    let mut refused = false;
    for number in 1..3000 {
        nat64.send(
            &nat64.client_request(
                &Client::nth(number).authenticator(),
                &Client::nth(number).udp(b""),
            ),
        );
        if nat64.try_reply(SHORT).is_none() {
            refused = true;
            break;
        }
    }
    assert!(refused, "a limit of 64 KiB does not hold 3000 clients");
    assert_eq!(process.ended(), None, "{}", process.said());
    assert!(process.says("LimitFSIZE=", PATIENCE), "{}", process.said());
    assert_eq!(nat64.map(Client::nth(0)), first, "known clients are served");
    process.signal(libc::SIGTERM);
    assert!(process.wait(PATIENCE).unwrap().code().is_some(), "not by a signal");
}

/// The soft limit is raised. Where the hard one is too low, that is said before anything starts.
#[test]
fn command_line_limit_on_descriptors() {
    let serve = Serve::new();
    let reactors = ["--reactors", "16"];
    for io in ["uring", "mmsg"] {
        let limit = ["prlimit", "--nofile=32:1024"];
        let extra = [&reactors[..], &["--io", io]].concat();
        let mut process = Process::spawn(&mut serve.command(&limit, &extra));
        assert!(serves(&mut process, PATIENCE), "{}", process.said());
        process.signal(libc::SIGTERM);
        assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0), "{}", process.said());
    }
    for limit in ["8", "16", "64", "100"] {
        let limit = ["prlimit", &format!("--nofile={limit}:{limit}")];
        let mut process = Process::spawn(&mut serve.command(&limit, &reactors));
        let status = process.wait(PATIENCE).unwrap();
        let said = process.said();
        assert_eq!(status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("LimitNOFILE=") && said.contains("fewer --reactors"), "{said}");
    }
}

/// Addresses that are limited are enough where memory is. Where they are not, that is said before
/// anything starts.
#[test]
fn command_line_limit_on_addresses() {
    let serve = Serve::new();
    let limit = |mebioctets: u64| format!("--as={}", mebioctets << 20);
    // What talks to other hosts makes the program longer.
    let fleet = if cfg!(feature = "fleet") { 10 } else { 0 };
    for (io, enough) in [("uring", 162 + fleet), ("mmsg", 258 + fleet)] {
        // More is no less: threads that each reserve 64 MB took so much that others had none.
        for mebioctets in [enough, 272, 384] {
            let extra = ["--reactors", "8", "--io", io];
            let mut command = serve.command(&["prlimit", &limit(mebioctets)], &extra);
            let mut process = Process::spawn(&mut command);
            assert!(serves(&mut process, PATIENCE), "{mebioctets} MB, {io}: {}", process.said());
            Nat64::known(serve.addr()).map(Client::nth(1));
            process.signal(libc::SIGTERM);
            assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0), "{}", process.said());
        }
    }
    // With less the program itself cannot be loaded.
    let least = if cfg!(feature = "fleet") { 44 } else { 24 };
    for mebioctets in [least, 48, 64, 159] {
        let limit = limit(mebioctets);
        let extra = ["--reactors", "8", "--io", "uring"];
        let mut process = Process::spawn(&mut serve.command(&["prlimit", &limit], &extra));
        let status = process.wait(PATIENCE).unwrap();
        let said = process.said();
        assert_eq!((status.code(), said.lines().count()), (Some(1), 1), "{mebioctets} MB: {said}");
        assert!(said.contains("LimitAS=") && said.contains("fewer --reactors"), "{said}");
    }
}

/// A default that the machine could not hold would be found out by its end.
#[test]
fn command_line_limit_on_memory() {
    let entries = |limit: &[&str]| {
        let mut command = without_variables(Command::new(limit[0]));
        let output = command.args(&limit[1..]).args([PROGRAM, "check-config"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let line = said.lines().find(|line| line.starts_with("max-entries")).unwrap().to_owned();
        let number = line.split(' ').nth(2).unwrap().parse::<u64>().unwrap();
        (number, line)
    };
    let (free, _) = entries(&["env"]);
    let (limited, line) = entries(&["prlimit", "--as=536870912"]);
    assert!(limited < free && limited * 700 <= 536_870_912 / 2, "{line}");
    assert!(line.contains("RLIMIT_AS"), "{line}");
}

/// Whoever reads no more has read enough.
#[test]
fn command_line_reader_that_goes() {
    let commands =
        ["man", "completions bash", "check-config", "--help", "serve --help", "--version"];
    let commands = commands.map(|arguments| {
        let mut command = command();
        command.args(arguments.split(' '));
        command
    });
    for mut command in commands.into_iter().chain([demo(":")]) {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{command:?}: {output:?}");
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = command().arg("man").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "what is lost is said: {output:?}");
}

/// The demo's directory goes with the demo.
#[test]
fn command_line_demo_ended_by_a_signal() {
    wants_discard_port();
    for (signal, prepare) in [(libc::SIGTERM, ":"), (libc::SIGINT, "ip link set lo up")] {
        let directory = tempfile::tempdir().unwrap();
        let left = || std::fs::read_dir(directory.path()).unwrap().count();
        let mut process = Process::spawn(demo(prepare).env("TMPDIR", directory.path()));
        assert!(wait_until(PATIENCE, || left() == 1 || process.ended().is_some()));
        process.signal(signal);
        let status = process.wait(PATIENCE).unwrap();
        assert_eq!(status.signal(), Some(signal), "{}", process.said());
        assert_eq!(left(), 0, "something is left");
    }
}

/// A demo in a network of its own, as other tests have its addresses. Where loopback is not up, it
/// makes another network itself.
fn demo(prepare: &str) -> Command {
    let mut command = without_variables(Command::new("unshare"));
    command.args(["--map-root-user", "--net", "--", "sh", "-c"]);
    command.args([&format!("{prepare} && exec \"$0\" demo"), PROGRAM]);
    command
}

/// No socket and no file of ours gets the number of a standard descriptor.
#[test]
fn command_line_standard_descriptors_closed() {
    let serve = Serve::new();
    let script = r#"exec "$0" "$@" <&- >&- 2>&-"#;
    let mut process = Process::spawn(&mut serve.command(&["sh", "-c", script], &[]));
    let nat64 = wait_until_served(&serve);
    nat64.map(Client::nth(1));
    for number in 0..3 {
        let descriptor = std::fs::read_link(format!("/proc/{}/fd/{number}", process.id)).unwrap();
        assert_eq!(descriptor.to_str(), Some("/dev/null"));
    }
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0));
}

/// Serves, as far as can be told without standard error.
fn wait_until_served(serve: &Serve) -> Nat64 {
    let served = wait_until(PATIENCE, || {
        std::fs::read_to_string(serve.log()).is_ok()
            && std::net::UdpSocket::bind(serve.addr()).is_err()
    });
    assert!(served, "it does not start");
    Nat64::known(serve.addr())
}

/// A pipe that nobody reads makes nobody wait, not at the end either. Whoever reads it later learns
/// how many lines are missing.
#[test]
fn command_line_standard_error_full() {
    let serve = Serve::new();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    // As much as a pipe holds.
    writer.write_all(&[b'\n'; 65_536]).unwrap();
    let mut child: Child = serve
        .command(&[], &["--max-nat64s", "1"])
        .stdin(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    let nat64 = wait_until_served(&serve);
    for number in 0..100 {
        nat64.map(Client::nth(number));
    }
    // SAFETY: takes numbers alone. The child was not waited for, so its number is its own.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let mut status = None;
    assert!(wait_until(PATIENCE, || {
        status = child.try_wait().unwrap();
        status.is_some()
    }));
    assert_eq!(status.unwrap().code(), Some(0));
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(said.trim(), "", "it was full to the end");
}

/// Where standard error is the journal's, lines have the priority that they deserve.
#[test]
fn command_line_journal_priorities() {
    let run = |serve: &Serve, extra: &[&str], journal: bool| {
        let path = serve.directory.path().join("stderr");
        let file = File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let inode = metadata.ino() + u64::from(!journal);
        let mut command = serve.command(&[], extra);
        command.env("JOURNAL_STREAM", format!("{}:{inode}", metadata.dev()));
        let mut child = command.stdin(Stdio::null()).stderr(file).spawn().unwrap();
        let said = || std::fs::read_to_string(&path).unwrap();
        assert!(wait_until(PATIENCE, || {
            said().contains(SERVING) || child.try_wait().unwrap().is_some()
        }));
        drop(child.kill());
        child.wait().unwrap();
        said()
    };
    let serve = Serve::new();
    let first = run(&serve, &[], true);
    assert!(first.contains("<6>nat64handoff: serving"), "{first}");
    let said = run(&serve, &["--listen", "192.0.2.1"], true);
    assert!(said.starts_with("<3>nat64handoff: "), "{said}");
    let said = run(&serve, &[], false);
    assert!(!said.contains('<'), "another standard error than the journal's: {said}");
}

/// A limit that is reached is told in one line, and all drops are told by name at the end.
#[test]
fn command_line_drops_are_told() {
    let mut server = Server::start_single(&["--max-nat64s", "1"]);
    let nat64 = Nat64::known(&server);
    let other = Nat64::unknown(&server);
    let challenge = other.challenge(&other.service_request(&other.unmapped_packet()));
    let proof = other.service_request(&other.as_packet(&challenge));
    for _ in 0..20 {
        other.send(&proof);
        nat64.fence();
    }
    let told = || {
        let stderr = server.stderr();
        let lines = stderr.lines().filter(|line| line.contains("--max-nat64s")).count();
        (lines, stderr)
    };
    assert!(wait_until(PATIENCE, || told().0 > 0), "{}", told().1);
    // Two looks later it is not told again.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(told().0, 1, "{}", told().1);
    server.stop();
    let stderr = server.stderr();
    let last = stderr.lines().last().unwrap();
    assert!(last.contains(" drops (") && last.contains("nat64s_limit 20"), "{last}");
}

/// What NAT64s told the server is in its memory, and in no core dump, unless somebody wants it.
#[test]
fn command_line_core_dump_without_memory() {
    const SECRET: &[u8] = b"an authenticator that is told to nobody else";
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with(['|', '/']) {
        cannot_run("core dumps in the working directory: sysctl kernel.core_pattern=core");
    }
    for (filter, is_dumped) in [("0x33", false), ("0x37", true)] {
        let serve = Serve::new();
        let script =
            r#"echo $0 > /proc/self/coredump_filter && exec prlimit --core=unlimited "$@""#;
        let mut command = serve.command(&["sh", "-c", script, filter], &[]);
        let mut process = Process::spawn(command.current_dir(serve.directory.path()));
        assert!(process.says(SERVING, PATIENCE), "{}", process.said());
        Nat64::known(serve.addr()).map_with(Client::nth(1), SECRET);
        process.signal(libc::SIGABRT);
        let status = process.wait(PATIENCE).unwrap();
        assert!(status.core_dumped(), "{status}");
        let files = std::fs::read_dir(serve.directory.path()).unwrap().map(|file| file.unwrap());
        let core = files.map(|file| file.path()).find(|path| path.is_file() && is_core(path));
        let core = std::fs::read(core.expect("a core file")).unwrap();
        let found = core.windows(SECRET.len()).any(|octets| octets == SECRET);
        assert_eq!(found, is_dumped, "filter {filter}, {} octets", core.len());
    }
}

fn is_core(path: &std::path::Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("core")
}

/// Finds what serve would find, all of it, and says that it is good where it is.
#[test]
fn command_line_check_config_looks_at_the_machine() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("file"), "").unwrap();
    let log = format!("--log={}", path("gone/events.log"));
    let state = format!("--state={}", path("file"));
    let (code, _, stderr) = run(&["check-config", "--listen=192.0.2.1", &log, &state]);
    assert_eq!(code, 1, "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{stderr}");
    for (line, named) in lines.iter().zip(["192.0.2.1 is not an address", "--state", "--log"]) {
        assert!(line.starts_with("nat64handoff: ") && line.contains(named), "{line}");
    }
    let log = format!("--log={}", path("events.log"));
    let state = format!("--state={}", path("state"));
    let (code, stdout, stderr) = run(&["check-config", "--listen=127.0.0.1", &log, &state]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.lines().last().unwrap().starts_with("# good"), "{stdout}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "it changes nothing");
}

/// A state directory that is not there is no reason to advise an option of another command.
#[test]
fn command_line_journal_of_nothing() {
    for command in ["check", "repair"] {
        let (code, _, stderr) = run(&["journal", command, "/nowhere"]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("no state in /nowhere; name the directory"), "{stderr}");
    }
}
