//! `legenda models pull`.

use legenda_models::{Bundle, BundleSource, Processor};
use legenda_schemas::units::ByteSize;
use serde_json::json;

use super::{open_hub, print_object};
use crate::{
    cli::ModelArgs,
    command::{bundle_failure, bundle_hint},
    failure::{Exit, Failure},
    fetching::Fetching,
};

/// Fetches a model of the Hub, and reads all that can be read without running it.
pub(crate) fn pull(args: &ModelArgs) -> Result<Exit, Failure> {
    let source = BundleSource::parse(&args.bundle);
    if let BundleSource::Directory(path) = &source
        && !path.is_dir()
    {
        let problem = anyhow::anyhow!("`{}` is not a model of the Hub", args.bundle);
        let hint = bundle_hint(&args.bundle, path);
        let hint = hint.unwrap_or_else(|| "write `hf://owner/name`".to_owned());
        return Err(Failure::config(problem).hint(hint));
    }
    if !matches!(source, BundleSource::Hub(_)) {
        return Err(Failure::config(anyhow::anyhow!(
            "`{}` is on this machine: `pull` fetches `hf://owner/name`",
            args.bundle
        )));
    }
    let (hub, fetching) = (open_hub(args.offline), Fetching::default());
    let opened = Bundle::open_with(&source, args.precision.clone(), &hub, &|state| {
        fetching.show(state);
    });
    let (n_files, n_bytes) = fetching.end();
    let bundle = opened
        .map_err(|error| bundle_failure(error, "the model cannot be fetched", &args.bundle))?;
    Processor::open(&bundle)
        .map_err(|error| bundle_failure(error, "the model cannot be used", &args.bundle))?;
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
