//! The encoder graph of an encoder-decoder.

use super::{Dtype, Feed, GraphSession, RunError, SessionError};
use crate::tensors::{ShapeError, Tensor};

/// An encoder from media or token IDs to states.
///
/// | name | dtype | shape | side |
/// |---|---|---|---|
/// | `input_ids`, `pixel_values`, `input_features`, `audio_features` or `input_values` | `i64`, `f32` or `f16` | `[B, ...]` | in |
/// | `attention_mask` | `i64` | `[B, T]` | in, optional |
/// | `last_hidden_state` | `f32` or `f16` | `[B, T', C]` | out |
/// | or `present_key_cross_N` and `present_value_cross_N` | `f32` or `f16` | `[B, heads, T', dim]` | out |
#[derive(Debug)]
pub(crate) struct EncoderGraph {
    graph: GraphSession,
    input: &'static str,
    takes_mask: bool,
    /// The states, or their keys and values in the order of their names.
    outputs: Vec<String>,
}

const OUTPUT: &str = "last_hidden_state";
const CACHES: [&str; 2] = ["present_key_cross_", "present_value_cross_"];
const MASK: &str = "attention_mask";

impl EncoderGraph {
    /// Wraps an opened graph whose samples are bound to `input`.
    pub(crate) fn new(
        graph: GraphSession,
        input: &'static str,
        is_text: bool,
    ) -> Result<Self, SessionError> {
        let is_cache = |name: &&str| CACHES.iter().any(|start| name.starts_with(start));
        let mut outputs: Vec<String> =
            graph.output_names().filter(is_cache).map(str::to_owned).collect();
        outputs.sort_unstable();
        if outputs.is_empty() || graph.has_output(OUTPUT) {
            outputs = vec![OUTPUT.to_owned()];
        }
        for output in &outputs {
            graph.expect_map(input, if is_text { Dtype::I64 } else { Dtype::F32 }, output)?;
        }
        graph.expect_no_inputs_but(&[input, MASK])?;
        let takes_mask = graph.input_names().any(|name| name == MASK);
        if takes_mask {
            graph.expect_input(MASK, Dtype::I64)?;
        }
        Ok(Self { graph, input, takes_mask, outputs })
    }

    /// Returns the name of the graph, for errors.
    pub(crate) fn name(&self) -> &'static str {
        self.graph.name()
    }

    /// Returns the maximum batch size: 1 if the graph mixes rows, else `usual`.
    pub(crate) fn rows_max(&self, usual: usize) -> usize {
        self.graph.rows_max(usual)
    }

    /// Returns whether the graph has a mask input.
    pub(crate) fn takes_mask(&self) -> bool {
        self.takes_mask
    }

    /// Encodes a batch to `[B, T', C]`, or to `[B, N, heads, T', dim]` if the graph returns `N`
    /// keys and values, in the order of their names.
    pub(crate) fn run(
        &mut self,
        batch: Feed<'_>,
        mask: Option<&Tensor<i64>>,
    ) -> Result<Tensor<f32>, RunError> {
        let mut feeds = vec![(self.input, batch)];
        feeds.extend(mask.filter(|_| self.takes_mask).map(|mask| (MASK, Feed::I64(mask))));
        let outputs: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let mut found = self.graph.run_for(&feeds, &outputs)?;
        if outputs == [OUTPUT] {
            return Ok(found.swap_remove(0));
        }
        stacked(&found).map_err(|error| RunError::new(self.name(), error))
    }
}

/// Stacks tensors `[B, ...]` of one shape to `[B, N, ...]`.
fn stacked(tensors: &[Tensor<f32>]) -> Result<Tensor<f32>, ShapeError> {
    let (n_rows, inner) = tensors.first().map_or((0, &[][..]), |tensor| {
        (tensor.rows(), tensor.shape().get(1..).unwrap_or_default())
    });
    let rows = 0..n_rows;
    let data = rows.flat_map(|row_idx| tensors.iter().flat_map(move |t| t.row(row_idx))).copied();
    Tensor::new([&[n_rows, tensors.len()], inner].concat(), data.collect())
}
