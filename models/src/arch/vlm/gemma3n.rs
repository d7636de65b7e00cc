//! Gemma 3n: start and end tokens and blank lines around images and audio.

use super::gemma3::framed_image;
use crate::{
    arch::{
        Architecture, AudioSpec, EncoderInputs, Expansion, ExtraInput, ExtraValue, ImageSpec,
        Names, Wiring,
    },
    config::{AudioFeatures, ImageLayoutKind, SoundLength},
};

pub(in crate::arch) static GEMMA3N: Architecture = Architecture {
    models: "Gemma 3n",
    names: Names::exact(&["Gemma3nForConditionalGeneration", "gemma3n"]),
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Whole,
        expansion: |configs| Ok(framed_image(configs)?.into()),
        inputs: EncoderInputs::IMAGES,
    }),
    audio: Some(AudioSpec {
        features: AudioFeatures::Usm,
        length: |_| SoundLength::OneClip,
        expansion: |configs| {
            let ids = &configs.model.media;
            Ok(Expansion::Framed {
                // 188 is the processor's default in transformers 4.57.
                n_tokens: configs.audio_tokens(Some(188))?,
                before: configs.special_token(ids.boa_token_id, "boa_token_id")?,
                after: configs.special_token(ids.eoa_token_id, "eoa_token_id")?,
            }
            .into())
        },
        inputs: EncoderInputs {
            extra: &[ExtraInput {
                names: &["input_features_mask"],
                is_optional: false,
                value: ExtraValue::FrameMask,
            }],
            ..EncoderInputs::FRAMES
        },
    }),
    ..Architecture::BASE
};
