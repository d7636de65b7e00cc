//! CLAP: a dual encoder of audio and text.

use crate::arch::{Architecture, DualSpec, EmbeddingSpec, Names, PromptSpec, PromptText, Wiring};

pub(in crate::arch) static CLAP: Architecture = Architecture {
    models: "CLAP",
    names: Names::exact(&["ClapModel"]),
    wiring: Wiring::Embedding(&EmbeddingSpec::Dual(DualSpec {
        modality: "audio",
        is_projected: true,
        // RoBERTa reserves its first two positions for padding (`ClapTextConfig`).
        default_positions: Some(514),
        reserved_positions: 2,
        ..DualSpec::IMAGE
    })),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};
