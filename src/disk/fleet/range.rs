//! [`KeyRange`]: keys of a cell that stand side by side.

/// The keys from one on that are before another, in the order of their octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    pub from: String,
    pub until: String,
}

impl KeyRange {
    /// All keys that begin with this, which ends in a slash.
    pub fn beginning(prefix: &str) -> Self {
        // The octet behind the slash.
        let until = format!("{}0", prefix.trim_end_matches('/'));
        Self { from: prefix.to_owned(), until }
    }

    /// All keys of a cell.
    pub fn all() -> Self {
        Self { from: String::new(), until: "~".to_owned() }
    }

    /// Those that are watched: all but snapshots, which say nothing new, and secrets.
    pub fn watched() -> Self {
        Self { from: String::new(), until: Self::beginning("own/").until }
    }

    /// One key.
    pub fn of(key: &str) -> Self {
        Self { from: key.to_owned(), until: format!("{key}\0") }
    }

    /// What of it is behind a key that is in it.
    pub fn behind(&self, key: &str) -> Self {
        Self { from: format!("{key}\0"), until: self.until.clone() }
    }

    pub fn has(&self, key: &str) -> bool {
        (self.from.as_str()..self.until.as_str()).contains(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_what_begins_with_it_and_nothing_else() {
        let range = KeyRange::beginning("log/3/");
        for (key, expected) in
            [("log/3/", true), ("log/3/x/y", true), ("log/3", false), ("log/30/x", false)]
        {
            assert_eq!(range.has(key), expected, "{key}");
        }
        let rest = range.behind("log/3/x");
        assert!(!rest.has("log/3/x") && rest.has("log/3/x/") && rest.has("log/3/y"));
        let watched = KeyRange::watched();
        let is_watched = |key: &str| watched.has(key);
        assert!(["cursor/1", "folded", "host/1", "log/1", "own/a/b"].into_iter().all(is_watched));
        assert!(!["part/a/b", "secret/0", "snap/a/b"].into_iter().any(is_watched));
        let one = KeyRange::of("folded");
        assert!(one.has("folded") && !one.has("folded/"));
    }
}
