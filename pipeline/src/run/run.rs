//! Wires the stages of a run together. Read this file first.
//!
//! ```text
//! Parquet ─► scan ─► prepare ─► encode ─► generate ─► collect ─► parts + ledger
//!                            └─────► embed ─────────┘
//! ```
//!
//! Scan, encode, generate and embed run on one thread each; prepare runs on a pool. Embed replaces
//! encode and generate for embedding models. Stages are connected by byte-bounded queues
//! ([`crate::base::budget`]), so the slowest stage sets the pace.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use legenda_models::{Embedder, Loaded, Model};
use legenda_schemas::{
    job::{Incremental, RejectsMode},
    ledger::{LedgerEntry, Manifest},
    span::{Span, SpanId},
    table::AnswerKind,
    units::ErrorBudget,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinError, JoinHandle},
};
use tracing::Instrument;

use crate::{
    base::{
        budget::{Budget, ByteReceiver, Disconnected, byte_queue},
        store::{self, LeaseTerms, WriteError},
    },
    input::{
        media::locate::{MediaRoots, MediaRootsError},
        source::{SourceFailed, column::holds_bytes},
    },
    output::{
        ledger::{Committed, LedgerError, OpenOutput, Output, OutputFiles, Stale},
        sidecar,
    },
    run::{
        metrics::{Progress, RunReport, resident_memory, traced},
        plan::RunPlan,
        prediction::Prediction,
        report,
        retry::{Rejects, RetryChoice, RetryError},
        reuse::AnswerCache,
        stage::{
            OUTCOMES_MAX, Outcomes, OutstandingSpan, PreparedRow, Retry,
            collect::{CollectError, Collected, Collector},
            embed,
            encode::{self, Encoding},
            generate,
            prepare::{self, Preparer},
            scan::Scan,
        },
        stop::Stop,
        timeline,
    },
};

/// Options of a run; none of them changes answers.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Removes the output of earlier runs first.
    pub overwrite: bool,
    /// The number of rows prepared concurrently.
    pub prepare_workers: usize,
    /// The folder that relative paths in the job are resolved against.
    pub base_dir: PathBuf,
    /// The lease terms of an output in an object store.
    pub lease: LeaseTerms,
    /// How to treat answers of another job.
    pub stale: Stale,
    /// Retries rejects of committed spans instead of running outstanding spans.
    pub retry: Option<RetryChoice>,
    /// The command that started the run, for the report; empty if there is none.
    pub command: String,
}

/// An error that ends a run. Committed spans are safe; the same command resumes.
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
    /// The media roots cannot be used.
    #[error(transparent)]
    MediaRoots(#[from] MediaRootsError),
    /// The rejects cannot be retried.
    #[error(transparent)]
    Retry(#[from] RetryError),
    /// `limits.memory` is too small for the model alone.
    #[error(
        "`limits.memory` is {limit_mib} MiB, but the process already uses {used_mib} MiB with the model loaded"
    )]
    Memory {
        /// The limit.
        limit_mib: u64,
        /// The memory in use.
        used_mib: u64,
        /// The minimum limit.
        needed_mib: u64,
    },
    /// A stage ended early: a bug in this program.
    #[error("the stage `{stage}` ended early")]
    Stage {
        /// The stage.
        stage: &'static str,
        /// The panic of its task, if any.
        source: Option<JoinError>,
    },
}

/// The default error budget: if most rows fail, the job is probably misconfigured.
const BUDGET: ErrorBudget = ErrorBudget::Percent(50.0);
/// The minimum rows for the default budget; smaller tables are easy to inspect by hand.
const BUDGET_ROWS_MIN: u64 = 100;

/// The minimum memory for the stages: enough for a few large images.
const STAGE_BYTES_MIN: u64 = 64 << 20;
/// Memory outside all reservations: allocator, threads, file buffers, runtime scratch.
const SLACK_BYTES: u64 = 64 << 20;

/// How the stages share the memory left by the model, in percent.
///
/// While a row is read, both its page and its cells are in memory, so this share counts twice.
const READ_PERCENT: u64 = 13;
const SCANNED_PERCENT: u64 = 13;
const DECODED_PERCENT: u64 = 35;
const REREAD_PERCENT: u64 = 20;
/// Reread rows exist three times: as read, concatenated, and serialised.
const REREAD_COPIES: u64 = 3;
/// Carried columns wait for their span, are concatenated and are written.
const CARRIED_PERCENT: u64 = 5;
const PREPARED_PERCENT: u64 = 15;
const ENCODED_PERCENT: u64 = 10;

/// The upper bound of all queues together. Larger queues would only fill memory with waiting rows,
/// and peak memory would grow with the table until they are full. Decoding has no such bound: it
/// uses what one large image needs and no more.
const QUEUE_BYTES_MAX: u64 = 96 << 20;

/// The maximum bytes of queued rows; a sample may not have filled the queues.
pub(crate) const QUEUED_BYTES_MAX: u64 =
    QUEUE_BYTES_MAX / 100 * (SCANNED_PERCENT + PREPARED_PERCENT + ENCODED_PERCENT);

/// Runs the plan with the loaded model.
///
/// # Errors
///
/// [`RunError`]; spans committed before the error stay committed.
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
    let Opened { output, ledger, committed, spans, prediction } =
        opened.await.map_err(|error| RunError::Stage { stage: "open", source: Some(error) })??;
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
    committed.entries.values().for_each(|entry| progress.committed(entry));
    let bytes_before = plan.table.bytes_read.total();
    // On a small table, the summary already shows that most rows were rejected.
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
            // Rows that were rejected before may be rejected again.
            _ => u64::MAX,
        },
        rejects_before: earlier().map(LedgerEntry::n_rejects).sum(),
        reread_bytes_max: stage_bytes / 100 * REREAD_PERCENT / REREAD_COPIES,
        answer_cache: open_answer_cache(&plan, &model, &options.base_dir),
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
    // A failed recorder only leaves the timeline empty.
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
    // A retried span has its new entry, or its old one if the run ended before.
    let mut ledger = committed.entries;
    ledger.extend(committed.kept.into_iter().chain(entries).map(|entry| (entry.id.clone(), entry)));
    let entries: Vec<LedgerEntry> = ledger.into_values().collect();
    entries.iter().for_each(|entry| report.add(entry));
    let trace = tracing::Span::current();
    trace.record("rows_planned", traced(report.rows_planned));
    trace.record("answers", traced(report.answers)).record("rejects", traced(report.n_rejects()));
    tokio::task::spawn_blocking({
        let (report, command) = (report.clone(), options.command.clone());
        move || report::write(&output, &plan, &report, (timeline, command), (&entries, &done))
    })
    .await
    .map_err(|error| RunError::Stage { stage: "report", source: Some(error) })??;
    Ok(report)
}

/// An open output and its outstanding work.
struct Opened {
    output: Output,
    /// The manifest as written to the output.
    ledger: Manifest,
    committed: Committed,
    spans: Arc<[OutstandingSpan]>,
    /// The prediction for this run, if one was saved.
    prediction: Option<Prediction>,
}

/// Opens the output and determines the outstanding spans.
fn open_output(plan: &RunPlan, options: &RunOptions) -> Result<Opened, RunError> {
    let files = OutputFiles::new(plan.output.clone(), plan.job.output.format);
    let objects = plan.table.files.iter().map(|file| &file.object).collect();
    let opening = OpenOutput {
        plan: &plan.ledger,
        objects: &objects,
        overwrite: options.overwrite,
        // A retry only reprocesses rejects.
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
    // Read before the run has produced any results.
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
    let are_inline = plan.job.output.rejects == RejectsMode::Inline;
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

/// Opens the answer cache; `None` if no answer can be used twice.
fn open_answer_cache(plan: &RunPlan, model: &Loaded, base_dir: &Path) -> Option<Arc<AnswerCache>> {
    let reuse = &plan.job.reuse;
    let draws = matches!(model, Loaded::Model(model) if model.info.draws);
    // With sampling, two rows never draw alike.
    let is_useful = reuse.store.is_some() || (reuse.within_run && !draws);
    is_useful.then(|| Arc::new(AnswerCache::open(plan, draws, base_dir)))
}

/// Returns the bytes left for the stages on top of current process memory.
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

/// Returns the trace span of a stage within the run.
fn stage_span(stage: &'static str) -> tracing::Span {
    tracing::info_span!("stage", otel.name = stage)
}

/// A stage on its own thread, with its name.
type Running = (&'static str, JoinHandle<Result<(), Disconnected>>);

/// Starts all stages, waits for them, and returns the committed spans.
async fn run_stages(
    model: Loaded,
    options: &RunOptions,
    collector: Collector,
    stage_bytes: u64,
) -> Result<Collected, RunError> {
    let (plan, spans) = (Arc::clone(&collector.plan), Arc::clone(&collector.spans));
    let answer_cache = collector.answer_cache.clone();
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
                read_percent: READ_PERCENT,
                outcomes,
                stop: &stop,
                runtime,
            };
            scan.run()
        }
    });
    let preparer = Arc::new(Preparer {
        media_roots: MediaRoots::new(&plan.job.source, &options.base_dir)?,
        stop: Arc::clone(&stop),
        answer_cache,
        decode_budget: Budget::new(stage_bytes / 100 * DECODED_PERCENT),
        sequential_rows: Arc::new(Semaphore::new(match &model {
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
        // A stage may be inside a long model call; do not wait for it.
        return Ok(collected?);
    }
    // Wait for every stage, so that none still runs when the caller continues. The first stage that
    // failed by itself explains why the others ended.
    let mut ended = vec![
        ("scan", scan.await.map(|result| result.err())),
        ("prepare", prepare.await.map(|()| None)),
    ];
    for (stage, running) in answering {
        ended.push((stage, running.await.map(|result| result.err())));
    }
    let collected = collected?;
    let mut stopped = None;
    for (stage, result) in ended {
        match result {
            Err(error) => return Err(RunError::Stage { stage, source: Some(error) }),
            Ok(Some(_)) => stopped = stopped.or(Some(stage)),
            Ok(None) => {}
        }
    }
    if let Some(stage) = stopped {
        return Err(RunError::Stage { stage, source: None });
    }
    match stop.take_failure() {
        Some(failure) => Err(failure.into()),
        None => Ok(collected),
    }
}

/// Starts the encode and generate stages.
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
    let encoding = Arc::<Encoding>::default();
    let encode = tokio::task::spawn_blocking({
        let (outcomes, progress) = (outcomes.clone(), Arc::clone(&progress));
        let (stop, runtime, trace) = (Arc::clone(stop), Handle::current(), stage_span("encode"));
        let encoding = Arc::clone(&encoding);
        move || {
            let _traced = trace.enter();
            let output = (&prompts, &*encoding);
            encode::run(encoder, prepared, output, &outcomes, &progress, &stop, &runtime)
        }
    });
    let generate = tokio::task::spawn_blocking({
        let (stop, runtime, trace) = (Arc::clone(stop), Handle::current(), stage_span("generate"));
        move || {
            let _traced = trace.enter();
            let input = (encoded, &*encoding);
            generate::run(engine, input, &outcomes, &progress, &stop, &runtime)
        }
    });
    vec![("encode", encode), ("generate", generate)]
}

/// Starts the embed stage.
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
