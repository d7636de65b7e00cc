//! The subcommands.

pub(crate) mod batch;
pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod estimate;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod models;
pub(crate) mod report;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod schedule;
pub(crate) mod schema;
pub(crate) mod verify;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::Context;
use legenda_models::{
    Bundle, BundleError, BundleSource, Hub, HubOptions, HubRepo, Runtime, RuntimeOptions,
};
use legenda_pipeline::{
    PlanError, PlanScope, RunPlan,
    ledger::LedgerError,
    store::{StoreFault, fault_of},
};
use legenda_schemas::{
    job::{Job, JobError},
    precision::PrecisionChoice,
    suggest::closest,
};

pub(crate) use crate::console::{eprint, print};
use crate::{cli::JobArgs, failure::Failure, fetching::FetchProgress};

/// A job, checked against its table and model.
pub(crate) struct CheckedJob {
    pub(crate) plan: RunPlan,
    pub(crate) bundle: Bundle,
    /// The folder of the job file.
    pub(crate) base_dir: PathBuf,
}

/// Reads a job file and checks everything that can be checked before reading rows.
pub(crate) fn check_job(args: &JobArgs, overwrite: bool) -> Result<CheckedJob, Failure> {
    let (job, base_dir) = read_job(args)?;
    plan_job(job, base_dir, PlanScope { limit: args.limit, overwrite }, args.offline)
}

/// Reads a job file; also returns its folder.
pub(crate) fn read_job(args: &JobArgs) -> Result<(Job, PathBuf), Failure> {
    let path = args.job.display();
    let text = std::fs::read_to_string(&args.job)
        .with_context(|| format!("failed to read the job file `{path}`"))
        .map_err(Failure::config)?;
    let job = Job::parse(&text, &args.overrides).map_err(|error| {
        let hint = match error {
            JobError::Override { .. } => None,
            _ => Some("`legenda schema job` prints every key and its type"),
        };
        let failure = Failure::config(
            anyhow::Error::new(error).context(format!("invalid job file `{path}`")),
        );
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    let base_dir = match args.job.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((job, base_dir))
}

/// Checks a job against its table and model.
pub(crate) fn plan_job(
    job: Job,
    base_dir: PathBuf,
    scope: PlanScope,
    offline: bool,
) -> Result<CheckedJob, Failure> {
    let precision = job.model.precision.clone().unwrap_or_default();
    let hub = open_hub(offline);
    let bundle = open_bundle(&job.model.bundle, &base_dir, precision, &hub)
        .map_err(|error| bundle_failure(error, "invalid `model.bundle`", &job.model.bundle))?;
    let plan = RunPlan::new(job, &base_dir, &bundle, scope).map_err(|error| match &error {
        PlanError::Source(inner) if inner.may_pass() => Failure::resumable(error),
        _ => Failure::config(error),
    })?;
    Ok(CheckedJob { plan, bundle, base_dir })
}

/// Converts an error of an output: transient errors are resumable, the others are configuration errors.
pub(crate) fn ledger_failure(error: LedgerError) -> Failure {
    if is_config(&error) { Failure::config(error) } else { Failure::resumable(error) }
}

/// Returns whether an output error needs a change of the configuration.
pub(crate) fn is_config(error: &LedgerError) -> bool {
    match error {
        LedgerError::Write(_) | LedgerError::Store(_) => {
            fault_of(error).is_some_and(StoreFault::is_configuration)
        }
        _ => true,
    }
}

/// Opens the bundle that `model.bundle` names; fetches missing files of a Hub model.
pub(crate) fn open_bundle(
    name: &str,
    base_dir: &Path,
    precision: PrecisionChoice,
    hub: &Hub,
) -> Result<Bundle, BundleError> {
    let source = match BundleSource::parse(name) {
        BundleSource::Directory(path) => BundleSource::Directory(base_dir.join(path)),
        other => other,
    };
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
    if let Some(found) = closest(base_name, siblings.chain([BundleSource::EMBEDDED_NAME])) {
        let found = match Path::new(name).parent() {
            Some(parent) if found != BundleSource::EMBEDDED_NAME => parent.join(found),
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
