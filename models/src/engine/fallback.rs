//! Temperature fallback: poor answers are retried at higher temperatures. This is how Whisper
//! avoids loops and hallucinations.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};

use super::{
    Engine, FinishReason, Generation,
    engine::RowResult,
    row::Hypothesis,
    sampler::{self, probability},
};

/// The criteria of a good answer, and the temperatures for retries.
///
/// # Source
///
/// `WhisperGenerationMixin.generate_with_fallback` and `_need_fallback` of transformers 4.57.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// The temperatures of the retries, in order. The answer of the last retry is accepted as it
    /// is.
    pub temperatures: Vec<f32>,
    /// The maximum compression ratio of a good answer's tokens. A repetitive answer has a higher
    /// one.
    pub compression_ratio_max: Option<f64>,
    /// The minimum mean log probability of a good answer's tokens, among the allowed tokens.
    pub logprob_min: Option<f64>,
    /// The criteria for input without speech, whose answer is not retried.
    pub silence: Option<Silence>,
    /// The size of the vocabulary.
    pub vocab_size: usize,
}

/// The criteria for input without speech: an unlikely answer and a high no-speech probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Silence {
    /// The no-speech token.
    pub token_id: i64,
    /// The number of trailing prompt tokens, starting with the one whose logits give the no-speech
    /// probability.
    pub n_start_tokens: usize,
    /// The maximum probability of the no-speech token for input with speech.
    pub probability_max: f64,
}

/// The attempt whose answer was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trial {
    /// The sampling temperature; 0 is greedy decoding.
    pub temperature: f32,
    /// Whether the input has no speech, so that the answer is empty.
    pub is_silence: bool,
    /// The prompt token that the model chose itself, if there is one.
    pub chosen_id: Option<i64>,
}

/// The quality of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The answer is good enough.
    Good,
    /// A retry may give a better answer.
    Poor,
    /// The answer is so unlikely that the input may have no speech.
    Unlikely,
}

impl Fallback {
    /// Judges an answer, given `token_ids` (end token included) and the sum of their log
    /// probabilities among the allowed tokens.
    #[expect(clippy::cast_precision_loss, reason = "answers have hundreds of tokens")]
    pub(super) fn judge(&self, token_ids: &[i64], logprob_sum: f64) -> Verdict {
        let logprob_mean = logprob_sum / token_ids.len().max(1) as f64;
        let is_unlikely = self.logprob_min.is_some_and(|least| logprob_mean < least);
        if is_unlikely && self.silence.is_some() {
            return Verdict::Unlikely;
        }
        let repeats = self
            .compression_ratio_max
            .is_some_and(|most| compression_ratio(token_ids, self.vocab_size) > most);
        if is_unlikely || repeats { Verdict::Poor } else { Verdict::Good }
    }

    /// Returns whether the input of an unlikely answer has no speech, given its no-speech
    /// probability `silence`.
    pub(super) fn is_silence(&self, silence: f64) -> bool {
        self.silence.as_ref().is_some_and(|rule| silence > rule.probability_max)
    }
}

/// Returns the sampling temperature of a row after `n_tries` attempts.
pub(super) fn temperature(first: f32, fallback: Option<&Fallback>, n_tries: usize) -> f32 {
    let further = |fallback: &Fallback| fallback.temperatures.get(n_tries.checked_sub(1)?).copied();
    fallback.and_then(further).unwrap_or(first)
}

impl Engine {
    /// Returns the result of a row whose answer has ended, or `None` if the row is retried.
    pub(super) fn judge_row(
        &mut self,
        row_slot: usize,
        hypothesis: Hypothesis,
        reason: FinishReason,
    ) -> Option<RowResult> {
        let logprob_sum = hypothesis.allowed_logprob_sum;
        let generation = self.generation(self.rows[row_slot].as_ref()?, hypothesis, reason);
        let row = self.rows[row_slot].as_mut()?;
        let was_single = row.is_single || self.beams.n_beams == 1;
        let temperature = temperature(self.temperature, self.fallback.as_ref(), row.n_tries);
        let mut trial = Trial { temperature, is_silence: false, chosen_id: row.chosen_id };
        let Some(fallback) = &self.fallback else {
            return Some(Ok(Generation { trial, ..generation }));
        };
        let mut verdict = fallback.judge(&generation.token_ids, logprob_sum);
        if let (Verdict::Unlikely, Some(silence), Some(prompt)) =
            (verdict, &fallback.silence, &row.kept_prompt)
        {
            let n_tokens = (prompt.n_tokens() + 1).saturating_sub(silence.n_start_tokens).max(1);
            if let Err(error) = self.decoder.peek(prompt, n_tokens, &mut self.peeked) {
                return Some(Err(error.into()));
            }
            let mut probability = probability(self.peeked.row(0), silence.token_id);
            if silence.n_start_tokens == 1 {
                // These are the first logits of the answer, which transformers reads after
                // suppression. Published configs suppress the no-speech token, so no input counts
                // as silent. With beams, transformers does not renormalize after suppression.
                self.constraints.suppress_first(self.peeked.row_mut(0));
                let weighed = sampler::probability(self.peeked.row(0), silence.token_id);
                if was_single || weighed == 0.0 {
                    probability = weighed;
                }
            }
            trial.is_silence = fallback.is_silence(probability);
            verdict = if trial.is_silence { Verdict::Good } else { Verdict::Poor };
        }
        if verdict == Verdict::Good || row.n_tries == fallback.temperatures.len() {
            return Some(Ok(Generation { trial, ..generation }));
        }
        row.restart();
        let first = row_slot * self.beams.n_beams;
        (first..first + self.beams.n_beams).for_each(|slot| self.decoder.release(slot));
        None
    }
}

/// Returns the compression ratio of token IDs under `zlib` at level 6. Each ID takes as many
/// little-endian bytes as the vocabulary size needs.
///
/// # Source
///
/// `WhisperGenerationMixin._retrieve_compression_ratio`. Compressed sizes differ by a few bytes
/// between zlib implementations.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "answers have hundreds of tokens, vocabularies fewer than 2^52"
)]
fn compression_ratio(token_ids: &[i64], vocab_size: usize) -> f64 {
    let n_bytes = ((vocab_size.max(1) as f64).log2() / 8.0) as usize + 1;
    let id_bytes = |id: &i64| id.to_le_bytes().into_iter().take(n_bytes);
    let bytes: Vec<u8> = token_ids.iter().flat_map(id_bytes).collect();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    // Writing to memory cannot fail; an empty result would only mean a low ratio.
    let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    bytes.len() as f64 / written.map_or(1.0, |compressed| compressed.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitive_tokens_have_a_high_compression_ratio() {
        let loops: Vec<i64> = [7, 300, 51_000].into_iter().cycle().take(90).collect();
        let varied: Vec<i64> = (0..90).map(|n| n * n * 6 % 51_865).collect();
        // 180 bytes; Python's `zlib.compress` shrinks the first input to 17.
        let ratio = compression_ratio(&loops, 51_865);
        assert!((8.0..13.0).contains(&ratio), "{ratio}");
        let ratio = compression_ratio(&varied, 51_865);
        assert!(ratio < 1.1, "{ratio}");
    }

    #[test]
    fn an_answer_is_poor_if_it_is_unlikely_or_repetitive() {
        let rules = Fallback {
            temperatures: vec![0.5],
            compression_ratio_max: Some(2.0),
            logprob_min: Some(-1.0),
            silence: None,
            vocab_size: 1000,
        };
        let varied: Vec<i64> = (0..40).map(|n| n * n * 7 % 1000).collect();
        assert_eq!(rules.judge(&varied, -20.0), Verdict::Good);
        assert_eq!(rules.judge(&varied, -60.0), Verdict::Poor);
        assert_eq!(rules.judge(&[3; 40], -20.0), Verdict::Poor);
        let silence = Silence { token_id: 1, n_start_tokens: 3, probability_max: 0.6 };
        let rules = Fallback { silence: Some(silence), ..rules };
        assert_eq!(rules.judge(&varied, -60.0), Verdict::Unlikely);
        assert_eq!(rules.judge(&[3; 40], -20.0), Verdict::Poor, "the answer has speech");
        assert!(rules.is_silence(0.7) && !rules.is_silence(0.5));
    }
}
