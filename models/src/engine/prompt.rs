//! What the decoder is prefilled with.

use crate::tensors::Tensor;

/// A sample after its encoders: one row for the decoder.
///
/// | name | dtype | shape | meaning |
/// |---|---|---|---|
/// | `token_ids` | `i64` | `[S]` | the prompt's tokens, placeholders included |
/// | `embeds` | `f32` | `[S, C]` | their input embeddings, media features in their places; `None` for a decoder that embeds tokens itself |
#[derive(Clone, Debug)]
pub struct Prompt {
    token_ids: Vec<i64>,
    embeds: Option<Tensor<f32>>,
}

impl Prompt {
    /// Makes a prompt for a decoder that embeds its tokens itself.
    #[must_use]
    pub fn of_tokens(token_ids: Vec<i64>) -> Self {
        Self { token_ids, embeds: None }
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
        Self { token_ids, embeds: Some(embeds) }
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

    /// Returns the number of tokens `S`.
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Returns the bytes held, for budgets.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let embeds_bytes = self.embeds.as_ref().map_or(0, Tensor::size_bytes);
        embeds_bytes + self.token_ids.len() * size_of::<i64>()
    }
}
