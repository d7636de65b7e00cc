//! What `config.json` says of images and audio.

use serde::Deserialize;

/// The keys of `config.json` that only models of images and audio have.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct MediaConfig {
    /// The mark before an image (Gemma 3, Gemma 3n).
    #[serde(default, alias = "boi_token_index")]
    pub(crate) boi_token_id: Option<i64>,
    /// The mark behind an image (Gemma 3, Gemma 3n).
    #[serde(default, alias = "eoi_token_index")]
    pub(crate) eoi_token_id: Option<i64>,
    /// The mark before audio (Gemma 3n).
    #[serde(default)]
    pub(crate) boa_token_id: Option<i64>,
    /// The mark behind audio (Gemma 3n).
    #[serde(default)]
    pub(crate) eoa_token_id: Option<i64>,
    /// Features of an image (LLaVA).
    #[serde(default)]
    pub(crate) image_seq_length: Option<usize>,
    /// Encoder states that become one feature of audio (Ultravox).
    #[serde(default)]
    pub(crate) stack_factor: Option<usize>,
    #[serde(default)]
    vision_config: VisionConfig,
    #[serde(default)]
    pub(crate) audio_config: AudioConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct VisionConfig {
    #[serde(default)]
    spatial_merge_size: Option<usize>,
}

/// The sizes of an audio encoder (Voxtral).
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct AudioConfig {
    pub(crate) hidden_size: Option<usize>,
    pub(crate) intermediate_size: Option<usize>,
    pub(crate) max_source_positions: Option<usize>,
}

impl MediaConfig {
    /// Returns how many patches along an edge become one feature; 2 where left out
    /// (`Qwen2VLVisionConfig`).
    pub(crate) fn spatial_merge_size(&self) -> usize {
        self.vision_config.spatial_merge_size.unwrap_or(2).max(1)
    }
}
