//! Answers that are tried again when they are not good enough, at higher temperatures: Whisper's
//! guard against loops and guesses.

use std::io::Write;

use flate2::{Compression, write::ZlibEncoder};

use super::{
    Engine, FinishReason, Generation, RowResult,
    row::Hypothesis,
    sampler::{self, probability},
};

/// When an answer is good enough, and what is tried when it is not.
///
/// # Source
///
/// `WhisperGenerationMixin.generate_with_fallback` and `_need_fallback` of transformers 4.57.
#[derive(Clone, Debug, PartialEq)]
pub struct Fallback {
    /// The temperatures of further tries, in their order; the last try is taken as it is.
    pub temperatures: Vec<f32>,
    /// How many times smaller the tokens of a good answer may become when they are compressed: an
    /// answer that repeats itself becomes smaller than that.
    pub compression_ratio_max: Option<f64>,
    /// The least mean log probability of a good answer's tokens, among those that were allowed.
    pub logprob_min: Option<f64>,
    /// What tells an input without speech, whose answer is not tried again.
    pub silence: Option<Silence>,
    /// Ids of tokens are below it.
    pub vocab_size: usize,
}

/// What tells an input in which nobody speaks: an unlikely answer, and a model that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Silence {
    /// The token that says that nobody speaks.
    pub token_id: i64,
    /// The tokens that a prompt ends with, from the one on after which the model may say so.
    pub n_start_tokens: usize,
    /// The greatest probability of that token in an input with speech.
    pub probability_max: f64,
}

/// Which try of an answer was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trial {
    /// The temperature at which it was drawn; 0 took the likeliest tokens.
    pub temperature: f32,
    /// Whether the input has no speech, so that the answer is none.
    pub is_silence: bool,
    /// The token of the prompt that the model chose itself, where there is one.
    pub chosen_id: Option<i64>,
}

/// What is thought of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is good enough.
    Good,
    /// Another try may be better.
    Poor,
    /// It is so unlikely that there may be nothing to write down.
    Unlikely,
}

impl Fallback {
    /// Judges an answer (`token_ids`, the end token included) whose tokens have log probabilities of
    /// `logprob_sum` together, among those that were allowed.
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

    /// Says what becomes of an unlikely answer to an input of which the model says that nobody speaks
    /// in it with a probability of `silence`.
    pub(super) fn is_silence(&self, silence: f64) -> bool {
        self.silence.as_ref().is_some_and(|rule| silence > rule.probability_max)
    }
}

/// Returns the temperature of a row that was tried `n_tries` times before.
pub(super) fn temperature(first: f32, fallback: Option<&Fallback>, n_tries: usize) -> f32 {
    let further = |fallback: &Fallback| fallback.temperatures.get(n_tries.checked_sub(1)?).copied();
    fallback.and_then(further).unwrap_or(first)
}

impl Engine {
    /// Returns what becomes of a row whose answer has ended; `None` where it is tried again.
    pub(super) fn judged(
        &mut self,
        place: usize,
        hypothesis: Hypothesis,
        reason: FinishReason,
    ) -> Option<RowResult> {
        let logprob_sum = hypothesis.allowed_logprob_sum;
        let generation = self.generation(self.rows[place].as_ref()?, hypothesis, reason);
        let row = self.rows[place].as_mut()?;
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
                // The answer's own first scores, which transformers reads after it has suppressed what
                // never comes: where that token is among it, as published, nothing is silence. With beams
                // they are not weighed anew.
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
        row.try_again();
        let first = place * self.beams.n_beams;
        (first..first + self.beams.n_beams).for_each(|slot| self.decoder.release(slot));
        None
    }
}

/// Returns how many times smaller token ids become when they are compressed (`zlib`, level 6), each
/// written in as many bytes as the vocabulary needs, the lowest first.
///
/// # Source
///
/// `WhisperGenerationMixin._retrieve_compression_ratio`. Libraries differ by some bytes in what they
/// make of the same input.
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
    // Writing to memory does not fail; an empty result would only mean that nothing is compressed.
    let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
    bytes.len() as f64 / written.map_or(1.0, |compressed| compressed.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_becomes_small() {
        let loops: Vec<i64> = [7, 300, 51_000].into_iter().cycle().take(90).collect();
        let varied: Vec<i64> = (0..90).map(|n| n * n * 6 % 51_865).collect();
        // 180 bytes; `zlib.compress` of Python makes 17 of the first.
        let ratio = compression_ratio(&loops, 51_865);
        assert!((8.0..13.0).contains(&ratio), "{ratio}");
        let ratio = compression_ratio(&varied, 51_865);
        assert!(ratio < 1.1, "{ratio}");
    }

    #[test]
    fn an_answer_is_poor_if_it_is_unlikely_or_repeats_itself() {
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
        assert_eq!(rules.judge(&[3; 40], -20.0), Verdict::Poor, "it says something");
        assert!(rules.is_silence(0.7) && !rules.is_silence(0.5));
    }
}
