//! Turns samples into prompts.

use std::fmt;

use legenda_schemas::cause::Cause;

use crate::{engine::Prompt, preprocess::Sample, runtime::RunError};

/// Turns samples into prompts: runs the encoders and merges their features into the embeddings.
pub trait Encoder: Send + fmt::Debug {
    /// Encodes samples and returns one result per sample, in order.
    ///
    /// Encoders run on batches. A failing batch is split and retried down to single rows, so only
    /// the rows that fail on their own are returned as errors.
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>>;

    /// Returns the preferred number of samples per [`encode`](Self::encode) call.
    fn batch_rows(&self) -> usize {
        8
    }
}

/// An error while encoding one sample. The row is rejected; other rows continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The runtime failed on this row alone.
    #[error("failed to run `{graph}`")]
    Run {
        /// The graph that was run.
        graph: String,
        /// The error of the runtime.
        source: Cause,
    },
    /// A graph returned a shape that violates its contract.
    #[error("output of `{graph}` has shape {actual:?}, expected {expected}")]
    OutputShape {
        /// The graph that was run.
        graph: String,
        /// The returned shape.
        actual: Vec<usize>,
        /// The expected shape.
        expected: String,
    },
    /// The number of placeholders in the prompt does not match the number of features.
    #[error("the prompt has {n_placeholders} {modality} placeholders for {n_features} features")]
    FeatureCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// The number of placeholders in the prompt.
        n_placeholders: usize,
        /// The number of features from the encoder.
        n_features: usize,
    },
    /// The text exceeds the maximum length of the encoder.
    #[error("the text has {n_tokens} tokens, the model accepts at most {max_tokens}")]
    TextTooLong {
        /// The number of tokens of the text.
        n_tokens: usize,
        /// The maximum number of tokens.
        max_tokens: usize,
    },
    /// An embedding has NaN or infinite values.
    #[error("`{graph}` returned a non-finite embedding")]
    NotFinite {
        /// The graph that was run.
        graph: String,
    },
    /// The model has no encoder for a medium of the sample.
    #[error("the model has no {modality} encoder")]
    NoEncoder {
        /// `image` or `audio`.
        modality: &'static str,
    },
}

impl EncodeError {
    pub(super) fn run(graph: &str, source: impl Into<Cause>) -> Self {
        Self::Run { graph: graph.to_owned(), source: source.into() }
    }

    /// Returns a stable error code for metrics and rejects.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Run { .. } => "runtime",
            Self::OutputShape { .. } => "output_shape",
            Self::FeatureCount { .. } => "feature_count",
            Self::TextTooLong { .. } => "prompt_too_long",
            Self::NotFinite { .. } => "not_finite",
            Self::NoEncoder { .. } => "encoder_missing",
        }
    }
}

impl From<RunError> for EncodeError {
    fn from(error: RunError) -> Self {
        Self::Run { graph: error.graph, source: error.source }
    }
}
