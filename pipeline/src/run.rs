//! Wires the stages of a run together. Read this file first.
//!
//! ```text
//! Parquet ─► scan ─► prepare ─► encode ─► generate ─► collect ─► parts + ledger
//!                            └─────► embed ─────────┘
//! ```
//!
//! Scan, encode and generate, or embed in the place of the two, have a thread each, prepare a pool;
//! between them stand queues that count bytes ([`crate::budget`]), so the slowest stage sets the pace.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use legenda_models::{Embedder, Loaded, Model};
use legenda_schemas::{
    job::{Incremental, RejectsPlace},
    ledger::{LedgerEntry, Plan},
    span::{Span, SpanId},
    table::AnswerKind,
    units::ErrorBudget,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};
use tracing::Instrument;

use crate::{
    budget::{Budget, ByteReceiver, Disconnected, byte_queue},
    ledger::{Committed, LedgerError, OpenOutput, Output, OutputFiles, Stale},
    media::locate::{MediaPlaces, PlacesError},
    metrics::{Progress, RunReport, resident_memory, traced},
    plan::RunPlan,
    predict::Prediction,
    report,
    retry::{Rejects, RetryChoice, RetryError},
    reuse::Known,
    sidecar,
    source::{SourceFailed, column::holds_bytes},
    stage::{
        OUTCOMES_MAX, Outcomes, OutstandingSpan, PreparedRow, Retry,
        collect::{CollectError, Collected, Collector},
        embed, encode, generate,
        prepare::{self, Preparer},
        scan::Scan,
    },
    stop::Stop,
    store::{self, LeaseTerms, WriteError},
    timeline,
};

/// How a run is executed; nothing here changes answers.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Removes what earlier runs wrote to the output.
    pub overwrite: bool,
    /// Rows prepared at a time.
    pub prepare_workers: usize,
    /// The folder that relative paths of the job are resolved against.
    pub base_dir: PathBuf,
    /// The terms of the lease of an output in an object store.
    pub lease: LeaseTerms,
    /// What becomes of answers of another job.
    pub stale: Stale,
    /// Instead of what is outstanding, rejects of what is committed are done again.
    pub retry: Option<RetryChoice>,
}

/// Why a run failed. What was committed is safe, and the same command resumes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The output folder cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A span cannot be committed.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The report cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceFailed),
    /// The places that media may come from cannot be used.
    #[error(transparent)]
    Places(#[from] PlacesError),
    /// The rejects cannot be tried again.
    #[error(transparent)]
    Retry(#[from] RetryError),
    /// `limits.memory` is too small for the model alone.
    #[error(
        "`limits.memory` is {limit_mib} MiB, but with the model loaded the process already holds {used_mib} MiB: set it to {needed_mib} MiB or more"
    )]
    Memory {
        /// The limit.
        limit_mib: u64,
        /// What is in use.
        used_mib: u64,
        /// What would do.
        needed_mib: u64,
    },
    /// A stage ended before its time: a fault of this program.
    #[error("the stage `{stage}` ended early{problem}; please report this")]
    Stage {
        /// The stage.
        stage: &'static str,
        /// What it left.
        problem: String,
    },
}

/// The error budget of a job that names none: most of its rows are not what the job takes them for.
const BUDGET: ErrorBudget = ErrorBudget::Percent(50.0);
/// The rows of a run that has that budget; fewer are soon looked through.
const BUDGET_ROWS_MIN: u64 = 100;

/// The least memory that is left to the stages: enough for a few large pictures.
const STAGE_BYTES_MIN: u64 = 64 << 20;
/// Memory that no reservation counts: allocator, threads, file buffers, runtime scratch.
const SLACK_BYTES: u64 = 64 << 20;

/// How the stages share the memory that the model leaves, in percent.
///
/// While a row is read its page and its cells are there, so what one may take stands for twice that.
const READ_PERCENT: u64 = 13;
const SCANNED_PERCENT: u64 = 13;
const DECODED_PERCENT: u64 = 35;
const AGAIN_PERCENT: u64 = 20;
/// Rows of a span that are read again are read, joined and written.
const AGAIN_COPIES: u64 = 3;
/// What is carried to the answers waits for its span, is put together and is written.
const CARRIED_PERCENT: u64 = 5;
const PREPARED_PERCENT: u64 = 15;
const ENCODED_PERCENT: u64 = 10;

/// The most that the queues share however much memory there is: more would only fill memory with
/// rows that wait, and peak memory would follow the table until they are full. Decoding is not
/// bounded so: it uses what one large picture needs and no more.
const QUEUE_BYTES_MAX: u64 = 96 << 20;

/// The most bytes of rows that the queues hold: what a sample may not have filled.
pub(crate) const QUEUED_BYTES_MAX: u64 =
    QUEUE_BYTES_MAX / 100 * (SCANNED_PERCENT + PREPARED_PERCENT + ENCODED_PERCENT);

/// Executes the plan with the loaded model.
///
/// # Errors
///
/// [`RunError`]; spans committed before it stay committed.
#[tracing::instrument(
    skip_all,
    fields(task = plan.job.task.kind.as_str(), model = plan.bundle_name, rows_planned, answers, rejects)
)]
pub async fn run(
    plan: Arc<RunPlan>,
    model: impl Into<Loaded>,
    options: &RunOptions,
    progress: Arc<Progress>,
    stop: Arc<Stop>,
) -> Result<RunReport, RunError> {
    let start = Instant::now();
    let model = model.into();
    let stage_bytes = stage_bytes(plan.job.limits.memory.0)?;
    let opened = tokio::task::spawn_blocking({
        let (plan, options) = (Arc::clone(&plan), options.clone());
        move || open_output(&plan, &options)
    });
    let Opened { output, ledger, committed, spans, prediction } = opened
        .await
        .map_err(|error| RunError::Stage { stage: "open", problem: format!(": {error}") })??;
    let output = Arc::new(output);
    let rows_retried = spans.iter().filter_map(|span| Some(span.retry.as_ref()?.rows.len() as u64));
    let rows_retried = options.retry.is_some().then(|| rows_retried.sum());
    let retried: HashSet<&SpanId> =
        spans.iter().filter(|span| span.retry.is_some()).map(|span| &span.id).collect();
    let all = committed.entries.values().chain(&committed.kept);
    let earlier = || all.clone().filter(|entry| !retried.contains(&entry.id));
    let rows_resumed = earlier().map(|entry| entry.rows_in).sum();
    let rows_new = || spans.iter().map(|span| plan.n_rows_of(&span.span)).sum::<u64>();
    let rows_planned = rows_retried.unwrap_or_else(|| rows_resumed + rows_new());
    progress.rows_planned.store(rows_planned, Relaxed);
    progress.rows_resumed.store(if rows_retried.is_some() { 0 } else { rows_resumed }, Relaxed);
    let bytes_before = plan.table.bytes_read.total();
    // Where most rows of a small table are rejected, its summary says so.
    let by_default = (rows_planned >= BUDGET_ROWS_MIN).then_some(BUDGET);
    let budget = plan.job.limits.error_budget.or(by_default);
    let collector = Collector {
        plan: Arc::clone(&plan),
        answers: match &model {
            Loaded::Model(_) => AnswerKind::Text,
            Loaded::Embedder(embedder) => {
                AnswerKind::Embedding { dimension: embedder.info.dimension }
            }
        },
        ledger,
        spans: Arc::clone(&spans),
        output: Arc::clone(&output),
        progress: Arc::clone(&progress),
        stop: Arc::clone(&stop),
        rejects_max: match budget {
            Some(budget) if rows_retried.is_none() => budget.rows_max(rows_planned),
            // Rows that were rejected before may be so again.
            _ => u64::MAX,
        },
        rejects_before: earlier().map(LedgerEntry::n_rejects).sum(),
        again_bytes_max: stage_bytes / 100 * AGAIN_PERCENT / AGAIN_COPIES,
        known: open_known(&plan, &model, &options.base_dir),
    };
    let (device, device_note) = match &model {
        Loaded::Model(model) => (model.info.device, model.info.device_note.clone()),
        Loaded::Embedder(embedder) => (embedder.info.device, embedder.info.device_note.clone()),
    };
    let (end, ended) = oneshot::channel();
    let timeline = tokio::spawn(timeline::record(Arc::clone(&progress), ended));
    let Collected { entries, is_whole } =
        run_stages(model, options, collector, stage_bytes).await?;
    drop(end);
    // What cannot be looked at any more is only missing in a picture.
    let timeline = timeline.await.unwrap_or_default();

    let done: HashSet<SpanId> = entries.iter().map(|entry| entry.id.clone()).collect();
    let mut report = RunReport {
        ending: stop.ending(is_whole && spans.iter().all(|span| done.contains(&span.id))),
        rows_planned,
        rows_in: 0,
        answers: 0,
        rejects: Default::default(),
        rows_resumed,
        rows_reused: progress.rows_reused.load(Relaxed),
        rows_repeated: progress.rows_repeated.load(Relaxed),
        spans_superseded: committed.superseded,
        tokens_generated: progress.tokens_generated.load(Relaxed),
        tokens_prompt: progress.tokens_prompt.load(Relaxed),
        tokens_prompt_spared: progress.tokens_prompt_spared.load(Relaxed),
        tokens_generated_spared: progress.tokens_generated_spared.load(Relaxed),
        output_bytes: progress.output_bytes.load(Relaxed),
        skipped: plan.table.skipped.clone(),
        seconds: start.elapsed().as_secs_f64(),
        encode_seconds: progress.encode.total().as_secs_f64(),
        generate_seconds: progress.generate.total().as_secs_f64(),
        peak_memory_bytes: resident_memory().map(|(_, peak)| peak),
        memory_limit_bytes: plan.job.limits.memory.0,
        rows_retried,
        bytes_planned: bytes_before,
        bytes_read: plan.table.bytes_read.total() - bytes_before,
        store_retries: store::retries(),
        prediction,
        device: device.to_string(),
        device_note,
    };
    // A span that was retried has its new entry, and its old one where the run ended before.
    let mut ledger = committed.entries;
    ledger.extend(committed.kept.into_iter().chain(entries).map(|entry| (entry.id.clone(), entry)));
    let entries: Vec<LedgerEntry> = ledger.into_values().collect();
    entries.iter().for_each(|entry| report.add(entry));
    let trace = tracing::Span::current();
    trace.record("rows_planned", traced(report.rows_planned));
    trace.record("answers", traced(report.answers)).record("rejects", traced(report.n_rejects()));
    tokio::task::spawn_blocking({
        let report = report.clone();
        move || report::write(&output, &plan, &report, timeline, (&entries, &done))
    })
    .await
    .map_err(|error| RunError::Stage { stage: "report", problem: format!(": {error}") })??;
    Ok(report)
}

/// An output, and what is to be done for it.
struct Opened {
    output: Output,
    /// The plan, as it was written down.
    ledger: Plan,
    committed: Committed,
    spans: Arc<[OutstandingSpan]>,
    /// What the run was predicted to take.
    prediction: Option<Prediction>,
}

/// Opens the output, and finds what is to be done.
fn open_output(plan: &RunPlan, options: &RunOptions) -> Result<Opened, RunError> {
    let files = OutputFiles::new(plan.output.clone(), plan.job.output.format);
    let objects = plan.table.files.iter().map(|file| &file.object).collect();
    let opening = OpenOutput {
        plan: &plan.ledger,
        objects: &objects,
        overwrite: options.overwrite,
        // A retry does nothing again but rejects.
        incremental: match options.retry {
            Some(_) => Incremental::New,
            None => plan.job.source.incremental,
        },
        stale: options.stale,
        lease: options.lease,
        holds_media: plan.carried.iter().any(|field| holds_bytes(field.data_type())),
    };
    let (output, ledger, committed) = Output::open(files, opening)?;
    sidecar::finish(&output, &committed)?;
    // Before anything is known of how it goes.
    let prediction = Prediction::read(&output.files().folder, &plan.ledger.fingerprint);
    let outstanding = |span: &Span, id, retry| OutstandingSpan {
        file_number: plan.file_number(&span.object.path),
        span: span.clone(),
        id,
        retry,
    };
    let all = ledger.spans.iter().map(|span| (span, span.id(&ledger.fingerprint)));
    let Some(choice) = &options.retry else {
        output.write_job(&plan.stored_job(&options.base_dir))?;
        let left = all.filter(|(_, id)| !committed.entries.contains_key(id));
        let spans = left.map(|(span, id)| outstanding(span, id, None)).collect();
        return Ok(Opened { output, ledger, committed, spans, prediction });
    };
    let are_inline = plan.job.output.rejects == RejectsPlace::Inline;
    let mut spans = Vec::new();
    for (span, id) in all {
        let Some(earlier) = committed.entries.get(&id) else { continue };
        let rejects = if are_inline {
            let rows = plan.rows_of(span).into_iter().map(|row| span.file_row(row)).collect();
            Rejects::read_inline(output.files(), earlier, rows)?
        } else {
            Rejects::read(output.files(), earlier)?
        };
        let Some(rejects) = rejects else { continue };
        let row_of = |row: u64| usize::try_from(row - span.file_row_start).ok();
        let chosen = rejects.chosen(choice).into_iter().filter(|row| *row >= span.file_row_start);
        let rows: Vec<usize> = chosen.filter_map(row_of).map(|row| span.row_start + row).collect();
        if !rows.is_empty() {
            let retry = Some(Retry { earlier: earlier.clone(), rejects, rows });
            spans.push(outstanding(span, id, retry));
        }
    }
    Ok(Opened { output, ledger, committed, spans: spans.into(), prediction })
}

/// Opens what is known of answers; none where no answer can be used twice.
fn open_known(plan: &RunPlan, model: &Loaded, base_dir: &Path) -> Option<Arc<Known>> {
    let reuse = &plan.job.reuse;
    let draws = matches!(model, Loaded::Model(model) if model.info.draws);
    // No two rows draw alike.
    let is_useful = reuse.store.is_some() || (reuse.within_run && !draws);
    is_useful.then(|| Arc::new(Known::open(plan, draws, base_dir)))
}

/// Returns the bytes that the stages may share, beside what the process holds already.
fn stage_bytes(limit: u64) -> Result<u64, RunError> {
    let used = resident_memory().map_or(0, |(now, _)| now) + SLACK_BYTES;
    let left = limit.saturating_sub(used);
    if left < STAGE_BYTES_MIN {
        return Err(RunError::Memory {
            limit_mib: limit >> 20,
            used_mib: (used - SLACK_BYTES) >> 20,
            needed_mib: ((used + STAGE_BYTES_MIN) >> 20) + 1,
        });
    }
    Ok(left)
}

/// Returns the `limits.memory` with which reading a row may take `bytes`, where it may take `bytes_max`
/// now.
fn memory_for(plan: &RunPlan, bytes: u64, bytes_max: u64) -> u64 {
    let missing = bytes.saturating_sub(bytes_max).saturating_mul(100) / READ_PERCENT;
    plan.job.limits.memory.0.saturating_add(missing)
}

/// Returns what traces show of a stage, within the run.
fn stage_span(stage: &'static str) -> tracing::Span {
    tracing::info_span!("stage", otel.name = stage)
}

/// A stage on a thread of its own, by its name.
type Running = (&'static str, JoinHandle<Result<(), Disconnected>>);

/// Starts the stages, waits for all of them, and returns the spans they committed.
async fn run_stages(
    model: Loaded,
    options: &RunOptions,
    collector: Collector,
    stage_bytes: u64,
) -> Result<Collected, RunError> {
    let (plan, spans) = (Arc::clone(&collector.plan), Arc::clone(&collector.spans));
    let known = collector.known.clone();
    let (progress, stop) = (Arc::clone(&collector.progress), Arc::clone(&collector.stop));
    let share = |percent: u64| stage_bytes.min(QUEUE_BYTES_MAX) / 100 * percent;
    let (batches, scanned) = byte_queue(share(SCANNED_PERCENT));
    let (samples, prepared) = byte_queue(share(PREPARED_PERCENT));
    let (outcomes, settled) = mpsc::channel(OUTCOMES_MAX);

    let scan = tokio::task::spawn_blocking({
        let (plan, outcomes, runtime) = (Arc::clone(&plan), outcomes.clone(), Handle::current());
        let (stop, trace) = (Arc::clone(&stop), stage_span("scan"));
        move || {
            let _traced = trace.enter();
            let read_bytes_max = stage_bytes / 100 * READ_PERCENT;
            let scan = Scan {
                plan: &plan,
                spans: &spans,
                batches,
                carried: Budget::new(stage_bytes / 100 * CARRIED_PERCENT),
                read_bytes_max,
                memory_for,
                outcomes,
                stop: &stop,
                runtime,
            };
            scan.run()
        }
    });
    let preparer = Arc::new(Preparer {
        places: MediaPlaces::new(&plan.job.source, &options.base_dir)?,
        stop: Arc::clone(&stop),
        known,
        decode_budget: Budget::new(stage_bytes / 100 * DECODED_PERCENT),
        heard_rows: Arc::new(Semaphore::new(match &model {
            Loaded::Model(model) => 2 * model.info.slots,
            Loaded::Embedder(_) => 1,
        })),
        processor: match &model {
            Loaded::Model(model) => Arc::clone(&model.processor),
            Loaded::Embedder(embedder) => Arc::clone(&embedder.processor),
        },
        plan,
    });
    let preparing =
        prepare::run(preparer, options.prepare_workers, scanned, samples, outcomes.clone());
    let prepare = tokio::spawn(preparing.instrument(stage_span("prepare")));
    let answering = match model {
        Loaded::Model(model) => {
            let encoded_bytes = share(ENCODED_PERCENT);
            start_generating(*model, prepared, encoded_bytes, outcomes, progress, &stop)
        }
        Loaded::Embedder(embedder) => {
            start_embedding(*embedder, prepared, outcomes, progress, &stop)
        }
    };

    let collected = collector.run(settled).await;
    if stop.is_over() {
        // A stage may be within a long call of the model, which nobody waits for any more.
        return Ok(collected?);
    }
    // Every stage is waited for, so that none works on when the caller goes on; the first that
    // failed by itself tells why the others ended.
    let mut ended = vec![
        ("scan", scan.await.map(|result| result.err())),
        ("prepare", prepare.await.map(|()| None)),
    ];
    for (stage, running) in answering {
        ended.push((stage, running.await.map(|result| result.err())));
    }
    let collected = collected?;
    for (stage, result) in &ended {
        if let Err(error) = result {
            return Err(RunError::Stage { stage, problem: format!(": {error}") });
        }
    }
    for (stage, result) in &ended {
        if let Ok(Some(_)) = result {
            return Err(RunError::Stage { stage, problem: String::new() });
        }
    }
    match stop.failure() {
        Some(failure) => Err(failure.into()),
        None => Ok(collected),
    }
}

/// Starts what makes texts of prepared rows: the encoders, then the decoder.
fn start_generating(
    model: Model,
    prepared: ByteReceiver<PreparedRow>,
    encoded_bytes: u64,
    outcomes: Outcomes,
    progress: Arc<Progress>,
    stop: &Arc<Stop>,
) -> Vec<Running> {
    let Model { encoder, engine, .. } = model;
    let (prompts, encoded) = byte_queue(encoded_bytes);
    let encode = tokio::task::spawn_blocking({
        let (outcomes, progress) = (outcomes.clone(), Arc::clone(&progress));
        let (stop, runtime, trace) = (Arc::clone(stop), Handle::current(), stage_span("encode"));
        move || {
            let _traced = trace.enter();
            encode::run(encoder, prepared, &prompts, &outcomes, &progress, &stop, &runtime)
        }
    });
    let generate = tokio::task::spawn_blocking({
        let (stop, trace) = (Arc::clone(stop), stage_span("generate"));
        move || trace.in_scope(|| generate::run(engine, encoded, &outcomes, &progress, &stop))
    });
    vec![("encode", encode), ("generate", generate)]
}

/// Starts what makes embeddings of prepared rows.
fn start_embedding(
    embedder: Embedder,
    prepared: ByteReceiver<PreparedRow>,
    outcomes: Outcomes,
    progress: Arc<Progress>,
    stop: &Arc<Stop>,
) -> Vec<Running> {
    let embed = tokio::task::spawn_blocking({
        let (stop, trace) = (Arc::clone(stop), stage_span("embed"));
        move || trace.in_scope(|| embed::run(embedder, prepared, &outcomes, &progress, &stop))
    });
    vec![("embed", embed)]
}
