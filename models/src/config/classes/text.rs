//! The defaults of the config classes of text decoders.

use serde_json::{Value, json};

/// Adds the keys that transformers omits from a nested `text_config` because they are the defaults
/// of its `model_type` (the config classes of transformers 4.57).
pub(crate) fn with_text_defaults(text: &Value) -> Value {
    let defaults = match text["model_type"].as_str() {
        Some("llama") => json!({
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "vocab_size": 32000, "max_position_embeddings": 2048,
        }),
        Some("mistral") => json!({
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 131_072,
        }),
        Some("qwen2") => json!({
            "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 151_936, "max_position_embeddings": 32768,
        }),
        Some("gemma") => json!({
            "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 16, "head_dim": 256, "vocab_size": 256_000,
            "max_position_embeddings": 8192,
        }),
        Some("gemma2") => json!({
            "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256_000,
            "max_position_embeddings": 8192,
        }),
        Some("gemma3_text") => json!({
            "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208,
            "max_position_embeddings": 131_072,
        }),
        Some("gemma3n_text") => json!({
            "hidden_size": 2048, "num_hidden_layers": 35, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 262_400,
            "hidden_size_per_layer_input": 256,
            "max_position_embeddings": 32768,
        }),
        _ => return text.clone(),
    };
    let mut completed = defaults;
    if let (Some(completed), Some(text)) = (completed.as_object_mut(), text.as_object()) {
        completed.extend(text.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    completed
}
