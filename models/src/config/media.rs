//! What `config.json` says of images and audio.

use serde::Deserialize;

/// The keys of `config.json` that only image and audio models have.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct MediaConfig {
    /// The token before an image (Gemma 3, Gemma 3n).
    #[serde(default, alias = "boi_token_index")]
    pub(crate) boi_token_id: Option<i64>,
    /// The token after an image (Gemma 3, Gemma 3n).
    #[serde(default, alias = "eoi_token_index")]
    pub(crate) eoi_token_id: Option<i64>,
    /// The token before audio (Gemma 3n).
    #[serde(default)]
    pub(crate) boa_token_id: Option<i64>,
    /// The token after audio (Gemma 3n).
    #[serde(default)]
    pub(crate) eoa_token_id: Option<i64>,
    /// The number of features per image (LLaVA).
    #[serde(default)]
    pub(crate) image_seq_length: Option<usize>,
    /// The number of encoder states per audio feature (Ultravox).
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
    /// Returns the number of patches along an edge that merge into one feature. Defaults to 2
    /// (`Qwen2VLVisionConfig`).
    pub(crate) fn spatial_merge_size(&self) -> usize {
        self.vision_config.spatial_merge_size.unwrap_or(2).max(1)
    }
}
