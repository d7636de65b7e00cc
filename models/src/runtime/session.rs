//! A graph opened on a device, with its inputs and outputs.

use std::{borrow::Cow, fmt};

use half::f16;
use legenda_schemas::cause::Cause;
use ort::{
    ep,
    session::{IoBinding, RunOptions, Session, SessionOutputs, builder::GraphOptimizationLevel},
    value::{DynValue, Outlet, TensorElementType},
};

use super::{DeviceKind, Dtype, Feed, RunError, Runtime, SessionError, memory::Memory};
use crate::{
    graph::{GraphSource, mixes_rows},
    tensors::Tensor,
};

/// The session option for the folder of the external data of a graph in memory
/// (`onnxruntime_session_options_config_keys.h`).
const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// An opened graph. It runs on one thread at a time.
pub(crate) struct GraphSession {
    pub(super) name: &'static str,
    pub(super) session: Session,
    /// The memory of its device.
    pub(super) memory: Memory,
    mixes_rows: bool,
    /// The options of a run that releases the memory of its nodes at its end, on the CPU.
    pub(super) releasing: Option<RunOptions>,
}

impl fmt::Debug for GraphSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphSession").field("name", &self.name).finish_non_exhaustive()
    }
}

impl GraphSession {
    /// Opens a graph on a device chosen by [`Runtime::choose_device`].
    ///
    /// On the CPU, nodes reuse the memory of earlier ones, and some runs release it at their end:
    /// without this arena, every node output is a new memory mapping. Eight audio inputs through
    /// Whisper tiny (f32, two cores, ONNX Runtime 1.31.1) took 5.4 s with 4.8 s of system time; with
    /// it, they take 3.6 s with 1.7 s of system time, at the same peak memory.
    pub(crate) fn open(
        runtime: &Runtime,
        name: &'static str,
        source: &GraphSource<'_>,
        device: DeviceKind,
    ) -> Result<Self, SessionError> {
        let failed = |source: Cause| SessionError::Open { graph: name.to_owned(), source };
        let session = open(runtime, name, source, device).map_err(|error| failed(error.into()))?;
        let releasing = || {
            let mut options = RunOptions::new()?;
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0")?;
            Ok::<_, ort::Error>(options)
        };
        let releasing = (device == DeviceKind::Cpu).then(releasing).transpose();
        let releasing = releasing.map_err(|error| failed(error.into()))?;
        let memory = Memory::new(&session, device).map_err(failed)?;
        let mixes_rows = mixes_rows(source)
            .map_err(|source| SessionError::Nodes { graph: name.to_owned(), source })?;
        Ok(Self { name, session, memory, mixes_rows, releasing })
    }

    /// Keeps the memory of nodes between runs, for graphs whose runs all take the same.
    pub(crate) fn keeping_memory(self) -> Self {
        Self { releasing: None, ..self }
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
        let values = feeds
            .iter()
            .map(|(input, feed)| Ok((Cow::Borrowed(*input), feed.value(self.dtype_of(input))?)))
            .collect::<Result<Vec<_>, ort::Error>>()
            .map_err(|error| RunError::new(name, error))?;
        let found = match &self.releasing {
            Some(options) => self.session.run_with_options(values, options),
            None => self.session.run(values),
        };
        let found = found.map_err(|error| RunError::new(name, error))?;
        let copied = |output: &&str| {
            let value = found
                .get(*output)
                .ok_or_else(|| RunError::new(name, format!("no output `{output}`")))?;
            to_host(value).map_err(|error| RunError::new(name, error))
        };
        outputs.iter().map(copied).collect()
    }
}

/// Runs a graph on bound inputs and outputs, with `options` if they are not the default.
pub(super) fn run_bound<'b, 's: 'b>(
    session: &'s mut Session,
    binding: &'b IoBinding,
    options: Option<&RunOptions>,
) -> Result<SessionOutputs<'b>, ort::Error> {
    match options {
        Some(options) => session.run_binding_with_options(binding, options),
        None => session.run_binding(binding),
    }
}

/// Copies an output to host memory as `f32`.
fn to_host(value: &DynValue) -> Result<Tensor<f32>, Cause> {
    let (shape, data) = match value.dtype().tensor_type() {
        Some(TensorElementType::Float16) => {
            let (shape, data) = value.try_extract_tensor::<f16>()?;
            (shape, data.iter().map(|half| half.to_f32()).collect())
        }
        _ => {
            let (shape, data) = value.try_extract_tensor::<f32>()?;
            (shape, data.to_vec())
        }
    };
    let shape: Vec<usize> = shape.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
    Ok(Tensor::new(shape, data)?)
}

/// Opens a session on a device.
pub(super) fn open(
    runtime: &Runtime,
    name: &str,
    source: &GraphSource<'_>,
    device: DeviceKind,
) -> Result<Session, ort::Error> {
    // The arena of the CPU keeps the memory of the largest run, unless a run releases it. With
    // a GPU, few nodes run on the CPU.
    let cpu = ep::CPU::default().with_arena_allocator(device == DeviceKind::Cpu).build();
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
    let mut builder = Session::builder(runtime.environment())?
        .with_optimization_level(GraphOptimizationLevel::All)?
        // Shapes vary between runs, so the memory patterns per shape would accumulate.
        .with_memory_pattern(false)?
        .with_execution_providers(providers)?;
    if let Some(profile) = runtime.profile(name) {
        builder = builder.with_profiling(profile)?;
    }
    match source {
        GraphSource::Path(path) => builder.commit_from_file(path),
        GraphSource::Bytes(bytes) => builder.commit_from_memory(bytes),
        GraphSource::Rewritten(graph) => builder
            .with_config_entry(WEIGHTS_FOLDER, graph.folder.display().to_string())?
            .commit_from_memory(&graph.bytes),
    }
}
