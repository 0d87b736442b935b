//! `nat64handoff man` and `nat64handoff completions`: both are made of the command line's
//! definition. The page about the configuration file is in `file`.

use std::io::{self, Write};

use clap::{Command, CommandFactory};

use crate::programs::options::{Cli, ManualPage};

mod file;

/// What has no place in the definition of the command line, in the manual's own language.
const SECTIONS: &str = r#".SH FILES
.TP
\fI$STATE_DIRECTORY\fR or \fI./state\fR
The state: who has which port, for the next start. Only its owner may read it, as it holds the tokens of NAT64s.
.TP
\fI$LOGS_DIRECTORY/events.log\fR
The event log. Where there is no such variable, it goes to standard output.
.TP
\fI...-20190318\fR, \fI...-20190318.gz\fR
Its files of former days, UTC, each named by the day of its last line, and removed after \fB\-\-log\-keep\fR days.
.TP
\fIhistory/held\fR, \fIhistory/conflicts\fR beside the event log
The history: who had which port when, and what NAT64s said against that, as Parquet files.
.TP
\fI$RUNTIME_DIRECTORY/admin.sock\fR, or \fIadmin.sock\fR beside the state
The admin socket: HTTP, for the server's user and the group nat64ho.
.TP
\fI/etc/nat64handoff.toml\fR
The options of the service, where \fBinstall\fR made one: see \fBnat64handoff.toml\fR(5).
.TP
\fI/sys/fs/bpf/nat64handoff\fR
What \fBpeer\-names attach\fR has in the kernel, until \fBpeer\-names detach\fR.
.TP
\fI$TMPDIR\fR or \fI/tmp\fR
\fBdemo\fR has its state there while it runs.
.SH SIGNALS
.TP
SIGTERM, SIGINT
\fBserve\fR and \fBgateway\fR end, after their state is saved.
.TP
SIGHUP
\fBserve\fR opens the event log's file anew, for log rotation. \fBgateway\fR ignores it.
.TP
SIGUSR1
\fBgateway\fR forgets all entries, as after a reboot. \fBserve\fR ignores it.
.TP
SIGUSR2
\fBserve\fR starts its program anew, by the path that it was started with, which goes on with the same sockets and state: an upgrade. Under a service manager that is another process, which reads the state beside the one that serves, and is the service then; else the same one executes the program. It goes on as it is where \fBcheck-config\fR of the new one finds something wrong, or where the other process fails. \fBgateway\fR ignores it.
.PP
A signal that comes while the program starts is heeded when it has started.
.SH ENVIRONMENT
.TP
\fBNAT64HANDOFF_\fR\fIOPTION\fR
Each option of \fBserve\fR in capital letters, with _ for -, and lists with commas: NAT64HANDOFF_MAX_ENTRIES.
Others of that beginning are refused, but for those that Kubernetes sets for a service of this name.
A key of the same name as the option in the file of \fB\-\-config\fR does the same, except for \fB\-\-config\fR itself: see \fBnat64handoff.toml\fR(5). The command line wins over the environment, and the environment over the file.
.TP
\fBSTATE_DIRECTORY\fR, \fBLOGS_DIRECTORY\fR, \fBRUNTIME_DIRECTORY\fR
Directories that systemd made for the service.
.TP
\fBNOTIFY_SOCKET\fR, \fBWATCHDOG_USEC\fR, \fBLISTEN_FDS\fR
\fBserve\fR tells the service manager when it serves and that it lives, has it keep the sockets, and goes on with those that it is given.
.TP
\fBJOURNAL_STREAM\fR
Where it says that standard error is the journal's, each message begins with its priority.
.TP
\fBNO_COLOR\fR
\fBstatus\fR prints no colours, on a terminal, too.
.TP
\fBGLIBC_TUNABLES\fR
glibc.malloc.hugetlb=0 keeps \fBserve\fR from asking for huge pages.
.SH EXIT STATUS
.TP
0
All is well; \fBserve\fR and \fBgateway\fR were ended by a signal.
.TP
1
Something failed; a line on standard error says what, and what to do.
.TP
2
The command line, the environment or the file has to be written differently.
.SH COPYRIGHT
MIT license.
.SH SEE ALSO
\fBnat64handoff.toml\fR(5)
"#;

/// Completions of the command line for a shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nat64handoff", &mut text);
    text
}

/// A page of the manual.
///
/// # Errors
/// None in practice: it writes to memory.
pub fn man(page: ManualPage) -> io::Result<Vec<u8>> {
    match page {
        ManualPage::Program => of_program(),
        ManualPage::File => Ok(file::page().into_bytes()),
    }
}

/// One for the program and all of its commands.
fn of_program() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone()).section("8");
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    writeln!(text, ".SH COMMANDS")?;
    let mut below: Vec<_> = command.get_subcommands().cloned().collect();
    below.reverse();
    while let Some(subcommand) = below.pop() {
        if subcommand.get_name() != "help" {
            of_command(&subcommand, &mut text)?;
            let mut its: Vec<_> = subcommand.get_subcommands().cloned().collect();
            its.reverse();
            below.extend(its);
        }
    }
    text.write_all(SECTIONS.as_bytes())?;
    Ok(text)
}

/// A part of the section about commands: what it is for, and its options.
fn of_command(command: &Command, text: &mut Vec<u8>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name()).replace('-', " ");
    let name = name.replace("peer names", "peer-names");
    let name = name.replace("deliver device", "deliver-device");
    let name = name.strip_prefix("nat64handoff ").unwrap_or(&name);
    let name = match name {
        "check config" => "check-config",
        "self check" => "self-check",
        "drop table" => "drop-table",
        "ban set" => "ban-set",
        name => name,
    };
    writeln!(text, ".SS \"{name}\"")?;
    if let Some(about) = command.get_about() {
        writeln!(text, "{about}.")?;
    }
    if name == "check-config" {
        return writeln!(text, "It has the options of \\fBserve\\fR.");
    }
    if name == "self-check" {
        return writeln!(
            text,
            "It has the options of \\fBserve\\fR. With \\fB\\-\\-start\\fR it starts a server of its own with \
             that state directory and log, on loopback."
        );
    }
    let mut options = Vec::new();
    clap_mangen::Man::new(command.clone()).render_options_section(&mut options)?;
    let options = String::from_utf8_lossy(&options);
    for line in options.lines() {
        // The page has the beginning of each page already.
        if [".ie", ".el", ".SH OPTIONS"].iter().any(|start| line.starts_with(start)) {
            continue;
        }
        match line.strip_prefix(".SH ") {
            Some(group) => {
                let (first, rest) = group.split_at(1);
                writeln!(text, ".PP\n\\fI{first}{}:\\fR", rest.to_lowercase())?;
            }
            None => writeln!(text, "{line}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_offer_the_values_that_can_be_chosen() {
        let bash = completions(clap_complete::Shell::Bash);
        let bash = String::from_utf8(bash).unwrap();
        for values in ["auto uring mmsg", "none always", "plain full json"] {
            assert!(bash.contains(&format!("compgen -W \"{values}\"")), "{values}");
        }
    }

    /// `install` puts these files where root's shells read them, rather than what a program prints.
    #[test]
    fn what_is_installed_is_what_is_printed() {
        let page = |page| man(page).unwrap();
        let installed: [(&str, &[u8], _); 5] = [
            ("man", include_bytes!("../service/nat64handoff.8"), page(ManualPage::Program)),
            (
                "man nat64handoff.toml",
                include_bytes!("../service/nat64handoff.toml.5"),
                page(ManualPage::File),
            ),
            (
                "completions bash",
                include_bytes!("../service/nat64handoff.bash"),
                completions(clap_complete::Shell::Bash),
            ),
            (
                "completions zsh",
                include_bytes!("../service/nat64handoff.zsh"),
                completions(clap_complete::Shell::Zsh),
            ),
            (
                "completions fish",
                include_bytes!("../service/nat64handoff.fish"),
                completions(clap_complete::Shell::Fish),
            ),
        ];
        for (command, file, printed) in installed {
            assert!(
                file == printed,
                "write to src/programs/service what `nat64handoff {command}` prints"
            );
        }
    }

    #[test]
    fn the_manual_cites_no_page_that_is_not_there() {
        let manual = String::from_utf8(man(ManualPage::Program).unwrap()).unwrap();
        assert!(manual.contains(".TH nat64handoff 8"), "{manual}");
        assert!(!manual.contains("(1)") && !manual.contains("help("), "{manual}");
        assert!(manual.contains("\\fBnat64handoff.toml\\fR(5)"), "{manual}");
        let sections: Vec<_> =
            manual.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        for section in ["NAME", "COMMANDS", "FILES", "SIGNALS", "ENVIRONMENT", "SEE ALSO"] {
            assert_eq!(sections.iter().filter(|&&name| name == section).count(), 1, "{sections:?}");
        }
        assert!(manual.contains(".SH EXIT STATUS"), "{manual}");
        let names: Vec<_> = manual.lines().filter_map(|line| line.strip_prefix(".SS ")).collect();
        let quoted = |name: &&str| name.trim_matches('"').to_owned();
        assert_eq!(
            names.iter().map(quoted).collect::<Vec<_>>(),
            [
                "serve",
                "demo",
                "gateway",
                "journal",
                "journal check",
                "journal repair",
                "check-config",
                "self-check",
                "who",
                "follow",
                "annotate",
                "status",
                "top",
                "table",
                "identities",
                "drop-table",
                "ban",
                "unban",
                "bans",
                "fleet",
                "fleet drain",
                "ban-set",
                "history",
                "history build",
                "history check",
                "history copy",
                "peer-names",
                "peer-names attach",
                "peer-names detach",
                "peer-names status",
                "deliver-device",
                "deliver-device make",
                "deliver-device remove",
                "completions",
                "man"
            ]
        );
        assert_eq!(manual.matches("validation\\-rate").count(), 1, "once, with serve");
    }
}
