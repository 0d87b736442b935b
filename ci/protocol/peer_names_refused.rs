//! `--peer-names` where the kernel refuses, or the configuration is damaged; and several servers'
//! maps beside each other.

use std::ffi::CString;
use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::peer_names::start;
use crate::harness::process::wait_until;
use crate::harness::program::{LOCAL, free_port, without_variables};
use crate::harness::skip::cannot_run;
use crate::judge::PATIENCE;
use crate::judge::client::Client;
use crate::judge::nat64::Nat64;
use crate::peers::Place;
use crate::run::run;
use crate::server::{Server, fresh_directory};

fn place() -> Place {
    Place::make().unwrap_or_else(|missing| cannot_run(&missing))
}

/// For how long names are valid still.
fn valid_seconds(maps: &str) -> Option<f64> {
    let (code, said, wrong) = run(&["peer-names", "status", "--json", "--maps", maps]);
    assert_eq!(code, 0, "{said}{wrong}");
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    status["valid_seconds"].as_f64()
}

/// As systemd starts a service, which then goes on with these arguments.
fn service_of_systemd() -> Command {
    let mut shell = without_variables(Command::new("sh"));
    let line = "SYSTEMD_EXEC_PID=$$ NOTIFY_SOCKET=/nowhere exec \"$0\" \"$@\"";
    shell.args(["-c", line, env!("CARGO_BIN_EXE_nat64handoff")]);
    shell
}

/// systemd keeps the sockets after a kill, but not where the server cannot start with its
/// configuration.
#[test]
fn names_end_where_the_configuration_is_damaged_meanwhile() {
    let place = place();
    assert_eq!(place.attach("1000").0, 0);
    let maps = place.maps();
    let options = ["--reactors", "1", "--peer-names", "ipv6", "--peer-maps", &maps];
    let port = free_port();
    let mut server =
        Server::launch(service_of_systemd(), fresh_directory(), port, vec![LOCAL], &options);
    let valid = || valid_seconds(&maps).is_some_and(|seconds| seconds > 1.0);
    assert!(wait_until(PATIENCE, valid), "for longer than where nobody keeps its sockets");
    server.process.signal(libc::SIGKILL);
    server.wait_exit(PATIENCE);
    let config = place.path("damaged.toml");
    fs::write(&config, format!("peer-maps = \"{maps}\"\nport = \"none\"\n")).unwrap();
    let damaged = service_of_systemd().args(["serve", "--config"]).arg(&config).output().unwrap();
    let said = String::from_utf8_lossy(&damaged.stderr);
    assert_eq!(damaged.status.code(), Some(2), "{said}");
    assert_eq!(valid_seconds(&maps), None, "{said}");
}

/// From now on, the kernel refuses every change of the map that is pinned here.
fn freeze(path: &Path) {
    const OBJ_GET: libc::c_long = 7;
    const MAP_FREEZE: libc::c_long = 22;
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let mut pinned = [path.as_ptr() as u64, 0];
    // SAFETY: the first word leads to a path that ends with 0; the others are zeros.
    let map = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, pinned.as_mut_ptr(), 16) };
    assert!(map >= 0, "{}", std::io::Error::last_os_error());
    let mut frozen = i32::try_from(map).unwrap();
    // SAFETY: a descriptor is all that the call wants.
    let done = unsafe { libc::syscall(libc::SYS_bpf, MAP_FREEZE, &raw mut frozen, 4) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it is ours.
    unsafe { libc::close(frozen) };
}

/// A start whose names cannot be given serves without them, and nobody has the names that another
/// server has left.
#[test]
fn names_that_cannot_be_given_at_a_start_are_nobodys() {
    let place = place();
    assert_eq!(place.attach("1000").0, 0);
    let mut service = place.service();
    let client = Client::nth(1);
    let server = start(&place, &[]);
    let nat64 = Nat64::known(&server);
    let from = SocketAddrV4::new(nat64.address, nat64.map(client));
    service.names(from, client);
    drop(server);
    freeze(&place.path("bpf/maps/names"));
    // With a state of its own: the names that are there are not its clients'.
    let server = start(&place, &[]);
    let told = || server.stderr().contains("no peer has a name: ");
    assert!(wait_until(PATIENCE, told), "{}", server.stderr());
    let other = Client::nth(2);
    let its = nat64.towards(server.addr());
    its.introduce();
    let from = SocketAddrV4::new(its.address, its.map(other));
    assert_eq!(service.sees(from), (from.ip().to_string(), from.port()));
    // Those of the server that is gone are for a moment still.
    assert!(wait_until(PATIENCE, || valid_seconds(&place.maps()).is_none()));
}

/// What was opened for the servers of two maps is closed with the last of them.
#[test]
fn a_detach_leaves_the_way_to_other_maps_open() {
    let place = place();
    let root = place.path("bpf");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    let mode = || fs::metadata(&root).unwrap().permissions().mode() & 0o777;
    let places = [place.maps(), place.path("bpf/others").to_str().unwrap().to_owned()];
    let attaching = place.attaching();
    for maps in &places {
        let mut words: Vec<_> = attaching.iter().map(String::as_str).collect();
        // For a server that is not root.
        *words.last_mut().unwrap() = "65534";
        let at = words.iter().position(|word| *word == place.maps()).unwrap();
        words[at] = maps;
        let (code, _, said) = run(&words);
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(mode(), 0o701);
    for (maps, left) in places.iter().zip([0o701, 0o700]) {
        let (code, _, said) = run(&["peer-names", "detach", "--maps", maps]);
        assert_eq!((code, mode()), (0, left), "{said}");
    }
    assert!(places.iter().all(|maps| !Path::new(maps).exists()));
}

/// Root of a user namespace is told what it is.
#[test]
fn root_is_told_why_it_may_not_attach() {
    let place = place();
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_nat64handoff")]);
    let output = unshare.args(place.attaching()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("unshare failed") {
        cannot_run("user namespaces");
    }
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("root of a user namespace"), "{said}");
}
