//! Log-mel spectrograms in decibels, as in `ClapFeatureExtractor` of transformers.

use std::{fmt, sync::Arc};

use realfft::{RealFftPlanner, RealToComplex};

use super::{mel::MelFilter, mel::MelScale, mel::hann, mel::mel_filters, resample::samples_at};
use crate::{
    config::{AudioFeatures, BundleError, RepeatedMelConfig},
    preprocess::{ProcessError, Waveform},
    tensors::Tensor,
};

/// Keys that follow from others, or do not affect features here.
const HARMLESS_KEYS: [&str; 10] = [
    "chunk_length_s",
    "n_fft",
    "nb_frequency_bins",
    "nb_max_frames",
    "nb_max_samples",
    "padding_side",
    "padding_value",
    "processor_class",
    "return_attention_mask",
    "top_db",
];

/// The padding of short audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// Silence is appended.
    Silence,
    /// The audio is repeated as often as it fits, then padded with silence.
    RepeatsThenSilence,
    /// The audio is repeated and truncated.
    Repeats,
}

/// Computes the spectrograms of one bundle.
///
/// The steps: periodic Hann window, centred frames with reflected ends, power, mel filters,
/// decibels. Where the reference picks a random part of long audio, the first possible part is
/// used.
pub struct RepeatedMel {
    sample_rate_hz: u32,
    n_samples: usize,
    hop: usize,
    fill: Fill,
    /// Whether audio has four views: long audio as a whole and in three parts.
    is_fused: bool,
    window: Vec<f64>,
    filters: Vec<MelFilter<f64>>,
    transform: Arc<dyn RealToComplex<f64>>,
}

impl fmt::Debug for RepeatedMel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepeatedMel")
            .field("sample_rate_hz", &self.sample_rate_hz)
            .field("n_samples", &self.n_samples)
            .field("is_fused", &self.is_fused)
            .finish_non_exhaustive()
    }
}

impl RepeatedMel {
    /// Reads the config and computes the window and filters.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if the config has another class or an unknown key or value, or is
    /// inconsistent.
    pub fn open(config: &RepeatedMelConfig) -> Result<Self, BundleError> {
        let unsupported = |key: &str, value: &str, supported: &str| {
            config.origin.unsupported(key, value, supported)
        };
        let class = config.feature_extractor_type.as_str();
        let supported = AudioFeatures::RepeatedMel.class();
        if class != supported {
            return Err(unsupported("feature_extractor_type", class, supported));
        }
        for (key, value) in &config.rest {
            let is_off = value.is_null() || value == &serde_json::Value::Bool(false);
            if !is_off && !HARMLESS_KEYS.contains(&key.as_str()) {
                return Err(unsupported(key, &value.to_string(), "none, unknown key"));
            }
        }
        let is_fused = match config.truncation.as_str() {
            "fusion" => true,
            "rand_trunc" => false,
            other => return Err(unsupported("truncation", other, "fusion, rand_trunc")),
        };
        let fill = match config.padding.as_str() {
            "repeatpad" => Fill::RepeatsThenSilence,
            "repeat" => Fill::Repeats,
            "pad" => Fill::Silence,
            other => return Err(unsupported("padding", other, "repeatpad, repeat, pad")),
        };
        let (n_fft, hop) = (config.fft_window_size, config.hop_length);
        let rate = usize::try_from(config.sampling_rate).unwrap_or(usize::MAX);
        let n_samples = config.max_length_s.saturating_mul(rate);
        let range_hz = [config.frequency_min, config.frequency_max];
        if n_fft < 2 || hop == 0 || n_samples <= n_fft || config.feature_size == 0 {
            let problem = "`fft_window_size`, `hop_length` and `max_length_s` are incompatible";
            return Err(config.origin.inconsistent(problem));
        }
        // The former uses torchaudio's filters, the latter librosa's.
        let scale = if is_fused { MelScale::Htk } else { MelScale::Slaney };
        let (n_bins, n_mels) = (n_fft / 2 + 1, config.feature_size);
        Ok(Self {
            sample_rate_hz: config.sampling_rate,
            n_samples,
            hop,
            fill,
            is_fused,
            window: hann(n_fft),
            filters: mel_filters(n_bins, n_mels, config.sampling_rate, range_hz, scale),
            transform: RealFftPlanner::new().plan_fft_forward(n_fft),
        })
    }

    /// Computes the features of one audio input.
    ///
    /// | name | dtype | shape | meaning |
    /// |---|---|---|---|
    /// | `audio` | `f32` | `[n]` | one channel, any sample rate |
    /// | returned | `f32` | `[1, views, frames, mels]` | decibels; four views where they are fused, else one |
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if the audio is empty, has non-finite samples, or cannot be resampled.
    pub fn input_features(&self, audio: &Waveform) -> Result<Tensor<f32>, ProcessError> {
        let mut samples = samples_at(audio, self.sample_rate_hz)?.into_owned();
        if !self.is_fused {
            samples.truncate(self.n_samples);
        }
        self.fill(&mut samples);
        let mel = self.spectrogram(&samples);
        let n_views = if self.is_fused { 4 } else { 1 };
        let values = if self.is_fused { self.views(&mel) } else { mel };
        let n_mels = self.filters.len();
        Ok(Tensor::new([1, n_views, self.n_frames(), n_mels], values)?)
    }

    /// Returns the number of frames at the maximum audio length.
    fn n_frames(&self) -> usize {
        self.n_samples / self.hop + 1
    }

    /// Extends short audio to the full length.
    fn fill(&self, samples: &mut Vec<f32>) {
        let n = samples.len();
        if n >= self.n_samples {
            return;
        }
        let n_times = match self.fill {
            Fill::Silence => 1,
            Fill::RepeatsThenSilence => self.n_samples / n,
            Fill::Repeats => self.n_samples / n + 1,
        };
        *samples = samples.repeat(n_times);
        samples.resize(self.n_samples, 0.0);
    }

    /// Computes the decibels of each frame's bands, `[frames, mels]`.
    #[expect(clippy::cast_possible_truncation, reason = "the reference stores f32")]
    fn spectrogram(&self, samples: &[f32]) -> Vec<f32> {
        const FLOOR: f64 = 1e-10;
        let (n, n_fft) = (samples.len(), self.window.len());
        // The index of a sample with reflected ends.
        let mirrored = |at: usize| match at.checked_sub(n_fft / 2) {
            None => n_fft / 2 - at,
            Some(at) if at < n => at,
            Some(at) => 2 * (n - 1) - at,
        };
        let mut frame = self.transform.make_input_vec();
        let mut spectrum = self.transform.make_output_vec();
        let mut scratch = self.transform.make_scratch_vec();
        let mut power = vec![0.0; spectrum.len()];
        let mut decibels = Vec::with_capacity((n / self.hop + 1) * self.filters.len());
        for frame_idx in 0..=n / self.hop {
            for (idx, (value, weight)) in frame.iter_mut().zip(&self.window).enumerate() {
                *value = f64::from(samples[mirrored(frame_idx * self.hop + idx)]) * weight;
            }
            let transformed =
                self.transform.process_with_scratch(&mut frame, &mut spectrum, &mut scratch);
            debug_assert!(transformed.is_ok(), "the plan allocated the buffers");
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                let [re, im] = [bin.re, bin.im].map(|part| f64::from(part as f32));
                *power = re * re + im * im;
            }
            decibels.extend(self.filters.iter().map(|filter| {
                let bins = power[filter.bins.clone()].iter().zip(&filter.weights);
                let energy: f64 = bins.map(|(power, weight)| power * weight).sum();
                (10.0 * energy.max(FLOOR).log10()) as f32
            }));
        }
        decibels
    }

    /// Returns the four views of a spectrogram: the whole, interpolated to the maximum length, and
    /// a part of each third. If the audio is not longer, returns four copies.
    fn views(&self, mel: &[f32]) -> Vec<f32> {
        let (n_mels, n_kept) = (self.filters.len(), self.n_frames());
        let n_frames = mel.len() / n_mels;
        if n_frames <= n_kept {
            return mel.repeat(4);
        }
        // `np.array_split` splits the possible start frames in three; the first parts have one
        // more.
        let n_starts = n_frames - n_kept + 1;
        let third = |idx: usize| {
            let start = idx * (n_starts / 3) + idx.min(n_starts % 3);
            if start < n_starts { start } else { 0 }
        };
        let mut views = shrunk(mel, n_mels, n_kept);
        for start in [0, third(1), third(2)] {
            views.extend_from_slice(&mel[start * n_mels..(start + n_kept) * n_mels]);
        }
        views
    }
}

/// Interpolates a spectrogram to `n_kept` frames (`interpolate` of torch, bilinear,
/// `align_corners=False`).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the reference computes in f32; frames are far fewer than 2^24"
)]
fn shrunk(mel: &[f32], n_mels: usize, n_kept: usize) -> Vec<f32> {
    let n_frames = mel.len() / n_mels;
    let scale = n_frames as f32 / n_kept as f32;
    let mut values = Vec::with_capacity(n_kept * n_mels);
    for frame_idx in 0..n_kept {
        let at = ((frame_idx as f32 + 0.5) * scale - 0.5).max(0.0);
        let left = (at as usize).min(n_frames - 1);
        let right = (left + 1).min(n_frames - 1);
        let share = at - left as f32;
        let [left, right] = [left, right].map(|at| &mel[at * n_mels..(at + 1) * n_mels]);
        let pairs = left.iter().zip(right);
        values.extend(pairs.map(|(left, right)| left * (1.0 - share) + right * share));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(more: &str) -> Result<RepeatedMel, BundleError> {
        let config = format!(
            r#"{{"feature_extractor_type": "ClapFeatureExtractor", "max_length_s": 1{more}}}"#
        );
        RepeatedMel::open(&serde_json::from_str(&config).unwrap())
    }

    #[test]
    fn short_audio_is_padded_as_configured() {
        let filled = |padding: &str| {
            let more = format!(r#", "sampling_rate": 2000, "padding": "{padding}""#);
            let mut samples: Vec<f32> = (0..1500_u16).map(f32::from).collect();
            samples.truncate(900);
            processor(&more).unwrap().fill(&mut samples);
            assert_eq!(samples.len(), 2000);
            [899, 900, 1799, 1800, 1999].map(|at| samples[at]).to_vec()
        };
        assert_eq!(filled("pad"), [899.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(filled("repeatpad"), [899.0, 0.0, 899.0, 0.0, 0.0]);
        assert_eq!(filled("repeat"), [899.0, 0.0, 899.0, 0.0, 199.0]);
        assert!(processor(r#", "padding": "twice""#).is_err());
        assert!(processor(r#", "truncation": "none""#).is_err());
        assert!(processor(r#", "loudness": 3"#).is_err());
    }

    #[test]
    fn long_audio_has_a_whole_view_and_three_parts() {
        let clap = processor(r#", "truncation": "fusion""#).unwrap();
        let tone = |i: u16| (f32::from(i % 480) / 480.0 - 0.5) * f32::from(i) / 65535.0;
        let audio =
            |n: u16| Waveform { sample_rate_hz: 48_000, samples: (0..n).map(tone).collect() };
        let views = |n: u16| {
            let features = clap.input_features(&audio(n)).unwrap();
            assert_eq!(features.shape(), [1, 4, 101, 64]);
            let view_len = 101 * 64;
            let views: Vec<Vec<f32>> =
                features.data().chunks(view_len).map(<[f32]>::to_vec).collect();
            views
        };
        let short = views(30_000);
        assert!(short.iter().all(|view| *view == short[0]));
        // 126 frames: parts may start at 26 of them; the thirds of these start at 0, 9 and 18.
        let long = views(60_000);
        assert_eq!(long[1][9 * 64..], long[2][..92 * 64]);
        assert_eq!(long[1][18 * 64..], long[3][..83 * 64]);
        assert_ne!(long[0], long[1]);
    }
}
