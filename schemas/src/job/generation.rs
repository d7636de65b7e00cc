//! How a job wants answers decoded.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    JobError,
    strings::{OneOrSeveral, one_or_several},
};

/// How answers are decoded. What is left out is as the model's generation config says, else as
/// transformers has it; names are those of transformers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GenerationOptions {
    /// The most tokens of an answer; 128 where the model has no limit either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    /// The fewest tokens of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_new_tokens: Option<usize>,
    /// 0 takes the likeliest token; above, tokens are drawn. Where the model does not ask for draws
    /// (`do_sample`), 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Draws only from this many likeliest tokens; 0 is all, and 50 where the model says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Draws only from the likeliest tokens that together have this probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Draws only from tokens at least this share as likely as the likeliest; 0 is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Makes tokens that stand in prompt or answer less likely: above 1; 1 changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    /// Lets no run of so many tokens come twice; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
    /// How many continuations of a row are weighed against each other; 1 is none but the one. Takes as
    /// many times the memory, and goes with temperature 0 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_beams: Option<usize>,
    /// Among beams: above 0 favours long answers, below 0 short ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f32>,
    /// Of a sound that is heard window by window (`task.long_audio = "sequential"`): whether the model
    /// is told what was said before a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition_on_prev_tokens: Option<bool>,
    /// The temperatures at which a window is heard again, one after another, while its transcript is
    /// not good enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback_temperatures: Vec<f32>,
    /// A transcript whose tokens become more times smaller than this when they are compressed
    /// repeats itself, and is not good enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_ratio_threshold: Option<f64>,
    /// Nor is one whose mean log probability is below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprob_threshold: Option<f64>,
    /// A window is silence if its transcript is below that threshold, and the model says that nobody
    /// speaks with a probability above this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_speech_threshold: Option<f64>,
    /// The seed of the draws, with the row's identity.
    pub seed: u64,
    /// Texts that end an answer; they are not part of it.
    #[serde(deserialize_with = "one_or_several")]
    #[schemars(with = "OneOrSeveral")]
    pub stop: Vec<String>,
}

impl GenerationOptions {
    /// Refuses what cannot be meant.
    pub(super) fn validate(&self) -> Result<(), JobError> {
        let refuse = |key, problem: String| Err(JobError::Value { key, problem });
        for (key, value) in [
            ("generation.max_new_tokens", self.max_new_tokens),
            ("generation.num_beams", self.num_beams),
        ] {
            if value == Some(0) {
                return refuse(key, "is 0: write a number above 0".to_owned());
            }
        }
        type Fits = fn(f32) -> bool;
        let numbers: [(_, _, Fits, _); 5] = [
            ("generation.temperature", self.temperature, |t| t >= 0.0, "0 or more"),
            ("generation.top_p", self.top_p, is_share, "a share above 0, up to 1"),
            ("generation.min_p", self.min_p, |p| (0.0..=1.0).contains(&p), "a share from 0 to 1"),
            ("generation.repetition_penalty", self.repetition_penalty, |p| p > 0.0, "more than 0"),
            ("generation.length_penalty", self.length_penalty, |_| true, "a number"),
        ];
        for (key, value, fits, expected) in numbers {
            if let Some(value) = value
                && !(value.is_finite() && fits(value))
            {
                return refuse(key, format!("is {value}: write {expected}"));
            }
        }
        for (key, value) in [
            ("generation.compression_ratio_threshold", self.compression_ratio_threshold),
            ("generation.logprob_threshold", self.logprob_threshold),
            ("generation.no_speech_threshold", self.no_speech_threshold),
        ] {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return refuse(key, format!("is {value}: write a number"));
            }
        }
        let is_temperature = |t: &f32| t.is_finite() && *t >= 0.0;
        if let Some(t) = self.fallback_temperatures.iter().find(|t| !is_temperature(t)) {
            let problem = format!("holds {t}: write temperatures of 0 or more");
            return refuse("generation.fallback_temperatures", problem);
        }
        if self.stop.iter().any(String::is_empty) {
            return refuse("generation.stop", "holds an empty text: remove it".to_owned());
        }
        Ok(())
    }
}

impl GenerationOptions {
    /// Returns the first key that is set and is about sounds heard window by window.
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
