//! Cross-attention inputs of decoder rows: encoder states, and their keys and values.
//!
//! Cross-attention ignores the order of positions, so rows of different length are right-aligned
//! like everything in [`rows`](super::rows). The columns before a shorter row are masked.

use std::sync::Arc;

use ort::{
    session::{IoBinding, SessionOutputs},
    value::Tensor as OrtTensor,
};

use super::{
    CrossPorts, Dtype,
    inputs::bind,
    memory::Memory,
    rows::{RowPart, RowTensor},
};
use crate::tensors::Tensor;

/// Data types and sizes of the cross-attention tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrossLayout {
    pub(super) states_dtype: Dtype,
    pub(super) cache_dtype: Dtype,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    /// The number of mask entries per position.
    pub(super) mask_stride: usize,
}

/// The cross-attention inputs of a batch of rows.
#[derive(Clone, Debug)]
pub(super) struct CrossPast {
    /// `[B, T, C]`; `None` if the encoder returns keys and values instead.
    states: Option<Arc<RowTensor>>,
    /// Keys and values, each `[B, heads, T, dim]`; empty before the first run that returns them.
    cache: Arc<Vec<RowTensor>>,
    /// `[B, T * stride]`
    mask: Arc<Tensor<i64>>,
    /// The number of positions of each row.
    lengths: Vec<usize>,
    state_size: usize,
}

impl CrossPast {
    /// Batches the states of rows, each `[positions, C]`, or their keys and values, each
    /// `[N, heads, positions, dim]`.
    pub(super) fn new(
        memory: &Memory,
        layout: CrossLayout,
        ports: &CrossPorts,
        rows: &[&Tensor<f32>],
    ) -> Result<Self, ort::Error> {
        let n_given = if ports.is_given { ports.cache.len() } else { 0 };
        let sized = |row: &&Tensor<f32>| match (row.shape(), ports.is_given) {
            ([n_positions, size], false) => Ok((*n_positions, *size)),
            ([n, _, n_positions, _], true) if *n == n_given => Ok((*n_positions, 0)),
            (other, _) => {
                Err(ort::Error::new(format!("unexpected shape {other:?} of encoder states")))
            }
        };
        let sizes = rows.iter().map(sized).collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = sizes.iter().map(|(n_positions, _)| *n_positions).collect();
        let state_size = sizes.first().map_or(0, |(_, size)| *size);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let states = if ports.is_given {
            None
        } else {
            let shape = [rows.len(), longest, state_size];
            let rows: Vec<&[f32]> = rows.iter().map(|row| row.data()).collect();
            Some(Arc::new(RowTensor::from_host(memory, layout.states_dtype, &shape, &rows)?))
        };
        let shape = [rows.len(), layout.heads, longest, layout.head_dim];
        let given = |idx| {
            let rows: Vec<&[f32]> = rows.iter().map(|row| row.row(idx)).collect();
            RowTensor::from_host(memory, layout.cache_dtype, &shape, &rows)
        };
        let cache = (0..n_given).map(given).collect::<Result<Vec<_>, _>>()?;
        let mask = mask(&lengths, longest, layout.mask_stride);
        Ok(Self { states, cache: Arc::new(cache), mask: Arc::new(mask), lengths, state_size })
    }

    /// Gathers rows into a new batch, each given by its batch and its index there.
    pub(super) fn gather(
        memory: &Memory,
        layout: CrossLayout,
        rows: &[(&Self, usize)],
    ) -> Result<Self, ort::Error> {
        let lengths: Vec<usize> = rows.iter().map(|(past, idx)| past.lengths[*idx]).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let (state_size, n_tensors) =
            rows.first().map_or((0, 0), |(past, _)| (past.state_size, past.cache.len()));
        fn parts<'a>(
            rows: &[(&'a CrossPast, usize)],
            tensor_of: impl Fn(&'a CrossPast) -> Option<&'a RowTensor>,
        ) -> Vec<RowPart<'a>> {
            let part = |&(past, row_idx): &(&'a CrossPast, usize)| {
                let n_columns = past.lengths[row_idx];
                Some(RowPart { tensor: tensor_of(past)?, row_idx, n_columns })
            };
            rows.iter().filter_map(part).collect()
        }
        let shape = [rows.len(), longest, state_size];
        let states = if rows.iter().all(|(past, _)| past.states.is_some()) {
            let states = parts(rows, |past| past.states.as_deref());
            Some(Arc::new(RowTensor::gather(memory, layout.states_dtype, &shape, &states)?))
        } else {
            None
        };
        let shape = [rows.len(), layout.heads, longest, layout.head_dim];
        let cache: Result<Vec<RowTensor>, ort::Error> = (0..n_tensors)
            .map(|idx| {
                let parts = parts(rows, |past| past.cache.get(idx));
                RowTensor::gather(memory, layout.cache_dtype, &shape, &parts)
            })
            .collect();
        let mask = mask(&lengths, longest, layout.mask_stride);
        Ok(Self { states, cache: Arc::new(cache?), mask: Arc::new(mask), lengths, state_size })
    }

    /// Returns the length of the longest row.
    pub(super) fn n_columns(&self) -> usize {
        self.lengths.iter().copied().max().unwrap_or(0)
    }

    /// Binds the inputs that a graph declares.
    pub(super) fn bind(
        &self,
        memory: &Memory,
        layout: CrossLayout,
        ports: &CrossPorts,
        is_first: bool,
        binding: &mut IoBinding,
    ) -> Result<(), ort::Error> {
        if let Some(states) = self.states.as_ref().filter(|_| ports.states.is_some()) {
            states.bind_input(binding, CrossPorts::STATES)?;
        }
        if ports.takes_mask {
            bind(binding, CrossPorts::MASK, Tensor::clone(&self.mask))?;
        }
        if ports.takes_branch {
            let is_further = OrtTensor::from_array(([1_usize], vec![!is_first]))?;
            binding.bind_input(CrossPorts::BRANCH, &is_further)?;
        }
        for (idx, (past, _)) in ports.cache.iter().enumerate() {
            match self.cache.get(idx) {
                Some(tensor) => tensor.bind_input(binding, past)?,
                None => {
                    let shape = [self.lengths.len(), layout.heads, 0, layout.head_dim];
                    RowTensor::zeros(memory, layout.cache_dtype, &shape)?
                        .bind_input(binding, past)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the keys and values from the outputs of the first run. `Err` is the name of a missing
    /// output.
    pub(super) fn with_cache<'p>(
        mut self,
        layout: CrossLayout,
        ports: &'p CrossPorts,
        outputs: &mut SessionOutputs<'_>,
    ) -> Result<Result<Self, ort::Error>, &'p str> {
        let mut cache = Vec::with_capacity(ports.cache.len());
        for (_, present) in &ports.cache {
            let value = outputs.remove(present).ok_or(present.as_str())?;
            match RowTensor::from_output(layout.cache_dtype, value) {
                Ok(tensor) => cache.push(tensor),
                Err(error) => return Ok(Err(error)),
            }
        }
        self.cache = Arc::new(cache);
        Ok(Ok(self))
    }
}

/// Builds the mask of right-aligned rows of `lengths`, padded to `longest`.
fn mask(lengths: &[usize], longest: usize, stride: usize) -> Tensor<i64> {
    let n_columns = longest * stride;
    let mut mask = Tensor::zeros([lengths.len(), n_columns]);
    for (row_idx, length) in lengths.iter().enumerate() {
        let end = (row_idx + 1) * n_columns;
        mask.data_mut()[end - length * stride..end].fill(1);
    }
    mask
}
