//! Batched row tensors: KV caches and encoder states.
//!
//! The last axis but one holds *columns*. Rows of different length are right-aligned along it: a
//! shorter one has zeros before its own columns.

use half::f16;
use ort::{
    session::IoBinding,
    value::{DynValue, Tensor as OrtTensor},
};

use super::{
    Dtype,
    memory::{Blocks, Element, Memory},
};

/// A batch of rows, `[B, heads, columns, dim]` or `[B, columns, dim]`.
#[derive(Debug)]
pub(super) enum RowTensor {
    F32(OrtTensor<f32>),
    F16(OrtTensor<f16>),
}

/// A row of a tensor. Its last `n_columns` columns are valid.
#[derive(Clone, Copy)]
pub(super) struct RowPart<'a> {
    pub(super) tensor: &'a RowTensor,
    pub(super) row_idx: usize,
    pub(super) n_columns: usize,
}

impl RowTensor {
    /// Allocates a tensor of zeros.
    pub(super) fn zeros(
        memory: &Memory,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Self, ort::Error> {
        Ok(match dtype {
            Dtype::F16 => Self::F16(memory.zeros(shape)?),
            _ => Self::F32(memory.zeros(shape)?),
        })
    }

    /// Gathers rows into a new tensor of `shape`, one after another.
    pub(super) fn gather(
        memory: &Memory,
        dtype: Dtype,
        shape: &[usize],
        rows: &[RowPart<'_>],
    ) -> Result<Self, ort::Error> {
        match dtype {
            Dtype::F16 => gather_rows(memory, shape, rows, |tensor| match tensor {
                Self::F16(tensor) => Some(tensor),
                Self::F32(_) => None,
            })
            .map(Self::F16),
            _ => gather_rows(memory, shape, rows, |tensor| match tensor {
                Self::F32(tensor) => Some(tensor),
                Self::F16(_) => None,
            })
            .map(Self::F32),
        }
    }

    /// Creates a tensor of `shape` from rows in host memory, right-aligned.
    pub(super) fn from_host(
        memory: &Memory,
        dtype: Dtype,
        shape: &[usize],
        rows: &[&[f32]],
    ) -> Result<Self, ort::Error> {
        match dtype {
            Dtype::F16 => memory.take(copied(shape, rows, f16::from_f32)?).map(Self::F16),
            _ => memory.take(copied(shape, rows, |value| value)?).map(Self::F32),
        }
    }

    /// Wraps an output of a graph.
    pub(super) fn from_output(dtype: Dtype, value: DynValue) -> Result<Self, ort::Error> {
        Ok(match dtype {
            Dtype::F16 => Self::F16(value.downcast()?),
            _ => Self::F32(value.downcast()?),
        })
    }

    /// Copies the first `n_columns` columns of a row of another tensor `[B, heads, columns, dim]`
    /// of the same type into a row of this one.
    pub(super) fn copy_row(
        &mut self,
        memory: &Memory,
        row_idx: usize,
        (from, from_row_idx): (&Self, usize),
        n_columns: usize,
    ) -> Result<(), ort::Error> {
        fn copy<T: Element>(
            memory: &Memory,
            (target, row_idx): (&mut OrtTensor<T>, usize),
            (source, from_row_idx): (&OrtTensor<T>, usize),
            n_columns: usize,
        ) -> Result<(), ort::Error> {
            let [_, heads, columns, dim] = dims(target.shape());
            let [_, _, from_columns, _] = dims(source.shape());
            let (stride, from_stride) = (columns * dim, from_columns * dim);
            let blocks = Blocks {
                from: from_row_idx * heads * from_stride,
                from_stride,
                to: row_idx * heads * stride,
                to_stride: stride,
                len: n_columns * dim,
                n: heads,
            };
            memory.copy(target, [(source, blocks)])
        }
        match (self, from) {
            (Self::F32(target), Self::F32(source)) => {
                copy(memory, (target, row_idx), (source, from_row_idx), n_columns)
            }
            (Self::F16(target), Self::F16(source)) => {
                copy(memory, (target, row_idx), (source, from_row_idx), n_columns)
            }
            _ => Err(ort::Error::new("rows have different data types")),
        }
    }

    /// Binds the tensor as an input of a graph.
    pub(super) fn bind_input(&self, binding: &mut IoBinding, name: &str) -> Result<(), ort::Error> {
        match self {
            Self::F32(tensor) => binding.bind_input(name, tensor),
            Self::F16(tensor) => binding.bind_input(name, tensor),
        }
    }

    /// Binds the tensor as the buffer for an output of a graph.
    pub(super) fn bind_output(
        &mut self,
        binding: &mut IoBinding,
        name: &str,
    ) -> Result<(), ort::Error> {
        match self {
            Self::F32(tensor) => binding.bind_output(name, tensor),
            Self::F16(tensor) => binding.bind_output(name, tensor),
        }
    }

    /// Returns the number of columns.
    pub(super) fn n_columns(&self) -> usize {
        let shape = match self {
            Self::F32(tensor) => tensor.shape(),
            Self::F16(tensor) => tensor.shape(),
        };
        dims(shape)[2]
    }
}

/// Returns rows, heads (1 if there is no such axis), columns and column size.
fn dims(shape: &[i64]) -> [usize; 4] {
    let dim = |idx: Option<usize>| {
        idx.and_then(|idx| shape.get(idx)).and_then(|n| usize::try_from(*n).ok()).unwrap_or(0)
    };
    let rank = shape.len();
    let heads = if rank == 4 { dim(Some(1)) } else { 1 };
    [dim(Some(0)), heads, dim(rank.checked_sub(2)), dim(rank.checked_sub(1))]
}

/// Copies rows into a new tensor of `shape`, right-aligned and zero-padded.
fn gather_rows<'a, T: Element>(
    memory: &Memory,
    shape: &[usize],
    rows: &[RowPart<'a>],
    typed: impl Fn(&'a RowTensor) -> Option<&'a OrtTensor<T>>,
) -> Result<OrtTensor<T>, ort::Error> {
    let mut tensor = memory.zeros::<T>(shape)?;
    let [_, heads, n_columns, dim] = dims(tensor.shape());
    let stride = n_columns * dim;
    let sources = rows.iter().enumerate().filter_map(|(row_idx, row)| {
        let source = typed(row.tensor)?;
        let (from_stride, len) = (row.tensor.n_columns() * dim, row.n_columns * dim);
        let blocks = Blocks {
            from: row.row_idx * heads * from_stride + from_stride - len,
            from_stride,
            to: row_idx * heads * stride + stride - len,
            to_stride: stride,
            len,
            n: heads,
        };
        Some((source, blocks))
    });
    memory.copy(&mut tensor, sources)?;
    Ok(tensor)
}

fn copied<T: Element>(
    shape: &[usize],
    rows: &[&[f32]],
    convert: impl Fn(f32) -> T,
) -> Result<OrtTensor<T>, ort::Error> {
    let mut values = vec![T::default(); shape.iter().product()];
    let row_len: usize = shape.iter().skip(1).product();
    if rows.len() * row_len != values.len() || rows.iter().any(|row| row.len() > row_len) {
        return Err(ort::Error::new("rows do not fit into the tensor"));
    }
    for (row_idx, row) in rows.iter().enumerate() {
        let end = (row_idx + 1) * row_len;
        let places = &mut values[end - row.len()..end];
        for (place, value) in places.iter_mut().zip(*row) {
            *place = convert(*value);
        }
    }
    OrtTensor::from_array((shape.to_vec(), values))
}
