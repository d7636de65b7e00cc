//! The reason why a graph is not rewritten.

/// A graph does not meet a condition of a rewriting, so it runs as published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The file cannot be read, or not without its weights.
    #[error("failed to read the graph")]
    Read(#[from] std::io::Error),
    /// An input or output is missing or of another type.
    #[error("unexpected input or output `{name}`")]
    Port {
        /// The input or output.
        name: String,
    },
    /// The pattern does not match.
    #[error("unexpected nodes around `{value}`: {problem}")]
    Pattern {
        /// The value in the graph.
        value: String,
        /// The unmet condition.
        problem: &'static str,
    },
}

impl Refusal {
    /// Creates a refusal of a pattern.
    pub(super) fn pattern(value: &str, problem: &'static str) -> Self {
        Self::Pattern { value: value.to_owned(), problem }
    }
}
