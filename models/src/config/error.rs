//! What can be wrong with a bundle.

use std::path::PathBuf;

use legenda_schemas::precision::Precision;

use crate::hub::HubError;

/// Failure to open a bundle, or to use it for a task.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The directory cannot be read.
    #[error("cannot read the bundle directory `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file the bundle must have is not there.
    #[error("the bundle has no file `{file}`")]
    MissingFile {
        /// The file, relative to the bundle.
        file: String,
    },
    /// A file is there but cannot be read.
    #[error("cannot read `{file}` of the bundle")]
    Read {
        /// The file, relative to the bundle.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than any of its kind.
    #[error(
        "`{file}` of the bundle has {bytes} bytes, at most {limit} are read; is it the right file?"
    )]
    TooLarge {
        /// The file, relative to the bundle.
        file: String,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A file has rules that may take any time or memory.
    #[error("`{file}` of the bundle may take too much time or memory: {problem}")]
    TooCostly {
        /// The file, relative to the bundle.
        file: String,
        /// The rule, and what would work.
        problem: String,
    },
    /// A config file is not the JSON it should be.
    #[error("`{file}` of the bundle is not valid: {message}")]
    InvalidJson {
        /// The file, relative to the bundle.
        file: String,
        /// What is wrong, with the place.
        message: String,
    },
    /// The model is of a kind this version cannot run.
    #[error("architecture `{architecture}` is not supported, supported: {supported}")]
    UnsupportedArchitecture {
        /// The architecture in `config.json`.
        architecture: String,
        /// What can be run.
        supported: String,
    },
    /// A config asks for something that would change the model's inputs and is not supported.
    #[error("`{key}` = `{value}` in `{file}` is not supported, supported: {supported}")]
    UnsupportedOption {
        /// The file, relative to the bundle.
        file: &'static str,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would work.
        supported: String,
    },
    /// The job asks for something that the model cannot do.
    #[error("`{key}` = `{value}` is not possible with this model, possible: {supported}")]
    TaskOption {
        /// The key of the job file.
        key: &'static str,
        /// Its value.
        value: String,
        /// What would work.
        supported: String,
    },
    /// Two files of the bundle do not agree, or a value is impossible.
    #[error("`{file}` of the bundle is inconsistent: {message}")]
    Inconsistent {
        /// The file, relative to the bundle.
        file: &'static str,
        /// What does not agree with what.
        message: String,
    },
    /// A file leads out of the bundle, by a link or by what a graph names.
    #[error(
        "`{file}` leads out of the bundle, to `{}`: a model reads its own directory only",
        target.display()
    )]
    Outside {
        /// The file, relative to the bundle.
        file: String,
        /// Where it leads.
        target: PathBuf,
    },
    /// A graph file is no ONNX.
    #[error("`{file}` of the bundle is no ONNX graph: {message}")]
    InvalidGraph {
        /// The file, relative to the bundle.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// A graph is not there in the precision that is wanted.
    #[error(
        "`model.precision` wants `{graph}` in {wanted}, the bundle has it in: {}",
        there.iter().map(|precision| precision.as_str()).collect::<Vec<_>>().join(", ")
    )]
    MissingPrecision {
        /// The graph's base name.
        graph: String,
        /// What is wanted.
        wanted: Precision,
        /// What is there.
        there: Vec<Precision>,
    },
    /// A precision is wanted of a graph that the model does not run.
    #[error("`model.precision` names a graph `{graph}`, the model runs: {there}")]
    UnknownGraph {
        /// What is named.
        graph: String,
        /// The graphs that it runs.
        there: String,
    },
    /// The model cannot be had from the Hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The model lacks what a task needs.
    #[error("`{bundle}` cannot do `{task}`: it has no {modality} input")]
    TaskNeeds {
        /// The bundle's name.
        bundle: String,
        /// The task.
        task: &'static str,
        /// The modality it needs.
        modality: &'static str,
    },
    /// The model makes something other than the task asks for.
    #[error(
        "`{bundle}` cannot do `{task}`: it makes {does}; choose another `task.kind` or `model.bundle`"
    )]
    TaskKind {
        /// The bundle's name.
        bundle: String,
        /// The task.
        task: &'static str,
        /// What the model makes: `texts`, `captions` or `embeddings`.
        does: &'static str,
    },
    /// The bundle has no prompt of this name.
    #[error("`embedding.prompt_name` = `{name}` is no prompt of the bundle; its prompts: {names}")]
    UnknownPrompt {
        /// The name.
        name: String,
        /// The names there are.
        names: String,
    },
}

impl BundleError {
    /// Returns the label for metrics and reports: few and stable.
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
