//! Moonshine: transcription from raw samples.

use crate::{
    arch::{Architecture, EncoderInput, Names, PromptSpec, PromptText, Seq2SeqSpec, Wiring},
    config::SAMPLES_SECONDS_MAX,
};

/// The number of samples per output position of the encoder (`downsample_stride` of
/// `MoonshineDecoder.forward`, transformers 4.57). The decoder takes the mask of the samples.
const DOWNSAMPLE_STRIDE: usize = 64 * 3 * 2;

pub(in crate::arch) static MOONSHINE: Architecture = Architecture {
    models: "Moonshine",
    names: Names::exact(&["MoonshineForConditionalGeneration"]),
    wiring: Wiring::EncoderDecoder(&Seq2SeqSpec {
        input: EncoderInput::Samples,
        encoder_positions: |_| Some(SAMPLES_SECONDS_MAX * 16_000 / DOWNSAMPLE_STRIDE),
        mask_stride: DOWNSAMPLE_STRIDE,
        ..Seq2SeqSpec::BASE
    }),
    prompt: PromptSpec::of(PromptText::Unread),
    ..Architecture::BASE
};
