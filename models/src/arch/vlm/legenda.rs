//! The default model: the processor config sets the number of placeholders per image and audio
//! input.

use crate::{
    arch::{Architecture, AudioSpec, EncoderInputs, Expansion, ImageSpec, Names, Wiring},
    config::{AudioFeatures, ImageLayoutKind, SoundLength},
};

pub(in crate::arch) static LEGENDA: Architecture = Architecture {
    models: "Legenda",
    names: Names::exact(&["LegendaForConditionalGeneration"]),
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Whole,
        expansion: |configs| Ok(Expansion::Repeated(configs.image_tokens(None)?).into()),
        inputs: EncoderInputs::IMAGES,
    }),
    audio: Some(AudioSpec {
        features: AudioFeatures::LogMel,
        length: |_| SoundLength::OneClip,
        expansion: |configs| Ok(Expansion::Repeated(configs.audio_tokens(None)?).into()),
        inputs: EncoderInputs::SPECTROGRAMS,
    }),
    ..Architecture::BASE
};
