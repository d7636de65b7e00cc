//! Decoder graphs that concatenate: each run takes the keys and values of all positions so far and
//! returns them with the new ones behind.
//!
//! Rows are left-padded: the last column is the newest token of every row. What stands in the pads
//! is never read, for the mask is 0 there, but it must be a number.

use std::borrow::Cow;

use half::f16;
use ort::{
    memory::Allocator,
    session::SessionInputValue,
    value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorRef},
};

use super::{DecoderPorts, Dtype, GraphSession, RunError, SessionError};
use crate::tensors::Tensor;

/// A decoder graph of the growing or shifted dialect.
///
/// | name | dtype | shape | side |
/// |---|---|---|---|
/// | `input_ids` or `inputs_embeds` | `i64`, `f32` | `[B, S]`, `[B, S, C]` | in |
/// | `attention_mask` | `i64` | `[B, T + S]` | in, optional |
/// | `position_ids` | `i64` | `[B, S]` | in, optional |
/// | `num_logits_to_keep` | `i64` | `[]` | in, optional |
/// | past | `f32` or `f16` | `[B, heads, T, dim]` | in |
/// | `logits` | `f32` or `f16` | `[B, S or kept, V]` | out |
/// | present | as past | `[B, heads, T + S, dim]` | out |
#[derive(Debug)]
pub(crate) struct GrowingGraph {
    graph: GraphSession,
    ports: DecoderPorts,
    heads: usize,
    head_dim: usize,
    vocab_size: usize,
}

/// The tokens of a run.
pub(crate) enum Tokens {
    /// `[B, S]`
    Ids(Tensor<i64>),
    /// `[B, S, C]`
    Embeds(Tensor<f32>),
}

/// What one run feeds besides the past.
pub(crate) struct GrowingInputs {
    pub(crate) tokens: Tokens,
    /// `[B, T + S]`
    pub(crate) attention_mask: Tensor<i64>,
    /// `[B, S]`
    pub(crate) position_ids: Tensor<i64>,
}

/// The keys and values of some rows, all of one length.
#[derive(Debug)]
pub(crate) struct Past {
    tensors: Vec<PastTensor>,
    n_columns: usize,
}

#[derive(Debug)]
enum PastTensor {
    F32(OrtTensor<f32>),
    F16(OrtTensor<f16>),
}

/// A row of a [`Past`]: its last `n_columns` columns count.
#[derive(Clone, Copy)]
pub(crate) struct PastRow<'a> {
    pub(crate) past: &'a Past,
    pub(crate) row_idx: usize,
    pub(crate) n_columns: usize,
}

impl Past {
    /// Returns the columns of every row, pads included.
    pub(crate) fn n_columns(&self) -> usize {
        self.n_columns
    }
}

impl GrowingGraph {
    /// Takes an opened graph; `heads` and `head_dim` are the configs', which the graph must not
    /// contradict.
    pub(crate) fn new(
        graph: GraphSession,
        ports: DecoderPorts,
        [heads, head_dim, vocab_size]: [usize; 3],
    ) -> Result<Self, SessionError> {
        let [heads_dim, head_size_dim, vocab_dim] =
            [heads, head_dim, vocab_size].map(|dim| i64::try_from(dim).unwrap_or(-1));
        graph.expect_dims("logits", &[-1, -1, vocab_dim])?;
        for (past, _) in &ports.cache {
            graph.expect_dims(past, &[-1, heads_dim, -1, head_size_dim])?;
        }
        Ok(Self { graph, ports, heads, head_dim, vocab_size })
    }

    /// Returns the graph's inputs and outputs.
    pub(crate) fn ports(&self) -> &DecoderPorts {
        &self.ports
    }

    /// Returns the graph's name, for errors.
    pub(crate) fn name(&self) -> &'static str {
        self.graph.name()
    }

    fn failed(&self, message: &dyn std::fmt::Display) -> RunError {
        RunError { graph: self.name().to_owned(), message: message.to_string() }
    }

    /// Returns a past of `n_rows` rows without a column.
    pub(crate) fn empty_past(&self, n_rows: usize) -> Result<Past, RunError> {
        self.relaid(n_rows, &[], 0)
    }

    /// Lays rows out anew, side by side, each with its columns at the end of `n_columns`.
    pub(crate) fn gather(&self, rows: &[PastRow<'_>], n_columns: usize) -> Result<Past, RunError> {
        self.relaid(rows.len(), rows, n_columns)
    }

    fn relaid(
        &self,
        n_rows: usize,
        rows: &[PastRow<'_>],
        n_columns: usize,
    ) -> Result<Past, RunError> {
        let shape = [n_rows, self.heads, n_columns, self.head_dim];
        let mut tensors = Vec::with_capacity(self.ports.cache.len());
        for tensor_idx in 0..self.ports.cache.len() {
            let tensor = match self.ports.cache_dtype {
                Dtype::F16 => relay(shape, rows, |past| match past.tensors.get(tensor_idx) {
                    Some(PastTensor::F16(tensor)) => Some(tensor),
                    _ => None,
                })
                .map(PastTensor::F16),
                _ => relay(shape, rows, |past| match past.tensors.get(tensor_idx) {
                    Some(PastTensor::F32(tensor)) => Some(tensor),
                    _ => None,
                })
                .map(PastTensor::F32),
            };
            tensors.push(tensor.map_err(|error| self.failed(&error))?);
        }
        Ok(Past { tensors, n_columns })
    }

    /// Runs the graph; hands the scores after the last column of each row to `read` and returns the
    /// past with the new columns.
    pub(crate) fn run(
        &mut self,
        past: &Past,
        inputs: &GrowingInputs,
        mut read: impl FnMut(usize, &[f32]),
    ) -> Result<Past, RunError> {
        let name = self.graph.name;
        let failed =
            |error: ort::Error| RunError { graph: name.to_owned(), message: error.to_string() };
        let mut feeds: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::new();
        let n_new = match &inputs.tokens {
            Tokens::Ids(ids) => {
                feeds.push(("input_ids".into(), view(ids).map_err(failed)?));
                ids.row_len()
            }
            Tokens::Embeds(embeds) => {
                feeds.push(("inputs_embeds".into(), view(embeds).map_err(failed)?));
                embeds.shape().get(1).copied().unwrap_or(0)
            }
        };
        if self.ports.takes_mask {
            feeds.push(("attention_mask".into(), view(&inputs.attention_mask).map_err(failed)?));
        }
        if self.ports.takes_positions {
            feeds.push(("position_ids".into(), view(&inputs.position_ids).map_err(failed)?));
        }
        if self.ports.takes_logits_to_keep {
            let shape: [usize; 0] = [];
            let one = OrtTensor::from_array((shape, vec![1_i64])).map_err(failed)?;
            feeds.push(("num_logits_to_keep".into(), one.into()));
        }
        for ((input, _), tensor) in self.ports.cache.iter().zip(&past.tensors) {
            let value = match tensor {
                PastTensor::F32(tensor) => tensor.into(),
                PastTensor::F16(tensor) => tensor.into(),
            };
            feeds.push((input.as_str().into(), value));
        }
        let mut outputs = self.graph.session.run(feeds).map_err(failed)?;
        let missing = |output: &str| RunError {
            graph: name.to_owned(),
            message: format!("no output `{output}`"),
        };
        let logits = outputs.get("logits").ok_or_else(|| missing("logits"))?;
        let shape = logits.dtype().tensor_shape().map(|shape| shape.to_vec()).unwrap_or_default();
        let vocab_size = i64::try_from(self.vocab_size).unwrap_or(-1);
        if shape.len() != 3 || shape[2] != vocab_size {
            let message = format!("`logits` has shape {shape:?}, expected [B, S, {vocab_size}]");
            return Err(RunError { graph: name.to_owned(), message });
        }
        read_last(logits, self.ports.logits_dtype, &mut read).map_err(failed)?;
        let mut tensors = Vec::with_capacity(past.tensors.len());
        for (_, present) in &self.ports.cache {
            let value = outputs.remove(present).ok_or_else(|| missing(present))?;
            tensors.push(match self.ports.cache_dtype {
                Dtype::F16 => PastTensor::F16(value.downcast().map_err(failed)?),
                _ => PastTensor::F32(value.downcast().map_err(failed)?),
            });
        }
        Ok(Past { tensors, n_columns: past.n_columns + n_new })
    }
}

fn view<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    tensor: &Tensor<T>,
) -> Result<SessionInputValue<'_>, ort::Error> {
    Ok(TensorRef::from_array_view((tensor.shape(), tensor.data()))?.into())
}

/// Hands the scores of the last position of each row, `[B, S, V]`, to `read`.
fn read_last(
    logits: &DynValue,
    dtype: Dtype,
    read: &mut impl FnMut(usize, &[f32]),
) -> Result<(), ort::Error> {
    fn each<'d, T>(
        shape: &[i64],
        data: &'d [T],
    ) -> impl Iterator<Item = (usize, &'d [T])> + use<'d, T> {
        let dim = |idx: usize| shape.get(idx).and_then(|dim| usize::try_from(*dim).ok());
        let (n_positions, vocab_size) = (dim(1).unwrap_or(1).max(1), dim(2).unwrap_or(1).max(1));
        let rows = data.chunks_exact(n_positions * vocab_size);
        rows.map(move |row| &row[(n_positions - 1) * vocab_size..]).enumerate()
    }
    if dtype == Dtype::F16 {
        let (shape, data) = logits.try_extract_tensor::<f16>()?;
        for (row_idx, scores) in each(shape, data) {
            let scores: Vec<f32> = scores.iter().map(|score| score.to_f32()).collect();
            read(row_idx, &scores);
        }
    } else {
        let (shape, data) = logits.try_extract_tensor::<f32>()?;
        for (row_idx, scores) in each(shape, data) {
            read(row_idx, scores);
        }
    }
    Ok(())
}

/// Copies rows into a new tensor of `shape`, each against its end; the rest is zero.
fn relay<'a, T>(
    shape: [usize; 4],
    rows: &[PastRow<'a>],
    tensor_of: impl Fn(&'a Past) -> Option<&'a OrtTensor<T>>,
) -> Result<OrtTensor<T>, ort::Error>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Copy + Default + 'static,
{
    let [_, heads, n_columns, dim] = shape;
    let mut tensor = OrtTensor::<T>::new(&Allocator::default(), shape)?;
    let (_, target) = tensor.extract_tensor_mut();
    target.fill(T::default());
    for (row_idx, row) in rows.iter().enumerate() {
        let Some((_, source)) = tensor_of(row.past).map(OrtTensor::extract_tensor) else {
            continue;
        };
        let (from_columns, len) = (row.past.n_columns, row.n_columns * dim);
        for head_idx in 0..heads {
            let end = ((row_idx * heads + head_idx) + 1) * n_columns * dim;
            let from_end = ((row.row_idx * heads + head_idx) + 1) * from_columns * dim;
            target[end - len..end].copy_from_slice(&source[from_end - len..from_end]);
        }
    }
    Ok(tensor)
}
