//! One style of modules, one type for a name, attributes that give a reason, `unsafe` in one room.

use std::collections::{BTreeMap, BTreeSet};

use crate::modules::Modules;
use crate::tree::{Finding, RUST_FOLDERS, Tree, normal};

/// A module with parts is a folder with a `mod.rs`, not `x.rs` beside `x`. Roots of crates, which
/// `Cargo.toml` names, are exempt.
pub fn modules(tree: &Tree) -> Vec<Finding> {
    let roots = roots(tree);
    let beside = tree.rust(RUST_FOLDERS).filter_map(|file| {
        let folder = file.path.strip_suffix(".rs")?;
        let what = format!("a module with parts, beside {folder}/");
        let remedy = "move it to mod.rs in that folder";
        let has_parts = tree.rust(&[folder]).next().is_some();
        (has_parts && !roots.contains(&file.path))
            .then(|| Finding::new(&file.path, 1, what, remedy))
    });
    beside.collect()
}

/// The files that `Cargo.toml` and `fuzz/Cargo.toml` name as roots of crates.
pub fn roots(tree: &Tree) -> BTreeSet<String> {
    let mut roots = BTreeSet::new();
    for (manifest, folder) in [("Cargo.toml", ""), ("fuzz/Cargo.toml", "fuzz/")] {
        let table = tree.manifest(manifest);
        for kind in ["bin", "test", "bench", "example"] {
            let targets = table.get(kind).and_then(toml::Value::as_array);
            let paths =
                targets.into_iter().flatten().filter_map(|target| target.get("path")?.as_str());
            roots.extend(paths.map(|path| format!("{folder}{path}")));
        }
        let library = table.get("lib").and_then(|library| library.get("path")?.as_str());
        let script = table.get("package").and_then(|package| package.get("build")?.as_str());
        roots.extend(script.map(|path| format!("{folder}{path}")));
        roots.insert(format!("{folder}{}", library.unwrap_or("src/lib.rs")));
    }
    roots
}

/// Every file is part of a crate: a root, or a module that another file declares.
pub fn orphans(tree: &Tree) -> Vec<Finding> {
    let roots = roots(tree);
    let mut reached = roots.clone();
    let mut open: Vec<String> = roots.iter().cloned().collect();
    while let Some(path) = open.pop() {
        let Some(file) = tree.file(&path) else { continue };
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let name = name.trim_end_matches(".rs");
        let below = if name == "mod" || roots.contains(&path) {
            folder.to_string()
        } else {
            format!("{folder}/{name}")
        };
        for submodule in &file.facts().submodules {
            let name = &submodule.name;
            let files = match &submodule.path {
                Some(at) => vec![normal(&format!("{folder}/{at}"))],
                None => vec![format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")],
            };
            open.extend(files.into_iter().filter(|file| reached.insert(file.clone())));
        }
    }
    let orphans = tree.rust(RUST_FOLDERS).filter(|file| !reached.contains(&file.path));
    orphans
        .map(|file| {
            let remedy = "declare it as a module, or delete it";
            Finding::new(&file.path, 1, "a file that no crate has", remedy)
        })
        .collect()
}

/// A name means one thing: in the library, tests apart, one type or trait has it.
pub fn names(tree: &Tree) -> Vec<Finding> {
    let modules = Modules::of(tree);
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for (_, module) in modules.iter().filter(|(_, module)| !module.test) {
        for (line, name) in &module.facts.types {
            if let Some(other) = known.insert(name, module.file) {
                let what = format!("`{name}` is a type in {other} as well");
                let remedy = "let the name of one of them say what it is of";
                findings.push(Finding::new(module.file, *line, what, remedy));
            }
        }
    }
    findings
}

/// No test is ignored, and no lint is allowed or expected without a reason.
pub fn attributes(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust(RUST_FOLDERS) {
        for attribute in &file.facts().attributes {
            let says = |name: &str| attribute.words.iter().any(|word| word == name);
            let has =
                |name: &str| attribute.name == name || attribute.name == "cfg_attr" && says(name);
            let (path, line) = (&file.path, attribute.line);
            if has("ignore") {
                let remedy = "make it quick enough to run each time, or delete it";
                findings.push(Finding::new(path, line, "a test that is ignored", remedy));
            }
            if (has("allow") || has("expect")) && !says("reason") {
                let remedy = "mend what it warns of, or say `reason = \"...\"`";
                findings.push(Finding::new(
                    path,
                    line,
                    "a lint that is off without a reason",
                    remedy,
                ));
            }
        }
    }
    findings
}

/// In the library and the program, `unsafe` stands in `src/kernel` alone.
pub fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust(&["src"]).filter(|file| !file.path.starts_with("src/kernel/")) {
        for &line in &file.facts().unsafe_lines {
            let remedy = "give src/kernel a safe function that does it";
            findings.push(Finding::new(&file.path, line, "`unsafe` outside src/kernel", remedy));
        }
    }
    findings
}

#[cfg(test)]
mod canaries {
    use super::*;

    #[test]
    fn modules_refuses_a_file_beside_its_folder() {
        let bad = [("src/ip/icmp.rs", "mod a;"), ("src/ip/icmp/a.rs", "")];
        assert_eq!(modules(&Tree::of(&bad)).len(), 1);
        let fine = [("src/ip/icmp/mod.rs", "mod a;"), ("src/ip/icmp/a.rs", "")];
        assert!(modules(&Tree::of(&fine)).is_empty());
        let manifest = ("Cargo.toml", "[[test]]\npath = \"ci/a.rs\"");
        let root = [manifest, ("ci/a.rs", ""), ("ci/a/b.rs", "")];
        assert!(modules(&Tree::of(&root)).is_empty());
    }

    #[test]
    fn orphans_refuses_a_file_that_nobody_declares() {
        let files = [("src/lib.rs", "mod ip;"), ("src/ip/mod.rs", ""), ("src/ip/lost.rs", "")];
        assert_eq!(orphans(&Tree::of(&files)).len(), 1);
        let files = [("src/lib.rs", "mod ip;"), ("src/ip/mod.rs", "mod a;"), ("src/ip/a.rs", "")];
        assert!(orphans(&Tree::of(&files)).is_empty());
        let manifest = ("Cargo.toml", "[[test]]\npath = \"ci/a.rs\"");
        let a = ("ci/a.rs", "#[path = \"a/b.rs\"] mod b; #[path = \"../fuzz/src/c.rs\"] mod c;");
        let files = [manifest, a, ("ci/a/b.rs", ""), ("fuzz/src/c.rs", "")];
        assert!(orphans(&Tree::of(&files)).is_empty());
    }

    #[test]
    fn names_refuses_one_for_two_types() {
        let a = ("src/ip/a.rs", "pub struct Held;");
        for bad in [
            "enum Held {}",
            "pub trait Held {}",
            "pub(crate) type Held = u8;",
            "fn f() { struct Held; }",
            "mod b { pub union Held { a: u8 } }",
        ] {
            assert_eq!(names(&Tree::of(&[a, ("src/disk/b.rs", bad)])).len(), 1, "{bad}");
        }
        for fine in [
            "use crate::ip::a::Held;",
            "fn f() -> Held { Held }",
            "impl Iterator for A { type Held = u8; }",
            "#[cfg(test)] mod tests { struct Held; }",
            "#[cfg(test)] struct Held;",
        ] {
            assert!(names(&Tree::of(&[a, ("src/disk/b.rs", fine)])).is_empty(), "{fine}");
        }
        let tests = ("src/disk/mod.rs", "#[cfg(test)] mod b;");
        let of_tests = [a, tests, ("src/disk/b.rs", "struct Held;")];
        assert!(names(&Tree::of(&of_tests)).is_empty());
        assert!(names(&Tree::of(&[a, ("ci/b.rs", "struct Held;")])).is_empty());
    }

    #[test]
    fn attributes_refuses_ignored_tests_and_lints_off_without_a_reason() {
        for bad in [
            "#[test] #[ignore] fn f() {}",
            "#[test] #[ignore = \"slow\"] fn f() {}",
            "#![allow(dead_code)]",
            "#[expect(dead_code)] fn f() {}",
            "#[cfg_attr(test, allow(dead_code))] fn f() {}",
            "mod a { impl A { #[allow(unused)] fn f() {} } }",
        ] {
            assert_eq!(attributes(&Tree::of(&[("ci/a.rs", bad)])).len(), 1, "{bad}");
        }
        let fine = "#[allow(dead_code, reason = \"shared\")] #[test] fn f() {}";
        assert!(attributes(&Tree::of(&[("ci/a.rs", fine)])).is_empty());
    }

    #[test]
    fn unsafe_code_refuses_it_outside_the_kernel_room() {
        for bad in [
            "fn f() { unsafe { g() } }",
            "unsafe fn f() {}",
            "unsafe impl Send for A {}",
            "fn f() { m!(unsafe { g() }) }",
        ] {
            assert_eq!(unsafe_code(&Tree::of(&[("src/disk/mod.rs", bad)])).len(), 1, "{bad}");
            assert!(unsafe_code(&Tree::of(&[("src/kernel/ring.rs", bad)])).is_empty());
        }
    }
}
