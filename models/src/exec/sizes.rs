//! The bytes that a row takes while it is decoded.

use crate::bundle::Bundle;

impl Bundle {
    /// Returns the KV cache size in bytes of one slot that holds `context_tokens`.
    ///
    /// Caches start smaller and double; during that, 1.5 times the size is held. The encoder states
    /// of an encoder-decoder are not included.
    #[must_use]
    pub fn kv_bytes_per_slot(&self, context_tokens: usize) -> usize {
        let text = &self.config.text;
        // Keys and values: one `f32` per layer, head, position and dimension each.
        2 * text.num_hidden_layers
            * text.num_key_value_heads()
            * cache_tokens(context_tokens)
            * text.head_dim()
            * size_of::<f32>()
    }

    /// Returns the encoder output size in bytes of one slot of an encoder-decoder: the states, and
    /// their keys and values in each layer.
    pub(crate) fn source_bytes_per_slot(&self, context_tokens: usize) -> usize {
        if self.arch.seq2seq().is_none() {
            return 0;
        }
        let (text, encoder) = (&self.config.text, &self.config.encoder);
        let per_position = encoder.hidden_size
            + 2 * text.num_hidden_layers * text.num_key_value_heads() * text.head_dim();
        encoder.positions.unwrap_or(context_tokens) * per_position * size_of::<f32>()
    }

    /// Returns the size in bytes of the encoder states of one slot of an encoder-decoder.
    pub(crate) fn state_bytes_per_slot(&self, context_tokens: usize) -> usize {
        if self.arch.seq2seq().is_none() {
            return 0;
        }
        let encoder = &self.config.encoder;
        encoder.positions.unwrap_or(context_tokens) * encoder.hidden_size * size_of::<f32>()
    }

    /// Returns the size in bytes of `n_tokens` input embeddings, per-layer inputs included.
    pub(crate) fn embed_bytes(&self, n_tokens: usize) -> usize {
        let text = &self.config.text;
        let per_layer = text.num_hidden_layers.saturating_mul(text.hidden_size_per_layer_input);
        let per_token = text.hidden_size.saturating_add(per_layer).saturating_mul(size_of::<f32>());
        n_tokens.saturating_mul(per_token)
    }
}

/// The number of positions in a block of the widest vector loops.
pub(super) const CACHE_BLOCK_TOKENS: usize = 64;

/// Returns the number of cache positions for a context: rounded up to whole blocks, so that sums over
/// positions are split in the same way at any capacity.
pub(super) fn cache_tokens(context_tokens: usize) -> usize {
    context_tokens.next_multiple_of(CACHE_BLOCK_TOKENS)
}
