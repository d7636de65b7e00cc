//! The published multimodal architectures: how pictures and sounds stand in their prompts.
//!
//! All are wired alike (`vision_encoder` or `audio_encoder`, `embed_tokens`, `decoder_model_merged`);
//! they differ in what a medium becomes before its encoder and between the words of its prompt, and
//! in positions.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{BundleError, BundleFiles, config::ProcessorConfig};

/// How a multimodal model reads pictures and sounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The default model's: so many placeholders for a picture as the processor config says.
    Legenda,
    /// LLaVA's: as many as the picture has patches.
    Llava,
    /// Idefics3's and SmolVLM's: tiles in rows and columns, each with a mark before it, then the
    /// whole picture.
    Idefics3,
    /// PaliGemma's: the pictures, then the prompt; no chat, and a prompt that sees itself whole.
    PaliGemma,
    /// Gemma 3's: a frame of marks and empty lines.
    Gemma3,
    /// Gemma 3n's: such a frame around pictures and around sounds.
    Gemma3n,
    /// Phi-4-multimodal's: as many as its crops make, and for a sound as many as its frames do.
    Phi4,
    /// Qwen2-VL's and Qwen2.5-VL's: as many as the picture has merged patches, with positions of
    /// three axes.
    Qwen2Vl,
    /// Ultravox's: a sound of any length behind the text, a token for a stack of encoder's states.
    Ultravox,
    /// Voxtral's: a mark, then as many tokens for every clip that a sound begins.
    Voxtral,
}

impl Reader {
    /// Returns the reader of an architecture, or of a model type where a config names no
    /// architecture.
    pub(super) fn of(architecture: &str) -> Option<Self> {
        Some(match architecture {
            "LegendaForConditionalGeneration" => Self::Legenda,
            "LlavaForConditionalGeneration" | "llava" => Self::Llava,
            "Idefics3ForConditionalGeneration" | "idefics3" => Self::Idefics3,
            "SmolVLMForConditionalGeneration" | "smolvlm" => Self::Idefics3,
            "PaliGemmaForConditionalGeneration" | "paligemma" => Self::PaliGemma,
            "Gemma3ForConditionalGeneration" | "gemma3" => Self::Gemma3,
            "Phi4MMForCausalLM" => Self::Phi4,
            "Gemma3nForConditionalGeneration" | "gemma3n" => Self::Gemma3n,
            "Qwen2VLForConditionalGeneration" | "qwen2_vl" => Self::Qwen2Vl,
            "Qwen2_5_VLForConditionalGeneration" | "qwen2_5_vl" => Self::Qwen2Vl,
            "UltravoxModel" | "ultravox" => Self::Ultravox,
            "VoxtralForConditionalGeneration" | "voxtral" => Self::Voxtral,
            _ => return None,
        })
    }

    /// Returns whether tokens of a prompt see those behind them.
    pub(crate) fn sees_whole_prompts(self) -> bool {
        self == Self::PaliGemma
    }
}

/// The keys of `config.json` that only readers of pictures and sounds have.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ReaderConfig {
    /// The mark before a picture (Gemma 3, Gemma 3n).
    #[serde(default, alias = "boi_token_index")]
    pub(crate) boi_token_id: Option<i64>,
    /// The mark behind a picture (Gemma 3, Gemma 3n).
    #[serde(default, alias = "eoi_token_index")]
    pub(crate) eoi_token_id: Option<i64>,
    /// The mark before a sound (Gemma 3n).
    #[serde(default)]
    pub(crate) boa_token_id: Option<i64>,
    /// The mark behind a sound (Gemma 3n).
    #[serde(default)]
    pub(crate) eoa_token_id: Option<i64>,
    /// Features of a picture (LLaVA).
    #[serde(default)]
    pub(crate) image_seq_length: Option<usize>,
    /// Encoder's states that become one feature of a sound (Ultravox).
    #[serde(default)]
    pub(crate) stack_factor: Option<usize>,
    #[serde(default)]
    vision_config: VisionConfig,
    #[serde(default)]
    audio_config: AudioConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct VisionConfig {
    #[serde(default)]
    spatial_merge_size: Option<usize>,
}

/// What is left out is the default of `VoxtralEncoderConfig`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct AudioConfig {
    hidden_size: usize,
    intermediate_size: usize,
    max_source_positions: usize,
}

impl Default for AudioConfig {
    fn default() -> Self {
        Self { hidden_size: 1280, intermediate_size: 5120, max_source_positions: 1500 }
    }
}

impl ReaderConfig {
    /// Returns how many patches along an edge become one feature; 2 where left out
    /// (`Qwen2VLVisionConfig`).
    pub(crate) fn spatial_merge_size(&self) -> usize {
        self.vision_config.spatial_merge_size.unwrap_or(2).max(1)
    }

    /// Returns the features of a clip, for which as many states are put together as an inner layer is
    /// wider (`VoxtralForConditionalGeneration.get_audio_features`).
    pub(crate) fn features_per_clip(&self) -> usize {
        let audio = &self.audio_config;
        audio.max_source_positions * audio.hidden_size / audio.intermediate_size.max(1)
    }
}

/// Adds what transformers leaves out of a nested `text_config` because it is the default of its
/// `model_type` (the config classes of transformers 4.57).
pub(super) fn with_text_defaults(text: &Value) -> Value {
    let defaults = match text["model_type"].as_str() {
        Some("llama") => json!({
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "vocab_size": 32000, "max_position_embeddings": 2048,
        }),
        Some("mistral") => json!({
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 131_072,
        }),
        Some("qwen2") => json!({
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 151_936, "max_position_embeddings": 32768,
        }),
        Some("gemma") => json!({
            "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256_000,
            "max_position_embeddings": 8192,
        }),
        Some("gemma2") => json!({
            "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256_000,
            "max_position_embeddings": 8192,
        }),
        Some("gemma3_text") => json!({
            "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208,
            "max_position_embeddings": 131_072,
        }),
        Some("gemma3n_text") => json!({
            "hidden_size": 2048, "num_hidden_layers": 35, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 262_400,
            "hidden_size_per_layer_input": 256,
            "max_position_embeddings": 32768,
        }),
        _ => return text.clone(),
    };
    let mut whole = defaults;
    if let (Some(whole), Some(text)) = (whole.as_object_mut(), text.as_object()) {
        whole.extend(text.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    whole
}

/// The keys of an extractor of features of sounds that stand beside those of an image processor in one
/// file (Gemma 3n).
const SOUND_KEYS: [&str; 21] = [
    "dither",
    "feature_extractor_type",
    "feature_size",
    "fft_length",
    "fft_overdrive",
    "frame_length",
    "frame_length_ms",
    "hop_length",
    "hop_length_ms",
    "input_scale_factor",
    "max_frequency",
    "mel_floor",
    "min_frequency",
    "padding_side",
    "padding_value",
    "per_bin_mean",
    "per_bin_stddev",
    "preemphasis",
    "preemphasis_htk_flavor",
    "return_attention_mask",
    "sampling_rate",
];

/// Reads the processor configs of a multimodal bundle: everything in `processor_config.json` (the
/// newest layout) or in `preprocessor_config.json`, or the image processor, the feature extractor or
/// both side by side in the latter and what concerns text in the former.
pub(super) fn processor_config(files: &BundleFiles) -> Result<ProcessorConfig, BundleError> {
    const MEDIA: &str = "preprocessor_config.json";
    let processor: Option<ProcessorConfig> = files.json_if_there("processor_config.json")?;
    if let Some(processor) = &processor
        && (processor.image_processor.is_some() || processor.feature_extractor.is_some())
    {
        return Ok(processor.clone());
    }
    let media: Value = files.json(MEDIA)?;
    let invalid = |error: serde_json::Error| BundleError::InvalidJson {
        file: MEDIA.to_owned(),
        message: error.to_string(),
    };
    if ["image_processor", "feature_extractor"].iter().any(|key| media[*key].is_object()) {
        return serde_json::from_value(media).map_err(invalid);
    }
    let mut processor = processor.unwrap_or_default();
    let hears = media["feature_extractor_type"].is_string();
    let sees = !hears || media["image_processor_type"].is_string();
    let (sound, image) = match media {
        Value::Object(keys) if hears && sees => {
            let (sound, image): (Map<_, _>, Map<_, _>) =
                keys.into_iter().partition(|(key, _)| SOUND_KEYS.contains(&key.as_str()));
            (Value::Object(sound), Value::Object(image))
        }
        one => (one.clone(), one),
    };
    if hears {
        processor.feature_extractor = Some(serde_json::from_value(sound).map_err(invalid)?);
    }
    if sees {
        processor.image_processor = Some(serde_json::from_value(image).map_err(invalid)?);
    }
    Ok(processor)
}
