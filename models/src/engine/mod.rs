//! Continuous batching: prompts enter free slots, all full slots take a step together, a finished
//! slot is free at once. Knows no model family and no runtime.
//!
//! An answer depends on its prompt, its row seed and the options only: every row has its own
//! random stream, and no rule looks at another row. What a [`Decoder`] computes for a row must not
//! depend on the other rows either; see `family` for how that is kept.

mod decoder;
mod generation;
mod prompt;
mod sampler;
mod schedule;
mod stop;

use std::{fmt, sync::Arc};

pub use decoder::{DecodeError, Decoder, Detokenizer, Join, Logits, StepRow};
pub use generation::{FinishReason, Finished, GenerateError, Generation};
pub use prompt::Prompt;
pub use sampler::Sampling;
pub use stop::Guard;

use sampler::{RowRandom, Sampler};
use stop::StopRules;

/// What an engine needs to know besides the decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Any of these ends an answer.
    pub eos_token_ids: Vec<i64>,
    /// The most tokens of an answer, the end token included; at least 1.
    pub max_new_tokens: usize,
    /// Any of these strings ends an answer and is cut off.
    pub stop_strings: Vec<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What counts as a loop.
    pub guard: Guard,
}

/// A prompt that found no free slot, given back. Ask [`Engine::free_slots`] first.
#[derive(Debug)]
pub struct Full(pub Prompt);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every slot is taken")
    }
}

impl std::error::Error for Full {}

/// A row between admission and its end.
struct Row {
    ticket: u64,
    /// Held until the row is prefilled.
    prompt: Option<Prompt>,
    n_prompt_tokens: usize,
    token_ids: Vec<i64>,
    logprob_sum: f64,
    random: RowRandom,
}

/// The scheduler above one decoder.
pub struct Engine {
    decoder: Box<dyn Decoder>,
    detokenizer: Arc<dyn Detokenizer>,
    rules: StopRules,
    sampler: Sampler,
    /// One place per slot of the decoder.
    rows: Vec<Option<Row>>,
    n_taken: usize,
    logits: Logits,
    n_steps: u64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("slots", &self.rows.len())
            .field("taken", &self.n_taken)
            .field("steps", &self.n_steps)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Puts an engine above `decoder`, whose slots must all be free.
    #[must_use]
    pub fn new(
        decoder: Box<dyn Decoder>,
        detokenizer: Arc<dyn Detokenizer>,
        options: EngineOptions,
    ) -> Self {
        let rows = std::iter::repeat_with(|| None).take(decoder.slots()).collect();
        Self {
            decoder,
            detokenizer,
            rules: StopRules {
                eos_token_ids: options.eos_token_ids,
                stop_strings: options.stop_strings,
                max_new_tokens: options.max_new_tokens.max(1),
                guard: options.guard,
            },
            sampler: Sampler::new(options.sampling),
            rows,
            n_taken: 0,
            logits: Logits::default(),
            n_steps: 0,
        }
    }

    /// Returns the number of slots, free or not.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.rows.len()
    }

    /// Returns how many prompts can be admitted now.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.rows.len() - self.n_taken
    }

    /// Returns whether no row is in the engine, so that a step would do nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.n_taken == 0
    }

    /// Returns the most tokens a prompt and its answer may have together.
    #[must_use]
    pub fn context_tokens(&self) -> usize {
        self.decoder.context_tokens()
    }

    /// Returns how many decode steps were taken, for metrics.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Puts a prompt in a free slot; the next [`step`](Self::step) prefills it.
    ///
    /// `ticket` comes back with the result. `row_seed` is the row's own random stream: derive it
    /// from the job's seed and the row's identity, never from order.
    ///
    /// # Errors
    ///
    /// [`Full`], with the prompt, if no slot is free. A prompt that cannot be answered is admitted
    /// and comes back from the next step as an error of its ticket.
    pub fn admit(&mut self, ticket: u64, prompt: Prompt, row_seed: u64) -> Result<(), Full> {
        let Some(place) = self.rows.iter_mut().find(|place| place.is_none()) else {
            return Err(Full(prompt));
        };
        *place = Some(Row {
            ticket,
            n_prompt_tokens: prompt.n_tokens(),
            prompt: Some(prompt),
            token_ids: Vec::new(),
            logprob_sum: 0.0,
            random: RowRandom::new(row_seed),
        });
        self.n_taken += 1;
        Ok(())
    }

    /// Moves every row on by at least one token and returns those that are done.
    ///
    /// Rows admitted since the last call are prefilled first and then step with the others. A
    /// decoder call that fails is repeated on halves of its rows, down to one, and only the rows
    /// that fail alone come back as errors.
    pub fn step(&mut self) -> Vec<Finished> {
        let mut finished = Vec::new();
        self.prefill_joined(&mut finished);
        self.step_live(&mut finished);
        finished
    }

    fn prefill_joined(&mut self, finished: &mut Vec<Finished>) {
        let at_work = |row: &&Row| row.prompt.is_none();
        if !self.decoder.joins_now(self.rows.iter().flatten().filter(at_work).count()) {
            return;
        }
        let tokens_max = self.decoder.context_tokens().saturating_sub(1);
        let mut joined: Vec<(usize, usize)> = Vec::new();
        for slot in 0..self.rows.len() {
            let Some(row) = &self.rows[slot] else { continue };
            if row.prompt.is_none() {
                continue;
            }
            match row.n_prompt_tokens {
                0 => self.finish(slot, Err(GenerateError::EmptyPrompt), finished),
                n_tokens if n_tokens > tokens_max => {
                    let error = GenerateError::PromptTooLong { n_tokens, max_tokens: tokens_max };
                    self.finish(slot, Err(error), finished);
                }
                n_tokens => joined.push((slot, n_tokens)),
            }
        }
        for group in schedule::prefill_groups(joined, self.decoder.prefill_rows_max()) {
            let mut prompts: Vec<(usize, Prompt)> = Vec::with_capacity(group.len());
            for slot in group {
                if let Some(row) = &mut self.rows[slot]
                    && let Some(prompt) = row.prompt.take()
                {
                    prompts.push((slot, prompt));
                }
            }
            self.prefill_group(&prompts, finished);
        }
    }

    fn prefill_group(&mut self, prompts: &[(usize, Prompt)], finished: &mut Vec<Finished>) {
        let joins: Vec<Join<'_>> =
            prompts.iter().map(|(slot, prompt)| Join { slot: *slot, prompt }).collect();
        if joins.is_empty() {
            return;
        }
        match self.decoder.prefill(&joins, &mut self.logits) {
            Ok(()) => {
                for (row_idx, join) in joins.iter().enumerate() {
                    self.take_token(join.slot, row_idx, finished);
                }
            }
            Err(error) if joins.len() == 1 => {
                self.finish(joins[0].slot, Err(error.into()), finished);
            }
            Err(error) => {
                tracing::warn!(
                    rows = joins.len(),
                    code = error.code(),
                    "prefill failed, will split"
                );
                let (left, right) = prompts.split_at(prompts.len() / 2);
                self.prefill_group(left, finished);
                self.prefill_group(right, finished);
            }
        }
    }

    fn step_live(&mut self, finished: &mut Vec<Finished>) {
        let live: Vec<StepRow> = self
            .rows
            .iter()
            .enumerate()
            .filter_map(|(slot, row)| {
                let token_id = *row.as_ref()?.token_ids.last()?;
                Some(StepRow { slot, token_id })
            })
            .collect();
        if !live.is_empty() {
            self.n_steps += 1;
            self.step_rows(&live, finished);
        }
    }

    fn step_rows(&mut self, rows: &[StepRow], finished: &mut Vec<Finished>) {
        match self.decoder.step(rows, &mut self.logits) {
            Ok(()) => {
                for (row_idx, row) in rows.iter().enumerate() {
                    self.take_token(row.slot, row_idx, finished);
                }
            }
            Err(error) => match rows {
                [row] => self.finish(row.slot, Err(error.into()), finished),
                _ => {
                    tracing::warn!(
                        rows = rows.len(),
                        code = error.code(),
                        "step failed, will split"
                    );
                    let (left, right) = rows.split_at(rows.len() / 2);
                    self.step_rows(left, finished);
                    self.step_rows(right, finished);
                }
            },
        }
    }

    /// Chooses the next token of a slot from a row of `logits`, and ends the row if it is done.
    fn take_token(&mut self, slot: usize, row_idx: usize, finished: &mut Vec<Finished>) {
        let context_tokens = self.decoder.context_tokens();
        let Some(row) = &mut self.rows[slot] else { return };
        let Some(choice) = self.sampler.choose(self.logits.row(row_idx), &mut row.random) else {
            let error = GenerateError::NotFinite { n_generated: row.token_ids.len() };
            self.finish(slot, Err(error), finished);
            return;
        };
        row.token_ids.push(choice.token_id);
        row.logprob_sum += choice.logprob;
        // The next step would write this token behind everything before it.
        let has_room = row.n_prompt_tokens + row.token_ids.len() <= context_tokens;
        let reason = self.rules.check(&row.token_ids, has_room, self.detokenizer.as_ref());
        if let Some(finish_reason) = reason {
            let generation = Self::close(row, finish_reason, &self.rules, &*self.detokenizer);
            self.finish(slot, Ok(generation), finished);
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a mean for a report; counts are small"
    )]
    fn close(
        row: &mut Row,
        finish_reason: FinishReason,
        rules: &StopRules,
        detokenizer: &dyn Detokenizer,
    ) -> Generation {
        let token_ids = std::mem::take(&mut row.token_ids);
        let text = rules.cut(&detokenizer.text(&token_ids)).to_owned();
        let logprob_mean = (row.logprob_sum / token_ids.len() as f64) as f32;
        let n_prompt_tokens = row.n_prompt_tokens;
        Generation { token_ids, text, finish_reason, n_prompt_tokens, logprob_mean }
    }

    fn finish(
        &mut self,
        slot: usize,
        result: Result<Generation, GenerateError>,
        finished: &mut Vec<Finished>,
    ) {
        if let Some(row) = self.rows[slot].take() {
            self.decoder.release(slot);
            self.n_taken -= 1;
            finished.push(Finished { ticket: row.ticket, result });
        }
    }
}

#[cfg(test)]
mod tests;
