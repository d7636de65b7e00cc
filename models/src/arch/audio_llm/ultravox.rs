//! Ultravox: audio of up to one clip after the text, with one placeholder per stack of encoder
//! states.

use crate::{
    arch::{
        Architecture, AudioSpec, ContentOrder, EncoderInputs, Expansion, Names, PromptConfigs,
        PromptLayout, PromptSpec, Wiring, inconsistent,
    },
    config::{AudioFeatures, BundleError, SoundConfig, SoundLength},
};

pub(in crate::arch) static ULTRAVOX: Architecture = Architecture {
    models: "Ultravox",
    names: Names::exact(&["UltravoxModel", "ultravox"]),
    wiring: Wiring::Multimodal,
    audio: Some(AudioSpec {
        features: AudioFeatures::LogMel,
        length: |_| SoundLength::AsItIs,
        expansion: audio_expansion,
        inputs: EncoderInputs::SPECTROGRAMS,
    }),
    // As in `UltravoxPipeline`.
    prompt: PromptSpec { content: Some(ContentOrder::TextThenMedia), ..PromptSpec::CHAT },
    ..Architecture::BASE
};

fn audio_expansion(configs: &PromptConfigs<'_>) -> Result<PromptLayout, BundleError> {
    let processor = configs.processor;
    // The defaults of the processor are 320 and 8.
    let hop = match &processor.feature_extractor {
        Some(SoundConfig::LogMel(mel)) => mel.hop_length.max(1),
        _ => 1,
    };
    let stride = processor.encoder_ds_factor.unwrap_or(320) / hop;
    let factor = processor.stack_factor.or(configs.model.media.stack_factor).unwrap_or(8);
    if stride == 0 || factor == 0 {
        return Err(inconsistent("`encoder_ds_factor` or `stack_factor` is too small".to_owned()));
    }
    // transformers.js adds one token, and so do the published graphs.
    Ok(Expansion::PerStack { stride, factor, more: 1 }.into())
}
