//! CLIP, and other dual encoders of images and text.

use crate::arch::{Architecture, DualSpec, EmbeddingSpec, Names, PromptSpec, PromptText, Wiring};

pub(in crate::arch) static CLIP: Architecture = Architecture {
    models: "CLIP",
    names: Names::exact(&["CLIPModel", "clip"]),
    wiring: Wiring::Embedding(&EmbeddingSpec::Dual(DualSpec {
        is_causal: true,
        ..DualSpec::IMAGE
    })),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};

/// Any other model with a `text_config` and a `vision_config`.
pub(in crate::arch) static OTHER_DUAL: Architecture = Architecture {
    models: "other dual encoders of images and text",
    names: Names::suffixes(&["Model"]),
    wiring: Wiring::Embedding(&EmbeddingSpec::Dual(DualSpec::IMAGE)),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};
