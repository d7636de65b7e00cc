//! The published operations of onnxruntime-extensions with model-specific names.

/// Frames that are stacked into features.
pub(crate) const STACKED_FRAMES: &str = "Phi4AudioEmbed";

/// Crops of an image.
pub(crate) const CROPS: &str = "Phi4VisionDynamicPreprocess";

/// Resizes the whole image to the size of a crop; together with [`CROPS`] it is one step of
/// transformers.
pub(crate) const WHOLE_OF_CROPS: &str = "Phi4VisionProcessor";
