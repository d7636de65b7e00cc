//! A job file, read and checked.

use std::path::{Path, PathBuf};

use anyhow::Context;
use legenda_models::Bundle;
use legenda_pipeline::{PlanError, PlanScope, RunPlan};
use legenda_schemas::job::{Job, JobError};

use super::open::{bundle_failure, open_bundle, open_hub};
use crate::{cli::JobArgs, failure::Failure};

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
    let job = read_answer_schema(job, &base_dir)?;
    Ok((job, base_dir))
}

/// Reads the schema of the answers, if it is in a file: the job then has its content.
fn read_answer_schema(job: Job, base_dir: &Path) -> Result<Job, Failure> {
    let Some(path) = job.answer.schema_path() else { return Ok(job) };
    let path = base_dir.join(path);
    let content = std::fs::read_to_string(&path)
        .with_context(|| format!("failed to read `answer.schema`: `{}`", path.display()))
        .map_err(Failure::config)?;
    job.with_answer_schema(&content)
        .with_context(|| format!("invalid schema `{}`", path.display()))
        .map_err(Failure::config)
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
