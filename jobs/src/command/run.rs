//! `legenda run`.

use std::{
    io::{IsTerminal, Write},
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
use legenda_schemas::{cause::chain, units::counted};
use tokio::sync::oneshot;

use super::{CheckedJob, check_job, eprint, is_config, ledger_failure, open_runtime, print};
use crate::{
    cli::{ExecutionArgs, ProgressStyle, RunArgs},
    failure::{Exit, Failure},
    invocation::shown_command,
    live::{Lines, LivePrinter},
    progress::ProgressReporter,
    summary,
};

/// The KV caches of the slots take at most 1/`KV_SHARE` of `limits.memory` if the job does not set
/// `model.slots`.
const KV_SHARE: u64 = 4;

/// The share of `--grace` for finishing rows in slots; the rest is for committing them.
const ROWS_SHARE: f64 = 0.75;

/// The options of an execution.
pub(crate) struct Execution<'a> {
    pub(crate) offline: bool,
    pub(crate) overwrite: bool,
    pub(crate) stale: Stale,
    pub(crate) retry: Option<RetryChoice>,
    pub(crate) results: Results,
    pub(crate) args: &'a ExecutionArgs,
}

/// How the results of an execution are shown.
#[derive(Debug)]
pub(crate) enum Results {
    /// A summary with the output folder, on standard output.
    Folder,
    /// A summary without it, because a file will have the answers.
    File,
    /// The answers on standard output, the summary on standard error.
    Lines(Lines),
}

/// Runs a job.
pub(crate) fn run(args: &RunArgs) -> Result<Exit, Failure> {
    let execution = Execution {
        offline: args.job.offline,
        overwrite: args.overwrite,
        stale: args.stale.into(),
        retry: None,
        results: Results::Folder,
        args: &args.execution,
    };
    let ended =
        check_job(&args.job, args.overwrite).and_then(|checked| execute(checked, execution));
    if let Err(failure) = &ended
        && args.execution.progress == ProgressStyle::Json
    {
        let failure = serde_json::json!({ "may_pass": failure.is_transient() });
        eprint(&serde_json::json!({ "failure": failure }).to_string());
    }
    ended
}

/// Executes a job until it ends or a signal arrives.
pub(crate) fn execute(checked: CheckedJob, execution: Execution<'_>) -> Result<Exit, Failure> {
    if !execution.overwrite {
        // Fail before loading the model.
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
    execute_loaded(executor, checked, LoadedModel { runtime: &runtime, model, start }, execution)
}

/// A loaded model.
pub(crate) struct LoadedModel<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) model: Loaded,
    /// The start time of loading.
    pub(crate) start: Instant,
}

/// Executes a job with a loaded model until it ends or a signal arrives.
pub(crate) fn execute_loaded(
    executor: tokio::runtime::Runtime,
    checked: CheckedJob,
    LoadedModel { runtime, model, start }: LoadedModel<'_>,
    execution: Execution<'_>,
) -> Result<Exit, Failure> {
    let CheckedJob { plan, bundle, base_dir } = checked;
    let Execution { offline: _, overwrite, stale, retry, results, args } = execution;
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
        command: shown_command(),
    };
    let mut progress = Progress::default();
    let (out, printer): (fn(&str), _) = match &results {
        Results::Lines(lines) => {
            let (sender, commits) = std::sync::mpsc::channel();
            progress.commits = Some(sender);
            (eprint, Some(LivePrinter::start(Arc::clone(&plan), lines.clone(), commits)))
        }
        Results::Folder | Results::File => (print, None),
    };
    let style = match (args.progress, &results) {
        // A bar and answers on one terminal would overwrite each other.
        (ProgressStyle::Auto, Results::Lines(_)) if std::io::stdout().is_terminal() => {
            ProgressStyle::None
        }
        (style, _) => style,
    };
    let shown = Shown { style, grace: args.grace, until_eof: args.until_eof };
    let running = until_signal(Arc::clone(&plan), model, &run_options, shown, Arc::new(progress));
    let ended = executor.block_on(running);
    if let Some(printer) = printer {
        printer.finish();
    }
    // Do not wait for threads of an abandoned run.
    executor.shutdown_background();
    let report = ended?;

    if args.progress == ProgressStyle::Json {
        eprint(&serde_json::json!({ "report": report }).to_string());
    }
    summary::lines(&report, &plan).iter().for_each(|line| out(line));
    let opens = matches!(results, Results::Folder);
    summary::places(&report, &plan, opens).iter().for_each(|line| out(line));
    if let Some(path) = &args.report_to {
        copy_report(&plan, path);
    }
    if args.show > 0 {
        let rows =
            legenda_pipeline::preview::answers(&plan, args.show).map_err(Failure::internal)?;
        summary::table(&rows).iter().for_each(|line| out(line));
    }
    Ok(match report.ending {
        Ending::Complete => {
            if report.n_rejects() > report.answers {
                let rows = counted(report.rows_in, "row");
                eprint(&format!("warning: {} of {rows} were rejected", report.n_rejects()));
            }
            Exit::Done
        }
        Ending::ErrorBudget => {
            eprint(&format!(
                "error: {} of {} were rejected, more than `limits.error_budget` allows",
                report.n_rejects(),
                counted(report.rows_planned, "row"),
            ));
            eprint(
                "hint: inspect the rejects; fix the job, or raise the budget \
                 (`--set limits.error_budget=100%`) and run again to resume",
            );
            Exit::ErrorBudget
        }
        Ending::Stopped => {
            eprint(&resume_hint());
            Exit::Interrupted
        }
    })
}

/// Copies the report of the run to `path`. A failure is only a warning.
fn copy_report(plan: &RunPlan, path: &Path) {
    let page = legenda_pipeline::report::read_page(&plan.output).map_err(anyhow::Error::new);
    let copied = page.and_then(|page| {
        let page = page.context("the output has no report")?;
        let mut file = std::fs::File::create(path)?;
        Ok(file.write_all(&page)?)
    });
    if let Err(error) = copied {
        let (path, cause) = (path.display(), chain(&*error));
        eprint(&format!("warning: failed to write the report to `{path}`: {cause}"));
    }
}

/// Starts the async runtime of a run.
pub(super) fn start_threads() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start worker threads")
        .map_err(Failure::resumable)
}

/// Loads the model of a plan.
#[tracing::instrument(skip_all, fields(bundle = bundle.name()))]
pub(super) fn load(runtime: &Runtime, plan: &RunPlan, bundle: &Bundle) -> Result<Loaded, Failure> {
    let options = ModelOptions {
        device: plan.job.model.device,
        graphs: plan.job.model.graphs,
        slots: plan.job.model.slots,
        kv_bytes_max: usize::try_from(plan.job.limits.memory.0 / KV_SHARE).ok(),
        context_tokens: plan.job.model.context_tokens,
        generation: plan.job.generation.clone(),
        speech: (&plan.job.task).into(),
        answer: plan.answer.clone(),
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
    eprint(&format!(
        "{} · {} · {model} · ONNX Runtime {} · ready in {:.1} s",
        plan.job.task.kind.as_str(),
        summary::rows(plan),
        runtime.version(),
        took.as_secs_f64(),
    ));
}

/// How a run is shown and stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) style: ProgressStyle,
    /// The seconds between the first signal and the end.
    pub(super) grace: u64,
    pub(super) until_eof: bool,
}

/// Runs the plan. The first signal stops it gracefully; the second signal, or the end of the grace
/// period, abandons it.
pub(super) async fn until_signal(
    plan: Arc<RunPlan>,
    model: Loaded,
    options: &RunOptions,
    Shown { style, grace, until_eof }: Shown,
    progress: Arc<Progress>,
) -> Result<RunReport, Failure> {
    let stop = Arc::new(Stop::default());
    let reporter = ProgressReporter::start(style, Arc::clone(&progress));
    let run = legenda_pipeline::run(plan, model, options, Arc::clone(&progress), Arc::clone(&stop));
    tokio::pin!(run);
    let mut signals = Signals::new(until_eof)?;
    let result = tokio::select! {
        result = &mut run => result,
        () = signals.next() => {
            eprint("stopping: finishing rows in progress; press Ctrl-C again to exit immediately");
            let grace = Duration::from_secs(grace);
            stop.request(grace.mul_f64(ROWS_SHARE));
            tokio::select! {
                result = &mut run => result,
                () = signals.next() => return Err(abandoned()),
                () = tokio::time::sleep(grace) => return Err(abandoned()),
            }
        }
    };
    reporter.finish().await;
    result.map_err(|error| match &error {
        RunError::Memory { .. } => Failure::config(error),
        // The output cannot be opened; no row was read.
        RunError::Ledger(inner) if is_config(inner) => Failure::config(error),
        RunError::Retry(RetryError::SeveralParts) => Failure::config(error),
        RunError::Stage { .. } => Failure::internal(error).hint(resume_hint()),
        _ => Failure::resumable(error).hint(resume_hint()),
    })
}

/// Returns the lease terms; a test shortens them with `LEGENDA_LEASE_SECONDS`.
pub(super) fn lease_terms() -> LeaseTerms {
    let seconds = std::env::var("LEGENDA_LEASE_SECONDS").ok().and_then(|n| n.parse().ok());
    let lasts = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    lasts.map_or_else(LeaseTerms::default, |lasts| LeaseTerms { lasts })
}

fn abandoned() -> Failure {
    Failure::interrupted(anyhow::anyhow!(
        "exited before rows in progress were done; committed rows are safe"
    ))
    .hint(resume_hint())
}

/// Returns the hint to resume: the same command without `--overwrite`.
fn resume_hint() -> String {
    let words: Vec<String> = std::env::args()
        .filter(|word| word != "--overwrite")
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { word })
        .collect();
    format!("to resume, run: {}", words.join(" "))
}

/// Listens for SIGXFSZ, so that exceeding `RLIMIT_FSIZE` is an error and does not kill the process. Call
/// it before opening ONNX Runtime, which writes files too.
#[cfg(unix)]
pub(super) fn listen_for_large_files(
    executor: &tokio::runtime::Runtime,
) -> Result<tokio::signal::unix::Signal, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    /// See signal(7). The number is the same on macOS and on Linux, except on MIPS and PA-RISC.
    const SIGXFSZ: i32 = 25;
    let _guard = executor.enter();
    signal(SignalKind::from_raw(SIGXFSZ))
        .context("failed to listen for SIGXFSZ")
        .map_err(Failure::internal)
}

/// The shutdown requests: SIGINT, SIGTERM on Unix, and, if enabled, the end of standard input.
pub(crate) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// `None` if the end of standard input is ignored or was reached.
    end_of_input: Option<oneshot::Receiver<()>>,
}

impl Signals {
    pub(crate) fn new(until_eof: bool) -> Result<Self, Failure> {
        let end_of_input = until_eof.then(|| {
            let (sender, receiver) = oneshot::channel();
            // A blocking read cannot be cancelled, so it runs on a thread that ends with the process.
            std::thread::spawn(move || {
                std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).ok();
                sender.send(()).ok();
            });
            receiver
        });
        Ok(Self {
            #[cfg(unix)]
            terminate: {
                use tokio::signal::unix::{SignalKind, signal};
                signal(SignalKind::terminate())
                    .context("failed to listen for SIGTERM")
                    .map_err(Failure::internal)?
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
            () = end_of_input_reached(end_of_input) => {}
        }
    }
}

/// Waits for the end of standard input; forever if it is ignored.
async fn end_of_input_reached(end_of_input: &mut Option<oneshot::Receiver<()>>) {
    match end_of_input {
        Some(receiver) => {
            // A dropped sender means the same as a message: the end, once.
            receiver.await.ok();
            *end_of_input = None;
        }
        None => std::future::pending().await,
    }
}
