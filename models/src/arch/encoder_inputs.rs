//! The graph inputs of image and audio encoders.

use crate::config::ProcessorConfig;

/// The inputs of an encoder whose features replace placeholder tokens.
#[derive(Debug)]
pub(crate) struct EncoderInputs {
    /// The dimensions of the values, -1 for any; not checked if empty.
    pub(crate) dims: &'static [i64],
    /// Whether the values have a leading axis of 1.
    pub(crate) has_leading_axis: bool,
    pub(crate) unit: RunUnit,
    /// The inputs in addition to the values.
    pub(crate) extra: &'static [ExtraInput],
}

impl EncoderInputs {
    /// Batched rows: `[B, ...]`.
    const ROWS: Self = Self {
        dims: &[],
        has_leading_axis: false,
        unit: RunUnit::Rows { may_split: true },
        extra: &[],
    };

    /// Whole images: `[B, 3, H, W]`.
    pub(super) const IMAGES: Self = Self { dims: &[-1, 3, -1, -1], ..Self::ROWS };

    /// Log-mel spectrograms: `[B, mels, T]`.
    pub(super) const SPECTROGRAMS: Self = Self::ROWS;

    /// Frames: `[B, T, mels]`.
    pub(super) const FRAMES: Self = Self { unit: RunUnit::Rows { may_split: false }, ..Self::ROWS };
}

/// The unit of one encoder run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunUnit {
    /// Media of several samples with the same shape.
    Rows {
        /// Whether the media of one sample may be split across several runs.
        may_split: bool,
    },
    /// Patches of several samples. Each patch attends to all of its image, so large batches gain
    /// nothing.
    Patches,
    /// The media of one sample.
    Sample,
    /// One image.
    Image,
}

/// An input in addition to the values.
#[derive(Debug)]
pub(crate) struct ExtraInput {
    /// The names of the input. The first one is used in errors if the graph has none of them.
    pub(crate) names: &'static [&'static str],
    /// Whether the graph may lack this input.
    pub(crate) is_optional: bool,
    pub(crate) value: ExtraValue,
}

/// The value of an additional input.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExtraValue {
    /// The mask of valid pixels of the tiles, `[1, tiles, S, S]`: all true, as rows of one shape
    /// need no padding.
    PixelMask,
    /// The number of frames, and the rows and columns of patches, of each image, `[images, 3]`.
    PatchGrids,
    /// The mask of valid patches of the crops, `[1, crops, P, P]`.
    CropMask,
    /// The height and width in pixels of all crops of an image together, `[1, 2]`.
    CropSizes,
    /// The mask of valid frames, `[B, T]`.
    FrameMask,
    /// The number of features of each audio input, `[B]`.
    FeatureCounts {
        /// Returns the number of frames per feature.
        frames_per_feature: fn(&ProcessorConfig) -> usize,
    },
    /// The projection of the audio features: one for prompts without images, one for prompts with
    /// images.
    Projection { audio_alone: i64, with_images: i64 },
}
