//! The supported architectures: one file each, and the registry that finds them.
//!
//! What tells one architecture from another stands in its file, as plain data and function pointers
//! ([`spec`]); no other module names an architecture (`tests/tests/tidy/`), except that the published
//! classes of processors, and the sizes that configs leave out, are in `config/classes`.

mod audio_llm;
mod causal;
mod embed;
mod encoder_inputs;
#[cfg(test)]
mod models_page;
mod prompt_layout;
mod registry;
mod seq2seq;
mod spec;
mod vlm;

pub(crate) use encoder_inputs::{EncoderInputs, ExtraInput, ExtraValue, RunUnit};
pub(crate) use prompt_layout::{Expansion, PromptConfigs, PromptLayout, inconsistent};
pub(crate) use registry::{
    Declaration, audio_dual_encoder, find, find_genai, image_dual_encoder, sentence_encoder,
    speech_models, supported_models,
};
pub(crate) use spec::{
    AnswerFormat, Architecture, AudioSpec, ContentOrder, DualSpec, EmbeddingSpec, EncoderInput,
    GenaiModel, ImageSpec, Names, PositionScheme, PromptAttention, PromptSpec, PromptText,
    Seq2SeqSpec, StartScheme, Wiring,
};
