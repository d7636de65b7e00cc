//! The errors of a declared form.

/// An error in the declared form of answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// A keyword of JSON Schema, or a value of one, is not supported.
    #[error("`{keyword}` at `{at}` {problem}")]
    Keyword {
        /// The keyword.
        keyword: String,
        /// The JSON pointer of the schema that has it.
        at: String,
        /// What is wrong.
        problem: String,
    },
    /// A type of the short form is unknown.
    #[error(
        "has the type `{text}`: expected \"string\", \"string(80)\", \"bool\", \"int8\" to \"int64\", \
         \"uint8\" to \"uint64\", \"float32\", \"float64\", \"decimal(10, 2)\", \"date\", \"timestamp\", \
         \"list<…>\" or \"list<…, 5>\", each optionally with `?` for null"
    )]
    Name {
        /// The type.
        text: String,
    },
    /// The values of a column are not usable.
    #[error("{0}")]
    Values(String),
}
