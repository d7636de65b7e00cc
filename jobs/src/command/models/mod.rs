//! `legenda models`.

mod check;
mod list;
mod pull;
mod show;

use std::path::Path;

use legenda_models::Bundle;
use legenda_schemas::job::TaskKind;
use serde_json::Value;

use super::{bundle_failure, open_bundle, open_hub, print};
use crate::{
    cli::{ModelArgs, ModelsCommand},
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

/// Opens the bundle; fetches missing files of a Hub model.
fn open(args: &ModelArgs) -> Result<Bundle, Failure> {
    let hub = open_hub(args.offline);
    open_bundle(&args.bundle, Path::new(""), args.precision.clone(), &hub)
        .map_err(|error| bundle_failure(error, "failed to open the model", &args.bundle))
}

/// Returns the tasks that a bundle supports.
fn tasks(bundle: &Bundle) -> Vec<TaskKind> {
    TaskKind::ALL.into_iter().filter(|task| bundle.supports(*task).is_ok()).collect()
}

/// Prints an object as JSON, or as one line per value.
fn print_object(object: Vec<(&str, Value)>, json: bool) {
    if json {
        let object: serde_json::Map<String, Value> =
            object.into_iter().map(|(name, value)| (name.replace(' ', "_"), value)).collect();
        print(&Value::Object(object).to_string());
        return;
    }
    for (name, value) in object {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Array(parts) => {
                let parts: Vec<String> = parts
                    .iter()
                    .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
                    .collect();
                parts.join(", ")
            }
            other => other.to_string(),
        };
        print(&format!("{name:<14} {value}"));
    }
}
