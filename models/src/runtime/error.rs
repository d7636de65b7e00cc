//! Errors of opening and running graphs.

use std::io;

use legenda_schemas::cause::Cause;

/// A graph cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The runtime rejected the graph.
    #[error("failed to open graph `{graph}`")]
    Open {
        /// The base name of the graph.
        graph: String,
        /// The error of the runtime.
        source: Cause,
    },
    /// CUDA was requested but is not available.
    #[error("CUDA is not available: {problem}")]
    Cuda {
        /// The missing library or device.
        problem: String,
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
    #[error("failed to read the nodes of graph `{graph}`")]
    Nodes {
        /// The base name of the graph.
        graph: String,
        /// The error of the file.
        source: io::Error,
    },
    /// The logits of a row change when it is padded next to a longer row, so answers would be
    /// wrong.
    #[error(
        "unknown padding layout of graph `{graph}`: next to a longer row, logits differ by {difference:.3} of their range"
    )]
    Padding {
        /// The base name of the graph.
        graph: String,
        /// The maximum difference, as a fraction of the range of the logits.
        difference: f32,
    },
    /// The graph has an fp32 operator that CUDA supports only in fp16.
    #[error("`{operator}` of graph `{graph}` does not run on CUDA in fp32")]
    NotOnCuda {
        /// The base name of the graph.
        graph: String,
        /// The operator.
        operator: &'static str,
    },
    /// An adapter does not match the graph.
    #[error("failed to load adapter `{file}` of graph `{graph}`: {problem}")]
    Adapter {
        /// The base name of the graph.
        graph: String,
        /// The file of the adapter.
        file: String,
        /// The problem.
        problem: String,
    },
    /// The KV cache cannot be allocated.
    #[error("failed to allocate a KV cache of {n_bytes} bytes")]
    Allocate {
        /// The size in bytes.
        n_bytes: usize,
        /// The error of the runtime.
        source: ort::Error,
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
#[error("failed to run `{graph}`")]
pub(crate) struct RunError {
    pub(crate) graph: String,
    pub(crate) source: Cause,
}

impl RunError {
    pub(crate) fn new(graph: &str, source: impl Into<Cause>) -> Self {
        Self { graph: graph.to_owned(), source: source.into() }
    }
}
