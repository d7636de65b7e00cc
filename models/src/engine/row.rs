//! A row of the engine, from admission to its result, with its hypotheses.

use std::sync::Arc;

use super::{
    FinishReason, Generation, Prompt, Subject, Trial, constraints::History, sampler::RowRandom,
    typed::Typed,
};

/// A row of the engine. It has one decoder slot per beam.
pub(super) struct Row {
    pub(super) ticket: u64,
    /// The number of rows admitted before this one.
    pub(super) number: u64,
    /// The index of the decoder adapter.
    pub(super) adapter: Option<usize>,
    /// The prompt, until the row is prefilled.
    pub(super) prompt: Option<Prompt>,
    /// The prompt, until the row ends, if its answer may be retried.
    pub(super) kept_prompt: Option<Prompt>,
    /// The number of earlier attempts.
    pub(super) n_tries: usize,
    /// Whether the row is decoded without beams.
    pub(super) is_single: bool,
    /// The prompt token that the model chose.
    pub(super) chosen_id: Option<i64>,
    pub(super) n_prompt: usize,
    /// The context of the answer.
    pub(super) subject: Option<Arc<Subject>>,
    /// The number of prompt tokens, including those of its encoder.
    pub(super) n_given: usize,
    pub(super) max_new_tokens: usize,
    pub(super) random: RowRandom,
    /// The live hypotheses, best first, each in its own slot; one without beams.
    pub(super) live: Vec<Hypothesis>,
    /// The finished hypotheses, best first; empty without beams.
    pub(super) ended: Vec<Ended>,
    /// Whether a live hypothesis can still beat the finished ones.
    pub(super) can_improve: bool,
    /// The number of the row's slots in use.
    pub(super) n_full: usize,
    /// The state of a typed answer, after its first token.
    pub(super) typed: Option<Typed>,
}

/// A hypothesis: the prompt and the tokens generated after it.
#[derive(Clone, Debug)]
pub(super) struct Hypothesis {
    /// The prompt tokens, then the generated ones.
    pub(super) token_ids: Vec<i64>,
    /// The sum of the natural log probabilities of the generated tokens under the model.
    pub(super) logprob_sum: f64,
    /// The same sum among the allowed tokens, kept where the fallback needs it.
    pub(super) allowed_logprob_sum: f64,
    /// The same sum after the constraints, by which beams are compared.
    pub(super) score: f32,
    /// The rank of the slot that holds the KV cache of this hypothesis.
    pub(super) parent: usize,
}

/// A finished hypothesis.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// The length-penalized score.
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
            live: vec![Hypothesis::from_prompt(&prompt)],
            ended: Vec::new(),
            can_improve: true,
            n_full: 1,
            prompt: Some(prompt),
            kept_prompt: None,
            n_tries: 0,
            is_single: prompt_is_single,
            chosen_id: None,
            typed: None,
        }
    }

    /// Fills in the prompt token that the model chose.
    pub(super) fn choose(&mut self, token_id: i64) {
        if let Some(prompt) = self.prompt.take() {
            let prompt = prompt.chosen(token_id);
            self.live = vec![Hypothesis::from_prompt(&prompt)];
            self.prompt = Some(prompt);
            self.chosen_id = Some(token_id);
        }
    }

    /// Restarts the answer without beams, if the row has kept its prompt. The random stream
    /// continues.
    pub(super) fn restart(&mut self) {
        if let Some(prompt) = &self.kept_prompt {
            self.live = vec![Hypothesis::from_prompt(prompt)];
            self.prompt = Some(prompt.clone());
            self.n_tries += 1;
            self.is_single = true;
            self.ended.clear();
            self.can_improve = true;
            self.n_full = 1;
        }
    }

    /// Returns the input of the constraints for one hypothesis of the row.
    pub(super) fn history<'h>(&self, hypothesis: &'h Hypothesis) -> History<'h> {
        let (n_prompt, max_new_tokens) = (self.n_prompt, self.max_new_tokens);
        History { token_ids: &hypothesis.token_ids, n_prompt, max_new_tokens }
    }

    /// Returns the maximum number of tokens of the row, prompt and answer together.
    pub(super) fn tokens_max(&self) -> usize {
        self.n_prompt + self.max_new_tokens
    }

    /// Returns the number of tokens generated so far.
    pub(super) fn n_generated(&self) -> usize {
        self.live.first().map_or(0, |hypothesis| hypothesis.token_ids.len() - self.n_prompt)
    }
}

impl Hypothesis {
    /// Creates the hypothesis of a prompt without generated tokens.
    fn from_prompt(prompt: &Prompt) -> Self {
        let token_ids = prompt.token_ids().to_vec();
        Self { token_ids, logprob_sum: 0.0, allowed_logprob_sum: 0.0, score: 0.0, parent: 0 }
    }

    /// Builds the generation of a row whose prompt has `n_prompt` tokens; `text` decodes the prompt
    /// tokens and those of the answer.
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
