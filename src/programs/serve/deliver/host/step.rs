//! [`HostStep`]: one thing that a host has to have for delivery, whether it is there, and what
//! makes it.

use std::fmt;

/// Something that a host has to have for delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostStep {
    /// What it is.
    pub what: String,
    pub state: StepState,
    pub commands: Vec<StepCommand>,
}

/// What makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepCommand {
    /// Root may run it as it is: its words.
    Run(Vec<String>),
    /// Somebody has to decide that, or to fill in what is not known here.
    ByHand(String),
}

impl StepCommand {
    /// Of words between blanks: no name of a device or a user has one.
    pub fn run(line: &str) -> Self {
        Self::Run(line.split_whitespace().map(str::to_owned).collect())
    }

    pub fn by_hand(line: &str) -> Self {
        Self::ByHand(line.to_owned())
    }

    /// Its words, where it can be run.
    pub fn words(&self) -> Option<&[String]> {
        match self {
            Self::Run(words) => Some(words),
            Self::ByHand(_) => None,
        }
    }
}

/// For a shell.
impl fmt::Display for StepCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(words) => {
                let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
                f.write_str(&words.join(" "))
            }
            Self::ByHand(line) => f.write_str(line),
        }
    }
}

/// Whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    Done,
    /// This host does not need it.
    NotNeeded(&'static str),
    /// Without it, some of delivery works. Why it is missing.
    Better(String),
    /// Without it nothing is delivered.
    Missing(String),
}

impl HostStep {
    /// What is to be said of it in one line, where it is not there.
    pub fn line(&self) -> Option<String> {
        let (StepState::Better(why) | StepState::Missing(why)) = &self.state else { return None };
        let commands: Vec<_> = self.commands.iter().map(StepCommand::to_string).collect();
        Some(format!("{why}: {}", commands.join(" && ")))
    }

    pub fn is_missing(&self) -> bool {
        matches!(self.state, StepState::Missing(_))
    }

    /// Whether its commands are to be run.
    pub fn is_to_do(&self) -> bool {
        matches!(self.state, StepState::Better(_) | StepState::Missing(_))
    }

    /// Whether this host needs it.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.state, StepState::NotNeeded(_))
    }

    /// Whether nobody has to decide anything for that.
    pub fn can_run(&self) -> bool {
        self.commands.iter().all(|command| command.words().is_some())
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::NotNeeded(why) => write!(f, "not needed: {why}"),
            Self::Better(why) => write!(f, "wanting: {why}"),
            Self::Missing(why) => write!(f, "missing: {why}"),
        }
    }
}

/// As a word of a shell.
fn quoted(word: &str) -> String {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '=');
    match word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}
