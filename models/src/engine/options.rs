//! The options of an engine.

use super::{Beams, Constraints, Fallback, Guard, Sampling};
use crate::grammar::Grammar;

/// The options of an engine.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineOptions {
    /// The end tokens. Any of them ends an answer.
    pub eos_token_ids: Vec<i64>,
    /// The length limit of an answer.
    pub length: LengthLimit,
    /// The stop strings. Any of them ends an answer and is cut off.
    pub stop_strings: Vec<String>,
    /// The constraints on the logits.
    pub constraints: Constraints,
    /// The sampling options, used without beams.
    pub sampling: Sampling,
    /// The beam search options.
    pub beams: Beams,
    /// The loop detection.
    pub guard: Guard,
    /// The temperature fallback. It requires a single beam.
    pub fallback: Option<Fallback>,
    /// The form of the answers. It requires a single beam, and replaces the stop strings.
    pub grammar: Option<Grammar>,
}

/// The length limit of an answer. The capacity of the slot limits it as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthLimit {
    /// The maximum number of tokens of an answer, end token included.
    NewTokens(usize),
    /// The maximum number of tokens of prompt and answer together (`max_length` of transformers).
    Tokens(usize),
}

impl LengthLimit {
    /// Returns the maximum number of new tokens after a prompt of `n_prompt` tokens; at least 1.
    pub(super) fn new_tokens(self, n_prompt: usize) -> usize {
        let n_tokens = match self {
            Self::NewTokens(n_tokens) => n_tokens,
            Self::Tokens(n_tokens) => n_tokens.saturating_sub(n_prompt),
        };
        n_tokens.max(1)
    }

    /// Returns the maximum prompt length that leaves room for an answer in `context_tokens`.
    pub(super) fn prompt_tokens(self, context_tokens: usize) -> usize {
        let n_tokens = match self {
            Self::NewTokens(_) => context_tokens,
            Self::Tokens(n_tokens) => context_tokens.min(n_tokens),
        };
        n_tokens.saturating_sub(1)
    }
}
