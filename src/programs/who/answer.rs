//! What `who` prints.

use std::fmt;

use serde::Serialize;

use crate::handoff::change::Timestamp;
use crate::handoff::holding::{Contradiction, Holding};
use crate::handoff::names::client_text;
use crate::handoff::naming::Naming;
use crate::programs::exit::ExitError;
use crate::programs::options::Asked;
use crate::programs::who::when::TimeSpan;

/// Who it was.
pub struct Answer {
    pub asked: Asked,
    /// None: at any time.
    pub span: Option<TimeSpan>,
    /// All of what is asked about, in the order in which they began.
    pub holdings: Vec<Holding>,
    /// What NAT64s said against the tables, in the order of time.
    pub contradictions: Vec<Contradiction>,
    /// What addresses of the pool stood for, in the order in which that began.
    pub names: Vec<Naming>,
    /// Of an address of the pool with a client's own port: which clients used that then.
    pub clients: Vec<Holding>,
}

impl Answer {
    /// Those of the time that is asked about.
    fn of_the_time(&self) -> impl Iterator<Item = &Holding> {
        self.holdings.iter().filter(|holding| self.span.is_none_or(|span| is_within(holding, span)))
    }

    /// The names of the time that is asked about.
    fn names_then(&self) -> impl Iterator<Item = &Naming> {
        let is_then =
            |name: &&Naming| self.span.is_none_or(|span| has_time_of(name.from, name.until, span));
        self.names.iter().filter(is_then)
    }

    /// The name that an address had last before, and the one that it had next.
    fn names_around(&self, span: TimeSpan) -> [Option<&Naming>; 2] {
        let ended = |name: &&Naming| name.until.is_some_and(|until| until <= span.from);
        let later = |name: &&Naming| name.from.is_some_and(|from| from > span.until);
        [
            self.names.iter().filter(ended).max_by_key(|name| name.until),
            self.names.iter().filter(later).min_by_key(|name| name.from),
        ]
    }

    /// What was said against the tables since the first of those began, or since the last one
    /// before ended that a port was of, up to the end of the time that is asked about.
    fn said_against(&self) -> impl Iterator<Item = &Contradiction> {
        let since = self.span.and_then(|span| match self.of_the_time().next() {
            Some(first) => first.from,
            None if matches!(self.asked, Asked::Clients(_)) => Some(span.from),
            None => self.before(span).and_then(|held| held.until),
        });
        self.contradictions.iter().filter(move |said| {
            self.span.is_none_or(|span| said.at <= span.until)
                && since.is_none_or(|since| said.at >= since)
        })
    }

    fn before(&self, span: TimeSpan) -> Option<&Holding> {
        let ended = |held: &&Holding| held.until.is_some_and(|until| until <= span.from);
        self.holdings.iter().filter(ended).max_by_key(|held| held.until)
    }

    fn after(&self, span: TimeSpan) -> Option<&Holding> {
        let later = |held: &&Holding| held.from.is_some_and(|from| from > span.until);
        self.holdings.iter().filter(later).min_by_key(|held| held.from)
    }

    /// One object.
    pub fn json(&self) -> Result<String, ExitError> {
        let answer = AnswerObject {
            held: self.of_the_time().chain(&self.clients).map(HeldObject::from).collect(),
            conflicts: self.said_against().map(ConflictObject::from).collect(),
            named: self.names_then().map(NamedObject::from).collect(),
        };
        let text = serde_json::to_string_pretty(&answer).map_err(ExitError::failed)?;
        Ok(text + "\n")
    }
}

fn is_within(holding: &Holding, span: TimeSpan) -> bool {
    has_time_of(holding.from, holding.until, span)
}

/// Whether what was so from one time until another was so at some time of a span.
fn has_time_of(from: Option<Timestamp>, until: Option<Timestamp>, span: TimeSpan) -> bool {
    from.is_none_or(|from| from <= span.until) && until.is_none_or(|until| until > span.from)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut found = false;
        for holding in self.of_the_time() {
            found = true;
            writeln!(f, "{}", Told { holding, asked: &self.asked })?;
        }
        for name in self.names_then() {
            found = true;
            writeln!(f, "{}", ToldName(name))?;
        }
        for holding in &self.clients {
            let asked = &Asked::Clients(holding.client.into());
            writeln!(f, "{}", Told { holding, asked })?;
        }
        match self.span {
            _ if found => {}
            None => writeln!(f, "{}: not in the event log", self.asked)?,
            Some(span) => {
                writeln!(f, "{}: nobody {span} UTC, by the event log", self.asked)?;
                let around = [("before", self.before(span)), ("later", self.after(span))];
                // When a client had one at all is asked without a time.
                let is_told = matches!(self.asked, Asked::Port(_));
                for (word, holding) in around.into_iter().filter(|_| is_told) {
                    if let Some(holding) = holding {
                        writeln!(f, "  {word}: {}", Told { holding, asked: &self.asked })?;
                    }
                }
                if !matches!(self.asked, Asked::Clients(_)) {
                    let names = ["before", "later"].into_iter().zip(self.names_around(span));
                    for (word, name) in names.filter_map(|(word, name)| Some((word, name?))) {
                        writeln!(f, "  {word}: {}", ToldName(name))?;
                    }
                }
                if matches!(self.asked, Asked::Pool(_)) && self.names.is_empty() {
                    f.write_str("  a NAT64 is asked about with its port, as 192.0.2.7:3719\n")?;
                }
            }
        }
        for Contradiction { at, nat64, client, client_port, .. } in self.said_against() {
            writeln!(
                f,
                "  the NAT64 itself used {nat64} for {client} port {client_port} at {at} UTC"
            )?;
        }
        Ok(())
    }
}

/// A holding in a line.
struct Told<'a> {
    holding: &'a Holding,
    asked: &'a Asked,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holding { nat64, client, client_port, local, from, until, perhaps_until, .. } =
            self.holding;
        if matches!(self.asked, Asked::Clients(_)) {
            write!(f, "{nat64} was ")?;
        }
        write!(f, "{client} port {client_port}")?;
        if let Some(local) = local {
            write!(f, " (to {local})")?;
        }
        tell_times(f, *from, *until)?;
        match perhaps_until {
            None => Ok(()),
            Some(at) => write!(
                f,
                ", or only until {at} UTC, when the server did not know the NAT64 (or another address of the \
                 server did not), or the client got the port again, or from when on lines of the event log are \
                 missing"
            ),
        }
    }
}

fn tell_times(
    f: &mut fmt::Formatter<'_>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
) -> fmt::Result {
    match from {
        Some(from) => write!(f, ", since {from} UTC")?,
        None => write!(f, ", since before the event log begins")?,
    }
    match until {
        Some(until) => write!(f, ", until {until} UTC"),
        None => f.write_str(", until now"),
    }
}

/// A name in a line.
struct ToldName<'a>(&'a Naming);

impl fmt::Display for ToldName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Naming { pool, client, from, until, perhaps_until } = *self.0;
        write!(f, "{pool} was {}", client_text(client))?;
        tell_times(f, from, until)?;
        match perhaps_until {
            None => Ok(()),
            Some(at) => write!(
                f,
                ", or only until {at} UTC, from when on lines of the event log are missing"
            ),
        }
    }
}

#[derive(Serialize)]
struct AnswerObject {
    held: Vec<HeldObject>,
    conflicts: Vec<ConflictObject>,
    named: Vec<NamedObject>,
}

#[derive(Serialize)]
struct NamedObject {
    pool: String,
    client: String,
    from: Option<String>,
    until: Option<String>,
    perhaps_until: Option<String>,
}

#[derive(Serialize)]
struct HeldObject {
    nat64: String,
    port: u16,
    client: String,
    client_port: u16,
    to: Option<String>,
    prefix: Option<String>,
    from: Option<String>,
    until: Option<String>,
    perhaps_until: Option<String>,
}

#[derive(Serialize)]
struct ConflictObject {
    at: String,
    nat64: String,
    port: u16,
    client: String,
    client_port: u16,
    to: Option<String>,
}

impl From<&Holding> for HeldObject {
    fn from(holding: &Holding) -> Self {
        let Holding { nat64, client, client_port, local, prefix, from, until, .. } = holding;
        let perhaps_until = holding.perhaps_until;
        Self {
            nat64: nat64.ip().to_string(),
            port: nat64.port(),
            client: client.to_string(),
            client_port: *client_port,
            to: local.map(|local| local.to_string()),
            prefix: prefix.map(|prefix| prefix.to_string()),
            from: from.map(Timestamp::rfc3339),
            until: until.map(Timestamp::rfc3339),
            perhaps_until: perhaps_until.map(Timestamp::rfc3339),
        }
    }
}

impl From<&Naming> for NamedObject {
    fn from(name: &Naming) -> Self {
        let Naming { pool, client, from, until, perhaps_until } = *name;
        Self {
            pool: pool.to_string(),
            client: client_text(client).to_string(),
            from: from.map(Timestamp::rfc3339),
            until: until.map(Timestamp::rfc3339),
            perhaps_until: perhaps_until.map(Timestamp::rfc3339),
        }
    }
}

impl From<&Contradiction> for ConflictObject {
    fn from(said: &Contradiction) -> Self {
        let Contradiction { at, nat64, client, client_port, local } = said;
        Self {
            at: at.rfc3339(),
            nat64: nat64.ip().to_string(),
            port: nat64.port(),
            client: client.to_string(),
            client_port: *client_port,
            to: local.map(|local| local.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::holding::Holdings;
    use crate::handoff::logged::LoggedLine;
    use crate::handoff::naming::Namings;
    use crate::programs::who::is_about;

    const LOG: &str = "\
2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186
2019-03-18 11:00:00.000000 Conflict 192.0.2.7:3719 [2001:db8::56]:4242
2019-03-18 15:22:02.062254 Deleted 192.0.2.7:3719 [2001:db8::17]:53186
2019-03-18 15:22:02.062254 Created 192.0.2.7:3719 [2001:db8::55]:34643
2019-03-18 16:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::55]:34643
2019-03-18 17:00:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:7
2019-03-18 11:00:00.000000 Named 100.64.0.7 [2001:db8::17]
2019-03-18 12:00:00.000000 Unnamed 100.64.0.7 [2001:db8::17]
2019-03-18 13:00:00.000000 Named 100.64.0.7 [2001:db8:0:1::/64]
";

    fn answer(who: &str, at: Option<&str>) -> Answer {
        let now = Timestamp::from_micros(1_552_930_000_000_000);
        let span = at.map(|at| TimeSpan::parse(at, now).unwrap());
        let asked: Asked = who.parse().unwrap();
        let lines = LOG.lines().filter_map(LoggedLine::parse);
        let lines: Vec<_> = lines.filter(|line| is_about(asked, line)).collect();
        let mut namings = Namings::default();
        lines.iter().for_each(|line| namings.take(line));
        let (holdings, contradictions) = Holdings::of(lines.into_iter()).into_all();
        let (names, clients) = (namings.into_all(), Vec::new());
        Answer { asked, span, holdings, contradictions, names, clients }
    }

    fn port_at(at: &str) -> String {
        answer("192.0.2.7:3719", Some(at)).to_string()
    }

    #[test]
    fn who_had_a_port() {
        let first = "2001:db8::17 port 53186, since 2019-03-18 10:06:28.491727 UTC, until 2019-03-18 15:22:02.062254 UTC\n";
        let second = "2001:db8::55 port 34643, since 2019-03-18 15:22:02.062254 UTC, until 2019-03-18 16:00:00.000000 UTC\n";
        let third = "2001:db8::18 port 7, since 2019-03-18 17:00:00.000000 UTC, until now\n";
        let conflict = "  the NAT64 itself used 192.0.2.7:3719 for 2001:db8::56 port 4242 at 2019-03-18 11:00:00.000000 UTC\n";
        assert_eq!(port_at("2019-03-18 10:30:00"), first);
        assert_eq!(port_at("2019-03-18 12:00:00"), [first, conflict].concat());
        assert_eq!(port_at("2019-03-18 15:22:02.062254"), second, "from then on");
        assert_eq!(
            port_at("2019-03-18 15:22:02"),
            [first, second, conflict].concat(),
            "in that second"
        );
        assert_eq!(port_at("2019-03-18 15:22"), [first, second, conflict].concat());
        assert_eq!(port_at("2019-03-18 20:00:00"), third);
        assert_eq!(
            port_at("2019-03-18 16:30:00"),
            format!(
                "192.0.2.7:3719: nobody from 2019-03-18 16:30:00.000000 to 2019-03-18 16:30:00.999999 UTC, by the event log\n  before: {second}  later: {third}"
            )
        );
        let before = port_at("2019-03-18 10:00:00");
        assert!(before.contains("nobody") && before.contains("later: 2001:db8::17"), "{before}");
    }

    #[test]
    fn where_a_client_was() {
        let all = answer("2001:db8::/64", None).to_string();
        assert_eq!(all.lines().filter(|line| line.starts_with("192.0.2.7:3719 was ")).count(), 3);
        let one = answer("2001:db8::18", None).to_string();
        assert!(one.starts_with("192.0.2.7:3719 was 2001:db8::18 port 7, since"), "{one}");
        assert_eq!(
            answer("2001:db8::99", None).to_string(),
            "2001:db8::99: not in the event log\n"
        );
    }

    #[test]
    fn whom_an_address_of_the_pool_stood_for() {
        let first = "100.64.0.7 was 2001:db8::17, since 2019-03-18 11:00:00.000000 UTC, until 2019-03-18 12:00:00.000000 UTC\n";
        let second =
            "100.64.0.7 was 2001:db8:0:1::/64, since 2019-03-18 13:00:00.000000 UTC, until now\n";
        // An access log has the client's own port beside it.
        for who in ["100.64.0.7", "100.64.0.7:53186"] {
            let at = |at| answer(who, Some(at)).to_string();
            assert_eq!(at("2019-03-18 11:30:00"), first);
            assert_eq!(at("2019-03-18 14:00:00"), second);
            assert_eq!(at("2019-03-18 11:30..14:00"), [first, second].concat());
            let nobody = format!(
                "{who}: nobody from 2019-03-18 12:30:00.000000 to 2019-03-18 12:30:00.999999 UTC, by the event log\n  before: {first}  later: {second}"
            );
            assert_eq!(at("2019-03-18 12:30:00"), nobody);
        }
        let never = answer("192.0.2.7", Some("2019-03-18 12:30:00")).to_string();
        assert!(never.contains(": nobody from") && never.contains("with its port"), "{never}");
        let of_client = answer("2001:db8::17", None).to_string();
        assert!(of_client.ends_with(first) && of_client.lines().count() == 2, "{of_client}");
        assert_eq!(answer("2001:db8:0:1::9", None).to_string(), second, "in that network");
        let both = answer("2001:db8:0:1::/63", None).to_string();
        assert!(both.contains(&[first, second].concat()), "{both}");
        assert_eq!(
            answer("2001:db8:0:1::9", Some("2019-03-18 12:30:00")).to_string().lines().count(),
            1
        );
    }

    #[test]
    fn for_programs() {
        let json = answer("192.0.2.7:3719", Some("2019-03-18 12:00:00")).json().unwrap();
        let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected = serde_json::json!({
            "held": [{
                "nat64": "192.0.2.7", "port": 3719, "client": "2001:db8::17", "client_port": 53186,
                "to": null, "prefix": null, "perhaps_until": null,
                "from": "2019-03-18T10:06:28.491727Z", "until": "2019-03-18T15:22:02.062254Z",
            }],
            "named": [],
            "conflicts": [{
                "at": "2019-03-18T11:00:00.000000Z", "nat64": "192.0.2.7", "port": 3719, "to": null,
                "client": "2001:db8::56", "client_port": 4242,
            }],
        });
        assert_eq!(rows, expected);
        let nobody = answer("192.0.2.7:3719", Some("2019-03-18 16:30:00")).json().unwrap();
        let empty = "{\n  \"held\": [],\n  \"conflicts\": [],\n  \"named\": []\n}\n";
        assert_eq!(nobody, empty);
        let json = answer("100.64.0.7", Some("2019-03-18 14:00:00")).json().unwrap();
        let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected = serde_json::json!({
            "held": [], "conflicts": [], "named": [{
                "pool": "100.64.0.7", "client": "2001:db8:0:1::/64", "perhaps_until": null,
                "from": "2019-03-18T13:00:00.000000Z", "until": null,
            }],
        });
        assert_eq!(rows, expected);
    }
}
