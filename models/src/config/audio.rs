//! The configs of the feature extractors of sounds. Keys are those of Hugging Face transformers.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{classes::AudioFeatures, defaults::yes};

/// The most seconds of raw samples (`moonshine_onnx` of Moonshine's authors), for want of a bound in
/// the configs.
pub(crate) const SAMPLES_SECONDS_MAX: usize = 64;

/// `feature_extractor`, by its class.
#[derive(Clone, Debug)]
pub(crate) enum SoundConfig {
    /// Whisper's, and where no class is named.
    LogMel(FeatureExtractorConfig),
    /// Of a model that hears samples as they are.
    Samples(SamplesConfig),
    /// CLAP's.
    RepeatedMel(RepeatedMelConfig),
    /// Gemma 3n's, which is that of the Universal Speech Model.
    Usm(UsmExtractorConfig),
    /// Frames of which several become one feature (Phi-4-multimodal).
    StackedFrames(StackedFramesConfig),
}

impl SoundConfig {
    /// Returns what is computed.
    pub(crate) fn features(&self) -> AudioFeatures {
        match self {
            Self::LogMel(_) => AudioFeatures::LogMel,
            Self::Samples(_) => AudioFeatures::Samples,
            Self::RepeatedMel(_) => AudioFeatures::RepeatedMel,
            Self::Usm(_) => AudioFeatures::Usm,
            Self::StackedFrames(_) => AudioFeatures::StackedFrames,
        }
    }

    /// Returns the class, empty where none is named.
    pub(crate) fn class(&self) -> &str {
        match self {
            Self::LogMel(config) => &config.feature_extractor_type,
            Self::Samples(config) => &config.feature_extractor_type,
            Self::RepeatedMel(config) => &config.feature_extractor_type,
            Self::Usm(_) | Self::StackedFrames(_) => self.features().class(),
        }
    }

    /// Reads the config of an extractor whose class is not named, or does not count.
    pub(crate) fn read(features: AudioFeatures, config: Value) -> serde_json::Result<Self> {
        match features {
            AudioFeatures::LogMel => serde_json::from_value(config).map(Self::LogMel),
            AudioFeatures::Samples => serde_json::from_value(config).map(Self::Samples),
            AudioFeatures::RepeatedMel => serde_json::from_value(config).map(Self::RepeatedMel),
            AudioFeatures::Usm => serde_json::from_value(config).map(Self::Usm),
            AudioFeatures::StackedFrames => serde_json::from_value(config).map(Self::StackedFrames),
        }
    }
}

impl<'de> Deserialize<'de> for SoundConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let features = AudioFeatures::from_class(value["feature_extractor_type"].as_str());
        Self::read(features, value).map_err(serde::de::Error::custom)
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
pub struct RepeatedMelConfig {
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

impl Default for RepeatedMelConfig {
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
pub struct StackedFramesConfig {
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

impl Default for StackedFramesConfig {
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

/// How much of a sound, and of the silence behind it, goes into features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundLength {
    /// One clip; a longer sound is refused (Whisper).
    OneClip,
    /// The sound alone, no longer than a clip (Ultravox).
    AsItIs,
    /// Every clip that the sound begins, at most so many (Voxtral).
    WholeClips {
        /// The most clips.
        n_max: usize,
    },
}
