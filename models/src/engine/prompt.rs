//! What the decoder is prefilled with.

use std::sync::Arc;

use crate::tensors::Tensor;

/// A token of a prompt that the decoder chooses itself, before it is prefilled: the likeliest of
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
/// | `states` | `f32` | `[T, C]` | what the encoder made of the sample, for a decoder that looks at it |
#[derive(Clone, Debug)]
pub struct Prompt {
    token_ids: Vec<i64>,
    embeds: Option<Tensor<f32>>,
    states: Option<Arc<Tensor<f32>>>,
    choice: Option<TokenChoice>,
}

impl Prompt {
    /// Makes a prompt for a decoder that embeds its tokens itself.
    #[must_use]
    pub fn of_tokens(token_ids: Vec<i64>) -> Self {
        Self { token_ids, embeds: None, states: None, choice: None }
    }

    /// Makes a prompt for the decoder of an encoder-decoder: the tokens an answer begins with, and
    /// what the encoder made of the sample.
    ///
    /// # Panics
    ///
    /// If `states` is not `[T, C]`, or `choice` is not about one of the tokens: that is a fault of
    /// the encoder, not of a row.
    #[must_use]
    pub fn of_states(
        token_ids: Vec<i64>,
        states: Tensor<f32>,
        choice: Option<TokenChoice>,
    ) -> Self {
        assert_eq!(states.shape().len(), 2, "states of a prompt have two dimensions");
        let places = 1..token_ids.len();
        assert!(choice.iter().all(|choice| places.contains(&choice.position)), "a token to choose");
        Self { token_ids, embeds: None, states: Some(Arc::new(states)), choice }
    }

    /// Returns the prompt with the token that was to be chosen.
    #[must_use]
    pub(crate) fn chosen(&self, token_id: i64) -> Self {
        let mut prompt = self.clone();
        if let Some(choice) = prompt.choice.take() {
            prompt.token_ids[choice.position] = token_id;
        }
        prompt
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
        Self { token_ids, embeds: Some(embeds), states: None, choice: None }
    }

    /// Returns the token ids, placeholders included.
    #[must_use]
    pub fn token_ids(&self) -> &[i64] {
        &self.token_ids
    }

    /// Returns the input embeddings `[S, C]`, if the decoder takes embeddings.
    #[must_use]
    pub fn embeds(&self) -> Option<&Tensor<f32>> {
        self.embeds.as_ref()
    }

    /// Returns what the encoder made of the sample, `[T, C]`, if the decoder looks at it.
    #[must_use]
    pub fn states(&self) -> Option<&Tensor<f32>> {
        self.states.as_deref()
    }

    /// Returns the token that the decoder is to choose, if there is one.
    #[must_use]
    pub fn choice(&self) -> Option<&TokenChoice> {
        self.choice.as_ref()
    }

    /// Returns the number of tokens `S`.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Returns the bytes held, for budgets.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let tensors = [self.embeds(), self.states()];
        let tensor_bytes: usize = tensors.into_iter().flatten().map(Tensor::size_bytes).sum();
        tensor_bytes + self.token_ids.len() * size_of::<i64>()
    }
}
