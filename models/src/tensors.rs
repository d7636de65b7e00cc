//! Dense tensors whose data always matches their shape.
//!
//! They are plain host memory; `runtime` copies values to a device.

use std::fmt;

/// A mismatch between a shape and the number of values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shape {shape:?} needs {expected} values, got {actual}")]
pub struct ShapeError {
    /// The requested shape.
    pub shape: Vec<usize>,
    /// The product of `shape`.
    pub expected: usize,
    /// The number of values given.
    pub actual: usize,
}

/// A dense row-major tensor in host memory; `data.len()` is always the product of `shape`.
#[derive(Clone, PartialEq)]
pub struct Tensor<T> {
    shape: Vec<usize>,
    data: Vec<T>,
}

impl<T> Tensor<T> {
    /// Creates a tensor from a shape and its values in row-major order.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if the product of `shape` is not the number of values.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<T>) -> Result<Self, ShapeError> {
        let shape = shape.into();
        let expected = shape.iter().product();
        if expected == data.len() {
            Ok(Self { shape, data })
        } else {
            Err(ShapeError { shape, expected, actual: data.len() })
        }
    }

    /// Returns the shape.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the values in row-major order.
    #[must_use]
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// Returns the values mutably; their number cannot change.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// Returns the size of the first dimension, or 1 for a scalar.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Returns the number of values in one row of the first dimension.
    #[must_use]
    pub fn row_len(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Returns the values of one row of the first dimension.
    ///
    /// # Panics
    ///
    /// If `row_idx` is not below [`rows`](Self::rows).
    #[must_use]
    pub fn row(&self, row_idx: usize) -> &[T] {
        let row_len = self.row_len();
        &self.data[row_idx * row_len..(row_idx + 1) * row_len]
    }

    /// Returns the size of the values in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.data.len() * size_of::<T>()
    }

    /// Returns the values and drops the shape.
    #[must_use]
    pub fn into_data(self) -> Vec<T> {
        self.data
    }
}

impl<T: Clone> Tensor<T> {
    /// Creates a tensor filled with one value.
    #[must_use]
    pub fn filled(shape: impl Into<Vec<usize>>, value: T) -> Self {
        let shape = shape.into();
        let len = shape.iter().product();
        Self { shape, data: vec![value; len] }
    }

    /// Concatenates tensors along their first dimension; the other dimensions are those of the
    /// first tensor.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if the total number of values does not match the resulting shape.
    pub fn concat(tensors: &[&Self]) -> Result<Self, ShapeError> {
        let inner = tensors.first().map_or(&[][..], |tensor| &tensor.shape[1..]);
        let n_rows: usize = tensors.iter().map(|tensor| tensor.rows()).sum();
        let data = tensors.iter().flat_map(|tensor| &tensor.data).cloned().collect();
        Self::new([&[n_rows], inner].concat(), data)
    }
}

impl<T: Clone + Default> Tensor<T> {
    /// Creates a tensor of default values (zero for numbers).
    #[must_use]
    pub fn zeros(shape: impl Into<Vec<usize>>) -> Self {
        Self::filled(shape, T::default())
    }
}

/// Prints only the shape: pixels and states must not appear in logs.
impl<T> fmt::Debug for Tensor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{:?}", self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_does_not_match_the_shape_is_rejected() {
        let error = Tensor::new([2, 3], vec![0_i64; 5]).unwrap_err();
        assert_eq!(error.to_string(), "shape [2, 3] needs 6 values, got 5");
    }

    #[test]
    fn concat_rejects_rows_of_another_size() {
        let (one, two) = (Tensor::filled([1, 2], 7), Tensor::filled([2, 2], 9));
        let joined = Tensor::concat(&[&one, &two]).unwrap();
        assert_eq!(
            (joined.shape(), joined.row(0), joined.row(2)),
            (&[3, 2][..], &[7, 7][..], &[9, 9][..])
        );
        assert!(Tensor::concat(&[&one, &Tensor::filled([1, 3], 9)]).is_err());
    }

    #[test]
    fn a_row_is_a_slice_of_the_first_dimension() {
        let tensor = Tensor::new([2, 2, 2], (0..8).collect()).unwrap();
        assert_eq!(tensor.row(1), [4, 5, 6, 7]);
        assert_eq!(format!("{tensor:?}"), "Tensor[2, 2, 2]");
    }
}
