//! What goes into a run of a decoder graph beside what it keeps.

use half::f16;
use ort::{
    session::IoBinding,
    value::{PrimitiveTensorElementType, Tensor as OrtTensor},
};

use super::Dtype;
use crate::tensors::Tensor;

/// The tokens of a run.
pub(crate) enum Tokens {
    /// `[B, S]`
    Ids(Tensor<i64>),
    /// `[B, S, C]`
    Embeds(Tensor<f32>),
}

impl Tokens {
    /// Returns the positions of each row.
    pub(super) fn n_positions(&self) -> usize {
        let shape = match self {
            Self::Ids(ids) => ids.shape(),
            Self::Embeds(embeds) => embeds.shape(),
        };
        shape.get(1).copied().unwrap_or(0)
    }

    /// Makes the tokens an input of the runs of a graph that takes them in type `dtype`.
    pub(super) fn bind(self, binding: &mut IoBinding, dtype: Dtype) -> Result<(), ort::Error> {
        const IDS: &str = "input_ids";
        const EMBEDS: &str = "inputs_embeds";
        match self {
            Self::Ids(ids) if dtype == Dtype::I32 => {
                let shape = ids.shape().to_vec();
                // A vocabulary is far smaller than 2^31.
                let narrow = ids.into_data().into_iter();
                let narrow: Vec<i32> =
                    narrow.map(|id| i32::try_from(id).unwrap_or(i32::MAX)).collect();
                binding.bind_input(IDS, &OrtTensor::from_array((shape, narrow))?)
            }
            Self::Ids(ids) => bind(binding, IDS, ids),
            Self::Embeds(embeds) if dtype == Dtype::F16 => {
                let shape = embeds.shape().to_vec();
                let halves: Vec<f16> = embeds.into_data().into_iter().map(f16::from_f32).collect();
                binding.bind_input(EMBEDS, &OrtTensor::from_array((shape, halves))?)
            }
            Self::Embeds(embeds) => bind(binding, EMBEDS, embeds),
        }
    }
}

/// Makes a tensor an input of the runs of a graph.
pub(super) fn bind<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    binding: &mut IoBinding,
    name: &str,
    tensor: Tensor<T>,
) -> Result<(), ort::Error> {
    let shape = tensor.shape().to_vec();
    binding.bind_input(name, &OrtTensor::from_array((shape, tensor.into_data()))?)
}

/// Makes the number of last positions whose scores are wanted an input of the runs of a graph.
pub(super) fn bind_logits_to_keep(
    binding: &mut IoBinding,
    n_positions: usize,
) -> Result<(), ort::Error> {
    let shape: [usize; 0] = [];
    let n_positions = i64::try_from(n_positions).unwrap_or(i64::MAX);
    binding.bind_input("num_logits_to_keep", &OrtTensor::from_array((shape, vec![n_positions]))?)
}
