//! Lines of a shape that a regular expression tells.

use regex::bytes::Regex;

use super::text::{address_at, port};
use super::{AccessLine, ClientPart, LineEdit, LineWriterKind};
use crate::programs::annotate::times::TimeReader;

/// An expression with groups `ip` and `port`, and perhaps `time`.
#[derive(Debug, Clone)]
pub struct LinePattern {
    regex: Regex,
    has_time: bool,
}

/// What is none.
#[derive(Debug, thiserror::Error)]
pub enum NoPattern {
    #[error("{0}")]
    Syntax(#[from] regex::Error),
    #[error("it has no group (?<{0}>...); it wants ip and port, and takes time")]
    Group(&'static str),
    #[error("it has a group {0:?}; the groups are ip, port and time")]
    Unknown(String),
}

impl LinePattern {
    pub fn new(text: &str) -> Result<Self, NoPattern> {
        let regex = Regex::new(text)?;
        let names: Vec<_> = regex.capture_names().flatten().collect();
        if let Some(name) = names.iter().find(|name| !["ip", "port", "time"].contains(name)) {
            return Err(NoPattern::Unknown((*name).to_owned()));
        }
        if let Some(name) = ["ip", "port"].into_iter().find(|name| !names.contains(name)) {
            return Err(NoPattern::Group(name));
        }
        let has_time = names.contains(&"time");
        Ok(Self { regex, has_time })
    }

    /// Whether it says where the time is.
    pub fn has_time(&self) -> bool {
        self.has_time
    }

    pub(super) fn find(
        &self,
        line: &[u8],
        times: &mut TimeReader,
        edits: &mut Vec<LineEdit>,
    ) -> Option<AccessLine> {
        let groups = self.regex.captures(line)?;
        let group = groups.name("ip")?;
        let (address, _) =
            address_at(line, group.start()).filter(|&(_, end)| end == group.end())?;
        edits.push(LineEdit { range: group.range(), part: ClientPart::Address });
        let number = groups.name("port").and_then(|group| {
            let port = port(group.as_bytes())?;
            edits.push(LineEdit { range: group.range(), part: ClientPart::Port });
            Some(port)
        });
        edits.sort_by_key(|edit| edit.range.start);
        if edits.windows(2).any(|pair| pair[0].range.end > pair[1].range.start) {
            edits.clear();
            return None;
        }
        let time = groups.name("time").and_then(|group| times.read(group.as_bytes()));
        Some(AccessLine { address, port: number, time, writer: LineWriterKind::Pattern })
    }
}
