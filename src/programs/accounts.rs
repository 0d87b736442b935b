//! Users and groups of this machine.

/// The number of a user or group, as `/etc/passwd` or `/etc/group` has it.
pub fn number_of(accounts: &str, name: &str) -> Option<u32> {
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields[0] == name)?.get(2)?.parse().ok()
}

/// The name of the user or group that has a number there.
pub fn name_of(accounts: &str, number: u32) -> Option<String> {
    let mut lines = accounts.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
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
        assert_eq!(name_of(groups, 997).as_deref(), Some("nat64ho"));
        assert_eq!(name_of(groups, 99), None);
    }
}
