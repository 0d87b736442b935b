//! nat64handoff.toml(5), the page about the configuration file: a key for each option of `serve`.

use crate::programs::options::{Configuration, ServeConfig};

const HEAD: &str = r#".SH NAME
nat64handoff.toml \- options of the NAT64 handoff server
.SH SYNOPSIS
.I /etc/nat64handoff.toml
.SH DESCRIPTION
\fBnat64handoff serve\fR, \fBcheck\-config\fR and \fBself\-check\fR take options from the TOML file that
\fB\-\-config\fR or \fBNAT64HANDOFF_CONFIG\fR names. The service has
\fI/etc/nat64handoff.toml\fR.
.PP
Each key is an option of \fBserve\fR. The option on the command line wins over its variable in the environment, and that
over the key. A list replaces another one, and is not added to it.
.PP
A number may be a string, too. Counts (\fBmax\-nat64s\fR, \fBmax\-entries\fR and rates) may then end in k or M:
max\-entries = "2M". An array of strings may be one string with commas.
.PP
What is wrong in the file keeps a server from starting. \fBnat64handoff check\-config\fR says all of it, with lines, and
what the options come to. A server reads the file as it starts:
.PP
.RS
systemctl restart nat64handoff
.RE
.SH KEYS
"#;

const TAIL: &str = r#".SH FILES
.TP
.I /etc/nat64handoff.toml
What the service reads. The units that \fBinstall\fR makes name state and log on the command line, so these keys change
nothing there.
.SH SEE ALSO
\fBnat64handoff\fR(8)
"#;

/// What an operator may want, all of it at once.
pub(super) const EXAMPLE: &str = r#"# Two addresses of this host, and the NAT64s of one network.
listen = ["192.0.2.1", "192.0.2.2"]
allow = ["198.51.100.0/24"]
# Each answer about something new waits for the disk.
sync = "always"
log-format = "full"
max-nat64s = 50
max-entries = "2M"
"#;

/// The page.
pub(super) fn page() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(".TH nat64handoff.toml 5 \"\" \"nat64handoff {version}\"\n{HEAD}");
    let mut group = None;
    for about in ServeConfig::table() {
        let Some(variable) = about.variable().filter(|_| about.in_file) else { continue };
        if about.group != group {
            group = about.group;
            page.push_str(&format!(".SS {}\n", group.unwrap_or("Further")));
        }
        let (name, kind) = (roff(about.name), about.kind_in_file());
        let (value, help) = (roff(about.value), roff(about.help));
        page.push_str(&format!(".TP\n\\fB{name}\\fR = \\fI{value}\\fR ({kind})\n{help}"));
        if let Some(default) = about.default {
            page.push_str(&format!(" [default: {}]", roff(default)));
        }
        page.push_str(&format!("\n.br\n\\-\\-{name}, {variable}\n"));
    }
    page.push_str(&format!(".SH EXAMPLE\n.nf\n{}.fi\n{TAIL}", roff(EXAMPLE)));
    page
}

/// The text as the page's language writes it. No line of ours begins with a dot.
fn roff(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::options::{Environment, ServeOptions};

    #[test]
    fn each_key_is_there_with_option_and_variable() {
        let page = page().replace("\\-", "-").replace("\\(aq", "'");
        let keys: Vec<_> = ServeConfig::table().into_iter().filter(|about| about.in_file).collect();
        for about in &keys {
            let key = format!(".TP\n\\fB{}\\fR = \\fI{}\\fR (", about.name, about.value);
            assert_eq!(page.matches(&key).count(), 1, "{key}: {page}");
            let variable = about.variable().unwrap();
            let names = format!("\n.br\n--{}, {variable}\n", about.name);
            assert!(page.contains(&names), "{names}: {page}");
            assert!(page.contains(about.help), "{page}");
        }
        assert_eq!(page.matches(".TP\n\\fB").count(), keys.len(), "and nothing else: {page}");
        assert_eq!(page.matches(".SS ").count(), 7, "each group once: {page}");
    }

    #[test]
    fn the_example_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nat64handoff.toml");
        std::fs::write(&path, EXAMPLE).unwrap();
        let variable = ("NAT64HANDOFF_CONFIG".into(), path.into());
        let variables = [variable].into_iter().collect();
        let environment = Environment { variables, ..Environment::default() };
        let config = ServeOptions::default().resolve(&environment).unwrap();
        assert_eq!((config.listen.len(), config.entries_max), (2, 2_000_000));
    }
}
