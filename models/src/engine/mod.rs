//! Continuous batching: prompts enter free slots, all live slots take each decode step together,
//! and a finished row frees its slots at once. This module does not know architectures or the
//! runtime.
//!
//! An answer depends only on its prompt, its row seed and the options: every row has its own random
//! stream, and no rule looks at another row. The result of a [`Decoder`] for a row must not depend
//! on the other rows either; `exec` explains how that is ensured.

mod beams;
mod choice;
mod constraints;
mod decoder;
mod embedding;
mod engine;
mod fallback;
mod generation;
mod options;
mod prompt;
mod reduce;
mod row;
mod sampler;
mod schedule;
mod stop;
#[cfg(test)]
mod tests;
mod timestamps;
mod typed;

pub use beams::{Beams, EarlyStopping};
pub use constraints::Constraints;
pub use decoder::{
    Asked, DecodeError, Decoder, Detokenizer, Join, Logits, SlotCopy, StepRow, Subject,
};
pub use embedding::{Embedding, EmbeddingInput};
pub use engine::{Engine, Full};
pub use fallback::{Fallback, Silence, Trial};
pub use generation::{FinishReason, Finished, GenerateError, Generation};
pub use options::{EngineOptions, LengthLimit};
pub use prompt::{Positions, Prompt, TokenChoice};
pub use sampler::Sampling;
pub use stop::Guard;
pub use timestamps::TimestampRules;

pub(crate) use schedule::prefill_groups;
