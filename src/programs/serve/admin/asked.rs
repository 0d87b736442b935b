//! `GET /who`: who it was, by the event log and its history.
//!
//! A process of its own looks it up: this very program, as `who`. So what it reads, and how much
//! memory that takes, is not the server's; and it ends when whoever asked goes away.

use std::collections::BTreeMap;
use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::programs::exit::EXIT_USAGE;
use crate::programs::options::{Asked, LogDestination};
use crate::programs::report::WhoReport;
use crate::programs::serve::admin::AdminShared;
use crate::programs::serve::admin::guard::Door;

/// The program that runs, whatever is at its path by now.
const OURSELVES: &str = "/proc/self/exe";
/// How long a question waits for the one before it, which may be another one of the same page.
const TURN_TIME: Duration = Duration::from_secs(20);
/// How long it may take.
const LOOK_UP_TIME: Duration = Duration::from_secs(60);
/// The memory that it may take.
const MEMORY_OCTETS: u64 = 2 << 30;
/// The most octets of an answer.
const ANSWER_OCTETS: usize = 256 * 1024;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTold {
    /// It cannot be asked like that.
    Question(String),
    /// Another question of that door is being answered: it may read much.
    Busy,
    /// It cannot be found out.
    Failed(String),
}

/// Looks it up.
///
/// # Errors
/// Why it cannot be told.
pub async fn who(
    shared: &AdminShared,
    door: Door,
    query: &BTreeMap<String, String>,
) -> Result<WhoReport, NotTold> {
    let about = query.get("about").map_or("", String::as_str);
    let about: Asked =
        about.parse().map_err(|error| NotTold::Question(format!("{about:?} is {error}")))?;
    let at = query.get("at").map(|at| at.trim()).filter(|at| !at.is_empty());
    let LogDestination::File(log) = &shared.config.log else {
        return Err(NotTold::Failed("the event log is no file, so it cannot be asked".into()));
    };
    let questions = match door {
        Door::Unix => &shared.state.questions.unix,
        Door::Web => &shared.state.questions.web,
    };
    let turn = timeout(TURN_TIME, Arc::clone(questions).acquire_owned()).await;
    let Ok(Ok(_turn)) = turn else {
        return Err(NotTold::Busy);
    };
    let mut command = Command::new(OURSELVES);
    command.arg("who").arg(about.to_string()).arg("--log").arg(log);
    command.arg("--history").arg(shared.config.history.path());
    command.args(at.map(|at| format!("--at={at}")));
    let looked_up = timeout(LOOK_UP_TIME, run(command)).await;
    let (code, said, complaint) = looked_up
        .map_err(|_| {
            let least = LOOK_UP_TIME.as_secs();
            NotTold::Failed(format!("it takes longer than {least} s; ask nat64handoff who {about}"))
        })?
        .map_err(|error| NotTold::Failed(format!("it cannot be looked up: {error}")))?;
    let complaint = || complaint.replace("nat64handoff: ", "").trim_end().to_owned();
    match code {
        Some(0) if said.len() > ANSWER_OCTETS => {
            let whole = said[..ANSWER_OCTETS].rfind('\n').unwrap_or(0);
            let more = format!("and more: nat64handoff who {about} has all\n");
            Ok(WhoReport { text: said[..=whole].to_owned() + &more })
        }
        Some(0) => Ok(WhoReport { text: said }),
        Some(code) if code == i32::from(EXIT_USAGE) => Err(NotTold::Question(complaint())),
        Some(_) => Err(NotTold::Failed(complaint())),
        None => Err(NotTold::Failed(format!(
            "it takes more memory than a page may; ask nat64handoff who {about}"
        ))),
    }
}

/// The exit code, if it was no signal, and the beginnings of what was said.
async fn run(mut command: Command) -> io::Result<(Option<i32>, String, String)> {
    // What is in the server's environment is for the server.
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn()?;
    limit_memory(&child)?;
    let (said, complaint) = (child.stdout.take(), child.stderr.take());
    let (said, complaint) = tokio::join!(beginning(said), beginning(complaint));
    let (said, complaint) = (said?, complaint?);
    if said.len() > ANSWER_OCTETS {
        // The rest would not be read.
        child.kill().await?;
        return Ok((Some(0), said, complaint));
    }
    Ok((child.wait().await?.code(), said, complaint))
}

fn limit_memory(child: &Child) -> io::Result<()> {
    let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let limit = Rlimit { current: Some(MEMORY_OCTETS), maximum: Some(MEMORY_OCTETS) };
    prlimit(id, Resource::As, limit)?;
    Ok(())
}

/// A little more than may be told, if there is as much.
async fn beginning(from: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut octets = Vec::new();
    if let Some(from) = from {
        from.take(ANSWER_OCTETS as u64 + 1).read_to_end(&mut octets).await?;
    }
    Ok(String::from_utf8_lossy(&octets).into_owned())
}
