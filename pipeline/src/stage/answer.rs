//! What a row is answered with, and the columns that answers become.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, FixedSizeListBuilder, Float32Array, Float32Builder, StringArray, UInt32Array,
    },
    datatypes::Field,
};
use legenda_models::{Embedding, Generation};
use legenda_schemas::table::{AnswerKind, embedding_item};

/// The answer to a row.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A text.
    Generation(Generation),
    /// An embedding.
    Embedding(Embedding),
}

impl From<Generation> for Answer {
    fn from(generation: Generation) -> Self {
        Self::Generation(generation)
    }
}

impl From<Embedding> for Answer {
    fn from(embedding: Embedding) -> Self {
        Self::Embedding(embedding)
    }
}

impl Answer {
    /// Returns the tokens generated; none for an embedding.
    #[must_use]
    pub fn tokens_generated(&self) -> u64 {
        self.generation().map_or(0, |generation| generation.token_ids.len() as u64)
    }

    /// Returns the tokens of the prompt, or of the text that was embedded.
    #[must_use]
    pub fn tokens_prompt(&self) -> u64 {
        match self {
            Self::Generation(generation) => generation.n_prompt_tokens as u64,
            Self::Embedding(embedding) => embedding.n_tokens.unwrap_or(0) as u64,
        }
    }

    /// Returns the text, where it is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.generation().map(|generation| generation.text.as_str())
    }

    fn generation(&self) -> Option<&Generation> {
        match self {
            Self::Generation(generation) => Some(generation),
            Self::Embedding(_) => None,
        }
    }

    fn embedding(&self) -> Option<&Embedding> {
        match self {
            Self::Generation(_) => None,
            Self::Embedding(embedding) => Some(embedding),
        }
    }
}

/// Who has computed an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The model, for this row.
    Model,
    /// The model, for another row of the run with the same input.
    Twin,
    /// An earlier run, for the same input.
    Store,
}

impl Origin {
    /// Returns what stands in `legenda_status`. Which of several equal rows a run computes depends on
    /// nothing but its threads, so an answer does not tell.
    pub(super) fn status(self) -> &'static str {
        match self {
            Self::Model | Self::Twin => "ok",
            Self::Store => "reused",
        }
    }
}

/// Builds the columns of answers from the answer itself up to the digest of the input, which the
/// caller adds; `None` is a rejected row. See [`answer_fields`](legenda_schemas::table::answer_fields).
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
        // The model was asked for its dimension, and a graph has one.
        let values = embedding.map(|one| one.values.as_slice());
        match values.filter(|values| values.len() == dimension) {
            Some(values) => lists.values().append_slice(values),
            None => lists.values().append_nulls(dimension),
        }
        lists.append(embedding.is_some());
    }
    let tokens = embeddings.iter().map(|one| one.and_then(|one| one.n_tokens).map(count));
    vec![Arc::new(lists.finish()), status, Arc::new(tokens.collect::<UInt32Array>())]
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
