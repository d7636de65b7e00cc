//! What can be wrong with a model that is loaded.

use crate::{config::BundleError, runtime::SessionError};

/// Failure to load a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A graph cannot be opened.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// More context was asked for than the model has.
    #[error("`model.context_tokens` = {asked} is beyond the {max} tokens of `{bundle}`")]
    ContextTooLong {
        /// The bundle's name.
        bundle: String,
        /// What was asked for.
        asked: usize,
        /// What the model has.
        max: usize,
    },
    /// Beams and draws were asked for together.
    #[error(
        "{n_beams} beams and draws together are not supported: set `generation.temperature` to 0 or \
         `generation.num_beams` to 1"
    )]
    BeamsDraw {
        /// The beams.
        n_beams: usize,
    },
    /// A pooling was asked for where there are no states of tokens to pool.
    #[error("graph `{graph}` pools by itself: remove `embedding.pooling`")]
    PooledInside {
        /// The graph's base name.
        graph: &'static str,
    },
    /// The graph embeds nothing.
    #[error("graph `{graph}` has no output that is an embedding")]
    NoEmbedding {
        /// The graph's base name.
        graph: &'static str,
    },
    /// The model was tried and failed.
    #[error("the model cannot make an embedding of {input}: {message}")]
    FirstEmbedding {
        /// `text`, `image` or `audio`.
        input: &'static str,
        /// What went wrong.
        message: String,
    },
    /// No slot was asked for.
    #[error("`model.slots` = 0, expected at least 1")]
    NoSlots,
}

impl ModelError {
    /// Returns the label for reports: few and stable.
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
        }
    }
}
