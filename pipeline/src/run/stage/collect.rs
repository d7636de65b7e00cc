//! Restores the input order of each span's outcomes and commits complete spans.

mod open_spans;
mod rows;
mod settled;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use arrow::{
    array::{RecordBatch, UInt64Array},
    compute::take_record_batch,
    error::ArrowError,
};
use legenda_schemas::{
    cause::Cause,
    job::{RejectsMode, TaskKind},
    ledger::{LEDGER_VERSION, LedgerEntry, Manifest},
    span::Span,
    table::AnswerKind,
};
use tokio::{sync::mpsc, task::JoinError};

use self::{
    open_spans::{Changes, OpenSpan, OpenSpans, Settled},
    rows::Answers,
};
use super::{
    Outcome, OutstandingSpan, Retry, RowKey, Stage,
    answer::{Answer, Origin},
    reread::RereadError,
};
use crate::{
    base::store::WriteError,
    input::source::{SourceFailed, TableFile, partitions},
    output::{
        ledger::{Output, Rows, around},
        sidecar::{self, FileAnswer},
    },
    run::{
        metrics::{Progress, traced},
        plan::RunPlan,
        prediction::SettledRow,
        reuse::AnswerCache,
        stop::Stop,
    },
};

/// An error that prevents further commits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The source cannot be read again.
    #[error(transparent)]
    Source(#[from] SourceFailed),
    /// A commit panicked: a bug in this program.
    #[error("failed to commit span `{span}`")]
    Panic {
        /// The span.
        span: String,
        /// The panic.
        source: JoinError,
    },
    /// The rows of a span cannot be built: a bug in this program.
    #[error("failed to build the part of span `{span}`")]
    Build {
        /// The span.
        span: String,
        /// The cause.
        source: Cause,
    },
}

/// How often `collect` checks whether the grace period is over.
const STOP_POLL: Duration = Duration::from_millis(50);

/// The spans that a run has committed.
#[derive(Debug)]
pub(crate) struct Collected {
    /// The entries of the committed spans.
    pub entries: Vec<LedgerEntry>,
    /// Whether every started span was completed.
    pub is_whole: bool,
}

/// The collect stage.
pub(crate) struct Collector {
    /// The run.
    pub plan: Arc<RunPlan>,
    /// The kind of the answers.
    pub answers: AnswerKind,
    /// The manifest as written to the output.
    pub ledger: Manifest,
    /// The outstanding spans.
    pub spans: Arc<[OutstandingSpan]>,
    /// The output.
    pub output: Arc<Output>,
    /// The counters.
    pub progress: Arc<Progress>,
    /// Stopped when the error budget is exceeded.
    pub stop: Arc<Stop>,
    /// The maximum number of rejects, including earlier runs.
    pub rejects_max: u64,
    /// The number of rejects in earlier runs.
    pub rejects_before: u64,
    /// The answer cache, if an answer can be used twice.
    pub answer_cache: Option<Arc<AnswerCache>>,
    /// The maximum bytes of rows that are read again at a time: original rows of rejects, or carried
    /// columns.
    pub reread_bytes_max: u64,
}

impl Collector {
    /// Processes outcomes until every earlier stage has ended or the grace period is over; returns the
    /// committed spans. The settled rows of incomplete spans are committed as spans of their own; their
    /// other rows stay outstanding.
    ///
    /// # Errors
    ///
    /// [`CollectError`].
    pub(crate) async fn run(
        self,
        mut outcomes: mpsc::Receiver<Outcome>,
    ) -> Result<Collected, CollectError> {
        let this = Arc::new(self);
        let mut spans = OpenSpans::default();
        let mut committed = Vec::new();
        while let Some(outcome) = this.next(&mut outcomes).await {
            for span_idx in this.take(&mut spans, outcome) {
                let Some(span) = spans.close(span_idx) else { continue };
                let work = Arc::clone(&this);
                let id = this.spans[span_idx].id.to_string();
                committed.push(
                    blocking(&id, move || {
                        let entry = work.commit_traced(&work.spans[span_idx], &span)?;
                        work.keep_answers(span_idx, &span);
                        Ok(entry)
                    })
                    .await?,
                );
            }
        }
        let unfinished = spans.into_unfinished();
        let is_whole = unfinished.is_empty();
        committed.extend(blocking("unfinished", move || this.commit_settled(&unfinished)).await?);
        Ok(Collected { entries: committed, is_whole })
    }

    /// Waits for an outcome; returns `None` after the grace period.
    async fn next(&self, outcomes: &mut mpsc::Receiver<Outcome>) -> Option<Outcome> {
        loop {
            if let Ok(outcome) = tokio::time::timeout(STOP_POLL, outcomes.recv()).await {
                return outcome;
            }
            if self.stop.is_over() {
                return None;
            }
        }
    }

    /// Processes an outcome; returns the spans it completes. A row also settles the duplicates that wait
    /// for its answer.
    fn take(&self, spans: &mut OpenSpans, outcome: Outcome) -> Vec<usize> {
        let Changes { settled, whole } = match outcome {
            Outcome::Opened { span_idx, rows, permit } => {
                let n_rows = rows.len();
                spans.open(span_idx, rows, permit, || self.trace(span_idx, n_rows))
            }
            Outcome::Read { first, n_rows, carried } => spans.read(first, n_rows, carried),
            Outcome::Answered { key, input_sha256, answer, origin } => {
                let answer = match self.plan.job.task.kind {
                    TaskKind::Transcribe => answer.as_transcript(),
                    _ => answer,
                };
                let settled = Settled::Answered { input_sha256, answer, origin };
                spans.settle(key, &settled, &self.duplicates(key, &settled))
            }
            Outcome::Rejected { key, reject } => {
                let settled = Settled::Rejected(reject);
                spans.settle(key, &settled, &self.duplicates(key, &settled))
            }
        };
        for (span_idx, settled) in &settled {
            self.count(*span_idx, settled);
        }
        whole
    }

    /// Returns the rows that wait for the answer of a settled row.
    fn duplicates(&self, key: RowKey, settled: &Settled) -> Vec<RowKey> {
        let Some(cache) = &self.answer_cache else { return Vec::new() };
        // A damaged row says nothing about its duplicates, and if the model has already received the row,
        // its answer still arrives.
        if settled.reject().is_some_and(|reject| reject.stage == Stage::Scan) {
            return Vec::new();
        }
        cache.settle(key, settled.shared_answer())
    }

    fn count(&self, span_idx: usize, settled: &Settled) {
        let progress = &self.progress;
        match settled {
            Settled::Answered { origin, .. } => {
                progress.answers.fetch_add(1, Relaxed);
                if let Some(text) = settled.answer().and_then(Answer::text) {
                    progress.latest.note(text);
                }
                match origin {
                    Origin::Model => 0,
                    Origin::Duplicate => progress.rows_repeated.fetch_add(1, Relaxed),
                    Origin::Store => progress.rows_reused.fetch_add(1, Relaxed),
                };
            }
            Settled::Rejected(reject) => {
                let rejects = progress.rejects.fetch_add(1, Relaxed) + 1;
                if self.rejects_before + rejects > self.rejects_max {
                    self.stop.spend_error_budget();
                }
                tracing::debug!(code = reject.code, span = span_idx, "row rejected");
            }
        }
        let tokens_prompt = settled.answer().map_or(0, Answer::tokens_prompt);
        let tokens_generated = settled.answer().map_or(0, Answer::tokens_generated);
        let (prompt_counter, answer_counter) = if settled.computed().is_some() {
            (&progress.tokens_prompt, &progress.tokens_generated)
        } else {
            (&progress.tokens_prompt_spared, &progress.tokens_generated_spared)
        };
        prompt_counter.fetch_add(tokens_prompt, Relaxed);
        answer_counter.fetch_add(tokens_generated, Relaxed);
        if let Some(rows) = &progress.settled {
            let is_rejected = settled.answer().is_none();
            let at = Instant::now();
            rows.note(SettledRow { at, span_idx, is_rejected, tokens_prompt, tokens_generated });
        }
    }

    /// Returns the trace span of a started span.
    fn trace(&self, span_idx: usize, n_rows: usize) -> tracing::Span {
        let OutstandingSpan { span, id, .. } = &self.spans[span_idx];
        let (answers, rejects) = (tracing::field::Empty, tracing::field::Empty);
        let (file, row_group) = (span.object.path.as_str(), traced(span.row_group));
        tracing::info_span!("span", %id, file, row_group, rows = traced(n_rows), answers, rejects)
    }

    /// Commits a complete span and records the counts in its trace.
    fn commit_traced(
        &self,
        outstanding: &OutstandingSpan,
        span: &OpenSpan,
    ) -> Result<LedgerEntry, CollectError> {
        let trace = tracing::info_span!(parent: &span.trace, "commit");
        let entry = trace.in_scope(|| self.commit(outstanding, span))?;
        span.trace
            .record("answers", traced(entry.answers))
            .record("rejects", traced(entry.n_rejects()));
        self.progress.committed(&entry);
        Ok(entry)
    }

    /// Commits the settled rows of incomplete spans when a run ends early.
    fn commit_settled(&self, open: &[(usize, OpenSpan)]) -> Result<Vec<LedgerEntry>, CollectError> {
        let fingerprint = &self.ledger.fingerprint;
        let mut pieces = Vec::new();
        for (span_idx, span) in open {
            let outstanding = &self.spans[*span_idx];
            pieces.extend(settled::pieces(outstanding, span, fingerprint));
        }
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        // The manifest is written first, so that it names every span in the ledger.
        let new = pieces.iter().filter(|(piece, _)| piece.retry.is_none());
        let spans = around(&self.ledger.spans, new.map(|(piece, _)| &piece.span));
        self.output.write_plan(&Manifest { spans, ..self.ledger.clone() })?;
        let commit = |(piece, rows): &(OutstandingSpan, OpenSpan)| self.commit_traced(piece, rows);
        let entries = pieces.iter().map(commit).collect::<Result<_, _>>()?;
        open.iter().for_each(|(span_idx, span)| self.keep_answers(*span_idx, span));
        Ok(entries)
    }

    /// Keeps the answers of a committed span if an answer can be used twice.
    fn keep_answers(&self, span_idx: usize, span: &OpenSpan) {
        let Some(cache) = &self.answer_cache else { return };
        let settled = span.settled.iter().enumerate();
        cache.keep(settled.map(|(row_idx, settled)| {
            let answer = settled.as_ref().and_then(Settled::computed);
            (RowKey { span_idx, row_idx }, answer)
        }));
    }

    /// Writes the files of a complete span, then its ledger entry.
    fn commit(
        &self,
        OutstandingSpan { span: place, id, file_number, retry }: &OutstandingSpan,
        span: &OpenSpan,
    ) -> Result<LedgerEntry, CollectError> {
        let build_error = |source: Cause| CollectError::Build { span: id.to_string(), source };
        let failed = |error: RereadError| match error {
            RereadError::Source(failed) => failed.into(),
            RereadError::Arrow(error) => build_error(error.into()),
        };
        let mut entry = LedgerEntry {
            version: LEDGER_VERSION,
            id: id.clone(),
            span: place.clone(),
            rows_in: span.rows.len() as u64,
            answers: 0,
            rejects: BTreeMap::new(),
            tokens_generated: 0,
            parts: Vec::new(),
            rejects_file: None,
            retries: retry.as_ref().map_or(0, |retry| retry.earlier.retries + 1),
            before: None,
        };
        for settled in span.settled.iter().flatten() {
            match settled {
                Settled::Answered { answer, .. } => {
                    entry.answers += 1;
                    entry.tokens_generated += answer.tokens_generated();
                }
                Settled::Rejected(reject) => {
                    *entry.rejects.entry(reject.code.to_owned()).or_default() += 1;
                }
            }
        }
        if !entry.balances() {
            let counts = format!("{} of {} rows settled", span.n_settled, entry.rows_in);
            return Err(build_error(counts.into()));
        }
        let separate = self.plan.job.output.rejects == RejectsMode::Separate;
        let mut rejects = (separate && entry.n_rejects() > 0)
            .then(|| self.rejects(place, span))
            .transpose()
            .map_err(failed)?;
        let mut rewritten = None;
        if let Some(retry) = retry {
            let all = if separate {
                None
            } else {
                Answers::new(self, place, span).all().map_err(failed)?
            };
            let again = if separate { rejects.as_ref() } else { all.as_ref() };
            let settled = settle_again(&mut entry, retry, again);
            let rows = settled.map_err(|error| build_error(error.into()))?;
            if entry.answers == retry.earlier.answers && entry.rejects == retry.earlier.rejects {
                return Ok(retry.earlier.clone());
            }
            if separate {
                rejects = (rows.num_rows() > 0).then_some(rows);
            } else {
                rewritten = Some((rows, &retry.earlier));
            }
        }
        let bytes = |batch: &RecordBatch| -> Result<Rows, CollectError> {
            let rows = Rows::new(self.plan.job.output.format, batch);
            let rows = rows.map_err(|error| build_error(error.into()))?;
            self.progress.output_bytes.fetch_add(rows.bytes.len() as u64, Relaxed);
            Ok(rows)
        };
        let note = self.plan.job.output.sidecars.as_ref().map(|sidecars| {
            let answers = self.answers_of_files(place, span);
            sidecar::note(sidecars, &entry, answers.into_iter())
        });
        if let Some(note) = &note {
            note.write(&self.output)?;
        }
        match rewritten {
            Some((rows, earlier)) => {
                self.output.rewrite_part(&mut entry, earlier, bytes(&rows)?)?;
            }
            None => {
                let mut answers = Answers::new(self, place, span);
                while let Some(rows) = answers.next().map_err(failed)? {
                    let Some(column) = &self.plan.job.output.partition_by else {
                        entry.parts.push(self.output.write_part(
                            &entry,
                            *file_number,
                            "",
                            bytes(&rows)?,
                        )?);
                        continue;
                    };
                    let folders = partitions::folders(&rows, column);
                    for (folder, folder_rows) in
                        folders.map_err(|error| build_error(error.into()))?
                    {
                        let part = without_column(&rows, column, &folder_rows);
                        let part = bytes(&part.map_err(|error| build_error(error.into()))?)?;
                        entry.parts.push(self.output.write_part(
                            &entry,
                            *file_number,
                            &folder,
                            part,
                        )?);
                    }
                }
            }
        }
        if let Some(rejects) = rejects {
            entry.rejects_file =
                Some(self.output.write_rejects(&entry, *file_number, bytes(&rejects)?)?);
        }
        self.output.commit(&entry, retry.as_ref().map(|retry| &retry.earlier))?;
        if let Some(note) = note {
            note.replay(&self.output)?;
        }
        Ok(entry)
    }

    /// Returns the answered media files of a span, with their answers.
    fn answers_of_files<'a>(&'a self, place: &Span, span: &'a OpenSpan) -> Vec<FileAnswer<'a>> {
        let files = self.plan.table.file(&place.object.path).map_or(&[][..], TableFile::media);
        let rows = span.rows.iter().zip(&span.settled);
        rows.filter_map(|(row, settled)| match settled {
            Some(Settled::Answered { answer, .. }) => {
                let path = files.get(*row)?.path.as_str();
                let root = self.plan.roots.root_of(Path::new(path));
                Some(FileAnswer { path, root, text: answer.text()?, flags: &answer.flags })
            }
            _ => None,
        })
        .collect()
    }
}

/// Runs blocking I/O off the async threads.
async fn blocking<T: Send + 'static>(
    span: &str,
    work: impl FnOnce() -> Result<T, CollectError> + Send + 'static,
) -> Result<T, CollectError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| CollectError::Panic { span: span.to_owned(), source })?
}

/// Takes `rows` of a batch without a column that is encoded in the folder name.
fn without_column(
    batch: &RecordBatch,
    column: &str,
    rows: &UInt64Array,
) -> Result<RecordBatch, ArrowError> {
    let mut left = batch.clone();
    left.remove_column(batch.schema().index_of(column)?);
    take_record_batch(&left, rows)
}

/// Merges the results of a retry into the span's entry; returns the rows of its reject file. `again`
/// are the rows in the form expected by [`Rejects::settle`].
///
/// [`Rejects::settle`]: crate::run::retry::Rejects::settle
fn settle_again(
    entry: &mut LedgerEntry,
    retry: &Retry,
    again: Option<&RecordBatch>,
) -> Result<RecordBatch, ArrowError> {
    let Retry { earlier, rejects, rows } = retry;
    let retried: Vec<u64> = rows.iter().map(|row| earlier.span.file_row(*row)).collect();
    let (rows, counts) = rejects.settle(&retried, again)?;
    entry.rows_in = earlier.rows_in;
    entry.answers += earlier.answers;
    entry.rejects = counts;
    entry.tokens_generated += earlier.tokens_generated;
    entry.parts.clone_from(&earlier.parts);
    Ok(rows)
}
