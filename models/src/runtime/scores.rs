//! The logits of a decoder, which stay in its memory except for those that are read.

use std::ops::Range;

use half::f16;
use legenda_schemas::cause::Cause;
use ort::value::{DynValue, TensorRef};

use super::{
    Dtype, RunError,
    memory::{Blocks, Memory},
};

/// The logits `[B, S, V]` of a run.
pub(crate) struct Scores<'a> {
    graph: &'static str,
    memory: &'a Memory,
    value: &'a DynValue,
    is_half: bool,
    dims: [usize; 3],
}

impl<'a> Scores<'a> {
    /// The name of the output.
    pub(super) const NAME: &'static str = "logits";

    /// Wraps the output of a run; `vocab_size` comes from the config.
    pub(super) fn from_output(
        graph: &'static str,
        memory: &'a Memory,
        value: Option<&'a DynValue>,
        dtype: Dtype,
        vocab_size: usize,
    ) -> Result<Self, RunError> {
        let failed = |problem: String| RunError::new(graph, problem);
        let value = value.ok_or_else(|| failed(format!("no output `{}`", Self::NAME)))?;
        let shape = value.dtype().tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default();
        let dims: Vec<usize> = shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
        match <[usize; 3]>::try_from(dims) {
            Ok(dims) if dims[2] == vocab_size => {
                Ok(Self { graph, memory, value, is_half: dtype == Dtype::F16, dims })
            }
            _ => Err(failed(format!(
                "`{}` has shape {shape:?}, expected [B, S, {vocab_size}]",
                Self::NAME
            ))),
        }
    }

    /// Checks the number of rows and positions.
    pub(crate) fn expect(&self, n_rows: usize, n_positions: usize) -> Result<(), RunError> {
        let expected = [n_rows, n_positions, self.dims[2]];
        if self.dims == expected {
            return Ok(());
        }
        Err(self.failed(format!(
            "`{}` has shape {:?}, expected {expected:?}",
            Self::NAME,
            self.dims
        )))
    }

    /// Passes the logits of some rows after one position to `read`, with the index of the row.
    pub(crate) fn read(
        &self,
        rows: Range<usize>,
        position: usize,
        mut read: impl FnMut(usize, &[f32]),
    ) -> Result<(), RunError> {
        let [_, n_positions, vocab_size] = self.dims;
        let stride = n_positions * vocab_size;
        let blocks = Blocks {
            from: rows.start * stride + position * vocab_size,
            from_stride: stride,
            to: 0,
            to_stride: vocab_size,
            len: vocab_size,
            n: rows.len(),
        };
        let done = if self.is_half {
            let mut scores: Vec<f32> = Vec::with_capacity(vocab_size);
            self.value.view().downcast().and_then(|tensor: TensorRef<'_, f16>| {
                self.memory.read(&tensor, blocks, |idx, halves| {
                    scores.clear();
                    scores.extend(halves.iter().map(|half| half.to_f32()));
                    read(rows.start + idx, &scores);
                })
            })
        } else {
            self.value.view().downcast().and_then(|tensor: TensorRef<'_, f32>| {
                self.memory.read(&tensor, blocks, |idx, scores| {
                    read(rows.start + idx, scores);
                })
            })
        };
        done.map_err(|error| self.failed(error))
    }

    /// Passes the logits after the last position of each row to `read`.
    pub(crate) fn read_last(&self, read: impl FnMut(usize, &[f32])) -> Result<(), RunError> {
        let [n_rows, n_positions, _] = self.dims;
        self.read(0..n_rows, n_positions.saturating_sub(1), read)
    }

    fn failed(&self, cause: impl Into<Cause>) -> RunError {
        RunError::new(self.graph, cause)
    }
}
