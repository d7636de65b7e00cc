//! `legenda run`.

use std::{
    io::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use legenda_models::{Bundle, Embedder, Loaded, Model, ModelOptions, Runtime};
use legenda_pipeline::{
    Ending, Progress, RunError, RunOptions, RunPlan, RunReport, Stop,
    ledger::{OutputFiles, Stale},
    retry::{RetryChoice, RetryError},
    store::LeaseTerms,
};
use legenda_schemas::units::counted;
use tokio::sync::oneshot;

use super::{CheckedJob, check_job, is_config, ledger_failure, open_runtime, print, tell};
use crate::{
    cli::{ProgressStyle, RunArgs, ShownArgs},
    failure::{Exit, Failure, messages},
    progress::Shown,
    summary,
};

/// How much of `limits.memory` the key-value caches of the slots may take when the job does not
/// say how many slots it wants: one part in this many.
const KV_SHARE: u64 = 4;

/// How much of `--grace` is for rows in slots; the rest is for committing them.
const ROWS_SHARE: f64 = 0.75;

/// How a checked job is executed.
pub(crate) struct Execution<'a> {
    pub(crate) offline: bool,
    pub(crate) overwrite: bool,
    pub(crate) stale: Stale,
    pub(crate) retry: Option<RetryChoice>,
    pub(crate) shown: &'a ShownArgs,
}

/// Runs a job.
pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let execution = Execution {
        offline: args.job.offline,
        overwrite: args.overwrite,
        stale: args.stale.into(),
        retry: None,
        shown: &args.shown,
    };
    let ended =
        check_job(&args.job, args.overwrite).and_then(|checked| execute(checked, execution));
    if let Err(failure) = &ended
        && args.shown.progress == ProgressStyle::Json
    {
        let may_pass = failure.may_pass();
        tell(&serde_json::json!({ "failure": { "may_pass": may_pass } }).to_string());
    }
    ended
}

/// Executes a job to its end, or to a signal.
pub(crate) fn execute(checked: CheckedJob, execution: Execution<'_>) -> Result<Exit, Failure> {
    if !execution.overwrite {
        // Before a model is loaded in vain.
        let plan = &checked.plan;
        let output = OutputFiles::new(plan.output.clone(), plan.job.output.format);
        output.check_job(&plan.ledger, execution.stale).map_err(ledger_failure)?;
    }
    let start = Instant::now();
    let executor = start_threads()?;
    #[cfg(unix)]
    let _file_too_large = listen_for_large_files(&executor)?;
    let runtime = open_runtime(execution.offline, checked.plan.job.model.threads)?;
    let model = load(&runtime, &checked.plan, &checked.bundle)?;
    execute_loaded(executor, checked, Ready { runtime: &runtime, model, start }, execution)
}

/// A model that is loaded.
pub(crate) struct Ready<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) model: Loaded,
    /// When loading began.
    pub(crate) start: Instant,
}

/// Executes a job, whose model is loaded, to its end, or to a signal.
pub(crate) fn execute_loaded(
    executor: tokio::runtime::Runtime,
    checked: CheckedJob,
    Ready { runtime, model, start }: Ready<'_>,
    execution: Execution<'_>,
) -> Result<Exit, Failure> {
    let CheckedJob { plan, bundle, base_dir } = checked;
    let Execution { offline: _, overwrite, stale, retry, shown } = execution;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    announce(&plan, &model, runtime, start.elapsed());
    drop(bundle);

    let plan = Arc::new(plan);
    let run_options = RunOptions {
        overwrite,
        stale,
        prepare_workers: cores,
        base_dir,
        lease: lease_terms(),
        retry,
    };
    let progress = Arc::new(Progress::default());
    let running = until_signal(Arc::clone(&plan), model, &run_options, shown, progress);
    let ended = executor.block_on(running);
    // Threads of an abandoned run must not hold up the end of the program.
    executor.shutdown_background();
    let report = ended?;

    if shown.progress == ProgressStyle::Json {
        tell(&serde_json::json!({ "report": report }).to_string());
    }
    for line in summary::lines(&report, &plan) {
        print(&line);
    }
    if let Some(path) = &shown.report_to {
        copy_report(&plan, path);
    }
    if shown.show > 0 {
        let rows = legenda_pipeline::preview::answers(&plan, shown.show).map_err(Failure::fault)?;
        for line in summary::table(&rows) {
            print(&line);
        }
    }
    Ok(match report.ending {
        Ending::Complete => {
            if report.n_rejects() > report.answers {
                let rows = counted(report.rows_in, "row");
                tell(&format!("warning: {} of {rows} were rejected", report.n_rejects()));
            }
            Exit::Done
        }
        Ending::ErrorBudget => {
            tell(&format!(
                "error: {} of {} were rejected, more than `limits.error_budget` allows",
                report.n_rejects(),
                counted(report.rows_planned, "row"),
            ));
            tell(
                "hint: look at the rejects; correct the job, or raise the budget \
                 (`--set limits.error_budget=100%`) and run again to resume",
            );
            Exit::ErrorBudget
        }
        Ending::Stopped => {
            tell(&resume_hint());
            Exit::Interrupted
        }
    })
}

/// Copies the page about the run to `path`. The run is whole without it.
fn copy_report(plan: &RunPlan, path: &Path) {
    let page = legenda_pipeline::report::read_page(&plan.output).map_err(anyhow::Error::new);
    let copied = page.and_then(|page| {
        let page = page.context("the output has none")?;
        let mut file = std::fs::File::create(path)?;
        Ok(file.write_all(&page)?)
    });
    if let Err(error) = copied {
        let (path, problem) = (path.display(), messages(&error).join(": "));
        tell(&format!("warning: the report is not in `{path}`: {problem}"));
    }
}

/// Starts the threads that a run waits on.
pub(super) fn start_threads() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the threads of the run")
        .map_err(Failure::resumable)
}

/// Loads the model of a plan.
#[tracing::instrument(skip_all, fields(bundle = bundle.name()))]
pub(super) fn load(runtime: &Runtime, plan: &RunPlan, bundle: &Bundle) -> Result<Loaded, Failure> {
    let options = ModelOptions {
        device: plan.job.model.device,
        slots: plan.job.model.slots,
        kv_bytes_max: usize::try_from(plan.job.limits.memory.0 / KV_SHARE).ok(),
        context_tokens: plan.job.model.context_tokens,
        generation: plan.job.generation.clone(),
        speech: (&plan.job.task).into(),
        embedding: plan.job.embedding.clone(),
    };
    let model: Loaded = match &plan.embedding {
        None => Model::load(runtime, bundle, &options).map_err(Failure::config)?.into(),
        Some(embedding) => Embedder::load(runtime, bundle, &options, embedding.input)
            .map_err(Failure::config)?
            .into(),
    };
    let note = match &model {
        Loaded::Model(model) => &model.info.device_note,
        Loaded::Embedder(embedder) => &embedder.info.device_note,
    };
    if let Some(note) = note {
        tracing::warn!(reason = note, "running on the CPU");
    }
    Ok(model)
}

fn announce(plan: &RunPlan, model: &Loaded, runtime: &Runtime, took: Duration) {
    let model = match model {
        Loaded::Model(model) => {
            let info = &model.info;
            format!("{} on {} ({} slots)", info.name, info.device, info.slots)
        }
        Loaded::Embedder(embedder) => {
            let info = &embedder.info;
            format!("{} on {} ({} dimensions)", info.name, info.device, info.dimension)
        }
    };
    tell(&format!(
        "{} · {} · {model} · ONNX Runtime {} · ready in {:.1} s",
        plan.job.task.kind.as_str(),
        summary::rows(plan),
        runtime.version(),
        took.as_secs_f64(),
    ));
}

/// Runs the plan; the first signal asks it to stop, the second, or the end of the grace, ends it.
pub(super) async fn until_signal(
    plan: Arc<RunPlan>,
    model: Loaded,
    options: &RunOptions,
    ShownArgs { progress: style, grace, until_eof, .. }: &ShownArgs,
    progress: Arc<Progress>,
) -> Result<RunReport, Failure> {
    let stop = Arc::new(Stop::default());
    let shown = Shown::start(*style, Arc::clone(&progress));
    let run = legenda_pipeline::run(plan, model, options, Arc::clone(&progress), Arc::clone(&stop));
    tokio::pin!(run);
    let mut signals = Signals::new(*until_eof)?;
    let result = tokio::select! {
        result = &mut run => result,
        () = signals.next() => {
            tell("stopping: finishing the rows in slots; press Ctrl-C again to end at once");
            let grace = Duration::from_secs(*grace);
            stop.request(grace.mul_f64(ROWS_SHARE));
            tokio::select! {
                result = &mut run => result,
                () = signals.next() => return Err(abandoned()),
                () = tokio::time::sleep(grace) => return Err(abandoned()),
            }
        }
    };
    shown.finish().await;
    result.map_err(|error| match &error {
        RunError::Memory { .. } => Failure::config(error),
        // An output that cannot be opened: nothing was read yet.
        RunError::Ledger(inner) if is_config(inner) => Failure::config(error),
        RunError::Retry(RetryError::SeveralParts) => Failure::config(error),
        RunError::Stage { .. } => Failure::fault(error).hint(resume_hint()),
        _ => Failure::resumable(error).hint(resume_hint()),
    })
}

/// Returns the terms of a lease: shorter ones when a test asks for them by `LEGENDA_LEASE_SECONDS`.
pub(super) fn lease_terms() -> LeaseTerms {
    let seconds = std::env::var("LEGENDA_LEASE_SECONDS").ok().and_then(|n| n.parse().ok());
    let lasts = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    lasts.map_or_else(LeaseTerms::default, |lasts| LeaseTerms { lasts })
}

fn abandoned() -> Failure {
    Failure::interrupted(anyhow::anyhow!(
        "ended before the rows at work were done; what was committed is safe"
    ))
    .hint(resume_hint())
}

/// Says how to go on: the same command, but without what would throw the work away.
fn resume_hint() -> String {
    let words: Vec<String> = std::env::args()
        .filter(|word| word != "--overwrite")
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { word })
        .collect();
    format!("to resume, run: {}", words.join(" "))
}

/// Listens for SIGXFSZ, so that a file over `RLIMIT_FSIZE` is an error and not the end of the process;
/// before ONNX Runtime opens, which writes files of its own.
#[cfg(unix)]
pub(super) fn listen_for_large_files(
    executor: &tokio::runtime::Runtime,
) -> Result<tokio::signal::unix::Signal, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    /// signal(7); the same number on Linux, but for MIPS and PA-RISC, and on macOS.
    const SIGXFSZ: i32 = 25;
    let _guard = executor.enter();
    signal(SignalKind::from_raw(SIGXFSZ))
        .context("cannot listen for SIGXFSZ")
        .map_err(Failure::fault)
}

/// What asks the program to end: SIGINT, on Unix SIGTERM, and the end of standard input where that is
/// wanted.
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// None when the end of standard input means nothing, or has come.
    end_of_input: Option<oneshot::Receiver<()>>,
}

impl Signals {
    pub(crate) fn new(until_eof: bool) -> Result<Self, Failure> {
        let end_of_input = until_eof.then(|| {
            let (end, ended) = oneshot::channel();
            // Reading cannot be cut off, so it has a thread that the end of the program takes along.
            std::thread::spawn(move || {
                std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).ok();
                end.send(()).ok();
            });
            ended
        });
        Ok(Self {
            #[cfg(unix)]
            terminate: {
                use tokio::signal::unix::{SignalKind, signal};
                signal(SignalKind::terminate())
                    .context("cannot listen for SIGTERM")
                    .map_err(Failure::fault)?
            },
            end_of_input,
        })
    }

    pub(crate) async fn next(&mut self) {
        #[cfg(unix)]
        let terminate = self.terminate.recv();
        #[cfg(not(unix))]
        let terminate = std::future::pending::<Option<()>>();
        let end_of_input = &mut self.end_of_input;
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate => {}
            () = ended(end_of_input) => {}
        }
    }
}

/// Waits for the end of standard input; for ever where it means nothing.
async fn ended(end_of_input: &mut Option<oneshot::Receiver<()>>) {
    match end_of_input {
        Some(end) => {
            // Its thread says so, or is gone: either is the end, which comes once.
            end.await.ok();
            *end_of_input = None;
        }
        None => std::future::pending().await,
    }
}
