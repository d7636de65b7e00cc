//! The bundle that a subcommand is about.

use std::path::Path;

use legenda_models::Bundle;
use legenda_schemas::job::TaskKind;

use crate::{
    cli::ModelArgs,
    command::{bundle_failure, open_bundle, open_hub},
    failure::Failure,
};

/// Opens the bundle; fetches missing files of a Hub model.
pub(super) fn open(args: &ModelArgs) -> Result<Bundle, Failure> {
    let hub = open_hub(args.offline);
    open_bundle(&args.bundle, Path::new(""), args.precision.clone(), &hub)
        .map_err(|error| bundle_failure(error, "failed to open the model", &args.bundle))
}

/// Returns the tasks that a bundle supports.
pub(super) fn tasks(bundle: &Bundle) -> Vec<TaskKind> {
    TaskKind::ALL.into_iter().filter(|task| bundle.supports(*task).is_ok()).collect()
}
