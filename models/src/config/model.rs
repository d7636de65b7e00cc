//! The parts of the published config files that Legenda reads.
//!
//! Keys are those of Hugging Face transformers. Keys that cannot change an answer are ignored;
//! keys of the processors that would change pixels or samples and are not known are errors.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    EncoderConfig, MediaConfig, SoundConfig, TaskConfig, classes::with_text_defaults, defaults::yes,
};

/// `config.json` of a supported architecture.
///
/// A text decoder has the decoder's keys beside the others; a multimodal one keeps them apart, in
/// `text_config`. Of a model that makes embeddings nothing is read here.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelConfig {
    /// The placeholder of an image; `None` if the model sees none.
    pub(crate) image_token_id: Option<i64>,
    /// The placeholder of a sound; `None` if the model hears none.
    pub(crate) audio_token_id: Option<i64>,
    pub(crate) eos_token_id: Option<TokenIds>,
    /// What concerns images and audio alone.
    pub(crate) media: MediaConfig,
    /// The decoder.
    pub(crate) text: TextConfig,
    /// The encoder of an encoder-decoder.
    pub(crate) encoder: EncoderConfig,
    /// The files of the adapters that the decoder has for prompts with images, and with sounds
    /// (onnxruntime-genai).
    pub(crate) adapters: [Option<String>; 2],
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
            adapters: [None, None],
        })
    }
}

/// The keys of `config.json` that are not the decoder's.
#[derive(Deserialize)]
struct OuterConfig {
    #[serde(default)]
    image_token_id: Option<i64>,
    /// The older name; some configs have both, and then this one counts.
    #[serde(default)]
    image_token_index: Option<i64>,
    #[serde(default, alias = "audio_token_index")]
    audio_token_id: Option<i64>,
    /// The placeholder of a sound in Ultravox as transformers.js has it; elsewhere below 0.
    #[serde(default)]
    ignore_index: Option<i64>,
    #[serde(default)]
    eos_token_id: Option<TokenIds>,
}

/// The decoder's keys of `config.json`, or of `model.decoder` in `genai_config.json`; GPT-2 has
/// names of its own.
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
    /// What each layer takes of a token beside what stands before the first (Gemma 3n); 0 is nothing.
    #[serde(default)]
    pub(crate) hidden_size_per_layer_input: usize,
    pub(crate) vocab_size: usize,
    #[serde(alias = "n_positions", alias = "context_length")]
    pub(crate) max_position_embeddings: usize,
    #[serde(default)]
    pub(crate) eos_token_id: Option<TokenIds>,
}

impl TextConfig {
    /// Returns the size of one head; transformers' default is the hidden size over the heads.
    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Returns the heads of keys and values; as many as of queries unless they are shared.
    pub(crate) fn num_key_value_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }
}

/// One token id or several: both are published.
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

/// `processor_config.json`; empty for a model of text alone.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ProcessorConfig {
    #[serde(default)]
    pub(crate) image_token: Option<String>,
    #[serde(default, alias = "audio_placeholder")]
    pub(crate) audio_token: Option<String>,
    /// Placeholders per image.
    #[serde(default, alias = "image_seq_len")]
    pub(crate) image_seq_length: Option<usize>,
    /// Pixels of a patch's edge (LLaVA).
    #[serde(default)]
    pub(crate) patch_size: Option<usize>,
    /// Features of an image beside its patches (LLaVA).
    #[serde(default)]
    pub(crate) num_additional_image_tokens: usize,
    /// `default` if one of those is dropped (LLaVA).
    #[serde(default)]
    pub(crate) vision_feature_select_strategy: Option<String>,
    /// Placeholders per sound.
    #[serde(default, alias = "audio_seq_len")]
    pub(crate) audio_seq_length: Option<usize>,
    /// Samples for one state of the encoder of sounds (Ultravox).
    #[serde(default)]
    pub(crate) encoder_ds_factor: Option<usize>,
    /// States that become one feature (Ultravox).
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
    /// The class, for example `SiglipImageProcessor`.
    #[serde(default)]
    pub image_processor_type: String,
    /// Whether to resize at all.
    #[serde(default = "yes")]
    pub do_resize: bool,
    /// The target of the resize.
    #[serde(default, deserialize_with = "image_size")]
    pub size: Option<ImageSize>,
    /// The filter, by PIL's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic; that of the class
    /// where left out.
    #[serde(default)]
    pub resample: Option<u8>,
    /// Whether to cut the centre out.
    #[serde(default)]
    pub do_center_crop: Option<bool>,
    /// What to cut out.
    #[serde(default, deserialize_with = "image_size")]
    pub crop_size: Option<ImageSize>,
    /// Whether to multiply by `rescale_factor`.
    #[serde(default = "yes")]
    pub do_rescale: bool,
    /// What to multiply by; 1/255 where left out.
    #[serde(default = "one_255th")]
    pub rescale_factor: f64,
    /// Whether to subtract the mean and divide by the deviation.
    #[serde(default = "yes")]
    pub do_normalize: bool,
    /// The mean of each channel; that of the class where left out.
    #[serde(default)]
    pub image_mean: Option<[f64; 3]>,
    /// The deviation of each channel; that of the class where left out.
    #[serde(default)]
    pub image_std: Option<[f64; 3]>,
    /// `pil` for Pillow's arithmetic; else torchvision's, the default of transformers 5, unless the
    /// filter is one that torchvision lacks (lanczos).
    #[serde(default)]
    pub backend: Option<String>,
    /// Every other key, to be checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A size in pixels, in one of the forms in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Height in pixels.
    #[serde(default)]
    pub height: Option<usize>,
    /// Width in pixels.
    #[serde(default)]
    pub width: Option<usize>,
    /// The shorter edge in pixels, the other in proportion.
    #[serde(default)]
    pub shortest_edge: Option<usize>,
    /// The most pixels of the longer edge.
    #[serde(default)]
    pub longest_edge: Option<usize>,
    /// The fewest pixels of all (Qwen2-VL; its `shortest_edge` means the same).
    #[serde(default)]
    pub min_pixels: Option<usize>,
    /// The most pixels of all (Qwen2-VL; its `longest_edge` means the same).
    #[serde(default)]
    pub max_pixels: Option<usize>,
    /// A number by itself (older configs): both edges, or the shorter one, by the class.
    #[serde(skip)]
    pub edge: Option<usize>,
    /// Two numbers by themselves (older configs): height and width, or the reverse, by the class.
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
}

/// Reads a size in any of its forms.
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
