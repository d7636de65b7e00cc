//! What can be wrong with a model that is loaded.

use legenda_schemas::cause::Cause;

use crate::{config::BundleError, grammar::GrammarError, runtime::SessionError};

/// An error while loading a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The bundle is invalid or unsupported.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A graph cannot be opened.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The form of the answers cannot be enforced.
    #[error("invalid `answer`")]
    Answer(#[from] GrammarError),
    /// The requested context is out of range.
    #[error("invalid `model.context_tokens`: expected 2 to {max} for `{bundle}`, got {asked}")]
    ContextTooLong {
        /// The bundle's name.
        bundle: String,
        /// The requested context.
        asked: usize,
        /// The maximum context of the model.
        max: usize,
    },
    /// Beam search and sampling are both requested.
    #[error("beam search with sampling is not supported ({n_beams} beams)")]
    BeamsDraw {
        /// The number of beams.
        n_beams: usize,
    },
    /// `embedding.pooling` is set, but the graph returns no token states to pool.
    #[error("invalid `embedding.pooling`: graph `{graph}` already pools its output")]
    PooledInside {
        /// The graph's base name.
        graph: &'static str,
    },
    /// The graph does not return an embedding.
    #[error("graph `{graph}` has no embedding output")]
    NoEmbedding {
        /// The graph's base name.
        graph: &'static str,
    },
    /// The trial run of the model failed.
    #[error("failed to embed a test {input} input")]
    FirstEmbedding {
        /// `text`, `image` or `audio`.
        input: &'static str,
        /// The cause.
        source: Cause,
    },
    /// The number of slots is zero.
    #[error("invalid `model.slots`: expected at least 1, got 0")]
    NoSlots,
}

impl ModelError {
    /// Returns a stable error code for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bundle(error) => error.code(),
            Self::Session(error) => error.code(),
            Self::ContextTooLong { .. } => "context_too_long",
            Self::BeamsDraw { .. } => "beams_draw",
            Self::PooledInside { .. } => "pooled_inside",
            Self::NoEmbedding { .. } => "no_embedding",
            Self::FirstEmbedding { .. } => "first_embedding",
            Self::NoSlots => "no_slots",
            Self::Answer(_) => "answer",
        }
    }
}
