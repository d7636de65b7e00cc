//! The definition of an architecture: plain data and function pointers.
//!
//! A builder of ONNX graphs from a checkpoint belongs in a field of [`Architecture`], with its code
//! in the architecture's file.

use serde_json::Value;

use super::{EncoderInputs, PromptConfigs, prompt_layout::PromptLayout};
use crate::config::{
    AudioFeatures, BundleError, ImageLayoutKind, ModelConfig, SoundLength, TokenIds,
};

/// The complete definition of an architecture.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The models, as users call them.
    pub(crate) models: &'static str,
    pub(crate) names: Names,
    /// The same models in the layout of onnxruntime-genai.
    pub(crate) genai: &'static [GenaiModel],
    pub(crate) wiring: Wiring,
    /// The image input; `None` if image features are not part of the prompt.
    pub(crate) image: Option<ImageSpec>,
    /// The audio input; `None` if audio features are not part of the prompt.
    pub(crate) audio: Option<AudioSpec>,
    pub(crate) prompt: PromptSpec,
    pub(crate) positions: PositionScheme,
    pub(crate) answer: AnswerFormat,
}

impl Architecture {
    /// A text decoder, the base of the others.
    pub(super) const BASE: Self = Self {
        models: "",
        names: Names::NONE,
        genai: &[],
        wiring: Wiring::Causal,
        image: None,
        audio: None,
        prompt: PromptSpec::CHAT,
        positions: PositionScheme::Sequential { first: 0 },
        answer: AnswerFormat::Text,
    };

    /// Returns the encoder-decoder spec, if the architecture is one.
    pub(crate) fn seq2seq(&self) -> Option<&'static Seq2SeqSpec> {
        match self.wiring {
            Wiring::EncoderDecoder(spec) => Some(spec),
            Wiring::Causal | Wiring::Multimodal | Wiring::Embedding(_) => None,
        }
    }
}

/// The names that declare an architecture: the first of `architectures` in `config.json`, or
/// `model_type` if there is none.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) exact: &'static [&'static str],
    /// The suffixes of model names that share one wiring. Those of encoder-decoders match only if
    /// the config sets `is_encoder_decoder`.
    pub(crate) suffixes: &'static [&'static str],
    /// A substring of the encoder's `model_type`, if several architectures share a name.
    pub(crate) encoder: Option<&'static str>,
}

impl Names {
    const NONE: Self = Self { exact: &[], suffixes: &[], encoder: None };

    /// Creates names that match exactly.
    pub(super) const fn exact(exact: &'static [&'static str]) -> Self {
        Self { exact, ..Self::NONE }
    }

    /// Creates names that match by suffix.
    pub(super) const fn suffixes(suffixes: &'static [&'static str]) -> Self {
        Self { suffixes, ..Self::NONE }
    }
}

/// A `model.type` of `genai_config.json`.
#[derive(Debug)]
pub(crate) struct GenaiModel {
    pub(crate) model_type: &'static str,
    /// Whether the type requires a graph that embeds tokens; without one it is a text decoder.
    pub(crate) needs_embedding: bool,
    /// The equivalent architecture name of `config.json`.
    pub(crate) name: &'static str,
    /// The keys of `config.json` that the layout lacks, with the tokens that they name.
    pub(crate) tokens: &'static [(&'static str, &'static str)],
}

/// The connections between the graphs of an architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wiring {
    /// A text decoder.
    Causal,
    /// Encoders and `embed_tokens` before one decoder; features replace placeholder tokens.
    Multimodal,
    /// A decoder with cross-attention to the states of an encoder.
    EncoderDecoder(&'static Seq2SeqSpec),
    /// Encoders that produce embeddings.
    Embedding(&'static EmbeddingSpec),
}

impl Wiring {
    /// Returns the name for reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Multimodal => "multimodal",
            Self::EncoderDecoder(_) => "encoder-decoder",
            Self::Embedding(_) => "embedding",
        }
    }
}

/// The image input of an architecture.
#[derive(Debug)]
pub(crate) struct ImageSpec {
    /// The required layout of the image processor.
    pub(crate) layout: ImageLayoutKind,
    pub(crate) expansion: fn(&PromptConfigs<'_>) -> Result<PromptLayout, BundleError>,
    pub(crate) inputs: EncoderInputs,
}

/// The audio input of an architecture.
#[derive(Debug)]
pub(crate) struct AudioSpec {
    /// The required features of the feature extractor.
    pub(crate) features: AudioFeatures,
    pub(crate) length: fn(&ModelConfig) -> SoundLength,
    pub(crate) expansion: fn(&PromptConfigs<'_>) -> Result<PromptLayout, BundleError>,
    pub(crate) inputs: EncoderInputs,
}

/// The construction of a prompt from a record's text.
#[derive(Debug)]
pub(crate) struct PromptSpec {
    pub(crate) text: PromptText,
    /// The template that replaces that of the bundle.
    pub(crate) template: Option<&'static str>,
    /// The order of text and media in a message; `None` if the bundle's modalities determine it.
    pub(crate) content: Option<ContentOrder>,
    pub(crate) attention: PromptAttention,
    /// The default prompt of a `caption` task.
    pub(crate) caption: Option<&'static str>,
}

impl PromptSpec {
    /// The bundle's chat template.
    pub(super) const CHAT: Self = Self {
        text: PromptText::Chat,
        template: None,
        content: None,
        attention: PromptAttention::Causal,
        caption: None,
    };

    /// Creates a prompt spec without a template.
    pub(super) const fn of(text: PromptText) -> Self {
        Self { text, ..Self::CHAT }
    }
}

/// The roles of a record's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptText {
    /// Unused: the image or audio is the whole prompt.
    Unread,
    /// The verbatim input of the encoder, or of a sentence encoder.
    Plain,
    /// A chat message.
    Chat,
    /// The task, as special tokens at the start of the answer.
    TaskTokens,
    /// The name of a task with a predefined question, and the task's text argument.
    NamedTask,
    /// The beginning of the answer.
    Continuation,
}

/// The representations of a message's text and media for the chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentOrder {
    /// A list of parts.
    Parts,
    /// A text followed by the media placeholders.
    TextThenMedia,
    /// A text preceded by the media placeholders.
    MediaThenText,
}

/// The attention masks of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptAttention {
    /// Causal attention.
    Causal,
    /// Full attention, so a prompt cannot be prefilled in chunks.
    Prefix,
}

/// The position schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionScheme {
    /// Consecutive positions.
    Sequential {
        /// The position of the first token.
        first: i64,
    },
    /// On axes of time, height and width (M-RoPE).
    MRope,
}

/// The output formats of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerFormat {
    /// Text.
    Text,
    /// Text with timestamp tokens.
    Timestamped,
    /// The fields of a document, as JSON.
    DocumentFields,
    /// Text, and regions of the image as JSON.
    Regions,
    /// The prompt and its continuation.
    Continuation,
}

/// The inputs of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncoderInput {
    /// Token ids.
    Text,
    /// Pixel values.
    Image,
    /// Image features and text embeddings.
    ImageText,
    /// A log-mel spectrogram of fixed length.
    LogMel,
    /// Raw samples.
    Samples,
}

impl EncoderInput {
    /// Returns the modality of which every row has exactly one; `None` for text.
    pub(crate) fn modality(self) -> Option<&'static str> {
        match self {
            Self::Text => None,
            Self::Image | Self::ImageText => Some("image"),
            Self::LogMel | Self::Samples => Some("audio"),
        }
    }
}

/// The configuration of an encoder-decoder.
#[derive(Debug)]
pub(crate) struct Seq2SeqSpec {
    pub(crate) input: EncoderInput,
    /// The keys of `config.json` that may contain the decoder config.
    pub(crate) decoder_keys: &'static [&'static str],
    /// The keys of `config.json` that may contain the encoder config.
    pub(crate) encoder_keys: &'static [&'static str],
    /// Returns the maximum number of encoder output positions from `config.json`; `None` if there
    /// is one per input token, or if it is unknown.
    pub(crate) encoder_positions: fn(&Value) -> Option<usize>,
    /// The number of `encoder_attention_mask` entries per encoder output position. The decoder
    /// reads the first of them.
    pub(crate) mask_stride: usize,
    pub(crate) start: StartScheme,
    /// Returns the end tokens that override those of the generation config.
    pub(crate) fixed_end: Option<fn(&Value) -> TokenIds>,
}

impl Seq2SeqSpec {
    /// A text encoder-decoder, the base of the others.
    pub(super) const BASE: Self = Self {
        input: EncoderInput::Text,
        decoder_keys: &[],
        encoder_keys: &["encoder", "vision_config"],
        encoder_positions: |_| None,
        mask_stride: 1,
        start: StartScheme::Plain,
        fixed_end: None,
    };
}

/// The decoder start of an encoder-decoder, which also determines the supported speech options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartScheme {
    /// The start token.
    Plain,
    /// The start token. Text and answer contain language tokens.
    Translation,
    /// The start token, language, task, and the no-timestamps token if they are disabled.
    Speech,
}

/// The kinds of embedding models.
#[derive(Debug)]
pub(crate) enum EmbeddingSpec {
    /// A text encoder, pooled according to `modules.json`.
    Sentence,
    /// Two encoders with a shared embedding space, one of them for text.
    Dual(DualSpec),
}

/// The encoders of a dual encoder.
#[derive(Debug)]
pub(crate) struct DualSpec {
    /// The input of the non-text encoder: `image` or `audio`.
    pub(crate) modality: &'static str,
    /// Whether text attention is causal, so that right padding needs no mask.
    pub(crate) is_causal: bool,
    /// Whether every text is padded to the maximum length.
    pub(crate) pads_to_max: bool,
    /// Whether embeddings are projections even if `projection_dim` is missing.
    pub(crate) is_projected: bool,
    /// The default of the text encoder's `max_position_embeddings`.
    pub(crate) default_positions: Option<usize>,
    /// The number of these positions that no token uses.
    pub(crate) reserved_positions: usize,
}

impl DualSpec {
    /// A dual encoder of images and text, the base of the others.
    pub(super) const IMAGE: Self = Self {
        modality: "image",
        is_causal: false,
        pads_to_max: false,
        is_projected: false,
        default_positions: None,
        reserved_positions: 0,
    };
}
