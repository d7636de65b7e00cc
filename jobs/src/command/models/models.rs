//! The choice of the subcommand.

use super::{check, list, pull, show};
use crate::{
    cli::ModelsCommand,
    failure::{Exit, Failure},
};

/// Runs a `models` subcommand.
pub(crate) fn models(command: &ModelsCommand) -> Result<Exit, Failure> {
    match command {
        ModelsCommand::List(args) => list::list(args),
        ModelsCommand::Show(args) => show::show(args),
        ModelsCommand::Pull(args) => pull::pull(args),
        ModelsCommand::Check(args) => check::check(args),
    }
}
