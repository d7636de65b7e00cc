//! SigLIP: a dual encoder of images and text that pads all texts to one length.

use crate::arch::{Architecture, DualSpec, EmbeddingSpec, Names, PromptSpec, PromptText, Wiring};

pub(in crate::arch) static SIGLIP: Architecture = Architecture {
    models: "SigLIP",
    names: Names::exact(&["SiglipModel", "siglip"]),
    wiring: Wiring::Embedding(&EmbeddingSpec::Dual(DualSpec {
        pads_to_max: true,
        // `SiglipTextConfig.max_position_embeddings`.
        default_positions: Some(64),
        ..DualSpec::IMAGE
    })),
    prompt: PromptSpec::of(PromptText::Plain),
    ..Architecture::BASE
};
