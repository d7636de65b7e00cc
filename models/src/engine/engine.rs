//! The scheduler over one decoder: rows, slots and steps.

use std::{fmt, sync::Arc};

use super::{
    Asked, Beams, Constraints, DecodeError, Decoder, Detokenizer, Fallback, FinishReason, Finished,
    GenerateError, Generation, Join, Logits, Prompt, SlotCopy, StepRow,
    beams::{self, Candidates, LogSums},
    fallback,
    options::{EngineOptions, LengthLimit},
    prefill_groups,
    row::{Ended, Hypothesis, Row},
    sampler::Sampler,
    schedule::Turn,
    stop::StopRules,
};
use crate::grammar::Grammar;

/// The result of a row.
pub(super) type RowResult = Result<Generation, GenerateError>;

/// The hypothesis that a row ended with, before the fallback judges it.
pub(super) type RowEnd = Result<(Hypothesis, FinishReason), GenerateError>;

/// A prompt that found no free slot, returned to the caller. Check [`Engine::free_slots`] first.
#[derive(Debug)]
pub struct Full(pub Prompt);

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no free slot")
    }
}

impl std::error::Error for Full {}

/// The continuous batching scheduler over one decoder.
pub struct Engine {
    pub(super) decoder: Box<dyn Decoder>,
    detokenizer: Arc<dyn Detokenizer>,
    pub(super) rules: StopRules,
    length: LengthLimit,
    pub(super) constraints: Constraints,
    pub(super) sampler: Sampler,
    pub(super) beams: Beams,
    pub(super) fallback: Option<Fallback>,
    pub(super) grammar: Option<Grammar>,
    pub(super) temperature: f32,
    /// Each row has as many adjacent decoder slots as there are beams.
    pub(super) rows: Vec<Option<Row>>,
    n_occupied: usize,
    n_admitted: u64,
    pub(super) logits: Logits,
    /// The logits of prompt prefixes. They are separate because the logits of a step are read row
    /// by row.
    pub(super) peeked: Logits,
    /// The scores of one row after the constraints.
    pub(super) allowed: Vec<f32>,
    n_steps: u64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("slots", &self.rows.len())
            .field("occupied", &self.n_occupied)
            .field("steps", &self.n_steps)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Creates an engine over `decoder`, which must have at least as many slots as beams, all free.
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
            grammar: options.grammar,
            rows,
            n_occupied: 0,
            n_admitted: 0,
            logits: Logits::default(),
            peeked: Logits::default(),
            allowed: Vec::new(),
            n_steps: 0,
        }
    }

    /// Returns the maximum number of rows in the engine. Each row has one decoder slot per beam.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.rows.len()
    }

    /// Returns the number of prompts that can be admitted now.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.rows.len() - self.n_occupied
    }

    /// Returns whether the engine has no rows, so that a step would do nothing.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.n_occupied == 0
    }

    /// Returns the maximum number of tokens of a prompt and its answer together.
    #[must_use]
    pub fn context_tokens(&self) -> usize {
        self.decoder.context_tokens()
    }

    /// Returns the number of decode steps so far, for metrics.
    #[must_use]
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// Joins the answers to consecutive chunks of one input, at least one, into one answer.
    ///
    /// It has the tokens of all chunks. Its text contains the overlap of chunks only once.
    #[must_use]
    pub fn join(&self, chunks: Vec<Generation>) -> Generation {
        let ids: Vec<&[i64]> = chunks.iter().map(|chunk| chunk.token_ids.as_slice()).collect();
        let text = self.detokenizer.joined(&ids);
        Generation::joined(chunks, text)
    }

    /// Puts a prompt into a free slot; the next [`step`](Self::step) prefills it.
    ///
    /// `ticket` is returned with the result. `row_seed` seeds the row's own random stream: derive
    /// it from the job's seed and the identity of the row, never from the order of rows.
    ///
    /// # Errors
    ///
    /// [`Full`], with the prompt, if no slot is free. An invalid prompt is admitted and fails in
    /// the next step with its ticket.
    pub fn admit(&mut self, ticket: u64, prompt: Prompt, row_seed: u64) -> Result<(), Full> {
        let Some(row_slot) = self.rows.iter_mut().find(|row_slot| row_slot.is_none()) else {
            return Err(Full(prompt));
        };
        let n_prompt = prompt.n_tokens();
        // The last token is never fed back, so it needs no cache position.
        let room = (self.decoder.context_tokens() + 1).saturating_sub(n_prompt);
        let max_new_tokens = self.length.new_tokens(n_prompt).min(room);
        let names = (self.n_admitted, ticket);
        *row_slot = Some(Row::new(names, prompt, max_new_tokens, row_seed));
        self.n_occupied += 1;
        self.n_admitted += 1;
        Ok(())
    }

    /// Drops all rows and frees all slots, in whatever state a panic in [`step`](Self::step) left
    /// them. Rows that are admitted again get the same answers as without the reset.
    pub fn reset(&mut self) {
        self.rows.iter_mut().for_each(|row| *row = None);
        self.n_occupied = 0;
        (0..self.decoder.slots()).for_each(|slot| self.decoder.release(slot));
    }

    /// Advances every row by at least one token and returns the finished rows.
    ///
    /// Rows admitted since the last call are prefilled first and then step with the others. A
    /// failed decoder call is retried on halves of its rows, down to one row, so only the rows that
    /// fail alone are errors.
    pub fn step(&mut self) -> Vec<Finished> {
        let mut finished = Vec::new();
        self.prefill_joined(&mut finished);
        self.step_live(&mut finished);
        finished
    }

    fn prefill_joined(&mut self, finished: &mut Vec<Finished>) {
        let is_running = |row: &&Row| row.prompt.is_none();
        let n_live = self.rows.iter().flatten().filter(is_running).count();
        if !self.decoder.joins_now(n_live * self.beams.n_beams) {
            return;
        }
        let tokens_max = self.length.prompt_tokens(self.decoder.context_tokens());
        let turn = Turn::new(self.rows.iter().flatten());
        self.choose_tokens(finished);
        let live = self.rows.iter().flatten().filter(is_running);
        let mut longest = live.clone().map(Row::tokens_max).max().unwrap_or(0);
        let mut n_live = live.count();
        let mut joined: Vec<(usize, usize)> = Vec::new();
        for row_slot in self.waiting() {
            let Some(row) = self.rows[row_slot].as_ref().filter(|row| turn.admits(row)) else {
                continue;
            };
            let is_possible = (1..=tokens_max).contains(&row.n_prompt);
            if is_possible {
                let longest_then = longest.max(row.tokens_max());
                let n_slots = (n_live + 1) * self.beams.n_beams;
                if n_live > 0 && n_slots > self.decoder.slots_for(longest_then) {
                    // Later rows do not overtake it, or it might wait for ever.
                    break;
                }
                (longest, n_live) = (longest_then, n_live + 1);
            }
            match row.n_prompt {
                0 => self.finish(row_slot, Err(GenerateError::EmptyPrompt), finished),
                n_tokens if n_tokens > tokens_max => {
                    let error = GenerateError::PromptTooLong { n_tokens, max_tokens: tokens_max };
                    self.finish(row_slot, Err(error), finished);
                }
                n_tokens => joined.push((row_slot, n_tokens)),
            }
        }
        for group in prefill_groups(joined, self.decoder.prefill_rows_max()) {
            let mut prompts: Vec<(usize, Prompt)> = Vec::with_capacity(group.len());
            for row_slot in group {
                if let Some(row) = &mut self.rows[row_slot]
                    && let Some(prompt) = row.prompt.take()
                {
                    prompts.push((row_slot, prompt));
                }
            }
            self.prefill_group(&prompts, finished);
        }
    }

    /// Returns the rows whose prompts wait, in the order of their admission.
    fn waiting(&self) -> Vec<usize> {
        let rows = self.rows.iter().enumerate();
        let waiting = rows.filter_map(|(row_slot, row)| {
            let row = row.as_ref().filter(|row| row.prompt.is_some())?;
            Some((row.number, row_slot))
        });
        let mut waiting: Vec<(u64, usize)> = waiting.collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, row_slot)| row_slot).collect()
    }

    /// Prefills the first decoder slot of each row.
    fn prefill_group(&mut self, prompts: &[(usize, Prompt)], finished: &mut Vec<Finished>) {
        let slot = |row_slot: usize| row_slot * self.beams.n_beams;
        let joins: Vec<Join<'_>> = prompts
            .iter()
            .map(|(row_slot, prompt)| Join { slot: slot(*row_slot), prompt })
            .collect();
        if joins.is_empty() {
            return;
        }
        match self.decoder.prefill(&joins, &mut self.logits) {
            Ok(()) => {
                for (row_idx, (row_slot, _)) in prompts.iter().enumerate() {
                    self.take_tokens(*row_slot, row_idx, finished);
                }
            }
            Err(error) => match prompts {
                [(row_slot, _)] => self.finish(*row_slot, Err(error.into()), finished),
                _ => {
                    tracing::warn!(
                        rows = prompts.len(),
                        code = error.code(),
                        "prefill failed; retrying in halves"
                    );
                    let (left, right) = prompts.split_at(prompts.len() / 2);
                    self.prefill_group(left, finished);
                    self.prefill_group(right, finished);
                }
            },
        }
    }

    fn step_live(&mut self, finished: &mut Vec<Finished>) {
        self.move_beams(finished);
        let is_live = |row: &Row| row.prompt.is_none() && row.n_generated() > 0;
        let live: Vec<usize> = (0..self.rows.len())
            .filter(|row_slot| self.rows[*row_slot].as_ref().is_some_and(is_live))
            .collect();
        if !live.is_empty() {
            self.n_steps += 1;
            self.step_rows(&live, finished);
        }
    }

    /// Moves the KV cache of every live hypothesis to the decoder slot of its rank.
    fn move_beams(&mut self, finished: &mut Vec<Finished>) {
        let n_beams = self.beams.n_beams;
        let mut moves = Vec::new();
        for (row_slot, row) in self.rows.iter().enumerate() {
            let live = row.iter().flat_map(|row| &row.live).enumerate();
            let moved = live.filter(|(rank, hypothesis)| *rank != hypothesis.parent);
            moves.extend(moved.map(|(rank, hypothesis)| SlotCopy {
                from: row_slot * n_beams + hypothesis.parent,
                to: row_slot * n_beams + rank,
            }));
        }
        if moves.is_empty() {
            return;
        }
        if let Err(error) = self.decoder.copy_slots(&moves) {
            let error = Arc::new(error);
            let mut row_slots: Vec<usize> = moves.iter().map(|step| step.to / n_beams).collect();
            row_slots.dedup();
            for row_slot in row_slots {
                let (graph, source) = ("beam copy".to_owned(), Arc::clone(&error).into());
                let error = DecodeError::Run { graph, n_rows: 1, source };
                self.finish(row_slot, Err(error.into()), finished);
            }
            return;
        }
        for (row_slot, row) in self.rows.iter_mut().enumerate() {
            let Some(row) = row.as_mut().filter(|row| row.n_generated() > 0) else { continue };
            for (rank, hypothesis) in row.live.iter_mut().enumerate() {
                hypothesis.parent = rank;
            }
            for rank in row.live.len()..row.n_full {
                self.decoder.release(row_slot * n_beams + rank);
            }
            row.n_full = row.live.len();
        }
    }

    fn step_rows(&mut self, row_slots: &[usize], finished: &mut Vec<Finished>) {
        let n_beams = self.beams.n_beams;
        let mut rows: Vec<StepRow> = Vec::with_capacity(row_slots.len());
        let mut firsts: Vec<usize> = Vec::with_capacity(row_slots.len());
        for row_slot in row_slots {
            firsts.push(rows.len());
            let live = self.rows[*row_slot].iter().flat_map(|row| &row.live).enumerate();
            rows.extend(live.filter_map(|(rank, hypothesis)| {
                let token_id = *hypothesis.token_ids.last()?;
                Some(StepRow { slot: row_slot * n_beams + rank, token_id })
            }));
        }
        match self.decoder.step(&rows, &mut self.logits) {
            Ok(()) => {
                for (row_slot, first) in row_slots.iter().zip(firsts) {
                    self.take_tokens(*row_slot, first, finished);
                }
            }
            Err(error) => match row_slots {
                [row_slot] => self.finish(*row_slot, Err(error.into()), finished),
                _ => {
                    tracing::warn!(
                        rows = rows.len(),
                        code = error.code(),
                        "step failed; retrying in halves"
                    );
                    let (left, right) = row_slots.split_at(row_slots.len() / 2);
                    self.step_rows(left, finished);
                    self.step_rows(right, finished);
                }
            },
        }
    }

    /// Advances a row by its rows of `logits`, starting at `first`, and finishes it if it is done.
    fn take_tokens(&mut self, row_slot: usize, first: usize, finished: &mut Vec<Finished>) {
        let is_single = self.rows[row_slot].as_ref().is_none_or(|row| row.is_single);
        let ended = if self.beams.n_beams > 1 && !is_single {
            self.take_beams(row_slot, first)
        } else {
            self.take_token(row_slot, first)
        };
        let result = match ended {
            Some(Ok((hypothesis, reason))) => self.judge_row(row_slot, hypothesis, reason),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        if let Some(result) = result {
            self.finish(row_slot, result, finished);
        }
    }

    /// Chooses the next token of a row without beams.
    fn take_token(&mut self, row_slot: usize, row_idx: usize) -> Option<RowEnd> {
        let row = self.rows[row_slot].as_mut()?;
        // A forced first token of a decoder is not part of the answer.
        let is_forced = self.constraints.forced_first.is_some() && row.n_prompt == 1;
        if self.grammar.is_some() && !(is_forced && row.n_generated() == 0) {
            return self.take_typed_token(row_slot, row_idx);
        }
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

    /// Advances a row with beams.
    fn take_beams(&mut self, row_slot: usize, first: usize) -> Option<RowEnd> {
        let row = self.rows[row_slot].as_mut()?;
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

    /// Builds the generation of a row from its final hypothesis.
    pub(super) fn generation(
        &self,
        row: &Row,
        hypothesis: Hypothesis,
        reason: FinishReason,
    ) -> Generation {
        let text = |prompt_ids: &[i64], ids: &[i64]| {
            // Decoding may clean up spaces, which would change values.
            if let Some(grammar) = &self.grammar {
                return grammar.text(ids);
            }
            self.text(Asked { prompt_ids, subject: row.subject.as_deref() }, ids)
        };
        hypothesis.into_generation(row.n_prompt, reason, text)
    }

    /// Returns the text of an answer up to the first stop string in its generated part.
    fn text(&self, asked: Asked<'_>, token_ids: &[i64]) -> String {
        let n_given = self.detokenizer.given(asked).len();
        self.rules.cut(&self.detokenizer.answer(asked, token_ids), n_given).to_owned()
    }

    pub(super) fn finish(
        &mut self,
        row_slot: usize,
        result: RowResult,
        finished: &mut Vec<Finished>,
    ) {
        if let Some(row) = self.rows[row_slot].take() {
            let first = row_slot * self.beams.n_beams;
            (first..first + self.beams.n_beams).for_each(|slot| self.decoder.release(slot));
            self.n_occupied -= 1;
            let result =
                result.map(|generation| Generation { n_prompt_tokens: row.n_given, ..generation });
            finished.push(Finished { ticket: row.ticket, result });
        }
    }
}
