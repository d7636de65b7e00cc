//! `legenda estimate`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use legenda_models::Loaded;
use legenda_pipeline::{
    Ending, PlanScope, Progress, RunOptions,
    estimate::{CONFIDENCE, Prediction, SamplePlan, SettledRows},
    ledger::Stale,
};
use legenda_schemas::{job::Incremental, units::counted};
use serde_json::json;

use super::{
    CheckedJob, eprint, open_runtime, plan_job, print, read_job,
    run::{Shown, lease_terms, load, start_threads, until_signal},
};
use crate::{
    cli::EstimateArgs,
    failure::{Exit, Failure},
};

/// The default sample size: a minimum, and a number of rows per slot. It is large enough that most rows
/// run while all slots are busy.
const ROWS_MIN: u64 = 64;
const ROWS_PER_SLOT: u64 = 8;

/// Runs a sample of a job and estimates the full run.
pub(crate) fn estimate(args: &EstimateArgs) -> Result<Exit, Failure> {
    let (mut job, base_dir) = read_job(&args.job)?;
    // Estimate the full job, including rows that earlier runs have done.
    job.source.incremental = Incremental::All;
    let scope = PlanScope { limit: args.job.limit, overwrite: false };
    let checked = plan_job(job, base_dir, scope, args.job.offline)?;
    let CheckedJob { plan, bundle, base_dir } = checked;
    let output = plan.output.clone();
    let executor = start_threads()?;
    #[cfg(unix)]
    let _file_too_large = super::run::listen_for_large_files(&executor)?;
    let start = Instant::now();
    let runtime = open_runtime(args.job.offline, plan.job.model.threads)?;
    let model = load(&runtime, &plan, &bundle)?;
    drop(bundle);
    let load_time = start.elapsed();
    let slots = match &model {
        Loaded::Model(model) => model.info.slots,
        Loaded::Embedder(_) => plan.job.model.slots.unwrap_or(1),
    };
    let rows = args.rows.unwrap_or(ROWS_MIN.max(ROWS_PER_SLOT * slots as u64));
    let sample = SamplePlan::new(plan, rows)
        .context("failed to create a folder for the sample")
        .map_err(Failure::resumable)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = RunOptions {
        overwrite: false,
        stale: Stale::Refuse,
        prepare_workers: cores,
        base_dir,
        lease: lease_terms(),
        retry: None,
        command: String::new(),
    };
    let progress =
        Arc::new(Progress { settled: Some(SettledRows::default()), ..Progress::default() });
    let shown = Shown { style: args.progress, grace: 30, until_eof: false };
    let start = Instant::now();
    let running =
        until_signal(Arc::clone(&sample.plan), model, &options, shown, Arc::clone(&progress));
    let ended = executor.block_on(running);
    executor.shutdown_background();
    let report = ended?;
    if report.ending != Ending::Complete {
        return Err(Failure::interrupted(anyhow!("interrupted before the sample was done")));
    }
    let prediction = sample.predict(&report, &progress, start, slots);
    if args.save {
        prediction.save(&output).map_err(Failure::resumable)?;
        let path = output.path_of("_legenda/prediction.json");
        eprint(&format!("saved to {path}; the next run of this job is compared with it"));
    }
    show(&prediction, load_time, args.json);
    Ok(Exit::Done)
}

fn show(prediction: &Prediction, load_time: Duration, as_json: bool) {
    let Prediction { rows, sampled, sample_seconds, .. } = prediction;
    if as_json {
        let seconds = load_time.as_secs_f64();
        let object = json!({
            "prediction": prediction, "confidence": CONFIDENCE, "load_seconds": seconds,
        });
        print(&object.to_string());
        return;
    }
    print(&format!(
        "ran {sampled} of {} in {sample_seconds:.1} s; the model loaded in {:.1} s",
        counted(*rows, "row"),
        load_time.as_secs_f64()
    ));
    print(&format!("{:<18} {:>12}   {:.0} % interval", "full run", "", CONFIDENCE * 100.0));
    for (what, value, interval) in prediction.lines() {
        print(&format!("{what:<18} {value:>12}   {interval}"));
    }
    print("the bounds of peak memory and output bytes are heuristic, not statistical");
    for (code, rows) in &prediction.sample_rejects {
        print(&format!("rejected {rows} in the sample: {code}"));
    }
}
