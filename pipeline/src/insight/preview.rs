//! A preview of the answers of a run.

use arrow::{
    array::RecordBatch,
    error::ArrowError,
    util::display::{ArrayFormatter, FormatOptions},
};
use legenda_schemas::cause::Cause;

use crate::{output::ledger::OutputFiles, run::plan::RunPlan};

/// Some answers as text: the carried columns and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// The names of the columns.
    pub header: Vec<String>,
    /// A row of cells per answer.
    pub rows: Vec<Vec<String>>,
}

/// An error of reading answers.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the part `{part}`")]
pub struct PreviewError {
    /// The part.
    pub part: String,
    /// The reader's error.
    pub source: Cause,
}

/// Reads at most `n_rows` answers of the output, spread evenly over its parts.
///
/// # Errors
///
/// [`PreviewError`] for the first unreadable part.
pub fn answers(plan: &RunPlan, n_rows: usize) -> Result<Preview, PreviewError> {
    let output = OutputFiles::new(plan.output.clone(), plan.job.output.format);
    let mut preview = Preview {
        header: plan
            .carried
            .iter()
            .map(|field| field.name().clone())
            .chain([plan.answer_column().to_owned()])
            .collect(),
        rows: Vec::new(),
    };
    let entries = output
        .read_entries()
        .map_err(|error| PreviewError { part: output.folder.path_of(""), source: error.into() })?;
    let mut parts: Vec<_> = entries.iter().flat_map(|entry| &entry.parts).collect();
    parts.sort_by_key(|part| &part.name);
    // With fewer parts than rows, every part gives some; else every n-th part gives one.
    let step = parts.len().div_ceil(n_rows.max(1)).max(1);
    let chosen: Vec<_> = parts.iter().step_by(step).collect();
    for (part_idx, part) in chosen.iter().enumerate() {
        let error =
            |source: Cause| PreviewError { part: output.folder.path_of(&part.name), source };
        let bytes = output.folder.read(&part.name).map_err(|read| error(read.source.into()))?;
        let batches = output.decode(part, bytes.unwrap_or_default());
        let batches = batches.map_err(|arrow| error(arrow.into()))?;
        let n_part: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let wanted = (n_rows - preview.rows.len()).div_ceil(chosen.len() - part_idx);
        let every = (n_part / wanted.max(1)).max(1);
        let mut row_idx = 0;
        let mut taken = 0;
        for batch in &batches {
            for row in 0..batch.num_rows() {
                if row_idx % every == 0 && taken < wanted {
                    let cells = cells(batch, row, &preview.header);
                    preview.rows.push(cells.map_err(|e| error(e.into()))?);
                    taken += 1;
                }
                row_idx += 1;
            }
        }
    }
    Ok(preview)
}

fn cells(batch: &RecordBatch, row: usize, header: &[String]) -> Result<Vec<String>, ArrowError> {
    header
        .iter()
        .map(|name| {
            let column = batch.column(batch.schema().index_of(name)?);
            let formatter = ArrayFormatter::try_new(column.as_ref(), &FormatOptions::default())?;
            Ok(formatter.value(row).to_string())
        })
        .collect()
}
