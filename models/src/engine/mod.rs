//! Continuous batching: prompts enter free slots, all full slots take a step together, a finished
//! slot is free at once. Knows no architecture and no runtime.
//!
//! An answer depends on its prompt, its row seed and the options only: every row has its own
//! random stream, and no rule looks at another row. What a [`Decoder`] computes for a row must not
//! depend on the other rows either; see `family` for how that is kept.

mod beams;
mod choice;
mod constraints;
mod decoder;
mod fallback;
mod generation;
mod prompt;
mod row;
mod sampler;
mod schedule;
mod stop;
mod timestamps;

use std::{fmt, sync::Arc};

pub use beams::{Beams, EarlyStopping};
pub use constraints::Constraints;
pub use decoder::{
    Asked, DecodeError, Decoder, Detokenizer, Join, Logits, SlotCopy, StepRow, Subject,
};
pub use fallback::{Fallback, Silence, Trial};
pub use generation::{FinishReason, Finished, GenerateError, Generation};
pub use prompt::{Positions, Prompt, TokenChoice};
pub use sampler::Sampling;
pub use stop::Guard;
pub use timestamps::TimestampRules;

pub(crate) use schedule::prefill_groups;

use beams::{Candidates, LogSums};
use row::{Ended, Hypothesis, Row};
use sampler::Sampler;
use schedule::Turn;
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
    /// How tokens are chosen without beams.
    pub sampling: Sampling,
    /// How many continuations of a row are weighed against each other.
    pub beams: Beams,
    /// What counts as a loop.
    pub guard: Guard,
    /// When answers are tried again; goes without beams only.
    pub fallback: Option<Fallback>,
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

/// What becomes of a row.
type RowResult = Result<Generation, GenerateError>;

/// What a row has ended with, before it is judged.
type Taken = Result<(Hypothesis, FinishReason), GenerateError>;

/// A prompt that found no free slot, given back. Ask [`Engine::free_slots`] first.
#[derive(Debug)]
pub struct Full(pub Prompt);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every slot is taken")
    }
}

impl std::error::Error for Full {}

/// The scheduler above one decoder.
pub struct Engine {
    decoder: Box<dyn Decoder>,
    detokenizer: Arc<dyn Detokenizer>,
    rules: StopRules,
    length: LengthLimit,
    constraints: Constraints,
    sampler: Sampler,
    beams: Beams,
    fallback: Option<Fallback>,
    temperature: f32,
    /// A place has as many slots of the decoder, side by side, as there are beams.
    rows: Vec<Option<Row>>,
    n_taken: usize,
    n_admitted: u64,
    logits: Logits,
    /// Scores within a prompt; apart, for those of a step are read row after row.
    peeked: Logits,
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
    /// Puts an engine above `decoder`, whose slots must all be free and at least as many as beams.
    #[must_use]
    pub fn new(
        decoder: Box<dyn Decoder>,
        detokenizer: Arc<dyn Detokenizer>,
        options: EngineOptions,
    ) -> Self {
        let n_places = (decoder.slots() / options.beams.n_beams.max(1)).max(1);
        let rows = std::iter::repeat_with(|| None).take(n_places).collect();
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
            temperature: options.sampling.temperature,
            sampler: match options.fallback {
                Some(_) => Sampler::new(options.sampling).weighing_allowed(),
                None => Sampler::new(options.sampling),
            },
            beams: options.beams,
            fallback: options.fallback,
            rows,
            n_taken: 0,
            n_admitted: 0,
            logits: Logits::default(),
            peeked: Logits::default(),
            allowed: Vec::new(),
            n_steps: 0,
        }
    }

    /// Returns how many rows can be in the engine; each has as many slots of the decoder as beams.
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

    /// Joins the answers to consecutive parts of one input, one at least, to the answer of the whole.
    ///
    /// Its tokens are those of all parts; its text says what parts that overlap have in common once.
    #[must_use]
    pub fn join(&self, parts: Vec<Generation>) -> Generation {
        let ids: Vec<&[i64]> = parts.iter().map(|part| part.token_ids.as_slice()).collect();
        let text = self.detokenizer.joined(&ids);
        Generation::joined(parts, text)
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
        let max_new_tokens = self.length.new_tokens(n_prompt).min(room);
        let names = (self.n_admitted, ticket);
        *place = Some(Row::new(names, prompt, max_new_tokens, row_seed));
        self.n_taken += 1;
        self.n_admitted += 1;
        Ok(())
    }

    /// Drops every row and frees every slot, whatever state a panic in [`step`](Self::step) left them
    /// in. Rows that are admitted again afterwards get the answers that they would have had.
    pub fn reset(&mut self) {
        self.rows.iter_mut().for_each(|row| *row = None);
        self.n_taken = 0;
        (0..self.decoder.slots()).for_each(|slot| self.decoder.release(slot));
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
        let n_live = self.rows.iter().flatten().filter(at_work).count();
        if !self.decoder.joins_now(n_live * self.beams.n_beams) {
            return;
        }
        let tokens_max = self.length.prompt_tokens(self.decoder.context_tokens());
        let turn = Turn::of(self.rows.iter().flatten());
        self.choose_tokens(finished);
        let mut joined: Vec<(usize, usize)> = Vec::new();
        for place in 0..self.rows.len() {
            let Some(row) = &self.rows[place] else { continue };
            if row.prompt.is_none() || !turn.is_of(row) {
                continue;
            }
            match row.n_prompt {
                0 => self.finish(place, Err(GenerateError::EmptyPrompt), finished),
                n_tokens if n_tokens > tokens_max => {
                    let error = GenerateError::PromptTooLong { n_tokens, max_tokens: tokens_max };
                    self.finish(place, Err(error), finished);
                }
                n_tokens => joined.push((place, n_tokens)),
            }
        }
        for group in prefill_groups(joined, self.decoder.prefill_rows_max()) {
            let mut prompts: Vec<(usize, Prompt)> = Vec::with_capacity(group.len());
            for place in group {
                if let Some(row) = &mut self.rows[place]
                    && let Some(prompt) = row.prompt.take()
                {
                    prompts.push((place, prompt));
                }
            }
            self.prefill_group(&prompts, finished);
        }
    }

    /// Prefills the first slot of each place.
    fn prefill_group(&mut self, prompts: &[(usize, Prompt)], finished: &mut Vec<Finished>) {
        let slot = |place: usize| place * self.beams.n_beams;
        let joins: Vec<Join<'_>> =
            prompts.iter().map(|(place, prompt)| Join { slot: slot(*place), prompt }).collect();
        if joins.is_empty() {
            return;
        }
        match self.decoder.prefill(&joins, &mut self.logits) {
            Ok(()) => {
                for (row_idx, (place, _)) in prompts.iter().enumerate() {
                    self.take_tokens(*place, row_idx, finished);
                }
            }
            Err(error) => match prompts {
                [(place, _)] => self.finish(*place, Err(error.into()), finished),
                _ => {
                    tracing::warn!(
                        rows = prompts.len(),
                        code = error.code(),
                        "prefill failed, will split"
                    );
                    let (left, right) = prompts.split_at(prompts.len() / 2);
                    self.prefill_group(left, finished);
                    self.prefill_group(right, finished);
                }
            },
        }
    }

    fn step_live(&mut self, finished: &mut Vec<Finished>) {
        self.place_beams(finished);
        let is_live = |row: &Row| row.prompt.is_none() && row.n_generated() > 0;
        let live: Vec<usize> = (0..self.rows.len())
            .filter(|place| self.rows[*place].as_ref().is_some_and(is_live))
            .collect();
        if !live.is_empty() {
            self.n_steps += 1;
            self.step_places(&live, finished);
        }
    }

    /// Brings every live hypothesis to the slot of its own rank.
    fn place_beams(&mut self, finished: &mut Vec<Finished>) {
        let n_beams = self.beams.n_beams;
        let mut moves = Vec::new();
        for (place, row) in self.rows.iter().enumerate() {
            let live = row.iter().flat_map(|row| &row.live).enumerate();
            let moved = live.filter(|(rank, hypothesis)| *rank != hypothesis.parent);
            moves.extend(moved.map(|(rank, hypothesis)| SlotCopy {
                from: place * n_beams + hypothesis.parent,
                to: place * n_beams + rank,
            }));
        }
        if moves.is_empty() {
            return;
        }
        if let Err(error) = self.decoder.copy_slots(&moves) {
            let message = error.to_string();
            let mut places: Vec<usize> = moves.iter().map(|step| step.to / n_beams).collect();
            places.dedup();
            for place in places {
                let (graph, message) = ("copy of beams".to_owned(), message.clone());
                let error = DecodeError::Run { graph, n_rows: 1, message };
                self.finish(place, Err(error.into()), finished);
            }
            return;
        }
        for (place, row) in self.rows.iter_mut().enumerate() {
            let Some(row) = row.as_mut().filter(|row| row.n_generated() > 0) else { continue };
            for (rank, hypothesis) in row.live.iter_mut().enumerate() {
                hypothesis.parent = rank;
            }
            for rank in row.live.len()..row.n_full {
                self.decoder.release(place * n_beams + rank);
            }
            row.n_full = row.live.len();
        }
    }

    fn step_places(&mut self, places: &[usize], finished: &mut Vec<Finished>) {
        let n_beams = self.beams.n_beams;
        let mut rows: Vec<StepRow> = Vec::with_capacity(places.len());
        let mut firsts: Vec<usize> = Vec::with_capacity(places.len());
        for place in places {
            firsts.push(rows.len());
            let live = self.rows[*place].iter().flat_map(|row| &row.live).enumerate();
            rows.extend(live.filter_map(|(rank, hypothesis)| {
                let token_id = *hypothesis.token_ids.last()?;
                Some(StepRow { slot: place * n_beams + rank, token_id })
            }));
        }
        match self.decoder.step(&rows, &mut self.logits) {
            Ok(()) => {
                for (place, first) in places.iter().zip(firsts) {
                    self.take_tokens(*place, first, finished);
                }
            }
            Err(error) => match places {
                [place] => self.finish(*place, Err(error.into()), finished),
                _ => {
                    tracing::warn!(
                        rows = rows.len(),
                        code = error.code(),
                        "step failed, will split"
                    );
                    let (left, right) = places.split_at(places.len() / 2);
                    self.step_places(left, finished);
                    self.step_places(right, finished);
                }
            },
        }
    }

    /// Continues the row of a place by what its rows of `logits`, from `first` on, say, and ends it if
    /// it is done.
    fn take_tokens(&mut self, place: usize, first: usize, finished: &mut Vec<Finished>) {
        let is_single = self.rows[place].as_ref().is_none_or(|row| row.is_single);
        let ended = if self.beams.n_beams > 1 && !is_single {
            self.take_beams(place, first)
        } else {
            self.take_token(place, first)
        };
        let result = match ended {
            Some(Ok((hypothesis, reason))) => self.judged(place, hypothesis, reason),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        if let Some(result) = result {
            self.finish(place, result, finished);
        }
    }

    /// Chooses the next token of a row without beams.
    fn take_token(&mut self, place: usize, row_idx: usize) -> Option<Taken> {
        let row = self.rows[place].as_mut()?;
        let scores = self.logits.row(row_idx);
        let allowed = if self.constraints.is_off() {
            None
        } else {
            let history = row.history(row.live.first()?);
            self.allowed.clear();
            self.allowed.extend_from_slice(scores);
            self.constraints.apply(&history, &self.rules.eos_token_ids, &mut self.allowed);
            Some(self.allowed.as_slice())
        };
        let temperature =
            fallback::temperature(self.temperature, self.fallback.as_ref(), row.n_tries);
        let Some(choice) = self.sampler.choose(scores, allowed, temperature, &mut row.random)
        else {
            return Some(Err(GenerateError::NoToken { n_generated: row.n_generated() }));
        };
        let hypothesis = row.live.first_mut()?;
        hypothesis.token_ids.push(choice.token_id);
        hypothesis.logprob_sum += choice.logprob;
        hypothesis.allowed_logprob_sum += choice.allowed_logprob.unwrap_or(choice.logprob);
        let generated = &hypothesis.token_ids[row.n_prompt..];
        let reason = self.rules.check(generated, row.max_new_tokens, self.detokenizer.as_ref())?;
        Some(Ok((row.live.swap_remove(0), reason)))
    }

    /// Continues a row with beams.
    fn take_beams(&mut self, place: usize, first: usize) -> Option<Taken> {
        let row = self.rows[place].as_mut()?;
        let mut candidates = Candidates::new(self.beams, self.rules.eos_token_ids.len());
        for (rank, hypothesis) in row.live.iter().enumerate() {
            let scores = self.logits.row(first + rank);
            let log_sum = self.beams.log_probs(scores, &mut self.allowed, |log_probs| {
                let history = row.history(hypothesis);
                self.constraints.apply(&history, &self.rules.eos_token_ids, log_probs);
            });
            let is_judged = self.fallback.is_some();
            let allowed = if is_judged { beams::log_sum(&self.allowed) } else { 0.0 };
            let log_sums = LogSums { raw: log_sum, allowed };
            candidates.offer(hypothesis.score, rank, &self.allowed, scores, log_sums);
        }
        let n_generated = row.n_generated();
        let max_new_tokens = row.max_new_tokens;
        let check = |generated: &[i64]| {
            self.rules.check(generated, max_new_tokens, self.detokenizer.as_ref())
        };
        let ended = beams::advance(self.beams, row, &candidates, check)?;
        Some(match ended {
            Some(Ended { hypothesis, reason, .. }) => Ok((hypothesis, reason)),
            None => Err(GenerateError::NoToken { n_generated }),
        })
    }

    /// Makes the generation of a row that ends with a hypothesis.
    fn generation(&self, row: &Row, hypothesis: Hypothesis, reason: FinishReason) -> Generation {
        let text = |prompt_ids: &[i64], ids: &[i64]| {
            self.text(Asked { prompt_ids, subject: row.subject.as_deref() }, ids)
        };
        hypothesis.into_generation(row.n_prompt, reason, text)
    }

    /// Returns what an answer's tokens say, up to the first stop string that they say themselves.
    fn text(&self, asked: Asked<'_>, token_ids: &[i64]) -> String {
        let n_given = self.detokenizer.given(asked).len();
        self.rules.cut(&self.detokenizer.answer(asked, token_ids), n_given).to_owned()
    }

    fn finish(&mut self, place: usize, result: RowResult, finished: &mut Vec<Finished>) {
        if let Some(row) = self.rows[place].take() {
            let first = place * self.beams.n_beams;
            (first..first + self.beams.n_beams).for_each(|slot| self.decoder.release(slot));
            self.n_taken -= 1;
            let result =
                result.map(|generation| Generation { n_prompt_tokens: row.n_given, ..generation });
            finished.push(Finished { ticket: row.ticket, result });
        }
    }
}

#[cfg(test)]
mod tests;
