//! `nat64handoff peer-names status`: what is attached, and how many names there are.

use std::time::Duration;

use serde::Serialize;

use super::refused::explained;
use super::{NAMES_FILE, STATE_FILE, links};
use crate::kernel::bpf::BpfMap;
use crate::kernel::bpf::peer_names::{self, NamesState, STATE};
use crate::kernel::clock;
use crate::programs::exit::{ExitError, print};
use crate::programs::options::NamesStatusOptions;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct PeerNamesStatus {
    /// The programs that are attached.
    programs: Vec<String>,
    names: usize,
    names_max: u32,
    /// For how long they are valid still; none where no server says that it is there.
    valid_seconds: Option<f64>,
}

/// Prints it.
///
/// # Errors
/// Where nothing is attached, or the maps cannot be read.
pub fn run(options: &NamesStatusOptions) -> Result<(), ExitError> {
    let maps = &options.pinned.maps;
    let mut programs: Vec<_> = links(maps)?
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    programs.sort_unstable();
    if programs.is_empty() {
        return Err(ExitError::failed(format_args!(
            "nothing is attached ({} has no links): as root, nat64handoff peer-names attach",
            maps.display()
        )));
    }
    let state = BpfMap::open(&maps.join(STATE_FILE), STATE).map_err(explained)?;
    let state = NamesState::read(&state).map_err(explained)?;
    let counted = peer_names::count_names(&maps.join(NAMES_FILE), &state);
    let (names, names_max) = counted.map_err(explained)?;
    let left = Duration::from_nanos(state.until).checked_sub(clock::since_boot());
    let status = PeerNamesStatus {
        programs,
        names,
        names_max,
        valid_seconds: left.map(|left| left.as_secs_f64()),
    };
    if options.json {
        let text = serde_json::to_string_pretty(&status).map_err(ExitError::failed)?;
        return print(text + "\n");
    }
    let valid = match status.valid_seconds {
        Some(_) => "the server is there, and they are valid",
        None => "no server says that it is there, and they are not valid",
    };
    print(format!(
        "{} of at most {} names; {valid}\nattached: {}\n",
        status.names,
        status.names_max,
        status.programs.join(", ")
    ))
}
