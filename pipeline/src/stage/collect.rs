//! Puts the outcomes of each span back into input order and commits the span when it is whole.

mod rows;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use arrow::{array::RecordBatch, error::ArrowError};
use legenda_schemas::{
    job::RejectsPlace,
    ledger::{LEDGER_VERSION, LedgerEntry},
    span::Span,
    table::AnswerKind,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use self::rows::Answers;
use super::{
    Outcome, OutstandingSpan, Reject, Retry, RowKey, again::AgainError, answer::Answer,
    carry::RowsRead,
};
use crate::{
    ledger::{Output, Rows},
    metrics::Progress,
    plan::RunPlan,
    predict::SettledRow,
    run::Stop,
    sidecar,
    source::{SourceFailed, TableFile},
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
enum Settled {
    Answered { input_sha256: String, answer: Answer },
    Rejected(Reject),
}

impl Settled {
    fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answered { answer, .. } => Some(answer),
            Self::Rejected(_) => None,
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
    _permit: OwnedSemaphorePermit,
}

/// The stage.
pub struct Collector {
    /// The run.
    pub plan: Arc<RunPlan>,
    /// What the answers are.
    pub answers: AnswerKind,
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
    /// The most bytes that rows may have that are read again at a time: the original rows of the
    /// rejects of a span, or what is carried to its answers.
    pub again_bytes_max: u64,
}

impl Collector {
    /// Takes outcomes until every earlier stage has ended; returns the committed spans. Spans that
    /// are not whole by then stay outstanding.
    ///
    /// # Errors
    ///
    /// [`CollectError`].
    pub async fn run(
        self,
        mut outcomes: mpsc::Receiver<Outcome>,
    ) -> Result<Vec<LedgerEntry>, CollectError> {
        let this = Arc::new(self);
        let mut open: HashMap<usize, OpenSpan> = HashMap::new();
        let mut committed = Vec::new();
        while let Some(outcome) = outcomes.recv().await {
            let Some(span_idx) = this.take(&mut open, outcome) else { continue };
            if let Some(span) = open.remove(&span_idx) {
                let this = Arc::clone(&this);
                let entry = tokio::task::spawn_blocking(move || this.commit(span_idx, &span));
                let entry = entry.await.map_err(|error| CollectError::Build {
                    span: "unknown".to_owned(),
                    problem: error.to_string(),
                })??;
                committed.push(entry);
            }
        }
        Ok(committed)
    }

    /// Takes an outcome in; returns the span that it made whole, if any.
    fn take(&self, open: &mut HashMap<usize, OpenSpan>, outcome: Outcome) -> Option<usize> {
        // A row whose parts fail one after another is settled by the first.
        if let Outcome::Answered { key, .. } | Outcome::Rejected { key, .. } = &outcome {
            let span = open.get(&key.span_idx)?;
            if span.settled.get(key.row_idx).is_none_or(Option::is_some) {
                return None;
            }
        }
        let (key, settled) = match outcome {
            Outcome::Opened { span_idx, rows, permit } => {
                let n_rows = rows.len();
                let span = OpenSpan {
                    rows,
                    settled: std::iter::repeat_with(|| None).take(n_rows).collect(),
                    n_settled: 0,
                    rows_read: Vec::new(),
                    _permit: permit,
                };
                open.insert(span_idx, span);
                return (n_rows == 0).then_some(span_idx);
            }
            Outcome::Read { first, n_rows, carried } => {
                let rows_read = &mut open.get_mut(&first.span_idx)?.rows_read;
                // Where some are read again all are, so there is no use in keeping others.
                let is_kept = |rows: &RowsRead| rows.carried.is_some();
                let carried = carried.filter(|_| rows_read.iter().all(is_kept));
                if carried.is_none() {
                    rows_read.iter_mut().for_each(|rows| rows.carried = None);
                }
                rows_read.push(RowsRead { first: first.row_idx, n_rows, carried });
                return None;
            }
            Outcome::Answered { key, input_sha256, answer } => {
                self.progress.answers.fetch_add(1, Relaxed);
                let (prompt, generated) = (answer.tokens_prompt(), answer.tokens_generated());
                self.progress.tokens_prompt.fetch_add(prompt, Relaxed);
                self.progress.tokens_generated.fetch_add(generated, Relaxed);
                (key, Settled::Answered { input_sha256, answer })
            }
            Outcome::Rejected { key, reject } => {
                let rejects = self.progress.rejects.fetch_add(1, Relaxed) + 1;
                if self.rejects_before + rejects > self.rejects_max {
                    self.stop.spend_error_budget();
                }
                tracing::debug!(code = reject.code, row = key.row_idx, "row rejected");
                (key, Settled::Rejected(reject))
            }
        };
        let RowKey { span_idx, row_idx } = key;
        self.note_settled(span_idx, &settled);
        let span = open.get_mut(&span_idx)?;
        let place = span.settled.get_mut(row_idx)?;
        if place.replace(settled).is_none() {
            span.n_settled += 1;
        }
        (span.n_settled == span.rows.len()).then_some(span_idx)
    }

    fn note_settled(&self, span_idx: usize, settled: &Settled) {
        let Some(rows) = &self.progress.settled else { return };
        let answer = settled.answer();
        rows.note(SettledRow {
            at: Instant::now(),
            span_idx,
            is_rejected: answer.is_none(),
            tokens_prompt: answer.map_or(0, Answer::tokens_prompt),
            tokens_generated: answer.map_or(0, Answer::tokens_generated),
        });
    }

    /// Writes the files of a whole span, then its ledger entry.
    fn commit(&self, span_idx: usize, span: &OpenSpan) -> Result<LedgerEntry, CollectError> {
        let OutstandingSpan { span: place, id, retry } = &self.spans[span_idx];
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
                    entry.parts.push(self.output.write_part(&entry, bytes(&rows)?)?);
                }
            }
        }
        if let Some(rejects) = rejects {
            entry.rejects_file = Some(self.output.write_rejects(&entry, bytes(&rejects)?)?);
        }
        self.output.commit(&entry, retry.as_ref().map(|retry| &retry.earlier))?;
        if let Some(note) = note {
            note.work_off(&self.output)?;
        }
        Ok(entry)
    }

    /// Returns the files of a span that are answered, and their answers.
    fn answers_of_files<'a>(&'a self, place: &Span, span: &'a OpenSpan) -> Vec<(&'a str, &'a str)> {
        let files = self.plan.table.file(&place.object.path).map_or(&[][..], TableFile::media);
        let rows = span.rows.iter().zip(&span.settled);
        rows.filter_map(|(row, settled)| match settled {
            Some(Settled::Answered { answer, .. }) => {
                Some((files.get(*row)?.path.as_str(), answer.text()?))
            }
            _ => None,
        })
        .collect()
    }
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
