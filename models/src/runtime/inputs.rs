//! The inputs of a decoder run besides its KV cache.

use half::f16;
use ort::{
    session::IoBinding,
    value::{PrimitiveTensorElementType, Tensor as OrtTensor},
};

use super::{DecoderPorts, Dtype};
use crate::tensors::Tensor;

/// The tokens of a run.
pub(crate) enum Tokens {
    /// `[B, S]`
    Ids(Tensor<i64>),
    Embeds(Embeds),
}

/// The tokens of a run as embeddings.
#[derive(Debug)]
pub(crate) struct Embeds {
    /// `[B, S, C]`
    pub(crate) values: Tensor<f32>,
    /// The per-layer inputs of each token, `[B, S, layers, N]` (Gemma 3n).
    pub(crate) per_layer: Option<Tensor<f32>>,
}

impl Tokens {
    /// Returns the number of positions per row.
    pub(super) fn n_positions(&self) -> usize {
        let shape = match self {
            Self::Ids(ids) => ids.shape(),
            Self::Embeds(embeds) => embeds.values.shape(),
        };
        shape.get(1).copied().unwrap_or(0)
    }

    /// Binds the tokens as an input of a graph.
    pub(super) fn bind(
        self,
        binding: &mut IoBinding,
        ports: &DecoderPorts,
    ) -> Result<(), ort::Error> {
        const IDS: &str = "input_ids";
        match self {
            Self::Ids(ids) if ports.tokens_dtype == Dtype::I32 => {
                let shape = ids.shape().to_vec();
                // Vocabularies are far smaller than 2^31.
                let narrow = ids.into_data().into_iter();
                let narrow: Vec<i32> =
                    narrow.map(|id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
                binding.bind_input(IDS, &OrtTensor::from_array((shape, narrow))?)
            }
            Self::Ids(ids) => bind(binding, IDS, ids),
            Self::Embeds(Embeds { values, per_layer }) => {
                bind_floats(binding, "inputs_embeds", values, ports.tokens_dtype)?;
                match per_layer.zip(ports.per_layer_dtype) {
                    Some((values, dtype)) => bind_floats(binding, Embeds::PER_LAYER, values, dtype),
                    None => Ok(()),
                }
            }
        }
    }
}

impl Embeds {
    /// The name of the per-layer inputs, in both the embedding graph and the decoder graph.
    pub(crate) const PER_LAYER: &str = "per_layer_inputs";
}

/// Binds a tensor as an input of a graph that takes it in single or half precision.
fn bind_floats(
    binding: &mut IoBinding,
    name: &str,
    tensor: Tensor<f32>,
    dtype: Dtype,
) -> Result<(), ort::Error> {
    if dtype != Dtype::F16 {
        return bind(binding, name, tensor);
    }
    let shape = tensor.shape().to_vec();
    let halves: Vec<f16> = tensor.into_data().into_iter().map(f16::from_f32).collect();
    binding.bind_input(name, &OrtTensor::from_array((shape, halves))?)
}

/// Binds a tensor as an input of a graph.
pub(super) fn bind<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    binding: &mut IoBinding,
    name: &str,
    tensor: Tensor<T>,
) -> Result<(), ort::Error> {
    let shape = tensor.shape().to_vec();
    binding.bind_input(name, &OrtTensor::from_array((shape, tensor.into_data()))?)
}

/// Binds the number of trailing positions whose logits are needed.
pub(super) fn bind_logits_to_keep(
    binding: &mut IoBinding,
    n_positions: usize,
) -> Result<(), ort::Error> {
    let shape: [usize; 0] = [];
    let n_positions = i64::try_from(n_positions).unwrap_or(i64::MAX);
    binding.bind_input("num_logits_to_keep", &OrtTensor::from_array((shape, vec![n_positions]))?)
}
