//! Voxtral: a start token, then placeholders for every started clip of the audio.

use crate::{
    arch::{Architecture, AudioSpec, EncoderInputs, Expansion, Names, Wiring},
    config::{AudioFeatures, ModelConfig, SoundLength},
};

pub(in crate::arch) static VOXTRAL: Architecture = Architecture {
    models: "Voxtral",
    names: Names::exact(&["VoxtralForConditionalGeneration", "voxtral"]),
    wiring: Wiring::Multimodal,
    audio: Some(AudioSpec {
        features: AudioFeatures::LogMel,
        length: |config| {
            let n_features = features_per_clip(config).max(1);
            let n_max = config.text.max_position_embeddings / n_features;
            SoundLength::WholeClips { n_max: n_max.max(1) }
        },
        // The processor hard-codes the start token.
        expansion: |configs| {
            let n_tokens = features_per_clip(configs.model);
            Ok(Expansion::PerClip { n_tokens, before: "[BEGIN_AUDIO]" }.into())
        },
        inputs: EncoderInputs::SPECTROGRAMS,
    }),
    ..Architecture::BASE
};

/// Returns the number of features per clip. The encoder states are stacked by the ratio of an inner
/// layer's width to their own (`VoxtralForConditionalGeneration.get_audio_features`). Defaults are
/// those of `VoxtralEncoderConfig`.
fn features_per_clip(config: &ModelConfig) -> usize {
    let audio = &config.media.audio_config;
    let hidden_size = audio.hidden_size.unwrap_or(1280);
    let intermediate_size = audio.intermediate_size.unwrap_or(5120).max(1);
    audio.max_source_positions.unwrap_or(1500) * hidden_size / intermediate_size
}
