//! The types of a graph's inputs and outputs, and the tensors passed to it.

use half::f16;
use ort::{
    session::SessionInputValue,
    value::{Tensor as OrtTensor, TensorElementType, TensorRef},
};

use crate::tensors::Tensor;

/// The data types of graph inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    F32,
    F16,
    I32,
    I64,
    Bool,
}

impl Dtype {
    pub(super) fn element(self) -> TensorElementType {
        match self {
            Self::F32 => TensorElementType::Float32,
            Self::F16 => TensorElementType::Float16,
            Self::I32 => TensorElementType::Int32,
            Self::I64 => TensorElementType::Int64,
            Self::Bool => TensorElementType::Bool,
        }
    }

    /// Returns the size of an element in bytes.
    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<f16>(),
            Self::I32 => size_of::<i32>(),
            Self::I64 => size_of::<i64>(),
            Self::Bool => size_of::<bool>(),
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::Bool => "bool",
        }
    }
}

/// A tensor passed to a graph. `F32` is converted if the graph takes fp16, and a mask is converted
/// to numbers if the graph takes those.
#[derive(Clone, Copy)]
pub(crate) enum Feed<'a> {
    F32(&'a Tensor<f32>),
    I64(&'a Tensor<i64>),
    Bool(&'a Tensor<bool>),
}

impl<'a> Feed<'a> {
    /// Converts it to the value for an input of type `wanted`.
    pub(super) fn value(self, wanted: Option<Dtype>) -> Result<SessionInputValue<'a>, ort::Error> {
        Ok(match self {
            Self::F32(tensor) if wanted == Some(Dtype::F16) => {
                let halves: Vec<f16> = tensor.data().iter().map(|x| f16::from_f32(*x)).collect();
                OrtTensor::from_array((tensor.shape(), halves))?.into()
            }
            Self::F32(tensor) => {
                TensorRef::from_array_view((tensor.shape(), tensor.data()))?.into()
            }
            Self::I64(tensor) => {
                TensorRef::from_array_view((tensor.shape(), tensor.data()))?.into()
            }
            Self::Bool(tensor) if wanted == Some(Dtype::I64) => {
                let numbers: Vec<i64> = tensor.data().iter().copied().map(i64::from).collect();
                OrtTensor::from_array((tensor.shape(), numbers))?.into()
            }
            Self::Bool(tensor) if matches!(wanted, Some(Dtype::F32 | Dtype::F16)) => {
                let numbers = tensor.data().iter().map(|is_set| f32::from(u8::from(*is_set)));
                if wanted == Some(Dtype::F16) {
                    let halves: Vec<f16> = numbers.map(f16::from_f32).collect();
                    OrtTensor::from_array((tensor.shape(), halves))?.into()
                } else {
                    OrtTensor::from_array((tensor.shape(), numbers.collect::<Vec<f32>>()))?.into()
                }
            }
            Self::Bool(tensor) => {
                TensorRef::from_array_view((tensor.shape(), tensor.data()))?.into()
            }
        })
    }
}
