//! The modules of `src`, and which of them a path means.

use std::collections::BTreeMap;

use crate::syntax::{Facts, PathUse};
use crate::tree::Tree;

/// Re-exports of re-exports that are followed.
const REEXPORTS_MAX: usize = 8;

/// A module that is a file.
pub struct Module<'t> {
    pub file: &'t str,
    pub facts: &'t Facts,
    /// Whether only tests are built with it.
    pub test: bool,
}

/// The modules of the library by their path in it; the crate itself is the empty path.
pub struct Modules<'t>(BTreeMap<Vec<String>, Module<'t>>);

/// A use of another module of the library.
pub struct Import<'m> {
    pub from: &'m [String],
    pub to: &'m [String],
    pub file: &'m str,
    pub line: usize,
    pub test: bool,
}

impl<'t> Modules<'t> {
    pub fn of(tree: &'t Tree) -> Self {
        let mut modules: BTreeMap<_, _> = tree
            .rust(&["src"])
            .filter_map(|file| {
                let module = Module { file: &file.path, facts: file.facts(), test: false };
                Some((module_of(&file.path)?, module))
            })
            .collect();
        // In the order of their paths: a parent is before its children.
        let paths: Vec<Vec<String>> = modules.keys().cloned().collect();
        for path in paths {
            let Some((name, parent)) = path.split_last() else { continue };
            let test = modules.get(parent).is_some_and(|parent| {
                let declared = parent.facts.submodules.iter().find(|sub| &sub.name == name);
                parent.test || declared.is_some_and(|sub| sub.test)
            });
            if let Some(module) = modules.get_mut(&path) {
                module.test = test;
            }
        }
        Self(modules)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[String], &Module<'t>)> {
        self.0.iter().map(|(path, module)| (path.as_slice(), module))
    }

    /// All uses of one module by another.
    pub fn imports(&self) -> Vec<Import<'_>> {
        let mut imports = Vec::new();
        for (from, module) in &self.0 {
            for path in &module.facts.paths {
                let Some(names) = self.absolute(from, path) else { continue };
                let Some(to) = self.owner(&names, REEXPORTS_MAX) else { continue };
                if to != from {
                    let test = module.test || path.test;
                    imports.push(Import { from, to, file: module.file, line: path.line, test });
                }
            }
        }
        imports
    }

    /// A path from the crate on, or none if it leads into another crate or is a local name.
    fn absolute(&self, module: &[String], path: &PathUse) -> Option<Vec<String>> {
        let mut here = [module, &path.within].concat();
        let mut names = path.names.as_slice();
        match names.first()?.as_str() {
            "crate" => here.clear(),
            "self" => {}
            "super" => {
                while names.first().is_some_and(|name| name == "super") {
                    here.pop();
                    names = &names[1..];
                }
                return Some([&here, names].concat());
            }
            // A child, named without `self`.
            first => {
                here.push(first.into());
                let child = self.0.contains_key(&here);
                here.pop();
                return child.then(|| [&here, names].concat());
            }
        }
        Some([&here, &names[1..]].concat())
    }

    /// The module that defines what `names` leads to. Through a re-export, that is the one behind
    /// it.
    fn owner(&self, names: &[String], reexports: usize) -> Option<&[String]> {
        let (at, module) =
            (0..=names.len()).rev().find_map(|length| self.0.get_key_value(&names[..length]))?;
        let rest = &names[at.len()..];
        let Some(name) = rest.first() else { return Some(at) };
        if reexports == 0 || module.facts.defined.contains(&(Vec::new(), name.clone())) {
            return Some(at);
        }
        let through = |path: &PathUse, more: &[String]| {
            let names = [self.absolute(at, path)?.as_slice(), more].concat();
            self.owner(&names, reexports - 1)
        };
        let imports = || module.facts.paths.iter().filter(|path| path.within.is_empty());
        let named = imports().find(|path| path.import.as_ref() == Some(name));
        if let Some(path) = named {
            return through(path, &rest[1..]).or(Some(at));
        }
        let globs = imports().filter(|path| path.import.as_deref() == Some("*"));
        let behind = globs
            .filter_map(|path| through(path, rest))
            .find(|&owner| self.0[owner].facts.defined.contains(&(Vec::new(), name.clone())));
        behind.or(Some(at))
    }
}

/// The path of a file's module. `src/main.rs` is a crate of its own.
fn module_of(file: &str) -> Option<Vec<String>> {
    let path = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let path = match path {
        "main" => return None,
        "lib" => "",
        path => path.strip_suffix("/mod").unwrap_or(path),
    };
    Some(path.split('/').filter(|name| !name.is_empty()).map(String::from).collect())
}
