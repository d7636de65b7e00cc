//! What passes from one stage to the next.

use std::{fmt, sync::Arc};

use arrow::array::RecordBatch;
use legenda_models::{Prompt, Sample};
use legenda_schemas::flag::Flags;

use super::chunks::Chunk;

/// The row `row_idx` of the outstanding span `span_idx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RowKey {
    /// The index of the outstanding span.
    pub span_idx: usize,
    /// The index among the rows of the span that are read.
    pub row_idx: usize,
}

/// A batch of rows as read from the table: the output of `scan`.
pub(crate) struct ScannedBatch {
    /// The key of the first row; the others follow.
    pub first: RowKey,
    /// The row number of each row within its file.
    pub file_rows: Vec<u64>,
    /// The file that contains the rows.
    pub file: Arc<str>,
    /// The columns that were read.
    pub rows: RecordBatch,
}

/// A row, or a chunk of one, with decoded and preprocessed media: the output of `prepare`.
pub(crate) struct PreparedRow {
    /// The row.
    pub key: RowKey,
    /// The chunk of the row.
    pub chunk: Chunk,
    /// The input digest and the random seed.
    pub identity: RowIdentity,
    /// The model's input.
    pub sample: Sample,
}

/// The input digest and the random seed of a row.
#[derive(Clone, Debug)]
pub(crate) struct RowIdentity {
    /// SHA-256 of prompt and media, hex.
    pub input_sha256: String,
    /// The seed for sampling.
    pub seed: u64,
    /// The flags of the input, set while its media are decoded.
    pub flags: Flags,
}

/// A row, or a chunk of one, with encoded media: the output of `encode`.
pub(crate) struct EncodedRow {
    /// The row.
    pub key: RowKey,
    /// The chunk of the row.
    pub chunk: Chunk,
    /// The input digest and the random seed.
    pub identity: RowIdentity,
    /// The prompt to prefill the decoder with.
    pub prompt: Prompt,
}

impl ScannedBatch {
    /// Returns the key of the row at `offset`.
    pub(super) fn key(&self, offset: usize) -> RowKey {
        RowKey { row_idx: self.first.row_idx + offset, ..self.first }
    }
}

impl fmt::Debug for ScannedBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScannedBatch({:?}, {} rows)", self.first, self.rows.num_rows())
    }
}

impl fmt::Debug for PreparedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedRow({:?}, {} bytes)", self.key, self.sample.size_bytes())
    }
}

impl fmt::Debug for EncodedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedRow({:?}, {} tokens)", self.key, self.prompt.n_tokens())
    }
}
