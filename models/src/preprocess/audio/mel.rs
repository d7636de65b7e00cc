//! Windows and mel filter banks.
//!
//! # Source
//!
//! `window_function` and `mel_filter_bank` of transformers 4.57.

use std::{f64::consts::TAU, ops::Range};

/// The mel scale on which the filters are equally spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MelScale {
    /// Slaney: linear below 1 kHz (15 mel), then 27 mel for a factor of 6.4. Filters are normalised
    /// to the same area.
    Slaney,
    /// HTK: logarithmic throughout. Filters have a peak of 1.
    Htk,
    /// Kaldi: HTK in other units. Filters are triangular in mel instead of hertz.
    Kaldi,
}

const LOG_START_HZ: f64 = 1000.0;
const LOG_START_MEL: f64 = 15.0;

fn log_step() -> f64 {
    27.0 / 6.4_f64.ln()
}

impl MelScale {
    fn mel(self, hz: f64) -> f64 {
        match self {
            Self::Slaney if hz < LOG_START_HZ => 3.0 * hz / 200.0,
            Self::Slaney => LOG_START_MEL + (hz / LOG_START_HZ).ln() * log_step(),
            Self::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
            Self::Kaldi => 1127.0 * (1.0 + hz / 700.0).ln(),
        }
    }

    fn hz(self, mel: f64) -> f64 {
        match self {
            Self::Slaney if mel < LOG_START_MEL => 200.0 * mel / 3.0,
            Self::Slaney => LOG_START_HZ * ((mel - LOG_START_MEL) / log_step()).exp(),
            Self::Htk => 700.0 * (10.0_f64.powf(mel / 2595.0) - 1.0),
            Self::Kaldi => 700.0 * ((mel / 1127.0).exp() - 1.0),
        }
    }
}

/// A filter: the bins that it covers and their weights.
pub(super) struct MelFilter<T> {
    pub(super) bins: Range<usize>,
    pub(super) weights: Vec<T>,
}

impl MelFilter<f64> {
    /// Returns the filter with `f32` weights.
    #[expect(clippy::cast_possible_truncation, reason = "the reference is f32")]
    pub(super) fn to_f32(&self) -> MelFilter<f32> {
        let weights = self.weights.iter().map(|weight| *weight as f32).collect();
        MelFilter { bins: self.bins.clone(), weights }
    }
}

/// Returns `n_mels` triangular filters over `n_bins` of a spectrum up to half the sample rate,
/// between the frequencies of `range_hz`. Zero weights at both ends are omitted.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
pub(super) fn mel_filters(
    n_bins: usize,
    n_mels: usize,
    sample_rate_hz: u32,
    range_hz: [f64; 2],
    scale: MelScale,
) -> Vec<MelFilter<f64>> {
    let [low, high] = range_hz.map(|hz| scale.mel(hz));
    let step = (high - low) / (n_mels + 1) as f64;
    let is_in_mel = scale == MelScale::Kaldi;
    let corner = |mel: f64| if is_in_mel { mel } else { scale.hz(mel) };
    let corners: Vec<f64> = (0..n_mels + 2).map(|i| corner(low + step * i as f64)).collect();
    let nyquist = f64::from(sample_rate_hz / 2);
    let place = |hz: f64| if is_in_mel { scale.mel(hz) } else { hz };
    let bin = |i: usize| place(nyquist * i as f64 / (n_bins - 1) as f64);
    let bins: Vec<f64> = (0..n_bins).map(bin).collect();
    corners
        .windows(3)
        .map(|corner| {
            let norm = match scale {
                MelScale::Slaney => 2.0 / (corner[2] - corner[0]),
                MelScale::Htk | MelScale::Kaldi => 1.0,
            };
            let weight = |place: f64| {
                let rise = (place - corner[0]) / (corner[1] - corner[0]);
                let fall = (corner[2] - place) / (corner[2] - corner[1]);
                rise.min(fall).max(0.0) * norm
            };
            let weights: Vec<f64> = bins.iter().map(|place| weight(*place)).collect();
            let first = weights.iter().position(|weight| *weight > 0.0).unwrap_or(0);
            let end = weights.iter().rposition(|weight| *weight > 0.0).map_or(first, |i| i + 1);
            MelFilter { bins: first..end, weights: weights[first..end].to_vec() }
        })
        .collect()
}

/// Returns a periodic Hann window.
#[expect(clippy::cast_precision_loss, reason = "windows are short")]
pub(super) fn hann(n: usize) -> Vec<f64> {
    (0..n).map(|i| 0.5 - 0.5 * (TAU * i as f64 / n as f64).cos()).collect()
}
