//! The answer to a row, and its conversion to columns.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeListBuilder, Float32Array, Float32Builder, ListBuilder,
        StringArray, StringBuilder, UInt32Array,
    },
    datatypes::Field,
};
use legenda_models::{Embedding, Generation};
use legenda_schemas::{
    flag::{Flag, Flags},
    table::{AnswerKind, embedding_item, flags_item},
};

/// The answer to a row.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The output of the model.
    pub content: Content,
    /// The flags of the input.
    pub flags: Flags,
}

/// The output of a model for one row.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A text.
    Generation(Generation),
    /// An embedding.
    Embedding(Embedding),
}

impl From<Generation> for Content {
    fn from(generation: Generation) -> Self {
        Self::Generation(generation)
    }
}

impl From<Embedding> for Content {
    fn from(embedding: Embedding) -> Self {
        Self::Embedding(embedding)
    }
}

impl Answer {
    /// Creates an answer from the output of the model and the flags of the input.
    #[must_use]
    pub(crate) fn new(content: impl Into<Content>, flags: Flags) -> Self {
        Self { content: content.into(), flags }
    }

    /// Returns the number of generated tokens; 0 for an embedding.
    #[must_use]
    pub(crate) fn tokens_generated(&self) -> u64 {
        self.generation().map_or(0, |generation| generation.token_ids.len() as u64)
    }

    /// Returns the number of tokens of the prompt, or of the embedded text.
    #[must_use]
    pub(crate) fn tokens_prompt(&self) -> u64 {
        match &self.content {
            Content::Generation(generation) => generation.n_prompt_tokens as u64,
            Content::Embedding(embedding) => embedding.n_tokens.unwrap_or(0) as u64,
        }
    }

    /// Returns a transcript as it is written: without the leading space that speech models emit before the
    /// first word.
    pub(super) fn as_transcript(self: Arc<Self>) -> Arc<Self> {
        match &self.content {
            Content::Generation(generation) if generation.text.starts_with(char::is_whitespace) => {
                let text = generation.text.trim_start().to_owned();
                let content = Content::Generation(Generation { text, ..generation.clone() });
                Arc::new(Self { content, ..(*self).clone() })
            }
            _ => self,
        }
    }

    /// Returns the text, if the answer is one.
    #[must_use]
    pub(crate) fn text(&self) -> Option<&str> {
        self.generation().map(|generation| generation.text.as_str())
    }

    fn generation(&self) -> Option<&Generation> {
        match &self.content {
            Content::Generation(generation) => Some(generation),
            Content::Embedding(_) => None,
        }
    }

    fn embedding(&self) -> Option<&Embedding> {
        match &self.content {
            Content::Generation(_) => None,
            Content::Embedding(embedding) => Some(embedding),
        }
    }
}

/// The source of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Computed by the model for this row.
    Model,
    /// Computed by the model for a duplicate row of the run.
    Duplicate,
    /// Computed by an earlier run for the same input.
    Store,
}

impl Origin {
    /// Returns the value of `legenda_status`. Which of several duplicate rows is computed depends only on
    /// thread timing, so the status does not distinguish them.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Model | Self::Duplicate => "ok",
            Self::Store => "reused",
        }
    }
}

/// Builds the answer columns from the answer itself up to the input digest, which the caller adds;
/// `None` is a rejected row. See [`answer_fields`](legenda_schemas::table::answer_fields).
pub(super) fn answer_columns(
    kind: AnswerKind,
    answers: &[Option<&Answer>],
    status: ArrayRef,
) -> Vec<ArrayRef> {
    match kind {
        AnswerKind::Text => generation_columns(status, answers),
        AnswerKind::Embedding { dimension } => embedding_columns(status, dimension, answers),
    }
}

fn generation_columns(status: ArrayRef, answers: &[Option<&Answer>]) -> Vec<ArrayRef> {
    let generations: Vec<Option<&Generation>> =
        answers.iter().map(|answer| answer.and_then(Answer::generation)).collect();
    let texts = |of: &dyn Fn(&Generation) -> String| -> ArrayRef {
        Arc::new(generations.iter().map(|one| one.map(of)).collect::<StringArray>())
    };
    let counts = |of: &dyn Fn(&Generation) -> usize| -> ArrayRef {
        Arc::new(generations.iter().map(|one| one.map(of).map(count)).collect::<UInt32Array>())
    };
    let logprobs = generations.iter().map(|one| one.map(|generation| generation.logprob_mean));
    vec![
        texts(&|generation| generation.text.clone()),
        status,
        texts(&|generation| generation.finish_reason.as_str().to_owned()),
        flags_column(answers.iter().map(|answer| answer.map(|answer| &answer.flags))),
        counts(&|generation| generation.n_prompt_tokens),
        counts(&|generation| generation.token_ids.len()),
        Arc::new(logprobs.collect::<Float32Array>()),
    ]
}

fn embedding_columns(
    status: ArrayRef,
    dimension: usize,
    answers: &[Option<&Answer>],
) -> Vec<ArrayRef> {
    let size = i32::try_from(dimension).unwrap_or(i32::MAX);
    let item: Field = embedding_item();
    let numbers = Float32Builder::with_capacity(answers.len() * dimension);
    let mut lists = FixedSizeListBuilder::new(numbers, size).with_field(item);
    let embeddings: Vec<Option<&Embedding>> =
        answers.iter().map(|answer| answer.and_then(Answer::embedding)).collect();
    for embedding in &embeddings {
        // The dimension comes from the model, and a graph has exactly one.
        let values = embedding.map(|one| one.values.as_slice());
        match values.filter(|values| values.len() == dimension) {
            Some(values) => lists.values().append_slice(values),
            None => lists.values().append_nulls(dimension),
        }
        lists.append(embedding.is_some());
    }
    let tokens = embeddings.iter().map(|one| one.and_then(|one| one.n_tokens).map(count));
    let flags = flags_column(answers.iter().map(|answer| answer.map(|answer| &answer.flags)));
    vec![Arc::new(lists.finish()), status, flags, Arc::new(tokens.collect::<UInt32Array>())]
}

/// Builds the column of flags; `None` is a rejected row, which has none.
fn flags_column<'a>(rows: impl Iterator<Item = Option<&'a Flags>>) -> ArrayRef {
    let mut lists = ListBuilder::new(StringBuilder::new()).with_field(flags_item());
    for flags in rows {
        let names = flags.into_iter().flatten().map(|flag| Some(flag.as_str()));
        lists.append_value(names);
    }
    Arc::new(lists.finish())
}

/// Returns `n_rows` empty rows of the flags column.
pub(crate) fn no_flags(n_rows: usize) -> ArrayRef {
    flags_column(std::iter::repeat_n(None, n_rows))
}

/// Returns the flags of a row; empty if the column has another type.
pub(crate) fn flags_at(column: &ArrayRef, row: usize) -> Flags {
    let Some(lists) = column.as_list_opt::<i32>().filter(|lists| lists.is_valid(row)) else {
        return Flags::new();
    };
    let names = lists.value(row);
    let names = names.as_string_opt::<i32>().into_iter().flatten();
    names.flatten().filter_map(Flag::from_name).collect()
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
