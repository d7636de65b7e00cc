//! The errors of a bundle.

use std::path::PathBuf;

use legenda_schemas::{cause::Cause, precision::Precision};

use crate::hub::HubError;

/// An error while opening a bundle or checking a task against it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The directory cannot be read.
    #[error("failed to read the bundle directory `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A required file is missing.
    #[error("the bundle has no file `{file}`")]
    MissingFile {
        /// The file, relative to the bundle.
        file: String,
    },
    /// A file exists but cannot be read.
    #[error("failed to read `{file}` of the bundle")]
    Read {
        /// The file, relative to the bundle.
        file: String,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A file exceeds the size limit of its kind.
    #[error("`{file}` of the bundle is too large: expected at most {limit} bytes, got {bytes}")]
    TooLarge {
        /// The file, relative to the bundle.
        file: String,
        /// The size of the file in bytes.
        bytes: u64,
        /// The maximum size in bytes.
        limit: u64,
    },
    /// A file has rules that may take too much time or memory.
    #[error("`{file}` of the bundle may use too much time or memory: {problem}")]
    TooCostly {
        /// The file, relative to the bundle.
        file: String,
        /// The rule and the limit that it exceeds.
        problem: String,
    },
    /// A config file is invalid.
    #[error("invalid `{file}` in the bundle")]
    InvalidJson {
        /// The file, relative to the bundle.
        file: String,
        /// The problem and its position.
        source: Cause,
    },
    /// The architecture of the model is not supported.
    #[error("unsupported architecture `{architecture}`, supported: {supported}")]
    UnsupportedArchitecture {
        /// The architecture in `config.json`.
        architecture: String,
        /// The supported architectures.
        supported: String,
    },
    /// A config has an unsupported option that would change the model's inputs.
    #[error("unsupported `{key}` = `{value}` in `{file}`, supported: {supported}")]
    UnsupportedOption {
        /// The file, relative to the bundle.
        file: &'static str,
        /// The key.
        key: String,
        /// The value of the key.
        value: String,
        /// The supported values.
        supported: String,
    },
    /// The job requests an option that the model does not support.
    #[error("`{key}` = `{value}` is not supported by this model; supported: {supported}")]
    TaskOption {
        /// The key of the job file.
        key: &'static str,
        /// The value of the key.
        value: String,
        /// The supported values.
        supported: String,
    },
    /// Two files of the bundle contradict each other, or a value is out of range.
    #[error("`{file}` of the bundle is inconsistent: {problem}")]
    Inconsistent {
        /// The file, relative to the bundle.
        file: &'static str,
        /// The contradiction.
        problem: String,
    },
    /// A file resolves outside the bundle, through a link or an external data path.
    #[error(
        "`{file}` resolves outside the bundle, to `{}`: all files must be in its directory",
        target.display()
    )]
    Outside {
        /// The file, relative to the bundle.
        file: String,
        /// The resolved path.
        target: PathBuf,
    },
    /// A graph file is not valid ONNX.
    #[error("`{file}` of the bundle is not an ONNX graph")]
    InvalidGraph {
        /// The file, relative to the bundle.
        file: String,
        /// The error of the file.
        source: std::io::Error,
    },
    /// A graph is not available in the requested precision.
    #[error(
        "`model.precision` requests `{graph}` in {wanted}, available: {}",
        there.iter().map(|precision| precision.as_str()).collect::<Vec<_>>().join(", ")
    )]
    MissingPrecision {
        /// The graph's base name.
        graph: String,
        /// The requested precision.
        wanted: Precision,
        /// The available precisions.
        there: Vec<Precision>,
    },
    /// A precision is set for a graph that the model does not use.
    #[error("`model.precision` names an unknown graph `{graph}`, expected one of: {there}")]
    UnknownGraph {
        /// The unknown graph.
        graph: String,
        /// The graphs of the model.
        there: String,
    },
    /// The model cannot be fetched from the Hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model lacks an input that the task requires.
    #[error("`{bundle}` does not support `{task}`: it has no {modality} input")]
    TaskNeeds {
        /// The bundle's name.
        bundle: String,
        /// The task.
        task: &'static str,
        /// The required modality.
        modality: &'static str,
    },
    /// The model produces another kind of output than the task requires.
    #[error("`{bundle}` does not support `{task}`: it generates {does}")]
    TaskKind {
        /// The bundle's name.
        bundle: String,
        /// The task.
        task: &'static str,
        /// The output of the model: `texts`, `captions` or `embeddings`.
        does: &'static str,
    },
    /// The bundle does not have a prompt of this name.
    #[error("unknown prompt `embedding.prompt_name` = `{name}`, prompts of the bundle: {names}")]
    UnknownPrompt {
        /// The name.
        name: String,
        /// The prompts of the bundle.
        names: String,
    },
}

impl BundleError {
    /// Returns a stable error code for metrics and reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "bundle_directory",
            Self::MissingFile { .. } => "bundle_file_missing",
            Self::Read { .. } => "bundle_file_unreadable",
            Self::TooLarge { .. } => "bundle_file_too_large",
            Self::TooCostly { .. } => "bundle_file_too_costly",
            Self::InvalidJson { .. } => "bundle_json_invalid",
            Self::UnsupportedArchitecture { .. } => "architecture_unsupported",
            Self::UnsupportedOption { .. } => "bundle_option_unsupported",
            Self::TaskOption { .. } => "task_option_unsupported",
            Self::Inconsistent { .. } => "bundle_inconsistent",
            Self::TaskNeeds { .. } | Self::TaskKind { .. } => "task_unsupported",
            Self::UnknownPrompt { .. } => "prompt_unknown",
            Self::Outside { .. } => "bundle_file_outside",
            Self::InvalidGraph { .. } => "graph_invalid",
            Self::MissingPrecision { .. } => "precision_missing",
            Self::UnknownGraph { .. } => "precision_graph_unknown",
            Self::Hub(error) => error.code(),
        }
    }
}
