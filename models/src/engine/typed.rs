//! Typed answers: the next token of a row whose answer has a declared form.
//!
//! An answer is valid however it ends. Before a token is taken, the tokens that would then complete the answer
//! are counted. If they no longer fit the limit, the answer is completed from where it is (*closed*); it is
//! closed as well if it is in a loop. A closed answer has the finish reason `length` or `guard`. So no row fails
//! but one whose limit is below the shortest answer.

use std::collections::VecDeque;

use super::{
    Engine, FinishReason, GenerateError,
    engine::RowEnd,
    fallback,
    sampler::{Choice, RowRandom, Sampler},
};
use crate::grammar::{Grammar, State};

/// The state of a typed answer.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    state: State,
    /// The remaining tokens and the reason, once the answer is closed.
    closing: Option<(VecDeque<i64>, FinishReason)>,
}

impl Typed {
    /// Returns the state of an empty answer.
    fn new(grammar: &Grammar) -> Self {
        Self { state: grammar.start(), closing: None }
    }

    /// Takes a token, or closes the answer if it could not be completed after that token. `n_left` tokens are
    /// left. Returns the error if the answer can never be completed.
    fn take(
        &mut self,
        grammar: &Grammar,
        token_id: i64,
        n_left: usize,
    ) -> Result<(), GenerateError> {
        let next = grammar
            .after(&self.state, token_id)
            .filter(|state| grammar.closing(state).is_some_and(|rest| rest.len() < n_left));
        if let Some(state) = next {
            self.state = state;
            return Ok(());
        }
        let rest = grammar.closing(&self.state).unwrap_or_default();
        if rest.len() > n_left {
            return Err(GenerateError::AnswerLimit { n_tokens: rest.len(), max_tokens: n_left });
        }
        self.closing = Some((rest.into(), FinishReason::Length));
        Ok(())
    }
}

impl Engine {
    /// Chooses the next token of a row with a typed answer.
    pub(super) fn take_typed_token(&mut self, row_slot: usize, row_idx: usize) -> Option<RowEnd> {
        let grammar = self.grammar.as_mut()?;
        let row = self.rows[row_slot].as_mut()?;
        let mut typed = row.typed.take().unwrap_or_else(|| Typed::new(grammar));
        let n_generated = row.n_generated();
        let no_token = GenerateError::NoToken { n_generated };
        let scores = self.logits.row(row_idx);
        let is_end = |token_id| self.rules.eos_token_ids.contains(&token_id);
        let mut choice = None;
        if typed.closing.is_none() {
            self.allowed.clear();
            self.allowed.extend_from_slice(scores);
            if !self.constraints.is_off()
                && let Some(hypothesis) = row.live.first()
            {
                let history = row.history(hypothesis);
                self.constraints.apply(&history, &self.rules.eos_token_ids, &mut self.allowed);
            }
            grammar.mask(&typed.state, &mut self.allowed);
            if self.allowed.iter().all(|score| *score == f32::NEG_INFINITY) {
                // The form has precedence over the other constraints.
                self.allowed.copy_from_slice(scores);
                grammar.mask(&typed.state, &mut self.allowed);
            }
            let temperature =
                fallback::temperature(self.temperature, self.fallback.as_ref(), row.n_tries);
            choice = self.sampler.choose(scores, Some(&self.allowed), temperature, &mut row.random);
            let Some(chosen) = choice else { return Some(Err(no_token)) };
            if !is_end(chosen.token_id) {
                let n_left = row.max_new_tokens.saturating_sub(n_generated);
                if let Err(error) = typed.take(grammar, chosen.token_id, n_left) {
                    return Some(Err(error));
                }
            }
        }
        if let Some((rest, _)) = &mut typed.closing {
            let (sampler, allowed) = (&mut self.sampler, &mut self.allowed);
            let next = rest.pop_front();
            choice = next.and_then(|id| only(id, scores, sampler, allowed, &mut row.random));
        }
        let Some(choice) = choice else { return Some(Err(no_token)) };
        let hypothesis = row.live.first_mut()?;
        hypothesis.token_ids.push(choice.token_id);
        hypothesis.logprob_sum += choice.logprob;
        hypothesis.allowed_logprob_sum += choice.allowed_logprob.unwrap_or(choice.logprob);
        if is_end(choice.token_id) {
            let reason = typed.closing.map_or(FinishReason::Stop, |(_, reason)| reason);
            return Some(Ok((row.live.swap_remove(0), reason)));
        }
        let generated = &hypothesis.token_ids[row.n_prompt..];
        if typed.closing.is_none()
            && self.rules.guard.trips(generated)
            && let Some(rest) = grammar.closing(&typed.state)
        {
            typed.closing = Some((rest.into(), FinishReason::Guard));
        }
        row.typed = Some(typed);
        None
    }
}

/// Chooses a given token.
fn only(
    token_id: i64,
    scores: &[f32],
    sampler: &mut Sampler,
    allowed: &mut Vec<f32>,
    random: &mut RowRandom,
) -> Option<Choice> {
    allowed.clear();
    allowed.resize(scores.len(), f32::NEG_INFINITY);
    *allowed.get_mut(usize::try_from(token_id).ok()?)? = 0.0;
    sampler.choose(scores, Some(allowed), 0.0, random)
}

#[cfg(test)]
mod tests;
