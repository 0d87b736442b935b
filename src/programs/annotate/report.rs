//! What is said about lines that stay as they are though they name a NAT64.

use std::collections::BTreeMap;

use crate::programs::annotate::shape::LineWriterKind;

/// Why a line stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unnamed {
    /// It has no port.
    NoPort(LineWriterKind),
    /// It has no time, or none that can be read.
    NoTime,
    /// Nobody had the port, by the event log.
    Nobody,
    /// Several had it in the time that the line tells.
    Several,
    /// The table began anew.
    Doubtful,
    /// It is of too long before lines above it.
    Past,
    /// Its address of the pool stood for nobody.
    PoolNobody,
    /// Its address of the pool came to another client in the time that the line tells, or lines of
    /// the event log are missing.
    PoolDoubtful,
}

impl Unnamed {
    /// What happened, and what to do.
    fn advice(self) -> &'static str {
        match self {
            Self::NoPort(LineWriterKind::Web) => {
                "have no client port; end them with it, in nginx's log_format: port=$remote_port \
                 time=$msec, in Apache's LogFormat: port=%{remote}p time=%{sec}t.%{msec_frac}t"
            }
            Self::NoPort(LineWriterKind::Postfix) => {
                "have no client port; set in Postfix's main.cf: smtpd_client_port_logging = yes"
            }
            Self::NoPort(LineWriterKind::Json) => {
                "have no client port; have it logged beside the address, as remote_port"
            }
            Self::NoPort(_) => "have no client port; have it logged, too",
            Self::NoTime => {
                "have no time that can be read; have it logged, or say --now where lines are read as \
                 they are written"
            }
            Self::Nobody => {
                "name a port that nobody had then, by the event log; see whether it is this server's \
                 (--log), and has all of that time"
            }
            Self::Several => {
                "are of a second in which their port came to another client; have milliseconds \
                 logged (nginx: time=$msec), or say --newcomer"
            }
            Self::Doubtful => {
                "name a port of a NAT64 whose table may have begun anew since; serve --log-format full \
                 tells tables apart"
            }
            Self::Past => {
                "are of hours before lines above them; give the files of the access log in the order \
                 of time"
            }
            Self::PoolNobody => {
                "have an address of the pool that stood for nobody then, by the event log; see whether \
                 it is this server's (--log), and has all of that time"
            }
            Self::PoolDoubtful => {
                "have an address of the pool that came to another client just then, or of a time of \
                 which lines of the event log are missing; have milliseconds logged (nginx: \
                 time=$msec), or say --newcomer"
            }
        }
    }
}

/// How many of each since it was last told.
#[derive(Debug, Default)]
pub struct Tally {
    unnamed: BTreeMap<Unnamed, u64>,
    /// Lines at all, and those in a shape that is known.
    lines: u64,
    known: u64,
}

impl Tally {
    pub fn line(&mut self, is_known: bool) {
        self.lines += 1;
        self.known += u64::from(is_known);
    }

    pub fn unnamed(&mut self, why: Unnamed) {
        *self.unnamed.entry(why).or_default() += 1;
    }

    /// What is to be told, each in a line; it is told then.
    pub fn tell(&mut self) -> Vec<String> {
        let unnamed = std::mem::take(&mut self.unnamed);
        let told = unnamed.iter().map(|(why, count)| {
            let lines = if *count == 1 { "line" } else { "lines" };
            format!("{count} {lines} of NAT64s stay as they are, as they {}", why.advice())
        });
        told.collect()
    }

    /// The same, at the end.
    pub fn tell_last(&mut self) -> Vec<String> {
        let mut told = self.tell();
        if self.known == 0 && self.lines > 0 {
            told.push(
                "no line has an IPv4 client in a shape that is known; nat64handoff annotate --help \
                 has them all, and --pattern tells others"
                    .to_owned(),
            );
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once() {
        let mut tally = Tally::default();
        tally.line(true);
        tally.unnamed(Unnamed::NoPort(LineWriterKind::Web));
        tally.unnamed(Unnamed::NoPort(LineWriterKind::Web));
        tally.unnamed(Unnamed::Several);
        let told = tally.tell();
        assert!(told[0].starts_with("2 lines of NAT64s stay as they are"), "{told:?}");
        assert!(
            told[0].contains("port=$remote_port") && told[0].contains("%{remote}p"),
            "{told:?}"
        );
        assert!(told[1].starts_with("1 line of NAT64s stay") && told[1].contains("--newcomer"));
        assert_eq!(tally.tell_last(), Vec::<String>::new());
        let mut tally = Tally::default();
        tally.line(false);
        assert!(tally.tell_last()[0].contains("--pattern"));
        assert!(Tally::default().tell_last().is_empty());
    }
}
