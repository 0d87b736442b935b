//! What we depend on comes from crates.io, unchanged, under licences that `ci/deny.toml` allows:
//! the part of `cargo deny` that is checked where that is not installed.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::tree::{Finding, Tree};

const CONFIG: &str = "ci/deny.toml";
const LOCKS: &[&str] = &["Cargo.lock", "fuzz/Cargo.lock"];
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// The crates that have no source, as they are in this repository.
const OURS: &[&str] = &["nat64handoff", "nat64handoff-fuzz"];

/// Every package of the lock files but ours is from crates.io, and its checksum is known.
pub fn sources(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for lock in LOCKS {
        let table = tree.manifest(lock);
        let packages = table.get("package").and_then(toml::Value::as_array);
        for package in packages.into_iter().flatten() {
            let text = |key| package.get(key).and_then(toml::Value::as_str).unwrap_or_default();
            let registered = text("source") == CRATES_IO && text("checksum").len() == 64;
            let ours = OURS.contains(&text("name")) && text("source").is_empty();
            if !registered && !ours {
                let what = format!("{} is from `{}`", text("name"), text("source"));
                findings.push(Finding::new(lock, 1, what, "take it from crates.io"));
            }
        }
    }
    findings
}

/// The packages of what `cargo metadata` says whose licences are not allowed.
fn licences(tree: &Tree, metadata: &Value) -> Vec<Finding> {
    let config = tree.manifest(CONFIG);
    let allowed = config.get("licenses").and_then(|licenses| licenses.get("allow")?.as_array());
    let allowed: BTreeSet<&str> =
        allowed.into_iter().flatten().filter_map(toml::Value::as_str).collect();
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    assert!(!packages.is_empty());
    let refused = packages.iter().filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or("no licence that it names");
        let what = || format!("{} has {licence}", package["name"]);
        let remedy = "do without it, or allow the licence in ci/deny.toml";
        (!allows(&allowed, licence)).then(|| Finding::new("Cargo.lock", 1, what(), remedy))
    });
    refused.collect()
}

/// Whether an expression of SPDX (a slash is the old "or") can be kept with `allowed` licences.
fn allows(allowed: &BTreeSet<&str>, expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let holds = any(allowed, &mut words);
    holds && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(allowed: &BTreeSet<&str>, words: &mut Words<'_>) -> bool {
    let mut holds = all(allowed, words);
    while words.next_if_eq(&"OR").is_some() {
        holds |= all(allowed, words);
    }
    holds
}

fn all(allowed: &BTreeSet<&str>, words: &mut Words<'_>) -> bool {
    let mut holds = one(allowed, words);
    while words.next_if_eq(&"AND").is_some() {
        holds &= one(allowed, words);
    }
    holds
}

fn one(allowed: &BTreeSet<&str>, words: &mut Words<'_>) -> bool {
    match words.next() {
        Some("(") => {
            let holds = any(allowed, words);
            words.next() == Some(")") && holds
        }
        Some(licence) => {
            // An exception only permits more.
            if words.next_if_eq(&"WITH").is_some() {
                words.next();
            }
            allowed.contains(licence)
        }
        None => false,
    }
}

/// The licences of all that this was built with.
pub fn licences_of_this_build(tree: &Tree) -> Vec<Finding> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // What is built for other systems need not be here.
    let asked = Command::new(option_env!("CARGO").unwrap_or("cargo"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &target])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    licences(tree, &serde_json::from_slice(&asked.stdout).expect("cargo writes JSON"))
}

#[cfg(test)]
mod canaries {
    use super::*;

    #[test]
    fn sources_refuses_what_is_not_from_crates_io() {
        let sum = "0".repeat(64);
        let lock = |name: &str, rest: &str| format!("[[package]]\nname = \"{name}\"\n{rest}");
        let check =
            |text: &str| sources(&Tree::of(&[("Cargo.lock", text), ("fuzz/Cargo.lock", "")])).len();
        let known = format!("source = \"{CRATES_IO}\"\nchecksum = \"{sum}\"\n");
        assert_eq!(check(&lock("a", &known)), 0);
        assert_eq!(check(&lock("nat64handoff", "")), 0);
        for bad in [
            lock("a", ""),
            lock("a", "source = \"git+https://example.org/a#1\"\n"),
            lock("a", &format!("source = \"{CRATES_IO}\"\n")),
            lock("a", &known.replace("rust-lang", "example")),
            lock("nat64handoff", "source = \"git+https://example.org/a#1\"\n"),
        ] {
            assert_eq!(check(&bad), 1, "{bad}");
        }
    }

    #[test]
    fn licences_refuses_what_is_not_allowed() {
        let tree = Tree::of(&[(CONFIG, "[licenses]\nallow = [\"MIT\", \"Zlib\"]\n")]);
        let check = |licence: Value| {
            let packages = serde_json::json!([{ "name": "a", "license": licence }]);
            licences(&tree, &serde_json::json!({ "packages": packages })).len()
        };
        for fine in [
            "MIT",
            "MIT OR GPL-3.0-only",
            "GPL-3.0-only/MIT",
            "Zlib AND MIT OR GPL-3.0-only",
            "(MIT OR GPL-3.0-only) AND Zlib",
            "MIT WITH Some-exception",
        ] {
            assert_eq!(check(fine.into()), 0, "{fine}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "(MIT OR Zlib) AND GPL-3.0-only",
            "GPL-3.0-only OR MIT AND GPL-2.0-only",
            "(MIT",
            "MIT Zlib",
            "",
        ] {
            assert_eq!(check(bad.into()), 1, "{bad}");
        }
        assert_eq!(check(Value::Null), 1);
    }
}
