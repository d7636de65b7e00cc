//! What rows of a decoder keep of an encoder: its states, and keys and values of them.
//!
//! Attention over them has no order, so rows of unequal length are aligned at their ends like
//! everything in [`rows`](super::rows); the columns before a shorter one are masked.

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

/// Types and sizes of what is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct CrossLayout {
    pub(super) states_dtype: Dtype,
    pub(super) cache_dtype: Dtype,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    /// Entries of the mask for one position.
    pub(super) mask_stride: usize,
}

/// The encoder's side of some rows.
#[derive(Clone, Debug)]
pub(super) struct CrossPast {
    /// `[B, T, C]`
    states: Arc<RowTensor>,
    /// Keys and values, each `[B, heads, T, dim]`; none before the first run.
    cache: Arc<Vec<RowTensor>>,
    /// `[B, T * stride]`
    mask: Arc<Tensor<i64>>,
    /// Positions of each row.
    lengths: Vec<usize>,
    state_size: usize,
}

impl CrossPast {
    /// Lays the states of rows, each `[positions, C]`, side by side.
    pub(super) fn new(
        memory: &Memory,
        layout: CrossLayout,
        rows: &[&Tensor<f32>],
    ) -> Result<Self, ort::Error> {
        let lengths: Vec<usize> = rows.iter().map(|row| row.rows()).collect();
        let state_size = rows.first().map_or(0, |row| row.row_len());
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let states = RowTensor::of_states(memory, layout.states_dtype, longest, state_size, rows)?;
        let mask = mask(&lengths, longest, layout.mask_stride);
        Ok(Self {
            states: Arc::new(states),
            cache: Arc::default(),
            mask: Arc::new(mask),
            lengths,
            state_size,
        })
    }

    /// Lays rows out anew, each named by where it lies and its place there.
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
            tensor_of: impl Fn(&'a CrossPast) -> &'a RowTensor,
        ) -> Vec<RowPart<'a>> {
            let part = |&(past, row_idx): &(&'a CrossPast, usize)| RowPart {
                tensor: tensor_of(past),
                row_idx,
                n_columns: past.lengths[row_idx],
            };
            rows.iter().map(part).collect()
        }
        let shape = [rows.len(), longest, state_size];
        let states = parts(rows, |past| &past.states);
        let states = RowTensor::laid(memory, layout.states_dtype, &shape, &states)?;
        let shape = [rows.len(), layout.heads, longest, layout.head_dim];
        let cache: Result<Vec<RowTensor>, ort::Error> = (0..n_tensors)
            .map(|idx| {
                let parts = parts(rows, |past| &past.cache[idx]);
                RowTensor::laid(memory, layout.cache_dtype, &shape, &parts)
            })
            .collect();
        let mask = mask(&lengths, longest, layout.mask_stride);
        Ok(Self {
            states: Arc::new(states),
            cache: Arc::new(cache?),
            mask: Arc::new(mask),
            lengths,
            state_size,
        })
    }

    /// Returns the positions of the longest row.
    pub(super) fn n_columns(&self) -> usize {
        self.states.n_columns()
    }

    /// Binds what a graph takes of it to a run.
    pub(super) fn bind(
        &self,
        memory: &Memory,
        layout: CrossLayout,
        ports: &CrossPorts,
        is_first: bool,
        binding: &mut IoBinding,
    ) -> Result<(), ort::Error> {
        if ports.states.is_some() {
            self.states.bind_input(binding, CrossPorts::STATES)?;
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

    /// Takes keys and values out of what the first run has returned; `Err` names one that is not
    /// there.
    pub(super) fn with_cache<'p>(
        mut self,
        layout: CrossLayout,
        ports: &'p CrossPorts,
        outputs: &mut SessionOutputs<'_>,
    ) -> Result<Result<Self, ort::Error>, &'p str> {
        let mut cache = Vec::with_capacity(ports.cache.len());
        for (_, present) in &ports.cache {
            let value = outputs.remove(present).ok_or(present.as_str())?;
            match RowTensor::of_output(layout.cache_dtype, value) {
                Ok(tensor) => cache.push(tensor),
                Err(error) => return Ok(Err(error)),
            }
        }
        self.cache = Arc::new(cache);
        Ok(Ok(self))
    }
}

/// Makes the mask of rows of `lengths` that end at `longest`.
fn mask(lengths: &[usize], longest: usize, stride: usize) -> Tensor<i64> {
    let n_columns = longest * stride;
    let mut mask = Tensor::zeros([lengths.len(), n_columns]);
    for (row_idx, length) in lengths.iter().enumerate() {
        let end = (row_idx + 1) * n_columns;
        mask.data_mut()[end - length * stride..end].fill(1);
    }
    mask
}
