//! Errors of opening and running graphs.

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
