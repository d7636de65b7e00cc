//! Resamples a waveform.

use std::borrow::Cow;

use legenda_schemas::cause::Cause;
use rubato::{Fft, FixedSync, Resampler, audioadapter_buffers::direct::InterleavedSlice};

use crate::preprocess::{ProcessError, Waveform};

/// The minimum number of input frames per transform. Longer transforms make the filter steeper at
/// little cost.
const CHUNK_FRAMES: usize = 4096;

/// Returns the audio samples at a model's rate.
///
/// # Errors
///
/// [`ProcessError`] if the audio is empty, has non-finite samples, or cannot be resampled.
pub(in crate::preprocess) fn samples_at(
    audio: &Waveform,
    rate_hz: u32,
) -> Result<Cow<'_, [f32]>, ProcessError> {
    if audio.samples.is_empty() {
        return Err(ProcessError::AudioEmpty);
    }
    if !audio.samples.iter().all(|sample| sample.is_finite()) {
        return Err(ProcessError::AudioNotFinite);
    }
    if audio.sample_rate_hz == rate_hz {
        return Ok(Cow::Borrowed(&audio.samples));
    }
    resample(&audio.samples, audio.sample_rate_hz, rate_hz).map(Cow::Owned)
}

/// Resamples a whole waveform by Fourier transform, and removes the initial delay.
///
/// `librosa` and `soxr`, which references often use, have other filters: results differ near the
/// Nyquist frequency. There is no delay relative to them.
///
/// | name | dtype | shape | meaning |
/// |---|---|---|---|
/// | `samples` | `f32` | `[n]` | at `from_hz` |
/// | returned | `f32` | `[ceil(n * to_hz / from_hz)]` | at `to_hz` |
///
/// # Errors
///
/// [`ProcessError::Resample`] if a rate is zero or the resampler does not support the pair.
fn resample(samples: &[f32], from_hz: u32, to_hz: u32) -> Result<Vec<f32>, ProcessError> {
    let failed = |source: Cause| ProcessError::Resample { from_hz, to_hz, source };
    let [from, to] = [from_hz, to_hz].map(|hz| usize::try_from(hz).unwrap_or(0));
    let Some(n_least) = chunk_frames(from, to) else {
        return Err(failed("sample rate 0".into()));
    };
    let mut resampler = Fft::<f32>::new_custom(
        from,
        to,
        n_least,
        1,
        1,
        rubato::WindowFunction::BlackmanHarris2,
        FixedSync::Both,
    )
    .map_err(|error| failed(error.into()))?;
    let n_needed = resampler.process_all_needed_output_len(samples.len());
    let mut output = vec![0.0; n_needed];
    let input =
        InterleavedSlice::new(samples, 1, samples.len()).map_err(|error| failed(error.into()))?;
    let mut target = InterleavedSlice::new_mut(&mut output, 1, n_needed)
        .map_err(|error| failed(error.into()))?;
    resampler
        .process_all_into_buffer(&input, &mut target, samples.len(), None)
        .map_err(|error| failed(error.into()))?;
    // The library computes the length in floating point, which may be one sample too many.
    output.truncate((samples.len() * to).div_ceil(from));
    Ok(output)
}

/// Returns the number of input frames per transform: an even multiple of the shortest length with
/// whole frames at both rates. For an odd multiple, the delay (half the length) is not a whole
/// number of samples at one of the rates, so half a sample too little would be removed. Returns
/// `None` if a rate is zero.
fn chunk_frames(from_hz: usize, to_hz: usize) -> Option<usize> {
    let (mut shortest, mut rest) = (from_hz, to_hz);
    while rest > 0 {
        (shortest, rest) = (rest, shortest % rest);
    }
    let shortest = from_hz.checked_div(shortest).filter(|n| *n > 0 && to_hz > 0)?;
    Some(CHUNK_FRAMES.div_ceil(shortest).next_multiple_of(2) * shortest)
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "sample indices are small")]
mod tests {
    use super::*;

    fn sine(hz: f32, rate_hz: u32, n: usize) -> Vec<f32> {
        (0..n).map(|i| (std::f32::consts::TAU * hz * i as f32 / rate_hz as f32).sin()).collect()
    }

    #[test]
    fn a_tone_keeps_its_phase_and_level() {
        for from_hz in [8_000, 22_050, 44_100, 48_000] {
            let n = usize::try_from(from_hz).unwrap();
            let resampled = resample(&sine(440.0, from_hz, n), from_hz, 16_000).unwrap();
            assert_eq!(resampled.len(), 16_000, "from {from_hz}");
            let wanted = sine(440.0, 16_000, 16_000);
            let worst = resampled[2000..14_000]
                .iter()
                .zip(&wanted[2000..14_000])
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 2e-3, "from {from_hz}: off by {worst}");
        }
    }

    /// Returns the delay of a tone in samples, from the phase relative to the expected tone.
    fn delay(resampled: &[f32], hz: f32, rate_hz: u32) -> f64 {
        let middle = resampled.len() / 4..resampled.len() * 3 / 4;
        let (mut sine_sum, mut cosine_sum) = (0.0, 0.0);
        for i in middle {
            let angle = std::f64::consts::TAU * f64::from(hz) * i as f64 / f64::from(rate_hz);
            sine_sum += f64::from(resampled[i]) * angle.sin();
            cosine_sum += f64::from(resampled[i]) * angle.cos();
        }
        -cosine_sum.atan2(sine_sum) / std::f64::consts::TAU * f64::from(rate_hz) / f64::from(hz)
    }

    #[test]
    fn no_pair_of_rates_has_a_delay_and_lengths_are_exact() {
        let rates = [
            8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000,
            192_000, 44_099,
        ];
        for from_hz in rates {
            for to_hz in [16_000, 24_000, 44_100, 48_000] {
                // Lengths around one that both rates divide, and one that neither divides.
                for n in [from_hz, from_hz + 1, from_hz / 2 + 7] {
                    let n = usize::try_from(n).unwrap();
                    let turn = std::f64::consts::TAU * 400.0 / f64::from(from_hz);
                    #[expect(clippy::cast_possible_truncation, reason = "samples are f32")]
                    let tone: Vec<f32> = (0..n).map(|i| (turn * i as f64).sin() as f32).collect();
                    let resampled = resample(&tone, from_hz, to_hz).unwrap();
                    let [from, to] = [from_hz, to_hz].map(|hz| usize::try_from(hz).unwrap());
                    assert_eq!(resampled.len(), (n * to).div_ceil(from), "{from_hz} to {to_hz}");
                    let late = delay(&resampled, 400.0, to_hz);
                    assert!(
                        late.abs() < 0.05,
                        "{from_hz} to {to_hz} has a delay of {late} samples"
                    );
                }
            }
        }
    }

    #[test]
    fn short_clips_keep_their_length() {
        for n in 1..20 {
            for (from_hz, to_hz) in [(96_000, 16_000), (44_100, 16_000), (8_000, 48_000)] {
                let [from, to] = [from_hz, to_hz].map(|hz| usize::try_from(hz).unwrap());
                let resampled = resample(&vec![0.5; n], from_hz, to_hz).unwrap();
                assert_eq!(resampled.len(), (n * to).div_ceil(from), "{n} at {from_hz}");
            }
        }
    }

    #[test]
    fn a_rate_of_zero_is_an_error() {
        let error = resample(&[0.0; 8], 0, 16_000).unwrap_err();
        assert_eq!(error.code(), "audio_resample");
    }
}
