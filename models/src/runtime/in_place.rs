//! Decoder graphs that update their KV cache in place.
//!
//! A KV cache is one tensor `[rows, heads, MAX, dim]` per layer and kind, bound as both the past
//! and the present of the graph: the graph writes the new positions into it and copies nothing. The
//! valid length of a row is given by `nonpad_kv_seqlen`, or by the sum of its `attention_mask` in
//! graphs with `GroupQueryAttention`. Positions after it are never read as keys, but must be
//! finite, so caches are initialized with zeros.

use ort::{session::IoBinding, value::Tensor as OrtTensor};

use super::{
    Adapter, DecoderDims, DecoderPorts, Dtype, GraphSession, RunError, SessionError, Tokens,
    inputs::{bind, bind_logits_to_keep},
    rows::RowTensor,
    scores::Scores,
    session::run_bound,
};
use crate::{graph::Dialect, tensors::Tensor};

/// A decoder graph of the in-place dialect.
///
/// | name | dtype | shape | side |
/// |---|---|---|---|
/// | `inputs_embeds` or `input_ids` | `f32` or `f16`, `i64` | `[B, S, C]`, `[B, S]` | in |
/// | `position_ids` | `i64` | `[B, S]` or `[3, B, S]` | in, optional |
/// | `write_indices`, `nonpad_kv_seqlen` | `i64` | `[B]` | in, or instead: |
/// | `attention_mask` | `i64` | `[B, longest]`, ones then zeros | in |
/// | `num_logits_to_keep` | `i64` | `[]` | in, optional |
/// | `past_key_values.{i}.key`, `.value` | `f32` or `f16` | `[B, heads, MAX, dim]` | in |
/// | `logits` | `f32` or `f16` | `[B, S or kept, V]` | out |
/// | `present.{i}.key`, `.value` | as past | `[B, heads, MAX, dim]` | out |
#[derive(Debug)]
pub(crate) struct InPlaceGraph {
    graph: GraphSession,
    ports: DecoderPorts,
    heads: usize,
    head_dim: usize,
    vocab_size: usize,
    adapters: Vec<Option<Adapter>>,
}

/// The KV cache of a fixed number of rows, bound to a graph.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Rows, heads, positions, head size.
    shape: [usize; 4],
    tensors: Vec<RowTensor>,
    binding: IoBinding,
    /// The number of logit positions in the last run. The binding reuses that output buffer in the
    /// next run, which saves an allocation per step but requires the same shape.
    n_logits: Option<usize>,
}

/// The inputs of one run besides the KV cache. `B` is the number of rows of the cache.
pub(crate) struct StepInputs {
    pub(crate) tokens: Tokens,
    pub(crate) position_ids: Tensor<i64>,
    pub(crate) write_indices: Vec<i64>,
    pub(crate) nonpad_kv_seqlen: Vec<i64>,
    /// The number of trailing positions whose logits are needed; all of them if the graph cannot
    /// select.
    pub(crate) n_logits: usize,
}

impl InPlaceGraph {
    /// Wraps an opened graph of this dialect.
    ///
    /// The number of heads, head size and vocabulary size come from the config, because the shapes
    /// in the graph may be symbolic. Concrete shapes must match.
    pub(crate) fn new(
        graph: GraphSession,
        ports: DecoderPorts,
        dims: DecoderDims,
    ) -> Result<Self, SessionError> {
        // The CUDA kernel supports only fp16. For fp32, ONNX Runtime falls back to the CPU, where
        // the cache is not written in place and the results are wrong (seen with 1.31.1).
        if ports.dialect == Dialect::InPlaceMask
            && ports.cache_dtype == Dtype::F32
            && graph.memory.is_cuda()
        {
            return Err(SessionError::NotOnCuda {
                graph: graph.name().to_owned(),
                operator: "GroupQueryAttention",
            });
        }
        let DecoderDims { heads, head_dim, vocab_size } = dims;
        let [heads_dim, head_size_dim, vocab_dim] =
            [heads, head_dim, vocab_size].map(|dim| i64::try_from(dim).unwrap_or(-1));
        graph.expect_dims("logits", &[-1, -1, vocab_dim])?;
        for (past, _) in &ports.cache {
            graph.expect_dims(past, &[-1, heads_dim, -1, head_size_dim])?;
        }
        Ok(Self { graph, ports, heads, head_dim, vocab_size, adapters: Vec::new() })
    }

    /// Adds the adapters that runs may use.
    pub(crate) fn with_adapters(self, adapters: Vec<Option<Adapter>>) -> Self {
        Self { adapters, ..self }
    }

    /// Returns whether the graph can skip logits that are not needed.
    pub(crate) fn takes_logits_to_keep(&self) -> bool {
        self.ports.takes_logits_to_keep
    }

    /// Returns the number of position axes.
    pub(crate) fn position_axes(&self) -> usize {
        self.ports.position_axes
    }

    /// Returns the name of the graph, for errors.
    pub(crate) fn name(&self) -> &'static str {
        self.graph.name
    }

    /// Allocates a zeroed and bound KV cache of `n_rows` rows of at most `capacity_tokens`, whose
    /// runs use the given adapter, if any.
    pub(crate) fn new_cache(
        &self,
        n_rows: usize,
        capacity_tokens: usize,
        adapter: Option<usize>,
    ) -> Result<Cache, SessionError> {
        let shape = [n_rows, self.heads, capacity_tokens, self.head_dim];
        let dtype = self.ports.cache_dtype;
        let n_bytes = shape.iter().product::<usize>() * dtype.size() * self.ports.cache.len();
        let failed = |source| SessionError::Allocate { n_bytes, source };
        let mut binding = self.graph.session.create_binding().map_err(failed)?;
        let adapter = adapter.and_then(|number| self.adapters.get(number)?.as_ref());
        adapter.map_or(Ok(()), |adapter| adapter.bind(&mut binding)).map_err(failed)?;
        let mut tensors = Vec::with_capacity(self.ports.cache.len());
        for (past, present) in &self.ports.cache {
            let mut tensor = RowTensor::zeros(&self.graph.memory, dtype, &shape).map_err(failed)?;
            tensor.bind_input(&mut binding, past).map_err(failed)?;
            tensor.bind_output(&mut binding, present).map_err(failed)?;
            tensors.push(tensor);
        }
        Ok(Cache { shape, tensors, binding, n_logits: None })
    }

    /// Returns whether the cache is in the memory of a CUDA device.
    pub(crate) fn is_on_cuda(&self) -> bool {
        self.graph.memory.is_cuda()
    }

    /// Runs the graph on all rows of `cache` and passes the logits `[B, n_logits, V]` to `read`.
    pub(crate) fn run(
        &mut self,
        cache: &mut Cache,
        inputs: StepInputs,
        read: impl FnOnce(&Scores<'_>) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        let graph = self.graph.name;
        let failed = |error: ort::Error| RunError::new(graph, error);
        let n_rows = cache.n_rows();
        // The nodes of a prefill take much memory, and those of all steps the same.
        let releases = inputs.tokens.n_positions() > 1;
        let binding = &mut cache.binding;
        inputs.tokens.bind(binding, &self.ports).map_err(failed)?;
        if self.ports.takes_positions {
            bind(binding, "position_ids", inputs.position_ids).map_err(failed)?;
        }
        if self.ports.dialect == Dialect::InPlaceMask {
            let (shape, mask) = mask(&inputs.nonpad_kv_seqlen);
            let mask = OrtTensor::from_array((shape, mask)).map_err(failed)?;
            binding.bind_input("attention_mask", &mask).map_err(failed)?;
        } else {
            let rows = [
                ("write_indices", inputs.write_indices),
                ("nonpad_kv_seqlen", inputs.nonpad_kv_seqlen),
            ];
            for (name, values) in rows {
                let values = OrtTensor::from_array(([n_rows], values)).map_err(failed)?;
                binding.bind_input(name, &values).map_err(failed)?;
            }
        }
        if self.ports.takes_logits_to_keep {
            bind_logits_to_keep(binding, inputs.n_logits).map_err(failed)?;
        }
        let memory = &self.graph.memory;
        if cache.n_logits != Some(inputs.n_logits) {
            binding.bind_output_to_device(Scores::NAME, memory.info()).map_err(failed)?;
            cache.n_logits = Some(inputs.n_logits);
        }
        let options = self.graph.releasing.as_ref().filter(|_| releases);
        let outputs = run_bound(&mut self.graph.session, binding, options).map_err(failed)?;
        let (scores, dtype) = (outputs.get(Scores::NAME), self.ports.logits_dtype);
        let scores = Scores::from_output(graph, memory, scores, dtype, self.vocab_size)?;
        scores.expect(n_rows, inputs.n_logits)?;
        read(&scores)
    }

    /// Copies the first `n_tokens` positions of a row to a row of another KV cache of the same
    /// graph. Both must have the capacity.
    pub(crate) fn copy_row(
        &self,
        (to, row_idx): (&mut Cache, usize),
        (from, from_row_idx): (&Cache, usize),
        n_tokens: usize,
    ) -> Result<(), RunError> {
        for (target, source) in to.tensors.iter_mut().zip(&from.tensors) {
            target
                .copy_row(&self.graph.memory, row_idx, (source, from_row_idx), n_tokens)
                .map_err(|error| RunError::new(self.name(), error))?;
        }
        Ok(())
    }
}

/// Builds the mask: `length` ones per row, then zeros up to the longest.
fn mask(lengths: &[i64]) -> ([usize; 2], Vec<i64>) {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let mask: Vec<i64> = lengths
        .iter()
        .flat_map(|length| (0..longest).map(move |column| i64::from(column < *length)))
        .collect();
    ([lengths.len(), usize::try_from(longest).unwrap_or(0)], mask)
}

impl Cache {
    /// Returns the number of rows.
    pub(crate) fn n_rows(&self) -> usize {
        self.shape[0]
    }

    /// Returns the capacity of a row in tokens.
    pub(crate) fn capacity_tokens(&self) -> usize {
        self.shape[2]
    }
}
