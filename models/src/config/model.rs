//! The published config files, as far as Legenda reads them.
//!
//! Keys are those of Hugging Face transformers. Keys that cannot change an answer are ignored.
//! Unknown processor keys that would change pixels or samples are errors.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    ConfigOrigin, EncoderConfig, MediaConfig, SoundConfig, TaskConfig, classes::with_text_defaults,
    defaults::yes,
};

/// `config.json` of a supported architecture.
///
/// A text decoder has the decoder's keys next to the others; a multimodal model nests them in
/// `text_config`. The configs of embedding models are not read here.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelConfig {
    /// The placeholder token of images; `None` if the model takes none.
    pub(crate) image_token_id: Option<i64>,
    /// The placeholder token of audio; `None` if the model takes none.
    pub(crate) audio_token_id: Option<i64>,
    pub(crate) eos_token_id: Option<TokenIds>,
    /// The image and audio keys.
    pub(crate) media: MediaConfig,
    /// The decoder.
    pub(crate) text: TextConfig,
    /// The encoder of an encoder-decoder.
    pub(crate) encoder: EncoderConfig,
    /// The decoder's adapters.
    pub(crate) adapters: Adapters,
}

/// The files of a decoder's adapters (LoRA), by the media of a prompt (onnxruntime-genai).
#[derive(Clone, Debug, Default)]
pub(crate) struct Adapters {
    pub(crate) image: Option<String>,
    pub(crate) audio: Option<String>,
}

impl Adapters {
    /// Returns the files by the number of the adapter.
    pub(crate) fn numbered(&self) -> [Option<&str>; 2] {
        [self.image.as_deref(), self.audio.as_deref()]
    }

    /// Returns the number of the adapter of a prompt: that for images if the prompt has any, also
    /// with audio (`Phi4MMForCausalLM.forward` of the published code).
    pub(crate) fn number(&self, has_images: bool, has_audio: bool) -> Option<usize> {
        let number = if has_images { 0 } else { 1 };
        (has_images || has_audio).then_some(number).filter(|n| self.numbered()[*n].is_some())
    }
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let invalid = |error: serde_json::Error| serde::de::Error::custom(error);
        let outer = OuterConfig::deserialize(&value).map_err(invalid)?;
        let text = value.get("text_config").map_or_else(|| value.clone(), with_text_defaults);
        Ok(Self {
            media: MediaConfig::deserialize(&value).map_err(invalid)?,
            image_token_id: outer.image_token_index.or(outer.image_token_id),
            audio_token_id: outer.ignore_index.filter(|id| *id >= 0).or(outer.audio_token_id),
            eos_token_id: outer.eos_token_id,
            text: TextConfig::deserialize(&text).map_err(invalid)?,
            encoder: EncoderConfig::default(),
            adapters: Adapters::default(),
        })
    }
}

/// The keys of `config.json` that do not belong to the decoder.
#[derive(Deserialize)]
struct OuterConfig {
    #[serde(default)]
    image_token_id: Option<i64>,
    /// The older name. It takes precedence in configs that have both.
    #[serde(default)]
    image_token_index: Option<i64>,
    #[serde(default, alias = "audio_token_index")]
    audio_token_id: Option<i64>,
    /// The audio placeholder of Ultravox in the transformers.js export; negative elsewhere.
    #[serde(default)]
    ignore_index: Option<i64>,
    #[serde(default)]
    eos_token_id: Option<TokenIds>,
}

/// The decoder's keys of `config.json`, or of `model.decoder` in `genai_config.json`. GPT-2 uses
/// other names.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct TextConfig {
    #[serde(alias = "n_layer")]
    pub(crate) num_hidden_layers: usize,
    #[serde(alias = "n_head")]
    num_attention_heads: usize,
    #[serde(default)]
    num_key_value_heads: Option<usize>,
    #[serde(default, alias = "head_size")]
    head_dim: Option<usize>,
    #[serde(alias = "n_embd")]
    pub(crate) hidden_size: usize,
    /// The size of the per-layer input embeddings (Gemma 3n); 0 for none.
    #[serde(default)]
    pub(crate) hidden_size_per_layer_input: usize,
    pub(crate) vocab_size: usize,
    #[serde(alias = "n_positions", alias = "context_length")]
    pub(crate) max_position_embeddings: usize,
    /// The number of tokens that some layers attend to.
    #[serde(default)]
    pub(crate) sliding_window: Option<usize>,
    #[serde(default)]
    pub(crate) eos_token_id: Option<TokenIds>,
}

impl TextConfig {
    /// Returns the head dimension. It defaults to the hidden size divided by the number of heads,
    /// as in transformers.
    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the number of query heads.
    pub(crate) fn num_attention_heads(&self) -> usize {
        self.num_attention_heads
    }

    /// Returns the number of KV heads. It defaults to the number of query heads.
    pub(crate) fn num_key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }
}

/// One token id or several: both forms are published.
#[derive(Clone, Debug)]
pub(crate) struct TokenIds(pub(crate) Vec<i64>);

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let id = |value: &Value| {
            value.as_i64().ok_or_else(|| {
                serde::de::Error::custom(format!("expected a token id, got `{value}`"))
            })
        };
        match &value {
            Value::Array(ids) => ids.iter().map(id).collect::<Result<_, _>>().map(Self),
            one => Ok(Self(vec![id(one)?])),
        }
    }
}

/// `processor_config.json`; empty for a text-only model.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ProcessorConfig {
    #[serde(default)]
    pub(crate) image_token: Option<String>,
    #[serde(default, alias = "audio_placeholder")]
    pub(crate) audio_token: Option<String>,
    /// The number of placeholder tokens per image.
    #[serde(default, alias = "image_seq_len")]
    pub(crate) image_seq_length: Option<usize>,
    /// The edge of a patch in pixels (LLaVA).
    #[serde(default)]
    pub(crate) patch_size: Option<usize>,
    /// The number of image features in addition to the patches (LLaVA).
    #[serde(default)]
    pub(crate) num_additional_image_tokens: usize,
    /// `default` if one of these is dropped (LLaVA).
    #[serde(default)]
    pub(crate) vision_feature_select_strategy: Option<String>,
    /// The number of placeholder tokens per audio input.
    #[serde(default, alias = "audio_seq_len")]
    pub(crate) audio_seq_length: Option<usize>,
    /// The number of samples per state of the audio encoder (Ultravox).
    #[serde(default)]
    pub(crate) encoder_ds_factor: Option<usize>,
    /// The number of encoder states per feature (Ultravox).
    #[serde(default)]
    pub(crate) stack_factor: Option<usize>,
    #[serde(default)]
    pub(crate) image_processor: Option<ImageProcessorConfig>,
    #[serde(default)]
    pub(crate) feature_extractor: Option<SoundConfig>,
    /// The tasks of Florence-2.
    #[serde(skip)]
    pub(crate) tasks: Option<TaskConfig>,
}

/// `image_processor`: the keys of transformers' image processors.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageProcessorConfig {
    /// The class, such as `SiglipImageProcessor`.
    #[serde(default)]
    pub image_processor_type: String,
    /// Whether to resize.
    #[serde(default = "yes")]
    pub do_resize: bool,
    /// The target size of the resize.
    #[serde(default, deserialize_with = "image_size")]
    pub size: Option<ImageSize>,
    /// The resampling filter, as PIL's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic.
    /// Defaults to that of the class.
    #[serde(default)]
    pub resample: Option<u8>,
    /// Whether to crop the centre.
    #[serde(default)]
    pub do_center_crop: Option<bool>,
    /// The size of the crop.
    #[serde(default, deserialize_with = "image_size")]
    pub crop_size: Option<ImageSize>,
    /// Whether to multiply by `rescale_factor`.
    #[serde(default = "yes")]
    pub do_rescale: bool,
    /// The rescale factor. Defaults to 1/255.
    #[serde(default = "one_255th")]
    pub rescale_factor: f64,
    /// Whether to subtract the mean and divide by the standard deviation.
    #[serde(default = "yes")]
    pub do_normalize: bool,
    /// The mean of each channel. Defaults to that of the class.
    #[serde(default)]
    pub image_mean: Option<[f64; 3]>,
    /// The standard deviation of each channel. Defaults to that of the class.
    #[serde(default)]
    pub image_std: Option<[f64; 3]>,
    /// `pil` for Pillow's arithmetic. Otherwise torchvision's, the default of transformers 5,
    /// unless torchvision lacks the filter (lanczos).
    #[serde(default)]
    pub backend: Option<String>,
    /// All other keys, checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
    /// The place that it was read from.
    #[serde(skip, default = "ConfigOrigin::image_processor")]
    pub(crate) origin: ConfigOrigin,
}

/// A size in pixels, in one of the published forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Height in pixels.
    #[serde(default)]
    pub height: Option<usize>,
    /// Width in pixels.
    #[serde(default)]
    pub width: Option<usize>,
    /// The shorter edge in pixels; the other edge is scaled in proportion.
    #[serde(default)]
    pub shortest_edge: Option<usize>,
    /// The maximum length of the longer edge in pixels.
    #[serde(default)]
    pub longest_edge: Option<usize>,
    /// The minimum number of pixels (Qwen2-VL; its `shortest_edge` means the same).
    #[serde(default)]
    pub min_pixels: Option<usize>,
    /// The maximum number of pixels (Qwen2-VL; its `longest_edge` means the same).
    #[serde(default)]
    pub max_pixels: Option<usize>,
    /// A single number (older configs): both edges, or the shorter edge, depending on the class.
    #[serde(skip)]
    pub edge: Option<usize>,
    /// A pair of numbers (older configs): height and width, or the reverse, depending on the class.
    #[serde(skip)]
    pub pair: Option<[usize; 2]>,
}

impl ImageProcessorConfig {
    /// Returns the class, which older configs call a feature extractor.
    pub(crate) fn class(&self) -> &str {
        let older = self.rest.get("feature_extractor_type").and_then(Value::as_str);
        match self.image_processor_type.as_str() {
            "" => older.unwrap_or_default(),
            name => name,
        }
    }

    /// Sets the place that it was read from.
    pub(crate) fn with_origin(self, origin: ConfigOrigin) -> Self {
        Self { origin, ..self }
    }
}

/// Deserialises a size from any of its forms.
fn image_size<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ImageSize>, D::Error> {
    let size = Value::deserialize(deserializer)?;
    let invalid = |error: serde_json::Error| serde::de::Error::custom(error);
    let none = ImageSize::default();
    match &size {
        Value::Null => Ok(None),
        Value::Number(_) => {
            let edge = usize::deserialize(&size).map_err(invalid)?;
            Ok(Some(ImageSize { edge: Some(edge), ..none }))
        }
        Value::Array(_) => {
            let pair = <[usize; 2]>::deserialize(&size).map_err(invalid)?;
            Ok(Some(ImageSize { pair: Some(pair), ..none }))
        }
        _ => ImageSize::deserialize(&size).map(Some).map_err(invalid),
    }
}

fn one_255th() -> f64 {
    1.0 / 255.0
}
