//! Puts the outcomes of each span back into input order and commits the span when it is whole.

mod rows;
mod settled;

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    ops::Range,
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
    job::{RejectsPlace, TaskKind},
    ledger::{LEDGER_VERSION, LedgerEntry, Plan},
    span::Span,
    table::AnswerKind,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use self::rows::Answers;
use super::{
    Outcome, OutstandingSpan, Reject, Retry, RowKey, Stage,
    again::AgainError,
    answer::{Answer, Origin},
    carry::RowsRead,
};
use crate::{
    ledger::{Output, Rows, around},
    metrics::{Progress, traced},
    plan::RunPlan,
    predict::SettledRow,
    reuse::Known,
    sidecar::{self, FileAnswer},
    source::{SourceFailed, TableFile, partitions},
    stop::Stop,
    store::WriteError,
};

/// Why spans can no longer be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The source cannot be read again.
    #[error(transparent)]
    Source(#[from] SourceFailed),
    /// Committing a span panicked: a fault of this program.
    #[error("committing a span failed: {0}; please report this")]
    Panic(String),
    /// The rows of a span cannot be put together: a fault of this program.
    #[error("cannot build the part of `{span}`: {problem}; please report this")]
    Build {
        /// The span.
        span: String,
        /// What is wrong.
        problem: String,
    },
}

/// What became of a row.
#[derive(Clone)]
enum Settled {
    Answered { input_sha256: String, answer: Arc<Answer>, origin: Origin },
    Rejected(Reject),
}

impl Settled {
    fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answered { answer, .. } => Some(answer),
            Self::Rejected(_) => None,
        }
    }

    /// Returns the answer where the model has computed it for this row.
    fn computed(&self) -> Option<&Answer> {
        match self {
            Self::Answered { answer, origin: Origin::Model, .. } => Some(answer),
            _ => None,
        }
    }

    /// Returns what becomes of a row with the same input.
    fn of_twin(&self) -> Self {
        match self.clone() {
            Self::Answered { input_sha256, answer, .. } => {
                Self::Answered { input_sha256, answer, origin: Origin::Twin }
            }
            rejected => rejected,
        }
    }

    fn reject(&self) -> Option<&Reject> {
        match self {
            Self::Answered { .. } => None,
            Self::Rejected(reject) => Some(reject),
        }
    }
}

/// A span whose rows are on their way.
struct OpenSpan {
    /// The rows that are read, as positions within the row group.
    rows: Vec<usize>,
    settled: Vec<Option<Settled>>,
    n_settled: usize,
    /// The rows that were read so far.
    rows_read: Vec<RowsRead>,
    /// Of each row, whether it was read, or cannot be.
    is_read: Vec<bool>,
    /// What traces show of it.
    trace: tracing::Span,
    /// Given back with the span; none of a piece of one.
    permit: Option<OwnedSemaphorePermit>,
}

impl OpenSpan {
    /// Returns whether every row is settled, and what is carried to it is known: a row that has waited for
    /// another may be settled first.
    fn is_whole(&self) -> bool {
        self.n_settled == self.rows.len() && self.is_read.iter().all(|is_read| *is_read)
    }

    fn note_read(&mut self, rows: Range<usize>) {
        for is_read in self.is_read.get_mut(rows).into_iter().flatten() {
            *is_read = true;
        }
    }
}

/// How often `collect` looks whether the grace of a stop is over.
const STOP_POLL: Duration = Duration::from_millis(50);

/// What a run has committed.
#[derive(Debug)]
pub struct Collected {
    /// The entries of the spans.
    pub entries: Vec<LedgerEntry>,
    /// Whether no span was left that had begun.
    pub is_whole: bool,
}

/// The spans whose rows are on their way.
#[derive(Default)]
struct OpenSpans {
    open: HashMap<usize, OpenSpan>,
    /// Rows that were settled with others before it was told that their span is begun.
    early: HashMap<usize, Vec<(RowKey, Settled)>>,
}

/// The stage.
pub struct Collector {
    /// The run.
    pub plan: Arc<RunPlan>,
    /// What the answers are.
    pub answers: AnswerKind,
    /// The plan, as it was written down.
    pub ledger: Plan,
    /// What is to be done.
    pub spans: Arc<[OutstandingSpan]>,
    /// Where it goes.
    pub output: Arc<Output>,
    /// The counters.
    pub progress: Arc<Progress>,
    /// Asked to stop when the error budget is spent.
    pub stop: Arc<Stop>,
    /// How many rows may be rejected, earlier runs included.
    pub rejects_max: u64,
    /// How many rows earlier runs rejected.
    pub rejects_before: u64,
    /// What is known of answers, where one may be used twice.
    pub known: Option<Arc<Known>>,
    /// The most bytes that rows may have that are read again at a time: the original rows of the
    /// rejects of a span, or what is carried to its answers.
    pub again_bytes_max: u64,
}

impl Collector {
    /// Takes outcomes until every earlier stage has ended, or the grace of a stop is over; returns the
    /// committed spans. Of spans that are not whole by then the rows that are settled are committed as
    /// spans of their own; the others stay outstanding.
    ///
    /// # Errors
    ///
    /// [`CollectError`].
    pub async fn run(
        self,
        mut outcomes: mpsc::Receiver<Outcome>,
    ) -> Result<Collected, CollectError> {
        let this = Arc::new(self);
        let mut spans = OpenSpans::default();
        let mut committed = Vec::new();
        while let Some(outcome) = this.next(&mut outcomes).await {
            for span_idx in this.take(&mut spans, outcome) {
                let Some(span) = spans.open.remove(&span_idx) else { continue };
                let work = Arc::clone(&this);
                committed.push(
                    blocking(move || {
                        let entry = work.commit_traced(&work.spans[span_idx], &span)?;
                        work.keep_answers(span_idx, &span);
                        Ok(entry)
                    })
                    .await?,
                );
            }
        }
        let is_whole = spans.open.is_empty();
        committed.extend(blocking(move || this.commit_settled(spans.open)).await?);
        Ok(Collected { entries: committed, is_whole })
    }

    /// Waits for an outcome; none comes after the grace of a stop.
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

    /// Takes an outcome in; returns the spans that it made whole: with a row those are settled that have
    /// waited for its answer.
    fn take(&self, spans: &mut OpenSpans, outcome: Outcome) -> Vec<usize> {
        let (key, settled) = match outcome {
            Outcome::Opened { span_idx, rows, permit } => {
                let n_rows = rows.len();
                match spans.open.entry(span_idx) {
                    // It is read once more from its start. What is settled stays: a row that has waited
                    // for another is not settled twice.
                    Entry::Occupied(mut span) => {
                        let span = span.get_mut();
                        span.rows_read.clear();
                        span.is_read.fill(false);
                        span.permit = Some(permit);
                    }
                    Entry::Vacant(place) => {
                        place.insert(OpenSpan {
                            rows,
                            settled: std::iter::repeat_with(|| None).take(n_rows).collect(),
                            n_settled: 0,
                            rows_read: Vec::new(),
                            is_read: vec![false; n_rows],
                            trace: self.trace(span_idx, n_rows),
                            permit: Some(permit),
                        });
                    }
                }
                let early = spans.early.remove(&span_idx).unwrap_or_default().into_iter();
                let settled = early.filter_map(|(key, settled)| self.settle(spans, key, settled));
                return settled.chain((n_rows == 0).then_some(span_idx)).collect();
            }
            Outcome::Read { first, n_rows, carried } => {
                let Some(span) = spans.open.get_mut(&first.span_idx) else { return Vec::new() };
                let rows_read = &mut span.rows_read;
                // Where some are read again all are, so there is no use in keeping others.
                let is_kept = |rows: &RowsRead| rows.carried.is_some();
                let carried = carried.filter(|_| rows_read.iter().all(is_kept));
                if carried.is_none() {
                    rows_read.iter_mut().for_each(|rows| rows.carried = None);
                }
                rows_read.push(RowsRead { first: first.row_idx, n_rows, carried });
                span.note_read(first.row_idx..first.row_idx + n_rows);
                return span.is_whole().then_some(first.span_idx).into_iter().collect();
            }
            Outcome::Answered { key, input_sha256, answer, origin } => {
                let answer = match self.plan.job.task.kind {
                    TaskKind::Transcribe => answer.as_transcript(),
                    _ => answer,
                };
                (key, Settled::Answered { input_sha256, answer, origin })
            }
            Outcome::Rejected { key, reject } => (key, Settled::Rejected(reject)),
        };
        let twins = match (&self.known, &settled) {
            (None, _) => Vec::new(),
            // What is wrong with the table is not wrong with rows elsewhere, and if the model has the row
            // its answer comes yet.
            (_, Settled::Rejected(reject)) if reject.stage == Stage::Scan => Vec::new(),
            (Some(known), Settled::Rejected(_)) => known.settle(key, None),
            (Some(known), Settled::Answered { answer, .. }) => known.settle(key, Some(answer)),
        };
        let mut whole = Vec::new();
        for twin in twins {
            if spans.open.contains_key(&twin.span_idx) {
                whole.extend(self.settle(spans, twin, settled.of_twin()));
            } else {
                spans.early.entry(twin.span_idx).or_default().push((twin, settled.of_twin()));
            }
        }
        whole.extend(self.settle(spans, key, settled));
        whole
    }

    /// Settles a row; returns its span where that is whole now.
    fn settle(&self, spans: &mut OpenSpans, key: RowKey, settled: Settled) -> Option<usize> {
        let RowKey { span_idx, row_idx } = key;
        let span = spans.open.get_mut(&span_idx)?;
        if settled.reject().is_some_and(|reject| reject.stage == Stage::Scan) {
            span.note_read(row_idx..row_idx + 1);
        }
        let place = span.settled.get_mut(row_idx)?;
        // A row whose parts fail one after another is settled by the first.
        if place.is_none() {
            self.count(span_idx, &settled);
            *place = Some(settled);
            span.n_settled += 1;
        }
        span.is_whole().then_some(span_idx)
    }

    fn count(&self, span_idx: usize, settled: &Settled) {
        let progress = &self.progress;
        match settled {
            Settled::Answered { origin, .. } => {
                progress.answers.fetch_add(1, Relaxed);
                match origin {
                    Origin::Model => 0,
                    Origin::Twin => progress.rows_repeated.fetch_add(1, Relaxed),
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
        let (of_prompts, of_answers) = if settled.computed().is_some() {
            (&progress.tokens_prompt, &progress.tokens_generated)
        } else {
            (&progress.tokens_prompt_spared, &progress.tokens_generated_spared)
        };
        of_prompts.fetch_add(tokens_prompt, Relaxed);
        of_answers.fetch_add(tokens_generated, Relaxed);
        if let Some(rows) = &progress.settled {
            let is_rejected = settled.answer().is_none();
            let at = Instant::now();
            rows.note(SettledRow { at, span_idx, is_rejected, tokens_prompt, tokens_generated });
        }
    }

    /// Returns what traces show of a span of the table that is begun.
    fn trace(&self, span_idx: usize, n_rows: usize) -> tracing::Span {
        let OutstandingSpan { span, id, .. } = &self.spans[span_idx];
        let (answers, rejects) = (tracing::field::Empty, tracing::field::Empty);
        let (file, row_group) = (span.object.path.as_str(), traced(span.row_group));
        tracing::info_span!("span", %id, file, row_group, rows = traced(n_rows), answers, rejects)
    }

    /// Commits a whole span, and tells traces of it.
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
        Ok(entry)
    }

    /// Commits the settled rows of spans that are not whole, when a run ends early.
    fn commit_settled(
        &self,
        open: HashMap<usize, OpenSpan>,
    ) -> Result<Vec<LedgerEntry>, CollectError> {
        let mut open: Vec<(usize, OpenSpan)> = open.into_iter().collect();
        open.sort_unstable_by_key(|(span_idx, _)| *span_idx);
        let fingerprint = &self.ledger.fingerprint;
        let mut pieces = Vec::new();
        for (span_idx, span) in &open {
            let outstanding = &self.spans[*span_idx];
            pieces.extend(settled::pieces(outstanding, span, fingerprint));
        }
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        // The plan goes first, so that it names every span that the ledger has.
        let new = pieces.iter().filter(|(piece, _)| piece.retry.is_none());
        let spans = around(&self.ledger.spans, new.map(|(piece, _)| &piece.span));
        self.output.write_plan(&Plan { spans, ..self.ledger.clone() })?;
        let commit = |(piece, rows): &(OutstandingSpan, OpenSpan)| self.commit_traced(piece, rows);
        let entries = pieces.iter().map(commit).collect::<Result<_, _>>()?;
        open.iter().for_each(|(span_idx, span)| self.keep_answers(*span_idx, span));
        Ok(entries)
    }

    /// Keeps the answers of a committed span where one may be used twice.
    fn keep_answers(&self, span_idx: usize, span: &OpenSpan) {
        let Some(known) = &self.known else { return };
        let settled = span.settled.iter().enumerate();
        known.keep(settled.map(|(row_idx, settled)| {
            let answer = settled.as_ref().and_then(Settled::computed);
            (RowKey { span_idx, row_idx }, answer)
        }));
    }

    /// Writes the files of a whole span, then its ledger entry.
    fn commit(
        &self,
        OutstandingSpan { span: place, id, file_number, retry }: &OutstandingSpan,
        span: &OpenSpan,
    ) -> Result<LedgerEntry, CollectError> {
        let build_error = |error: &dyn std::fmt::Display| CollectError::Build {
            span: id.to_string(),
            problem: error.to_string(),
        };
        let failed = |error: AgainError| match error {
            AgainError::Source(failed) => failed.into(),
            AgainError::Arrow(error) => build_error(&error),
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
            return Err(build_error(&counts));
        }
        let separate = self.plan.job.output.rejects == RejectsPlace::Separate;
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
            let rows = settled.map_err(|error| build_error(&error))?;
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
            let rows = rows.map_err(|error| build_error(&error))?;
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
                    for (folder, of_folder) in folders.map_err(|error| build_error(&error))? {
                        let part = without_column(&rows, column, &of_folder);
                        let part = bytes(&part.map_err(|error| build_error(&error))?)?;
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
            note.work_off(&self.output)?;
        }
        Ok(entry)
    }

    /// Returns the files of a span that are answered, and their answers.
    fn answers_of_files<'a>(&'a self, place: &Span, span: &'a OpenSpan) -> Vec<FileAnswer<'a>> {
        let files = self.plan.table.file(&place.object.path).map_or(&[][..], TableFile::media);
        let rows = span.rows.iter().zip(&span.settled);
        rows.filter_map(|(row, settled)| match settled {
            Some(Settled::Answered { answer, .. }) => {
                let path = files.get(*row)?.path.as_str();
                let root = self.plan.roots.of(Path::new(path));
                Some(FileAnswer { path, root, text: answer.text()?, flags: &answer.flags })
            }
            _ => None,
        })
        .collect()
    }
}

/// Does work that waits for disks and stores.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CollectError> + Send + 'static,
) -> Result<T, CollectError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| CollectError::Panic(error.to_string()))?
}

/// Takes `rows` of a batch, without a column: the folder that they go into names it.
fn without_column(
    batch: &RecordBatch,
    column: &str,
    rows: &UInt64Array,
) -> Result<RecordBatch, ArrowError> {
    let mut left = batch.clone();
    left.remove_column(batch.schema().index_of(column)?);
    take_record_batch(&left, rows)
}

/// Adds what a retry settled to what the span had; returns the rows of the file that has its rejects
/// now, of which `again` were settled again as [`Rejects::settle`] wants them.
///
/// [`Rejects::settle`]: crate::retry::Rejects::settle
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
