//! The output of the engine.

use super::{DecodeError, Trial};

/// The reasons why generation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model generated an end token, or a stop string appeared.
    Stop,
    /// The limit of new tokens or the context size was reached.
    Length,
    /// The model was in an endless loop; see [`Guard`](super::Guard).
    Guard,
}

impl FinishReason {
    /// Returns the finish reason with this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        [Self::Stop, Self::Length, Self::Guard].into_iter().find(|reason| reason.as_str() == name)
    }

    /// Returns the name used in the output: `stop`, `length` or `guard`.
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
    /// The generated tokens, including the end token if there is one.
    pub token_ids: Vec<i64>,
    /// The text of the tokens without special tokens, cut before the first stop string.
    pub text: String,
    /// The reason why generation ended.
    pub finish_reason: FinishReason,
    /// The number of prompt tokens, including placeholder tokens and the text tokens of the
    /// encoder.
    pub n_prompt_tokens: usize,
    /// The mean natural log probability of the chosen tokens, before temperature and top-k/top-p.
    /// Zero means certainty.
    pub logprob_mean: f32,
    /// The accepted attempt, if answers are retried, and the token that the model chose in its
    /// prompt.
    pub trial: Trial,
}

impl Generation {
    /// Joins generations into one with the given text. A single generation is returned unchanged.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a mean for a report; counts are small"
    )]
    pub(crate) fn joined(mut chunks: Vec<Self>, text: String) -> Self {
        if chunks.len() == 1
            && let Some(whole) = chunks.pop()
        {
            return whole;
        }
        let n_tokens: usize = chunks.iter().map(|chunk| chunk.token_ids.len()).sum();
        let logprob = |chunk: &Self| f64::from(chunk.logprob_mean) * chunk.token_ids.len() as f64;
        let logprob_sum: f64 = chunks.iter().map(logprob).sum();
        // If a chunk was cut short, so was the whole.
        let reasons = chunks.iter().map(|chunk| chunk.finish_reason);
        let cut_short =
            reasons.filter(|reason| *reason != FinishReason::Stop).max_by_key(|reason| {
                // A loop takes precedence over a length limit.
                *reason == FinishReason::Guard
            });
        Self {
            finish_reason: cut_short.unwrap_or(FinishReason::Stop),
            n_prompt_tokens: chunks.iter().map(|chunk| chunk.n_prompt_tokens).sum(),
            logprob_mean: (logprob_sum / n_tokens.max(1) as f64) as f32,
            trial: Trial::default(),
            token_ids: chunks.into_iter().flat_map(|chunk| chunk.token_ids).collect(),
            text,
        }
    }
}

/// A prompt without an answer. The row is rejected; other rows are not affected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The prompt leaves no room for an answer.
    #[error("prompt too long: {n_tokens} tokens, at most {max_tokens} fit the context")]
    PromptTooLong {
        /// The number of prompt tokens.
        n_tokens: usize,
        /// The maximum number of prompt tokens.
        max_tokens: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The model returned non-finite logits, or the constraints forbid every token.
    #[error(
        "failed to choose a token after {n_generated} tokens: the logits are not finite, or the \
         generation config forbids every token"
    )]
    NoToken {
        /// The number of tokens generated so far.
        n_generated: usize,
    },
    /// The shortest typed answer exceeds the token limit.
    #[error("the shortest typed answer has {n_tokens} tokens, but the limit leaves {max_tokens}")]
    AnswerLimit {
        /// The number of tokens of the shortest answer, end token included.
        n_tokens: usize,
        /// The number of tokens left.
        max_tokens: usize,
    },
    /// The runtime failed on this row alone.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl GenerateError {
    /// Returns a stable error code for metrics and rejects.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::PromptTooLong { .. } => "prompt_too_long",
            Self::EmptyPrompt => "empty_prompt",
            Self::NoToken { .. } => "no_token",
            Self::AnswerLimit { .. } => "answer_invalid",
            Self::Decode(error) => error.code(),
        }
    }
}

/// A finished row.
#[derive(Debug)]
pub struct Finished {
    /// The ticket given at admission.
    pub ticket: u64,
    /// The answer, or the error.
    pub result: Result<Generation, GenerateError>,
}
