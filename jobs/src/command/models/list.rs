//! `legenda models list`.

use legenda_models::{Bundle, BundleSource};
use legenda_schemas::{cause::chain, units::ByteSize};
use serde_json::{Value, json};

use super::known;
use crate::{
    cli::ModelsListArgs,
    command::{open_hub, print},
    failure::{Exit, Failure},
};

/// Lists the embedded model and the models in the Hub cache.
pub(crate) fn list(args: &ModelsListArgs) -> Result<Exit, Failure> {
    let embedded = Bundle::open(&BundleSource::Embedded).map_err(Failure::internal)?;
    let n_bytes = embedded
        .graphs()
        .map_err(Failure::internal)?
        .iter()
        .filter_map(|graph| embedded.graph_size(&graph.file))
        .sum();
    let mut rows = vec![describe(BundleSource::EMBEDDED_NAME.to_owned(), Ok(embedded), n_bytes)];
    for cached in open_hub(true).cached().map_err(Failure::config)? {
        if cached.bundle.is_ok() || args.all {
            let bundle = cached.bundle.map_err(|error| chain(&error));
            rows.push(describe(cached.repo.to_string(), bundle, cached.n_bytes));
        }
    }
    if args.json {
        print(&Value::Array(rows).to_string());
        return Ok(Exit::Done);
    }
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let width = rows.iter().map(|row| text(row, "name").chars().count()).max().unwrap_or(0);
    for row in &rows {
        let size = ByteSize(row["bytes"].as_u64().unwrap_or(0)).to_string();
        let what = match row["error"].as_str() {
            Some(error) => format!("cannot be run: {error}"),
            None => {
                [text(row, "family"), text(row, "architecture"), text(row, "precision")].join("  ")
            }
        };
        print(&format!("{:<width$}  {size:>9}  {what}", text(row, "name")));
    }
    print("\nShort names of models of the Hugging Face Hub, fetched when they are first used:");
    known::table().iter().for_each(|line| print(line));
    Ok(Exit::Done)
}

fn describe(name: String, bundle: Result<Bundle, String>, n_bytes: u64) -> Value {
    match bundle {
        Ok(bundle) => json!({
            "name": name,
            "bytes": n_bytes,
            "family": bundle.wiring(),
            "architecture": bundle.architecture(),
            "precision": bundle.precision().ok(),
            "revision": bundle.revision(),
        }),
        Err(error) => json!({ "name": name, "bytes": n_bytes, "error": error }),
    }
}
