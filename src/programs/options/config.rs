//! From a table of options to a configuration.

use std::fmt;
use std::marker::PhantomData;

use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::about::About;
use super::layers::{Layer, Layers, UsageErrors};

/// A configuration that is made by a table of options: see `options!`.
pub trait Configuration: Sized {
    /// The table, in the order of the help.
    fn table() -> Vec<About>;

    /// The most important value of each option, checked.
    ///
    /// # Errors
    /// All values that mean nothing, and all that is wrong with the places that have them.
    fn take(layers: &mut Layers<'_>) -> Result<Self, UsageErrors>;

    /// What `check-config` prints, after [`Configuration::take`].
    fn lines(&self, layers: &Layers<'_>) -> String;
}

/// Makes a configuration of a table: one row an option.
///
/// A row is `pub FIELD: TYPE = HELP, ROW;` for a field of the configuration, or `let NAME: TYPE =
/// HELP, ROW;` for an option that only other rows use. The help is the field's documentation, too.
/// `NAME()` in the module of the rows is the row itself.
macro_rules! options {
    (
        $(#[$about:meta])*
        struct $config:ident;
        mod $rows:ident;
        $(
            $(pub $field:ident)? $(let $alone:ident)?: $type:ty = $help:literal, $row:expr;
        )*
    ) => {
        $(#[$about])*
        pub struct $config {
            $($(
                #[doc = $help]
                pub $field: $type,
            )?)*
        }

        mod $rows {
            use super::*;

            $(
                pub(super) fn $($field)? $($alone)? () -> Row<$type> {
                    $row.help($help)
                }
            )*
        }

        impl Configuration for $config {
            fn table() -> Vec<About> {
                vec![$($rows::$($field)? $($alone)? ().about,)*]
            }

            fn take(layers: &mut Layers<'_>) -> Result<Self, UsageErrors> {
                let mut errors = std::mem::take(&mut layers.errors);
                // Those that others use, first, so that an error names them.
                $($(errors.keep(layers.take(&$rows::$alone()));)?)*
                $($(let $field = errors.keep(layers.take(&$rows::$field()));)?)*
                match ($($($field,)?)*) {
                    ($($(Some($field),)?)*) if errors.0.is_empty() => Ok(Self { $($($field,)?)* }),
                    _ => Err(errors),
                }
            }

            fn lines(&self, layers: &Layers<'_>) -> String {
                [$($($rows::$field().line(&self.$field, layers),)?)*].into_iter().flatten().collect()
            }
        }
    };
}

pub(super) use options;

/// What the command line has of the options of `C`. Nothing is checked.
pub struct Options<C> {
    pub(super) written: Layer,
    config: PhantomData<fn() -> C>,
}

/// A command line without options.
impl<C> Default for Options<C> {
    fn default() -> Self {
        Self { written: Layer::new(), config: PhantomData }
    }
}

impl<C> fmt::Debug for Options<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

impl<C: Configuration> Args for Options<C> {
    fn augment_args(command: Command) -> Command {
        command.args(C::table().iter().map(About::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<C: Configuration> FromArgMatches for Options<C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let mut options = Self::default();
        options.update_from_arg_matches_mut(matches)?;
        Ok(options)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.update_from_arg_matches_mut(&mut matches.clone())
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), clap::Error> {
        for about in C::table() {
            if let Some(written) = about.of_matches(matches) {
                self.written.insert(about.name, written);
            }
        }
        Ok(())
    }
}
