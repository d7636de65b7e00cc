//! Decoding options.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    JobError,
    strings::{OneOrMany, one_or_many},
};

/// Decoding options, with the names of transformers. The default of an option is the model's generation
/// config, else the default of transformers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationOptions {
    /// The maximum number of tokens of an answer. Default: the limit of the model, else 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// The minimum number of tokens of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_new_tokens: Option<usize>,
    /// The sampling temperature; 0 is greedy decoding. Default: 0 if the model does not set `do_sample`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Sample only from this many most likely tokens; 0 means all. Default: that of the model, else 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Sample only from the most likely tokens that together have this probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Sample only from tokens with at least this fraction of the probability of the most likely token; 0
    /// means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Values above 1 make tokens of the prompt and answer less likely; 1 has no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Prevent n-grams of this size from repeating; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
    /// The number of beams of beam search; 1 is off. Memory grows by this factor. Requires temperature 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_beams: Option<usize>,
    /// The length penalty of beam search: above 0 favors long answers, below 0 short ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f32>,
    /// Whether the transcript of the previous windows is part of the prompt
    /// (`task.long_audio = "sequential"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition_on_prev_tokens: Option<bool>,
    /// The temperatures to retry a window with, in order, until its transcript meets the thresholds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback_temperatures: Vec<f32>,
    /// A transcript with a higher compression ratio than this is repetitive and fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_ratio_threshold: Option<f64>,
    /// A transcript with a lower mean log probability than this fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprob_threshold: Option<f64>,
    /// A window is silence if its no-speech probability is above this and its mean log probability is
    /// below `logprob_threshold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_speech_threshold: Option<f64>,
    /// The sampling seed, combined with the identity of the row.
    pub seed: u64,
    /// The strings that end an answer; they are not part of it.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub stop: Vec<String>,
}

impl GenerationOptions {
    /// Validates the options.
    pub(super) fn validate(&self) -> Result<(), JobError> {
        let invalid = |key, problem: String| Err(JobError::Value { key, problem });
        for (key, value) in [
            ("generation.max_new_tokens", self.max_new_tokens),
            ("generation.num_beams", self.num_beams),
        ] {
            if value == Some(0) {
                return invalid(key, "must be above 0, got 0".to_owned());
            }
        }
        type IsValid = fn(f32) -> bool;
        let numbers: [(_, _, IsValid, _); 5] = [
            ("generation.temperature", self.temperature, |t| t >= 0.0, "at least 0"),
            ("generation.top_p", self.top_p, is_share, "above 0 and at most 1"),
            ("generation.min_p", self.min_p, |p| (0.0..=1.0).contains(&p), "between 0 and 1"),
            ("generation.repetition_penalty", self.repetition_penalty, |p| p > 0.0, "above 0"),
            ("generation.length_penalty", self.length_penalty, |_| true, "finite"),
        ];
        for (key, value, is_valid, expected) in numbers {
            if let Some(value) = value
                && !(value.is_finite() && is_valid(value))
            {
                return invalid(key, format!("must be {expected}, got {value}"));
            }
        }
        for (key, value) in [
            ("generation.compression_ratio_threshold", self.compression_ratio_threshold),
            ("generation.logprob_threshold", self.logprob_threshold),
            ("generation.no_speech_threshold", self.no_speech_threshold),
        ] {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return invalid(key, format!("must be finite, got {value}"));
            }
        }
        let is_temperature = |t: &f32| t.is_finite() && *t >= 0.0;
        if let Some(t) = self.fallback_temperatures.iter().find(|t| !is_temperature(t)) {
            let problem = format!("must contain only values of at least 0, got {t}");
            return invalid("generation.fallback_temperatures", problem);
        }
        if self.stop.iter().any(String::is_empty) {
            let problem = "must not contain an empty string";
            return invalid("generation.stop", problem.to_owned());
        }
        Ok(())
    }
}

impl GenerationOptions {
    /// Returns the first set key that is only for `task.long_audio = "sequential"`.
    pub(super) fn sequential_key(&self) -> Option<&'static str> {
        let keys = [
            ("generation.condition_on_prev_tokens", self.condition_on_prev_tokens.is_some()),
            ("generation.fallback_temperatures", !self.fallback_temperatures.is_empty()),
            ("generation.compression_ratio_threshold", self.compression_ratio_threshold.is_some()),
            ("generation.logprob_threshold", self.logprob_threshold.is_some()),
            ("generation.no_speech_threshold", self.no_speech_threshold.is_some()),
        ];
        keys.into_iter().find_map(|(key, is_set)| is_set.then_some(key))
    }
}

fn is_share(value: f32) -> bool {
    value > 0.0 && value <= 1.0
}
