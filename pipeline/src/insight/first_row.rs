//! The prompt of the first row, for `legenda check`.

use arrow::array::RecordBatch;
use legenda_schemas::cause::chain;
use serde_json::{Map, Value};

use crate::{
    base::excerpt::shortened,
    input::source::{SourceError, cell::template_value, reader::ReadError},
    run::{
        plan::RunPlan,
        stage::prompt::{PromptError, RowPrompt},
    },
};

/// The maximum characters of a row in an error.
const SHOWN_CHARS_MAX: usize = 200;

/// The prompts of the first row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstRow {
    /// The system message, if any.
    pub system: Option<String>,
    /// The prompt, before the model's chat template is applied.
    pub prompt: String,
}

/// An error of rendering the first row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirstRowError {
    /// The file cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The row cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A template failed.
    #[error("row {row} of `{path}`: {problem}; columns: {shown}")]
    Template {
        /// The row number within the file, from 0.
        row: u64,
        /// The file.
        path: String,
        /// The cause.
        problem: String,
        /// The prompt columns as truncated JSON.
        shown: String,
    },
    /// A run will reject the row.
    #[error("row {row} of `{path}` will be rejected: {problem}")]
    Rejected {
        /// The row number within the file, from 0.
        row: u64,
        /// The file.
        path: String,
        /// The cause.
        problem: String,
    },
}

impl RunPlan {
    /// Renders the prompts of the first row; `None` if there is no row, or the model reads no text.
    ///
    /// # Errors
    ///
    /// [`FirstRowError`].
    pub fn first_row(&self) -> Result<Option<FirstRow>, FirstRowError> {
        let first = self.ledger.spans.iter().find_map(|span| {
            let position = self.rows_of(span).first().copied()?;
            Some((span, position))
        });
        let Some((span, position)) = first.filter(|_| self.reads_text) else { return Ok(None) };
        let columns = &self.job.source.columns;
        let mapped = columns.text.iter().chain(&columns.messages);
        let columns: Vec<String> = self.template_columns.iter().chain(mapped).cloned().collect();
        let Some(reader) = self.table.reader(&span.object)? else { return Ok(None) };
        let rows = position..position + 1;
        let mut read =
            reader.read(span.row_group, std::slice::from_ref(&rows), Some(&columns), 1)?;
        let Some(read) = read.next().transpose()? else { return Ok(None) };
        let (row, path) = (span.file_row(position), span.object.path.clone());
        if let Some(damaged) = read.damaged.into_iter().next() {
            return Err(FirstRowError::Rejected { row, path, problem: damaged.problem });
        }
        match RowPrompt::new(self, &read.rows, 0) {
            Ok(RowPrompt { system, prompt, .. }) => Ok(Some(FirstRow { system, prompt })),
            Err(PromptError::Template(error)) => {
                let (problem, shown) = (chain(&error), show(&read.rows));
                Err(FirstRowError::Template { row, path, problem, shown })
            }
            Err(error) => Err(FirstRowError::Rejected { row, path, problem: chain(&error) }),
        }
    }
}

/// Returns the row as truncated JSON.
fn show(rows: &RecordBatch) -> String {
    let schema = rows.schema();
    let cells = schema.fields().iter().zip(rows.columns());
    let cells: Map<String, Value> = cells
        .map(|(field, column)| (field.name().clone(), template_value(column.as_ref(), 0)))
        .collect();
    let shown = Value::Object(cells).to_string();
    shortened(&shown, SHOWN_CHARS_MAX).into_owned()
}
