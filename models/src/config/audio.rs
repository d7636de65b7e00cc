//! The configs of audio feature extractors. Keys are those of Hugging Face transformers.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ConfigOrigin, classes::AudioFeatures, defaults::yes};

/// The maximum duration of raw samples in seconds, from `moonshine_onnx` by Moonshine's authors:
/// the configs set no limit.
pub(crate) const SAMPLES_SECONDS_MAX: usize = 64;

/// `feature_extractor`, by its class.
#[derive(Clone, Debug)]
pub(crate) enum SoundConfig {
    /// Whisper's extractor, and the default if no class is named.
    LogMel(FeatureExtractorConfig),
    /// The extractor of models that take raw samples.
    Samples(SamplesConfig),
    /// CLAP's extractor.
    RepeatedMel(RepeatedMelConfig),
    /// The extractor of Gemma 3n and the Universal Speech Model.
    Usm(UsmExtractorConfig),
    /// Stacked frames (Phi-4-multimodal).
    StackedFrames(StackedFramesConfig),
}

impl SoundConfig {
    /// Returns the kind of features.
    pub(crate) fn features(&self) -> AudioFeatures {
        match self {
            Self::LogMel(_) => AudioFeatures::LogMel,
            Self::Samples(_) => AudioFeatures::Samples,
            Self::RepeatedMel(_) => AudioFeatures::RepeatedMel,
            Self::Usm(_) => AudioFeatures::Usm,
            Self::StackedFrames(_) => AudioFeatures::StackedFrames,
        }
    }

    /// Returns the class; empty if none is named.
    pub(crate) fn class(&self) -> &str {
        match self {
            Self::LogMel(config) => &config.feature_extractor_type,
            Self::Samples(config) => &config.feature_extractor_type,
            Self::RepeatedMel(config) => &config.feature_extractor_type,
            Self::Usm(_) | Self::StackedFrames(_) => self.features().class(),
        }
    }

    /// Returns the place that it was read from.
    pub(crate) fn origin(&self) -> ConfigOrigin {
        match self {
            Self::LogMel(config) => config.origin,
            Self::Samples(config) => config.origin,
            Self::RepeatedMel(config) => config.origin,
            Self::Usm(config) => config.origin,
            Self::StackedFrames(config) => config.origin,
        }
    }

    /// Sets the place that it was read from.
    pub(crate) fn with_origin(mut self, origin: ConfigOrigin) -> Self {
        *match &mut self {
            Self::LogMel(config) => &mut config.origin,
            Self::Samples(config) => &mut config.origin,
            Self::RepeatedMel(config) => &mut config.origin,
            Self::Usm(config) => &mut config.origin,
            Self::StackedFrames(config) => &mut config.origin,
        } = origin;
        self
    }

    /// Reads the config of an extractor whose class is missing or irrelevant.
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
    /// The number of mel bands.
    pub feature_size: usize,
    /// The sample rate of the model in Hz.
    pub sampling_rate: u32,
    /// The number of samples between two frames.
    pub hop_length: usize,
    /// The number of samples of the window and the Fourier transform.
    pub n_fft: usize,
    /// The length of a clip in seconds.
    #[serde(default)]
    pub chunk_length: Option<f64>,
    /// The number of samples of a clip; shorter audio is padded with silence.
    pub n_samples: usize,
    /// The number of frames of a clip.
    #[serde(default)]
    pub nb_max_frames: Option<usize>,
    /// All other keys, checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
    /// The place that it was read from.
    #[serde(skip, default = "ConfigOrigin::feature_extractor")]
    pub(crate) origin: ConfigOrigin,
}

/// The keys of `Wav2Vec2FeatureExtractor`.
#[derive(Clone, Debug, Deserialize)]
pub struct SamplesConfig {
    /// The class.
    #[serde(default)]
    pub feature_extractor_type: String,
    /// The sample rate of the model in Hz.
    pub sampling_rate: u32,
    /// Whether to normalise the audio to zero mean and unit variance.
    #[serde(default = "yes")]
    pub do_normalize: bool,
    /// All other keys, checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
    /// The place that it was read from.
    #[serde(skip, default = "ConfigOrigin::feature_extractor")]
    pub(crate) origin: ConfigOrigin,
}

/// The keys of `ClapFeatureExtractor`. Defaults are those of transformers 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct RepeatedMelConfig {
    /// The class.
    pub feature_extractor_type: String,
    /// The number of mel bands.
    pub feature_size: usize,
    /// The sample rate of the model in Hz.
    pub sampling_rate: u32,
    /// The number of samples between two frames.
    pub hop_length: usize,
    /// The maximum duration in seconds.
    pub max_length_s: usize,
    /// The number of samples of the window and the Fourier transform.
    pub fft_window_size: usize,
    /// The lowest frequency of the filters, in hertz.
    pub frequency_min: f64,
    /// The highest frequency of the filters, in hertz.
    pub frequency_max: f64,
    /// The truncation mode of longer audio.
    pub truncation: String,
    /// The padding mode of shorter audio.
    pub padding: String,
    /// All other keys, checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
    /// The place that it was read from.
    #[serde(skip)]
    pub(crate) origin: ConfigOrigin,
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
            origin: ConfigOrigin::feature_extractor(),
        }
    }
}

/// The keys of `Gemma3nAudioFeatureExtractor`. Defaults are those of transformers 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct UsmExtractorConfig {
    /// The number of mel bands.
    pub feature_size: usize,
    /// The sample rate of the model in Hz.
    pub sampling_rate: u32,
    /// The length of a frame in milliseconds.
    pub frame_length_ms: f64,
    /// The interval between two frames in milliseconds.
    pub hop_length_ms: f64,
    /// The number of samples of a frame, derived from the milliseconds.
    pub frame_length: Option<usize>,
    /// The number of samples between two frames, derived from the milliseconds.
    pub hop_length: Option<usize>,
    /// The number of samples of the Fourier transform, derived from the frame length.
    pub fft_length: Option<usize>,
    /// Whether the Fourier transform has twice the required length.
    pub fft_overdrive: bool,
    /// The lowest frequency of the filters, in hertz.
    pub min_frequency: f64,
    /// The highest frequency of the filters, in hertz.
    pub max_frequency: f64,
    /// The pre-emphasis coefficient.
    pub preemphasis: f64,
    /// Whether to scale the first sample of a frame (HTK) instead of dropping one.
    pub preemphasis_htk_flavor: bool,
    /// The factor applied to samples.
    pub input_scale_factor: f64,
    /// The minimum energy of a band.
    pub mel_floor: f64,
    /// The mean to subtract from each band.
    pub per_bin_mean: Option<Vec<f64>>,
    /// The divisor of each band.
    pub per_bin_stddev: Option<Vec<f64>>,
    /// All other keys, checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
    /// The place that it was read from.
    #[serde(skip)]
    pub(crate) origin: ConfigOrigin,
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
            origin: ConfigOrigin::feature_extractor(),
        }
    }
}

/// The keys of `Phi4MultimodalFeatureExtractor`. Defaults are those of transformers 4.57.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct StackedFramesConfig {
    /// The number of mel bands.
    pub feature_size: usize,
    /// The sample rate of the model in Hz.
    pub sampling_rate: u32,
    /// The number of samples between two frames.
    pub hop_length: usize,
    /// The number of samples of the Fourier transform.
    pub n_fft: usize,
    /// The number of samples of a frame.
    pub win_length: usize,
    /// The pre-emphasis coefficient.
    pub preemphasis: f64,
    /// The number of frames per feature.
    pub audio_compression_rate: usize,
    /// The lowest frequency of the filters, in hertz.
    pub mel_min_frequency: f64,
    /// The highest frequency of the filters, in hertz.
    pub mel_max_frequency: f64,
    /// All other keys, checked when the processor opens.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
    /// The place that it was read from.
    #[serde(skip)]
    pub(crate) origin: ConfigOrigin,
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
            origin: ConfigOrigin::feature_extractor(),
        }
    }
}

/// The handling of the audio length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundLength {
    /// Exactly one clip, padded with silence; longer audio is rejected (Whisper).
    OneClip,
    /// Unpadded, at most one clip (Ultravox).
    AsItIs,
    /// Padded to whole clips, up to a maximum (Voxtral).
    WholeClips {
        /// The maximum number of clips.
        n_max: usize,
    },
}
