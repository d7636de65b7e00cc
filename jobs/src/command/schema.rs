//! `legenda schema`.

use legenda_schemas::job::Job;

use super::print;
use crate::{
    cli::{SchemaArgs, SchemaFormat},
    failure::{Exit, Failure},
};

/// Prints the JSON Schema of a file format.
pub(crate) fn schema(args: &SchemaArgs) -> Result<Exit, Failure> {
    let SchemaFormat::Job = args.format;
    let text = serde_json::to_string_pretty(&Job::json_schema()).map_err(Failure::internal)?;
    print(&text);
    Ok(Exit::Done)
}
