//! The choice of the subcommand.

use super::{check, known, list, pull, show};
use crate::{
    cli::{ModelsArgs, ModelsCommand, ModelsListArgs},
    failure::{Exit, Failure},
};

/// Runs a `models` subcommand.
pub(crate) fn models(args: &ModelsArgs) -> Result<Exit, Failure> {
    let Some(command) = &args.command else {
        return list::list(&ModelsListArgs { all: false, json: false });
    };
    match command {
        ModelsCommand::List(args) => list::list(args),
        ModelsCommand::Known(args) => known::known(args),
        ModelsCommand::Show(args) => show::show(args),
        ModelsCommand::Pull(args) => pull::pull(args),
        ModelsCommand::Check(args) => check::check(args),
    }
}
