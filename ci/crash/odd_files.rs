//! Logs and state directories that are odd: pipes, devices, rights narrower than read and write,
//! somebody else's files, file systems without inodes, an older copy of the state.

use crate::harness::process::wait_until;
use crate::harness::skip::cannot_run;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::mount::Mounted;
use crate::record::{Record, key};
use crate::restart::{check_known, map_all};
use crate::server::Server;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A user that is not root, and has nothing.
const NOBODY: u32 = 65534;

fn introduced(server: &Server) -> Nat64 {
    let nat64 = Nat64::unknown(server);
    nat64.introduce();
    nat64
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => cannot_run(&format!(
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => cannot_run(&format!("{program}: {error}")),
    }
}

fn make_pipe(path: &Path) {
    run("mkfifo", &[path.to_str().unwrap()]);
}

#[track_caller]
fn expect_said(server: &Server, text: &str) {
    assert!(
        wait_until(PATIENCE, || server.stderr().contains(text)),
        "{text}?\n{}",
        server.stderr()
    );
}

fn lines_in(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// All that comes out of a pipe until this text does.
fn read_pipe(path: &Path, until: &str) -> String {
    let mut pipe = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
    let (mut text, mut octets) = (String::new(), [0; 4096]);
    let came = wait_until(PATIENCE, || {
        while let Ok(length @ 1..) = pipe.read(&mut octets) {
            text.push_str(str::from_utf8(&octets[..length]).unwrap());
        }
        text.contains(until)
    });
    assert!(came, "{until} does not come:\n{text}");
    text
}

/// The log is removed, and another file of its directory gets its inode before the next start.
#[test]
fn crash_reused_inode_is_somebody_elses_file() {
    let mut server = Server::new();
    let ext4 = Mounted::ext4(server.directory.path(), "log");
    server.log = ext4.path.join("events.log");
    server.start(&["--reactors", "1"]);
    let nat64 = introduced(&server);
    map_all(&nat64, (0..20).map(Client::nth));
    assert!(wait_until(PATIENCE, || lines_in(&server.log) == 21), "no lines");
    ext4.fill();
    // Lines wait, and the cursor stays before them.
    let mut next = 20;
    while !server.stderr().contains("cannot be written") {
        map_all(&nat64, (next..next + 10).map(Client::nth));
        next += 10;
    }
    let inode = fs::metadata(&server.log).unwrap().ino();
    fs::remove_file(&server.log).unwrap();
    server.kill();
    ext4.make_room();
    let other = ext4.path.join("other.txt");
    // It ends as the line of any event begins.
    let words = "somebody else's words\n".repeat(50_000) + "2";
    fs::write(&other, &words).unwrap();
    assert_eq!(fs::metadata(&other).unwrap().ino(), inode, "the inode is not used again");
    server.start(&["--reactors", "1"]);
    assert!(fs::read_to_string(&other).unwrap() == words, "somebody else's file is changed");
    check_known("after the log was removed", &nat64);
    expect_said(&server, "is not in its directory any more");
    server.stop();
}

#[test]
fn crash_named_pipe_without_a_reader_as_log() {
    let mut server = Server::new();
    make_pipe(&server.log);
    // With nothing to write, it starts and ends as ever.
    server.start(&[]);
    expect_said(&server, "is a named pipe that nobody reads");
    server.stop();
    server.start(&[]);
    let nat64 = introduced(&server);
    let entry = nat64.map(Client::nth(1));
    let text = read_pipe(&server.log, " Created ");
    assert!(text.contains(&format!("{}:{entry} ", nat64.address)), "{text}");
    expect_said(&server, "can be written again; no line is lost");
    server.kill();
}

#[test]
fn crash_named_pipe_instead_of_the_log_at_a_rotation() {
    let mut server = Server::started(&[]);
    let nat64 = introduced(&server);
    nat64.map(Client::nth(1));
    let old = server.directory.path().join("events.log.1");
    assert!(wait_until(PATIENCE, || lines_in(&server.log) == 2), "no lines");
    fs::rename(&server.log, &old).unwrap();
    make_pipe(&server.log);
    server.signal(libc::SIGHUP);
    expect_said(
        &server,
        "nobody reads this named pipe; until this works the old file is written on",
    );
    nat64.map(Client::nth(2));
    assert!(wait_until(PATIENCE, || lines_in(&old) == 3), "the old file is not written on");
    // By itself, when a reader has come.
    let mut reader = OpenOptions::new();
    let reader = reader.read(true).custom_flags(libc::O_NONBLOCK).open(&server.log).unwrap();
    expect_said(&server, "is opened anew");
    nat64.map(Client::nth(3));
    read_pipe(&server.log, " Created ");
    drop(reader);
    server.stop();
}

#[test]
fn crash_what_cannot_be_a_log_is_refused() {
    let mut server = Server::new();
    fs::create_dir(&server.log).unwrap();
    let said = server.refuses(&[]);
    assert!(said.contains("Is a directory (os error 21); name a file in it"), "{said}");
    fs::remove_dir(&server.log).unwrap();
    let socket = UnixListener::bind(&server.log).unwrap();
    let said = server.refuses(&[]);
    assert!(said.contains("it is a socket"), "{said}");
    drop(socket);
    fs::remove_file(&server.log).unwrap();
    // Its number is of no driver, and it is not opened for long enough to matter.
    run("mknod", &[server.log.to_str().unwrap(), "b", "7", "0"]);
    let said = server.refuses(&[]);
    assert!(said.contains("cannot be"), "{said}");
    fs::remove_file(&server.log).unwrap();
    // Devices that take lines, and that do not.
    server.log = "/dev/null".into();
    server.start(&[]);
    introduced(&server);
    server.stop();
    server.log = "/dev/full".into();
    server.start(&["--no-journal"]);
    introduced(&server);
    expect_said(&server, "cannot be written: No space left");
    server.kill();
}

/// A link that another user can change is not followed; one that root made is.
#[test]
fn crash_links_as_log() {
    let mut server = Server::new();
    let target = server.directory.path().join("target");
    symlink(&target, &server.log).unwrap();
    server.start(&[]);
    introduced(&server);
    assert!(wait_until(PATIENCE, || lines_in(&target) == 1), "no line in what the link leads to");
    server.stop();
    let before = fs::read(&target).unwrap();
    let path = std::ffi::CString::new(server.log.to_str().unwrap()).unwrap();
    // SAFETY: the path ends in NUL and outlives the call.
    assert_eq!(unsafe { libc::lchown(path.as_ptr(), NOBODY, NOBODY) }, 0);
    let said = server.refuses(&[]);
    assert!(said.contains("symbolic link that another user can change"), "{said}");
    assert_eq!(fs::read(&target).unwrap(), before);
}

/// `chattr +a`, as some keep their logs.
#[test]
fn crash_append_only_log() {
    let mut server = Server::new();
    let ext4 = Mounted::ext4(server.directory.path(), "log");
    server.log = ext4.path.join("events.log");
    fs::write(&server.log, "").unwrap();
    run("chattr", &["+a", server.log.to_str().unwrap()]);
    server.start(&[]);
    let nat64 = introduced(&server);
    let entries = map_all(&nat64, (0..50).map(Client::nth));
    server.kill();
    // What a kill can leave of a line cannot be cut.
    let half = fs::read_to_string(&server.log).unwrap();
    server.start(&[]);
    map_all(&nat64, (50..60).map(Client::nth));
    server.stop();
    let text = fs::read_to_string(&server.log).unwrap();
    assert!(text.starts_with(&half));
    for entry in entries {
        let line = format!(":{} [{}]:{}\n", entry.mapped, entry.client.address, entry.client.port);
        assert_eq!(text.matches(&line).count(), 1, "{line}");
    }
    run("chattr", &["-a", server.log.to_str().unwrap()]);
}

/// A log that its server may write and not read; then one that it may only read.
#[test]
fn crash_log_with_narrow_rights() {
    let mut server = Server::new();
    server.uid = Some(NOBODY);
    chown(server.directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs::write(&server.log, "").unwrap();
    chown(&server.log, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(&server.log, fs::Permissions::from_mode(0o200)).unwrap();
    server.start(&[]);
    let nat64 = introduced(&server);
    map_all(&nat64, (0..20).map(Client::nth));
    server.stop();
    server.start(&[]);
    check_known("with a log that cannot be read", &nat64);
    server.stop();
    assert_eq!(lines_in(&server.log), 21);
    fs::set_permissions(&server.log, fs::Permissions::from_mode(0o400)).unwrap();
    let said = server.refuses(&[]);
    assert!(said.contains("make it writable for this user"), "{said}");
    // A directory in which this user makes no files.
    fs::remove_file(&server.log).unwrap();
    let closed = server.directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    server.log = closed.join("events.log");
    let said = server.refuses(&[]);
    let advice = format!("see that this user can make files in {}", closed.display());
    assert!(said.contains(&advice), "{said}");
}

/// No new log at a rotation: said once, with what helps; when it can be made, it is, unasked.
fn rotation_goes_on_by_itself(
    server: &mut Server,
    refuse: impl FnOnce(&Server),
    said: &str,
    allow: impl FnOnce(&Server),
) {
    let nat64 = introduced(server);
    assert!(wait_until(PATIENCE, || lines_in(&server.log) == 1), "no line");
    let mut record = Record::new(&server.log);
    record.rename();
    refuse(server);
    server.signal(libc::SIGHUP);
    expect_said(server, said);
    let old = server.log.with_extension("log.1");
    nat64.map(Client::nth(1));
    assert!(wait_until(PATIENCE, || lines_in(&old) == 2), "the old log is not written on");
    // Longer than it takes to try again.
    let said_of_the_log = |line: &str| line.contains("the event log") && line.contains(said);
    let times = || server.stderr().lines().filter(|&line| said_of_the_log(line)).count();
    assert!(!wait_until(Duration::from_millis(1500), || times() > 1), "{}", server.stderr());
    allow(server);
    expect_said(server, "is opened anew");
    let entry = nat64.map(Client::nth(2));
    assert!(wait_until(PATIENCE, || lines_in(&server.log) == 1), "no new log");
    record.feed();
    assert!(record.table(nat64.address).has_created(key(entry, Client::nth(2))));
    server.stop();
}

/// A link that leads elsewhere since the start: the server is confined to its own directories.
#[test]
fn crash_the_next_log_is_in_its_directories() {
    let mut server = Server::new();
    let elsewhere = tempfile::tempdir().unwrap();
    server.start(&[]);
    let log = server.log.clone();
    let lead_away = |_: &Server| symlink(elsewhere.path().join("log"), &log).unwrap();
    let undo = |_: &Server| fs::remove_file(&log).unwrap();
    rotation_goes_on_by_itself(&mut server, lead_away, "Permission denied", undo);
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn crash_no_inode_for_the_next_log() {
    let mut server = Server::new();
    let place = server.directory.path().join("log");
    let _tmpfs = Mounted::tmpfs_with(&place, "size=4m,nr_inodes=50,mode=0700");
    server.log = place.join("events.log");
    server.start(&[]);
    let take = |_: &Server| {
        for number in 0.. {
            if File::create(place.join(format!("taken{number}"))).is_err() {
                return;
            }
        }
    };
    let give = |_: &Server| fs::remove_file(place.join("taken0")).unwrap();
    rotation_goes_on_by_itself(&mut server, take, "df -i", give);
}

fn limit_files(server: &Server, soft: u64) {
    // SAFETY: an all-zero rlimit is one.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    let pid = server.pid() as i32;
    let null = std::ptr::null_mut();
    // SAFETY: both pointers are to a value of this function, or null.
    unsafe {
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut limit), 0);
        limit.rlim_cur = soft.min(limit.rlim_max);
        assert_eq!(libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, null), 0);
    }
}

#[test]
fn crash_no_descriptor_for_the_next_log() {
    let mut server = Server::started(&[]);
    let take = |server: &Server| limit_files(server, 3);
    let give = |server: &Server| limit_files(server, 1024);
    rotation_goes_on_by_itself(&mut server, take, "LimitNOFILE", give);
}

/// Root does not write where another user may have put links.
#[test]
fn crash_state_of_another_user_is_refused() {
    let mut server = Server::started(&[]);
    introduced(&server);
    server.stop();
    let victim = server.directory.path().join("victim");
    fs::write(&victim, "words").unwrap();
    let state = server.state.clone();
    for name in ["lock", "probe", "current.tmp"] {
        let link = state.join(name);
        let was = fs::read(&link).ok();
        let _ = fs::remove_file(&link);
        symlink(&victim, &link).unwrap();
        let said = server.refuses(&[]);
        assert!(said.contains("is a symbolic link"), "{said}");
        assert_eq!(fs::read(&victim).unwrap(), b"words", "{name}");
        fs::remove_file(&link).unwrap();
        was.into_iter().for_each(|octets| fs::write(&link, octets).unwrap());
    }
    chown(&state, Some(NOBODY), Some(NOBODY)).unwrap();
    let said = server.refuses(&[]);
    assert!(said.contains(" belongs to ") && said.contains("run as that user"), "{said}");
    chown(&state, Some(0), Some(0)).unwrap();
    server.start(&[]);
    server.stop();
}

fn copy(from: &Path, to: &Path) {
    run("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
}

/// The state is an older copy: the log says so, and no entry is made twice in it.
#[test]
fn crash_state_from_an_older_copy() {
    let mut server = Server::started(&["--reactors", "1"]);
    let nat64 = introduced(&server);
    let before = map_all(&nat64, (0..20).map(Client::nth));
    server.stop();
    let kept = server.directory.path().join("copy");
    copy(&server.state, &kept);
    server.start(&["--reactors", "1"]);
    let after = map_all(&nat64, (20..60).map(Client::nth));
    server.stop();
    fs::remove_dir_all(&server.state).unwrap();
    copy(&kept, &server.state);
    server.start(&["--reactors", "1"]);
    expect_said(&server, "is ahead of the state by 40 lines");
    crate::ask::check_entries("from the copy", &nat64, &before);
    // As the NAT64 that has them reports them.
    for entry in &after {
        assert_eq!(nat64.report(*entry), *entry);
    }
    server.stop();
    // Panics where an entry is made that is there already.
    let mut record = Record::new(&server.log);
    record.feed();
    let table = record.table(nat64.address);
    for entry in before.iter().chain(&after) {
        assert_eq!(table.by_port.get(&entry.mapped), Some(&entry.client), "{entry:?}");
    }
    assert_eq!(table.by_port.len(), 60);
}
