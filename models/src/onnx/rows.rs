//! Tensors of rows that grow along an axis: caches of keys and values, and states of an encoder.
//!
//! The last axis but one holds *columns*. Rows are aligned at their ends: where they are of unequal
//! length, a shorter one has zeros before its own columns.

use half::f16;
use ort::{
    memory::Allocator,
    session::SessionInputValue,
    value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor},
};

use super::Dtype;
use crate::tensors::Tensor;

/// Some rows, `[B, heads, columns, dim]` or `[B, columns, dim]`.
#[derive(Debug)]
pub(super) enum RowTensor {
    F32(OrtTensor<f32>),
    F16(OrtTensor<f16>),
}

/// A row of a tensor: its last `n_columns` columns count.
#[derive(Clone, Copy)]
pub(super) struct RowPart<'a> {
    pub(super) tensor: &'a RowTensor,
    pub(super) row_idx: usize,
    pub(super) n_columns: usize,
}

impl RowTensor {
    /// Lays rows out in a new tensor of `shape`, one after another.
    pub(super) fn laid(
        dtype: Dtype,
        shape: &[usize],
        rows: &[RowPart<'_>],
    ) -> Result<Self, ort::Error> {
        match dtype {
            Dtype::F16 => lay(shape, rows, |tensor| match tensor {
                Self::F16(tensor) => Some(tensor),
                Self::F32(_) => None,
            })
            .map(Self::F16),
            _ => lay(shape, rows, |tensor| match tensor {
                Self::F32(tensor) => Some(tensor),
                Self::F16(_) => None,
            })
            .map(Self::F32),
        }
    }

    /// Makes a tensor `[B, n_columns, dim]` of rows `[columns, dim]` in host memory.
    pub(super) fn of_states(
        dtype: Dtype,
        n_columns: usize,
        dim: usize,
        rows: &[&Tensor<f32>],
    ) -> Result<Self, ort::Error> {
        let shape = [rows.len(), n_columns, dim];
        match dtype {
            Dtype::F16 => copied(shape, rows, f16::from_f32).map(Self::F16),
            _ => copied(shape, rows, |value| value).map(Self::F32),
        }
    }

    /// Takes an output of a graph.
    pub(super) fn of_output(dtype: Dtype, value: DynValue) -> Result<Self, ort::Error> {
        Ok(match dtype {
            Dtype::F16 => Self::F16(value.downcast()?),
            _ => Self::F32(value.downcast()?),
        })
    }

    /// Returns the tensor as the input of a graph.
    pub(super) fn feed(&self) -> SessionInputValue<'_> {
        match self {
            Self::F32(tensor) => tensor.into(),
            Self::F16(tensor) => tensor.into(),
        }
    }

    /// Returns the columns of every row.
    pub(super) fn n_columns(&self) -> usize {
        let shape = match self {
            Self::F32(tensor) => tensor.shape(),
            Self::F16(tensor) => tensor.shape(),
        };
        let columns = shape.len().checked_sub(2).and_then(|axis| shape.get(axis));
        columns.and_then(|n| usize::try_from(*n).ok()).unwrap_or(0)
    }
}

/// Copies rows into a new tensor of `shape`, each against its end; the rest is zero.
fn lay<'a, T>(
    shape: &[usize],
    rows: &[RowPart<'a>],
    typed: impl Fn(&'a RowTensor) -> Option<&'a OrtTensor<T>>,
) -> Result<OrtTensor<T>, ort::Error>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Copy + Default + 'static,
{
    let [heads @ .., n_columns, dim] = shape.get(1..).unwrap_or_default() else {
        return OrtTensor::<T>::new(&Allocator::default(), shape.to_vec());
    };
    let heads: usize = heads.iter().product();
    let mut tensor = OrtTensor::<T>::new(&Allocator::default(), shape.to_vec())?;
    let (_, target) = tensor.extract_tensor_mut();
    target.fill(T::default());
    for (row_idx, row) in rows.iter().enumerate() {
        let Some((_, source)) = typed(row.tensor).map(OrtTensor::extract_tensor) else {
            continue;
        };
        let (from_columns, len) = (row.tensor.n_columns(), row.n_columns * dim);
        for head_idx in 0..heads {
            let end = ((row_idx * heads + head_idx) + 1) * n_columns * dim;
            let from_end = ((row.row_idx * heads + head_idx) + 1) * from_columns * dim;
            target[end - len..end].copy_from_slice(&source[from_end - len..from_end]);
        }
    }
    Ok(tensor)
}

fn copied<T>(
    shape: [usize; 3],
    rows: &[&Tensor<f32>],
    convert: impl Fn(f32) -> T,
) -> Result<OrtTensor<T>, ort::Error>
where
    T: PrimitiveTensorElementType + std::fmt::Debug + Copy + Default + 'static,
{
    let mut tensor = OrtTensor::<T>::new(&Allocator::default(), shape)?;
    let (_, target) = tensor.extract_tensor_mut();
    target.fill(T::default());
    let row_len = shape[1] * shape[2];
    for (row_idx, row) in rows.iter().enumerate() {
        let end = (row_idx + 1) * row_len;
        let places = &mut target[end - row.data().len()..end];
        for (place, value) in places.iter_mut().zip(row.data()) {
            *place = convert(*value);
        }
    }
    Ok(tensor)
}
