//! Averages the channels of decoded audio.

use std::ops::{Range, RangeInclusive};

use legenda_models::Waveform;

use super::decode::Problem;

/// The maximum number of channels: third-order ambisonics in both halves of a studio's 32.
pub(super) const CHANNELS_MAX: usize = 32;

/// The range of sample rates: from below telephone quality to four times the highest converters offer. A
/// header may claim anything, and resampling would allocate memory for it.
pub(super) const SAMPLE_RATES_HZ: RangeInclusive<u32> = 1_000..=768_000;

/// The maximum level of a sample: full scale is 1, or 2^31 for integers stored as floats. Transforms of
/// higher levels may overflow to infinity, at which the resampler panics.
const LEVEL_MAX: f32 = 1e10;

/// Bytes of memory per decoded sample: 32 bits, twice, because a growing `Vec` is copied.
const BYTES_PER_SAMPLE: u64 = 2 * size_of::<f32>() as u64;

/// The maximum number of sample-rate changes, which Ogg and FLAC allow: each needs a new resampler.
const PIECES_MAX: usize = 100;

/// Channels cancel if their average has less than this share of their power: -40 dB. Independent channels
/// keep a share of one over their number.
const CANCELLED_SHARE: f64 = 1e-4;

/// The mean power below which audio is silent: -90 dB of full scale, the last bit of 16.
const SILENCE_POWER: f64 = 1e-9;

/// The limits of a piece of audio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) seconds_max: f64,
    pub(super) bytes_max: u64,
}

/// A growing mono channel.
#[derive(Debug)]
pub(super) struct Mixdown {
    bounds: Bounds,
    /// Pieces with one sample rate each.
    pieces: Vec<Waveform>,
    n_samples: usize,
    seconds: f64,
    /// Sums over all samples: the squared average, and the average square.
    power_of_mean: f64,
    mean_power: f64,
}

impl Mixdown {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            pieces: Vec::new(),
            n_samples: 0,
            seconds: 0.0,
            power_of_mean: 0.0,
            mean_power: 0.0,
        }
    }

    /// Averages the channels of `interleaved` and appends them.
    pub(super) fn push(
        &mut self,
        interleaved: &[f32],
        n_channels: usize,
        sample_rate_hz: u32,
    ) -> Result<(), Problem> {
        if n_channels > CHANNELS_MAX || !SAMPLE_RATES_HZ.contains(&sample_rate_hz) {
            let problem = format!("invalid format of {n_channels} channels at {sample_rate_hz} Hz");
            return Err(Problem::Damaged(problem));
        }
        if self.pieces.last().is_none_or(|piece| piece.sample_rate_hz != sample_rate_hz) {
            if self.pieces.len() == PIECES_MAX {
                let problem = format!("the sample rate changes more than {PIECES_MAX} times");
                return Err(Problem::Damaged(problem));
            }
            self.pieces.push(Waveform { sample_rate_hz, samples: Vec::new() });
        }
        let Some(piece) = self.pieces.last_mut() else { return Ok(()) };
        if n_channels == 1 {
            piece.samples.extend_from_slice(interleaved);
        } else {
            #[expect(clippy::cast_precision_loss, reason = "channel counts are small")]
            let share = 1.0 / n_channels as f32;
            piece.samples.reserve(interleaved.len() / n_channels);
            for frame in interleaved.chunks_exact(n_channels) {
                let mean = frame.iter().sum::<f32>() * share;
                let power: f32 = frame.iter().map(|sample| sample * sample).sum();
                self.power_of_mean += f64::from(mean * mean);
                self.mean_power += f64::from(power * share);
                piece.samples.push(mean);
            }
        }
        self.grow(interleaved.len() / n_channels.max(1), sample_rate_hz)
    }

    fn grow(&mut self, n_samples: usize, sample_rate_hz: u32) -> Result<(), Problem> {
        let Bounds { seconds_max, bytes_max } = self.bounds;
        self.n_samples += n_samples;
        #[expect(clippy::cast_precision_loss, reason = "a duration need not be exact")]
        let seconds = n_samples as f64 / f64::from(sample_rate_hz);
        self.seconds += seconds;
        if self.seconds > seconds_max {
            return Err(Problem::TooLong);
        }
        let bytes = self.n_samples as u64 * BYTES_PER_SAMPLE;
        if bytes > bytes_max {
            return Err(Problem::TooMuchMemory { bytes });
        }
        Ok(())
    }

    /// Keeps only the given ranges of samples, in order.
    pub(super) fn select(
        &mut self,
        ranges: impl Iterator<Item = Range<usize>> + Clone,
    ) -> Result<(), Problem> {
        let [piece] = self.pieces.as_mut_slice() else { return Ok(()) };
        let rate_hz = piece.sample_rate_hz;
        let whole = std::mem::take(&mut piece.samples);
        (self.n_samples, self.seconds) = (0, 0.0);
        for range in ranges.clone() {
            self.grow(range.len(), rate_hz)?;
        }
        let mut samples = Vec::with_capacity(self.n_samples);
        for range in ranges {
            samples.extend_from_slice(whole.get(range).unwrap_or_default());
        }
        self.pieces = vec![Waveform { sample_rate_hz: rate_hz, samples }];
        Ok(())
    }

    /// Returns the sample rate of the first piece, if any.
    pub(super) fn sample_rate_hz(&self) -> Option<u32> {
        self.pieces.first().map(|piece| piece.sample_rate_hz)
    }

    /// Returns the number of samples.
    pub(super) fn n_samples(&self) -> usize {
        self.n_samples
    }

    /// Returns whether the channels cancel: they are not silent, but their average nearly is.
    pub(super) fn channels_cancel(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "audio has far fewer than 2^52 samples")]
        let is_audible = self.mean_power > SILENCE_POWER * self.n_samples as f64;
        is_audible && self.power_of_mean < CANCELLED_SHARE * self.mean_power
    }

    /// Returns all samples at the sample rate of the first piece.
    pub(super) fn finish(self) -> Result<Waveform, Problem> {
        let damaged = |problem: &str| Err(Problem::Damaged(problem.to_owned()));
        let mut samples = self.pieces.iter().flat_map(|piece| &piece.samples);
        if samples.clone().any(|sample| !sample.is_finite()) {
            return damaged("a sample is not a number");
        }
        if samples.any(|sample| sample.abs() > LEVEL_MAX) {
            return damaged("a sample exceeds the maximum level");
        }
        let mut pieces = self.pieces.into_iter().filter(|piece| !piece.samples.is_empty());
        let Some(mut whole) = pieces.next() else { return damaged("the audio has no samples") };
        for piece in pieces {
            let resampled = piece
                .at_rate(whole.sample_rate_hz)
                .map_err(|error| Problem::Damaged(error.to_string()))?;
            whole.samples.extend(resampled.samples);
            let bytes = whole.samples.len() as u64 * BYTES_PER_SAMPLE;
            if bytes > self.bounds.bytes_max {
                return Err(Problem::TooMuchMemory { bytes });
            }
        }
        // A grown `Vec` may have twice the needed capacity.
        whole.samples.shrink_to_fit();
        Ok(whole)
    }
}
