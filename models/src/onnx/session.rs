//! A graph opened on a device, with what it takes and returns.

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

/// Where a session runs.
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

/// A device and why it was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// The device.
    pub kind: DeviceKind,
    /// What kept `auto` from a GPU, where there is one or the library is made for one.
    pub note: Option<String>,
}

/// A graph cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The runtime refused the graph.
    #[error("cannot open graph `{graph}`: {message}")]
    Open {
        /// The graph's base name.
        graph: String,
        /// What the runtime said.
        message: String,
    },
    /// CUDA was asked for and cannot be had.
    #[error("CUDA cannot be used: {message}")]
    Cuda {
        /// What is missing.
        message: String,
    },
    /// The graph does not keep the contract of its family.
    #[error("graph `{graph}` has {side} {actual:?}, expected `{name}` of type {expected}")]
    Contract {
        /// The graph's base name.
        graph: String,
        /// `inputs` or `outputs`.
        side: &'static str,
        /// The name expected.
        name: String,
        /// The type expected.
        expected: &'static str,
        /// Names and types that are there.
        actual: Vec<String>,
    },
    /// The graph and the configs do not agree on a shape.
    #[error("`{name}` of graph `{graph}` has dimensions {actual:?}, the configs say {expected:?}")]
    Dimensions {
        /// The graph's base name.
        graph: String,
        /// The input or output.
        name: String,
        /// The graph's dimensions; -1 is free.
        actual: Vec<i64>,
        /// What the configs say; -1 is free.
        expected: Vec<i64>,
    },
    /// The graph wants something that this version cannot give it.
    #[error("graph `{graph}` has an input `{name}`, which is not supported for its family")]
    UnknownInput {
        /// The graph's base name.
        graph: String,
        /// The input.
        name: String,
    },
    /// The file of the graph is not ONNX.
    #[error("cannot read the nodes of graph `{graph}`: {message}")]
    Nodes {
        /// The graph's base name.
        graph: String,
        /// What is wrong.
        message: String,
    },
    /// A row's scores change with the padding beside a longer row, so its answers would be wrong.
    #[error(
        "rows of graph `{graph}` depend on their padding (scores are {difference:.3} of their range apart beside a longer row): how it lays out rows is not known; write `model.slots = 1`"
    )]
    Padding {
        /// The graph's base name.
        graph: String,
        /// The largest difference, as a part of the range of the scores.
        difference: f32,
    },
    /// The graph computes something in 32-bit floats that CUDA computes in halves alone.
    #[error(
        "graph `{graph}` has `{operator}` in 32-bit floats, which does not run on CUDA: take a bundle or `model.precision` of fp16, or write `model.device = \"cpu\"`"
    )]
    NotOnCuda {
        /// The graph's base name.
        graph: String,
        /// The operator.
        operator: &'static str,
    },
    /// An adapter is not one of the graph.
    #[error("the adapter `{file}` of graph `{graph}` cannot be used: {message}")]
    Adapter {
        /// The graph's base name.
        graph: String,
        /// The adapter's file.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// The cache cannot be allocated.
    #[error("cannot allocate a cache of {n_bytes} bytes: {message}")]
    Allocate {
        /// Its size.
        n_bytes: usize,
        /// What the runtime said.
        message: String,
    },
}

impl SessionError {
    /// Returns the label for reports: few and stable.
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

/// The runtime failed while running a graph.
#[derive(Debug, thiserror::Error)]
#[error("failed to run `{graph}`: {message}")]
pub(crate) struct RunError {
    pub(crate) graph: String,
    pub(crate) message: String,
}

/// The types of value that Legenda's graphs exchange with it.
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

    /// Returns the bytes of a number.
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

/// A tensor fed to a graph. Numbers of `F32` are cast where the graph takes halves, and a mask becomes
/// numbers where it takes those.
#[derive(Clone, Copy)]
pub(crate) enum Feed<'a> {
    F32(&'a Tensor<f32>),
    I64(&'a Tensor<i64>),
    Bool(&'a Tensor<bool>),
}

impl<'a> Feed<'a> {
    /// Makes the value that an input of type `wanted` takes.
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

/// An opened graph. One thread runs it at a time.
pub(crate) struct GraphSession {
    pub(super) name: &'static str,
    pub(super) session: Session,
    /// Where it works.
    pub(super) memory: Memory,
    mixes_rows: bool,
    /// How [`run_for`](Self::run_for) runs it, where that is not as ever.
    options: Option<RunOptions>,
}

impl fmt::Debug for GraphSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphSession").field("name", &self.name).finish_non_exhaustive()
    }
}

impl GraphSession {
    /// Opens a graph on a device that [`Runtime::choose_device`] has chosen.
    pub(crate) fn open(
        runtime: &Runtime,
        name: &'static str,
        source: &GraphSource<'_>,
        device: DeviceKind,
    ) -> Result<Self, SessionError> {
        Self::open_with(runtime, name, source, device, false)
    }

    /// Opens a graph whose runs are few and large: nodes take over the memory of those before them,
    /// and a run gives it back at its end.
    ///
    /// Without that every node's output is a fresh mapping. Eight sounds through Whisper tiny (f32, two
    /// cores, ONNX Runtime 1.31.1) took 5.4 s, with 4.8 s of CPU time in the system; with it 3.6 s and
    /// 1.7 s, at the same peak of memory.
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
        let memory = Memory::of(&session, device).map_err(failed)?;
        let mixes_rows = nodes::mixes_rows(source).map_err(|error| SessionError::Nodes {
            graph: name.to_owned(),
            message: error.to_string(),
        })?;
        Ok(Self { name, session, memory, mixes_rows, options })
    }

    /// Returns whether a row's result depends on the rows beside it: values are scaled by all there
    /// is in a run.
    pub(crate) fn mixes_rows(&self) -> bool {
        self.mixes_rows
    }

    /// Returns how many rows may run together, where else it would be `usual`.
    pub(crate) fn rows_max(&self, usual: usize) -> usize {
        if self.mixes_rows { usual.min(1) } else { usual }
    }

    /// Returns the graph's base name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the names of the graph's inputs.
    pub(crate) fn input_names(&self) -> impl Iterator<Item = &str> {
        self.session.inputs().iter().map(Outlet::name)
    }

    /// Returns the type of an input or output, if it is there and of a type exchanged here.
    pub(crate) fn dtype_of(&self, name: &str) -> Option<Dtype> {
        let mut outlets = self.session.inputs().iter().chain(self.session.outputs());
        let element = outlets.find(|outlet| outlet.name() == name)?.dtype().tensor_type();
        [Dtype::F32, Dtype::F16, Dtype::I32, Dtype::I64, Dtype::Bool]
            .into_iter()
            .find(|dtype| Some(dtype.element()) == element)
    }

    /// Checks that the graph takes an input of this name and type.
    pub(crate) fn expect_input(&self, name: &str, dtype: Dtype) -> Result<(), SessionError> {
        self.expect("inputs", self.session.inputs(), name, dtype)
    }

    /// Checks that the graph takes no input but these.
    pub(crate) fn expect_no_inputs_but(&self, known: &[&str]) -> Result<(), SessionError> {
        match self.input_names().find(|input| !known.contains(input)) {
            Some(name) => Err(SessionError::UnknownInput {
                graph: self.name.to_owned(),
                name: name.to_owned(),
            }),
            None => Ok(()),
        }
    }

    /// Checks that the graph returns an output of this name and type.
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

    /// Checks that the graph takes an input of this name, of single or half precision.
    pub(crate) fn expect_float_input(&self, name: &str) -> Result<(), SessionError> {
        match self.dtype_of(name) {
            Some(Dtype::F16) => self.expect_input(name, Dtype::F16),
            _ => self.expect_input(name, Dtype::F32),
        }
    }

    /// Checks that the graph takes a mask of this name, of any type that one can be made of.
    pub(crate) fn expect_mask(&self, name: &str) -> Result<(), SessionError> {
        match self.dtype_of(name) {
            Some(dtype @ (Dtype::F32 | Dtype::F16 | Dtype::I64)) => self.expect_input(name, dtype),
            _ => self.expect_input(name, Dtype::Bool),
        }
    }

    /// Returns the number of dimensions of an input or output, if it is there.
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
        let is_there = outlets.iter().any(|outlet| {
            outlet.name() == name && outlet.dtype().tensor_type() == Some(dtype.element())
        });
        if is_there {
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

    /// Checks the dimensions of an input or output where both sides fix them; -1 is free.
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

    /// Returns the dimensions of an input; -1 is free.
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

    /// Returns whether the graph has an output of this name.
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

    /// Runs the graph on its inputs and returns some outputs in that order, copied to host memory as
    /// `f32`.
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
            copied(value).map_err(failed)
        };
        outputs.iter().map(copied).collect()
    }
}

/// Copies an output to host memory as `f32`.
fn copied(value: &DynValue) -> Result<Tensor<f32>, String> {
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
    // With the arena on, a session keeps the memory of its largest run, unless the run gives it back.
    let cpu = ep::CPU::default().with_arena_allocator(has_arena).build();
    let providers = match device {
        DeviceKind::Cpu => vec![cpu],
        DeviceKind::Cuda => {
            let cuda = ep::CUDA::default()
                // Ten bits of mantissa are not what a graph of 32-bit floats says.
                .with_tf32(false)
                // A search for the fastest kernel takes longer than a batch, and starts anew with
                // every shape.
                .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic);
            vec![cuda.build().error_on_failure(), cpu]
        }
    };
    let mut builder = Session::builder(runtime.environment())
        .map_err(text)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(|error| error.to_string())?
        // Shapes change from run to run: a memory plan per shape would only grow.
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

/// `y = Identity(x)` on one float, opset 13: the least graph that makes a provider start.
const IDENTITY_GRAPH: &[u8] =
    b"\x08\x08\x12\x00:7\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x01pZ\x0f\
    \n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\
    \x08\x01B\x04\n\x00\x10\r";

impl Runtime {
    /// Chooses a device: `auto` takes CUDA when its provider really starts, else the CPU.
    ///
    /// # Errors
    ///
    /// [`SessionError::Cuda`] if CUDA was asked for by name and does not start; the message names
    /// the library or device that is missing. There is no silent fallback.
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
        tracing::debug!(reason = message, "took the CPU");
        cpu(is_surprising.then_some(message))
    }

    /// Starts CUDA; the error is that of the provider, or none where the library has no such.
    fn start_cuda(&self) -> Result<(), Option<String>> {
        if !ep::CUDA::is_available().unwrap_or(false) {
            return Err(None);
        }
        cuda::preload(self.path());
        let session = open(self, &GraphSource::Bytes(IDENTITY_GRAPH), DeviceKind::Cuda, false);
        session.and_then(|session| Memory::of(&session, DeviceKind::Cuda)).map(drop).map_err(Some)
    }
}
