//! What users are told when the command line, the configuration or the machine does not fit.

use crate::harness::process::{Process, wait_until};
use crate::harness::program::{
    LOCAL, SERVING, command, free_port, wants_discard_port, without_variables,
};
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::judge::{PATIENCE, SHORT};
use crate::run::run;
use crate::server::Server;
use std::path::Path;
use std::process::Command;

/// Runs `serve` in a directory of its own with these arguments: exit code and standard error.
fn serve(directory: &Path, listen: &str, extra: &[&str]) -> (i32, String) {
    let (state, log) = (directory.join("state"), directory.join("events.log"));
    let mut arguments = vec!["serve", "--listen", listen, "--log", log.to_str().unwrap()];
    if !extra.contains(&"--state") {
        arguments.extend(["--state", state.to_str().unwrap()]);
    }
    arguments.extend(extra);
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(stdout, "", "standard output is for events");
    assert!(!stderr.contains("panicked"), "{stderr}");
    (code, stderr)
}

/// One line that names the cause.
fn one_line(stderr: &str, cause: &str) {
    let lines: Vec<_> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].contains(cause), "{cause} is not named: {stderr}");
}

/// A second server on the same port: exit code 1, one line that names the port; the first lives on.
#[test]
fn command_line_port_taken() {
    let first = Server::start(&[]);
    let nat64 = Nat64::known(&first);
    let directory = tempfile::tempdir().unwrap();
    let (code, stderr) = serve(directory.path(), &first.addr().to_string(), &[]);
    assert_eq!(code, 1, "{stderr}");
    one_line(&stderr, &first.port.to_string());
    for number in 0..20 {
        nat64.map(Client::nth(number));
    }
}

/// A second server on the same state directory: exit code 1, one line; the first lives on.
#[test]
fn command_line_state_locked() {
    let first = Server::start(&[]);
    let nat64 = Nat64::known(&first);
    let directory = tempfile::tempdir().unwrap();
    let state = first.directory.path().join("state");
    let listen = format!("{LOCAL}:{}", free_port());
    let extra = ["--state", state.to_str().unwrap()];
    let (code, stderr) = serve(directory.path(), &listen, &extra);
    assert_eq!(code, 1, "{stderr}");
    one_line(&stderr, "state");
    nat64.map(Client::nth(1));
}

/// Where a container's filter refuses io_uring, the server runs without it and says so in one line;
/// all is answered, and it ends as always. Where io_uring alone will do, it does not start.
#[test]
fn command_line_io_uring_refused() {
    where_io_uring_is_refused(|| {
        // Whatever the other tests use.
        let mut server = Server::start(&["--sync", "always", "--io", "auto"]);
        let nat64 = Nat64::known(&server);
        for number in 0..100 {
            nat64.map(Client::nth(number));
        }
        let stderr = server.stderr();
        let said: Vec<_> = stderr.lines().filter(|line| line.contains("io_uring")).collect();
        assert_eq!(said.len(), 1, "{stderr}");
        assert!(said[0].contains("recvmmsg") && said[0].contains("seccomp"), "{stderr}");
        server.stop();

        let directory = tempfile::tempdir().unwrap();
        let listen = format!("{LOCAL}:{}", free_port());
        let (code, stderr) = serve(directory.path(), &listen, &["--io", "uring"]);
        assert_eq!(code, 1);
        one_line(&stderr, "seccomp");

        let (code, stdout, stderr) = run(&["demo"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("all went as it must"), "{stdout}");
    });
}

/// Where the kernel does not tell of connections, as in a sandbox without netlink, the server says
/// what is lost in one line, and serves.
#[test]
fn command_line_sock_diag_refused() {
    const LOST: &str = "TCP connections are live";
    let serves = || {
        let mut server = Server::start(&["--max-entries", "8"]);
        let nat64 = Nat64::known(&server);
        for number in 0..100 {
            nat64.map(Client::nth(number));
        }
        server.stop();
        server.stderr()
    };
    assert!(!serves().contains(LOST), "nothing is lost where it is told");
    where_netlink_is_refused(|| {
        let stderr = serves();
        let said: Vec<_> = stderr.lines().filter(|line| line.contains(LOST)).collect();
        assert_eq!(said.len(), 1, "{stderr}");
        assert!(said[0].contains("not permitted") && said[0].contains("netlink"), "{stderr}");
    });
}

/// As by the default profile of containers.
fn where_io_uring_is_refused(test: impl FnOnce() + Send) {
    let calls = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    where_refused(calls.map(|call| (call, Vec::new())), test);
}

fn where_netlink_is_refused(test: impl FnOnce() + Send) {
    use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};
    let family = libc::AF_NETLINK as u64;
    let netlink =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family).unwrap();
    where_refused([(libc::SYS_socket, vec![SeccompRule::new(vec![netlink]).unwrap()])], test);
}

/// Runs `test` where these system calls are not permitted: to its threads and children.
fn where_refused<const N: usize>(
    calls: [(i64, Vec<seccompiler::SeccompRule>); N],
    test: impl FnOnce() + Send,
) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let filter = SeccompFilter::new(
        calls.into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    // Here, as the thread below has no test's name to be skipped by.
    wants_discard_port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            seccompiler::apply_filter(&program).unwrap();
            test();
        });
    });
}

const TUNABLES: &str = "GLIBC_TUNABLES";

/// Starts `command` with `serve` and what it needs, and looks at it when it serves: its
/// environment's tunables, and what it was called.
fn tunables_of(mut command: Command) -> (String, String) {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("{LOCAL}:{}", free_port());
    command.args(["serve", "--listen", &listen, "--log", "-"]);
    command.arg("--state").arg(directory.path());
    let mut process = Process::spawn(&mut command);
    assert!(process.says(SERVING, PATIENCE), "it did not start:\n{}", process.said());
    let id = process.id;
    let of = |name: &str| {
        std::fs::read_to_string(format!("/proc/{id}/{name}")).unwrap().replace('\0', "\n")
    };
    let variable = format!("{TUNABLES}=");
    let environment = of("environ");
    // Some C libraries take the one string that it is apart where it stands.
    let mut lines = environment.lines().skip_while(|line| !line.starts_with(&variable));
    let first = lines.next().and_then(|line| line.strip_prefix(&variable));
    let others = lines.take_while(|line| line.starts_with("glibc."));
    let tunables: Vec<_> = first.into_iter().chain(others).collect();
    let called = of("cmdline").lines().next().unwrap().to_owned();
    let status = of("status");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_ne!(ignored & 1 << (libc::SIGPIPE - 1), 0, "who reads no more ends it");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait(PATIENCE).unwrap().code(), Some(0));
    (tunables.join(":"), called)
}

#[test]
fn command_line_huge_pages() {
    const HUGE: &str = "glibc.malloc.hugetlb=1";
    let program = env!("CARGO_BIN_EXE_nat64handoff");
    assert_eq!(tunables_of(command()), (HUGE.to_owned(), program.to_owned()));
    for (set, kept) in [
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0".to_owned()),
        ("glibc.malloc.mxfast=0", format!("glibc.malloc.mxfast=0:{HUGE}")),
    ] {
        let mut command = command();
        command.env(TUNABLES, set);
        assert_eq!(tunables_of(command), (kept, program.to_owned()));
    }

    // The program's file is gone: it goes without.
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy");
    std::fs::copy(program, &copy).unwrap();
    let script = r#"exec 9<"$0" && rm "$0" && exec /proc/self/fd/9 "$@""#;
    let mut command = without_variables(Command::new("sh"));
    command.args(["-c", script]).arg(&copy);
    assert_eq!(tunables_of(command), (String::new(), "/proc/self/fd/9".to_owned()));
    assert!(!copy.exists());
}

/// An address that this host does not have.
#[test]
fn command_line_address_not_local() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("192.0.2.1:{}", free_port());
    let (code, stderr) = serve(directory.path(), &listen, &[]);
    assert_eq!(code, 1, "{stderr}");
    one_line(&stderr, "192.0.2.1");
}

/// A state directory that is a file, or that cannot be made or written.
#[test]
fn command_line_state_not_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"not a directory").unwrap();
    let below = file.join("below");
    // Root may write anywhere but here.
    for state in [file.to_str().unwrap(), below.to_str().unwrap(), "/proc/nat64handoff-state"] {
        let listen = format!("{LOCAL}:{}", free_port());
        let (code, stderr) = serve(directory.path(), &listen, &["--state", state]);
        assert_eq!(code, 1, "{stderr}");
        one_line(&stderr, state);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"not a directory");
}

/// An event log that cannot be opened.
#[test]
fn command_line_log_not_writable() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let log = directory.path().join("missing").join("events.log");
    let listen = format!("{LOCAL}:{}", free_port());
    let (code, _, stderr) = run(&[
        "serve",
        "--listen",
        &listen,
        "--state",
        state.to_str().unwrap(),
        "--log",
        log.to_str().unwrap(),
    ]);
    assert_eq!(code, 1, "{stderr}");
    one_line(&stderr, "events.log");
}

/// Usage errors: exit code 2.
#[test]
fn command_line_usage_errors() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("{LOCAL}:{}", free_port());
    for wrong in [
        &["--allow", "192.0.2.0/33"][..],
        &["--allow", "192.0.2"],
        &["--deny", "everybody"],
        &["--deny", "192.0.2.0/24/8"],
        &["--sync", "sometimes"],
        &["--sync", "interval:"],
        &["--log-format", "fancy"],
        &["--client-share", "-1"],
        &["--reactors", "-1"],
        &["--listen", "nowhere"],
        &["--no-such-option"],
        &["surplus"],
    ] {
        let (code, stderr) = serve(directory.path(), &listen, wrong);
        assert_eq!(code, 2, "{wrong:?}\n{stderr}");
        assert!(!stderr.trim().is_empty());
    }
    for wrong in [&["no-such-command"][..], &[], &["who"], &["who", "nonsense"]] {
        let (code, _, stderr) = run(wrong);
        assert_eq!(code, 2, "{wrong:?}\n{stderr}");
    }
}

/// Configuration errors: exit code 2.
#[test]
fn command_line_configuration_errors() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    let listen = format!("{LOCAL}:{}", free_port());
    for (text, cause) in [
        ("no-such-key = 1\n", "no-such-key"),
        ("max-nat64s = \"many\"\n", "max-nat64s"),
        ("allow = [\"192.0.2.0/33\"]\n", "allow"),
        ("= not TOML\n", "config.toml"),
    ] {
        std::fs::write(&config, text).unwrap();
        let extra = ["--config", config.to_str().unwrap()];
        let (code, stderr) = serve(directory.path(), &listen, &extra);
        assert_eq!(code, 2, "{text}{stderr}");
        assert!(stderr.contains(cause), "{cause} is not named:\n{stderr}");
    }
    let missing = directory.path().join("missing.toml");
    let extra = ["--config", missing.to_str().unwrap()];
    let (code, stderr) = serve(directory.path(), &listen, &extra);
    assert!([1, 2].contains(&code), "{stderr}");
    assert!(stderr.contains("missing.toml"), "{stderr}");
}

/// A configuration file with keys named like the options is obeyed.
#[test]
fn command_line_configuration_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "max-nat64s = 1\nreactors = 1\nlog-format = \"full\"\n").unwrap();
    let server = Server::start(&["--config", config.to_str().unwrap()]);
    let nat64 = Nat64::known(&server);
    nat64.map(Client::nth(1));
    let other = Nat64::unknown(&server);
    let challenge = other.challenge(&other.service_request(&other.unmapped_packet()));
    for _ in 0..4 {
        other.send(&other.service_request(&other.as_packet(&challenge)));
        nat64.fence();
    }
    assert_eq!(other.try_reply(SHORT), None, "it is the second");
    assert_eq!(server.events_from(2)[1].full, " to 127.0.0.1 via 64:ff9b::/96");
}

/// The subcommands that do not serve.
#[test]
fn command_line_other_commands() {
    for good in [&["--help"][..], &["--version"], &["serve", "--help"], &["completions", "bash"]] {
        let (code, stdout, stderr) = run(good);
        assert_eq!(code, 0, "{good:?}\n{stderr}");
        assert!(!stdout.trim().is_empty(), "{good:?}");
    }
}

/// What is wrong with a file is said at once, with lines.
#[test]
fn command_line_all_errors_of_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("n.toml");
    let text =
        "reactors = 0\nmax-entires = 3\nport = true\n\nallow = ['192.0.2.0/33']\ncolour = 'red'\n";
    std::fs::write(&config, text).unwrap();
    let (code, stdout, stderr) = run(&["check-config", "--config", config.to_str().unwrap()]);
    assert_eq!((code, &*stdout), (2, ""), "{stderr}");
    for (line, said) in [
        (1, "reactors: \"0\" is not a whole number"),
        (2, "unknown key \"max-entires\"; did you mean max-entries?"),
        (3, "port: invalid type: boolean `true`, expected a number"),
        (5, "allow: \"192.0.2.0/33\" is no IPv4 network"),
        (6, "unknown key \"colour\"; the keys are listen, "),
    ] {
        assert!(stderr.contains(&format!("{} line {line}: {said}", config.display())), "{stderr}");
    }
    assert_eq!(stderr.lines().count(), 5, "{stderr}");
}

/// What is wrong with options does not hide what is wrong with the machine.
#[test]
fn command_line_check_finds_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let log = directory.path().join("missing/events.log");
    let [file, log] = [&file, &log].map(|path| path.to_str().unwrap());
    let wrong = ["--reactors", "0", "--listen", "192.0.2.1", "--state", file, "--log", log];
    let (code, stdout, stderr) = run(&[&["check-config"], &wrong[..]].concat());
    assert_eq!((code, &*stdout), (2, ""), "{stderr}");
    for said in ["--reactors: ", "192.0.2.1 is not an address", "--state", "there is no directory"]
    {
        assert_eq!(stderr.matches(said).count(), 1, "{said}: {stderr}");
    }
    assert_eq!(stderr.lines().count(), 4, "{stderr}");
}

/// A variable that would do nothing is not taken for one that does.
#[test]
fn command_line_unknown_variables() {
    for (name, said) in [
        ("NAT64HANDOFF_MAX_ENTIRES", "did you mean NAT64HANDOFF_MAX_ENTRIES?"),
        ("NAT64HANDOFF_COLOUR", "there is no such option"),
    ] {
        let output = command().arg("check-config").env(name, "1").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        one_line(&stderr, said);
        assert!(stderr.contains(&format!("{name}: ")), "{stderr}");
    }
    let linked = command()
        .arg("check-config")
        .env("NAT64HANDOFF_SERVICE_HOST", "10.0.0.1")
        .env("NAT64HANDOFF_PORT_64064_UDP", "udp://10.0.0.1:64064")
        .output()
        .unwrap();
    assert_eq!(linked.status.code(), Some(0), "{linked:?}");
}

/// Help and errors are as plain as all else that it says, also where colours are asked for.
#[test]
fn command_line_is_plain_and_help_is_in_groups() {
    let said = |arguments: &[&str]| {
        let output = command().args(arguments).env("CLICOLOR_FORCE", "1").output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    for arguments in [&["--help"][..], &["serve", "--help"], &["serve", "--nope"], &["demo", "-h"]]
    {
        let said = said(arguments);
        assert!(!said.is_empty() && !said.contains('\x1b'), "{said:?}");
    }
    let help = said(&["serve", "--help"]);
    let group_of = |option: &str| {
        let (before, _) = help.split_once(&format!(" --{option} ")).unwrap();
        let is_heading = |line: &&str| line.ends_with(':') && !line.starts_with(' ');
        before.lines().rev().find(is_heading).unwrap().to_owned()
    };
    for (option, group) in [
        ("listen", "Network:"),
        ("sync", "Storage:"),
        ("max-nat64s", "Limits:"),
        ("config", "Options:"),
    ] {
        assert_eq!(group_of(option), group, "{help}");
    }
}

/// `check-config` finds the port with another program, as `serve` would; not with a server like it.
#[test]
fn command_line_check_of_a_port_that_is_taken() {
    let port = free_port();
    let listen = format!("{LOCAL}:{port}");
    let other = std::net::UdpSocket::bind((LOCAL, port)).unwrap();
    // By a shell: to whoever runs it, it might be the program that would take over from a server.
    let script = r#""$0" check-config --listen "$1"; exit $?"#;
    let mut shell = without_variables(Command::new("sh"));
    let shell = shell.args(["-c", script, env!("CARGO_BIN_EXE_nat64handoff"), &listen]);
    let output = shell.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    one_line(&stderr, &format!("port {port} is taken by "));
    drop(other);
    let server = Server::start(&[]);
    let (code, stdout, stderr) = run(&["check-config", "--listen", &server.addr().to_string()]);
    assert!(code == 0 && stdout.contains("# good"), "{stderr}");
}

/// A service manager that waits for a message, and gets none, would end the server without a word.
#[test]
fn command_line_service_manager_that_is_not_reached() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = command();
    command.env("NOTIFY_SOCKET", directory.path().join("nowhere"));
    let listen = vec![LOCAL];
    let mut server =
        Server::launch(command, tempfile::tempdir().unwrap(), free_port(), listen, &[]);
    Nat64::known(&server).map(Client::nth(1));
    server.stop();
    let stderr = server.stderr();
    assert_eq!(stderr.matches("the service manager cannot be told").count(), 1, "{stderr}");
}

/// What an operator should look after is a warning in the journal; what is as it should be is not.
#[test]
fn command_line_priorities() {
    use std::os::unix::fs::MetadataExt;
    where_netlink_is_refused(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stderr");
        let file = std::fs::File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let mut command = command();
        command.env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
        command.args(["serve", "--listen", &format!("{LOCAL}:{}", free_port()), "--log", "-"]);
        command.arg("--state").arg(directory.path().join("state"));
        let mut child = command.stderr(file).stdout(std::process::Stdio::null()).spawn().unwrap();
        let said = || std::fs::read_to_string(&path).unwrap();
        let serves = wait_until(PATIENCE, || said().contains("serving"));
        child.kill().unwrap();
        child.wait().unwrap();
        let said = said();
        assert!(serves, "{said}");
        for (priority, text) in [(4, "TCP connections are live"), (6, "serving ")] {
            let line = said.lines().find(|line| line.contains(text)).expect(text);
            assert!(line.starts_with(&format!("<{priority}>nat64handoff: ")), "{said}");
        }
    });
}

/// Advice is about what the command has.
#[test]
fn command_line_journal_of_a_server_that_runs() {
    let server = Server::start(&[]);
    let state = server.directory.path().join("state");
    for command in ["check", "repair"] {
        let (code, _, stderr) = run(&["journal", command, state.to_str().unwrap()]);
        assert_eq!(code, 1, "{stderr}");
        one_line(&stderr, "is in use by nat64handoff");
        assert!(stderr.ends_with("; stop that server\n"), "{stderr}");
    }
}
