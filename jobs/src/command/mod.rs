//! The subcommands.

pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod run;
pub(crate) mod schema;

use std::path::{Path, PathBuf};

use anyhow::Context;
use legenda_models::{Bundle, BundleSource, Runtime, RuntimeOptions};
use legenda_pipeline::RunPlan;
use legenda_schemas::job::{Job, JobError};

use crate::{cli::JobArgs, failure::Failure};

/// A job file, read and checked against table and model.
pub(crate) struct CheckedJob {
    pub(crate) plan: RunPlan,
    pub(crate) bundle: Bundle,
    /// The folder of the job file.
    pub(crate) base_dir: PathBuf,
}

/// Reads the job and checks everything that can be told before a row is read.
pub(crate) fn check_job(args: &JobArgs) -> Result<CheckedJob, Failure> {
    let path = args.job.display();
    let text = std::fs::read_to_string(&args.job)
        .with_context(|| format!("cannot read the job file `{path}`"))
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
    let bundle = open_bundle(&job.model.bundle, &base_dir)?;
    let plan = RunPlan::new(job, &base_dir, &bundle, args.limit)
        .map_err(|error| Failure::config(anyhow::Error::new(error)))?;
    Ok(CheckedJob { plan, bundle, base_dir })
}

fn open_bundle(name: &str, base_dir: &Path) -> Result<Bundle, Failure> {
    let source = match BundleSource::parse(name) {
        BundleSource::Directory(path) => BundleSource::Directory(base_dir.join(path)),
        embedded => embedded,
    };
    Bundle::open(&source).map_err(|error| {
        Failure::config(anyhow::Error::new(error).context("`model.bundle` cannot be used"))
    })
}

/// Finds and opens ONNX Runtime, fetching it when that is allowed and needed.
pub(crate) fn open_runtime(offline: bool, threads: Option<usize>) -> Result<Runtime, Failure> {
    let mut options = RuntimeOptions { threads, ..RuntimeOptions::from_env() };
    options.offline |= offline;
    Runtime::open(&options, &tell).map_err(Failure::config)
}

/// Prints a line to stderr, where it does not mix with results.
#[expect(clippy::print_stderr, reason = "a line for the person who waits")]
pub(crate) fn tell(line: &str) {
    eprintln!("{line}");
}

/// Prints a line to stdout.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub(crate) fn print(line: &str) {
    println!("{line}");
}
