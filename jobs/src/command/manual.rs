//! `legenda completions` and `legenda man`.

use anyhow::{Context, anyhow};
use clap::CommandFactory;
use legenda_schemas::suggest::closest;

use super::print;
use crate::{
    cli::{Cli, CompletionsArgs, ManArgs},
    failure::{Exit, Failure},
};

/// The name of the program.
const PROGRAM: &str = "legenda";

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), PROGRAM, &mut script);
    print_text(script)
}

/// Prints a manual page.
pub(crate) fn man(args: &ManArgs) -> Result<Exit, Failure> {
    let mut program = Cli::command();
    program.build();
    let (title, command) = match &args.command {
        None => (PROGRAM.to_owned(), program),
        Some(name) => {
            let found = program.get_subcommands().find(|command| command.get_name() == name);
            let command = found.cloned().ok_or_else(|| unknown(name, &program))?;
            (format!("{PROGRAM}-{name}"), command)
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .title(title)
        .render(&mut page)
        .context("failed to write the manual page")
        .map_err(Failure::internal)?;
    print_text(page)
}

fn unknown(name: &str, program: &clap::Command) -> Failure {
    let names = program.get_subcommands().map(clap::Command::get_name);
    let failure = Failure::config(anyhow!("unknown command `{name}`"));
    match closest(name, names) {
        Some(found) => failure.hint(format!("did you mean `{found}`?")),
        None => failure,
    }
}

fn print_text(bytes: Vec<u8>) -> Result<Exit, Failure> {
    let text = String::from_utf8(bytes).context("invalid UTF-8").map_err(Failure::internal)?;
    print(text.trim_end());
    Ok(Exit::Done)
}
