//! The errors of a plan.

use legenda_models::{BundleError, grammar::GrammarError};
use legenda_schemas::job::JobError;

use crate::{
    base::store::{LocationError, ReadError},
    input::{query::QueryError, source::SourceError, template::TemplateError},
};

/// An error in a job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The table is invalid.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A template is invalid.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The model does not support the task.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The model has no encoder for a mapped column.
    #[error(
        "`source.columns.{kind}` is set, but the model `{bundle}` does not accept {kind} input"
    )]
    Modality {
        /// `image` or `audio`.
        kind: &'static str,
        /// The model.
        bundle: String,
    },
    /// The form of the answers is invalid.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The form of the answers cannot be enforced.
    #[error("invalid `answer`")]
    Answer(#[from] GrammarError),
    /// A column of a typed answer has the name of a carried column.
    #[error(
        "the answer column `{column}` is also a carried column: rename it, or leave it out of \
         `output.columns`"
    )]
    AnswerColumn {
        /// The column.
        column: String,
    },
    /// The query is invalid.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// `output.path` is invalid.
    #[error("invalid `output.path`")]
    Output(#[from] LocationError),
    /// The store of `output.path` is misconfigured in the environment.
    #[error("invalid `output.path`")]
    OutputStore(#[source] ReadError),
    /// Answers cannot be partitioned by this column.
    #[error("invalid `output.partition_by`: `{column}` {problem}")]
    Partition {
        /// The column.
        column: String,
        /// The cause.
        problem: &'static str,
        /// The remedy.
        remedy: &'static str,
    },
    /// The input files cannot have sidecars.
    #[error("`output.sidecars` requires image or audio files on a local disk: {problem}")]
    Sidecars {
        /// The cause.
        problem: String,
    },
    /// The columns cannot be serialised.
    #[error("failed to serialise the columns of the source")]
    Columns(#[source] serde_json::Error),
    /// The rejects were made by a different job.
    #[error("the rejects were made by a different job; changed keys: {differing}")]
    Retry {
        /// The changed keys.
        differing: String,
    },
    /// The output would be read as input.
    #[error("`output.path` is `{output}`, which contains the input file `{input}`")]
    OutputHoldsInput {
        /// The output folder.
        output: String,
        /// The input file.
        input: String,
    },
}
