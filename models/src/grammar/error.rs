//! The errors of a form that cannot be enforced.

use legenda_schemas::cause::Cause;

/// A form that cannot be enforced, or not with this model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// A regular expression is invalid, too large, or matches nothing.
    #[error("unsupported regular expression `{regex}`")]
    Regex {
        /// The regular expression.
        regex: String,
        /// The error.
        source: Cause,
    },
    /// The tokens of the model are not pieces of text.
    #[error("typed answers are not supported with the tokenizer of this model: {problem}")]
    Tokenizer {
        /// The reason.
        problem: String,
    },
    /// The vocabulary lacks a byte that every answer needs.
    #[error("the vocabulary of this model cannot write `{text}`, which typed answers need")]
    Unwritable {
        /// The shortest answer.
        text: String,
    },
    /// The shortest answer exceeds the token limit.
    #[error(
        "the shortest typed answer has {n_tokens} tokens, but at most {max_tokens} are generated \
         (`generation.max_new_tokens`)"
    )]
    Limit {
        /// The number of tokens of the shortest answer, end token included.
        n_tokens: usize,
        /// The limit.
        max_tokens: usize,
    },
    /// The model decodes with beams.
    #[error(
        "typed answers require one beam, but {n_beams} are set: set `generation.num_beams = 1`"
    )]
    Beams {
        /// The number of beams.
        n_beams: usize,
    },
}
