//! Brings a waveform to another sample rate.

use std::borrow::Cow;

use rubato::{Fft, FixedSync, Resampler, audioadapter_buffers::direct::InterleavedSlice};

use super::{ProcessError, Waveform};

/// Input frames per transform; longer ones make the filter steeper and cost little.
const CHUNK_FRAMES: usize = 4096;

/// Returns the samples of a sound at a model's rate.
///
/// # Errors
///
/// [`ProcessError`] if the sound is empty, not finite, or cannot be resampled.
pub(super) fn samples_at(audio: &Waveform, rate_hz: u32) -> Result<Cow<'_, [f32]>, ProcessError> {
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

/// Resamples a whole clip by transform, the start-up delay cut off.
///
/// `librosa` and `soxr`, which references often use, have other filters: results differ from theirs
/// near the Nyquist frequency.
///
/// | name | dtype | shape | meaning |
/// |---|---|---|---|
/// | `samples` | `f32` | `[n]` | at `from_hz` |
/// | returned | `f32` | `[ceil(n * to_hz / from_hz)]` | at `to_hz` |
///
/// # Errors
///
/// [`ProcessError::Resample`] if a rate is zero or the resampler refuses the pair.
fn resample(samples: &[f32], from_hz: u32, to_hz: u32) -> Result<Vec<f32>, ProcessError> {
    let failed = |message: String| ProcessError::Resample { from_hz, to_hz, message };
    let rates = [from_hz, to_hz].map(|hz| usize::try_from(hz).unwrap_or(0));
    if rates.contains(&0) {
        return Err(failed("a sample rate is zero".to_owned()));
    }
    let mut resampler = Fft::<f32>::new_custom(
        rates[0],
        rates[1],
        CHUNK_FRAMES,
        1,
        1,
        rubato::WindowFunction::BlackmanHarris2,
        FixedSync::Both,
    )
    .map_err(|error| failed(error.to_string()))?;
    let n_needed = resampler.process_all_needed_output_len(samples.len());
    let mut output = vec![0.0; n_needed];
    let input = InterleavedSlice::new(samples, 1, samples.len())
        .map_err(|error| failed(error.to_string()))?;
    let mut target = InterleavedSlice::new_mut(&mut output, 1, n_needed)
        .map_err(|error| failed(error.to_string()))?;
    let (_, n_produced) = resampler
        .process_all_into_buffer(&input, &mut target, samples.len(), None)
        .map_err(|error| failed(error.to_string()))?;
    output.truncate(n_produced);
    Ok(output)
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

    #[test]
    fn a_rate_of_zero_is_an_error() {
        let error = resample(&[0.0; 8], 0, 16_000).unwrap_err();
        assert_eq!(error.code(), "audio_resample");
    }
}
