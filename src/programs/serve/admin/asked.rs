//! `GET /who`: who it was, by the event log and its history.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::programs::exit::EXIT_USAGE;
use crate::programs::options::{LogDestination, WhoOptions};
use crate::programs::report::WhoReport;
use crate::programs::serve::admin::AdminShared;
use crate::programs::who;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTold {
    /// It cannot be asked like that.
    Question(String),
    /// Another question is being answered: it may read much.
    Busy,
    /// The log cannot be read.
    Failed(String),
}

/// Looks it up, in a thread for that, with the least priority.
///
/// # Errors
/// Why it cannot be told.
pub async fn who(
    shared: &AdminShared,
    query: &BTreeMap<String, String>,
) -> Result<WhoReport, NotTold> {
    let about = query.get("about").map_or("", String::as_str);
    let who = about.parse().map_err(|error| NotTold::Question(format!("{error}")))?;
    let at = query.get("at").filter(|at| !at.is_empty()).cloned();
    let LogDestination::File(log) = &shared.config.log else {
        return Err(NotTold::Failed("the event log is no file, so it cannot be asked".into()));
    };
    let options =
        WhoOptions { who, at, to: None, log: Some(log.clone()), config: None, json: false };
    let Ok(permit) = Arc::clone(&shared.state.questions).try_acquire_owned() else {
        return Err(NotTold::Busy);
    };
    let answer = spawn_blocking(move || {
        let _permit = permit;
        who::answer(&options)
    });
    match answer.await {
        Ok(Ok(answer)) => Ok(WhoReport { text: answer.to_string() }),
        Ok(Err(error)) if error.code == EXIT_USAGE => Err(NotTold::Question(error.message)),
        Ok(Err(error)) => Err(NotTold::Failed(error.message)),
        Err(error) => Err(NotTold::Failed(error.to_string())),
    }
}
