//! Continuous batching: prompts enter free slots, all full slots take a step together, a finished
//! slot is free at once. Knows no model family and no runtime.
//!
//! An answer depends on its prompt, its row seed and the options only: every row has its own
//! random stream, and no rule looks at another row. What a [`Decoder`] computes for a row must not
//! depend on the other rows either; see `family` for how that is kept.

mod constraints;
mod decoder;
mod generation;
mod prompt;
mod sampler;
mod schedule;
mod stop;

use std::{fmt, sync::Arc};

pub use constraints::Constraints;
pub use decoder::{DecodeError, Decoder, Detokenizer, Join, Logits, StepRow};
pub use generation::{FinishReason, Finished, GenerateError, Generation};
pub use prompt::Prompt;
pub use sampler::Sampling;
pub use stop::Guard;

use constraints::History;
use sampler::{RowRandom, Sampler};
use stop::StopRules;

/// What an engine needs to know besides the decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// Any of these ends an answer.
    pub eos_token_ids: Vec<i64>,
    /// How long an answer may become.
    pub length: LengthLimit,
    /// Any of these strings ends an answer and is cut off.
    pub stop_strings: Vec<String>,
    /// What is forbidden, forced and discouraged before a token is chosen.
    pub constraints: Constraints,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What counts as a loop.
    pub guard: Guard,
}

/// How long an answer may become; what the slot can hold bounds it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthLimit {
    /// The most tokens of an answer, the end token included.
    NewTokens(usize),
    /// The most tokens of prompt and answer together (`max_length` of transformers).
    Tokens(usize),
}

impl LengthLimit {
    /// Returns the most tokens of an answer to a prompt of `n_prompt`; at least 1.
    fn new_tokens(self, n_prompt: usize) -> usize {
        let n_tokens = match self {
            Self::NewTokens(n_tokens) => n_tokens,
            Self::Tokens(n_tokens) => n_tokens.saturating_sub(n_prompt),
        };
        n_tokens.max(1)
    }

    /// Returns the longest prompt that leaves room for an answer in `context_tokens`.
    fn prompt_tokens(self, context_tokens: usize) -> usize {
        let n_tokens = match self {
            Self::NewTokens(_) => context_tokens,
            Self::Tokens(n_tokens) => context_tokens.min(n_tokens),
        };
        n_tokens.saturating_sub(1)
    }
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
    /// The prompt's tokens and those generated.
    token_ids: Vec<i64>,
    n_prompt: usize,
    max_new_tokens: usize,
    logprob_sum: f64,
    random: RowRandom,
}

impl Row {
    fn generated(&self) -> &[i64] {
        &self.token_ids[self.n_prompt..]
    }
}

/// The scheduler above one decoder.
pub struct Engine {
    decoder: Box<dyn Decoder>,
    detokenizer: Arc<dyn Detokenizer>,
    rules: StopRules,
    length: LengthLimit,
    constraints: Constraints,
    sampler: Sampler,
    /// One place per slot of the decoder.
    rows: Vec<Option<Row>>,
    n_taken: usize,
    logits: Logits,
    /// Scores of one row after the constraints.
    allowed: Vec<f32>,
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
                guard: options.guard,
            },
            length: options.length,
            constraints: options.constraints,
            sampler: Sampler::new(options.sampling),
            rows,
            n_taken: 0,
            logits: Logits::default(),
            allowed: Vec::new(),
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
        let n_prompt = prompt.n_tokens();
        // The last token is not written any more, so it needs no place in the slot.
        let room = (self.decoder.context_tokens() + 1).saturating_sub(n_prompt);
        *place = Some(Row {
            ticket,
            token_ids: prompt.token_ids().to_vec(),
            n_prompt,
            max_new_tokens: self.length.new_tokens(n_prompt).min(room),
            prompt: Some(prompt),
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
        let tokens_max = self.length.prompt_tokens(self.decoder.context_tokens());
        let mut joined: Vec<(usize, usize)> = Vec::new();
        for slot in 0..self.rows.len() {
            let Some(row) = &self.rows[slot] else { continue };
            if row.prompt.is_none() {
                continue;
            }
            match row.n_prompt {
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
                let token_id = *row.as_ref()?.generated().last()?;
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
        let Some(row) = &mut self.rows[slot] else { return };
        let scores = self.logits.row(row_idx);
        let allowed = (!self.constraints.is_off()).then(|| {
            let (n_prompt, max_new_tokens) = (row.n_prompt, row.max_new_tokens);
            let history = History { token_ids: &row.token_ids, n_prompt, max_new_tokens };
            self.allowed.clear();
            self.allowed.extend_from_slice(scores);
            self.constraints.apply(&history, &self.rules.eos_token_ids, &mut self.allowed);
            self.allowed.as_slice()
        });
        let Some(choice) = self.sampler.choose(scores, allowed, &mut row.random) else {
            let error = GenerateError::NoToken { n_generated: row.generated().len() };
            self.finish(slot, Err(error), finished);
            return;
        };
        row.token_ids.push(choice.token_id);
        row.logprob_sum += choice.logprob;
        let reason =
            self.rules.check(row.generated(), row.max_new_tokens, self.detokenizer.as_ref());
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
        let token_ids = row.token_ids.split_off(row.n_prompt);
        let text = rules.cut(&detokenizer.text(&token_ids)).to_owned();
        let logprob_mean = (row.logprob_sum / token_ids.len() as f64) as f32;
        let n_prompt_tokens = row.n_prompt;
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
