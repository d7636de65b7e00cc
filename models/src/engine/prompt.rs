//! The prompt that a decoder is prefilled with.

use std::sync::Arc;

use super::Subject;
use crate::tensors::Tensor;

/// A prompt token that the model chooses itself before prefill: the most likely of `candidates`
/// after the tokens before `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenChoice {
    /// The position of the token in the prompt; at least 1.
    pub position: usize,
    /// The tokens to choose from.
    pub candidates: Arc<[i64]>,
}

/// A sample after its encoders: one row for the decoder.
///
/// | name | dtype | shape | meaning |
/// |---|---|---|---|
/// | `token_ids` | `i64` | `[S]` | the prompt tokens, placeholder tokens included |
/// | `embeds` | `f32` | `[S, C]` | their input embeddings, with media features at the placeholders; `None` for a decoder that embeds tokens itself |
/// | `states` | `f32` | `[T, C]`, or `[N, heads, T, dim]` for keys and values | the encoder output, for a decoder with cross-attention |
/// | `positions` | `i64` | `[A, S]` | the position IDs; `None` for 0 to `S - 1` |
#[derive(Clone, Debug)]
pub struct Prompt {
    token_ids: Vec<i64>,
    embeds: Option<Arc<Tensor<f32>>>,
    states: Option<Arc<Tensor<f32>>>,
    /// Boxed, like `positions`, to keep `Prompt` small.
    choice: Option<Box<TokenChoice>>,
    positions: Option<Box<Positions>>,
    subject: Option<Arc<Subject>>,
    n_text_tokens: usize,
    is_single: bool,
    adapter: Option<usize>,
}

/// The position IDs of a prompt and of its answer, for models with other positions than `0..S`.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    ids: Tensor<i64>,
    next: i64,
}

impl Positions {
    /// Creates positions from those of the prompt, `[A, S]`, and that of the first answer token.
    /// The following ones increase by one on every axis.
    ///
    /// # Panics
    ///
    /// If `ids` does not have two dimensions: this is a bug in the encoder, not in a row.
    #[must_use]
    pub fn new(ids: Tensor<i64>, next: i64) -> Self {
        assert_eq!(ids.shape().len(), 2, "prompt positions have two dimensions");
        Self { ids, next }
    }

    /// Creates positions for `n_tokens` that start at `first` instead of 0.
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

    /// Returns the position of the first answer token.
    #[must_use]
    pub fn next(&self) -> i64 {
        self.next
    }
}

impl Prompt {
    /// Creates a prompt for a decoder that embeds its tokens itself.
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

    /// Selects the decoder adapter of the prompt and its answer, if any. Rows with different
    /// adapters are not batched together.
    #[must_use]
    pub fn with_adapter(self, adapter: Option<usize>) -> Self {
        Self { adapter, ..self }
    }

    /// Returns the index of the decoder adapter.
    #[must_use]
    pub fn adapter(&self) -> Option<usize> {
        self.adapter
    }

    /// Sets whether the prompt is decoded without beams even if other prompts use them.
    #[must_use]
    pub fn single(self, is_single: bool) -> Self {
        Self { is_single, ..self }
    }

    /// Returns whether the prompt is decoded without beams.
    #[must_use]
    pub fn is_single(&self) -> bool {
        self.is_single
    }

    /// Creates a prompt for the decoder of an encoder-decoder from the tokens that an answer starts
    /// with and the encoder output of the sample, which includes `n_text_tokens` text tokens.
    ///
    /// # Panics
    ///
    /// If `states` has another shape, or `choice` is not one of the tokens: this is a bug in the
    /// encoder, not in a row.
    #[must_use]
    pub fn of_states(
        token_ids: Vec<i64>,
        states: Tensor<f32>,
        choice: Option<TokenChoice>,
        n_text_tokens: usize,
    ) -> Self {
        assert!([2, 4].contains(&states.shape().len()), "states have two or four dimensions");
        let places = 1..token_ids.len();
        assert!(
            choice.iter().all(|choice| places.contains(&choice.position)),
            "the position of a choice is within the prompt"
        );
        let states = Some(Arc::new(states));
        let choice = choice.map(Box::new);
        Self { states, choice, n_text_tokens, ..Self::of_tokens(token_ids) }
    }

    /// Returns the prompt with the chosen token filled in.
    #[must_use]
    pub(crate) fn chosen(mut self, token_id: i64) -> Self {
        if let Some(choice) = self.choice.take() {
            self.token_ids[choice.position] = token_id;
        }
        self
    }

    /// Creates a prompt from token IDs and their embeddings.
    ///
    /// # Panics
    ///
    /// If `embeds` is not `[token_ids.len(), C]`: this is a bug in the encoder, not in a row.
    #[must_use]
    pub fn new(token_ids: Vec<i64>, embeds: Tensor<f32>) -> Self {
        assert_eq!(embeds.shape().len(), 2, "prompt embeddings have two dimensions");
        assert_eq!(embeds.rows(), token_ids.len(), "one embedding per token");
        Self { embeds: Some(Arc::new(embeds)), ..Self::of_tokens(token_ids) }
    }

    /// Adds the embeddings of the tokens, for a decoder that takes both embeddings and states.
    ///
    /// # Panics
    ///
    /// If there is not one for each token: this is a bug in the encoder, not in a row.
    #[must_use]
    pub fn embedded(self, embeds: Tensor<f32>) -> Self {
        assert_eq!(embeds.rows(), self.token_ids.len(), "one embedding per token");
        Self { embeds: Some(embeds.into()), ..self }
    }

    /// Sets the context of the answer.
    #[must_use]
    pub fn about(self, subject: Option<Arc<Subject>>) -> Self {
        Self { subject, ..self }
    }

    /// Returns the context of the answer that its tokens do not contain.
    #[must_use]
    pub fn subject(&self) -> Option<Arc<Subject>> {
        self.subject.clone()
    }

    /// Sets the position IDs of the prompt.
    ///
    /// # Panics
    ///
    /// If there is not one for each token: this is a bug in the encoder, not in a row.
    #[must_use]
    pub fn at(mut self, positions: Positions) -> Self {
        assert_eq!(positions.ids.row_len(), self.token_ids.len(), "one position per token");
        self.positions = Some(Box::new(positions));
        self
    }

    /// Returns the position of a token on an axis. A prompt with one axis has the same position on
    /// all.
    #[must_use]
    pub fn position(&self, axis: usize, token_idx: usize) -> i64 {
        match self.positions.as_deref() {
            Some(Positions { ids, .. }) => {
                ids.row(axis.min(ids.rows().saturating_sub(1)))[token_idx]
            }
            None => i64::try_from(token_idx).unwrap_or(i64::MAX),
        }
    }

    /// Returns the position of the first answer token.
    #[must_use]
    pub fn next_position(&self) -> i64 {
        let n_tokens = i64::try_from(self.token_ids.len()).unwrap_or(i64::MAX);
        self.positions.as_ref().map_or(n_tokens, |positions| positions.next)
    }

    /// Returns the token IDs, placeholder tokens included.
    #[must_use]
    pub fn token_ids(&self) -> &[i64] {
        &self.token_ids
    }

    /// Returns the input embeddings `[S, C]`, if the decoder takes embeddings.
    #[must_use]
    pub fn embeds(&self) -> Option<&Tensor<f32>> {
        self.embeds.as_deref()
    }

    /// Returns the encoder output, `[T, C]` or `[N, heads, T, dim]`, if the decoder takes it.
    #[must_use]
    pub fn states(&self) -> Option<&Tensor<f32>> {
        self.states.as_deref()
    }

    /// Returns the number of positions in the encoder output.
    pub(crate) fn n_positions(&self) -> usize {
        match self.states().map(Tensor::shape) {
            Some([n_positions, _] | [_, _, n_positions, _]) => *n_positions,
            _ => 0,
        }
    }

    /// Returns the token that the model has to choose, if there is one.
    #[must_use]
    pub fn choice(&self) -> Option<&TokenChoice> {
        self.choice.as_deref()
    }

    /// Returns the number of tokens `S`.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Returns the number of input tokens of encoder and decoder together, for reports.
    #[must_use]
    pub(crate) fn n_given(&self) -> usize {
        self.n_text_tokens + self.token_ids.len()
    }

    /// Returns the size in bytes, for memory budgets.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let tensors = [self.embeds(), self.states()];
        let tensor_bytes: usize = tensors.into_iter().flatten().map(Tensor::size_bytes).sum();
        let position_bytes = self.positions.as_ref().map_or(0, |at| at.ids.size_bytes());
        tensor_bytes + position_bytes + self.token_ids.len() * size_of::<i64>()
    }
}
