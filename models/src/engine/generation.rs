//! What comes out of the engine.

use super::{DecodeError, Trial};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model said so, or a stop string appeared.
    Stop,
    /// The limit of new tokens or the context was reached.
    Length,
    /// The model repeated itself without end; see [`Guard`](super::Guard).
    Guard,
}

impl FinishReason {
    /// Returns the reason of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Stop, Self::Length, Self::Guard].into_iter().find(|reason| reason.as_str() == name)
    }

    /// Returns the name used in answers: `stop`, `length`, `guard`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Guard => "guard",
        }
    }
}

/// The answer to one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Every token the model chose, the end token included where it chose one.
    pub token_ids: Vec<i64>,
    /// The text of those tokens without special ones, cut before the first stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The tokens of the prompt, placeholders and the text that an encoder read included.
    pub n_prompt_tokens: usize,
    /// The mean natural logarithm of the probability of each chosen token, before temperature and
    /// cuts. Zero is certainty.
    pub logprob_mean: f32,
    /// Which try it is, where answers are tried again, and what the model chose before it.
    pub trial: Trial,
}

impl Generation {
    /// Joins generations that together have this text; a lone one stays as it is.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a mean for a report; counts are small"
    )]
    pub(crate) fn joined(mut parts: Vec<Self>, text: String) -> Self {
        if parts.len() == 1
            && let Some(whole) = parts.pop()
        {
            return whole;
        }
        let n_tokens: usize = parts.iter().map(|part| part.token_ids.len()).sum();
        let logprob = |part: &Self| f64::from(part.logprob_mean) * part.token_ids.len() as f64;
        let logprob_sum: f64 = parts.iter().map(logprob).sum();
        // Whatever cut a part short has cut the whole short.
        let reasons = parts.iter().map(|part| part.finish_reason);
        let cut_short =
            reasons.filter(|reason| *reason != FinishReason::Stop).max_by_key(|reason| {
                // A loop says more than a limit.
                *reason == FinishReason::Guard
            });
        Self {
            finish_reason: cut_short.unwrap_or(FinishReason::Stop),
            n_prompt_tokens: parts.iter().map(|part| part.n_prompt_tokens).sum(),
            logprob_mean: (logprob_sum / n_tokens.max(1) as f64) as f32,
            trial: Trial::default(),
            token_ids: parts.into_iter().flat_map(|part| part.token_ids).collect(),
            text,
        }
    }
}

/// A prompt that got no answer. The row is rejected; other rows go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {n_tokens} tokens, at most {max_tokens} fit the context")]
    PromptTooLong {
        /// The tokens of the prompt.
        n_tokens: usize,
        /// The most tokens a prompt may have.
        max_tokens: usize,
    },
    /// The prompt has no token at all.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The model returned scores that are not numbers, or its rules leave no token.
    #[error(
        "no token can be chosen after {n_generated} tokens: the scores are not finite, or the rules \
         of the generation config forbid every token"
    )]
    NoToken {
        /// The tokens generated before.
        n_generated: usize,
    },
    /// The runtime failed on this row alone.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl GenerateError {
    /// Returns the label for metrics and rejects: few and stable.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::PromptTooLong { .. } => "prompt_too_long",
            Self::EmptyPrompt => "empty_prompt",
            Self::NoToken { .. } => "no_token",
            Self::Decode(error) => error.code(),
        }
    }
}

/// A ticket that has left the engine.
#[derive(Debug)]
pub struct Finished {
    /// The ticket given at admission.
    pub ticket: u64,
    /// The answer, or why there is none.
    pub result: Result<Generation, GenerateError>,
}
