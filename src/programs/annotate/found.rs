//! Who had a port in a time, of those whose it was.

use crate::handoff::change::Timestamp;
use crate::programs::annotate::records::{ClientPort, HeldTime};
use crate::programs::who::when::TimeSpan;

/// Who had a port in a time; or whom an address of the pool stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HadBy<C = ClientPort> {
    /// The event log does not know the NAT64 at all, or the part of the pool.
    Stranger,
    /// By nobody, as far as it says.
    Nobody,
    /// By this client alone.
    Client(C),
    /// By several, of whom this one is the last that came.
    Several(C),
    /// By a client or not: its NAT64's table, or another one of the same NAT64, began anew since,
    /// or the NAT64 said that it uses the port for another client. Or lines of the log are missing.
    Doubtful,
    /// It is too long ago.
    Past,
}

/// Those of a time.
#[derive(Default)]
pub struct FoundClients {
    last: Option<(ClientPort, Timestamp)>,
    several: bool,
    pub doubt: bool,
    is_covered: bool,
}

impl FoundClients {
    /// `is_covered`: it had it before and after, too.
    pub fn add(&mut self, held: &HeldTime, is_covered: bool, span: TimeSpan) {
        self.is_covered |= is_covered;
        self.doubt |= held.conflict <= span.until;
        match &mut self.last {
            None => self.last = Some((held.client, held.from)),
            Some((last, since)) => {
                self.several |= *last != held.client;
                if held.from > *since {
                    (*last, *since) = (held.client, held.from);
                }
            }
        }
    }

    /// And whether one had it before and after.
    pub fn had_by(&self) -> (HadBy, bool) {
        let had_by = match self.last {
            None => HadBy::Nobody,
            Some(_) if self.doubt => HadBy::Doubtful,
            Some((client, _)) if self.several => HadBy::Several(client),
            Some((client, _)) => HadBy::Client(client),
        };
        (had_by, self.is_covered)
    }
}
