//! The files of the repository, and what a rule says about one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::syntax::Facts;

/// Where Rust files of ours are.
pub const RUST_FOLDERS: &[&str] = &["src", "ci", "bench", "fuzz/src", "fuzz/targets"];

/// Folders that hold no text of ours.
const SKIPPED: &[&str] =
    &[".git", "target", "fuzz/corpus", "fuzz/artifacts", "fuzz/coverage", "fuzz/target"];

/// All files by their path within the repository.
pub struct Tree(BTreeMap<String, File>);

/// What is not UTF-8 has an empty text.
pub struct File {
    pub path: String,
    pub text: String,
    facts: OnceLock<Facts>,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into(), facts: OnceLock::new() }
    }

    /// What the text says, if it is Rust; it is parsed once.
    pub fn facts(&self) -> &Facts {
        self.facts.get_or_init(|| Facts::of(&self.path, &self.text))
    }
}

impl Tree {
    /// The repository that this test was built from.
    pub fn read() -> Self {
        let mut files = BTreeMap::new();
        read(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut files);
        Self(files)
    }

    /// A tree of these files alone: the input of a canary.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|&(path, text)| (path.into(), File::new(path, text)));
        Self(files.collect())
    }

    /// The file of this path, if there is one.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.0.get(path)
    }

    /// The text of a file, empty if there is no such file.
    pub fn text(&self, path: &str) -> &str {
        self.file(path).map_or("", |file| &file.text)
    }

    /// `Cargo.toml` or the one of another folder.
    pub fn manifest(&self, path: &str) -> toml::Table {
        self.text(path).parse().unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Whether there is such a file or folder.
    pub fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty()
            || SKIPPED.contains(&path)
            || self.0.contains_key(path)
            || self.0.range(folder.clone()..).next().is_some_and(|(at, _)| at.starts_with(&folder))
    }

    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.0.values()
    }

    /// The Rust files below one of `folders`.
    pub fn rust(&self, folders: &[&str]) -> impl Iterator<Item = &File> {
        let below = |path: &str, folder: &str| {
            path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
        };
        self.files().filter(move |file| {
            file.path.ends_with(".rs") && folders.iter().any(|folder| below(&file.path, folder))
        })
    }
}

fn read(root: &Path, folder: &str, files: &mut BTreeMap<String, File>) {
    let here = root.join(folder);
    for entry in fs::read_dir(&here).unwrap_or_else(|e| panic!("{}: {e}", here.display())) {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().expect("file names are UTF-8");
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            read(root, &path, files);
        } else {
            let octets = fs::read(entry.path()).unwrap();
            let file = File::new(&path, &String::from_utf8(octets).unwrap_or_default());
            files.insert(path, file);
        }
    }
}

/// A path without `..`.
pub fn normal(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            ".." => {
                names.pop();
            }
            "." | "" => {}
            name => names.push(name),
        }
    }
    names.join("/")
}

/// A place that breaks a rule, and what to do about it.
#[derive(Debug)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub what: String,
    pub remedy: &'static str,
}

impl Finding {
    pub fn new(path: &str, line: usize, what: impl Into<String>, remedy: &'static str) -> Self {
        Self { path: path.into(), line, what: what.into(), remedy }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.what, self.remedy)
    }
}
