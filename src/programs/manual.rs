//! `nat64handoff man` and `nat64handoff completions`: both are made of the command line's
//! definition.

use std::io;

use clap::CommandFactory;

use crate::programs::options::Cli;

/// Completions of the command line for a shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nat64handoff", &mut text);
    text
}

/// The manual page: one for the program and all of its commands.
///
/// # Errors
/// None in practice: it writes to memory.
pub fn man() -> io::Result<Vec<u8>> {
    let mut command = Cli::command();
    command.build();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    let mut below: Vec<_> = command.get_subcommands().cloned().collect();
    below.reverse();
    while let Some(subcommand) = below.pop() {
        below.extend(subcommand.get_subcommands().cloned());
        if subcommand.get_name() == "help" {
            continue;
        }
        let page = clap_mangen::Man::new(subcommand);
        page.render_name_section(&mut text)?;
        page.render_synopsis_section(&mut text)?;
        page.render_options_section(&mut text)?;
    }
    Ok(text)
}
