//! Answers as lines of text, in input order, while a run commits them.

use std::collections::{BTreeMap, VecDeque};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use legenda_schemas::{
    ledger::LedgerEntry,
    table::{INLINE_CODE_COLUMN, INLINE_MESSAGE_COLUMN, answer_column},
};

use super::{ExportError, rows::Shape};
use crate::{output::ledger::OutputFiles, run::plan::RunPlan};

/// The answer of a row as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerLine {
    /// The name of the row.
    pub label: String,
    /// The answer, or the code and message of its reject.
    pub answer: Result<String, (String, String)>,
}

/// The name of a row in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineLabel {
    /// The cell of a carried column.
    Column(String),
    /// The file and the number of the row in it, counted from 0.
    Row,
}

/// Reads the answers and rejects of a committed span in input order.
///
/// # Errors
///
/// [`ExportError`].
pub fn answer_lines(
    plan: &RunPlan,
    entry: &LedgerEntry,
    label: &LineLabel,
) -> Result<Vec<AnswerLine>, ExportError> {
    let output = OutputFiles::new(plan.output.clone(), plan.job.output.format);
    let Some(shape) = Shape::find(&output, std::slice::from_ref(entry), true)? else {
        return Ok(Vec::new());
    };
    let rows = shape.rows(&output, entry)?;
    let lines = lines(&rows, entry, label, answer_column(plan.job.task.kind));
    lines.map_err(|error| ExportError::Damaged {
        path: output.folder.path_of(""),
        source: error.into(),
    })
}

fn lines(
    rows: &RecordBatch,
    entry: &LedgerEntry,
    label: &LineLabel,
    answer: &str,
) -> Result<Vec<AnswerLine>, ArrowError> {
    let column = |name: &str| rows.column_by_name(name);
    let text = |column: Option<&ArrayRef>, row: usize| -> Result<Option<String>, ArrowError> {
        let Some(column) = column.filter(|column| column.is_valid(row)) else { return Ok(None) };
        if let Some(texts) = column.as_string_opt::<i32>() {
            return Ok(Some(texts.value(row).to_owned()));
        }
        let formatter = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default())?;
        Ok(Some(formatter.value(row).to_string()))
    };
    let path = &entry.span.object.path;
    let is_every_row = rows.num_rows() == entry.span.n_rows;
    (0..rows.num_rows())
        .map(|row| {
            let label = match label {
                LineLabel::Column(name) => text(column(name), row)?.unwrap_or_default(),
                LineLabel::Row if is_every_row => {
                    format!("{path}:{}", entry.span.file_row_start + row as u64)
                }
                LineLabel::Row => path.clone(),
            };
            let answer = match text(column(INLINE_CODE_COLUMN), row)? {
                Some(code) => {
                    let message = text(column(INLINE_MESSAGE_COLUMN), row)?;
                    Err((code, message.unwrap_or_default()))
                }
                None => Ok(text(column(answer), row)?.unwrap_or_default()),
            };
            Ok(AnswerLine { label, answer })
        })
        .collect()
}

/// Puts committed spans into input order.
#[derive(Debug)]
pub struct LineOrder {
    /// The file number of each planned span, its first outstanding row and the row after its last.
    expected: VecDeque<(usize, u64, u64)>,
    waiting: BTreeMap<(usize, u64), LedgerEntry>,
}

impl LineOrder {
    /// Creates the order of the spans of a plan.
    #[must_use]
    pub fn new(plan: &RunPlan) -> Self {
        let spans = plan.ledger.spans.iter().map(|span| {
            let start = span.file_row_start;
            (plan.file_number(&span.object.path), start, start + span.n_rows as u64)
        });
        let mut expected: Vec<_> = spans.collect();
        expected.sort_unstable();
        Self { expected: expected.into(), waiting: BTreeMap::new() }
    }

    /// Adds a committed span; returns those whose predecessors are all there.
    pub fn add(&mut self, plan: &RunPlan, entry: LedgerEntry) -> Vec<LedgerEntry> {
        let file = plan.file_number(&entry.span.object.path);
        self.waiting.insert((file, entry.span.file_row_start), entry);
        let mut ready = Vec::new();
        while let Some((file, next, end)) = self.expected.front_mut() {
            if next >= end {
                self.expected.pop_front();
                continue;
            }
            let Some(entry) = self.waiting.remove(&(*file, *next)) else { break };
            *next += entry.span.n_rows as u64;
            ready.push(entry);
        }
        ready
    }

    /// Returns the spans that still wait, in order: a stopped run leaves gaps before them.
    #[must_use]
    pub fn rest(self) -> Vec<LedgerEntry> {
        self.waiting.into_values().collect()
    }
}
