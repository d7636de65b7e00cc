//! LoRA adapters of a decoder: weights that replace empty default inputs in some runs.
//!
//! # Source
//!
//! The file format is the table `Adapter` of `onnxruntime/lora/adapter_format/adapter_schema.fbs`
//! (ONNX Runtime 1.31) in the FlatBuffers encoding. It is parsed here because ONNX Runtime does not
//! apply its own adapters (`RunOptionsAddActiveLoraAdapter`) to runs with an I/O binding.

use half::f16;
use ort::{
    session::IoBinding,
    value::{DynValue, Tensor as OrtTensor},
};

use super::{
    GraphSession, SessionError,
    memory::{Element, Memory},
};

/// The file identifier, after the offset of the root table.
const IDENTIFIER: &[u8] = b"TORT";

/// The weights of an adapter by input name, in the memory of the graph.
#[derive(Debug)]
pub(crate) struct Adapter {
    weights: Vec<(String, DynValue)>,
}

impl Adapter {
    /// Parses the adapter of a graph from the content of `file`.
    pub(crate) fn read(
        graph: &GraphSession,
        file: &str,
        content: &[u8],
    ) -> Result<Self, SessionError> {
        let invalid = |problem: String| SessionError::Adapter {
            graph: graph.name().to_owned(),
            file: file.to_owned(),
            problem,
        };
        let parameters =
            parameters(content).ok_or_else(|| invalid("not an ONNX Runtime adapter".into()))?;
        let inputs = graph.session.overridable_initializers();
        let mut weights = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let name = parameter.name.to_owned();
            if !inputs.iter().any(|initializer| initializer.name() == name) {
                return Err(invalid(format!("the graph has no input `{name}`")));
            }
            let value = parameter.value(&graph.memory);
            let value = value.map_err(|error| invalid(format!("`{name}`: {error}")))?;
            weights.push((name, value));
        }
        Ok(Self { weights })
    }

    /// Binds the weights as inputs of all runs of a binding.
    pub(super) fn bind(&self, binding: &mut IoBinding) -> Result<(), ort::Error> {
        self.weights.iter().try_for_each(|(name, value)| binding.bind_input(name, value))
    }
}

/// A weight in the file.
#[derive(Debug, PartialEq)]
struct Parameter<'a> {
    name: &'a str,
    shape: Vec<i64>,
    /// The `TensorProto.DataType` of ONNX.
    dtype: i32,
    content: &'a [u8],
}

impl Parameter<'_> {
    fn value(&self, memory: &Memory) -> Result<DynValue, String> {
        match self.dtype {
            1 => self.tensor(memory, f32::from_le_bytes),
            2 => self.tensor(memory, u8::from_le_bytes),
            3 => self.tensor(memory, i8::from_le_bytes),
            10 => self.tensor(memory, f16::from_le_bytes),
            other => Err(format!("unsupported data type {other}, expected 1, 2, 3 or 10")),
        }
    }

    fn tensor<T: Element, const N: usize>(
        &self,
        memory: &Memory,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<DynValue, String> {
        let tensor = OrtTensor::from_array((self.shape.clone(), self.values(read)?));
        let value = tensor.and_then(|tensor| memory.take(tensor));
        value.map(OrtTensor::into_dyn).map_err(|error| error.to_string())
    }

    fn values<T, const N: usize>(&self, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, String> {
        let (whole, rest) = self.content.as_chunks::<N>();
        let n_values = self.shape.iter().try_fold(1_i64, |n, size| n.checked_mul(*size));
        if !rest.is_empty() || n_values != i64::try_from(whole.len()).ok() {
            return Err(format!(
                "shape {:?} does not match {} bytes",
                self.shape,
                self.content.len()
            ));
        }
        Ok(whole.iter().copied().map(read).collect())
    }
}

/// Parses the weights of a file, or returns `None` if it is invalid.
fn parameters(content: &[u8]) -> Option<Vec<Parameter<'_>>> {
    if content.get(4..8)? != IDENTIFIER {
        return None;
    }
    let buffer = Buffer(content);
    // The preceding fields are the versions of format, adapter and model.
    let (start, n_parameters) = buffer.vector(buffer.field(buffer.indirect(0)?, 3)?)?;
    (0..n_parameters)
        .map(|i| {
            let table = buffer.indirect(start.checked_add(i.checked_mul(4)?)?)?;
            let name = buffer.bytes(buffer.field(table, 0)?)?;
            let (start, n_dims) = buffer.vector(buffer.field(table, 1)?)?;
            let dim = |i: usize| {
                buffer.array(start.checked_add(i.checked_mul(8)?)?).map(i64::from_le_bytes)
            };
            Some(Parameter {
                name: std::str::from_utf8(name).ok()?,
                shape: (0..n_dims).map(dim).collect::<Option<_>>()?,
                dtype: i32::from_le_bytes(buffer.array(buffer.field(table, 2)?)?),
                content: buffer.bytes(buffer.field(table, 3)?)?,
            })
        })
        .collect()
}

/// A FlatBuffer. Reads return `None` for positions outside of it.
#[derive(Clone, Copy)]
struct Buffer<'a>(&'a [u8]);

impl<'a> Buffer<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn size(self, at: usize) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array(at)?)).ok()
    }

    /// Follows the offset at `at`.
    fn indirect(self, at: usize) -> Option<usize> {
        at.checked_add(self.size(at)?)
    }

    /// Returns the position of a table field.
    fn field(self, table: usize, number: usize) -> Option<usize> {
        let vtable_offset = isize::try_from(i32::from_le_bytes(self.array(table)?)).ok()?;
        let vtable = table.checked_add_signed(vtable_offset.checked_neg()?)?;
        let read_u16 = |at: usize| self.array(at).map(u16::from_le_bytes).map(usize::from);
        let entry = 4 + 2 * number;
        if entry + 2 > read_u16(vtable)? {
            return None;
        }
        let offset = read_u16(vtable.checked_add(entry)?)?;
        (offset > 0).then(|| table.checked_add(offset))?
    }

    /// Returns the position of the first element of a vector and the number of elements.
    fn vector(self, field: usize) -> Option<(usize, usize)> {
        let at = self.indirect(field)?;
        let n_elements = self.size(at)?;
        // Limits the allocation for a corrupt length.
        (n_elements <= self.0.len()).then_some((at.checked_add(4)?, n_elements))
    }

    fn bytes(self, field: usize) -> Option<&'a [u8]> {
        let (start, len) = self.vector(field)?;
        self.0.get(start..start.checked_add(len)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `onnxruntime.AdapterFormat` (`tests/references/make_bundles/genai_text.py`).
    const FILE: &[u8] =
        include_bytes!("../../../tests/references/bundles/phi4/phi-4-mm-vision.onnx_adapter");

    #[test]
    fn weights_have_names_shapes_and_values() {
        let found = parameters(FILE).unwrap();
        assert_eq!(found.len(), 20);
        let shape = |name: &str| {
            let name = format!("model.layers.1.attn.qkv_proj.{name}.MatMul.weight");
            let parameter = found.iter().find(|parameter| parameter.name == name).unwrap();
            parameter.shape.clone()
        };
        assert_eq!((shape("lora_A"), shape("lora_B")), (vec![32, 4], vec![4, 64]));
        for parameter in found {
            let values = parameter.values(f32::from_le_bytes).unwrap();
            assert!(values.iter().all(|value| (1e-9..10.0).contains(&value.abs())));
            let uneven = Parameter { shape: vec![31, 5], ..parameter };
            assert!(uneven.values(f32::from_le_bytes).is_err());
        }
    }

    #[test]
    fn a_corrupt_file_never_panics() {
        let mut changed = FILE.to_vec();
        for at in 0..FILE.len() {
            drop(parameters(&FILE[..at]));
            for byte in [0, 1, 127, 255] {
                changed[at] = byte;
                for parameter in parameters(&changed).unwrap_or_default() {
                    drop(parameter.values(f32::from_le_bytes));
                }
            }
            changed[at] = FILE[at];
        }
        assert_eq!(parameters(b""), None);
        assert_eq!(parameters(&FILE[..FILE.len() / 2]), None);
    }
}
