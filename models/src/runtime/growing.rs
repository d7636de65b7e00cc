//! Decoder graphs with a growing KV cache: each run takes the keys and values of all previous
//! positions and returns them with the new ones appended.
//!
//! Rows are left-padded: the last column is the newest token of every row. Padding positions are
//! masked, so their content is never used, but it must be finite.

use legenda_schemas::cause::Cause;

use super::{
    CrossPorts, DecoderDims, DecoderPorts, Dtype, GraphSession, RunError, SessionError, Tokens,
    cross::{CrossLayout, CrossPast},
    inputs::{bind, bind_logits_to_keep},
    rows::{RowPart, RowTensor},
    scores::Scores,
    session::run_bound,
};
use crate::tensors::Tensor;

/// A decoder graph of the growing, shifted or cohort dialect.
///
/// | name | dtype | shape | side |
/// |---|---|---|---|
/// | `input_ids` or `inputs_embeds` | `i64`, `f32` or `f16` | `[B, S]`, `[B, S, C]` | in |
/// | `per_layer_inputs` | `f32` or `f16` | `[B, S, layers, N]` | in, optional |
/// | `attention_mask` | `i64` | `[B, T + S]` | in, optional |
/// | `position_ids` | `i64` | `[B, S]` or `[3, B, S]` | in, optional |
/// | `num_logits_to_keep` | `i64` | `[]` | in, optional |
/// | past | `f32` or `f16` | `[B, heads, T, dim]` | in |
/// | `logits` | `f32` or `f16` | `[B, S or kept, V]` | out |
/// | present | as past | `[B, heads, T + S, dim]` | out |
///
/// The cohort dialect also has those of [`CrossPorts`].
#[derive(Debug)]
pub(crate) struct GrowingGraph {
    graph: GraphSession,
    ports: DecoderPorts,
    heads: usize,
    head_dim: usize,
    vocab_size: usize,
    /// The graph of the first run, if it is a different one.
    first: Option<(GraphSession, CrossPorts)>,
    mask_stride: usize,
}

/// The inputs of one run besides the KV cache.
pub(crate) struct GrowingInputs {
    pub(crate) tokens: Tokens,
    /// `[B, T + S]`
    pub(crate) attention_mask: Tensor<i64>,
    /// `[B, S]`, or `[3, B, S]` if positions have three axes.
    pub(crate) position_ids: Tensor<i64>,
}

/// The KV cache of a batch of rows, padded to one length.
#[derive(Debug)]
pub(crate) struct Past {
    tensors: Vec<RowTensor>,
    n_columns: usize,
    cross: Option<CrossPast>,
}

/// A row of a [`Past`]. Its last `n_columns` columns are valid.
#[derive(Clone, Copy)]
pub(crate) struct PastRow<'a> {
    pub(crate) past: &'a Past,
    pub(crate) row_idx: usize,
    pub(crate) n_columns: usize,
}

impl Past {
    /// Returns the number of columns, padding included.
    pub(crate) fn n_columns(&self) -> usize {
        self.n_columns
    }

    /// Returns the number of encoder positions, padding included.
    pub(crate) fn n_positions(&self) -> usize {
        self.cross.as_ref().map_or(0, CrossPast::n_columns)
    }
}

impl GrowingGraph {
    /// Wraps an opened graph. `heads` and `head_dim` come from the configs and must match the
    /// graph.
    pub(crate) fn new(
        graph: GraphSession,
        ports: DecoderPorts,
        dims: DecoderDims,
    ) -> Result<Self, SessionError> {
        let DecoderDims { heads, head_dim, vocab_size } = dims;
        let [heads_dim, head_size_dim, vocab_dim] =
            [heads, head_dim, vocab_size].map(|dim| i64::try_from(dim).unwrap_or(-1));
        graph.expect_dims("logits", &[-1, -1, vocab_dim])?;
        let cross_cache = ports.cross.iter().flat_map(|cross| &cross.cache);
        for (past, _) in ports.cache.iter().chain(cross_cache) {
            graph.expect_dims(past, &[-1, heads_dim, -1, head_size_dim])?;
        }
        Ok(Self { graph, ports, heads, head_dim, vocab_size, first: None, mask_stride: 1 })
    }

    /// Makes it the decoder of an encoder-decoder. `first` is the graph of the first run, if it is
    /// a different one, and `mask_stride` the number of encoder mask entries per position.
    pub(crate) fn with_encoder(
        mut self,
        first: Option<GraphSession>,
        mask_stride: usize,
    ) -> Result<Self, SessionError> {
        let graph = first.as_ref().unwrap_or(&self.graph);
        if let Some(cross) = &mut self.ports.cross {
            let returns = |(_, present): &(String, String)| graph.has_output(present);
            cross.is_given =
                first.is_none() && cross.states.is_none() && !cross.cache.iter().any(returns);
            for (_, present) in cross.cache.iter().filter(|_| !cross.is_given) {
                graph.expect_output(present, self.ports.cache_dtype)?;
            }
        }
        let ports = first.as_ref().map(|first| CrossPorts::read(first, Vec::new()));
        self.first = first.zip(ports.transpose()?);
        self.mask_stride = mask_stride;
        Ok(self)
    }

    /// Returns the inputs and outputs of the graph.
    pub(crate) fn ports(&self) -> &DecoderPorts {
        &self.ports
    }

    /// Returns whether rows with encoder states of different length can be batched.
    pub(crate) fn masks_states(&self) -> bool {
        self.ports.cross.as_ref().is_none_or(|cross| cross.takes_mask)
    }

    /// Returns the name of the graph, for errors.
    pub(crate) fn name(&self) -> &'static str {
        self.graph.name()
    }

    fn failed(&self, cause: impl Into<Cause>) -> RunError {
        RunError::new(self.name(), cause)
    }

    fn cross_layout(&self) -> CrossLayout {
        let ports = self.first.as_ref().map(|(_, ports)| ports).or(self.ports.cross.as_ref());
        CrossLayout {
            states_dtype: ports.and_then(|ports| ports.states).unwrap_or(Dtype::F32),
            cache_dtype: self.ports.cache_dtype,
            heads: self.heads,
            head_dim: self.head_dim,
            mask_stride: self.mask_stride,
        }
    }

    /// Creates an empty KV cache of `n_rows` rows. With cross-attention, each row has `states`:
    /// `[T, C]`, or `[N, heads, T, dim]` for keys and values.
    pub(crate) fn empty_past(
        &self,
        n_rows: usize,
        states: &[&Tensor<f32>],
    ) -> Result<Past, RunError> {
        let mut past = self.gather_self_attention(n_rows, &[], 0)?;
        if let Some(ports) = &self.ports.cross {
            if states.len() != n_rows {
                return Err(self.failed("a row has no encoder states"));
            }
            let cross = CrossPast::new(&self.graph.memory, self.cross_layout(), ports, states);
            past.cross = Some(cross.map_err(|error| self.failed(error))?);
        }
        Ok(past)
    }

    /// Gathers rows into a new KV cache, each right-aligned in `n_columns` columns.
    pub(crate) fn gather(&self, rows: &[PastRow<'_>], n_columns: usize) -> Result<Past, RunError> {
        let mut past = self.gather_self_attention(rows.len(), rows, n_columns)?;
        let cross: Option<Vec<_>> =
            rows.iter().map(|row| Some((row.past.cross.as_ref()?, row.row_idx))).collect();
        past.cross = cross
            .filter(|rows| !rows.is_empty())
            .map(|rows| CrossPast::gather(&self.graph.memory, self.cross_layout(), &rows))
            .transpose()
            .map_err(|error| self.failed(error))?;
        Ok(past)
    }

    fn gather_self_attention(
        &self,
        n_rows: usize,
        rows: &[PastRow<'_>],
        n_columns: usize,
    ) -> Result<Past, RunError> {
        let shape = [n_rows, self.heads, n_columns, self.head_dim];
        let mut tensors = Vec::with_capacity(self.ports.cache.len());
        for tensor_idx in 0..self.ports.cache.len() {
            let parts = rows.iter().map(|&PastRow { past, row_idx, n_columns }| RowPart {
                tensor: &past.tensors[tensor_idx],
                row_idx,
                n_columns,
            });
            let parts: Vec<RowPart<'_>> = parts.collect();
            let tensor =
                RowTensor::gather(&self.graph.memory, self.ports.cache_dtype, &shape, &parts);
            tensors.push(tensor.map_err(|error| self.failed(error))?);
        }
        Ok(Past { tensors, n_columns, cross: None })
    }

    /// Runs the graph, passes the logits after the last column of each row to `read` and returns
    /// the KV cache with the new columns.
    pub(crate) fn run(
        &mut self,
        past: &Past,
        inputs: GrowingInputs,
        mut read: impl FnMut(usize, &[f32]),
    ) -> Result<Past, RunError> {
        let is_first = past.n_columns == 0;
        let layout = self.cross_layout();
        let (graph, cross_ports, takes_past) = match &mut self.first {
            Some((first, ports)) if is_first => (first, Some(&*ports), false),
            _ => (&mut self.graph, self.ports.cross.as_ref(), true),
        };
        let name = graph.name;
        let failed = |error: ort::Error| RunError::new(name, error);
        let mut binding = graph.session.create_binding().map_err(failed)?;
        let n_new = inputs.tokens.n_positions();
        inputs.tokens.bind(&mut binding, &self.ports).map_err(failed)?;
        if self.ports.takes_mask {
            bind(&mut binding, "attention_mask", inputs.attention_mask).map_err(failed)?;
        }
        if self.ports.takes_positions {
            bind(&mut binding, "position_ids", inputs.position_ids).map_err(failed)?;
        }
        if self.ports.takes_logits_to_keep {
            bind_logits_to_keep(&mut binding, 1).map_err(failed)?;
        }
        if takes_past {
            for ((input, _), tensor) in self.ports.cache.iter().zip(&past.tensors) {
                tensor.bind_input(&mut binding, input).map_err(failed)?;
            }
        }
        if let Some((cross, ports)) = past.cross.as_ref().zip(cross_ports) {
            cross.bind(&graph.memory, layout, ports, is_first, &mut binding).map_err(failed)?;
        }
        binding.bind_output_to_device(Scores::NAME, graph.memory.info()).map_err(failed)?;
        let returned = self.ports.cross.as_ref().filter(|ports| is_first && !ports.is_given);
        let cross_cache = returned.iter().flat_map(|ports| &ports.cache);
        for (_, present) in self.ports.cache.iter().chain(cross_cache) {
            binding.bind_output_to_device(present, graph.memory.info()).map_err(failed)?;
        }
        // The nodes of a prefill take much memory.
        let options = graph.releasing.as_ref().filter(|_| n_new > 1 || is_first);
        let mut outputs = run_bound(&mut graph.session, &binding, options).map_err(failed)?;
        let missing = |output: &str| RunError::new(name, format!("no output `{output}`"));
        let scores = outputs.get(Scores::NAME);
        let (dtype, vocab_size) = (self.ports.logits_dtype, self.vocab_size);
        Scores::from_output(name, &graph.memory, scores, dtype, vocab_size)?
            .read_last(&mut read)?;
        let mut tensors = Vec::with_capacity(past.tensors.len());
        for (_, present) in &self.ports.cache {
            let value = outputs.remove(present).ok_or_else(|| missing(present))?;
            tensors.push(RowTensor::from_output(self.ports.cache_dtype, value).map_err(failed)?);
        }
        let mut cross = past.cross.clone();
        if let Some(ports) = returned
            && let Some(first) = cross.take()
        {
            let kept = first.with_cache(layout, ports, &mut outputs).map_err(missing)?;
            cross = Some(kept.map_err(failed)?);
        }
        Ok(Past { tensors, n_columns: past.n_columns + n_new, cross })
    }
}
