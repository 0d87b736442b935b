//! What the rules want to know of one Rust file: its paths, functions, attributes, `unsafe`.

use std::collections::BTreeSet;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, Expr, Ident, Item, ItemUse, Macro, Signature, UseTree};

/// A path such as `crate::ip::icmp`, and where it stands.
#[derive(Debug, Clone)]
pub struct PathUse {
    pub names: Vec<String>,
    pub line: usize,
    /// The modules within the file that it stands in.
    pub within: Vec<String>,
    /// Whether only tests are built with it.
    pub test: bool,
    /// Whether a `use` brings it into scope, and under which name; `*` for all that it holds.
    pub import: Option<String>,
}

/// A function with a body.
#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
    /// Blocks within blocks: branches, loops, matches, closures. The body itself counts as none.
    pub nesting: usize,
}

/// A `mod name;`, whose text is another file.
#[derive(Debug)]
pub struct Submodule {
    pub name: String,
    pub test: bool,
    /// Of its `#[path]` attribute.
    pub path: Option<String>,
}

/// An attribute: `#[name(words)]`.
#[derive(Debug)]
pub struct AttributeUse {
    pub line: usize,
    pub name: String,
    pub words: Vec<String>,
}

/// What was found in a file.
#[derive(Debug, Default)]
pub struct Facts {
    pub paths: Vec<PathUse>,
    pub functions: Vec<Function>,
    pub submodules: Vec<Submodule>,
    /// Names that the file itself defines, with the modules within it that they stand in.
    pub defined: BTreeSet<(Vec<String>, String)>,
    /// Types and traits that are defined outside tests.
    pub types: Vec<(usize, String)>,
    pub attributes: Vec<AttributeUse>,
    /// Macros that are called outside tests.
    pub macros: Vec<(usize, String)>,
    /// Methods that are called outside tests.
    pub methods: Vec<(usize, String)>,
    pub unsafe_lines: Vec<usize>,
}

impl Facts {
    /// Panics where the text is no Rust: the compiler would have said so before.
    pub fn of(path: &str, text: &str) -> Self {
        let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut walk = Walk::default();
        unsafe_lines(tokens.clone(), &mut walk.facts.unsafe_lines);
        walk.visit_file(&syn::parse2(tokens).unwrap_or_else(|e| panic!("{path}: {e}")));
        walk.facts
    }
}

#[derive(Default)]
struct Walk {
    facts: Facts,
    within: Vec<String>,
    test: bool,
}

fn line(span: Span) -> usize {
    span.start().line
}

/// `#[test]`, or a `#[cfg]` that only tests satisfy.
fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let words = || arguments(attribute);
        let has = |name: &str| words().iter().any(|word| word == name);
        let path = attribute.path();
        path.is_ident("test") || path.is_ident("cfg") && has("test") && !has("not")
    })
}

/// The identifiers within the parentheses of an attribute.
fn arguments(attribute: &Attribute) -> Vec<String> {
    let list = attribute.meta.require_list();
    list.map(|list| words(list.tokens.clone())).unwrap_or_default()
}

fn unsafe_lines(tokens: TokenStream, lines: &mut Vec<usize>) {
    for token in tokens {
        match token {
            TokenTree::Ident(ident) if ident == "unsafe" => lines.push(line(ident.span())),
            TokenTree::Group(group) => unsafe_lines(group.stream(), lines),
            _ => {}
        }
    }
}

fn words(tokens: TokenStream) -> Vec<String> {
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => found.push(ident.to_string()),
            TokenTree::Group(group) => found.extend(words(group.stream())),
            _ => {}
        }
    }
    found
}

fn name_and_attributes(item: &Item) -> (Option<String>, &[Attribute]) {
    macro_rules! named {
        ($($kind:ident),*) => {
            match item {
                $(Item::$kind(item) => (Some(item.ident.to_string()), &item.attrs),)*
                Item::Fn(item) => (Some(item.sig.ident.to_string()), &item.attrs),
                Item::Impl(item) => (None, &item.attrs),
                Item::Use(item) => (None, &item.attrs),
                Item::Macro(item) => (item.ident.as_ref().map(ToString::to_string), &item.attrs),
                _ => (None, &[]),
            }
        };
    }
    named!(Const, Enum, Mod, Static, Struct, Trait, Type, Union)
}

fn type_name(item: &Item) -> Option<&Ident> {
    match item {
        Item::Enum(item) => Some(&item.ident),
        Item::Struct(item) => Some(&item.ident),
        Item::Trait(item) => Some(&item.ident),
        Item::Type(item) => Some(&item.ident),
        Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

impl Walk {
    fn path(&mut self, names: Vec<String>, line: usize, import: Option<String>) {
        let within = self.within.clone();
        self.facts.paths.push(PathUse { names, line, within, test: self.test, import });
    }

    fn import(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.import(&with(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(before, tree)),
            UseTree::Glob(glob) => {
                self.path(before.to_vec(), line(glob.span()), Some("*".into()));
            }
            UseTree::Name(name) if name.ident == "self" => {
                let last = before.last().cloned();
                self.path(before.to_vec(), line(name.span()), last);
            }
            UseTree::Name(name) => {
                self.path(with(&name.ident), line(name.span()), Some(name.ident.to_string()));
            }
            UseTree::Rename(name) => {
                self.path(with(&name.ident), line(name.span()), Some(name.rename.to_string()));
            }
        }
    }

    /// The paths within the argument of a macro, which is not parsed any further.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut names: Vec<String> = Vec::new();
        let (mut first, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !names.is_empty() => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_of_path(&mut names, first);
                        first = line(ident.span());
                    }
                    names.push(ident.to_string());
                }
                TokenTree::Group(group) => {
                    self.end_of_path(&mut names, first);
                    self.tokens(group.stream());
                }
                _ => self.end_of_path(&mut names, first),
            }
            colons = 0;
        }
        self.end_of_path(&mut names, first);
    }

    fn end_of_path(&mut self, names: &mut Vec<String>, line: usize) {
        if names.len() > 1 {
            self.path(std::mem::take(names), line, None);
        }
        names.clear();
    }

    fn function(&mut self, signature: &Signature, body: &Block) {
        let first = line(signature.fn_token.span);
        let mut nesting = Nesting::default();
        nesting.visit_block(body);
        self.facts.functions.push(Function {
            name: signature.ident.to_string(),
            line: first,
            lines: body.brace_token.span.close().end().line - first + 1,
            nesting: nesting.deepest,
        });
    }
}

impl<'ast> Visit<'ast> for Walk {
    fn visit_item(&mut self, item: &'ast Item) {
        let (name, attributes) = name_and_attributes(item);
        if let Some(name) = name {
            self.facts.defined.insert((self.within.clone(), name));
        }
        let outside = self.test;
        self.test |= only_for_tests(attributes);
        if let Some(name) = type_name(item).filter(|_| !self.test) {
            self.facts.types.push((line(name.span()), name.to_string()));
        }
        visit::visit_item(self, item);
        self.test = outside;
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let name = module.ident.to_string();
        if module.content.is_some() {
            self.within.push(name);
            visit::visit_item_mod(self, module);
            self.within.pop();
            return;
        }
        let path = module.attrs.iter().find_map(|attribute| {
            let value = &attribute.meta.require_name_value().ok()?.value;
            match value {
                Expr::Lit(literal) if attribute.path().is_ident("path") => match &literal.lit {
                    syn::Lit::Str(text) => Some(text.value()),
                    _ => None,
                },
                _ => None,
            }
        });
        self.facts.submodules.push(Submodule { name, test: self.test, path });
        visit::visit_item_mod(self, module);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.import(&[], &item.tree);
        item.attrs.iter().for_each(|attribute| self.visit_attribute(attribute));
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        let outside = self.test;
        self.test |= only_for_tests(&item.attrs);
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
        self.test = outside;
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(names, line(path.span()), None);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        if !self.test
            && let Some(name) = call.path.segments.last()
        {
            self.facts.macros.push((line(call.path.span()), name.ident.to_string()));
        }
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if !self.test {
            self.facts.methods.push((line(call.method.span()), call.method.to_string()));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        self.facts.attributes.push(AttributeUse {
            line: line(attribute.span()),
            name: attribute.path().get_ident().map(ToString::to_string).unwrap_or_default(),
            words: arguments(attribute),
        });
        visit::visit_attribute(self, attribute);
    }
}

/// How deep the blocks of a body stand in each other. Functions within it count for themselves.
#[derive(Default)]
struct Nesting {
    depth: usize,
    deepest: usize,
}

impl Nesting {
    fn deeper(&mut self, inside: impl FnOnce(&mut Self)) {
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        inside(self);
        self.depth -= 1;
    }
}

impl<'ast> Visit<'ast> for Nesting {
    fn visit_item(&mut self, _: &'ast Item) {}

    fn visit_expr(&mut self, expr: &'ast Expr) {
        match expr {
            Expr::Match(_) | Expr::ForLoop(_) | Expr::While(_) | Expr::Loop(_) => {
                self.deeper(|inside| visit::visit_expr(inside, expr));
            }
            Expr::Closure(closure) if matches!(*closure.body, Expr::Block(_)) => {
                self.deeper(|inside| {
                    let Expr::Block(body) = &*closure.body else { return };
                    inside.visit_block(&body.block);
                });
            }
            Expr::Block(_) | Expr::Unsafe(_) => {
                self.deeper(|inside| visit::visit_expr(inside, expr));
            }
            Expr::If(branch) => {
                self.visit_expr(&branch.cond);
                self.deeper(|inside| inside.visit_block(&branch.then_branch));
                match branch.else_branch.as_ref().map(|(_, other)| &**other) {
                    // An `else if` stands beside its `if`, not within it.
                    Some(Expr::Block(other)) => {
                        self.deeper(|inside| inside.visit_block(&other.block));
                    }
                    Some(other) => self.visit_expr(other),
                    None => {}
                }
            }
            _ => visit::visit_expr(self, expr),
        }
    }
}
