//! The build script: tells the program which commit a release is of. Not the other profiles, which
//! would be compiled again after each commit. Without git, or outside of a repository, the program
//! says its version alone.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=ci/commit.rs");
    // `target/release/build/nat64handoff-0123/out`: the name of the profile is nowhere else.
    let is_release = env::var("OUT_DIR").is_ok_and(|path| path.contains("/release/build/"));
    // A copy of the source in a repository of something else has no commit.
    if !is_release || git(&["ls-files", "--error-unmatch", "Cargo.toml"]).is_none() {
        return;
    }
    // Changes with each commit and checkout, in a worktree, too.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
        println!("cargo::rustc-env=VERSION_WITH_COMMIT={version} ({commit})");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
