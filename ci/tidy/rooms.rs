//! Rooms: their order, no circles, and what a pure room may not touch.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::{Import, Module, Modules};
use crate::tree::{Finding, Tree};

/// The rooms of `src`, each of which uses only those before it.
const ROOMS: &[&str] = &["ip", "handoff", "nat64", "kernel", "disk", "programs"];
/// Those that compute and do nothing else.
const PURE: &[&str] = &["ip", "handoff", "nat64"];

/// What a pure room may use of the standard library. Left out is all that does I/O, reads a clock,
/// draws randomness, starts threads or looks at the process.
const STD: &[&str] = &[
    "alloc",
    "any",
    "array",
    "borrow",
    "boxed",
    "cell",
    "char",
    "cmp",
    "collections",
    "convert",
    "error",
    "fmt",
    "hash",
    "hint",
    "iter",
    "marker",
    "mem",
    "net",
    "num",
    "ops",
    "option",
    "result",
    "slice",
    "str",
    "string",
    "sync",
    "time",
    "vec",
];
/// Names within those modules that a pure room may not use.
const STD_REFUSED: &[&str] = &[
    "Condvar",
    "HashMap",
    "HashSet",
    "Instant",
    "RandomState",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "ToSocketAddrs",
    "UdpSocket",
    "mpsc",
];
/// The crates that a pure room may use: none of them does any of that, by the features chosen.
const CRATES: &[&str] = &[
    "hashbrown",
    "humantime",
    "ipnet",
    "rand_chacha",
    "siphasher",
    "slab",
    "subtle",
    "thiserror",
    "zerocopy",
];
const MACROS_REFUSED: &[&str] = &["dbg", "eprint", "eprintln", "print", "println"];
const METHODS_REFUSED: &[&str] = &["elapsed"];

/// A room imports only from rooms above it.
pub fn order(tree: &Tree) -> Vec<Finding> {
    let place =
        |path: &[String]| ROOMS.iter().position(|room| path.first().is_some_and(|at| at == room));
    let modules = Modules::of(tree);
    let homeless = modules
        .iter()
        .filter(|(path, module)| !path.is_empty() && place(path).is_none() && !module.test);
    let mut findings: Vec<_> = homeless
        .map(|(_, module)| {
            let remedy = "move it into one of the six rooms";
            Finding::new(module.file, 1, "a module that stands in no room", remedy)
        })
        .collect();
    for import in modules.imports() {
        if let (Some(from), Some(to)) = (place(import.from), place(import.to))
            && to > from
        {
            let what = format!("{} uses {}, a room below it", ROOMS[from], import.to.join("::"));
            let remedy = "move what both need up, or pass it in as an argument or a trait";
            findings.push(Finding::new(import.file, import.line, what, remedy));
        }
    }
    findings
}

/// The parts of a module do not import each other in circles. A module and its own parts may: they
/// are one thing, cut in pieces.
pub fn circles(tree: &Tree) -> Vec<Finding> {
    let modules = Modules::of(tree);
    // Within each module: from part to part, with a place where that is so.
    let mut parts: BTreeMap<&[String], BTreeMap<(&String, &String), Import<'_>>> = BTreeMap::new();
    for import in modules.imports().into_iter().filter(|import| !import.test) {
        let shared = import.from.iter().zip(import.to).take_while(|(a, b)| a == b).count();
        if let (Some(from), Some(to)) = (import.from.get(shared), import.to.get(shared)) {
            let within = parts.entry(&import.from[..shared]).or_default();
            within.entry((from, to)).or_insert(import);
        }
    }
    let mut findings = Vec::new();
    for (module, arrows) in &parts {
        for ((from, to), import) in arrows {
            if reachable(arrows, to).contains(from) {
                let module = [&["crate".to_string()], *module].concat().join("::");
                let what = format!("in {module}, {from} uses {to}, and {to} leads back to {from}");
                let remedy = "move what both need into a part of its own";
                findings.push(Finding::new(import.file, import.line, what, remedy));
            }
        }
    }
    findings
}

fn reachable<'a, V>(
    arrows: &BTreeMap<(&'a String, &'a String), V>,
    from: &'a String,
) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        let next = arrows.keys().filter(|(from, _)| *from == at).map(|(_, to)| *to);
        open.extend(next.filter(|&to| found.insert(to)).collect::<Vec<_>>());
    }
    found
}

/// A pure room does no I/O, reads no clock, draws no randomness, starts no thread. Its tests may.
pub fn purity(tree: &Tree) -> Vec<Finding> {
    let modules = Modules::of(tree);
    let dependencies = dependencies(tree);
    let pure = modules.iter().filter(|(path, module)| {
        !module.test && path.first().is_some_and(|room| PURE.contains(&room.as_str()))
    });
    pure.flat_map(|(_, module)| impurities(module, &dependencies)).collect()
}

fn impurities(module: &Module<'_>, dependencies: &[String]) -> Vec<Finding> {
    let remedy = "a pure room is given all that it needs to know: make it an argument";
    let found = |line, what: String| Finding::new(module.file, line, what, remedy);
    let mut findings = Vec::new();
    for path in module.facts.paths.iter().filter(|path| !path.test) {
        if let Some(name) = refused(&path.names, path.import.as_deref(), dependencies) {
            findings.push(found(path.line, format!("`{name}` in a pure room")));
        }
    }
    for (names, refused) in
        [(&module.facts.macros, MACROS_REFUSED), (&module.facts.methods, METHODS_REFUSED)]
    {
        for (line, name) in names.iter().filter(|(_, name)| refused.contains(&name.as_str())) {
            findings.push(found(*line, format!("`{name}` in a pure room")));
        }
    }
    findings
}

/// The path, if a pure room may not use it.
fn refused(names: &[String], import: Option<&str>, dependencies: &[String]) -> Option<String> {
    let (first, rest) = names.split_first()?;
    // A single name is a local one, unless a `use` brings in a crate as a whole.
    if rest.is_empty() && import.is_none() {
        return None;
    }
    let listed = |name: &String| STD.contains(&name.as_str());
    let forbidden = || rest.iter().any(|name| STD_REFUSED.contains(&name.as_str()));
    let refused = if ["std", "core", "alloc"].contains(&first.as_str()) {
        import == Some("*") || !rest.first().is_some_and(listed) || forbidden()
    } else if dependencies.contains(first) {
        !CRATES.contains(&first.as_str())
    } else {
        // A module of the standard library that a `use` brought in, as in `time::Instant`.
        listed(first) && forbidden()
    };
    refused.then(|| names.join("::"))
}

/// The crates that this one depends on, tests apart, as paths name them.
fn dependencies(tree: &Tree) -> Vec<String> {
    let manifest = tree.manifest("Cargo.toml");
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.into_iter().flatten().map(|(name, _)| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod canaries {
    use super::*;

    #[test]
    fn order_refuses_a_room_below() {
        let lower = ("src/disk/mod.rs", "pub struct Disk;");
        let up = Tree::of(&[lower, ("src/ip/mod.rs", "use crate::disk::Disk;")]);
        let full = Tree::of(&[lower, ("src/ip/mod.rs", "fn f(_: &crate::disk::Disk) {}")]);
        let parent = Tree::of(&[lower, ("src/ip/icmp.rs", "use super::super::disk::{Disk as D};")]);
        let in_macro = Tree::of(&[lower, ("src/ip/mod.rs", "fn f() { m!(crate::disk::Disk) }")]);
        let homeless = Tree::of(&[("src/util.rs", "")]);
        for bad in [up, full, parent, in_macro, homeless] {
            assert_eq!(order(&bad).len(), 1);
        }
        let down = ("src/programs/mod.rs", "use crate::disk::Disk;");
        assert!(order(&Tree::of(&[lower, down])).is_empty());
    }

    #[test]
    fn circles_refuses_two_parts_that_use_each_other() {
        let b = ("src/ip/b.rs", "use super::a::A; pub struct B;");
        let direct = Tree::of(&[("src/ip/a.rs", "use crate::ip::b::B; pub struct A;"), b]);
        let reexported = Tree::of(&[
            ("src/ip/mod.rs", "mod a; mod b; pub use b::*;"),
            ("src/ip/a.rs", "use super::B; pub struct A;"),
            b,
        ]);
        let by_parts_of_parts = Tree::of(&[
            ("src/ip/a/mod.rs", "mod deep; pub struct A;"),
            ("src/ip/a/deep.rs", "use crate::ip::b::B;"),
            b,
        ]);
        for bad in [direct, reexported, by_parts_of_parts] {
            assert_eq!(circles(&bad).len(), 2, "{:?}", circles(&bad));
        }
        let fine = Tree::of(&[
            ("src/ip/mod.rs", "mod a; mod b; pub use b::B; pub struct Shared;"),
            ("src/ip/a.rs", "use super::Shared; pub struct A;"),
            b,
        ]);
        assert!(circles(&fine).is_empty());
    }

    #[test]
    fn purity_refuses_what_is_not_computing() {
        let manifest = ("Cargo.toml", "[dependencies]\ntokio-uring = \"1\"\nslab = \"0.4\"");
        for bad in [
            "use std::fs;",
            "use std::net::{Ipv4Addr, UdpSocket};",
            "use std::time::Instant;",
            "use std::time; fn f() { time::SystemTime::now(); }",
            "fn f() { std::thread::spawn(g); }",
            "fn f() { m!(std::env::var(x)) }",
            "fn f() { println!() }",
            "fn f(t: T) { t.elapsed(); }",
            "use std::collections::HashMap;",
            "use std::*;",
            "fn f() -> std::io::Result<()> { g() }",
            "use tokio_uring::start;",
        ] {
            let found = purity(&Tree::of(&[manifest, ("src/nat64/mod.rs", bad)]));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
        }
        for fine in [
            "use std::time::Duration; use std::net::Ipv4Addr; use slab::Slab;",
            "#[cfg(test)] mod tests { use std::fs; }",
            "#[cfg(test)] mod tests { fn f() { println!() } }",
        ] {
            let found = purity(&Tree::of(&[manifest, ("src/ip/mod.rs", fine)]));
            assert!(found.is_empty(), "{fine}: {found:?}");
        }
        assert!(purity(&Tree::of(&[manifest, ("src/disk/mod.rs", "use std::fs;")])).is_empty());
        let tests =
            [("src/ip/mod.rs", "#[cfg(test)] mod tests;"), ("src/ip/tests.rs", "use std::fs;")];
        assert!(purity(&Tree::of(&tests)).is_empty());
    }
}
