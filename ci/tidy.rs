//! Rules of the source tree that no compiler checks.
//!
//! Each rule is a function from the tree to what breaks it, and a test here that finds nothing.
//! Each has a canary beside it: a small tree that it must refuse.

#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/papers.rs"]
mod papers;
#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/size.rs"]
mod size;
#[path = "tidy/style.rs"]
mod style;
#[path = "tidy/syntax.rs"]
mod syntax;
#[path = "tidy/tree.rs"]
mod tree;

use std::sync::LazyLock;

use tree::{Finding, Tree};

static TREE: LazyLock<Tree> = LazyLock::new(Tree::read);

fn check(findings: &[Finding]) {
    let lines: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

macro_rules! rules {
    ($($name:ident: $rule:path,)*) => {
        $(#[test]
        fn $name() {
            check(&$rule(&TREE));
        })*
    };
}

rules! {
    a_room_uses_only_rooms_above_it: rooms::order,
    imports_form_no_circles: rooms::circles,
    pure_rooms_only_compute: rooms::purity,
    files_are_short: size::files,
    functions_are_short_and_flat: size::functions,
    comments_are_as_wide_as_code: size::comments,
    modules_have_one_style: style::modules,
    a_type_has_a_name_of_its_own: style::names,
    every_file_is_compiled: style::orphans,
    attributes_give_reasons: style::attributes,
    unsafe_code_is_in_the_kernel_room: style::unsafe_code,
    cited_sections_exist: papers::citations,
    links_lead_somewhere: papers::links,
    the_top_level_is_as_listed: papers::top_level,
    every_test_is_run: papers::tests_run,
    dependencies_come_from_crates_io: dependencies::sources,
    licences_of_dependencies_are_allowed: dependencies::licences_of_this_build,
}
