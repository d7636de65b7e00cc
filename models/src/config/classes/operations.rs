//! The published operations of onnxruntime-extensions that are named after a model.

/// Frames of which several become one feature.
pub(crate) const STACKED_FRAMES: &str = "Phi4AudioEmbed";

/// Crops of an image.
pub(crate) const CROPS: &str = "Phi4VisionDynamicPreprocess";

/// The whole image in the size of a crop; with [`CROPS`] it is one step of transformers.
pub(crate) const WHOLE_OF_CROPS: &str = "Phi4VisionProcessor";
