//! Turns samples into prompts.

use std::fmt;

use crate::{engine::Prompt, preprocess::Sample, runtime::RunError};

/// Turns samples into prompts: runs the encoders and puts their features in place.
pub trait Encoder: Send + fmt::Debug {
    /// Encodes samples, each to its own result, in order.
    ///
    /// Encoders run on batches. A batch that fails is split and repeated down to one row, so only
    /// the rows that fail alone come back as errors.
    fn encode(&mut self, samples: Vec<Sample>) -> Vec<Result<Prompt, EncodeError>>;

    /// Returns how many samples are worth giving to one [`encode`](Self::encode).
    fn batch_rows(&self) -> usize {
        8
    }
}

/// Failure to encode one sample. The row is rejected; other rows go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The runtime failed on this row alone.
    #[error("failed to run `{graph}`: {message}")]
    Run {
        /// The graph that was run.
        graph: String,
        /// What the runtime said.
        message: String,
    },
    /// A graph returned something other than its contract says.
    #[error("output of `{graph}` has shape {actual:?}, expected {expected}")]
    OutputShape {
        /// The graph that was run.
        graph: String,
        /// The shape returned.
        actual: Vec<usize>,
        /// The shape its contract says.
        expected: String,
    },
    /// The prompt has not one placeholder per feature.
    #[error("the prompt has {n_placeholders} {modality} placeholders for {n_features} features")]
    FeatureCount {
        /// `image` or `audio`.
        modality: &'static str,
        /// Placeholders in the prompt.
        n_placeholders: usize,
        /// Feature rows from the encoder.
        n_features: usize,
    },
    /// The text is longer than the encoder reads.
    #[error("the text has {n_tokens} tokens, the model reads at most {max_tokens}")]
    TextTooLong {
        /// The tokens of the text.
        n_tokens: usize,
        /// The most that are read.
        max_tokens: usize,
    },
    /// An embedding has numbers that are not finite.
    #[error("`{graph}` returned an embedding that is not finite")]
    NotFinite {
        /// The graph that was run.
        graph: String,
    },
    /// The model has no encoder for what is in the sample.
    #[error("the model has no {modality} encoder")]
    NoEncoder {
        /// `image` or `audio`.
        modality: &'static str,
    },
}

impl EncodeError {
    /// Returns the label for metrics and rejects: few and stable.
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
        Self::Run { graph: error.graph, message: error.message }
    }
}
