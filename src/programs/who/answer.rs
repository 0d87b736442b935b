//! What `who` prints.

use std::fmt;

use serde::Serialize;

use crate::handoff::change::Timestamp;
use crate::programs::exit::ExitError;
use crate::programs::options::Asked;
use crate::programs::who::holding::{Contradiction, Holding};
use crate::programs::who::when::TimeSpan;

/// Who it was.
pub struct Answer {
    pub asked: Asked,
    /// None: at any time.
    pub span: Option<TimeSpan>,
    /// All of what is asked about, in the order in which they began.
    pub holdings: Vec<Holding>,
}

impl Answer {
    /// Those of the time that is asked about.
    fn of_the_time(&self) -> impl Iterator<Item = &Holding> {
        self.holdings.iter().filter(|holding| self.span.is_none_or(|span| is_within(holding, span)))
    }

    /// One array.
    pub fn json(&self) -> Result<String, ExitError> {
        let rows: Vec<_> = self.of_the_time().map(AnswerRow::from).collect();
        let text = serde_json::to_string_pretty(&rows).map_err(ExitError::failed)?;
        Ok(text + "\n")
    }

    /// Before and after a time at which the port was nobody's.
    fn beside(&self, span: TimeSpan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before =
            self.holdings.iter().filter(|held| held.until.is_some_and(|until| until <= span.from));
        let after =
            self.holdings.iter().filter(|held| held.from.is_some_and(|from| from > span.until));
        for (word, holding) in [
            ("before", before.max_by_key(|held| held.until)),
            ("later", after.min_by_key(|held| held.from)),
        ] {
            if let Some(holding) = holding {
                writeln!(f, "  {word}: {}", Told { holding, asked: &self.asked })?;
            }
        }
        Ok(())
    }
}

fn is_within(holding: &Holding, span: TimeSpan) -> bool {
    holding.from.is_none_or(|from| from <= span.until)
        && holding.until.is_none_or(|until| until > span.from)
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut found = false;
        for holding in self.of_the_time() {
            found = true;
            writeln!(f, "{}", Told { holding, asked: &self.asked })?;
            let is_asked =
                |reported: &&Contradiction| self.span.is_none_or(|span| reported.at <= span.until);
            for Contradiction { at, client, client_port } in
                holding.conflicts.iter().filter(is_asked)
            {
                writeln!(
                    f,
                    "  the NAT64 itself used it for {client} port {client_port} at {at} UTC"
                )?;
            }
        }
        match (found, self.span) {
            (true, _) => Ok(()),
            (false, None) => writeln!(f, "{}: not in the event log", self.asked),
            (false, Some(span)) => {
                writeln!(f, "{}: nobody {span} UTC, by the event log", self.asked)?;
                self.beside(span, f)
            }
        }
    }
}

/// A holding in a line.
struct Told<'a> {
    holding: &'a Holding,
    asked: &'a Asked,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holding { nat64, client, client_port, local, from, until, .. } = self.holding;
        if matches!(self.asked, Asked::Clients(_)) {
            write!(f, "{nat64} was ")?;
        }
        write!(f, "{client} port {client_port}")?;
        if let Some(local) = local {
            write!(f, " (to {local})")?;
        }
        match from {
            Some(from) => write!(f, ", since {from} UTC")?,
            None => write!(f, ", since before the event log begins")?,
        }
        match until {
            Some(until) => write!(f, ", until {until} UTC"),
            None => f.write_str(", until now"),
        }
    }
}

/// A holding in JSON.
#[derive(Serialize)]
struct AnswerRow {
    nat64: String,
    port: u16,
    client: String,
    client_port: u16,
    to: Option<String>,
    prefix: Option<String>,
    from: Option<String>,
    until: Option<String>,
    conflicts: Vec<ContradictionRow>,
}

#[derive(Serialize)]
struct ContradictionRow {
    at: String,
    client: String,
    client_port: u16,
}

impl From<&Holding> for AnswerRow {
    fn from(holding: &Holding) -> Self {
        let Holding { nat64, client, client_port, local, prefix, from, until, conflicts } = holding;
        let conflicts = conflicts.iter().map(|&Contradiction { at, client, client_port }| {
            ContradictionRow { at: rfc3339(at), client: client.to_string(), client_port }
        });
        Self {
            nat64: nat64.ip().to_string(),
            port: nat64.port(),
            client: client.to_string(),
            client_port: *client_port,
            to: local.map(|local| local.to_string()),
            prefix: prefix.map(|prefix| prefix.to_string()),
            from: from.map(rfc3339),
            until: until.map(rfc3339),
            conflicts: conflicts.collect(),
        }
    }
}

/// `2019-03-18T10:06:28.491727Z`
fn rfc3339(at: Timestamp) -> String {
    at.to_string().replace(' ', "T") + "Z"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handoff::logged::LoggedLine;
    use crate::programs::who::holding::Holdings;
    use crate::programs::who::is_about;

    const LOG: &str = "\
2019-03-18 10:06:28.491727 Created 192.0.2.7:3719 [2001:db8::17]:53186
2019-03-18 11:00:00.000000 Conflict 192.0.2.7:3719 [2001:db8::56]:4242
2019-03-18 15:22:02.062254 Deleted 192.0.2.7:3719 [2001:db8::17]:53186
2019-03-18 15:22:02.062254 Created 192.0.2.7:3719 [2001:db8::55]:34643
2019-03-18 16:00:00.000000 Deleted 192.0.2.7:3719 [2001:db8::55]:34643
2019-03-18 17:00:00.000000 Created 192.0.2.7:3719 [2001:db8::18]:7
";

    fn answer(who: &str, at: Option<&str>) -> Answer {
        let now = Timestamp::from_micros(1_552_930_000_000_000);
        let span = at.map(|at| TimeSpan::parse(at, now).unwrap());
        let asked: Asked = who.parse().unwrap();
        let lines = LOG.lines().filter_map(LoggedLine::parse);
        let holdings = Holdings::of(lines.filter(|line| is_about(asked, line))).into_all();
        Answer { asked, span, holdings }
    }

    fn port_at(at: &str) -> String {
        answer("192.0.2.7:3719", Some(at)).to_string()
    }

    #[test]
    fn who_had_a_port() {
        let first = "2001:db8::17 port 53186, since 2019-03-18 10:06:28.491727 UTC, until 2019-03-18 15:22:02.062254 UTC\n";
        let second = "2001:db8::55 port 34643, since 2019-03-18 15:22:02.062254 UTC, until 2019-03-18 16:00:00.000000 UTC\n";
        let third = "2001:db8::18 port 7, since 2019-03-18 17:00:00.000000 UTC, until now\n";
        let conflict = "  the NAT64 itself used it for 2001:db8::56 port 4242 at 2019-03-18 11:00:00.000000 UTC\n";
        assert_eq!(port_at("2019-03-18 10:30:00"), first);
        assert_eq!(port_at("2019-03-18 12:00:00"), [first, conflict].concat());
        assert_eq!(port_at("2019-03-18 15:22:02.062254"), second, "from then on");
        assert_eq!(port_at("2019-03-18 15:22"), [first, conflict, second].concat());
        assert_eq!(port_at("2019-03-18 20:00:00"), third);
        assert_eq!(
            port_at("2019-03-18 16:30:00"),
            format!(
                "192.0.2.7:3719: nobody at 2019-03-18 16:30:00.000000 UTC, by the event log\n  before: {second}  later: {third}"
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
    fn for_programs() {
        let json = answer("192.0.2.7:3719", Some("2019-03-18 12:00:00")).json().unwrap();
        let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected = serde_json::json!([{
            "nat64": "192.0.2.7", "port": 3719, "client": "2001:db8::17", "client_port": 53186,
            "to": null, "prefix": null,
            "from": "2019-03-18T10:06:28.491727Z", "until": "2019-03-18T15:22:02.062254Z",
            "conflicts": [{
                "at": "2019-03-18T11:00:00.000000Z", "client": "2001:db8::56", "client_port": 4242,
            }],
        }]);
        assert_eq!(rows, expected);
        let nobody = answer("192.0.2.7:3719", Some("2019-03-18 16:30:00")).json().unwrap();
        assert_eq!(nobody, "[]\n");
    }
}
