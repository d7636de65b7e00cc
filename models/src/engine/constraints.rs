//! Constraints of the generation config on the logits: suppressed, forced and penalized tokens.

use super::TimestampRules;

/// The constraints of one engine, in the order in which transformers applies them
/// (`GenerationMixin._get_logits_processor`, 4.57).
///
/// A disabled constraint costs nothing. All are disabled by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraints {
    /// Divides the positive scores and multiplies the negative scores of tokens that occur in the
    /// prompt or the answer; 1 disables it (`repetition_penalty`).
    pub repetition_penalty: f32,
    /// Forbids any n-gram of this size to occur twice, prompt included; 0 disables it
    /// (`no_repeat_ngram_size`).
    pub no_repeat_ngram_tokens: usize,
    /// Token sequences that are forbidden (`bad_words_ids`).
    pub bad_words: Vec<Vec<i64>>,
    /// Forbids end tokens until prompt and answer together have this many tokens (`min_length`).
    pub min_tokens: usize,
    /// Forbids end tokens until the answer has this many tokens (`min_new_tokens`).
    pub min_new_tokens: usize,
    /// The token forced after a prompt of one token (`forced_bos_token_id`).
    pub forced_first: Option<i64>,
    /// The tokens allowed at the last position before the length limit (`forced_eos_token_id`).
    pub forced_last: Vec<i64>,
    /// Tokens that are forbidden (`suppress_tokens`).
    pub suppressed: Vec<i64>,
    /// Tokens that are forbidden as the first token, or as the second if the first is forced
    /// (`begin_suppress_tokens`).
    pub suppressed_first: Vec<i64>,
    /// The rules for timestamp tokens, for answers that have them.
    pub timestamps: Option<TimestampRules>,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            no_repeat_ngram_tokens: 0,
            bad_words: Vec::new(),
            min_tokens: 0,
            min_new_tokens: 0,
            forced_first: None,
            forced_last: Vec::new(),
            suppressed: Vec::new(),
            suppressed_first: Vec::new(),
            timestamps: None,
        }
    }
}

/// The tokens of a row and its length limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct History<'a> {
    /// The prompt tokens, then the generated ones.
    pub(super) token_ids: &'a [i64],
    /// The number of prompt tokens.
    pub(super) n_prompt: usize,
    /// The maximum number of generated tokens.
    pub(super) max_new_tokens: usize,
}

impl Constraints {
    /// Returns whether all constraints are disabled.
    pub(super) fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Applies the constraints to the logits (`[V]`) of the next token; forbidden tokens become
    /// -inf.
    pub(super) fn apply(&self, row: &History<'_>, eos_token_ids: &[i64], scores: &mut [f32]) {
        let n_generated = row.token_ids.len() - row.n_prompt;
        self.penalize_repetition(row.token_ids, scores);
        self.forbid_repeated_ngrams(row.token_ids, scores);
        self.forbid_bad_words(row.token_ids, eos_token_ids, scores);
        if row.token_ids.len() < self.min_tokens || n_generated < self.min_new_tokens {
            forbid(eos_token_ids, scores);
        }
        if row.token_ids.len() == 1
            && let Some(token_id) = self.forced_first
        {
            force(&[token_id], scores);
        }
        if !self.forced_last.is_empty() && n_generated + 1 == row.max_new_tokens {
            force(&self.forced_last, scores);
        }
        forbid(&self.suppressed, scores);
        let first = usize::from(row.n_prompt == 1 && self.forced_first.is_some());
        if n_generated == first {
            forbid(&self.suppressed_first, scores);
        }
        if let Some(rules) = &self.timestamps {
            rules.apply(&row.token_ids[row.n_prompt..], eos_token_ids, scores);
        }
    }

    /// Applies only `suppressed` and `suppressed_first`.
    pub(super) fn suppress_first(&self, scores: &mut [f32]) {
        forbid(&self.suppressed, scores);
        forbid(&self.suppressed_first, scores);
    }

    #[expect(clippy::float_cmp, reason = "exactly 1 is off")]
    fn penalize_repetition(&self, token_ids: &[i64], scores: &mut [f32]) {
        if self.repetition_penalty == 1.0 {
            return;
        }
        let mut seen = token_ids.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for token_id in seen {
            if let Some(score) = score_of(token_id, scores) {
                let is_negative = *score < 0.0;
                let penalty = self.repetition_penalty;
                *score = if is_negative { *score * penalty } else { *score / penalty };
            }
        }
    }

    fn forbid_repeated_ngrams(&self, token_ids: &[i64], scores: &mut [f32]) {
        let n_tokens = self.no_repeat_ngram_tokens;
        if n_tokens == 0 || token_ids.len() + 1 < n_tokens {
            return;
        }
        let head = &token_ids[token_ids.len() + 1 - n_tokens..];
        for ngram in token_ids.windows(n_tokens) {
            if let Some((last, before)) = ngram.split_last()
                && before == head
            {
                forbid(&[*last], scores);
            }
        }
    }

    fn forbid_bad_words(&self, token_ids: &[i64], eos_token_ids: &[i64], scores: &mut [f32]) {
        for word in &self.bad_words {
            let Some((last, before)) = word.split_last() else { continue };
            // A lone end token does not count as a word, and a longer word needs its whole length
            // before it, as in `NoBadWordsLogitsProcessor`.
            let is_word = !(before.is_empty() && eos_token_ids.contains(last));
            let has_room = before.is_empty() || word.len() <= token_ids.len();
            if is_word && has_room && token_ids.ends_with(before) {
                forbid(&[*last], scores);
            }
        }
    }
}

/// Returns the score of a token, or `None` if the ID is outside the vocabulary.
fn score_of(token_id: i64, scores: &mut [f32]) -> Option<&mut f32> {
    usize::try_from(token_id).ok().and_then(|idx| scores.get_mut(idx))
}

fn forbid(token_ids: &[i64], scores: &mut [f32]) {
    for token_id in token_ids {
        if let Some(score) = score_of(*token_id, scores) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn force(token_ids: &[i64], scores: &mut [f32]) {
    scores.fill(f32::NEG_INFINITY);
    for token_id in token_ids {
        if let Some(score) = score_of(*token_id, scores) {
            *score = 0.0;
        }
    }
}
