//! The encoder graph of an encoder-decoder.

use super::{Dtype, Feed, GraphSession, RunError, SessionError};
use crate::tensors::Tensor;

/// An encoder: media or token ids to states.
///
/// | name | dtype | shape | side |
/// |---|---|---|---|
/// | `input_ids`, `pixel_values`, `input_features` or `input_values` | `i64`, `f32` or `f16` | `[B, ...]` | in |
/// | `attention_mask` | `i64` | `[B, T]` | in, optional |
/// | `last_hidden_state` | `f32` or `f16` | `[B, T', C]` | out |
#[derive(Debug)]
pub(crate) struct EncoderGraph {
    graph: GraphSession,
    input: &'static str,
    takes_mask: bool,
}

const OUTPUT: &str = "last_hidden_state";
const MASK: &str = "attention_mask";

impl EncoderGraph {
    /// Takes an opened graph whose samples go to `input`.
    pub(crate) fn new(
        graph: GraphSession,
        input: &'static str,
        is_text: bool,
    ) -> Result<Self, SessionError> {
        graph.expect_map(input, if is_text { Dtype::I64 } else { Dtype::F32 }, OUTPUT)?;
        graph.expect_no_inputs_but(&[input, MASK])?;
        let takes_mask = graph.input_names().any(|name| name == MASK);
        if takes_mask {
            graph.expect_input(MASK, Dtype::I64)?;
        }
        Ok(Self { graph, input, takes_mask })
    }

    /// Returns the graph's name, for errors.
    pub(crate) fn name(&self) -> &'static str {
        self.graph.name()
    }

    /// Returns whether the graph takes a mask.
    pub(crate) fn takes_mask(&self) -> bool {
        self.takes_mask
    }

    /// Encodes a batch.
    pub(crate) fn run(
        &mut self,
        batch: Feed<'_>,
        mask: Option<&Tensor<i64>>,
    ) -> Result<Tensor<f32>, RunError> {
        let mut feeds = vec![(self.input, batch)];
        feeds.extend(mask.filter(|_| self.takes_mask).map(|mask| (MASK, Feed::I64(mask))));
        self.graph.run_on(&feeds, OUTPUT)
    }
}
