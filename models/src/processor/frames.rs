//! Sounds to log-mel spectrograms as the Universal Speech Model hears them: what
//! `Gemma3nAudioFeatureExtractor` of transformers does.

use std::{fmt, sync::Arc};

use realfft::{RealFftPlanner, RealToComplex};

use super::{
    ProcessError, Waveform,
    mel::{MelFilter, MelScale, mel_filters},
    resample::samples_at,
};
use crate::{
    bundle::{BundleError, UsmExtractorConfig},
    tensors::Tensor,
};

const FILE: &str = "preprocessor_config.json";

/// Keys that do not change features here: silence is zeros, and masks are always made.
const HARMLESS_KEYS: [&str; 6] = [
    "feature_extractor_type",
    "padding_side",
    "padding_value",
    "processor_class",
    "return_attention_mask",
    "auto_map",
];

/// The most samples that are heard, and the number to whose multiples sounds are filled up
/// (`Gemma3nAudioFeatureExtractor.__call__`). The reference drops what is longer; here it is refused.
const SAMPLES_MAX: usize = 480_000;
const SAMPLES_MULTIPLE: usize = 128;

/// Turns sounds into spectrograms for one bundle.
///
/// Frames from the first sample on, each a little longer than its window for the emphasis of high
/// frequencies, periodic Hann window, magnitudes, mel filters of HTK without norm, natural logarithm.
pub struct UsmMel {
    sample_rate_hz: u32,
    hop: usize,
    emphasis: Emphasis,
    scale: f32,
    floor: f64,
    /// What each band is made smaller by, and then divided by.
    norm: Vec<(f64, f64)>,
    window: Vec<f32>,
    filters: Vec<MelFilter<f64>>,
    transform: Arc<dyn RealToComplex<f64>>,
}

/// How each sample of a frame is made smaller by a part of the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Emphasis {
    /// Not at all.
    None,
    /// By so much; of the first sample so much stays.
    Htk { part: f32, of_first: f32 },
    /// By so much; the frame begins with the second sample.
    Plain(f32),
}

/// The sounds of one record, all as long as the longest.
#[derive(Clone, Debug, PartialEq)]
pub struct UsmFeatures {
    /// `[sounds, frames, mels]`
    pub values: Tensor<f32>,
    /// The frames of each sound that are not silence behind it.
    pub n_frames: Vec<usize>,
}

impl fmt::Debug for UsmMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsmMel")
            .field("sample_rate_hz", &self.sample_rate_hz)
            .field("frame", &self.window.len())
            .field("mels", &self.filters.len())
            .finish_non_exhaustive()
    }
}

impl UsmMel {
    /// Reads the config and computes window and filters.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the config has a key or value that is not known, or does not add up.
    #[expect(clippy::cast_possible_truncation, reason = "the reference is f32 up to the filters")]
    pub fn open(config: &UsmExtractorConfig) -> Result<Self, BundleError> {
        for (key, value) in &config.rest {
            let is_off = value.is_null()
                || value == &serde_json::Value::Bool(false)
                || value.as_f64() == Some(0.0);
            if !is_off && !HARMLESS_KEYS.contains(&key.as_str()) {
                return Err(BundleError::UnsupportedOption {
                    file: FILE,
                    key: key.clone(),
                    value: value.to_string(),
                    supported: "this key is not known".to_owned(),
                });
            }
        }
        let inconsistent =
            |message: &str| BundleError::Inconsistent { file: FILE, message: message.to_owned() };
        let rate = config.sampling_rate;
        let samples = |ms: f64| (f64::from(rate) * ms / 1000.0).round();
        let [frame, hop] = [config.frame_length_ms, config.hop_length_ms].map(samples);
        let is_size = |n: f64| (1.0..=SAMPLES_MAX as f64).contains(&n);
        if !is_size(frame) || !is_size(hop) || config.feature_size == 0 {
            let message = "`frame_length_ms`, `hop_length_ms`, `sampling_rate` do not fit together";
            return Err(inconsistent(message));
        }
        #[expect(clippy::cast_sign_loss, reason = "just held against its bounds")]
        let [frame, hop] = [frame, hop].map(|n| n as usize);
        let n_fft = frame.next_power_of_two() * if config.fft_overdrive { 2 } else { 1 };
        let said =
            [(config.frame_length, frame), (config.hop_length, hop), (config.fft_length, n_fft)];
        if said.iter().any(|(said, own)| said.is_some_and(|said| said != *own)) {
            let message =
                "`frame_length`, `hop_length` or `fft_length` is not what the milliseconds give";
            return Err(inconsistent(message));
        }
        let n_mels = config.feature_size;
        let of_bands = |values: &Option<Vec<f64>>, default: f64| match values {
            Some(values) if values.len() == n_mels => Ok(values.clone()),
            Some(_) => Err(inconsistent("`per_bin_mean` or `per_bin_stddev` is not one per band")),
            None => Ok(vec![default; n_mels]),
        };
        let means = of_bands(&config.per_bin_mean, 0.0)?;
        let deviations = of_bands(&config.per_bin_stddev, 1.0)?;
        let part = config.preemphasis as f32;
        let range_hz = [config.min_frequency, config.max_frequency];
        Ok(Self {
            sample_rate_hz: rate,
            hop,
            emphasis: match (config.preemphasis > 0.0, config.preemphasis_htk_flavor) {
                (false, _) => Emphasis::None,
                (true, true) => Emphasis::Htk { part, of_first: (1.0 - config.preemphasis) as f32 },
                (true, false) => Emphasis::Plain(part),
            },
            scale: config.input_scale_factor as f32,
            floor: config.mel_floor,
            norm: means.into_iter().zip(deviations).collect(),
            window: (0..frame).map(|i| hann_f32(i, frame)).collect(),
            filters: mel_filters(n_fft / 2 + 1, n_mels, rate, range_hz, MelScale::Htk),
            transform: RealFftPlanner::new().plan_fft_forward(n_fft),
        })
    }

    /// Returns the samples per second that the model hears.
    pub(super) fn sample_rate_hz(&self) -> u32 {
        self.sample_rate_hz
    }

    /// Turns the sounds of a record into features.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if a sound is empty or shorter than a frame, not finite, too long, or cannot be
    /// resampled.
    #[expect(clippy::cast_precision_loss, reason = "sounds have far fewer than 2^52 samples")]
    pub fn input_features(&self, audios: &[Waveform]) -> Result<UsmFeatures, ProcessError> {
        let max_seconds = SAMPLES_MAX as f64 / f64::from(self.sample_rate_hz);
        let mut sounds = Vec::with_capacity(audios.len());
        for audio in audios {
            let seconds = audio.seconds();
            // Some slack, for the length of what is resampled is rounded up.
            if seconds > max_seconds + 1e-3 {
                return Err(ProcessError::AudioTooLong { seconds, max_seconds });
            }
            sounds.push(samples_at(audio, self.sample_rate_hz)?);
        }
        let longest = sounds.iter().map(|samples| samples.len().min(SAMPLES_MAX)).max();
        let n_samples = longest.unwrap_or(0).next_multiple_of(SAMPLES_MULTIPLE);
        // A frame has one sample more than its window.
        let n_frame = self.window.len() + 1;
        let Some(n_steps) = n_samples.checked_sub(n_frame) else {
            let (seconds, rate) = (n_samples as f64, f64::from(self.sample_rate_hz));
            let min_seconds = n_frame as f64 / rate;
            return Err(ProcessError::AudioTooShort { seconds: seconds / rate, min_seconds });
        };
        let n_frames = n_steps / self.hop + 1;
        let mut values = Vec::with_capacity(sounds.len() * n_frames * self.filters.len());
        for samples in &sounds {
            let mut padded = samples[..samples.len().min(SAMPLES_MAX)].to_vec();
            padded.resize(n_samples, 0.0);
            self.append(&padded, n_frames, &mut values);
        }
        let n_own = |samples: &[f32]| samples.len().div_ceil(self.hop).min(n_frames);
        Ok(UsmFeatures {
            n_frames: sounds.iter().map(|samples| n_own(samples)).collect(),
            values: Tensor::new([sounds.len(), n_frames, self.filters.len()], values)?,
        })
    }

    /// Appends the features of one sound, frame by frame.
    #[expect(clippy::cast_possible_truncation, reason = "the model takes f32")]
    fn append(&self, samples: &[f32], n_frames: usize, features: &mut Vec<f32>) {
        let mut frame = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut scratch = self.transform.make_scratch_vec();
        for frame_idx in 0..n_frames {
            let source = &samples[frame_idx * self.hop..][..=self.window.len()];
            frame.fill(0.0);
            for (i, (value, weight)) in frame.iter_mut().zip(&self.window).enumerate() {
                let at = |i: usize| source[i] * self.scale;
                let emphasized = match self.emphasis {
                    Emphasis::None => at(i),
                    Emphasis::Htk { of_first, .. } if i == 0 => at(0) * of_first,
                    Emphasis::Htk { part, .. } => at(i) - part * at(i - 1),
                    Emphasis::Plain(part) => at(i + 1) - part * at(i),
                };
                *value = f64::from(emphasized * weight);
            }
            let transformed =
                self.transform.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(transformed.is_ok(), "buffers come from the plan itself");
            for (filter, (mean, deviation)) in self.filters.iter().zip(&self.norm) {
                let bins = spectrum[filter.bins.clone()].iter().zip(&filter.weights);
                let energy: f64 = bins.map(|(bin, weight)| bin.norm() * weight).sum();
                features.push(((energy.max(self.floor).ln() - mean) / deviation) as f32);
            }
        }
    }
}

/// Returns a weight of a periodic Hann window, rounded at each step as the reference does it: bands
/// without energy are made of such differences.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "as the reference"
)]
fn hann_f32(i: usize, n: usize) -> f32 {
    let angle = std::f32::consts::TAU * i as f32 / n as f32;
    0.5 * (1.0 - f64::from(angle).cos() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mel(more: &str) -> Result<UsmMel, BundleError> {
        UsmMel::open(&serde_json::from_str(&format!("{{{more}}}")).unwrap())
    }

    fn sound(n_samples: usize) -> Waveform {
        Waveform { sample_rate_hz: 16_000, samples: vec![0.25; n_samples] }
    }

    #[test]
    fn sounds_are_as_long_as_the_longest_of_their_record() {
        let features = mel("").unwrap().input_features(&[sound(16_000), sound(1000)]).unwrap();
        // (16000 - 513) / 160 + 1, and of the shorter one those that begin within it.
        assert_eq!(features.values.shape(), [2, 97, 128]);
        assert_eq!(features.n_frames, [97, 7]);
    }

    #[test]
    fn what_cannot_be_heard_is_refused() {
        let mel = mel("").unwrap();
        let code = |n_samples| mel.input_features(&[sound(n_samples)]).err().map(|e| e.code());
        assert_eq!(code(0), Some("audio_empty"));
        assert_eq!(code(512), Some("audio_too_short"));
        assert_eq!(code(513), None);
        assert_eq!(code(480_000), None);
        assert_eq!(code(481_000), Some("audio_too_long"));
    }

    #[test]
    fn configs_that_do_not_add_up_are_refused() {
        let code = |more: &str| mel(more).err().map(|error| error.code());
        assert_eq!(code(r#""frame_length": 512, "hop_length": 160, "fft_length": 1024"#), None);
        assert_eq!(code(r#""dither": 0.0, "padding_value": 0.0"#), None);
        assert_eq!(code(r#""dither": 0.1"#), Some("bundle_option_unsupported"));
        assert_eq!(code(r#""frame_length": 400"#), Some("bundle_inconsistent"));
        assert_eq!(code(r#""hop_length_ms": 0"#), Some("bundle_inconsistent"));
        assert_eq!(code(r#""per_bin_mean": [1.0]"#), Some("bundle_inconsistent"));
    }

    #[test]
    fn bands_are_normalised_where_the_config_says_so() {
        let bands = |value: &str| vec![value; 128].join(",");
        let [means, deviations] = [bands("-3.0"), bands("2.0")];
        let normed =
            mel(&format!(r#""per_bin_mean": [{means}], "per_bin_stddev": [{deviations}]"#));
        let [plain, normed] = [mel(""), normed]
            .map(|mel| mel.unwrap().input_features(&[sound(16_000)]).unwrap().values);
        for (plain, normed) in plain.data().iter().zip(normed.data()) {
            assert!(((plain + 3.0) / 2.0 - normed).abs() < 1e-5, "{plain} {normed}");
        }
    }
}
