//! Raw audio samples, as in `Wav2Vec2FeatureExtractor` of transformers.

use super::resample::samples_at;
use crate::{
    config::{BundleError, SAMPLES_SECONDS_MAX, SamplesConfig},
    preprocess::{ProcessError, Waveform},
    tensors::Tensor,
};

/// Keys that do not affect samples here: audio inputs are not batched or padded.
const HARMLESS_KEYS: [&str; 6] = [
    "feature_size",
    "padding_side",
    "padding_value",
    "processor_class",
    "return_attention_mask",
    "auto_map",
];

/// Resamples audio to a model's sample rate.
#[derive(Debug)]
pub struct RawSamples {
    sample_rate_hz: u32,
    normalizes: bool,
}

impl RawSamples {
    /// Reads the config.
    ///
    /// # Errors
    ///
    /// [`BundleError::UnsupportedOption`] for an unknown class or key.
    pub fn open(config: &SamplesConfig) -> Result<Self, BundleError> {
        let unsupported = |key: &str, value: String, supported: &str| {
            Err(config.origin.unsupported(key, value, supported))
        };
        let class = config.feature_extractor_type.as_str();
        if !["", "Wav2Vec2FeatureExtractor"].contains(&class) {
            let supported = "Wav2Vec2FeatureExtractor";
            return unsupported("feature_extractor_type", class.to_owned(), supported);
        }
        for (key, value) in &config.rest {
            if !value.is_null() && !HARMLESS_KEYS.contains(&key.as_str()) {
                return unsupported(key, value.to_string(), "none, unknown key");
            }
        }
        Ok(Self { sample_rate_hz: config.sampling_rate, normalizes: config.do_normalize })
    }

    /// Prepares one audio input.
    ///
    /// | name | dtype | shape | meaning |
    /// |---|---|---|---|
    /// | `audio` | `f32` | `[n]` | one channel, any sample rate |
    /// | returned | `f32` | `[1, n']` | at the model's rate; with mean 0 and variance 1 if the config enables it |
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if the audio is empty or too long, has non-finite samples, or cannot be
    /// resampled.
    ///
    /// # Source
    ///
    /// `Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm` of transformers 4.57.
    #[expect(clippy::cast_precision_loss, reason = "audio has far fewer than 2^52 samples")]
    #[expect(clippy::cast_possible_truncation, reason = "the model takes f32")]
    pub fn input_values(&self, audio: &Waveform) -> Result<Tensor<f32>, ProcessError> {
        let (seconds, max_seconds) = (audio.seconds(), SAMPLES_SECONDS_MAX as f64);
        if seconds > max_seconds {
            return Err(ProcessError::AudioTooLong { seconds, max_seconds });
        }
        let mut samples = samples_at(audio, self.sample_rate_hz)?.into_owned();
        if self.normalizes {
            let n = samples.len() as f64;
            let mean = samples.iter().map(|sample| f64::from(*sample)).sum::<f64>() / n;
            let square = |sample: &f32| (f64::from(*sample) - mean).powi(2);
            let variance = samples.iter().map(square).sum::<f64>() / n;
            for sample in &mut samples {
                *sample = ((f64::from(*sample) - mean) / (variance + 1e-7).sqrt()) as f32;
            }
        }
        Ok(Tensor::new([1, samples.len()], samples)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processor(more: &str) -> Result<RawSamples, BundleError> {
        let config = format!(r#"{{"sampling_rate": 16000{more}}}"#);
        RawSamples::open(&serde_json::from_str(&config).unwrap())
    }

    fn sound(samples: Vec<f32>) -> Waveform {
        Waveform { sample_rate_hz: 16_000, samples }
    }

    #[test]
    fn audio_is_normalised_if_configured() {
        let loud = sound(vec![1.0, 3.0]);
        let as_it_is = processor(r#", "do_normalize": false"#).unwrap();
        assert_eq!(as_it_is.input_values(&loud).unwrap().data(), [1.0, 3.0]);
        let normal = processor("").unwrap().input_values(&loud).unwrap();
        assert!((normal.data()[0] + 1.0).abs() < 1e-6 && (normal.data()[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn invalid_audio_is_rejected() {
        let processor = processor("").unwrap();
        assert_eq!(processor.input_values(&sound(vec![])).unwrap_err().code(), "audio_empty");
        let long = sound(vec![0.0; 65 * 16_000]);
        assert_eq!(processor.input_values(&long).unwrap_err().code(), "audio_too_long");
        assert!(self::processor(r#", "do_something": true"#).is_err());
    }
}
