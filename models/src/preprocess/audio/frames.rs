//! Log-mel spectrograms of left-aligned frames, as in Gemma 3n and Phi-4-multimodal.
//!
//! # Source
//!
//! `Gemma3nAudioFeatureExtractor` and `Phi4MultimodalFeatureExtractor` of transformers 4.57. Sums
//! are in `f64` where the references use it, and rounded where they round: the values of bands
//! without energy consist of such rounding differences.

use std::{f64::consts::TAU, fmt, sync::Arc};

use realfft::{RealFftPlanner, RealToComplex};
use serde_json::{Map, Value};

use super::{mel::MelFilter, mel::MelScale, mel::mel_filters, resample::samples_at};
use crate::{
    config::{BundleError, ConfigOrigin, StackedFramesConfig, UsmExtractorConfig},
    preprocess::{ProcessError, Waveform},
    tensors::Tensor,
};

/// Upper bounds of the number of bands, and of the samples of a frame and of a transform. Larger
/// values are not plausible.
const BANDS_MAX: usize = 4096;
const FRAME_MAX: usize = 480_000;

/// Keys that do not affect features here: silence is zeros, and masks are always computed.
const HARMLESS_KEYS: [&str; 6] = [
    "feature_extractor_type",
    "padding_side",
    "padding_value",
    "processor_class",
    "return_attention_mask",
    "auto_map",
];

/// Keys without effect if they are 1, as in Phi-4-multimodal.
const SINGLE_KEYS: [&str; 2] = ["audio_downsample_rate", "audio_feat_stride"];

/// The maximum number of samples of Gemma 3n, and the multiple to which audio is padded
/// (`Gemma3nAudioFeatureExtractor.__call__`). The reference truncates longer audio; here it is
/// rejected.
const USM_SAMPLES_MAX: usize = 480_000;
const USM_SAMPLES_MULTIPLE: usize = 128;

/// The maximum audio duration of Phi-4-multimodal in seconds: half an hour, according to its model
/// card.
const STACKED_SECONDS_MAX: usize = 1800;

/// Phi-4-multimodal scales samples to the range of 16-bit integers.
const STACKED_SCALE: f32 = 32_768.0;

/// Computes the spectrograms of one bundle: frames, pre-emphasis, window, Fourier transform, mel
/// filters, natural logarithm.
pub struct FrameMel {
    sample_rate_hz: u32,
    samples_max: usize,
    /// Audio is padded to a multiple of this number of samples.
    multiple: usize,
    hop: usize,
    emphasis: Emphasis,
    scale: f32,
    window: Window,
    energy: Energy,
    /// The minimum energy of a band.
    floor: f64,
    /// The mean and divisor of each band.
    norm: Vec<(f64, f64)>,
    filters: Vec<MelFilter<f64>>,
    transform: Arc<dyn RealToComplex<f64>>,
    /// Whether a frame is valid if it starts within the audio but ends after it.
    counts_begun: bool,
}

/// The pre-emphasis, which subtracts a part of the preceding sample from each sample of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Emphasis {
    /// No pre-emphasis.
    None,
    /// Subtracts `part` of the preceding sample; the first sample is multiplied by `of_first`.
    Htk { part: f32, of_first: f32 },
    /// Subtracts this part; the frame starts with the second sample.
    Dropped(f32),
    /// Subtracts this part; the first sample precedes itself.
    Repeated(f32),
}

/// The window weights, and the rounding of the windowed samples.
#[derive(Debug)]
enum Window {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Window {
    fn len(&self) -> usize {
        match self {
            Self::Single(weights) => weights.len(),
            Self::Double(weights) => weights.len(),
        }
    }

    fn weighted(&self, i: usize, value: f32) -> f64 {
        match self {
            Self::Single(weights) => f64::from(value * weights[i]),
            Self::Double(weights) => f64::from(value) * weights[i],
        }
    }
}

/// The spectrum that the filters apply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Energy {
    Magnitude,
    Power,
}

/// The features of the audio inputs of one record, all as long as the longest.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameFeatures {
    /// `[n_sounds, frames, mels]`
    pub values: Tensor<f32>,
    /// The number of frames of each audio input before the padding.
    pub n_frames: Vec<usize>,
}

impl fmt::Debug for FrameMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameMel")
            .field("sample_rate_hz", &self.sample_rate_hz)
            .field("frame", &self.window.len())
            .field("mels", &self.filters.len())
            .finish_non_exhaustive()
    }
}

impl FrameMel {
    /// Reads Gemma 3n's config and computes the window and filters.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the config has an unknown key or value, or is inconsistent.
    #[expect(clippy::cast_possible_truncation, reason = "the reference is f32 up to the filters")]
    pub fn usm(config: &UsmExtractorConfig) -> Result<Self, BundleError> {
        check_keys(config.origin, &config.rest)?;
        let inconsistent = |problem: &str| config.origin.inconsistent(problem);
        let rate = config.sampling_rate;
        let samples = |ms: f64| (f64::from(rate) * ms / 1000.0).round();
        let [frame, hop] = [config.frame_length_ms, config.hop_length_ms].map(samples);
        let is_size = |n: f64| (1.0..=FRAME_MAX as f64).contains(&n);
        let is_banded = (1..=BANDS_MAX).contains(&config.feature_size);
        if !is_size(frame) || !is_size(hop) || !is_banded {
            return Err(inconsistent(
                "`frame_length_ms`, `hop_length_ms`, `sampling_rate` and `feature_size` are incompatible",
            ));
        }
        #[expect(clippy::cast_sign_loss, reason = "checked against its bounds above")]
        let [frame, hop] = [frame, hop].map(|n| n as usize);
        let n_fft = frame.next_power_of_two() * if config.fft_overdrive { 2 } else { 1 };
        let configured =
            [(config.frame_length, frame), (config.hop_length, hop), (config.fft_length, n_fft)];
        if configured.iter().any(|(key, own)| key.is_some_and(|key| key != *own)) {
            return Err(inconsistent(
                "`frame_length`, `hop_length` or `fft_length` contradicts the values in milliseconds",
            ));
        }
        let n_mels = config.feature_size;
        let per_band = |values: &Option<Vec<f64>>, default: f64| match values {
            Some(values) if values.len() == n_mels => Ok(values.clone()),
            Some(_) => Err(inconsistent(
                "`per_bin_mean` or `per_bin_stddev` does not have one value per band",
            )),
            None => Ok(vec![default; n_mels]),
        };
        let means = per_band(&config.per_bin_mean, 0.0)?;
        let deviations = per_band(&config.per_bin_stddev, 1.0)?;
        let part = config.preemphasis as f32;
        let range_hz = [config.min_frequency, config.max_frequency];
        Ok(Self {
            sample_rate_hz: rate,
            samples_max: USM_SAMPLES_MAX,
            multiple: USM_SAMPLES_MULTIPLE,
            hop,
            emphasis: match (config.preemphasis > 0.0, config.preemphasis_htk_flavor) {
                (false, _) => Emphasis::None,
                (true, true) => Emphasis::Htk { part, of_first: (1.0 - config.preemphasis) as f32 },
                (true, false) => Emphasis::Dropped(part),
            },
            scale: config.input_scale_factor as f32,
            window: Window::Single((0..frame).map(|i| hann_single(i, frame)).collect()),
            energy: Energy::Magnitude,
            floor: config.mel_floor,
            norm: means.into_iter().zip(deviations).collect(),
            filters: mel_filters(n_fft / 2 + 1, n_mels, rate, range_hz, MelScale::Htk),
            transform: RealFftPlanner::new().plan_fft_forward(n_fft),
            counts_begun: true,
        })
    }

    /// Reads Phi-4-multimodal's config and computes the window and filters.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the config has an unknown key or value, or is inconsistent.
    #[expect(clippy::cast_possible_truncation, reason = "the reference is f32 up to the window")]
    pub fn stacked(config: &StackedFramesConfig) -> Result<Self, BundleError> {
        let mut rest = config.rest.clone();
        rest.retain(|key, value| !(SINGLE_KEYS.contains(&key.as_str()) && *value == 1));
        check_keys(config.origin, &rest)?;
        let (frame, n_fft, n_mels) = (config.win_length, config.n_fft, config.feature_size);
        let are_sizes = 2 <= frame && frame <= n_fft && n_fft <= FRAME_MAX;
        if !are_sizes || config.hop_length == 0 || !(1..=BANDS_MAX).contains(&n_mels) {
            let message = "`stft_normal/frame_length`, `stft_normal/n_fft`, `stft_normal/hop_length`, \
                           `logmel/n_mel` do not fit together";
            return Err(config.origin.inconsistent(message));
        }
        let rate = config.sampling_rate;
        let range_hz = [config.mel_min_frequency, config.mel_max_frequency];
        Ok(Self {
            sample_rate_hz: rate,
            samples_max: usize::try_from(rate)
                .unwrap_or(usize::MAX)
                .saturating_mul(STACKED_SECONDS_MAX),
            multiple: 1,
            hop: config.hop_length,
            emphasis: Emphasis::Repeated(config.preemphasis as f32),
            scale: STACKED_SCALE,
            window: Window::Double((0..frame).map(|i| hamming(i, frame)).collect()),
            energy: Energy::Power,
            floor: 1.0,
            norm: vec![(0.0, 1.0); n_mels],
            filters: mel_filters(n_fft / 2 + 1, n_mels, rate, range_hz, MelScale::Kaldi),
            transform: RealFftPlanner::new().plan_fft_forward(n_fft),
            counts_begun: false,
        })
    }

    /// Returns the samples per second that the model hears.
    pub(in crate::preprocess) fn sample_rate_hz(&self) -> u32 {
        self.sample_rate_hz
    }

    /// Returns the number of samples of a frame.
    fn n_frame(&self) -> usize {
        // Gemma 3n's frames have one sample more than the window, with or without pre-emphasis.
        self.window.len() + usize::from(self.counts_begun)
    }

    /// Computes the features of a record's audio inputs.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if an audio input is empty or shorter than a frame, has non-finite samples,
    /// is too long, or cannot be resampled.
    #[expect(clippy::cast_precision_loss, reason = "audio has far fewer than 2^52 samples")]
    pub fn input_features(&self, audios: &[Waveform]) -> Result<FrameFeatures, ProcessError> {
        let rate = f64::from(self.sample_rate_hz);
        let max_seconds = self.samples_max as f64 / rate;
        let mut waveforms = Vec::with_capacity(audios.len());
        for audio in audios {
            let seconds = audio.seconds();
            // The tolerance covers the rounded-up length of resampled audio.
            if seconds > max_seconds + 1e-3 {
                return Err(ProcessError::AudioTooLong { seconds, max_seconds });
            }
            waveforms.push(samples_at(audio, self.sample_rate_hz)?);
        }
        let n_frame = self.n_frame();
        let truncated_len = |samples: &[f32]| samples.len().min(self.samples_max);
        let lengths =
            waveforms.iter().map(|samples| truncated_len(samples).next_multiple_of(self.multiple));
        let longest = lengths.clone().max().unwrap_or(0);
        // If frames that start within the audio are valid, only the longest input must fill a
        // frame.
        let shortest = if self.counts_begun { longest } else { lengths.min().unwrap_or(0) };
        if shortest < n_frame {
            let own = waveforms.iter().map(|samples| truncated_len(samples));
            let own = if self.counts_begun { own.max() } else { own.min() };
            let (seconds, min_seconds) = (own.unwrap_or(0) as f64 / rate, n_frame as f64 / rate);
            return Err(ProcessError::AudioTooShort { seconds, min_seconds });
        }
        let n_frames = (longest - n_frame) / self.hop + 1;
        let mut values = Vec::with_capacity(waveforms.len() * n_frames * self.filters.len());
        let mut own = Vec::with_capacity(waveforms.len());
        for samples in &waveforms {
            let n_samples = truncated_len(samples);
            let mut padded = samples[..n_samples].to_vec();
            padded.resize(longest, 0.0);
            let (n_own, end_silent) = if self.counts_begun {
                let n_own = n_samples.div_ceil(self.hop).min(n_frames);
                (n_own, n_own)
            } else {
                // In the reference, the final frames of a shorter input are silence, except for the
                // last frame that starts within it.
                let n_own = (n_samples - n_frame) / self.hop + 1;
                let end = (n_samples / self.hop).saturating_sub(1).min(n_frames);
                (n_own, if n_samples < longest { end.max(n_own) } else { n_own })
            };
            self.append(&padded, 0..n_own, &mut values);
            for _ in n_own..end_silent {
                values.extend(self.norm.iter().map(|norm| self.level(0.0, *norm)));
            }
            self.append(&padded, end_silent..n_frames, &mut values);
            own.push(n_own);
        }
        let values = Tensor::new([waveforms.len(), n_frames, self.filters.len()], values)?;
        Ok(FrameFeatures { values, n_frames: own })
    }

    /// Appends the features of a range of frames.
    fn append(&self, samples: &[f32], frames: std::ops::Range<usize>, features: &mut Vec<f32>) {
        let mut frame = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut scratch = self.transform.make_scratch_vec();
        for frame_idx in frames {
            let source = &samples[frame_idx * self.hop..][..self.n_frame()];
            frame.fill(0.0);
            for (i, value) in frame.iter_mut().take(self.window.len()).enumerate() {
                let at = |i: usize| source[i] * self.scale;
                let emphasized = match self.emphasis {
                    Emphasis::None => at(i),
                    Emphasis::Htk { of_first, .. } if i == 0 => at(0) * of_first,
                    Emphasis::Htk { part, .. } => at(i) - part * at(i - 1),
                    Emphasis::Dropped(part) => at(i + 1) - part * at(i),
                    Emphasis::Repeated(part) => at(i) - part * at(i.saturating_sub(1)),
                };
                *value = self.window.weighted(i, emphasized);
            }
            let transformed =
                self.transform.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(transformed.is_ok(), "the plan allocated the buffers");
            for (filter, norm) in self.filters.iter().zip(&self.norm) {
                let bins = spectrum[filter.bins.clone()].iter().zip(&filter.weights);
                let energy = match self.energy {
                    Energy::Magnitude => bins.map(|(bin, weight)| bin.norm() * weight).sum(),
                    Energy::Power => bins.map(|(bin, weight)| bin.norm_sqr() * weight).sum(),
                };
                features.push(self.level(energy, *norm));
            }
        }
    }

    /// Returns the feature of a band.
    #[expect(clippy::cast_possible_truncation, reason = "the model takes f32")]
    fn level(&self, energy: f64, (mean, deviation): (f64, f64)) -> f32 {
        ((energy.max(self.floor).ln() - mean) / deviation) as f32
    }
}

fn check_keys(origin: ConfigOrigin, rest: &Map<String, Value>) -> Result<(), BundleError> {
    for (key, value) in rest {
        let is_off = value.is_null() || value == &Value::Bool(false) || value.as_f64() == Some(0.0);
        if !is_off && !HARMLESS_KEYS.contains(&key.as_str()) {
            return Err(origin.unsupported(key, value.to_string(), "none, unknown key"));
        }
    }
    Ok(())
}

/// Returns a weight of a periodic Hann window, rounded to `f32` at each step.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "as the reference"
)]
fn hann_single(i: usize, n: usize) -> f32 {
    let angle = std::f32::consts::TAU * i as f32 / n as f32;
    0.5 * (1.0 - f64::from(angle).cos() as f32)
}

/// Returns a weight of a symmetric Hamming window.
#[expect(clippy::cast_precision_loss, reason = "windows are short")]
fn hamming(i: usize, n: usize) -> f64 {
    0.54 - 0.46 * (TAU * i as f64 / (n - 1) as f64).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usm(more: &str) -> Result<FrameMel, BundleError> {
        FrameMel::usm(&serde_json::from_str(&format!("{{{more}}}")).unwrap())
    }

    fn stacked(more: &str) -> Result<FrameMel, BundleError> {
        FrameMel::stacked(&serde_json::from_str(&format!("{{{more}}}")).unwrap())
    }

    fn sound(n_samples: usize) -> Waveform {
        Waveform { sample_rate_hz: 16_000, samples: vec![0.25; n_samples] }
    }

    #[test]
    fn audio_inputs_are_padded_to_the_longest_of_their_record() {
        let features = usm("").unwrap().input_features(&[sound(16_000), sound(1000)]).unwrap();
        // (16000 - 513) / 160 + 1 frames; those that start within the shorter input are valid.
        assert_eq!(features.values.shape(), [2, 97, 128]);
        assert_eq!(features.n_frames, [97, 7]);
        let features = stacked("").unwrap().input_features(&[sound(16_000), sound(1000)]).unwrap();
        // (16000 - 400) / 160 + 1 frames; those that end within the shorter input are valid.
        assert_eq!(features.values.shape(), [2, 98, 80]);
        assert_eq!(features.n_frames, [98, 4]);
        // The fifth frame is silenced; the sixth, which starts within the audio, is not.
        let frame = |idx: usize| &features.values.row(1)[idx * 80..(idx + 1) * 80];
        assert!(frame(4).iter().all(|value| *value == 0.0));
        assert!(frame(5).iter().any(|value| *value > 0.0));
    }

    #[test]
    fn invalid_audio_is_rejected() {
        let code = |mel: &FrameMel, n_samples: &[usize]| {
            let sounds: Vec<Waveform> = n_samples.iter().map(|n| sound(*n)).collect();
            mel.input_features(&sounds).err().map(|error| error.code())
        };
        let mel = usm("").unwrap();
        assert_eq!(code(&mel, &[0]), Some("audio_empty"));
        assert_eq!(code(&mel, &[512]), Some("audio_too_short"));
        assert_eq!(code(&mel, &[513]), None);
        assert_eq!(code(&mel, &[16_000, 100]), None);
        assert_eq!(code(&mel, &[480_000]), None);
        assert_eq!(code(&mel, &[481_000]), Some("audio_too_long"));
        let mel = stacked("").unwrap();
        assert_eq!(code(&mel, &[399]), Some("audio_too_short"));
        assert_eq!(code(&mel, &[400]), None);
        assert_eq!(code(&mel, &[16_000, 100]), Some("audio_too_short"));
        assert_eq!(code(&mel, &[481_000]), None);
    }

    #[test]
    fn inconsistent_configs_are_refused() {
        let code = |more: &str| usm(more).err().map(|error| error.code());
        assert_eq!(code(r#""frame_length": 512, "hop_length": 160, "fft_length": 1024"#), None);
        assert_eq!(code(r#""dither": 0.0, "padding_value": 0.0"#), None);
        assert_eq!(code(r#""dither": 0.1"#), Some("bundle_option_unsupported"));
        assert_eq!(code(r#""frame_length": 400"#), Some("bundle_inconsistent"));
        assert_eq!(code(r#""hop_length_ms": 0"#), Some("bundle_inconsistent"));
        assert_eq!(code(r#""per_bin_mean": [1.0]"#), Some("bundle_inconsistent"));
        let code = |more: &str| stacked(more).err().map(|error| error.code());
        assert_eq!(code(r#""win_length": 600"#), Some("bundle_inconsistent"));
        assert_eq!(code(r#""audio_feat_stride": 2"#), Some("bundle_option_unsupported"));
    }

    #[test]
    fn bands_are_normalised_if_configured() {
        let bands = |value: &str| vec![value; 128].join(",");
        let [means, deviations] = [bands("-3.0"), bands("2.0")];
        let normed =
            usm(&format!(r#""per_bin_mean": [{means}], "per_bin_stddev": [{deviations}]"#));
        let [plain, normed] = [usm(""), normed]
            .map(|mel| mel.unwrap().input_features(&[sound(16_000)]).unwrap().values);
        for (plain, normed) in plain.data().iter().zip(normed.data()) {
            assert!(((plain + 3.0) / 2.0 - normed).abs() < 1e-5, "{plain} {normed}");
        }
    }
}
