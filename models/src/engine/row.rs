//! A prompt between admission and its end, and what it has been continued with so far.

use super::{FinishReason, Generation, Prompt, constraints::History, sampler::RowRandom};

/// A row of the engine. It holds as many slots of the decoder as there are beams.
pub(super) struct Row {
    pub(super) ticket: u64,
    /// Held until the row is prefilled.
    pub(super) prompt: Option<Prompt>,
    pub(super) n_prompt: usize,
    /// The tokens of the prompt and those that its encoder was given.
    pub(super) n_given: usize,
    pub(super) max_new_tokens: usize,
    pub(super) random: RowRandom,
    /// What may still go on, the best first, each in a slot of its own; one without beams.
    pub(super) live: Vec<Hypothesis>,
    /// What has ended, the best first; empty without beams.
    pub(super) ended: Vec<Ended>,
    /// Whether what may go on can still become better than what has ended.
    pub(super) can_improve: bool,
    /// How many of the row's slots are full.
    pub(super) n_full: usize,
}

/// A continuation of a row's prompt.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    /// The prompt's tokens and those generated.
    pub(super) token_ids: Vec<i64>,
    /// Sum of the natural log probabilities of those generated, as the model has them.
    pub(super) logprob_sum: f64,
    /// The same after constraints: what beams are compared by.
    pub(super) score: f32,
    /// Which of the row's slots holds what this one continues.
    pub(super) parent: usize,
}

/// A continuation that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// Score under the length penalty.
    pub(super) score: f32,
    pub(super) hypothesis: Hypothesis,
    pub(super) reason: FinishReason,
}

impl Row {
    pub(super) fn new(ticket: u64, prompt: Prompt, max_new_tokens: usize, row_seed: u64) -> Self {
        let token_ids = prompt.token_ids().to_vec();
        Self {
            ticket,
            n_prompt: token_ids.len(),
            n_given: prompt.n_given(),
            max_new_tokens,
            random: RowRandom::new(row_seed),
            live: vec![Hypothesis { token_ids, logprob_sum: 0.0, score: 0.0, parent: 0 }],
            ended: Vec::new(),
            can_improve: true,
            n_full: 1,
            prompt: Some(prompt),
        }
    }

    /// Returns what constraints may know of one of the row's hypotheses.
    pub(super) fn history<'h>(&self, hypothesis: &'h Hypothesis) -> History<'h> {
        let (n_prompt, max_new_tokens) = (self.n_prompt, self.max_new_tokens);
        History { token_ids: &hypothesis.token_ids, n_prompt, max_new_tokens }
    }

    /// Returns the number of tokens generated so far.
    pub(super) fn n_generated(&self) -> usize {
        self.live.first().map_or(0, |hypothesis| hypothesis.token_ids.len() - self.n_prompt)
    }
}

impl Hypothesis {
    /// Makes the generation of a row whose prompt has `n_prompt` tokens; `text` makes it of those and of
    /// the answer's.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a mean for a report; counts are small"
    )]
    pub(super) fn into_generation(
        mut self,
        n_prompt: usize,
        finish_reason: FinishReason,
        text: impl FnOnce(&[i64], &[i64]) -> String,
    ) -> Generation {
        let token_ids = self.token_ids.split_off(n_prompt);
        let logprob_mean = (self.logprob_sum / token_ids.len() as f64) as f32;
        let text = text(&self.token_ids, &token_ids);
        Generation { token_ids, text, finish_reason, n_prompt_tokens: n_prompt, logprob_mean }
    }
}
