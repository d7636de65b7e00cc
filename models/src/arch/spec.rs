//! What an architecture is made of: plain data and function pointers.
//!
//! A builder of ONNX graphs from a checkpoint becomes a field of [`Architecture`], and its code stands
//! in the architecture's file.

use serde_json::Value;

use super::{EncoderInputs, PromptConfigs, prompt_layout::PromptLayout};
use crate::config::{
    AudioFeatures, BundleError, ImageLayoutKind, ModelConfig, SoundLength, TokenIds,
};

/// Everything in which one architecture differs from others.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The models, as users call them.
    pub(crate) models: &'static str,
    pub(crate) names: Names,
    /// The same models in the layout of onnxruntime-genai.
    pub(crate) genai: &'static [GenaiModel],
    pub(crate) wiring: Wiring,
    /// How images become a part of the prompt; `None` where features have no place in it.
    pub(crate) image: Option<ImageSpec>,
    /// The same of audio.
    pub(crate) audio: Option<AudioSpec>,
    pub(crate) prompt: PromptSpec,
    pub(crate) positions: PositionScheme,
    pub(crate) answer: AnswerFormat,
}

impl Architecture {
    /// A decoder of text; the base of the others.
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

    /// Returns how the architecture is wired if it is an encoder-decoder.
    pub(crate) fn seq2seq(&self) -> Option<&'static Seq2SeqSpec> {
        match self.wiring {
            Wiring::EncoderDecoder(spec) => Some(spec),
            Wiring::Causal | Wiring::Multimodal | Wiring::Embedding(_) => None,
        }
    }
}

/// The names by which `config.json` declares an architecture: its first `architectures`, or its
/// `model_type` where there are none.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) exact: &'static [&'static str],
    /// The ends of names of models that share one wiring. Those of encoder-decoders count only where
    /// the config says `is_encoder_decoder`.
    pub(crate) suffixes: &'static [&'static str],
    /// A part of the encoder's `model_type`, where other architectures have the same name.
    pub(crate) encoder: Option<&'static str>,
}

impl Names {
    const NONE: Self = Self { exact: &[], suffixes: &[], encoder: None };

    /// Returns names that are given in full.
    pub(super) const fn exact(exact: &'static [&'static str]) -> Self {
        Self { exact, ..Self::NONE }
    }

    /// Returns the ends of names.
    pub(super) const fn suffixes(suffixes: &'static [&'static str]) -> Self {
        Self { suffixes, ..Self::NONE }
    }
}

/// A `model.type` of `genai_config.json`.
#[derive(Debug)]
pub(crate) struct GenaiModel {
    pub(crate) model_type: &'static str,
    /// Whether it is this architecture only together with a graph that embeds tokens: without one it is
    /// a text decoder.
    pub(crate) needs_embedding: bool,
    /// The name that `config.json` would have.
    pub(crate) name: &'static str,
    /// The keys of `config.json` that the layout lacks, with the tokens that they name.
    pub(crate) tokens: &'static [(&'static str, &'static str)],
}

/// How the graphs of an architecture are connected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wiring {
    /// A decoder of text.
    Causal,
    /// Encoders and `embed_tokens` before one decoder; features stand in placeholder positions.
    Multimodal,
    /// A decoder that attends to the states of an encoder.
    EncoderDecoder(&'static Seq2SeqSpec),
    /// Encoders whose states become embeddings.
    Embedding(&'static EmbeddingSpec),
}

impl Wiring {
    /// Returns the name in reports.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Multimodal => "multimodal",
            Self::EncoderDecoder(_) => "encoder-decoder",
            Self::Embedding(_) => "embedding",
        }
    }
}

/// How images become a part of the prompt.
#[derive(Debug)]
pub(crate) struct ImageSpec {
    /// What the image processor has to make of an image.
    pub(crate) layout: ImageLayoutKind,
    pub(crate) expansion: fn(&PromptConfigs<'_>) -> Result<PromptLayout, BundleError>,
    pub(crate) inputs: EncoderInputs,
}

/// How audio becomes a part of the prompt.
#[derive(Debug)]
pub(crate) struct AudioSpec {
    /// What the feature extractor has to compute.
    pub(crate) features: AudioFeatures,
    pub(crate) length: fn(&ModelConfig) -> SoundLength,
    pub(crate) expansion: fn(&PromptConfigs<'_>) -> Result<PromptLayout, BundleError>,
    pub(crate) inputs: EncoderInputs,
}

/// How a prompt is made of a record's text.
#[derive(Debug)]
pub(crate) struct PromptSpec {
    pub(crate) text: PromptText,
    /// The template in place of the bundle's own.
    pub(crate) template: Option<&'static str>,
    /// How a chat template is given text and media; `None` where the bundle's modalities decide.
    pub(crate) content: Option<ContentOrder>,
    pub(crate) attention: PromptAttention,
    /// The prompt of a `caption` task whose job has none.
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

    /// Returns a prompt that no template makes.
    pub(super) const fn of(text: PromptText) -> Self {
        Self { text, ..Self::CHAT }
    }
}

/// What the text of a record is for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptText {
    /// Nothing: the image or audio is the whole prompt.
    Unread,
    /// The input of the encoder, or of a sentence encoder, as it is.
    Plain,
    /// A message of a chat.
    Chat,
    /// The task, in special tokens that an answer begins with.
    TaskTokens,
    /// The name of a task with a question of its own, and the text that the task takes.
    NamedTask,
    /// The beginning of the answer.
    Continuation,
}

/// How a chat template is given a message's text and media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentOrder {
    /// As a list of parts.
    Parts,
    /// As a text with the placeholders of media behind it.
    TextThenMedia,
    /// As a text with the placeholders of media before it.
    MediaThenText,
}

/// Which tokens of a prompt a token attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PromptAttention {
    /// Those before it.
    Causal,
    /// All of them, so that a prompt is never prefilled in pieces.
    Prefix,
}

/// How positions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PositionScheme {
    /// One by one.
    Sequential {
        /// The position of the first token.
        first: i64,
    },
    /// On axes of time, height and width (M-RoPE).
    MRope,
}

/// What an answer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerFormat {
    /// Text.
    Text,
    /// Text with timestamps in a vocabulary of their own.
    Timestamped,
    /// Fields of a document, as JSON.
    DocumentFields,
    /// Text, and regions of the image, as JSON.
    Regions,
    /// Text that continues the prompt and is returned with it.
    Continuation,
}

/// What an encoder takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EncoderInput {
    /// Token ids.
    Text,
    /// Pixel values.
    Image,
    /// Features of an image and the embeddings of a text.
    ImageText,
    /// A log-mel spectrogram of one length.
    LogMel,
    /// Samples.
    Samples,
}

impl EncoderInput {
    /// Returns the modality of which every row has exactly one; `None` of a text.
    pub(crate) fn modality(self) -> Option<&'static str> {
        match self {
            Self::Text => None,
            Self::Image | Self::ImageText => Some("image"),
            Self::LogMel | Self::Samples => Some("audio"),
        }
    }
}

/// How an encoder-decoder is configured.
#[derive(Debug)]
pub(crate) struct Seq2SeqSpec {
    pub(crate) input: EncoderInput,
    /// The keys of `config.json` below which the decoder's may stand.
    pub(crate) decoder_keys: &'static [&'static str],
    /// The keys of `config.json` below which the encoder's may stand.
    pub(crate) encoder_keys: &'static [&'static str],
    /// Returns the most positions of the encoder's output by `config.json`; `None` where they are as
    /// many as the input's tokens, or not known.
    pub(crate) encoder_positions: fn(&Value) -> Option<usize>,
    /// The entries of `encoder_attention_mask` for one position of the encoder's output, of which the
    /// decoder reads the first.
    pub(crate) mask_stride: usize,
    pub(crate) start: StartScheme,
    /// Returns the tokens that end an answer whatever the generation config says.
    pub(crate) fixed_end: Option<fn(&Value) -> TokenIds>,
}

impl Seq2SeqSpec {
    /// An encoder and a decoder of text; the base of the others.
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

/// What an answer of an encoder-decoder begins with, and which options of speech apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartScheme {
    /// The start token.
    Plain,
    /// The start token; languages are tokens of the text and of the answer.
    Translation,
    /// The start token, language, task, and whether there are timestamps.
    Speech,
}

/// How embeddings are made.
#[derive(Debug)]
pub(crate) enum EmbeddingSpec {
    /// One encoder of text, pooled as `modules.json` says.
    Sentence,
    /// A text encoder and another into one space.
    Dual(DualSpec),
}

/// The two encoders of a dual encoder.
#[derive(Debug)]
pub(crate) struct DualSpec {
    /// What the other encoder takes: `image` or `audio`.
    pub(crate) modality: &'static str,
    /// Whether a token of a text attends to those before it only, so that padding needs no mask.
    pub(crate) is_causal: bool,
    /// Whether every text is padded to the most tokens.
    pub(crate) pads_to_max: bool,
    /// Whether embeddings are projections also where no `projection_dim` says so.
    pub(crate) is_projected: bool,
    /// The text encoder's `max_position_embeddings` where the config has none.
    pub(crate) default_positions: Option<usize>,
    /// The first of these positions that no token has.
    pub(crate) reserved_positions: usize,
}

impl DualSpec {
    /// Encoders of images and of text; the base of the others.
    pub(super) const IMAGE: Self = Self {
        modality: "image",
        is_causal: false,
        pads_to_max: false,
        is_projected: false,
        default_positions: None,
        reserved_positions: 0,
    };
}
