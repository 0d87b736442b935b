//! What is written beside the code is true: sections that are cited exist, links lead somewhere,
//! the top level is as it is listed, and `ci/test` runs every test program.

use std::collections::{BTreeMap, BTreeSet};

use crate::style::roots;
use crate::tree::{File, Finding, RUST_FOLDERS, Tree, normal};

const SPECIFICATION: &str = "src/PROTOCOL.md";
const CONTRIBUTING: &str = ".github/CONTRIBUTING.md";
/// All that may stand at the top level, dotfiles apart.
const TOP_LEVEL: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "ci",
    "fuzz",
    "install",
    "rust-toolchain.toml",
    "src",
];
/// Where sections without a name are those of the specification.
const PROTOCOL_FOLDERS: &[&str] = &["src/handoff/", "ci/protocol/"];
/// What is named before or after a section of another document.
const OTHER_DOCUMENTS: &[&str] = &["RFC", "draft", "draft's"];

/// The sections of the specification, and how many numbered items each one has.
fn sections(tree: &Tree) -> BTreeMap<u32, u32> {
    let mut sections = BTreeMap::new();
    let mut current = 0;
    for line in tree.text(SPECIFICATION).lines() {
        let numbered =
            |line: &str| line.split_once(". ").and_then(|(number, _)| number.parse().ok());
        if let Some(number) = line.strip_prefix("## ").and_then(numbered) {
            current = number;
            sections.insert(current, 0);
        } else if let (Some(item), Some(items)) = (numbered(line), sections.get_mut(&current)) {
            *items = item.max(*items);
        }
    }
    sections
}

/// Sections that comments and the names of tests cite exist.
pub fn citations(tree: &Tree) -> Vec<Finding> {
    let sections = sections(tree);
    let mut findings = Vec::new();
    let documents = tree.files().filter(|file| file.path.ends_with(".md"));
    for file in tree.rust(RUST_FOLDERS).chain(documents).filter(|file| !of_canaries(file)) {
        for (line, section, item) in cited(&file.path, &file.text) {
            let what = match sections.get(&section) {
                None => format!("section {section} of {SPECIFICATION} does not exist"),
                Some(items) if item > *items => {
                    format!("section {section} of {SPECIFICATION} has no {item}th item")
                }
                Some(_) => continue,
            };
            findings.push(Finding::new(
                &file.path,
                line,
                what,
                "cite the section that says it now",
            ));
        }
    }
    findings
}

/// The canaries of this test cite what does not exist.
fn of_canaries(file: &File) -> bool {
    file.path.starts_with("ci/tidy/")
}

/// Line, section and, where one of its items is meant, the item; 0 for none.
fn cited(path: &str, text: &str) -> Vec<(usize, u32, u32)> {
    let words: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .flat_map(|(at, line)| line.split_whitespace().map(move |word| (at + 1, word)))
        .filter(|(_, word)| !["//", "///", "//!", "#"].contains(word))
        .collect();
    let at_home = PROTOCOL_FOLDERS.iter().any(|folder| path.starts_with(folder));
    let mut found = Vec::new();
    for (at, &(line, word)) in words.iter().enumerate() {
        for (name, _) in word.match_indices("section_") {
            let digits: String =
                word[name + 8..].chars().take_while(char::is_ascii_digit).collect();
            found.extend(digits.parse().ok().map(|section| (line, section, 0)));
        }
        let plain = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        if plain != "section" && plain != "sections" {
            continue;
        }
        let (numbers, after) = numbers(&words[at + 1..]);
        let before = &words[at.saturating_sub(4)..at];
        let named = before.iter().any(|(_, word)| word.contains("PROTOCOL.md"));
        let mut around = before.iter().chain(after.iter().take(3));
        let other = around.any(|(_, word)| OTHER_DOCUMENTS.iter().any(|name| word.contains(name)));
        if named || at_home && !other {
            let item = item(after);
            found.extend(numbers.into_iter().map(|section| (line, section, item)));
        }
    }
    found
}

/// The numbers of a list such as "2, 3 and 5 to 7", and the words after it.
fn numbers<'w, 't>(words: &'w [(usize, &'t str)]) -> (Vec<u32>, &'w [(usize, &'t str)]) {
    let mut numbers: Vec<u32> = Vec::new();
    let (mut range, mut used) = (false, 0);
    for (_, word) in words {
        let number = word.trim_end_matches(|c: char| !c.is_ascii_digit());
        match (number.parse(), *word) {
            (Ok(number), _) => {
                let first = numbers.last().map_or(number, |last| last + 1);
                numbers.extend(if range { first..=number } else { number..=number });
                range = false;
            }
            (Err(_), "to") if !numbers.is_empty() => range = true,
            (Err(_), "and" | "or") if !numbers.is_empty() => {}
            (Err(_), _) => break,
        }
        used += 1;
        if word.ends_with([')', '.', ';', ':']) {
            break;
        }
    }
    (numbers, &words[used..])
}

/// The item that "step 4" or "repair 2" names, after the section.
fn item(after: &[(usize, &str)]) -> u32 {
    match after {
        [(_, "step" | "repair"), (_, number), ..] => {
            number.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
        }
        _ => 0,
    }
}

/// Links of documents, and paths that they and comments name, lead to something that exists.
pub fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files().filter(|file| !of_canaries(file)) {
        let (path, text) = (&file.path, &file.text);
        let document = path.ends_with(".md");
        if !document && !path.ends_with(".rs") {
            continue;
        }
        for (at, line) in text.lines().enumerate() {
            let mut dead = Vec::new();
            if document {
                dead.extend(targets(line).filter(|target| !leads(tree, path, target)));
            }
            if document || line.trim_start().starts_with("//") {
                let workspace = if path.starts_with("fuzz/") { "fuzz/" } else { "" };
                dead.extend(
                    named_paths(line).filter(|named| {
                        !tree.has(named) && !tree.has(&format!("{workspace}{named}"))
                    }),
                );
            }
            for target in dead {
                let what = format!("`{target}` leads nowhere");
                findings.push(Finding::new(path, at + 1, what, "name the place where it is now"));
            }
        }
    }
    findings
}

/// What the links of a line lead to, other sites apart.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let parts = line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
    parts.filter(|target| !target.contains("://"))
}

/// Paths of this repository that stand in a line as code.
fn named_paths(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
    code.filter(|word| {
        let whole = word.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c));
        let ours = ["src/", "ci/", "bench/", "fuzz/", ".github/"];
        whole && ours.iter().any(|folder| word.starts_with(folder))
    })
}

/// Whether a link in `document` leads to a file, and to a heading within it if it names one.
fn leads(tree: &Tree, document: &str, target: &str) -> bool {
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let file = if file.is_empty() { document.into() } else { normal(&format!("{folder}/{file}")) };
    tree.has(&file) && (heading.is_empty() || has_heading(tree.text(&file), heading))
}

/// Whether a document has a heading that is linked to by this name: lower case, with hyphens.
fn has_heading(text: &str, name: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).eq(name.chars())
    })
}

/// The top level of the repository is small, and stays as it is.
pub fn top_level(tree: &Tree) -> Vec<Finding> {
    let found: BTreeSet<&str> =
        tree.files().filter_map(|file| file.path.split('/').next()).collect();
    let extra = found.iter().filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name));
    extra
        .map(|name| {
            let remedy = "move it into src, bench, fuzz, ci or .github";
            Finding::new(name, 1, "not a name that the top level has", remedy)
        })
        .collect()
}

/// Every test program of `ci` is in `Cargo.toml`, `ci/test` runs it, and CONTRIBUTING says what it
/// tests.
pub fn tests_run(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let roots = roots(tree);
    for File { path, .. } in tree.rust(&["ci"]) {
        let top = path.matches('/').count() == 1 || path.ends_with("/main.rs");
        if top && !roots.contains(path) {
            let remedy = "make it a [[test]] of Cargo.toml";
            findings.push(Finding::new(path, 1, "a test program that cargo does not know", remedy));
        }
    }
    // The script takes the names of the programs from the lines behind `[[test]]`.
    let manifest = tree.text("Cargo.toml");
    for (name, path) in tests(tree) {
        let row = format!("[[test]]\nname = \"{name}\"\npath = \"ci/{name}.rs\"\n");
        if !manifest.contains(&row) || !tree.text("ci/test").contains(r"^\[\[test\]\]") {
            let what = format!("ci/test does not find the test program `{name}`");
            let remedy = "give it the name of its file, in the line behind [[test]]";
            findings.push(Finding::new(&path, 1, what, remedy));
        }
        if !tree.text(CONTRIBUTING).contains(&format!("\n| `{name}` | ")) {
            let what = format!("{CONTRIBUTING} does not say what `{name}` tests");
            findings.push(Finding::new(&path, 1, what, "add it to the table of programs"));
        }
    }
    findings
}

/// Name and path of each test program.
fn tests(tree: &Tree) -> Vec<(String, String)> {
    let manifest = tree.manifest("Cargo.toml");
    let tests = manifest.get("test").and_then(toml::Value::as_array);
    let text = |test: &toml::Value, key| Some(test.get(key)?.as_str()?.to_string());
    let known = tests.into_iter().flatten();
    known.filter_map(|test| Some((text(test, "name")?, text(test, "path")?))).collect()
}

#[cfg(test)]
mod canaries {
    use super::*;

    const PROTOCOL: (&str, &str) = (SPECIFICATION, "## 1. Roles\n\n## 2. Messages\n\n1. a\n2. b\n");

    #[test]
    fn citations_refuses_sections_that_do_not_exist() {
        for bad in [
            "// PROTOCOL.md section 3",
            "// PROTOCOL.md sections 1 and 3",
            "// PROTOCOL.md sections 1 to 3",
            "// PROTOCOL.md\n// section 3",
            "// PROTOCOL.md section 2, step 3",
            "/// Section 3: a payload of no octets.",
            "fn section_3_refuses() {}",
        ] {
            let found = citations(&Tree::of(&[PROTOCOL, ("src/handoff/mod.rs", bad)]));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
        }
        for fine in [
            "// PROTOCOL.md sections 1 and 2",
            "// PROTOCOL.md section 2, step 2",
            "// RFC 7915 section 4",
            "// section 11 of the draft",
        ] {
            let found = citations(&Tree::of(&[PROTOCOL, ("src/handoff/mod.rs", fine)]));
            assert!(found.is_empty(), "{fine}: {found:?}");
        }
    }

    #[test]
    fn links_refuses_what_leads_nowhere() {
        let readme = ("README.md", "# Run it");
        for bad in [
            "[a](missing.md)",
            "[a](../missing.md)",
            "[a](#missing)",
            "[a](../README.md#missing)",
            "`src/missing.rs`",
        ] {
            let found = links(&Tree::of(&[readme, (".github/A.md", bad)]));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
        }
        let comment = ("src/ip/mod.rs", "//! See `ci/missing`.");
        assert_eq!(links(&Tree::of(&[comment])).len(), 1);
        let fine =
            "[a](../README.md#run-it) [b](https://example.org/x) `bench/runs/<date>`\n# B\n[b](#b)";
        assert!(links(&Tree::of(&[readme, (".github/A.md", fine)])).is_empty());
    }

    #[test]
    fn top_level_refuses_another_name() {
        assert_eq!(top_level(&Tree::of(&[("docs/a.md", "")])).len(), 1);
        assert_eq!(top_level(&Tree::of(&[("NOTES", "")])).len(), 1);
        assert!(top_level(&Tree::of(&[(".ci/run", ""), ("src/lib.rs", "")])).is_empty());
    }

    #[test]
    fn tests_run_refuses_a_test_that_nothing_runs() {
        let script = ("ci/test", r"sed -n '/^\[\[test\]\]/{n; p}' Cargo.toml");
        let manifest = ("Cargo.toml", "[[test]]\nname = \"a\"\npath = \"ci/a.rs\"\n");
        let swapped = ("Cargo.toml", "[[test]]\npath = \"ci/a.rs\"\nname = \"a\"\n");
        let renamed = ("Cargo.toml", "[[test]]\nname = \"b\"\npath = \"ci/a.rs\"\n");
        let a = ("ci/a.rs", "");
        let table = (CONTRIBUTING, "what each tests\n| `a` | letters |\n| `b` | more |\n");
        assert!(tests_run(&Tree::of(&[manifest, a, script, table])).is_empty());
        for bad in [
            [manifest, a, ("ci/test", "cargo test --test b"), table].as_slice(),
            &[swapped, a, script, table],
            &[renamed, a, script, table],
            &[manifest, a, ("ci/b.rs", ""), script, table],
            &[manifest, a, ("ci/b/main.rs", ""), script, table],
            &[manifest, a, script],
        ] {
            let found = tests_run(&Tree::of(bad));
            assert_eq!(found.len(), 1, "{found:?}");
        }
    }
}
