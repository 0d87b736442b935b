//! Numbers for people: with units and colours on a terminal, as they are elsewhere.

use std::io::{self, IsTerminal};

/// How numbers and lines are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// With units that fit, and colours.
    pub for_people: bool,
}

impl Units {
    /// As standard output wants them: no colours where `NO_COLOR` is set.
    pub fn of_output() -> Self {
        Self { for_people: io::stdout().is_terminal() }
    }

    /// A count.
    pub fn count(self, count: u64) -> String {
        self.scaled(count as f64, 1000.0, &["", " k", " M", " G", " T"])
            .unwrap_or(count.to_string())
    }

    /// Octets.
    pub fn octets(self, octets: u64) -> String {
        let scaled = self.scaled(octets as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"]);
        scaled.unwrap_or(octets.to_string())
    }

    /// So many in a second.
    pub fn rate(self, rate: f64) -> String {
        match self.scaled(rate, 1000.0, &["", " k", " M", " G", " T"]) {
            Some(scaled) => format!("{scaled}/s"),
            None => format!("{rate:.1}/s"),
        }
    }

    /// The same, where it is known: it was measured over this many seconds.
    pub fn rate_over(self, rate: f64, seconds: f64) -> String {
        if seconds > 0.0 { self.rate(rate) } else { "-".to_owned() }
    }

    /// A time.
    pub fn seconds(self, seconds: f64) -> String {
        if !self.for_people {
            return format!("{seconds:.6} s");
        }
        match seconds {
            ..1e-3 => format!("{:.0} us", seconds * 1e6),
            ..1.0 => format!("{:.0} ms", seconds * 1e3),
            ..120.0 => format!("{seconds:.0} s"),
            ..7200.0 => format!("{:.0} min", seconds / 60.0),
            ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
            _ => format!("{:.0} days", seconds / 86_400.0),
        }
    }

    /// A part of a whole.
    pub fn part(self, used: u64, max: u64) -> String {
        format!("{:.0} %", 100.0 * used as f64 / max.max(1) as f64)
    }

    /// What an operator should look after.
    pub fn warning(self, text: &str) -> String {
        self.coloured(text, "33")
    }

    /// What is wrong.
    pub fn wrong(self, text: &str) -> String {
        self.coloured(text, "1;31")
    }

    /// What stands above others.
    pub fn heading(self, text: &str) -> String {
        self.coloured(text, "1")
    }

    fn coloured(self, text: &str, colour: &str) -> String {
        let wanted = self.for_people && std::env::var_os("NO_COLOR").is_none();
        if wanted { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// `None`: it is to be written as it is.
    fn scaled(self, number: f64, step: f64, units: &[&str]) -> Option<String> {
        if !self.for_people {
            return None;
        }
        let (mut scaled, mut place) = (number, 0);
        while scaled >= step && place + 1 < units.len() {
            scaled /= step;
            place += 1;
        }
        let unit = units[place];
        Some(match scaled < 10.0 && scaled.fract() != 0.0 {
            true => format!("{scaled:.1}{unit}"),
            false => format!("{scaled:.0}{unit}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: Units = Units { for_people: true };
    const PROGRAMS: Units = Units { for_people: false };

    #[test]
    fn numbers_have_units_for_people_alone() {
        assert_eq!([0, 999, 1234, 64_508].map(|n| PEOPLE.count(n)), ["0", "999", "1.2 k", "65 k"]);
        assert_eq!(PROGRAMS.count(64_508), "64508");
        assert_eq!([0, 1536, 5 << 30].map(|n| PEOPLE.octets(n)), ["0 B", "1.5 KiB", "5 GiB"]);
        assert_eq!([0.25, 3.0, 2500.0].map(|n| PEOPLE.rate(n)), ["0.2/s", "3/s", "2.5 k/s"]);
        assert_eq!(PROGRAMS.rate(2500.0), "2500.0/s");
        let times = [0.000_25, 0.02, 9.0, 600.0, 7200.0, 1e6].map(|n| PEOPLE.seconds(n));
        assert_eq!(times, ["250 us", "20 ms", "9 s", "10 min", "2 h", "12 days"]);
        assert_eq!(PROGRAMS.seconds(0.02), "0.020000 s");
        assert_eq!((PEOPLE.part(1, 3), PEOPLE.part(0, 0)), ("33 %".into(), "0 %".into()));
        assert_eq!(PROGRAMS.wrong("x"), "x");
    }
}
