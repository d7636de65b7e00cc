//! `legenda retry`.

use std::path::{Path, PathBuf};

use legenda_pipeline::{
    PlanScope,
    ledger::{LedgerError, OutputFiles, Stale},
    retry::RetryChoice,
    store::Folder,
};
use legenda_schemas::ledger::StoredJob;

use super::{
    CheckedJob, ledger_failure, plan_job,
    run::{Execution, Results, execute},
};
use crate::{
    cli::RetryArgs,
    failure::{Exit, Failure},
};

/// Retries the rejects of an output with the job that its last run stored.
pub(crate) fn retry(args: &RetryArgs) -> Result<Exit, Failure> {
    let folder = Folder::at(&args.output, Path::new(".")).map_err(Failure::config)?;
    let output = OutputFiles::find(folder).map_err(ledger_failure)?;
    let StoredJob { base_dir, job, .. } = output.read_job().map_err(ledger_failure)?;
    let earlier = output.read_plan().map_err(ledger_failure)?;
    let path = output.folder.path_of("");
    let earlier = earlier.ok_or_else(|| LedgerError::NoOutput { path: path.clone() });
    let earlier = earlier.map_err(ledger_failure)?;
    let mut job = job.with_overrides(&args.overrides).map_err(Failure::config)?;
    // The output may have moved.
    job.output.path = path;
    // No row limit: rejects of an earlier run may lie beyond the limit of the last one.
    let CheckedJob { plan, bundle, base_dir } =
        plan_job(job, PathBuf::from(base_dir), PlanScope::default(), args.offline)?;
    let plan = plan.retry(earlier).map_err(Failure::config)?;
    let execution = Execution {
        offline: args.offline,
        overwrite: false,
        stale: Stale::Refuse,
        retry: Some(RetryChoice { codes: args.codes.clone() }),
        results: Results::Folder,
        args: &args.execution,
    };
    execute(CheckedJob { plan, bundle, base_dir }, execution)
}
