//! A prompt between admission and its end, and what it has been continued with so far.

use std::sync::Arc;

use super::{
    FinishReason, Generation, Prompt, Subject, Trial, constraints::History, sampler::RowRandom,
};

/// A row of the engine. It holds as many slots of the decoder as there are beams.
pub(super) struct Row {
    pub(super) ticket: u64,
    /// How many rows were admitted before this one.
    pub(super) number: u64,
    /// The adapter that it is run with.
    pub(super) adapter: Option<usize>,
    /// Held until the row is prefilled.
    pub(super) prompt: Option<Prompt>,
    /// Held until the row ends, where its answer may have to be tried again.
    pub(super) kept_prompt: Option<Prompt>,
    /// The tries before this one.
    pub(super) n_tries: usize,
    /// Whether it goes without beams.
    pub(super) is_single: bool,
    /// The token of the prompt that the model chose.
    pub(super) chosen_id: Option<i64>,
    pub(super) n_prompt: usize,
    /// What the answer is about.
    pub(super) subject: Option<Arc<Subject>>,
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
    /// The same among the tokens that were allowed; kept where answers are judged by it.
    pub(super) allowed_logprob_sum: f64,
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
    pub(super) fn new(
        (number, ticket): (u64, u64),
        prompt: Prompt,
        max_new_tokens: usize,
        row_seed: u64,
    ) -> Self {
        let prompt_is_single = prompt.is_single();
        Self {
            ticket,
            number,
            adapter: prompt.adapter(),
            n_prompt: prompt.n_tokens(),
            subject: prompt.subject(),
            n_given: prompt.n_given(),
            max_new_tokens,
            random: RowRandom::new(row_seed),
            live: vec![Hypothesis::of(&prompt)],
            ended: Vec::new(),
            can_improve: true,
            n_full: 1,
            prompt: Some(prompt),
            kept_prompt: None,
            n_tries: 0,
            is_single: prompt_is_single,
            chosen_id: None,
        }
    }

    /// Fills in the token of the prompt that the model chose.
    pub(super) fn choose(&mut self, token_id: i64) {
        if let Some(prompt) = self.prompt.take() {
            let prompt = prompt.chosen(token_id);
            self.live = vec![Hypothesis::of(&prompt)];
            self.prompt = Some(prompt);
            self.chosen_id = Some(token_id);
        }
    }

    /// Begins the answer anew, if the row has kept its prompt, without beams; its draws go on where they
    /// were.
    pub(super) fn try_again(&mut self) {
        if let Some(prompt) = &self.kept_prompt {
            self.live = vec![Hypothesis::of(prompt)];
            self.prompt = Some(prompt.clone());
            self.n_tries += 1;
            self.is_single = true;
            self.ended.clear();
            self.can_improve = true;
            self.n_full = 1;
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
    /// Returns a prompt that nothing continues yet.
    fn of(prompt: &Prompt) -> Self {
        let token_ids = prompt.token_ids().to_vec();
        Self { token_ids, logprob_sum: 0.0, allowed_logprob_sum: 0.0, score: 0.0, parent: 0 }
    }

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
        let trial = Trial::default();
        Generation {
            token_ids,
            text,
            finish_reason,
            n_prompt_tokens: n_prompt,
            logprob_mean,
            trial,
        }
    }
}
