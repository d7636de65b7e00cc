//! Encoders of text whose states are pooled, as sentence-transformers lays them out or alone.

use crate::arch::{Architecture, EmbeddingSpec, Names, PromptSpec, PromptText, Wiring};

pub(in crate::arch) static SENTENCE: Architecture = Architecture {
    models: "sentence encoders",
    names: Names::suffixes(&["Model", "ForMaskedLM"]),
    wiring: Wiring::Embedding(&EmbeddingSpec::Sentence),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};
