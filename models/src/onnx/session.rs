//! A graph opened on a device, with its inputs and outputs.

use std::{borrow::Cow, fmt};

use half::f16;
use legenda_schemas::job::Device;
use ort::{
    ep::{self, ExecutionProvider},
    session::{RunOptions, Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::{DynValue, Outlet, Tensor as OrtTensor, TensorElementType, TensorRef},
};

use super::{Runtime, cuda, memory::Memory, nodes};
use crate::{bundle::GraphSource, tensors::Tensor};

/// The devices that a session can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// A device, and a note on its choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// The device.
    pub kind: DeviceKind,
    /// The reason why `auto` did not choose a GPU, if there is one or the library is a CUDA build.
    pub note: Option<String>,
}

/// A graph cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The runtime rejected the graph.
    #[error("failed to open graph `{graph}`: {message}")]
    Open {
        /// The base name of the graph.
        graph: String,
        /// The error message of the runtime.
        message: String,
    },
    /// CUDA was requested but is not available.
    #[error("CUDA is not available: {message}")]
    Cuda {
        /// The cause.
        message: String,
    },
    /// The graph does not match its family.
    #[error(
        "invalid {side} of graph `{graph}`: expected `{name}` of type {expected}, got {actual:?}"
    )]
    Contract {
        /// The base name of the graph.
        graph: String,
        /// `inputs` or `outputs`.
        side: &'static str,
        /// The expected name.
        name: String,
        /// The expected type.
        expected: &'static str,
        /// The actual names and types.
        actual: Vec<String>,
    },
    /// The graph and the configs have different shapes.
    #[error(
        "invalid dimensions of `{name}` in graph `{graph}`: expected {expected:?} from the configs, got {actual:?}"
    )]
    Dimensions {
        /// The base name of the graph.
        graph: String,
        /// The input or output.
        name: String,
        /// The dimensions in the graph; -1 is symbolic.
        actual: Vec<i64>,
        /// The dimensions from the configs; -1 is arbitrary.
        expected: Vec<i64>,
    },
    /// The graph has an input that is not supported.
    #[error("unsupported input `{name}` of graph `{graph}`")]
    UnknownInput {
        /// The base name of the graph.
        graph: String,
        /// The input.
        name: String,
    },
    /// The file of the graph is not valid ONNX.
    #[error("failed to read the nodes of graph `{graph}`: {message}")]
    Nodes {
        /// The base name of the graph.
        graph: String,
        /// The problem.
        message: String,
    },
    /// The logits of a row change when it is padded next to a longer row, so answers would be
    /// wrong.
    #[error(
        "unknown padding layout of graph `{graph}`: next to a longer row, logits differ by {difference:.3} of their range; set `model.slots = 1`"
    )]
    Padding {
        /// The base name of the graph.
        graph: String,
        /// The maximum difference, as a fraction of the range of the logits.
        difference: f32,
    },
    /// The graph has an fp32 operator that CUDA supports only in fp16.
    #[error(
        "`{operator}` of graph `{graph}` does not run on CUDA in fp32: choose a bundle or `model.precision` in fp16, or set `model.device = \"cpu\"`"
    )]
    NotOnCuda {
        /// The base name of the graph.
        graph: String,
        /// The operator.
        operator: &'static str,
    },
    /// An adapter does not match the graph.
    #[error("failed to load adapter `{file}` of graph `{graph}`: {message}")]
    Adapter {
        /// The base name of the graph.
        graph: String,
        /// The file of the adapter.
        file: String,
        /// The problem.
        message: String,
    },
    /// The KV cache cannot be allocated.
    #[error("failed to allocate a KV cache of {n_bytes} bytes: {message}")]
    Allocate {
        /// The size in bytes.
        n_bytes: usize,
        /// The error message of the runtime.
        message: String,
    },
}

impl SessionError {
    /// Returns a stable error code for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Open { .. } => "graph_open",
            Self::Cuda { .. } => "cuda_missing",
            Self::Contract { .. } => "graph_contract",
            Self::Dimensions { .. } => "graph_dimensions",
            Self::UnknownInput { .. } => "graph_input_unknown",
            Self::Nodes { .. } => "graph_unreadable",
            Self::Padding { .. } => "padding_matters",
            Self::NotOnCuda { .. } => "cuda_unsupported",
            Self::Adapter { .. } => "adapter_unfit",
            Self::Allocate { .. } => "cache_allocate",
        }
    }
}

/// The runtime failed to run a graph.
#[derive(Debug, thiserror::Error)]
#[error("failed to run `{graph}`: {message}")]
pub(crate) struct RunError {
    pub(crate) graph: String,
    pub(crate) message: String,
}

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
    fn element(self) -> TensorElementType {
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

    fn as_str(self) -> &'static str {
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

/// An opened graph. It runs on one thread at a time.
pub(crate) struct GraphSession {
    pub(super) name: &'static str,
    pub(super) session: Session,
    /// The memory of its device.
    pub(super) memory: Memory,
    mixes_rows: bool,
    /// The options of [`run_for`](Self::run_for), if they are not the default.
    options: Option<RunOptions>,
}

impl fmt::Debug for GraphSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphSession").field("name", &self.name).finish_non_exhaustive()
    }
}

impl GraphSession {
    /// Opens a graph on a device chosen by [`Runtime::choose_device`].
    pub(crate) fn open(
        runtime: &Runtime,
        name: &'static str,
        source: &GraphSource<'_>,
        device: DeviceKind,
    ) -> Result<Self, SessionError> {
        Self::open_with(runtime, name, source, device, false)
    }

    /// Opens a graph whose runs are few and large: nodes reuse the memory of earlier ones, and a
    /// run releases it at its end.
    ///
    /// Without the arena, every node output is a new memory mapping. Eight audio inputs through
    /// Whisper tiny (f32, two cores, ONNX Runtime 1.31.1) took 5.4 s with 4.8 s of system time;
    /// with it, they take 3.6 s with 1.7 s of system time, at the same peak memory.
    pub(crate) fn open_encoder(
        runtime: &Runtime,
        name: &'static str,
        source: &GraphSource<'_>,
        device: DeviceKind,
    ) -> Result<Self, SessionError> {
        Self::open_with(runtime, name, source, device, device == DeviceKind::Cpu)
    }

    fn open_with(
        runtime: &Runtime,
        name: &'static str,
        source: &GraphSource<'_>,
        device: DeviceKind,
        has_arena: bool,
    ) -> Result<Self, SessionError> {
        let failed = |message: String| SessionError::Open { graph: name.to_owned(), message };
        let session = open(runtime, source, device, has_arena).map_err(failed)?;
        let shrinking = || {
            let mut options = RunOptions::new()?;
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
            Ok::<_, ort::Error>(options)
        };
        let options =
            has_arena.then(shrinking).transpose().map_err(|error| failed(error.to_string()))?;
        let memory = Memory::new(&session, device).map_err(failed)?;
        let mixes_rows = nodes::mixes_rows(source).map_err(|error| SessionError::Nodes {
            graph: name.to_owned(),
            message: error.to_string(),
        })?;
        Ok(Self { name, session, memory, mixes_rows, options })
    }

    /// Returns whether the result of a row depends on the other rows: the graph computes a scale
    /// over the whole batch.
    pub(crate) fn mixes_rows(&self) -> bool {
        self.mixes_rows
    }

    /// Returns the maximum batch size: 1 if the graph mixes rows, else `usual`.
    pub(crate) fn rows_max(&self, usual: usize) -> usize {
        if self.mixes_rows { usual.min(1) } else { usual }
    }

    /// Returns the base name of the graph.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the names of the graph's inputs.
    pub(crate) fn input_names(&self) -> impl Iterator<Item = &str> {
        self.session.inputs().iter().map(Outlet::name)
    }

    /// Returns the data type of an input or output, if it exists and is supported.
    pub(crate) fn dtype_of(&self, name: &str) -> Option<Dtype> {
        let mut outlets = self.session.inputs().iter().chain(self.session.outputs());
        let element = outlets.find(|outlet| outlet.name() == name)?.dtype().tensor_type();
        [Dtype::F32, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::Bool]
            .into_iter()
            .find(|dtype| Some(dtype.element()) == element)
    }

    /// Checks that the graph has an input with this name and type.
    pub(crate) fn expect_input(&self, name: &str, dtype: Dtype) -> Result<(), SessionError> {
        self.expect("inputs", self.session.inputs(), name, dtype)
    }

    /// Checks that the graph has no inputs other than these.
    pub(crate) fn expect_no_inputs_but(&self, known: &[&str]) -> Result<(), SessionError> {
        match self.input_names().find(|input| !known.contains(input)) {
            Some(name) => Err(SessionError::UnknownInput {
                graph: self.name.to_owned(),
                name: name.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Checks that the graph has an output with this name and type.
    pub(crate) fn expect_output(&self, name: &str, dtype: Dtype) -> Result<(), SessionError> {
        self.expect("outputs", self.session.outputs(), name, dtype)
    }

    /// Checks that the graph maps an `f32` or `i64` input to an `f32` output; either may be in half
    /// precision.
    pub(crate) fn expect_map(
        &self,
        input: &str,
        dtype: Dtype,
        output: &str,
    ) -> Result<(), SessionError> {
        match dtype {
            Dtype::F32 => self.expect_float_input(input)?,
            other => self.expect_input(input, other)?,
        }
        match self.dtype_of(output) {
            Some(Dtype::F16) => Ok(()),
            _ => self.expect_output(output, Dtype::F32),
        }
    }

    /// Checks that the graph has an input with this name in single or half precision.
    pub(crate) fn expect_float_input(&self, name: &str) -> Result<(), SessionError> {
        match self.dtype_of(name) {
            Some(Dtype::F16) => self.expect_input(name, Dtype::F16),
            _ => self.expect_input(name, Dtype::F32),
        }
    }

    /// Checks that the graph has a mask input with this name and a supported type.
    pub(crate) fn expect_mask(&self, name: &str) -> Result<(), SessionError> {
        match self.dtype_of(name) {
            Some(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::I64)) => self.expect_input(name, dtype),
            _ => self.expect_input(name, Dtype::Bool),
        }
    }

    /// Returns the number of dimensions of an input or output, if it exists.
    pub(crate) fn rank_of(&self, name: &str) -> Option<usize> {
        let mut outlets = self.session.inputs().iter().chain(self.session.outputs());
        let outlet = outlets.find(|outlet| outlet.name() == name)?;
        outlet.dtype().tensor_shape().map(|shape| shape.len())
    }

    fn expect(
        &self,
        side: &'static str,
        outlets: &[Outlet],
        name: &str,
        dtype: Dtype,
    ) -> Result<(), SessionError> {
        let exists = outlets.iter().any(|outlet| {
            outlet.name() == name && outlet.dtype().tensor_type() == Some(dtype.element())
        });
        if exists {
            return Ok(());
        }
        Err(SessionError::Contract {
            graph: self.name.to_owned(),
            side,
            name: name.to_owned(),
            expected: dtype.as_str(),
            actual: outlets.iter().map(|o| format!("{}: {}", o.name(), o.dtype())).collect(),
        })
    }

    /// Checks the dimensions of an input or output where both sides are concrete; -1 is symbolic.
    pub(crate) fn expect_dims(&self, name: &str, expected: &[i64]) -> Result<(), SessionError> {
        let mut outlets = self.session.inputs().iter().chain(self.session.outputs());
        let outlet = outlets.find(|outlet| outlet.name() == name);
        let Some(shape) = outlet.and_then(|outlet| outlet.dtype().tensor_shape()) else {
            return Ok(());
        };
        let agree = |(a, b): (&i64, &i64)| *a < 0 || *b < 0 || a == b;
        if shape.len() == expected.len() && shape.iter().zip(expected).all(agree) {
            return Ok(());
        }
        Err(SessionError::Dimensions {
            graph: self.name.to_owned(),
            name: name.to_owned(),
            actual: shape.to_vec(),
            expected: expected.to_vec(),
        })
    }

    /// Returns the dimensions of an input; -1 is symbolic.
    pub(crate) fn input_dims(&self, name: &str) -> Option<&[i64]> {
        let inputs = self.session.inputs().iter();
        let input =
            inputs.filter(|input| input.name() == name).find_map(|i| i.dtype().tensor_shape());
        input.map(|shape| &**shape)
    }

    /// Returns the names of the graph's outputs.
    pub(crate) fn output_names(&self) -> impl Iterator<Item = &str> {
        self.session.outputs().iter().map(Outlet::name)
    }

    /// Returns whether the graph has an output with this name.
    pub(crate) fn has_output(&self, name: &str) -> bool {
        self.session.outputs().iter().any(|output| output.name() == name)
    }

    /// Runs the graph on one input and returns one output, copied to host memory as `f32`.
    pub(crate) fn run(
        &mut self,
        input: &str,
        feed: Feed<'_>,
        output: &str,
    ) -> Result<Tensor<f32>, RunError> {
        self.run_on(&[(input, feed)], output)
    }

    /// Runs the graph on its inputs and returns one output, copied to host memory as `f32`.
    pub(crate) fn run_on(
        &mut self,
        feeds: &[(&str, Feed<'_>)],
        output: &str,
    ) -> Result<Tensor<f32>, RunError> {
        let mut found = self.run_for(feeds, &[output])?;
        Ok(found.swap_remove(0))
    }

    /// Runs the graph on its inputs and returns the given outputs in order, copied to host memory
    /// as `f32`.
    pub(crate) fn run_for(
        &mut self,
        feeds: &[(&str, Feed<'_>)],
        outputs: &[&str],
    ) -> Result<Vec<Tensor<f32>>, RunError> {
        let name = self.name;
        let failed = |message: String| RunError { graph: name.to_owned(), message };
        let values = feeds
            .iter()
            .map(|(input, feed)| Ok((Cow::Borrowed(*input), feed.value(self.dtype_of(input))?)))
            .collect::<Result<Vec<_>, ort::Error>>()
            .map_err(|error| failed(error.to_string()))?;
        let found = match &self.options {
            Some(options) => self.session.run_with_options(values, options),
            None => self.session.run(values),
        };
        let found = found.map_err(|error| failed(error.to_string()))?;
        let copied = |output: &&str| {
            let value =
                found.get(*output).ok_or_else(|| failed(format!("no output `{output}`")))?;
            to_host(value).map_err(failed)
        };
        outputs.iter().map(copied).collect()
    }
}

/// Copies an output to host memory as `f32`.
fn to_host(value: &DynValue) -> Result<Tensor<f32>, String> {
    let (shape, data) = match value.dtype().tensor_type() {
        Some(TensorElementType::Float16) => {
            let (shape, data) =
                value.try_extract_tensor::<f16>().map_err(|error| error.to_string())?;
            (shape, data.iter().map(|half| half.to_f32()).collect())
        }
        _ => {
            let (shape, data) =
                value.try_extract_tensor::<f32>().map_err(|error| error.to_string())?;
            (shape, data.to_vec())
        }
    };
    let shape: Vec<usize> = shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
    Tensor::new(shape, data).map_err(|error| error.to_string())
}

fn open(
    runtime: &Runtime,
    source: &GraphSource<'_>,
    device: DeviceKind,
    has_arena: bool,
) -> Result<Session, String> {
    let text = |error: ort::Error| error.to_string();
    // With the arena enabled, a session keeps the memory of its largest run unless the run releases
    // it.
    let cpu = ep::CPU::default().with_arena_allocator(has_arena).build();
    let providers = match device {
        DeviceKind::Cpu => vec![cpu],
        DeviceKind::Cuda => {
            let cuda = ep::CUDA::default()
                // TF32 has a 10-bit mantissa, less than the fp32 of the graph.
                .with_tf32(false)
                // An exhaustive kernel search takes longer than a batch and is repeated for every
                // shape.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic);
            vec![cuda.build().error_on_failure(), cpu]
        }
    };
    let mut builder = Session::builder(runtime.environment())
        .map_err(text)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| error.to_string())?
        // Shapes vary between runs, so the memory patterns per shape would accumulate.
        .with_memory_pattern(false)
        .map_err(|error| error.to_string())?
        .with_execution_providers(providers)
        .map_err(|error| error.to_string())?;
    match source {
        GraphSource::Path(path) => builder.commit_from_file(path),
        GraphSource::Bytes(bytes) => builder.commit_from_memory(bytes),
    }
    .map_err(text)
}

/// `y = Identity(x)` on one float, opset 13: a minimal graph to start a provider.
const IDENTITY_GRAPH: &[u8] =
    b"\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01pZ\x0f\
    \n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\
    \x08\x01B\x04\n\x00\x10\r";

impl Runtime {
    /// Chooses a device: `auto` is CUDA if its provider starts, else the CPU.
    ///
    /// # Errors
    ///
    /// [`SessionError::Cuda`] if CUDA was requested explicitly and does not start; the message
    /// names the missing library or device. There is no silent fallback.
    pub fn choose_device(&self, device: Device) -> Result<DeviceChoice, SessionError> {
        let cpu = |note| Ok(DeviceChoice { kind: DeviceKind::Cpu, note });
        if device == Device::Cpu {
            return cpu(None);
        }
        let failure = match self.start_cuda() {
            Ok(()) => return Ok(DeviceChoice { kind: DeviceKind::Cuda, note: None }),
            Err(failure) => failure,
        };
        let (message, is_surprising) = self.cuda_missing(failure.as_deref());
        if device == Device::Cuda {
            return Err(SessionError::Cuda { message });
        }
        tracing::debug!(reason = message, "using the CPU");
        cpu(is_surprising.then_some(message))
    }

    /// Starts CUDA. The error is that of the provider, or `None` if the library has no CUDA
    /// provider.
    fn start_cuda(&self) -> Result<(), Option<String>> {
        if !ep::CUDA::is_available().unwrap_or(false) {
            return Err(None);
        }
        cuda::preload(self.path());
        let session = open(self, &GraphSource::Bytes(IDENTITY_GRAPH), DeviceKind::Cuda, false);
        session.and_then(|session| Memory::new(&session, DeviceKind::Cuda)).map(drop).map_err(Some)
    }
}
