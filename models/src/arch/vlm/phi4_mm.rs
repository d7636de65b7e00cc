//! Phi-4-multimodal: one placeholder per feature of an image's crops, and per stack of audio
//! frames.
//!
//! # Source
//!
//! `PhiMultiModalProcessor` of onnxruntime-genai 0.18 and `Phi4MultimodalImageEmbedding` of
//! transformers 4.57. Images are encoded one at a time: crops do not attend to those of other
//! images.

use crate::{
    arch::{
        Architecture, AudioSpec, ContentOrder, EncoderInputs, Expansion, ExtraInput, ExtraValue,
        GenaiModel, ImageSpec, Names, PromptSpec, RunUnit, Wiring,
    },
    config::{AudioFeatures, ImageLayoutKind, ProcessorConfig, SoundConfig, SoundLength},
};

pub(in crate::arch) static PHI4_MM: Architecture = Architecture {
    models: "Phi-4-multimodal",
    names: Names::exact(&["Phi4MMForCausalLM"]),
    genai: &[GenaiModel {
        model_type: "phi4mm",
        needs_embedding: false,
        name: "Phi4MMForCausalLM",
        tokens: &[("image_token_id", "<|endoftext10|>"), ("audio_token_id", "<|endoftext11|>")],
    }],
    wiring: Wiring::Multimodal,
    image: Some(ImageSpec {
        layout: ImageLayoutKind::Crops,
        expansion: |_| Ok(Expansion::PerCrop.into()),
        inputs: EncoderInputs {
            dims: &[-1, -1, 3, -1, -1],
            has_leading_axis: true,
            unit: RunUnit::Image,
            extra: &[
                extra(&["image_attention_mask"], ExtraValue::CropMask),
                extra(&["image_sizes"], ExtraValue::CropSizes),
            ],
        },
    }),
    audio: Some(AudioSpec {
        features: AudioFeatures::StackedFrames,
        length: |_| SoundLength::OneClip,
        expansion: |configs| {
            let factor = frames_per_feature(configs.processor);
            Ok(Expansion::PerStack { stride: 1, factor, more: 0 }.into())
        },
        inputs: EncoderInputs {
            dims: &[-1, -1, -1],
            has_leading_axis: false,
            unit: RunUnit::Sample,
            extra: &[
                extra(&["audio_attention_mask"], ExtraValue::FrameMask),
                extra(&["audio_sizes"], ExtraValue::FeatureCounts { frames_per_feature }),
                // Features use one of two projections.
                extra(
                    &["audio_projection_mode"],
                    ExtraValue::Projection { audio_alone: 2, with_images: 3 },
                ),
            ],
        },
    }),
    // As in the publisher's examples.
    prompt: PromptSpec { content: Some(ContentOrder::MediaThenText), ..PromptSpec::CHAT },
    ..Architecture::BASE
};

const fn extra(names: &'static [&'static str], value: ExtraValue) -> ExtraInput {
    ExtraInput { names, is_optional: false, value }
}

fn frames_per_feature(processor: &ProcessorConfig) -> usize {
    match &processor.feature_extractor {
        Some(SoundConfig::StackedFrames(config)) => config.audio_compression_rate.max(1),
        _ => 8,
    }
}
