//! What the command line, the environment, the file and the help need to know about an option,
//! whatever its value means.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches};
use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// What each environment variable of ours begins with.
pub(super) const VARIABLE_PREFIX: &str = "NAT64HANDOFF_";

/// A value as it was written: the items of a list, nothing for a switch, and one string for all
/// others.
pub type Written = Vec<OsString>;

/// How the value of an option is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// No value. Not in the help, the environment or the file.
    Switch,
    /// A string.
    Word,
    /// A number; in a file, also one without quotes.
    Number,
    /// A path, which need not be UTF-8 on the command line.
    Path,
    /// Strings: the option is repeated, or they stand in one string with commas, or in an array.
    List,
}

/// An option, but for what its value means.
#[derive(Debug, Clone)]
pub struct About {
    /// The long option, without `--`, and the key in the file.
    pub name: &'static str,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// The help, without the default.
    pub help: &'static str,
    /// The default as the help tells it.
    pub default: Option<&'static str>,
    /// How the value is written.
    pub shape: Shape,
    /// Whether the command line must have it.
    pub required: bool,
    /// Whether the file may have it.
    pub in_file: bool,
    /// The group that the help and the manual show it in, if it is in one.
    pub group: Option<&'static str>,
}

impl About {
    /// Whether the help shows it.
    pub fn is_shown(&self) -> bool {
        self.shape != Shape::Switch
    }

    /// Its environment variable.
    pub fn variable(&self) -> Option<String> {
        self.is_shown().then(|| variable_of(self.name))
    }

    /// Its part of the command line.
    pub fn arg(&self) -> Arg {
        let mut help = self.help.to_owned();
        if let Some(default) = self.default {
            help.push_str(&format!(" [default: {default}]"));
        }
        let arg = Arg::new(self.name).long(self.name).help(help).required(self.required);
        let arg = arg.help_heading(self.group);
        match self.shape {
            Shape::Switch => arg.action(ArgAction::SetTrue).hide(true),
            // The help has the choices in the value's name.
            Shape::Word => {
                let arg = arg.value_name(self.value).value_parser(self.choices());
                let arg = arg.hide_possible_values(true);
                // To name it is to want it.
                let is_alone = self.value == "on|off";
                if is_alone { arg.num_args(0..=1).default_missing_value("on") } else { arg }
            }
            Shape::Number => arg.value_name(self.value),
            Shape::Path => arg.value_name(self.value).value_parser(clap::value_parser!(PathBuf)),
            Shape::List => {
                arg.value_name(self.value).action(ArgAction::Append).value_delimiter(',')
            }
        }
    }

    /// Those of its values that a shell can offer: `plain|full`. What is refused, and how that is
    /// said, is not decided here.
    fn choices(&self) -> Choices {
        let is_choice = |word: &&str| word.chars().all(|letter| letter.is_ascii_lowercase());
        match self.value.contains('|') {
            true => Choices(self.value.split('|').filter(is_choice).collect()),
            false => Choices(Vec::new()),
        }
    }

    /// What stands for its value in a file.
    pub fn kind_in_file(&self) -> &'static str {
        match self.shape {
            Shape::Number => "number",
            Shape::List => "array of strings",
            Shape::Switch | Shape::Word | Shape::Path => "string",
        }
    }

    /// What the command line has for it.
    pub fn of_matches(&self, matches: &mut ArgMatches) -> Option<Written> {
        let name = self.name;
        match self.shape {
            Shape::Switch => matches.get_flag(name).then(Vec::new),
            Shape::Word | Shape::Number => {
                matches.remove_one::<String>(name).map(|text| vec![text.into()])
            }
            Shape::Path => matches.remove_one::<PathBuf>(name).map(|path| vec![path.into()]),
            Shape::List => {
                matches.remove_many::<String>(name).map(|items| items.map(Into::into).collect())
            }
        }
    }

    /// What the value of its variable comes to.
    pub fn of_text(&self, text: &str) -> Written {
        match self.shape {
            Shape::List => items(text),
            _ => vec![text.into()],
        }
    }
}

/// Takes every string, and knows some of them.
#[derive(Clone)]
struct Choices(Vec<&'static str>);

impl TypedValueParser for Choices {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values = self.0.iter().map(PossibleValue::new);
        (!self.0.is_empty()).then(|| Box::new(values) as Box<dyn Iterator<Item = PossibleValue>>)
    }
}

/// The environment variable of the option `name`.
pub fn variable_of(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

fn items(text: &str) -> Written {
    text.split(',').map(|item| item.trim().into()).collect()
}

/// Its value in the file.
impl<'de> DeserializeSeed<'de> for &About {
    type Value = Written;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Written, D::Error> {
        match self.shape {
            Shape::Switch | Shape::Word => {
                String::deserialize(deserializer).map(|text| vec![text.into()])
            }
            Shape::Number => deserializer.deserialize_any(NumberVisitor),
            Shape::Path => PathBuf::deserialize(deserializer).map(|path| vec![path.into()]),
            Shape::List => deserializer.deserialize_any(ListVisitor),
        }
    }
}

/// A string, or a number as it would be written in one.
struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(vec![text.into()])
    }

    fn visit_i64<E>(self, number: i64) -> Result<Written, E> {
        Ok(vec![number.to_string().into()])
    }

    fn visit_u64<E>(self, number: u64) -> Result<Written, E> {
        Ok(vec![number.to_string().into()])
    }

    fn visit_f64<E>(self, number: f64) -> Result<Written, E> {
        Ok(vec![number.to_string().into()])
    }
}

/// An array of strings, or one string with commas.
struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<Written, E> {
        Ok(items(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Written, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = elements.next_element::<String>()? {
            list.push(item.into());
        }
        Ok(list)
    }
}
