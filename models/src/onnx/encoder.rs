//! The encoder graph of an encoder-decoder.

use std::borrow::Cow;

use half::f16;
use ort::{
    session::SessionInputValue,
    value::{Tensor as OrtTensor, TensorRef},
};

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
    input_dtype: Dtype,
    output_dtype: Dtype,
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
        let dtype = |name: &str| match graph.dtype_of(name) {
            Some(Dtype::F16) => Dtype::F16,
            _ => Dtype::F32,
        };
        let input_dtype = if is_text { Dtype::I64 } else { dtype(input) };
        let output_dtype = dtype(OUTPUT);
        graph.expect_input(input, input_dtype)?;
        graph.expect_output(OUTPUT, output_dtype)?;
        if let Some(name) = graph.input_names().find(|name| *name != input && *name != MASK) {
            let (graph, name) = (graph.name().to_owned(), name.to_owned());
            return Err(SessionError::UnknownInput { graph, name });
        }
        let takes_mask = graph.input_names().any(|name| name == MASK);
        if takes_mask {
            graph.expect_input(MASK, Dtype::I64)?;
        }
        Ok(Self { graph, input, input_dtype, output_dtype, takes_mask })
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
        let graph = self.graph.name;
        let failed =
            |error: ort::Error| RunError { graph: graph.to_owned(), message: error.to_string() };
        let value: SessionInputValue<'_> = match batch {
            Feed::F32(tensor) if self.input_dtype == Dtype::F16 => {
                let halves: Vec<f16> = tensor.data().iter().copied().map(f16::from_f32).collect();
                OrtTensor::from_array((tensor.shape(), halves)).map_err(failed)?.into()
            }
            Feed::F32(tensor) => {
                TensorRef::from_array_view((tensor.shape(), tensor.data())).map_err(failed)?.into()
            }
            Feed::I64(tensor) => {
                TensorRef::from_array_view((tensor.shape(), tensor.data())).map_err(failed)?.into()
            }
        };
        let mut feeds = vec![(Cow::Borrowed(self.input), value)];
        if let Some(mask) = mask.filter(|_| self.takes_mask) {
            let view = TensorRef::from_array_view((mask.shape(), mask.data())).map_err(failed)?;
            feeds.push((Cow::Borrowed(MASK), view.into()));
        }
        let outputs = self.graph.session.run(feeds).map_err(failed)?;
        let output = outputs.get(OUTPUT).ok_or_else(|| RunError {
            graph: graph.to_owned(),
            message: format!("no output `{OUTPUT}`"),
        })?;
        let (shape, data) = if self.output_dtype == Dtype::F16 {
            let (shape, data) = output.try_extract_tensor::<f16>().map_err(failed)?;
            (shape, data.iter().map(|value| value.to_f32()).collect())
        } else {
            let (shape, data) = output.try_extract_tensor::<f32>().map_err(failed)?;
            (shape, data.to_vec())
        };
        let shape: Vec<usize> =
            shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
        Tensor::new(shape, data)
            .map_err(|error| RunError { graph: graph.to_owned(), message: error.to_string() })
    }
}
