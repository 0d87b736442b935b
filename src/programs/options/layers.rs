//! Where values come from: the command line over the environment over the file over the default.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};

use super::about::{About, Shape, VARIABLE_PREFIX, Written, variable_of};
use super::environment::Environment;
use crate::kernel::stderr::say;

/// What has to be written differently: one line, with where it stands and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {cause}")]
pub struct UsageError {
    pub(super) place: String,
    pub(super) cause: String,
}

/// All that has to be written differently, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsageErrors(pub(super) Vec<UsageError>);

impl UsageErrors {
    /// The value, or `None` with the error kept, once: an option that others use is taken often.
    pub(super) fn keep<T>(&mut self, result: Result<T, UsageError>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }

    pub(super) fn add(&mut self, error: UsageError) {
        if !self.0.contains(&error) {
            self.0.push(error);
        }
    }
}

impl fmt::Display for UsageErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(UsageError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for UsageErrors {}

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An option.
    CommandLine,
    /// A variable of ours.
    Environment,
    /// The file of `--config`.
    File(PathBuf),
    /// A variable of systemd.
    Variable(&'static str),
    /// None: it is the default.
    Default,
    /// None: it is the default, which depends on this of the machine.
    Machine(String),
}

impl Origin {
    /// What an error says about the option `name` from there.
    fn place(&self, name: &str) -> String {
        match self {
            Origin::CommandLine | Origin::Default | Origin::Machine(_) => format!("--{name}"),
            Origin::Environment => variable_of(name),
            Origin::File(path) => format!("{}: {name}", path.display()),
            Origin::Variable(variable) => format!("${variable}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::CommandLine => f.write_str("command line"),
            Origin::Environment => f.write_str("environment"),
            // Escaped, because it stands in a comment of one line.
            Origin::File(path) => write!(f, "{path:?}"),
            Origin::Variable(name) => write!(f, "${name}"),
            Origin::Default => f.write_str("default"),
            Origin::Machine(why) => write!(f, "default, {why}"),
        }
    }
}

/// An option whose value is a `T`. Its help is the doc comment above it in its table.
#[derive(Debug, Clone)]
pub struct Row<T> {
    pub(super) about: About,
    check: Check<T>,
    fallback: Fallback<T>,
    show: Option<fn(&T) -> toml::Value>,
}

/// What a written value means, or why it means nothing.
#[derive(Debug, Clone)]
enum Check<T> {
    Switch(fn() -> T),
    Text(fn(&str) -> Result<T, String>),
    Path(fn(&Path) -> Result<T, String>),
    List(fn(&[&str], &Layers<'_>) -> Result<T, String>),
}

/// The value where none is written.
#[derive(Debug, Clone)]
enum Fallback<T> {
    None,
    /// What this text means.
    Text(&'static str),
    /// What depends on the machine, or on other options.
    Made(fn(&Layers<'_>) -> Result<(T, Origin), UsageError>),
}

impl<T> Row<T> {
    fn new(name: &'static str, value: &'static str, shape: Shape, check: Check<T>) -> Self {
        let about = About {
            name,
            value,
            help: "",
            default: None,
            shape,
            required: false,
            in_file: shape != Shape::Switch,
        };
        Self { about, check, fallback: Fallback::None, show: None }
    }

    /// An option of the command line alone, without a value, that the help does not show.
    pub(super) fn switch(name: &'static str, on: fn() -> T) -> Self {
        Self::new(name, "", Shape::Switch, Check::Switch(on))
    }

    pub(super) fn word(
        name: &'static str,
        value: &'static str,
        check: fn(&str) -> Result<T, String>,
    ) -> Self {
        Self::new(name, value, Shape::Word, Check::Text(check))
    }

    pub(super) fn number(
        name: &'static str,
        value: &'static str,
        check: fn(&str) -> Result<T, String>,
    ) -> Self {
        Self::new(name, value, Shape::Number, Check::Text(check))
    }

    pub(super) fn path(
        name: &'static str,
        value: &'static str,
        check: fn(&Path) -> Result<T, String>,
    ) -> Self {
        Self::new(name, value, Shape::Path, Check::Path(check))
    }

    /// May be repeated; the check gets all items, and may ask for other options.
    pub(super) fn list(
        name: &'static str,
        value: &'static str,
        check: fn(&[&str], &Layers<'_>) -> Result<T, String>,
    ) -> Self {
        Self::new(name, value, Shape::List, Check::List(check))
    }

    /// Its default, written as somebody would write it.
    pub(super) fn default(mut self, text: &'static str) -> Self {
        self.about.default = Some(text);
        self.fallback = Fallback::Text(text);
        self
    }

    /// Its default, and what the help says of it.
    pub(super) fn default_with(
        mut self,
        text: &'static str,
        make: fn(&Layers<'_>) -> Result<(T, Origin), UsageError>,
    ) -> Self {
        self.about.default = Some(text);
        self.without(make)
    }

    /// Its value where none is written, of which the help says nothing.
    pub(super) fn without(
        mut self,
        make: fn(&Layers<'_>) -> Result<(T, Origin), UsageError>,
    ) -> Self {
        self.fallback = Fallback::Made(make);
        self
    }

    /// The command line must have it.
    pub(super) fn required(mut self) -> Self {
        self.about.required = true;
        self
    }

    /// The file must not have it.
    pub(super) fn not_in_file(mut self) -> Self {
        self.about.in_file = false;
        self
    }

    /// How `check-config` shows it, so that a file with it means the same.
    pub(super) fn shown(mut self, show: fn(&T) -> toml::Value) -> Self {
        self.show = Some(show);
        self
    }

    pub(super) fn help(mut self, help: &'static str) -> Self {
        self.about.help = help.trim();
        self
    }

    /// The line that `check-config` has for `value`.
    pub(super) fn line(&self, value: &T, layers: &Layers<'_>) -> Option<String> {
        let show = self.show?;
        let origin = layers.found.get(self.about.name).unwrap_or(&Origin::Default);
        Some(format!("{} = {} # {origin}\n", self.about.name, show(value)))
    }

    fn means(&self, written: &Written, layers: &Layers<'_>) -> Result<T, String> {
        let first = written.first().map_or(OsStr::new(""), OsString::as_os_str);
        match self.check {
            Check::Switch(on) => Ok(on()),
            Check::Text(check) => check(utf8(first)?),
            Check::Path(check) => check(Path::new(first)),
            Check::List(check) => {
                let items: Result<Vec<_>, _> = written.iter().map(|item| utf8(item)).collect();
                check(&items?, layers)
            }
        }
    }
}

fn utf8(item: &OsStr) -> Result<&str, String> {
    item.to_str().ok_or_else(|| "is not UTF-8; give text".into())
}

/// What one place has, by the names of options.
pub type Layer = BTreeMap<&'static str, Written>;

/// All places, the most important first.
#[derive(Debug)]
pub struct Layers<'a> {
    layers: Vec<(Origin, Layer)>,
    /// The machine, and its variables.
    pub(super) environment: &'a Environment,
    /// Where the values came from that were taken.
    found: HashMap<&'static str, Origin>,
    /// The lines of the keys in the file.
    lines: HashMap<&'static str, usize>,
    /// What is wrong with the places themselves.
    pub(super) errors: UsageErrors,
}

/// Whether Kubernetes sets a variable to this, `tcp://10.0.0.1:9`, in the containers beside a
/// service: for one named `nat64handoff` the variable is ours.
fn is_service_link(value: &str) -> bool {
    let address =
        value.split_once("://").filter(|(protocol, _)| ["tcp", "udp", "sctp"].contains(protocol));
    address.is_some_and(|(_, address)| address.parse::<SocketAddr>().is_ok())
}

impl<'a> Layers<'a> {
    /// The command line, and nothing else.
    pub(super) fn new(command_line: Layer, environment: &'a Environment) -> Self {
        let layers = vec![(Origin::CommandLine, command_line)];
        Self {
            layers,
            environment,
            found: HashMap::new(),
            lines: HashMap::new(),
            errors: UsageErrors::default(),
        }
    }

    /// Adds what variables say about the options of `table`.
    pub(super) fn add_variables(&mut self, table: &[About]) {
        self.add_misspelt_variables(table);
        let mut layer = Layer::new();
        for about in table {
            let Some(variable) = about.variable() else { continue };
            let Some(value) = self.environment.variable(&variable) else { continue };
            if value.to_str().is_some_and(is_service_link) {
                say(format_args!(
                    "{variable}={} is ignored: Kubernetes sets it for a service of this name \
                     (enableServiceLinks: false); --{} or the file can say what is meant",
                    value.display(),
                    about.name
                ));
                continue;
            }
            let written = match value.to_str() {
                Some(text) => about.of_text(text),
                // A path that the file cannot name.
                None if !about.in_file => vec![value.to_owned()],
                None => {
                    let cause = "is not UTF-8; write it in the file or as an option".into();
                    self.errors.add(UsageError { place: variable, cause });
                    continue;
                }
            };
            layer.insert(about.name, written);
        }
        self.layers.push((Origin::Environment, layer));
    }

    /// A variable of ours by its beginning that none of the options has, but nearly. Others with
    /// this beginning may be there for another purpose: containers get such from their service.
    fn add_misspelt_variables(&mut self, table: &[About]) {
        let names: Vec<_> = table.iter().filter_map(About::variable).collect();
        for variable in self.environment.variables.keys().filter_map(|name| name.to_str()) {
            let Some(own) = variable.strip_prefix(VARIABLE_PREFIX) else { continue };
            let nearest = |name: &String| {
                let name = name.strip_prefix(VARIABLE_PREFIX)?;
                Some(strsim::levenshtein(own, name)).filter(|distance| 3 * distance <= name.len())
            };
            let meant = names.iter().filter_map(|name| Some((nearest(name)?, name))).min();
            if let Some((1.., meant)) = meant {
                let cause = format!("is not known; did you mean {meant}?");
                self.errors.add(UsageError { place: variable.to_owned(), cause });
            }
        }
    }

    /// Adds the file that `row` names in one of the places so far.
    pub(super) fn add_file(&mut self, row: &Row<Option<PathBuf>>, table: &[About]) {
        let found = self.find(row);
        if let Some((Some(path), origin)) = self.errors.keep(found) {
            let read = of_file(&path, &origin.place(row.about.name), table, &mut self.lines);
            if let Some(layer) = self.errors.keep(read) {
                self.layers.push((Origin::File(path), layer));
            }
        }
    }

    /// The value of an option, and where it was found.
    pub(super) fn find<T>(&self, row: &Row<T>) -> Result<(T, Origin), UsageError> {
        let name = row.about.name;
        let error = |origin: &Origin, cause| UsageError { place: self.place(origin, name), cause };
        for (origin, layer) in &self.layers {
            if let Some(written) = layer.get(name) {
                let value = row.means(written, self).map_err(|cause| error(origin, cause))?;
                return Ok((value, origin.clone()));
            }
        }
        match &row.fallback {
            Fallback::None => Err(error(&Origin::Default, "is missing; give one".into())),
            Fallback::Made(make) => make(self),
            Fallback::Text(text) => {
                let value = row.means(&row.about.of_text(text), self);
                Ok((value.map_err(|cause| error(&Origin::Default, cause))?, Origin::Default))
            }
        }
    }

    /// What an error says about the option `name` from there.
    fn place(&self, origin: &Origin, name: &str) -> String {
        match (origin, self.lines.get(name)) {
            (Origin::File(path), Some(line)) => format!("{} line {line}: {name}", path.display()),
            _ => origin.place(name),
        }
    }

    /// The value of an option. Where it was found is kept for [`Row::line`].
    pub(super) fn take<T>(&mut self, row: &Row<T>) -> Result<T, UsageError> {
        let (value, origin) = self.find(row)?;
        self.found.insert(row.about.name, origin);
        Ok(value)
    }
}

/// The layer in a TOML file; `place` says who named it.
fn of_file(
    path: &Path,
    place: &str,
    table: &[About],
    lines: &mut HashMap<&'static str, usize>,
) -> Result<Layer, UsageError> {
    let text = fs::read_to_string(path).map_err(|cause| UsageError {
        place: place.to_owned(),
        cause: format!(
            "{} cannot be read: {cause}; name a TOML file that this user can read",
            path.display()
        ),
    })?;
    let line = |start: usize| {
        let before = text.as_bytes().get(..start).unwrap_or_default();
        1 + before.iter().filter(|&&octet| octet == b'\n').count()
    };
    let mut starts = Vec::new();
    let layer = of_toml(&text, table, &mut starts).map_err(|(span, cause)| {
        let line = line(span.map_or(0, |span| span.start));
        UsageError { place: format!("{} line {line}", path.display()), cause }
    })?;
    lines.extend(starts.into_iter().map(|(name, start)| (name, line(start))));
    Ok(layer)
}

/// Where each key starts is added to `starts`.
fn of_toml(
    text: &str,
    table: &[About],
    starts: &mut Vec<(&'static str, usize)>,
) -> Result<Layer, (Option<Range<usize>>, String)> {
    let failed = |error: toml::de::Error| {
        let message = error.message().trim().replace('\n', ", ");
        (error.span(), format!("{message}; correct this line"))
    };
    let written: BTreeMap<toml::Spanned<String>, toml::Value> =
        toml::from_str(text).map_err(failed)?;
    let keys = FileKeys(table.iter().filter(|about| about.in_file).collect());
    for key in written.keys() {
        let name = key.get_ref().as_str();
        if let Some(about) = keys.get(name) {
            starts.push((about.name, key.span().start));
            continue;
        }
        let advice = match keys.nearest(name) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("the keys are {}", keys.names().collect::<Vec<_>>().join(", ")),
        };
        return Err((Some(key.span()), format!("unknown key {name:?}; {advice}")));
    }
    // Once more, so that an error about a value has its line.
    let deserializer = toml::Deserializer::parse(text).map_err(failed)?;
    keys.deserialize(deserializer).map_err(failed)
}

/// The options that a file may have.
struct FileKeys<'a>(Vec<&'a About>);

impl FileKeys<'_> {
    fn get(&self, name: &str) -> Option<&About> {
        self.0.iter().copied().find(|about| about.name == name)
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|about| about.name)
    }

    /// The key that was meant, if at most every third letter is wrong.
    fn nearest(&self, name: &str) -> Option<&'static str> {
        self.names()
            .map(|key| (strsim::levenshtein(name, key), key))
            .min()
            .filter(|&(distance, key)| 3 * distance <= key.len())
            .map(|(_, key)| key)
    }
}

impl<'de> DeserializeSeed<'de> for FileKeys<'_> {
    type Value = Layer;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Layer, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FileKeys<'_> {
    type Value = Layer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Layer, A::Error> {
        let mut layer = Layer::new();
        while let Some(key) = map.next_key::<String>()? {
            let about = self.get(&key).ok_or_else(|| A::Error::custom("unknown key"))?;
            layer.insert(about.name, map.next_value_seed(about)?);
        }
        Ok(layer)
    }
}
