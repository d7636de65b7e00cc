//! `legenda models pull`.

use std::path::Path;

use legenda_models::{Bundle, BundleSource, Processor};
use legenda_schemas::units::ByteSize;
use serde_json::json;

use super::object::print_object;
use crate::{
    cli::ModelArgs,
    command::{bundle_failure, bundle_hint, open_hub},
    failure::{Exit, Failure},
    fetching::FetchProgress,
};

/// Fetches a model from the Hub, and validates everything that can be read without running it.
pub(crate) fn pull(args: &ModelArgs) -> Result<Exit, Failure> {
    let source = BundleSource::resolve(&args.bundle, Path::new(""));
    if let BundleSource::Directory(path) = &source
        && !path.is_dir()
    {
        let error = anyhow::anyhow!("`{}` is not a Hub model", args.bundle);
        let hint = bundle_hint(&args.bundle, path);
        let hint = hint.unwrap_or_else(|| "pass `hf://owner/name`".to_owned());
        return Err(Failure::config(error).hint(hint));
    }
    if !matches!(source, BundleSource::Hub(_)) {
        let error = anyhow::anyhow!("`{}` is a local model", args.bundle);
        return Err(Failure::config(error).hint("pass `hf://owner/name` or a short name"));
    }
    let (hub, progress) = (open_hub(args.offline), FetchProgress::default());
    let bundle = Bundle::open_with(&source, args.precision.clone(), &hub, &|state| {
        progress.show(state);
    });
    let (n_files, n_bytes) = progress.end();
    let bundle =
        bundle.map_err(|error| bundle_failure(error, "failed to fetch the model", &args.bundle))?;
    Processor::open(&bundle)
        .map_err(|error| bundle_failure(error, "failed to open the model", &args.bundle))?;
    let object = vec![
        ("model", json!(args.bundle)),
        ("revision", json!(bundle.revision())),
        ("precision", json!(bundle.precision().map_err(Failure::config)?)),
        ("files fetched", json!(n_files)),
        ("bytes fetched", if args.json { json!(n_bytes) } else { json!(ByteSize(n_bytes)) }),
    ];
    print_object(object, args.json);
    Ok(Exit::Done)
}
