//! The supported architectures: one file each, and the registry that finds them.
//!
//! Everything specific to an architecture is in its file, as plain data and function pointers
//! ([`spec`]). No other module names an architecture (`tests/tests/tidy.rs`). The published classes
//! of image processors and feature extractors, and default sizes missing from configs, are also
//! defined here.

mod audio_class;
mod audio_llm;
mod causal;
mod embed;
mod encoder_inputs;
mod image_class;
#[cfg(test)]
mod models_page;
pub(crate) mod operations;
mod prompt_layout;
mod registry;
mod seq2seq;
mod spec;
mod vlm;

pub(crate) use audio_class::AudioFeatures;
pub(crate) use causal::with_text_defaults;
pub(crate) use encoder_inputs::{EncoderInputs, ExtraInput, ExtraValue, RunUnit};
pub(crate) use image_class::{IMAGE_CLASSES, ImageClass};
pub(crate) use prompt_layout::{Expansion, PromptConfigs, PromptLayout, inconsistent};
pub(crate) use registry::{
    Declaration, audio_dual_encoder, find, find_genai, image_dual_encoder, sentence_encoder,
    speech_models, supported_models,
};
pub(crate) use spec::{
    AnswerFormat, Architecture, AudioSpec, ContentOrder, DualSpec, EmbeddingSpec, EncoderInput,
    GenaiModel, ImageLayoutKind, ImageSpec, Names, PositionScheme, PromptAttention, PromptSpec,
    PromptText, Seq2SeqSpec, StartScheme, Wiring,
};
