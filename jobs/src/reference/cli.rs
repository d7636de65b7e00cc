//! `docs/reference/cli.md`, generated from the help of every command.

use std::fmt::Write as _;

use clap::{Command, CommandFactory};

use super::page::assert_current;
use crate::cli::Cli;

const HEAD: &str = "\
# Commands

This page is generated from the help of each command. `legenda COMMAND --help` prints the same text.
";

#[test]
fn the_page_of_commands_is_up_to_date() {
    let mut text = HEAD.to_owned();
    // The width must not depend on the terminal.
    let mut program = Cli::command().term_width(100);
    program.build();
    describe(&mut program, &mut text);
    assert_current("reference/cli.md", &text);
}

/// Appends the help of a command, then that of its subcommands.
fn describe(command: &mut Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(text, "\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()).unwrap();
    for inner in command.get_subcommands_mut() {
        if inner.get_name() != "help" && !inner.is_hide_set() {
            describe(inner, text);
        }
    }
}
