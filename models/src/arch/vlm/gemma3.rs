//! Gemma 3: start and end tokens and blank lines around an image.

use crate::{
    arch::{
        Architecture, EncoderInputs, Expansion, GenaiModel, ImageSpec, Names, PositionScheme,
        PromptConfigs, PromptLayout, Wiring,
    },
    config::{BundleError, ImageLayoutKind},
};

pub(in crate::arch) static GEMMA3: Architecture = Architecture {
    models: "Gemma 3",
    names: Names::exact(&["Gemma3ForConditionalGeneration", "gemma3"]),
    genai: &[GenaiModel {
        model_type: "gemma3",
        needs_embedding: true,
        name: "Gemma3ForConditionalGeneration",
        tokens: &[
            ("image_token_id", "<image_soft_token>"),
            ("boi_token_id", "<start_of_image>"),
            ("eoi_token_id", "<end_of_image>"),
        ],
    }],
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Whole,
        expansion: |configs| {
            let expansion = framed_image(configs)?;
            // The template writes the start token of an image, not the placeholder.
            let marker = match &expansion {
                Expansion::Framed { before, .. } => Some(before.clone()),
                _ => None,
            };
            Ok(PromptLayout { marker, expansion })
        },
        inputs: EncoderInputs::IMAGES,
    }),
    positions: PositionScheme::Sequential { first: 1 },
    ..Architecture::BASE
};

/// Returns the expansion of an image between its start and end tokens.
pub(super) fn framed_image(configs: &PromptConfigs<'_>) -> Result<Expansion, BundleError> {
    let ids = &configs.model.media;
    Ok(Expansion::Framed {
        before: configs.special_token(ids.boi_token_id, "boi_token_id")?,
        after: configs.special_token(ids.eoi_token_id, "eoi_token_id")?,
        // 256 is the processor's default in transformers 4.57.
        n_tokens: configs.image_tokens(Some(256))?,
    })
}
