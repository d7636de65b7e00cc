//! Opens what a job runs on: its bundle, the Hub and ONNX Runtime.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use legenda_models::{
    Bundle, BundleError, BundleSource, Hub, HubOptions, HubRepo, KNOWN_MODELS, Runtime,
    RuntimeOptions,
};
use legenda_schemas::{precision::PrecisionChoice, suggest::closest};

use crate::{console::eprint, failure::Failure, fetching::FetchProgress};

/// Opens the bundle that `model.bundle` names; fetches missing files of a Hub model.
pub(crate) fn open_bundle(
    name: &str,
    base_dir: &Path,
    precision: PrecisionChoice,
    hub: &Hub,
) -> Result<Bundle, BundleError> {
    let source = BundleSource::resolve(name, base_dir);
    let progress = FetchProgress::default();
    let bundle = Bundle::open_with(&source, precision, hub, &|state| progress.show(state));
    progress.end();
    bundle
}

/// Converts an error of opening a bundle: transient errors are resumable, the others are configuration
/// errors. If the folder `name` does not exist, adds a hint.
pub(crate) fn bundle_failure(error: BundleError, context: &'static str, name: &str) -> Failure {
    let is_transient = matches!(&error, BundleError::Hub(error) if error.may_pass());
    let hint = match &error {
        BundleError::Directory { path, source } if source.kind() == ErrorKind::NotFound => {
            bundle_hint(name, path)
        }
        _ => None,
    };
    let error = anyhow::Error::new(error).context(context);
    let failure = if is_transient { Failure::resumable(error) } else { Failure::config(error) };
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Returns a hint for a bundle name when the folder `path` does not exist.
pub(crate) fn bundle_hint(name: &str, path: &Path) -> Option<String> {
    let hub_uri = ["https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf:", ""]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .map(|name| format!("{}{}", HubRepo::SCHEME, name.trim_matches('/')))
        .filter(|uri| uri.parse::<HubRepo>().is_ok_and(|repo| repo.folder().is_none()))
        // Not if the name is clearly a path.
        .filter(|_| !name.starts_with(['.', '/', '~']) && !name.contains('\\'));
    // Candidates: sibling folders, the embedded model, and fetched models.
    let parent = path.parent().and_then(|parent| std::fs::read_dir(parent).ok());
    let siblings: Vec<PathBuf> = parent
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .collect();
    let base_name = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or(name);
    let siblings = siblings.iter().filter_map(|path| path.file_name()?.to_str());
    // A path is not a misspelled short name.
    let is_path = name.contains('/');
    let short_names = KNOWN_MODELS.iter().map(|known| known.name).filter(|_| !is_path);
    let short_names = short_names.chain([BundleSource::EMBEDDED_NAME]);
    let siblings: Vec<&str> = siblings.collect();
    let candidates = siblings.iter().copied().chain(short_names);
    if let Some(found) = closest(base_name, candidates) {
        let found = match Path::new(name).parent() {
            Some(parent) if siblings.contains(&found) => parent.join(found),
            _ => PathBuf::from(found),
        };
        return Some(format!("did you mean `{}`?", found.display()));
    }
    if let Some(uri) = hub_uri {
        return Some(format!("for a model on the Hugging Face Hub, use `{uri}`"));
    }
    let fetched = open_hub(true).cached().unwrap_or_default();
    let fetched: Vec<String> = fetched.iter().map(|cached| cached.repo.to_string()).collect();
    let name_of = |uri: &str| uri.rsplit('/').next().unwrap_or_default().to_owned();
    let names: Vec<String> = fetched.iter().map(|uri| name_of(uri)).collect();
    let found = closest(base_name, names.iter().map(String::as_str))?;
    let uri = fetched.iter().find(|uri| name_of(uri) == found)?;
    Some(format!("did you mean `{uri}`?"))
}

/// Returns the Hub client configured by the environment; `offline` disables fetching.
pub(crate) fn open_hub(offline: bool) -> Hub {
    let mut options = HubOptions::from_env();
    if offline {
        options.offline = Some("`--offline` is given".to_owned());
    }
    Hub::new(options)
}

/// Finds and opens ONNX Runtime; fetches it if it is missing and fetching is allowed.
pub(crate) fn open_runtime(offline: bool, threads: Option<usize>) -> Result<Runtime, Failure> {
    let mut options = RuntimeOptions { threads, ..RuntimeOptions::from_env() };
    options.offline |= offline;
    Runtime::open(&options, &eprint).map_err(Failure::config)
}
