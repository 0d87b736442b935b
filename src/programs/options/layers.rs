//! Where values come from: the command line over the environment over the file over the default.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeSeed;

use super::about::{About, Shape, VARIABLE_PREFIX, Written, variable_of};
use super::environment::Environment;
use crate::kernel::stderr::warn;

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
            group: None,
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

    /// What it is about: see [`About::group`].
    pub(super) fn group(mut self, group: &'static str) -> Self {
        self.about.group = Some(group);
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

/// Whether Kubernetes gives a variable this name, after the beginning that is ours:
/// `SERVICE_HOST`, `METRICS_SERVICE_PORT_HTTP`, `PORT_9_UDP_ADDR`.
fn is_name_of_service_link(own: &str) -> bool {
    let words: Vec<_> = own.split('_').collect();
    let is_number = |word: &str| word.parse::<u16>().is_ok();
    words.windows(2).any(|pair| matches!(pair, ["SERVICE", "HOST" | "PORT"]))
        || words.windows(3).any(
            |three| matches!(three, ["PORT", number, "TCP" | "UDP" | "SCTP"] if is_number(number)),
        )
}

/// The name that was meant, if at most every third letter is wrong.
fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (strsim::levenshtein(written, name), name))
        .min()
        .filter(|&(distance, name)| 3 * distance <= name.len())
        .map(|(_, name)| name)
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
        self.refuse_unknown_variables(table);
        let mut layer = Layer::new();
        for about in table {
            let Some(variable) = about.variable() else { continue };
            let Some(value) = self.environment.variable(&variable) else { continue };
            if value.to_str().is_some_and(is_service_link) {
                warn(format_args!(
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

    /// A variable of ours by its beginning that none of the options has, but for those that
    /// Kubernetes sets.
    fn refuse_unknown_variables(&mut self, table: &[About]) {
        let names: Vec<_> = table.iter().filter_map(About::variable).collect();
        for variable in self.environment.variables.keys().filter_map(|name| name.to_str()) {
            let Some(own) = variable.strip_prefix(VARIABLE_PREFIX) else { continue };
            let Some(value) = self.environment.variable(variable) else { continue };
            let is_link =
                is_name_of_service_link(own) || value.to_str().is_some_and(is_service_link);
            if is_link || names.iter().any(|name| name == variable) {
                continue;
            }
            let own_names = names.iter().filter_map(|name| name.strip_prefix(VARIABLE_PREFIX));
            let advice = match nearest(own, own_names) {
                Some(meant) => format!("did you mean {VARIABLE_PREFIX}{meant}?"),
                None => "unset it; `nat64handoff serve --help` has the options".to_owned(),
            };
            let cause = format!("there is no such option; {advice}");
            self.errors.add(UsageError { place: variable.to_owned(), cause });
        }
    }

    /// Adds the file that `row` names in one of the places so far.
    pub(super) fn add_file(&mut self, row: &Row<Option<PathBuf>>, table: &[About]) {
        let found = self.find(row);
        if let Some((Some(path), origin)) = self.errors.keep(found) {
            let place = origin.place(row.about.name);
            let layer = of_file(&path, &place, table, &mut self.lines, &mut self.errors);
            self.layers.push((Origin::File(path), layer));
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

    /// The value of an option, if somebody wrote one that means something. Not a default: what is
    /// wrong elsewhere may hide what was meant.
    pub(super) fn written<T>(&self, row: &Row<T>) -> Option<T> {
        let (value, origin) = self.find(row).ok()?;
        (!matches!(origin, Origin::Default | Origin::Machine(_))).then_some(value)
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

/// The layer in a TOML file; `place` says who named it. What is wrong with it is added to `errors`,
/// and is not in the layer.
fn of_file(
    path: &Path,
    place: &str,
    table: &[About],
    lines: &mut HashMap<&'static str, usize>,
    errors: &mut UsageErrors,
) -> Layer {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) => {
            let file = path.display();
            let cause =
                format!("{file} cannot be read: {cause}; name a TOML file that this user can read");
            errors.add(UsageError { place: place.to_owned(), cause });
            return Layer::new();
        }
    };
    let line = |start: usize| {
        let before = text.as_bytes().get(..start).unwrap_or_default();
        1 + before.iter().filter(|&&octet| octet == b'\n').count()
    };
    let mut layer = Layer::new();
    let mut wrong = Vec::new();
    match values_of_toml(&text, table) {
        Ok(values) => {
            for (start, value) in values {
                match value {
                    Ok((name, written)) => {
                        lines.insert(name, line(start));
                        layer.insert(name, written);
                    }
                    Err(cause) => wrong.push((start, cause)),
                }
            }
        }
        Err(error) => {
            let start = error.span().map_or(0, |span| span.start);
            wrong.push((start, format!("{}; correct this line", in_one_line(&error))));
        }
    }
    wrong.sort();
    for (start, cause) in wrong {
        let place = format!("{} line {}", path.display(), line(start));
        errors.add(UsageError { place, cause });
    }
    layer
}

/// A key of the file and what is written for it, or what is wrong there.
type ValueOfToml = Result<(&'static str, Written), String>;

/// What the file says, with the offset of each key.
///
/// # Errors
/// Where it is no TOML.
fn values_of_toml(
    text: &str,
    table: &[About],
) -> Result<Vec<(usize, ValueOfToml)>, toml::de::Error> {
    let written: BTreeMap<toml::Spanned<String>, toml::Value> = toml::from_str(text)?;
    let known: Vec<_> = table.iter().filter(|about| about.in_file).collect();
    let names = || known.iter().map(|about| about.name);
    let value_of = |key: &str, value: toml::Value| {
        let Some(about) = known.iter().find(|about| about.name == key) else {
            let advice = match nearest(key, names()) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => format!("the keys are {}", names().collect::<Vec<_>>().join(", ")),
            };
            return Err(format!("unknown key {key:?}; {advice}"));
        };
        match about.deserialize(value) {
            Ok(written) => Ok((about.name, written)),
            Err(error) => Err(format!("{key}: {}; correct this line", in_one_line(&error))),
        }
    };
    let values = written.into_iter();
    Ok(values.map(|(key, value)| (key.span().start, value_of(key.get_ref(), value))).collect())
}

fn in_one_line(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', ", ")
}
