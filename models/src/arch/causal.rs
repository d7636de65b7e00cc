//! Decoders of text: Llama, Qwen, Mistral, Gemma, GPT-2 and all that share their graph inputs.
//!
//! Whether a graph can be run is read from its own inputs.

use super::{Architecture, Names};

pub(super) static CAUSAL: Architecture = Architecture {
    models: "text decoders",
    names: Names::suffixes(&["ForCausalLM", "LMHeadModel"]),
    ..Architecture::BASE
};
