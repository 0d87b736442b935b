//! What a reactor reports about its journal, and how the operator is told.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kernel::limits;
use crate::kernel::stderr::{say, warn};

/// What a reactor reports about its journal, once for each change.
#[derive(Debug)]
pub enum JournalTrouble<'a> {
    /// There is no room: nothing new is announced until there is.
    NoSpace(Option<&'a io::Error>),
    /// The journal is written again.
    Over,
    /// Nothing new is announced until the server is started again.
    Failed(Option<&'a io::Error>),
}

/// Prints what the reactors report about their journals, once for all of them.
pub fn say_trouble(troubled: Arc<AtomicUsize>) -> impl FnMut(JournalTrouble<'_>) + Send {
    let cause = |cause: Option<&io::Error>| {
        cause.map_or_else(String::new, |cause| format!(" ({})", limits::explained(cause)))
    };
    let mut counted = false;
    move |trouble| match trouble {
        JournalTrouble::NoSpace(why) => {
            counted = true;
            if troubled.fetch_add(1, Ordering::AcqRel) == 0 {
                warn(format_args!(
                    "there is no room for the journal{}: new clients get no answer until there is, \
                     known ones are served; free some space",
                    cause(why)
                ));
            }
        }
        JournalTrouble::Over => {
            counted = false;
            if troubled.fetch_sub(1, Ordering::AcqRel) == 1 {
                say(format_args!("the journal is written again"));
            }
        }
        JournalTrouble::Failed(why) => {
            if std::mem::take(&mut counted) {
                troubled.fetch_sub(1, Ordering::AcqRel);
            }
            warn(format_args!(
                "a journal cannot be written any more{}: its new clients get no answer, known ones are \
                 served; see what the kernel's log says about the disk, and start again",
                cause(why)
            ));
        }
    }
}
