//! Users and groups of this machine.

/// The number of a user or group, as `/etc/passwd` or `/etc/group` has it.
pub fn number_of(accounts: &str, name: &str) -> Option<u32> {
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields[0] == name)?.get(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_numbers() {
        let groups = "root:x:0:\nnat64ho:x:997:a,b\nnat64hog:x:5:\n";
        assert_eq!(number_of(groups, "nat64ho"), Some(997));
        assert_eq!(number_of(groups, "nat64"), None);
        assert_eq!(number_of("nat64ho", "nat64ho"), None);
    }
}
