//! Text decoders: Llama, Qwen, Mistral, Gemma, GPT-2 and all others with the same graph inputs.
//!
//! Whether a graph is supported is determined by its own inputs.

use super::{Architecture, Names};

pub(super) static CAUSAL: Architecture = Architecture {
    models: "text decoders",
    names: Names::suffixes(&["ForCausalLM", "LMHeadModel"]),
    ..Architecture::BASE
};
