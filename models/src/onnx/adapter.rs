//! Adapters of a decoder (LoRA): weights that some runs are given in the place of empty ones.
//!
//! # Source
//!
//! A file is the table `Adapter` of `onnxruntime/lora/adapter_format/adapter_schema.fbs` (ONNX Runtime
//! 1.31), laid out as the FlatBuffers internals describe. It is read here because ONNX Runtime gives its
//! own reading to no run whose inputs are bound (`RunOptionsAddActiveLoraAdapter`).

use half::f16;
use ort::{
    session::IoBinding,
    value::{DynValue, Tensor as OrtTensor},
};

use super::{
    GraphSession, SessionError,
    memory::{Element, Memory},
};

/// What the bytes of a file begin with, behind the place of its table.
const IDENTIFIER: &[u8] = b"TORT";

/// The weights of an adapter, by the names of the inputs that take them, in the memory of the graph.
#[derive(Debug)]
pub(crate) struct Adapter {
    weights: Vec<(String, DynValue)>,
}

impl Adapter {
    /// Reads the adapter of a graph from the content of `file`.
    pub(crate) fn read(
        graph: &GraphSession,
        file: &str,
        content: &[u8],
    ) -> Result<Self, SessionError> {
        let unfit = |message: String| SessionError::Adapter {
            graph: graph.name().to_owned(),
            file: file.to_owned(),
            message,
        };
        let parameters =
            parameters(content).ok_or_else(|| unfit("it is no adapter of ONNX Runtime".into()))?;
        let taken = graph.session.overridable_initializers();
        let mut weights = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let name = parameter.name.to_owned();
            if !taken.iter().any(|initializer| initializer.name() == name) {
                return Err(unfit(format!("the graph takes no `{name}`")));
            }
            let value = parameter.value(&graph.memory);
            let value = value.map_err(|error| unfit(format!("`{name}`: {error}")))?;
            weights.push((name, value));
        }
        Ok(Self { weights })
    }

    /// Makes the weights inputs of all runs of a binding.
    pub(super) fn bind(&self, binding: &mut IoBinding) -> Result<(), ort::Error> {
        self.weights.iter().try_for_each(|(name, value)| binding.bind_input(name, value))
    }
}

/// A weight of a file.
#[derive(Debug, PartialEq)]
struct Parameter<'a> {
    name: &'a str,
    shape: Vec<i64>,
    /// As `TensorProto.DataType` of ONNX numbers them.
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
            other => Err(format!("its type has the number {other}, not 1, 2, 3 or 10")),
        }
    }

    fn tensor<T: Element, const N: usize>(
        &self,
        memory: &Memory,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<DynValue, String> {
        let tensor = OrtTensor::from_array((self.shape.clone(), self.values(read)?));
        let taken = tensor.and_then(|tensor| memory.take(tensor));
        taken.map(OrtTensor::into_dyn).map_err(|error| error.to_string())
    }

    fn values<T, const N: usize>(&self, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, String> {
        let (whole, rest) = self.content.as_chunks::<N>();
        let n_values = self.shape.iter().try_fold(1_i64, |n, size| n.checked_mul(*size));
        if !rest.is_empty() || n_values != i64::try_from(whole.len()).ok() {
            return Err(format!("{:?} are not {} bytes", self.shape, self.content.len()));
        }
        Ok(whole.iter().copied().map(read).collect())
    }
}

/// Returns the weights of a file, if it is whole.
fn parameters(content: &[u8]) -> Option<Vec<Parameter<'_>>> {
    if content.get(4..8)? != IDENTIFIER {
        return None;
    }
    let buffer = Buffer(content);
    // Before them stand the versions of format, adapter and model.
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

/// A FlatBuffer; whatever does not lie in it is `None`.
#[derive(Clone, Copy)]
struct Buffer<'a>(&'a [u8]);

impl<'a> Buffer<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    fn size(self, at: usize) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array(at)?)).ok()
    }

    /// Returns the place that the number at `at` leads to.
    fn indirect(self, at: usize) -> Option<usize> {
        at.checked_add(self.size(at)?)
    }

    /// Returns where a field of a table stands.
    fn field(self, table: usize, number: usize) -> Option<usize> {
        let to_layout = isize::try_from(i32::from_le_bytes(self.array(table)?)).ok()?;
        let layout = table.checked_add_signed(to_layout.checked_neg()?)?;
        let small = |at: usize| self.array(at).map(u16::from_le_bytes).map(usize::from);
        let entry = 4 + 2 * number;
        if entry + 2 > small(layout)? {
            return None;
        }
        let offset = small(layout.checked_add(entry)?)?;
        (offset > 0).then(|| table.checked_add(offset))?
    }

    /// Returns where the elements of a vector begin, and how many there are.
    fn vector(self, field: usize) -> Option<(usize, usize)> {
        let at = self.indirect(field)?;
        let n_elements = self.size(at)?;
        // So that no hostile number makes room for more than there is.
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

    /// As `onnxruntime.AdapterFormat` writes it (`tests/references/make_bundles/genai_text.py`).
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
    fn a_broken_file_is_told_or_read_but_never_a_panic() {
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
