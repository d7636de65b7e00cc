//! What the graph of an image or audio encoder takes.

use crate::config::ProcessorConfig;

/// The inputs of an encoder whose features stand in placeholder positions.
#[derive(Debug)]
pub(crate) struct EncoderInputs {
    /// The dimensions of its values, -1 for any; not checked where empty.
    pub(crate) dims: &'static [i64],
    /// Whether a first axis of 1 stands before the rows.
    pub(crate) has_leading_axis: bool,
    pub(crate) unit: RunUnit,
    /// The inputs in addition to the values.
    pub(crate) extra: &'static [ExtraInput],
}

impl EncoderInputs {
    /// Rows alone: `[B, ...]`.
    const ROWS: Self = Self {
        dims: &[],
        has_leading_axis: false,
        unit: RunUnit::Rows { may_split: true },
        extra: &[],
    };

    /// Whole images: `[B, 3, H, W]`.
    pub(super) const IMAGES: Self = Self { dims: &[-1, 3, -1, -1], ..Self::ROWS };

    /// Spectrograms: `[B, mels, T]`.
    pub(super) const SPECTROGRAMS: Self = Self::ROWS;

    /// Frames: `[B, T, mels]`.
    pub(super) const FRAMES: Self = Self { unit: RunUnit::Rows { may_split: false }, ..Self::ROWS };
}

/// What goes through an encoder in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunUnit {
    /// Media of several samples that have the same shape.
    Rows {
        /// Whether media of one sample may go through in several runs.
        may_split: bool,
    },
    /// Patches of several samples: each attends to all of its image, so large batches gain nothing.
    Patches,
    /// The media of one sample.
    Sample,
    /// One image.
    Image,
}

/// An input in addition to the values.
#[derive(Debug)]
pub(crate) struct ExtraInput {
    /// The names it goes by; the first where the graph has none of them.
    pub(crate) names: &'static [&'static str],
    /// Whether graphs without it are run too.
    pub(crate) is_optional: bool,
    pub(crate) value: ExtraValue,
}

/// The content of an additional input.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ExtraValue {
    /// Which pixels of tiles are of the image, `[1, tiles, S, S]`: all of them, as rows of one shape
    /// need no padding.
    PixelMask,
    /// Frames, rows and columns of patches of each image, `[images, 3]`.
    PatchGrids,
    /// Which patches of crops are of the image, `[1, crops, P, P]`.
    CropMask,
    /// Height and width of the crops of an image together in pixels, `[1, 2]`.
    CropSizes,
    /// Which frames are of the audio, `[B, T]`.
    FrameMask,
    /// The features of each audio, `[B]`.
    FeatureCounts {
        /// Returns the frames that become one feature.
        frames_per_feature: fn(&ProcessorConfig) -> usize,
    },
    /// The projection that audio features go through: one without images, another with images.
    Projection { audio_alone: i64, with_images: i64 },
}
