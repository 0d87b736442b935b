//! How long files, functions and comment lines are, and how deep their blocks stand in each other.

use crate::tree::{Finding, RUST_FOLDERS, Tree};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const NESTING_MAX: usize = 5;
const COMMENT_COLUMNS_MAX: usize = 100;

/// A file is short enough to be read at once.
pub fn files(tree: &Tree) -> Vec<Finding> {
    let long = tree.rust(RUST_FOLDERS).filter_map(|file| {
        let lines = file.text.lines().count();
        let what = format!("{lines} lines, more than {FILE_LINES_MAX}");
        let remedy = "give a part of it a file of its own";
        (lines > FILE_LINES_MAX).then(|| Finding::new(&file.path, 1, what, remedy))
    });
    long.collect()
}

/// A function is short and flat enough to be seen at once.
pub fn functions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust(RUST_FOLDERS) {
        for function in &file.facts().functions {
            let name = &function.name;
            if function.lines > FUNCTION_LINES_MAX {
                let what = format!(
                    "`{name}` has {} lines, more than {FUNCTION_LINES_MAX}",
                    function.lines
                );
                let remedy = "give a step of it a function with a name";
                findings.push(Finding::new(&file.path, function.line, what, remedy));
            }
            if function.nesting > NESTING_MAX {
                let what = format!(
                    "`{name}` has blocks {} deep, more than {NESTING_MAX}",
                    function.nesting
                );
                let remedy = "return early, or give the inner blocks a function";
                findings.push(Finding::new(&file.path, function.line, what, remedy));
            }
        }
    }
    findings
}

/// Comments are as wide as the code, which rustfmt does not see to.
pub fn comments(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust(RUST_FOLDERS) {
        for (at, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > COMMENT_COLUMNS_MAX && has_comment(line) {
                let what =
                    format!("a comment of {columns} columns, more than {COMMENT_COLUMNS_MAX}");
                findings.push(Finding::new(&file.path, at + 1, what, "wrap it"));
            }
        }
    }
    findings
}

/// Whether a line is a comment or ends in one. A `//` within a string is none.
fn has_comment(line: &str) -> bool {
    let behind_code = || {
        line.rsplit_once("// ").is_some_and(|(code, comment)| {
            code.matches('"').count() % 2 == 0 && !comment.contains('"')
        })
    };
    line.trim_start().starts_with("//") || behind_code()
}

#[cfg(test)]
mod canaries {
    use super::*;

    fn tree(text: &str) -> Tree {
        Tree::of(&[("src/ip/mod.rs", text)])
    }

    #[test]
    fn files_refuses_601_lines() {
        assert!(files(&tree(&"\n".repeat(600))).is_empty());
        assert_eq!(files(&tree(&"\n".repeat(601))).len(), 1);
    }

    #[test]
    fn functions_refuses_71_lines() {
        let function = |lines: usize| format!("impl A {{ fn f() {{{}}} }}", "\n".repeat(lines - 1));
        assert!(functions(&tree(&function(70))).is_empty());
        assert_eq!(functions(&tree(&function(71))).len(), 1);
    }

    #[test]
    fn functions_refuses_six_blocks_in_each_other() {
        let five = "if a { for b in c { match d { E => while f { loop { g() } }, _ => {} } } }";
        let six = "if a { for b in c { match d { E => while f { loop { if g {} } }, _ => {} } } }";
        let chain = "if a {} else if b {} else if c {} else if d {} else if e {} else if f {}";
        for fine in [five, chain] {
            let found = functions(&tree(&format!("fn f() {{ {fine} }}")));
            assert!(found.is_empty(), "{found:?}");
        }
        assert_eq!(functions(&tree(&format!("fn f() {{ {six} }}"))).len(), 1);
    }

    #[test]
    fn comments_refuses_101_columns() {
        let wide = "w".repeat(97);
        assert!(comments(&tree(&format!("// {wide}"))).is_empty());
        assert_eq!(comments(&tree(&format!("/// {wide}"))).len(), 1);
        assert_eq!(comments(&tree(&format!("let a = 1; // {wide}"))).len(), 1);
        assert!(comments(&tree(&format!("let a = \"http:// {wide}\";"))).is_empty());
    }
}
