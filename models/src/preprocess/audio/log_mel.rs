//! Log-mel spectrograms, as in `WhisperFeatureExtractor` of transformers.
//!
//! Models differ in how they handle audio shorter or longer than a clip.

use std::{fmt, ops::Range, sync::Arc};

use realfft::{RealFftPlanner, RealToComplex};

use super::{
    chunked, mel::MelFilter, mel::MelScale, mel::hann, mel::mel_filters, resample::samples_at,
};
use crate::{
    config::{AudioFeatures, BundleError, ConfigOrigin, FeatureExtractorConfig, SoundLength},
    preprocess::{ProcessError, Waveform},
    tensors::Tensor,
};

/// Keys that do not affect features here.
const HARMLESS_KEYS: [&str; 7] = [
    // Older configs contain the filters; the reference recomputes them, too.
    "mel_filters",
    "padding_side",
    "processor_class",
    "return_attention_mask",
    "image_processor_type",
    "device",
    "auto_map",
];

/// The frequency range of the filter bank in hertz, for every sample rate
/// (`WhisperFeatureExtractor.__init__`).
const MEL_RANGE_HZ: [f64; 2] = [0.0, 8000.0];

/// Computes the log-mel spectrograms of one bundle.
///
/// The steps: padding with silence to the target length, periodic Hann window, centred frames with
/// reflected ends (the last frame is dropped), power, mel filters (Slaney scale and norm, 0 to 8
/// kHz), `log10`, clamping to 8 below the maximum of the audio, `(x + 4) / 4`.
pub struct LogMel {
    sample_rate_hz: u32,
    /// The number of samples of a clip.
    n_samples: usize,
    length: SoundLength,
    hop: usize,
    window: Vec<f32>,
    filters: Vec<MelFilter<f32>>,
    transform: Arc<dyn RealToComplex<f32>>,
}

impl fmt::Debug for LogMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogMel")
            .field("sample_rate_hz", &self.sample_rate_hz)
            .field("n_samples", &self.n_samples)
            .field("length", &self.length)
            .field("mels", &self.filters.len())
            .finish_non_exhaustive()
    }
}

impl LogMel {
    /// Reads the config and computes the window and filters. `length` sets the handling of the
    /// audio length.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the config has another class, enables dither, or is inconsistent.
    #[expect(clippy::cast_possible_truncation, reason = "the reference is f32")]
    pub fn open(config: &FeatureExtractorConfig, length: SoundLength) -> Result<Self, BundleError> {
        check_keys(config)?;
        let n_fft = config.n_fft;
        let is_whole = config.hop_length > 0 && config.n_samples.is_multiple_of(config.hop_length);
        if !is_whole || n_fft < 2 || config.n_samples <= n_fft || config.feature_size == 0 {
            return Err(inconsistent(
                config.origin,
                "`n_fft`, `hop_length` and `n_samples` are incompatible",
            ));
        }
        let n_frames = config.n_samples / config.hop_length;
        let (n_bins, n_mels, rate) = (n_fft / 2 + 1, config.feature_size, config.sampling_rate);
        if config.nb_max_frames.is_some_and(|n| n != n_frames) {
            return Err(inconsistent(
                config.origin,
                "`nb_max_frames` differs from `n_samples` / `hop_length`",
            ));
        }
        Ok(Self {
            sample_rate_hz: config.sampling_rate,
            n_samples: config.n_samples,
            length,
            hop: config.hop_length,
            window: hann(n_fft).into_iter().map(|weight| weight as f32).collect(),
            filters: mel_filters(n_bins, n_mels, rate, MEL_RANGE_HZ, MelScale::Slaney)
                .iter()
                .map(MelFilter::to_f32)
                .collect(),
            transform: RealFftPlanner::new().plan_fft_forward(n_fft),
        })
    }

    /// Returns the maximum duration of an audio input in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "clips have far fewer than 2^52 samples")]
    pub fn max_seconds(&self) -> f64 {
        self.max_samples() as f64 / f64::from(self.sample_rate_hz)
    }

    /// Returns the samples per second that the model hears.
    pub(in crate::preprocess) fn sample_rate_hz(&self) -> u32 {
        self.sample_rate_hz
    }

    /// Returns the maximum number of samples of an audio input.
    fn max_samples(&self) -> usize {
        match self.length {
            SoundLength::OneClip | SoundLength::AsItIs => self.n_samples,
            SoundLength::WholeClips { n_max } => self.n_samples.saturating_mul(n_max),
        }
    }

    /// Splits a waveform into overlapping windows of at most the model's maximum length. Shorter
    /// audio stays whole.
    ///
    /// # Errors
    /// [`ProcessError`] if the audio has non-finite samples or cannot be resampled.
    pub fn windows(&self, audio: Waveform) -> Result<Vec<Waveform>, ProcessError> {
        if audio.seconds() <= self.max_seconds() {
            return Ok(vec![audio]);
        }
        let sample_rate_hz = self.sample_rate_hz;
        let samples = samples_at(&audio, sample_rate_hz)?;
        let windows = chunked::windows(samples.len(), self.n_samples).into_iter();
        let window =
            |range: Range<usize>| Waveform { sample_rate_hz, samples: samples[range].to_vec() };
        Ok(windows.map(window).collect())
    }

    /// Computes the features of one audio input.
    ///
    /// | name | dtype | shape | meaning |
    /// |---|---|---|---|
    /// | `audio` | `f32` | `[n]` | one channel, any sample rate |
    /// | returned | `f32` | `[clips, mels, frames]` | log-mel spectrogram, no unit |
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if the audio is empty or too long, has non-finite samples, or cannot be
    /// resampled.
    ///
    /// # Source
    ///
    /// `_torch_extract_fbank_features` of transformers 5.23, within 1e-4.
    pub fn input_features(&self, audio: &Waveform) -> Result<Tensor<f32>, ProcessError> {
        let too_long = || ProcessError::AudioTooLong {
            seconds: audio.seconds(),
            max_seconds: self.max_seconds(),
        };
        // Checked before the cost of resampling. The tolerance covers its rounded-up length.
        if audio.seconds() > self.max_seconds() + 1e-3 {
            return Err(too_long());
        }
        let resampled = samples_at(audio, self.sample_rate_hz)?;
        let mut samples = &*resampled;
        if audio.sample_rate_hz != self.sample_rate_hz {
            samples = &samples[..samples.len().min(self.max_samples())];
        }
        if samples.len() > self.max_samples() {
            return Err(too_long());
        }
        let n_heard = match self.length {
            SoundLength::OneClip => self.n_samples,
            // The ends are reflected, so the audio must be at least as long as the window.
            SoundLength::AsItIs => samples.len().max(self.window.len()),
            SoundLength::WholeClips { .. } => samples.len().next_multiple_of(self.n_samples),
        };
        let n_frames = n_heard / self.hop;
        let features = self.log_mel(samples, n_heard);
        if n_heard <= self.n_samples {
            return Ok(Tensor::new([1, self.filters.len(), n_frames], features)?);
        }
        // The spectrogram is computed over the whole audio, then split.
        let (n_clips, clip_frames) = (n_heard / self.n_samples, self.n_samples / self.hop);
        let mut clips = Vec::with_capacity(features.len());
        for clip_idx in 0..n_clips {
            for band in features.chunks_exact(n_frames) {
                clips.extend_from_slice(&band[clip_idx * clip_frames..][..clip_frames]);
            }
        }
        Ok(Tensor::new([n_clips, self.filters.len(), clip_frames], clips)?)
    }

    /// Computes the features `[mels, frames]` of audio of any length. Audio shorter than a clip is
    /// padded to a clip; longer audio is not padded.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if the audio is empty, has non-finite samples, or cannot be resampled.
    ///
    /// # Source
    ///
    /// `AutomaticSpeechRecognitionPipeline.preprocess` of transformers 4.57 without
    /// `chunk_length_s`: no truncation, and no padding of longer audio.
    pub fn whole_features(&self, audio: &Waveform) -> Result<Tensor<f32>, ProcessError> {
        let samples = samples_at(audio, self.sample_rate_hz)?;
        let n_heard = samples.len().max(self.n_samples);
        let features = self.log_mel(&samples, n_heard);
        Ok(Tensor::new([self.filters.len(), n_heard / self.hop], features)?)
    }

    /// Returns the number of frames of a clip.
    #[must_use]
    pub fn clip_frames(&self) -> usize {
        self.n_samples / self.hop
    }

    /// Computes the features `[mels, frames]` of `samples`, padded with silence to `n_heard`.
    fn log_mel(&self, samples: &[f32], n_heard: usize) -> Vec<f32> {
        const FLOOR: f32 = 1e-10;
        let n_fft = self.window.len();
        let n_frames = n_heard / self.hop;
        let padded = self.pad(samples, n_heard);
        let mut frame = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut scratch = self.transform.make_scratch_vec();
        let mut power = vec![0.0_f32; spectrum.len()];
        let mut features = vec![FLOOR.log10(); self.filters.len() * n_frames];
        for frame_idx in 0..n_frames {
            let source = &padded[frame_idx * self.hop..frame_idx * self.hop + n_fft];
            // Silent frames are at the floor already, and a clip may be mostly silence.
            if source.iter().all(|sample| *sample == 0.0) {
                continue;
            }
            for ((value, sample), weight) in frame.iter_mut().zip(source).zip(&self.window) {
                *value = sample * weight;
            }
            let transformed =
                self.transform.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(transformed.is_ok(), "the plan allocated the buffers");
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            for (mel_idx, filter) in self.filters.iter().enumerate() {
                let bins = &power[filter.bins.clone()];
                let energy: f32 = bins.iter().zip(&filter.weights).map(|(p, w)| p * w).sum();
                features[mel_idx * n_frames + frame_idx] = energy.max(FLOOR).log10();
            }
        }
        let loudest = features.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for value in &mut features {
            *value = (value.max(loudest - 8.0) + 4.0) / 4.0;
        }
        features
    }

    /// Returns the samples padded with silence to `n_heard`, with both ends reflected.
    fn pad(&self, samples: &[f32], n_heard: usize) -> Vec<f32> {
        let half = self.window.len() / 2;
        let mut padded = vec![0.0; half + n_heard + half];
        padded[half..half + samples.len()].copy_from_slice(samples);
        for distance in 1..=half {
            padded[half - distance] = padded[half + distance];
            let end = half + n_heard - 1;
            padded[end + distance] = padded[end - distance];
        }
        padded
    }
}

fn check_keys(config: &FeatureExtractorConfig) -> Result<(), BundleError> {
    let unsupported = |key: &str, value: String, supported: &str| {
        Err(config.origin.unsupported(key, value, supported))
    };
    let class = config.feature_extractor_type.as_str();
    let supported = AudioFeatures::LogMel.class();
    if !["", supported].contains(&class) {
        return unsupported("feature_extractor_type", class.to_owned(), supported);
    }
    for (key, value) in &config.rest {
        let is_off = value.is_null()
            || value == &serde_json::Value::Bool(false)
            || value.as_f64() == Some(0.0);
        if !is_off && !HARMLESS_KEYS.contains(&key.as_str()) {
            return unsupported(key, value.to_string(), "none, unknown key");
        }
    }
    let clip = config.chunk_length.map(|seconds| seconds * f64::from(config.sampling_rate));
    #[expect(clippy::cast_precision_loss, reason = "clips have far fewer than 2^52 samples")]
    if clip.is_some_and(|samples| (samples - config.n_samples as f64).abs() > 0.5) {
        return Err(inconsistent(
            config.origin,
            "`n_samples` differs from `chunk_length` * `sampling_rate`",
        ));
    }
    Ok(())
}

fn inconsistent(origin: ConfigOrigin, problem: &str) -> BundleError {
    origin.inconsistent(format!("feature_extractor: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> FeatureExtractorConfig {
        serde_json::from_str(
            r#"{"feature_size": 40, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400,
                "chunk_length": 1, "n_samples": 16000, "nb_max_frames": 100, "dither": 0.0}"#,
        )
        .unwrap()
    }

    fn sound(n: usize) -> Waveform {
        Waveform { sample_rate_hz: 16_000, samples: vec![0.25; n] }
    }

    #[test]
    fn audio_longer_than_the_clip_is_rejected_with_both_durations() {
        let mel = LogMel::open(&config(), SoundLength::OneClip).unwrap();
        assert!(mel.input_features(&sound(16_000)).is_ok());
        let error = mel.input_features(&sound(32_000)).unwrap_err();
        assert_eq!(error.to_string(), "the audio is 2.00 s long, the model accepts at most 1.00 s");
    }

    #[test]
    fn empty_and_non_finite_audio_is_rejected() {
        let mel = LogMel::open(&config(), SoundLength::OneClip).unwrap();
        assert_eq!(mel.input_features(&sound(0)).unwrap_err().code(), "audio_empty");
        let broken = Waveform { sample_rate_hz: 16_000, samples: vec![f32::NAN] };
        assert_eq!(mel.input_features(&broken).unwrap_err().code(), "audio_not_finite");
    }

    #[test]
    fn silence_has_constant_features() {
        let mel = LogMel::open(&config(), SoundLength::OneClip).unwrap();
        let silent = Waveform { sample_rate_hz: 16_000, samples: vec![0.0; 100] };
        let features = mel.input_features(&silent).unwrap();
        assert_eq!(features.shape(), [1, 40, 100]);
        assert!(features.data().iter().all(|value| (value + 1.5).abs() < 1e-6));
    }

    #[test]
    fn dither_is_refused() {
        let mut config = config();
        config.rest.insert("dither".to_owned(), 0.1.into());
        let error = LogMel::open(&config, SoundLength::OneClip).unwrap_err();
        assert_eq!(error.code(), "bundle_option_unsupported");
    }
}
