//! The parts of the published config files that Legenda reads.
//!
//! Keys are those of Hugging Face transformers. Keys that cannot change an answer are ignored;
//! keys of the processors that would change pixels or samples and are not known are errors.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    encoder_decoder::EncoderConfig,
    reader::{ReaderConfig, with_text_defaults},
    tasks::TaskConfig,
};

/// What `config.json` says first of all: which keys follow depends on it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Architecture {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    model_type: String,
    #[serde(default)]
    pub(crate) is_encoder_decoder: bool,
}

impl Architecture {
    /// Returns the first architecture, or the model type where there is none.
    pub(crate) fn name(&self) -> &str {
        self.architectures.first().unwrap_or(&self.model_type)
    }
}

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
    /// What concerns pictures and sounds alone.
    pub(crate) reader: ReaderConfig,
    /// The decoder.
    pub(crate) text: TextConfig,
    /// The encoder of an encoder-decoder.
    pub(crate) encoder: EncoderConfig,
}

impl<'de> Deserialize<'de> for ModelConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let invalid = |error: serde_json::Error| serde::de::Error::custom(error);
        let outer = OuterConfig::deserialize(&value).map_err(invalid)?;
        let text = value.get("text_config").map_or_else(|| value.clone(), with_text_defaults);
        Ok(Self {
            reader: ReaderConfig::deserialize(&value).map_err(invalid)?,
            image_token_id: outer.image_token_index.or(outer.image_token_id),
            audio_token_id: outer.ignore_index.filter(|id| *id >= 0).or(outer.audio_token_id),
            eos_token_id: outer.eos_token_id,
            text: TextConfig::deserialize(&text).map_err(invalid)?,
            encoder: EncoderConfig::default(),
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

/// `feature_extractor`, by its class.
#[derive(Clone, Debug)]
pub(crate) enum SoundConfig {
    /// Whisper's, and where no class is named.
    LogMel(FeatureExtractorConfig),
    /// Of a model that hears samples as they are.
    Samples(SamplesConfig),
    /// CLAP's.
    Clap(ClapExtractorConfig),
    /// Gemma 3n's, which is that of the Universal Speech Model.
    Usm(UsmExtractorConfig),
    /// Phi-4-multimodal's.
    Phi4(Phi4ExtractorConfig),
}

impl<'de> Deserialize<'de> for SoundConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let read = match value["feature_extractor_type"].as_str() {
            Some("Wav2Vec2FeatureExtractor") => {
                SamplesConfig::deserialize(value).map(Self::Samples)
            }
            Some("ClapFeatureExtractor") => ClapExtractorConfig::deserialize(value).map(Self::Clap),
            Some("Gemma3nAudioFeatureExtractor") => {
                UsmExtractorConfig::deserialize(value).map(Self::Usm)
            }
            Some("Phi4MultimodalFeatureExtractor") => {
                Phi4ExtractorConfig::deserialize(value).map(Self::Phi4)
            }
            _ => FeatureExtractorConfig::deserialize(value).map(Self::LogMel),
        };
        read.map_err(serde::de::Error::custom)
    }
}

/// The keys of `WhisperFeatureExtractor`.
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

/// The keys of `Wav2Vec2FeatureExtractor`.
#[derive(Clone, Debug, Deserialize)]
pub struct SamplesConfig {
    /// The class.
    #[serde(default)]
    pub feature_extractor_type: String,
    /// Samples per second the model wants.
    pub sampling_rate: u32,
    /// Whether to bring each sound to a mean of zero and a variance of one.
    #[serde(default = "yes")]
    pub do_normalize: bool,
    /// Every other key, to be checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// The keys of `ClapFeatureExtractor`; what is left out is as in transformers 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct ClapExtractorConfig {
    /// The class.
    pub feature_extractor_type: String,
    /// Mel bands.
    pub feature_size: usize,
    /// Samples per second the model wants.
    pub sampling_rate: u32,
    /// Samples between two frames.
    pub hop_length: usize,
    /// Seconds that the model hears.
    pub max_length_s: usize,
    /// Samples of one frame's window and transform.
    pub fft_window_size: usize,
    /// The lowest frequency of the filters, in hertz.
    pub frequency_min: f64,
    /// The highest frequency of the filters, in hertz.
    pub frequency_max: f64,
    /// What becomes of longer sounds.
    pub truncation: String,
    /// What becomes of shorter sounds.
    pub padding: String,
    /// Every other key, to be checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Default for ClapExtractorConfig {
    fn default() -> Self {
        Self {
            feature_extractor_type: String::new(),
            feature_size: 64,
            sampling_rate: 48_000,
            hop_length: 480,
            max_length_s: 10,
            fft_window_size: 1024,
            frequency_min: 0.0,
            frequency_max: 14_000.0,
            truncation: "fusion".to_owned(),
            padding: "repeatpad".to_owned(),
            rest: Map::new(),
        }
    }
}

/// The keys of `Gemma3nAudioFeatureExtractor`; what is left out is as in transformers 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct UsmExtractorConfig {
    /// Mel bands.
    pub feature_size: usize,
    /// Samples per second the model wants.
    pub sampling_rate: u32,
    /// Milliseconds of one frame.
    pub frame_length_ms: f64,
    /// Milliseconds between two frames.
    pub hop_length_ms: f64,
    /// Samples of one frame: follows from the milliseconds.
    pub frame_length: Option<usize>,
    /// Samples between two frames: follows from the milliseconds.
    pub hop_length: Option<usize>,
    /// Samples of one transform: follows from those of a frame.
    pub fft_length: Option<usize>,
    /// Whether a transform is twice as long as it must be.
    pub fft_overdrive: bool,
    /// The lowest frequency of the filters, in hertz.
    pub min_frequency: f64,
    /// The highest frequency of the filters, in hertz.
    pub max_frequency: f64,
    /// How much of each sample is taken from the next.
    pub preemphasis: f64,
    /// Whether a frame's first sample is made smaller instead of one that is dropped.
    pub preemphasis_htk_flavor: bool,
    /// What samples are multiplied by.
    pub input_scale_factor: f64,
    /// The least energy of a band.
    pub mel_floor: f64,
    /// What is subtracted from each band.
    pub per_bin_mean: Option<Vec<f64>>,
    /// What each band is divided by.
    pub per_bin_stddev: Option<Vec<f64>>,
    /// Every other key, to be checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Default for UsmExtractorConfig {
    fn default() -> Self {
        Self {
            feature_size: 128,
            sampling_rate: 16_000,
            frame_length_ms: 32.0,
            hop_length_ms: 10.0,
            frame_length: None,
            hop_length: None,
            fft_length: None,
            fft_overdrive: true,
            min_frequency: 125.0,
            max_frequency: 7600.0,
            preemphasis: 0.97,
            preemphasis_htk_flavor: true,
            input_scale_factor: 1.0,
            mel_floor: 1e-5,
            per_bin_mean: None,
            per_bin_stddev: None,
            rest: Map::new(),
        }
    }
}

/// The keys of `Phi4MultimodalFeatureExtractor`; what is left out is as in transformers 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct Phi4ExtractorConfig {
    /// Mel bands.
    pub feature_size: usize,
    /// Samples per second the model wants.
    pub sampling_rate: u32,
    /// Samples between two frames.
    pub hop_length: usize,
    /// Samples of one transform.
    pub n_fft: usize,
    /// Samples of one frame.
    pub win_length: usize,
    /// How much of each sample is taken from the next.
    pub preemphasis: f64,
    /// Frames that become one feature.
    pub audio_compression_rate: usize,
    /// The lowest frequency of the filters, in hertz.
    pub mel_min_frequency: f64,
    /// The highest frequency of the filters, in hertz.
    pub mel_max_frequency: f64,
    /// Every other key, to be checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Default for Phi4ExtractorConfig {
    fn default() -> Self {
        Self {
            feature_size: 80,
            sampling_rate: 16_000,
            hop_length: 160,
            n_fft: 512,
            win_length: 400,
            preemphasis: 0.97,
            audio_compression_rate: 8,
            mel_min_frequency: 0.0,
            mel_max_frequency: 7690.0,
            rest: Map::new(),
        }
    }
}

fn yes() -> bool {
    true
}

fn one_255th() -> f64 {
    1.0 / 255.0
}
