//! Text encoders with pooled states, with or without the files of sentence-transformers.

use crate::arch::{Architecture, EmbeddingSpec, Names, PromptSpec, PromptText, Wiring};

pub(in crate::arch) static SENTENCE: Architecture = Architecture {
    models: "sentence encoders",
    names: Names::suffixes(&["Model", "ForMaskedLM"]),
    wiring: Wiring::Embedding(&EmbeddingSpec::Sentence),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};
