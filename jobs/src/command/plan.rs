//! `legenda plan`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use legenda_models::Loaded;
use legenda_pipeline::{
    Ending, PlanScope, Progress, RunOptions,
    ledger::Stale,
    predict::{CONFIDENCE, Prediction, SamplePlan, SettledRows},
};
use legenda_schemas::job::Incremental;
use serde_json::json;

use super::{
    CheckedJob, open_runtime, plan_job, print, read_job,
    run::{lease_terms, load, start_threads, until_signal},
    tell,
};
use crate::{
    cli::{PlanArgs, ShownArgs},
    failure::{Exit, Failure},
};

/// The fewest rows that are tried unless asked for, and how many for each slot: enough that most are
/// answered while all slots are full.
const ROWS_MIN: u64 = 64;
const ROWS_PER_SLOT: u64 = 8;

/// Runs a sample of a job, and says what all of it will take.
pub(crate) fn plan(args: &PlanArgs) -> Result<Exit, Failure> {
    let (mut job, base_dir) = read_job(&args.job)?;
    // The whole job is predicted, whatever of it is done.
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
        .context("cannot make a folder for the sample")
        .map_err(Failure::resumable)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = RunOptions {
        overwrite: false,
        stale: Stale::Refuse,
        prepare_workers: cores,
        base_dir,
        lease: lease_terms(),
        retry: None,
    };
    let progress =
        Arc::new(Progress { settled: Some(SettledRows::default()), ..Progress::default() });
    let shown = ShownArgs {
        show: 0,
        progress: args.progress,
        grace: 30,
        report_to: None,
        until_eof: false,
    };
    let start = Instant::now();
    let running =
        until_signal(Arc::clone(&sample.plan), model, &options, &shown, Arc::clone(&progress));
    let ended = executor.block_on(running);
    executor.shutdown_background();
    let report = ended?;
    if report.ending != Ending::Complete {
        return Err(Failure::interrupted(anyhow!("stopped before the sample was done")));
    }
    let prediction = sample.predict(&report, &progress, start, slots);
    if args.save {
        prediction.save(&output).map_err(Failure::resumable)?;
        let at = output.path_of("_legenda/prediction.json");
        tell(&format!("runs of this job are set beside it: {at}"));
    }
    show(&prediction, load_time, args.json);
    Ok(Exit::Done)
}

fn show(prediction: &Prediction, load_time: Duration, as_json: bool) {
    let Prediction { rows, sampled, sample_seconds, .. } = prediction;
    if as_json {
        let seconds = load_time.as_secs_f64();
        let told = json!({
            "prediction": prediction, "confidence": CONFIDENCE, "load_seconds": seconds,
        });
        print(&told.to_string());
        return;
    }
    print(&format!(
        "{sampled} of {rows} rows were run in {sample_seconds:.1} s, after {:.1} s to load the model",
        load_time.as_secs_f64()
    ));
    print(&format!("{:<18} {:>12}   {:.0} % interval", "the whole run", "", CONFIDENCE * 100.0));
    for (what, value, interval) in prediction.lines() {
        print(&format!("{what:<18} {value:>12}   {interval}"));
    }
    print(
        "peak memory and output bytes have bounds that are no statistics, and may be wider of the mark",
    );
    for (code, rows) in &prediction.sample_rejects {
        print(&format!("rejected in the sample {rows}: {code}"));
    }
}
