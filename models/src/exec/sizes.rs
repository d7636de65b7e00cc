//! The bytes that a row takes while it is decoded.

use crate::bundle::Bundle;

impl Bundle {
    /// Returns the bytes of one slot's key-value cache when it holds `context_tokens`.
    ///
    /// Caches begin smaller and double; while they do, half as much again is held. What an
    /// encoder-decoder keeps of its encoder is not in it.
    #[must_use]
    pub fn kv_bytes_per_slot(&self, context_tokens: usize) -> usize {
        let text = &self.config.text;
        // Keys and values, each one `f32` per layer, head, position and dimension.
        2 * text.num_hidden_layers
            * text.num_key_value_heads()
            * cache_tokens(context_tokens)
            * text.head_dim()
            * size_of::<f32>()
    }

    /// Returns the bytes that one slot of an encoder-decoder keeps of what its encoder made: the
    /// states, and keys and values of them in each layer.
    pub(crate) fn source_bytes_per_slot(&self, context_tokens: usize) -> usize {
        if self.arch.seq2seq().is_none() {
            return 0;
        }
        let (text, encoder) = (&self.config.text, &self.config.encoder);
        let per_position = encoder.hidden_size
            + 2 * text.num_hidden_layers * text.num_key_value_heads() * text.head_dim();
        encoder.positions.unwrap_or(context_tokens) * per_position * size_of::<f32>()
    }

    /// Returns the bytes of `n_tokens` as input embeddings, with what each layer takes of them.
    pub(crate) fn embed_bytes(&self, n_tokens: usize) -> usize {
        let text = &self.config.text;
        let per_layer = text.num_hidden_layers.saturating_mul(text.hidden_size_per_layer_input);
        let per_token = text.hidden_size.saturating_add(per_layer).saturating_mul(size_of::<f32>());
        n_tokens.saturating_mul(per_token)
    }
}

/// Returns the positions of a cache for a context: whole blocks of the widest vector loops, so that
/// a sum over positions is cut alike whatever the capacity.
pub(super) fn cache_tokens(context_tokens: usize) -> usize {
    context_tokens.next_multiple_of(64)
}
