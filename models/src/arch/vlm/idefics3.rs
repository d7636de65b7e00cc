//! Idefics3 and SmolVLM: tiles in rows and columns, each after a marker token, then the whole
//! image.

use crate::{
    arch::{
        Architecture, EncoderInputs, Expansion, ExtraInput, ExtraValue, ImageSpec, Names, RunUnit,
        Wiring,
    },
    config::ImageLayoutKind,
};

pub(in crate::arch) static IDEFICS3: Architecture = Architecture {
    models: "Idefics3, SmolVLM",
    names: Names::exact(&[
        "Idefics3ForConditionalGeneration",
        "idefics3",
        "SmolVLMForConditionalGeneration",
        "smolvlm",
    ]),
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Tiles,
        // The processors hard-code these tokens, and default to 169.
        expansion: |configs| {
            let n_tokens = configs.image_tokens(Some(169))?;
            let (separator, global) = ("<fake_token_around_image>", "<global-img>");
            Ok(Expansion::Tiles { n_tokens, separator, global }.into())
        },
        // The graphs merge the first two axes, so tiles of several samples share a row.
        inputs: EncoderInputs {
            dims: &[-1, -1, 3, -1, -1],
            has_leading_axis: true,
            unit: RunUnit::Rows { may_split: false },
            extra: &[ExtraInput {
                names: &["pixel_attention_mask"],
                is_optional: true,
                value: ExtraValue::PixelMask,
            }],
        },
    }),
    ..Architecture::BASE
};
