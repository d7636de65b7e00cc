//! The input and output types of a processor.

use std::{fmt, sync::Arc};

use super::{ProcessError, audio::samples_at};
use crate::{engine::Subject, tensors::Tensor};

/// The input of a row, with decoded media.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The user message: the prompt of the job, filled with the values of the row.
    pub text: Option<String>,
    /// The system message.
    pub system: Option<String>,
    /// The earlier turns of a conversation, in order.
    pub earlier: Vec<Turn>,
    /// The images, in prompt order.
    pub images: Vec<RgbImage>,
    /// The audio inputs, in prompt order.
    pub audios: Vec<Waveform>,
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The speaker.
    pub role: Role,
    /// The message.
    pub text: String,
}

/// The speakers of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The user.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Returns the name of the role in chat templates and in the OpenAI API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A decoded image: 8-bit RGB.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `u8 [height, width, 3]`, row-major.
    pub pixels: Vec<u8>,
}

/// Prints only the size.
impl fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

/// A decoded mono waveform.
#[derive(Clone, PartialEq)]
pub struct Waveform {
    /// The sample rate in Hz.
    pub sample_rate_hz: u32,
    /// `f32 [n]`; full scale is -1 to 1.
    pub samples: Vec<f32>,
}

impl Waveform {
    /// Returns the duration in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "audio has far fewer than 2^52 samples")]
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate_hz.max(1))
    }

    /// Returns the audio at another sample rate.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if the audio is empty, has non-finite samples, or cannot be resampled.
    pub fn at_rate(&self, sample_rate_hz: u32) -> Result<Self, ProcessError> {
        let samples = samples_at(self, sample_rate_hz)?.into_owned();
        Ok(Self { sample_rate_hz, samples })
    }
}

/// Prints only the size.
impl fmt::Debug for Waveform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waveform({} samples at {} Hz)", self.samples.len(), self.sample_rate_hz)
    }
}

/// The layout of an image in its pixel values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageLayout {
    /// One image.
    Whole {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
    },
    /// Tiles followed by the whole image; only the whole image if there are no tiles.
    Tiles {
        /// Rows of tiles.
        rows: usize,
        /// Columns of tiles.
        columns: usize,
    },
    /// Patches: the number of frames, rows and columns.
    Patches([usize; 3]),
    /// The whole image followed by crops.
    Crops(CropGrid),
}

impl ImageLayout {
    /// Returns the number of rows of its pixel values.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        match self {
            Self::Whole { .. } => 1,
            Self::Tiles { rows, columns } => rows * columns + 1,
            Self::Patches(grid) => grid.iter().product(),
            Self::Crops(grid) => grid.n_crops(),
        }
    }

    /// Returns the frames, rows and columns of patches, if the layout is patches.
    #[must_use]
    pub fn patches(&self) -> Option<[usize; 3]> {
        match self {
            Self::Patches(grid) => Some(*grid),
            Self::Whole { .. } | Self::Tiles { .. } | Self::Crops(_) => None,
        }
    }
}

/// The crops of an image, padded with white on the right and bottom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropGrid {
    /// The number of rows of crops.
    pub rows: usize,
    /// The number of columns of crops.
    pub columns: usize,
    /// The edge of a crop in pixels.
    pub edge: usize,
    /// The number of rows of patches with image content.
    pub patch_rows: usize,
    /// The number of columns of patches with image content.
    pub patch_columns: usize,
    /// The number of patches along the edge of a crop.
    pub patches_per_crop: usize,
}

impl CropGrid {
    /// Returns the number of crops, including the whole image.
    #[must_use]
    pub fn n_crops(&self) -> usize {
        1 + self.rows * self.columns
    }

    /// Returns the number of features of the image: those of its crops with a separator after each
    /// row, a separator, and the same for the whole image
    /// (`Phi4MultimodalImageProcessorFast._preprocess`).
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        let [rows, columns, whole] =
            [self.patch_rows, self.patch_columns, self.patches_per_crop].map(|n| n.div_ceil(2));
        rows * (columns + 1) + 1 + whole * (whole + 1)
    }
}

/// A preprocessed record.
///
/// | name | dtype | shape | meaning |
/// |---|---|---|---|
/// | `token_ids` | `i64` | `[S]` | the prompt, one placeholder token per media feature; empty if the model does not read text |
/// | `pixel_values` | `f32` | `[n_images, 3, H, W]`, `[n_tiles or n_crops, 3, S, S]` or `[n_patches, N]` | normalised pixels |
/// | `image_layouts` | | `[n_images]` | the layout of each image in the pixel values |
/// | `input_features` | `f32` | `[n_clips, mels, frames]` or `[n_sounds, frames, mels]` | log-mel spectrogram; for a single audio input also `[1, n]`, raw samples, or `[1, views, frames, mels]` |
/// | `sound_frames` | | `[n_sounds]` | the number of frames of each audio input before the padding |
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The prompt as token ids.
    pub token_ids: Vec<i64>,
    /// The pixel values, if there are images.
    pub pixel_values: Option<Tensor<f32>>,
    /// The layout of each image.
    pub image_layouts: Vec<ImageLayout>,
    /// The audio features, if there is audio.
    pub input_features: Option<Tensor<f32>>,
    /// The number of valid frames of each audio input, if the model takes it; otherwise empty.
    pub sound_frames: Vec<usize>,
    /// Whether the sample is decoded without beams, even if beam search is enabled.
    pub is_single: bool,
    /// The context of the answer, if the detokenizer needs it.
    pub subject: Option<Arc<Subject>>,
}

impl Sample {
    /// Returns the size in bytes, for memory budgets.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let media = [&self.pixel_values, &self.input_features];
        let media_bytes: usize = media.into_iter().flatten().map(Tensor::size_bytes).sum();
        media_bytes + self.token_ids.len() * size_of::<i64>()
    }
}
