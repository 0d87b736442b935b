//! The container's image, without a container: the static program in a root that has nothing else,
//! as the user and with the settings that the Containerfile names.

use crate::harness::process::Process;
use crate::harness::program::{LOCAL, SERVING, free_port, wants_discard_port, without_variables};
use crate::harness::skip::cannot_run;
use crate::judge::PATIENCE;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE: &str = include_str!("../../src/programs/service/Containerfile");
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What stands behind this word at the beginning of a line, the last one.
fn of_file(word: &str) -> &'static str {
    let mut lines =
        FILE.lines().filter_map(|line| line.trim().strip_prefix(word)?.strip_prefix(' '));
    lines.next_back().unwrap_or_else(|| panic!("no {word}"))
}

/// Built as it is there, but quicker.
fn static_program() -> PathBuf {
    let flags = FILE.split('\'').find(|part| part.contains("crt-static")).unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_nat64handoff")).parent().unwrap();
    let folder = built.parent().unwrap().join("static");
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--offline", "--locked", "--bin", "nat64handoff", "--target", TARGET])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUSTFLAGS", flags)
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(TARGET).join("debug/nat64handoff")
}

#[test]
fn image_serves_from_an_empty_root() {
    // SAFETY: takes nothing.
    if !cfg!(target_arch = "x86_64") || unsafe { libc::geteuid() } != 0 {
        cannot_run("root, and x86_64");
    }
    wants_discard_port();
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path.trim_start_matches('/'));
    fs::copy(static_program(), at("/nat64handoff")).unwrap();
    let user = of_file("USER");
    assert!(FILE.contains(&format!("--chown={user} /folders")), "its own folders");
    let number = user.split_once(':').unwrap().0.parse().unwrap();
    for folder in ["/state", "/log"] {
        fs::DirBuilder::new().mode(0o700).create(at(folder)).unwrap();
        chown(at(folder), Some(number), Some(number)).unwrap();
    }
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let variables: Vec<_> =
        of_file("ENV").split(' ').map(|word| word.split_once('=').unwrap()).collect();
    let program = |user: &str, arguments: &[&str]| {
        let mut command = without_variables(Command::new("chroot"));
        command.arg(format!("--userspec={user}")).arg(root.path()).arg("/nat64handoff");
        command.args(arguments).envs(variables.iter().copied());
        command
    };
    for (io, said) in [("uring", "on io_uring"), ("mmsg", "on recvmmsg")] {
        let address = format!("{LOCAL}:{}", free_port());
        let options = ["--listen", &address, "--io", io];
        let mut server = Process::spawn(&mut program(user, &[&["serve"], &options[..]].concat()));
        assert!(server.says(SERVING, PATIENCE), "{}", server.said());
        assert!(server.stderr.contains(said), "{}", server.said());
        let checked = program("0:0", &[&["self-check"], &options[..]].concat()).output().unwrap();
        let checked =
            String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        assert!(checked.contains("took the proof that came back"), "{checked}\n{}", server.said());
        server.signal(libc::SIGTERM);
        let status = server.wait(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(0), "{}", server.said());
    }
    let log = fs::read_to_string(at("/log/events.log")).unwrap();
    assert!(log.contains("Initialized 127.64.64.9"), "{log}");
    let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().flatten().collect();
    names.sort_by_key(|entry| entry.file_name());
    let names: Vec<_> = names.iter().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["log", "nat64handoff", "state"]);
}
