//! Puts the outcomes of each span back into input order and commits the span when it is whole.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use arrow::{
    array::{
        ArrayRef, RecordBatch, RecordBatchOptions, StringArray, UInt32Array, UInt64Array,
        new_null_array,
    },
    compute::{concat_batches, take},
    datatypes::{FieldRef, Schema},
    error::ArrowError,
};
use legenda_schemas::{
    job::RejectsPlace,
    ledger::{LEDGER_VERSION, LedgerEntry},
    span::Span,
    table::AnswerKind,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    Outcome, OutstandingSpan, Reject, Retry, RowKey,
    answer::{Answer, answer_columns},
    originals::{Originals, original_rows},
};
use crate::{
    ledger::{Output, Rows},
    metrics::Progress,
    plan::RunPlan,
    predict::SettledRow,
    run::Stop,
    sidecar,
    source::{TableFile, reader::FileReader},
    store::WriteError,
};

/// Why spans can no longer be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
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

/// A span whose rows are on their way.
struct OpenSpan {
    /// The rows that are read, as positions within the row group.
    rows: Vec<usize>,
    settled: Vec<Option<Settled>>,
    n_settled: usize,
    /// Carried columns with the row at which they begin.
    carried: Vec<(usize, RecordBatch)>,
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
    /// The most bytes that the original rows of the rejects of a span may have.
    pub originals_bytes_max: u64,
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
                    carried: Vec::new(),
                    _permit: permit,
                };
                open.insert(span_idx, span);
                return (n_rows == 0).then_some(span_idx);
            }
            Outcome::Carried { first, rows } => {
                open.get_mut(&first.span_idx)?.carried.push((first.row_idx, rows));
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
        let answer = match settled {
            Settled::Answered { answer, .. } => Some(answer),
            Settled::Rejected(_) => None,
        };
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
            .map_err(|error| build_error(&error))?;
        if let Some(retry) = retry {
            let settled = settle_again(&mut entry, retry, rejects.as_ref());
            let staying = settled.map_err(|error| build_error(&error))?;
            if entry.answers == retry.earlier.answers && entry.rejects == retry.earlier.rejects {
                return Ok(retry.earlier.clone());
            }
            rejects = (staying.num_rows() > 0).then_some(staying);
        }
        let bytes = |batch: &RecordBatch| -> Result<Rows, CollectError> {
            let rows = Rows::new(self.plan.job.output.format, batch);
            let rows = rows.map_err(|error| build_error(&error))?;
            self.progress.output_bytes.fetch_add(rows.bytes.len() as u64, Relaxed);
            Ok(rows)
        };
        let answers = self.answers(span).map_err(|error| build_error(&error))?;
        if answers.num_rows() > 0 {
            entry.parts.push(self.output.write_part(&entry, bytes(&answers)?)?);
        }
        if let Some(rejects) = rejects {
            entry.rejects_file = Some(self.output.write_rejects(&entry, bytes(&rejects)?)?);
        }
        let note = self.plan.job.output.sidecars.as_ref().map(|sidecars| {
            let answers = self.answers_of_files(place, span);
            sidecar::note(sidecars, &entry, answers.into_iter())
        });
        if let Some(note) = &note {
            note.write(&self.output)?;
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

    /// Builds the rows of the span's part, in input order.
    fn answers(&self, span: &OpenSpan) -> Result<RecordBatch, ArrowError> {
        let inline = self.plan.job.output.rejects == RejectsPlace::Inline;
        let rows: Vec<(usize, &Settled)> = span
            .settled
            .iter()
            .enumerate()
            .filter_map(|(row_idx, settled)| Some((row_idx, settled.as_ref()?)))
            .filter(|(_, settled)| inline || matches!(settled, Settled::Answered { .. }))
            .collect();
        let schema = Arc::new(self.plan.answer_schema(self.answers));
        let row_idxs: Vec<usize> = rows.iter().map(|(row_idx, _)| *row_idx).collect();
        let mut columns = self.carried(span, &row_idxs)?;

        let answers: Vec<Option<&Answer>> = rows
            .iter()
            .map(|(_, settled)| match settled {
                Settled::Answered { answer, .. } => Some(answer),
                Settled::Rejected(_) => None,
            })
            .collect();
        columns.extend(answer_columns(self.answers, &answers));
        let digests = rows.iter().map(|(_, settled)| match settled {
            Settled::Answered { input_sha256, .. } => Some(input_sha256.as_str()),
            Settled::Rejected(_) => None,
        });
        columns.push(Arc::new(digests.collect::<StringArray>()));
        if inline {
            let reject = |settled: &&Settled| match settled {
                Settled::Answered { .. } => None,
                Settled::Rejected(reject) => Some(reject.clone()),
            };
            let rejects: Vec<Option<Reject>> =
                rows.iter().map(|(_, settled)| reject(settled)).collect();
            let codes = rejects.iter().map(|reject| reject.as_ref().map(|reject| reject.code));
            columns.push(Arc::new(codes.collect::<StringArray>()));
            let messages =
                rejects.iter().map(|reject| reject.as_ref().map(|reject| reject.message.as_str()));
            columns.push(Arc::new(messages.collect::<StringArray>()));
        }
        RecordBatch::try_new(schema, columns)
    }

    /// Returns the carried columns of some rows; null where a row could not be read.
    fn carried(&self, span: &OpenSpan, row_idxs: &[usize]) -> Result<Vec<ArrayRef>, ArrowError> {
        let fields = &self.plan.carried;
        let mut pieces: Vec<&(usize, RecordBatch)> = span.carried.iter().collect();
        pieces.sort_by_key(|(row_start, _)| *row_start);
        if fields.is_empty() {
            return Ok(Vec::new());
        }
        let Some((_, first)) = pieces.first() else {
            let null = |field: &FieldRef| new_null_array(field.data_type(), row_idxs.len());
            return Ok(fields.iter().map(null).collect());
        };
        let schema = first.schema();
        let whole = concat_batches(&schema, pieces.iter().map(|(_, rows)| rows))?;
        // Rows that could not be read are missing between the pieces.
        let mut places: Vec<(usize, usize, usize)> = Vec::with_capacity(pieces.len());
        let mut place = 0;
        for (row_start, rows) in pieces {
            places.push((*row_start, rows.num_rows(), place));
            place += rows.num_rows();
        }
        let place_of = |row_idx: usize| {
            let after = places.partition_point(|(row_start, ..)| *row_start <= row_idx);
            let (row_start, n_rows, place) = places.get(after.checked_sub(1)?)?;
            let offset = row_idx - row_start;
            u32::try_from(place + offset).ok().filter(|_| offset < *n_rows)
        };
        let positions: UInt32Array = row_idxs.iter().map(|row_idx| place_of(*row_idx)).collect();
        fields
            .iter()
            .map(|field| {
                let column = whole.column(schema.index_of(field.name())?);
                take(column.as_ref(), &positions, None)
            })
            .collect()
    }

    /// Builds the rejects of a span: its original rows, read once more, and why.
    fn rejects(&self, place: &Span, span: &OpenSpan) -> Result<RecordBatch, ArrowError> {
        let rejected: Vec<(usize, &Reject)> = span
            .settled
            .iter()
            .enumerate()
            .filter_map(|(row_idx, settled)| match settled {
                Some(Settled::Rejected(reject)) => Some((row_idx, reject)),
                _ => None,
            })
            .collect();
        let reader = self.plan.table.reader(&place.object).ok().flatten();
        let file_schema =
            reader.as_ref().map_or_else(|| Arc::new(Schema::empty()), FileReader::schema);
        let schema = Arc::new(self.plan.reject_schema(&file_schema));
        let positions: Vec<usize> =
            rejected.iter().map(|(row_idx, _)| span.rows[*row_idx]).collect();
        let bytes_max = self.originals_bytes_max;
        let Originals { rows: originals, left_out } =
            original_rows(reader.as_ref(), place, &positions, &file_schema, bytes_max);

        let mut columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .filter_map(|field| originals.column_by_name(field.name()).cloned())
            .collect();
        let row_start = place.file_row_start;
        let row_numbers =
            positions.iter().map(|position| row_start + (position - place.row_start) as u64);
        columns.truncate(schema.fields().len() - 5);
        columns.push(Arc::new(UInt64Array::from_iter_values(row_numbers)));
        let file = std::iter::repeat_n(place.object.path.as_str(), rejected.len());
        columns.push(Arc::new(StringArray::from_iter_values(file)));
        let told: [&dyn Fn(&Reject) -> String; 3] = [
            &|reject| reject.stage.as_str().to_owned(),
            &|reject| reject.code.to_owned(),
            &|reject| reject.message.clone(),
        ];
        for (tell, left_out) in told.into_iter().zip([None, None, Some(&left_out)]) {
            let values = rejected.iter().enumerate().map(|(idx, (_, reject))| {
                let mut text = tell(reject);
                if left_out.is_some_and(|left_out| left_out[idx]) {
                    text += &format!(
                        "; the row itself is left out here: `limits.memory` leaves {bytes_max} bytes \
                         for the rows of the rejects of a span"
                    );
                }
                text
            });
            columns.push(Arc::new(StringArray::from_iter_values(values)));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rejected.len()));
        RecordBatch::try_new_with_options(schema, columns, &options)
    }
}

/// Adds what a retry settled to what the span had; returns the rejects that it has now, of which
/// `again` are those that were rejected again.
fn settle_again(
    entry: &mut LedgerEntry,
    retry: &Retry,
    again: Option<&RecordBatch>,
) -> Result<RecordBatch, ArrowError> {
    let Retry { earlier, rejects, rows } = retry;
    let span = &earlier.span;
    let retried =
        rows.iter().map(|row| span.file_row_start + (row - span.row_start) as u64).collect();
    let (staying, counts) = rejects.settle(&retried, again)?;
    entry.rows_in = earlier.rows_in;
    entry.answers += earlier.answers;
    entry.rejects = counts;
    entry.tokens_generated += earlier.tokens_generated;
    entry.parts.clone_from(&earlier.parts);
    Ok(staying)
}
