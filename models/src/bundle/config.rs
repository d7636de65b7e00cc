//! The parts of the published config files that Legenda reads.
//!
//! Keys are those of Hugging Face transformers. Keys that cannot change an answer are ignored;
//! keys of the processors that would change pixels or samples and are not known are errors.

use serde::Deserialize;
use serde_json::{Map, Value};

/// What `config.json` says first of all: which keys follow depends on it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Architecture {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    model_type: String,
}

impl Architecture {
    /// Returns the first architecture, or the model type where there is none.
    pub(crate) fn name(&self) -> &str {
        self.architectures.first().unwrap_or(&self.model_type)
    }
}

/// `config.json` of a supported architecture.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ModelConfig {
    /// The placeholder of an image; `None` if the model sees none.
    #[serde(default, alias = "image_token_index")]
    pub(crate) image_token_id: Option<i64>,
    /// The placeholder of a sound; `None` if the model hears none.
    #[serde(default, alias = "audio_token_index")]
    pub(crate) audio_token_id: Option<i64>,
    #[serde(default)]
    pub(crate) eos_token_id: Option<TokenIds>,
    pub(crate) text_config: TextConfig,
}

/// `text_config` of `config.json`: the decoder.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct TextConfig {
    pub(crate) num_hidden_layers: usize,
    #[serde(default)]
    num_attention_heads: Option<usize>,
    pub(crate) num_key_value_heads: usize,
    #[serde(default)]
    head_dim: Option<usize>,
    pub(crate) hidden_size: usize,
    pub(crate) vocab_size: usize,
    pub(crate) max_position_embeddings: usize,
    #[serde(default)]
    pub(crate) eos_token_id: Option<TokenIds>,
}

impl TextConfig {
    /// Returns the size of one head; transformers' default is the hidden size over the heads.
    pub(crate) fn head_dim(&self) -> usize {
        let heads = self.num_attention_heads.unwrap_or(self.num_key_value_heads).max(1);
        self.head_dim.unwrap_or(self.hidden_size / heads)
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

/// `generation_config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct GenerationConfig {
    #[serde(default)]
    pub(crate) eos_token_id: Option<TokenIds>,
    #[serde(default)]
    pub(crate) max_new_tokens: Option<usize>,
}

/// `processor_config.json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ProcessorConfig {
    #[serde(default)]
    pub(crate) image_token: Option<String>,
    #[serde(default)]
    pub(crate) audio_token: Option<String>,
    /// Placeholders per image.
    #[serde(default, alias = "image_seq_len")]
    pub(crate) image_seq_length: Option<usize>,
    /// Placeholders per sound.
    #[serde(default, alias = "audio_seq_len")]
    pub(crate) audio_seq_length: Option<usize>,
    #[serde(default)]
    pub(crate) image_processor: Option<ImageProcessorConfig>,
    #[serde(default)]
    pub(crate) feature_extractor: Option<FeatureExtractorConfig>,
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
    #[serde(default)]
    pub size: Option<ImageSize>,
    /// The filter, by PIL's number: 0 nearest, 1 lanczos, 2 bilinear, 3 bicubic.
    #[serde(default = "bicubic")]
    pub resample: u8,
    /// Whether to cut the centre out.
    #[serde(default)]
    pub do_center_crop: Option<bool>,
    /// What to cut out.
    #[serde(default)]
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
    /// The mean of each channel; 0.5 where left out.
    #[serde(default)]
    pub image_mean: Option<[f64; 3]>,
    /// The deviation of each channel; 0.5 where left out.
    #[serde(default)]
    pub image_std: Option<[f64; 3]>,
    /// `pil` for Pillow's arithmetic; else torchvision's, the default of transformers 5.
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
}

/// `feature_extractor`: the keys of `WhisperFeatureExtractor`.
#[derive(Clone, Debug, Deserialize)]
pub struct FeatureExtractorConfig {
    /// The class.
    #[serde(default)]
    pub feature_extractor_type: String,
    /// Mel bands.
    pub feature_size: usize,
    /// Samples per second the model wants.
    pub sampling_rate: u32,
    /// Samples between two frames.
    pub hop_length: usize,
    /// Samples of one frame's window and transform.
    pub n_fft: usize,
    /// Seconds of one clip.
    #[serde(default)]
    pub chunk_length: Option<f64>,
    /// Samples of one clip; shorter audio is followed by silence.
    pub n_samples: usize,
    /// Frames of one clip.
    #[serde(default)]
    pub nb_max_frames: Option<usize>,
    /// Every other key, to be checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

fn yes() -> bool {
    true
}

/// SigLIP's default filter (`SiglipImageProcessor.resample`).
fn bicubic() -> u8 {
    3
}

fn one_255th() -> f64 {
    1.0 / 255.0
}
