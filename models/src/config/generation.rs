//! `generation_config.json`: the decoding defaults of a model.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{BundleError, TokenIds};

const FILE: &str = "generation_config.json";

/// `generation_config.json`, the same keys of `config.json` in models older than that file, or
/// `search` of `genai_config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GenerationConfig {
    pub(crate) eos_token_id: Option<TokenIds>,
    pub(crate) max_new_tokens: Option<usize>,
    /// The maximum length of prompt and answer together.
    pub(crate) max_length: Option<usize>,
    pub(crate) min_new_tokens: Option<usize>,
    pub(crate) min_length: Option<usize>,
    pub(crate) do_sample: Option<bool>,
    pub(crate) temperature: Option<f32>,
    pub(crate) top_k: Option<usize>,
    pub(crate) top_p: Option<f32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) no_repeat_ngram_size: Option<usize>,
    pub(crate) bad_words_ids: Option<Vec<Vec<i64>>>,
    pub(crate) forced_bos_token_id: Option<i64>,
    pub(crate) forced_eos_token_id: Option<TokenIds>,
    pub(crate) suppress_tokens: Option<Vec<i64>>,
    pub(crate) begin_suppress_tokens: Option<Vec<i64>>,
    pub(crate) num_beams: Option<usize>,
    pub(crate) length_penalty: Option<f32>,
    pub(crate) early_stopping: Option<EarlyStoppingConfig>,
    pub(crate) renormalize_logits: Option<bool>,
    pub(crate) condition_on_prev_tokens: Option<bool>,
    pub(crate) compression_ratio_threshold: Option<f64>,
    pub(crate) logprob_threshold: Option<f64>,
    pub(crate) no_speech_threshold: Option<f64>,
    /// All other keys.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `early_stopping`: a boolean, or `"never"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum EarlyStoppingConfig {
    /// `true` or `false`.
    Bool(bool),
    /// `"never"`.
    Word(EarlyStoppingWord),
}

/// The only string value of `early_stopping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EarlyStoppingWord {
    /// `"never"`.
    Never,
}

/// Unsupported keys that change answers, with the values that have no effect.
const UNSUPPORTED: [(&str, &[f64]); 12] = [
    ("diversity_penalty", &[0.0]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0, 1.0]),
    ("eta_cutoff", &[0.0, 1.0]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("guidance_scale", &[1.0]),
    ("num_beam_groups", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("sequence_bias", &[]),
    ("typical_p", &[1.0]),
];

impl GenerationConfig {
    /// Checks that no unsupported key changes answers.
    ///
    /// # Errors
    ///
    /// [`BundleError::UnsupportedOption`] names the key.
    pub(crate) fn check(&self) -> Result<(), BundleError> {
        let acts = |key: &str, off: &[f64]| {
            let value = self.rest.get(key).filter(|value| !value.is_null())?;
            let is_off = value.as_f64().is_some_and(|value| off.contains(&value));
            (!is_off).then(|| value.to_string())
        };
        for (key, off) in UNSUPPORTED {
            if let Some(value) = acts(key, off) {
                return Err(BundleError::UnsupportedOption {
                    file: FILE,
                    key: key.to_owned(),
                    value,
                    supported: "none, remove the key".to_owned(),
                });
            }
        }
        Ok(())
    }
}
