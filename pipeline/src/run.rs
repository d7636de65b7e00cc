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
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

use legenda_models::{Embedder, Loaded, Model};
use legenda_schemas::{ledger::LedgerEntry, table::AnswerKind};
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

use crate::{
    budget::{Budget, ByteReceiver, Disconnected, byte_queue},
    ledger::{LedgerError, OutputDir},
    metrics::{Ending, Progress, RunReport, resident_memory},
    plan::RunPlan,
    sink::WriteError,
    stage::{
        OUTCOMES_MAX, Outcomes, OutstandingSpan, PreparedRow,
        collect::{CollectError, Collector},
        embed, encode, generate,
        prepare::{self, Preparer},
        scan::Scan,
    },
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

/// Asks a run to stop.
#[derive(Debug, Default)]
pub struct Stop {
    state: AtomicU8,
}

const RUNNING: u8 = 0;
const STOPPED: u8 = 1;
const BUDGET_SPENT: u8 = 2;

impl Stop {
    /// Asks the run to begin no further span, finish and commit those begun, and end.
    pub fn request(&self) {
        self.set(STOPPED);
    }

    pub(crate) fn spend_error_budget(&self) {
        self.set(BUDGET_SPENT);
    }

    /// The first reason to stop is kept.
    fn set(&self, state: u8) {
        self.state.compare_exchange(RUNNING, state, Relaxed, Relaxed).ok();
    }

    /// Returns whether the run is to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.state.load(Relaxed) != RUNNING
    }

    fn ending(&self, is_complete: bool) -> Ending {
        match self.state.load(Relaxed) {
            BUDGET_SPENT => Ending::ErrorBudget,
            _ if is_complete => Ending::Complete,
            _ => Ending::Stopped,
        }
    }
}

/// The least memory that is left to the stages: enough for a few large pictures.
const STAGE_BYTES_MIN: u64 = 64 << 20;
/// Memory that no reservation counts: allocator, threads, file buffers, runtime scratch.
const SLACK_BYTES: u64 = 64 << 20;

/// How the stages share the memory that the model leaves, in percent.
const SCANNED_PERCENT: u64 = 25;
const DECODED_PERCENT: u64 = 35;
const PREPARED_PERCENT: u64 = 15;
const ENCODED_PERCENT: u64 = 10;

/// The most that the queues share however much memory there is: more would only fill memory with
/// rows that wait, and peak memory would follow the table until they are full. Decoding is not
/// bounded so: it uses what one large picture needs and no more.
const QUEUE_BYTES_MAX: u64 = 96 << 20;

/// Executes the plan with the loaded model.
///
/// # Errors
///
/// [`RunError`]; spans committed before it stay committed.
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
    let (output, committed) =
        OutputDir::open(&plan.output_dir, plan.job.output.format, &plan.ledger, options.overwrite)?;
    let output = Arc::new(output);
    let rows_planned = plan.n_rows();
    let rows_resumed = committed.entries.values().map(|entry| entry.rows_in).sum();
    progress.rows_planned.store(rows_planned, Relaxed);
    progress.rows_resumed.store(rows_resumed, Relaxed);
    let spans: Arc<[OutstandingSpan]> = plan
        .ledger
        .spans
        .iter()
        .map(|span| OutstandingSpan { span: span.clone(), id: span.id(&plan.ledger.fingerprint) })
        .filter(|next| !committed.entries.contains_key(&next.id))
        .collect();
    let budget = plan.job.limits.error_budget;
    let collector = Collector {
        plan: Arc::clone(&plan),
        answers: match &model {
            Loaded::Model(_) => AnswerKind::Text,
            Loaded::Embedder(embedder) => {
                AnswerKind::Embedding { dimension: embedder.info.dimension }
            }
        },
        spans: Arc::clone(&spans),
        output: Arc::clone(&output),
        progress: Arc::clone(&progress),
        stop: Arc::clone(&stop),
        rejects_max: budget.map_or(u64::MAX, |budget| budget.rows_max(rows_planned)),
        rejects_before: committed.entries.values().map(LedgerEntry::n_rejects).sum(),
    };
    let entries = run_stages(model, options, collector, stage_bytes).await?;

    let mut report = RunReport {
        ending: stop.ending(entries.len() == spans.len()),
        rows_planned,
        rows_in: 0,
        answers: 0,
        rejects: Default::default(),
        rows_resumed,
        spans_superseded: committed.superseded,
        tokens_generated: progress.tokens_generated.load(Relaxed),
        seconds: start.elapsed().as_secs_f64(),
        encode_seconds: progress.encode.total().as_secs_f64(),
        generate_seconds: progress.generate.total().as_secs_f64(),
        peak_memory_bytes: resident_memory().map(|(_, peak)| peak),
        memory_limit_bytes: plan.job.limits.memory.0,
    };
    for entry in committed.entries.values().chain(&entries) {
        report.add(entry);
    }
    output.write_report(&serde_json::to_vec_pretty(&report).unwrap_or_default())?;
    Ok(report)
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

/// A stage on a thread of its own, by its name.
type Running = (&'static str, JoinHandle<Result<(), Disconnected>>);

/// Starts the stages, waits for all of them, and returns the spans they committed.
async fn run_stages(
    model: Loaded,
    options: &RunOptions,
    collector: Collector,
    stage_bytes: u64,
) -> Result<Vec<LedgerEntry>, RunError> {
    let (plan, spans) = (Arc::clone(&collector.plan), Arc::clone(&collector.spans));
    let (progress, stop) = (Arc::clone(&collector.progress), Arc::clone(&collector.stop));
    let share = |percent: u64| stage_bytes.min(QUEUE_BYTES_MAX) / 100 * percent;
    let (batches, scanned) = byte_queue(share(SCANNED_PERCENT));
    let (samples, prepared) = byte_queue(share(PREPARED_PERCENT));
    let (outcomes, settled) = mpsc::channel(OUTCOMES_MAX);

    let scan = tokio::task::spawn_blocking({
        let (plan, outcomes, runtime) = (Arc::clone(&plan), outcomes.clone(), Handle::current());
        move || {
            let scan = Scan { plan: &plan, spans: &spans, batches, outcomes, stop: &stop, runtime };
            scan.run()
        }
    });
    let preparer = Arc::new(Preparer {
        media_dirs: media_dirs(&plan, options),
        decode_budget: Budget::new(stage_bytes / 100 * DECODED_PERCENT),
        processor: match &model {
            Loaded::Model(model) => Arc::clone(&model.processor),
            Loaded::Embedder(embedder) => Arc::clone(&embedder.processor),
        },
        plan,
    });
    let prepare = tokio::spawn(prepare::run(
        preparer,
        options.prepare_workers,
        scanned,
        samples,
        outcomes.clone(),
    ));
    let answering = match model {
        Loaded::Model(model) => {
            start_generating(*model, prepared, share(ENCODED_PERCENT), outcomes, progress)
        }
        Loaded::Embedder(embedder) => start_embedding(*embedder, prepared, outcomes, progress),
    };

    let collected = collector.run(settled).await;
    // Every stage is waited for, so that none works on when the caller goes on; the first that
    // failed by itself tells why the others ended.
    let mut ended = vec![
        ("scan", scan.await.map(|result| result.err())),
        ("prepare", prepare.await.map(|()| None)),
    ];
    for (stage, running) in answering {
        ended.push((stage, running.await.map(|result| result.err())));
    }
    let entries = collected?;
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
    Ok(entries)
}

/// Starts what makes texts of prepared rows: the encoders, then the decoder.
fn start_generating(
    model: Model,
    prepared: ByteReceiver<PreparedRow>,
    encoded_bytes: u64,
    outcomes: Outcomes,
    progress: Arc<Progress>,
) -> Vec<Running> {
    let Model { encoder, engine, .. } = model;
    let (prompts, encoded) = byte_queue(encoded_bytes);
    let encode = tokio::task::spawn_blocking({
        let (outcomes, progress) = (outcomes.clone(), Arc::clone(&progress));
        let runtime = Handle::current();
        move || encode::run(encoder, prepared, &prompts, &outcomes, &progress, &runtime)
    });
    let generate =
        tokio::task::spawn_blocking(move || generate::run(engine, encoded, &outcomes, &progress));
    vec![("encode", encode), ("generate", generate)]
}

/// Starts what makes embeddings of prepared rows.
fn start_embedding(
    embedder: Embedder,
    prepared: ByteReceiver<PreparedRow>,
    outcomes: Outcomes,
    progress: Arc<Progress>,
) -> Vec<Running> {
    let embed =
        tokio::task::spawn_blocking(move || embed::run(embedder, prepared, &outcomes, &progress));
    vec![("embed", embed)]
}

/// Returns the folders that media cells with a path may lead to; those that are not there allow
/// nothing.
fn media_dirs(plan: &RunPlan, options: &RunOptions) -> Vec<PathBuf> {
    let dirs = plan.job.source.media_dirs.iter();
    dirs.filter_map(|dir| options.base_dir.join(dir).canonicalize().ok()).collect()
}
