//! What the decoder is prefilled with.

use std::sync::Arc;

use super::Subject;
use crate::tensors::Tensor;

/// A token of a prompt that the model chooses itself, before the prompt is prefilled: the likeliest of
/// `candidates` after the tokens before `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenChoice {
    /// The place of the token in the prompt; at least 1.
    pub position: usize,
    /// The tokens to choose from.
    pub candidates: Arc<[i64]>,
}

/// A sample after its encoders: one row for the decoder.
///
/// | name | dtype | shape | meaning |
/// |---|---|---|---|
/// | `token_ids` | `i64` | `[S]` | the prompt's tokens, placeholders included |
/// | `embeds` | `f32` | `[S, C]` | their input embeddings, media features in their places; `None` for a decoder that embeds tokens itself |
/// | `states` | `f32` | `[T, C]`, or `[N, heads, T, dim]` of keys and values | what the encoder made of the sample, for a decoder that looks at it |
/// | `positions` | `i64` | `[A, S]` | where they stand; `None` where that is 0 to `S - 1` |
#[derive(Clone, Debug)]
pub struct Prompt {
    token_ids: Vec<i64>,
    embeds: Option<Arc<Tensor<f32>>>,
    states: Option<Arc<Tensor<f32>>>,
    /// This and the next apart, so that a prompt stays small.
    choice: Option<Box<TokenChoice>>,
    positions: Option<Box<Positions>>,
    subject: Option<Arc<Subject>>,
    n_text_tokens: usize,
    is_single: bool,
    adapter: Option<usize>,
}

/// Where the tokens of a prompt stand and where its answer goes on, for a model in which that is not
/// simply their number.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    ids: Tensor<i64>,
    next: i64,
}

impl Positions {
    /// Joins the positions `[A, S]` of a prompt and that of the answer's first token; those behind it
    /// follow one by one, the same on every axis.
    ///
    /// # Panics
    ///
    /// If `ids` has not two dimensions: that is a fault of the encoder, not of a row.
    #[must_use]
    pub fn new(ids: Tensor<i64>, next: i64) -> Self {
        assert_eq!(ids.shape().len(), 2, "positions of a prompt have two dimensions");
        Self { ids, next }
    }

    /// Positions that begin at `first` rather than 0, for `n_tokens`.
    #[must_use]
    pub fn starting_at(first: i64, n_tokens: usize) -> Self {
        let ids: Vec<i64> = (first..).take(n_tokens).collect();
        let next = ids.last().map_or(first, |last| last + 1);
        let mut axis = Tensor::zeros([1, n_tokens]);
        axis.data_mut().copy_from_slice(&ids);
        Self { ids: axis, next }
    }

    /// Returns the positions `[A, S]`.
    #[must_use]
    pub fn ids(&self) -> &Tensor<i64> {
        &self.ids
    }

    /// Returns where the answer begins.
    #[must_use]
    pub fn next(&self) -> i64 {
        self.next
    }
}

impl Prompt {
    /// Makes a prompt for a decoder that embeds its tokens itself.
    #[must_use]
    pub fn of_tokens(token_ids: Vec<i64>) -> Self {
        Self {
            token_ids,
            embeds: None,
            states: None,
            choice: None,
            positions: None,
            subject: None,
            n_text_tokens: 0,
            is_single: false,
            adapter: None,
        }
    }

    /// Says which of the decoder's adapters the prompt and its answer are run with, if any: rows of
    /// others do not stand beside it.
    #[must_use]
    pub fn with_adapter(self, adapter: Option<usize>) -> Self {
        Self { adapter, ..self }
    }

    /// Returns which of the decoder's adapters the prompt is run with.
    #[must_use]
    pub fn adapter(&self) -> Option<usize> {
        self.adapter
    }

    /// Says whether the prompt is answered without beams, also where others have them.
    #[must_use]
    pub fn single(self, is_single: bool) -> Self {
        Self { is_single, ..self }
    }

    /// Returns whether the prompt is answered without beams.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.is_single
    }

    /// Makes a prompt for the decoder of an encoder-decoder: the tokens an answer begins with, and
    /// what the encoder made of the sample, of which `n_text_tokens` are of text.
    ///
    /// # Panics
    ///
    /// If `states` is of neither shape, or `choice` is not about one of the tokens: that is a fault of
    /// the encoder, not of a row.
    #[must_use]
    pub fn of_states(
        token_ids: Vec<i64>,
        states: Tensor<f32>,
        choice: Option<TokenChoice>,
        n_text_tokens: usize,
    ) -> Self {
        assert!([2, 4].contains(&states.shape().len()), "states have two dimensions or four");
        let places = 1..token_ids.len();
        assert!(choice.iter().all(|choice| places.contains(&choice.position)), "a token to choose");
        let states = Some(Arc::new(states));
        let choice = choice.map(Box::new);
        Self { states, choice, n_text_tokens, ..Self::of_tokens(token_ids) }
    }

    /// Returns the prompt with the token that was to be chosen.
    #[must_use]
    pub(crate) fn chosen(mut self, token_id: i64) -> Self {
        if let Some(choice) = self.choice.take() {
            self.token_ids[choice.position] = token_id;
        }
        self
    }

    /// Joins token ids and their embeddings.
    ///
    /// # Panics
    ///
    /// If `embeds` is not `[token_ids.len(), C]`: that is a fault of the encoder, not of a row.
    #[must_use]
    pub fn new(token_ids: Vec<i64>, embeds: Tensor<f32>) -> Self {
        assert_eq!(embeds.shape().len(), 2, "embeddings of a prompt have two dimensions");
        assert_eq!(embeds.rows(), token_ids.len(), "one embedding per token");
        Self { embeds: Some(Arc::new(embeds)), ..Self::of_tokens(token_ids) }
    }

    /// Gives the prompt the embeddings of its tokens, for a decoder that takes both those and states.
    ///
    /// # Panics
    ///
    /// If there is not one for each token: that is a fault of the encoder, not of a row.
    #[must_use]
    pub fn embedded(self, embeds: Tensor<f32>) -> Self {
        assert_eq!(embeds.rows(), self.token_ids.len(), "one embedding per token");
        Self { embeds: Some(embeds.into()), ..self }
    }

    /// Says what the answer is about.
    #[must_use]
    pub fn about(self, subject: Option<Arc<Subject>>) -> Self {
        Self { subject, ..self }
    }

    /// Returns what the answer is about, where its tokens do not tell.
    #[must_use]
    pub fn subject(&self) -> Option<Arc<Subject>> {
        self.subject.clone()
    }

    /// Gives the prompt positions of its own.
    ///
    /// # Panics
    ///
    /// If there is not one for each token: that is a fault of the encoder, not of a row.
    #[must_use]
    pub fn at(mut self, positions: Positions) -> Self {
        assert_eq!(positions.ids.row_len(), self.token_ids.len(), "one position per token");
        self.positions = Some(Box::new(positions));
        self
    }

    /// Returns where a token stands on an axis; a prompt with one axis stands alike on all.
    #[must_use]
    pub fn position(&self, axis: usize, token_idx: usize) -> i64 {
        match self.positions.as_deref() {
            Some(Positions { ids, .. }) => {
                ids.row(axis.min(ids.rows().saturating_sub(1)))[token_idx]
            }
            None => i64::try_from(token_idx).unwrap_or(i64::MAX),
        }
    }

    /// Returns where the first token of the answer stands.
    #[must_use]
    pub fn next_position(&self) -> i64 {
        let n_tokens = i64::try_from(self.token_ids.len()).unwrap_or(i64::MAX);
        self.positions.as_ref().map_or(n_tokens, |positions| positions.next)
    }

    /// Returns the token ids, placeholders included.
    #[must_use]
    pub fn token_ids(&self) -> &[i64] {
        &self.token_ids
    }

    /// Returns the input embeddings `[S, C]`, if the decoder takes embeddings.
    #[must_use]
    pub fn embeds(&self) -> Option<&Tensor<f32>> {
        self.embeds.as_deref()
    }

    /// Returns what the encoder made of the sample, `[T, C]`, if the decoder looks at it.
    #[must_use]
    pub fn states(&self) -> Option<&Tensor<f32>> {
        self.states.as_deref()
    }

    /// Returns the positions of what the encoder made of the sample.
    pub(crate) fn n_positions(&self) -> usize {
        match self.states().map(Tensor::shape) {
            Some([n_positions, _] | [_, _, n_positions, _]) => *n_positions,
            _ => 0,
        }
    }

    /// Returns the token that the model is to choose, if there is one.
    #[must_use]
    pub fn choice(&self) -> Option<&TokenChoice> {
        self.choice.as_deref()
    }

    /// Returns the number of tokens `S`.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Returns the tokens that encoder and decoder are given together, for reports.
    #[must_use]
    pub(crate) fn n_given(&self) -> usize {
        self.n_text_tokens + self.token_ids.len()
    }

    /// Returns the bytes held, for budgets.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let tensors = [self.embeds(), self.states()];
        let tensor_bytes: usize = tensors.into_iter().flatten().map(Tensor::size_bytes).sum();
        let position_bytes = self.positions.as_ref().map_or(0, |at| at.ids.size_bytes());
        tensor_bytes + position_bytes + self.token_ids.len() * size_of::<i64>()
    }
}
