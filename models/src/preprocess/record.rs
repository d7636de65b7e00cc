//! What goes into a processor and what comes out.

use std::{fmt, sync::Arc};

use super::{ProcessError, audio::samples_at};
use crate::{engine::Subject, tensors::Tensor};

/// What the model is asked, media decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The user's text: the prompt of the job, filled from the row.
    pub text: Option<String>,
    /// The system message.
    pub system: Option<String>,
    /// What was said before, in its order, where the text goes on with a conversation.
    pub earlier: Vec<Turn>,
    /// The images, in the order they are shown to the model.
    pub images: Vec<RgbImage>,
    /// The sounds, in the order they are played to the model.
    pub audios: Vec<Waveform>,
}

/// What somebody said in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who.
    pub role: Role,
    /// What.
    pub text: String,
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who asks.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Returns the name that chat templates and the API of OpenAI have for it.
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

/// Shows the size only.
impl fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

/// A decoded sound: one channel.
#[derive(Clone, PartialEq)]
pub struct Waveform {
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// `f32 [n]`, full scale is -1 to 1.
    pub samples: Vec<f32>,
}

impl Waveform {
    /// Returns the duration in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sounds have far fewer than 2^52 samples")]
    pub fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(self.sample_rate_hz.max(1))
    }

    /// Returns the audio at another sample rate.
    ///
    /// # Errors
    ///
    /// [`ProcessError`] if the audio is empty, not finite, or cannot be resampled.
    pub fn at_rate(&self, sample_rate_hz: u32) -> Result<Self, ProcessError> {
        let samples = samples_at(self, sample_rate_hz)?.into_owned();
        Ok(Self { sample_rate_hz, samples })
    }
}

/// Shows the size only.
impl fmt::Debug for Waveform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waveform({} samples at {} Hz)", self.samples.len(), self.sample_rate_hz)
    }
}

/// How an image is laid out in its pixel values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageLayout {
    /// In one piece.
    Whole {
        /// Height in pixels.
        height: usize,
        /// Width in pixels.
        width: usize,
    },
    /// As tiles and, after them, the whole image; as that alone where there are none.
    Tiles {
        /// Rows of tiles.
        rows: usize,
        /// Columns of tiles.
        columns: usize,
    },
    /// As frames, rows and columns of patches.
    Patches([usize; 3]),
    /// As the whole image and, after it, crops.
    Crops(CropGrid),
}

impl ImageLayout {
    /// Returns the rows of its pixel values.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        match self {
            Self::Whole { .. } => 1,
            Self::Tiles { rows, columns } => rows * columns + 1,
            Self::Patches(grid) => grid.iter().product(),
            Self::Crops(grid) => grid.n_crops(),
        }
    }

    /// Returns frames, rows and columns of patches, if the image is that.
    #[must_use]
    pub fn patches(&self) -> Option<[usize; 3]> {
        match self {
            Self::Patches(grid) => Some(*grid),
            Self::Whole { .. } | Self::Tiles { .. } | Self::Crops(_) => None,
        }
    }
}

/// How an image is cut into crops, with white where they reach beyond it on the right and below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropGrid {
    /// Rows of crops.
    pub rows: usize,
    /// Columns of crops.
    pub columns: usize,
    /// The edge of a crop in pixels.
    pub edge: usize,
    /// Rows of patches that are of the image.
    pub patch_rows: usize,
    /// Columns of patches that are of the image.
    pub patch_columns: usize,
    /// Patches along the edge of a crop.
    pub patches_per_crop: usize,
}

impl CropGrid {
    /// Returns the crops with the whole image.
    #[must_use]
    pub fn n_crops(&self) -> usize {
        1 + self.rows * self.columns
    }

    /// Returns the features that the image becomes: those of its parts and a mark behind each row of
    /// them, a mark, and the same of the whole (`Phi4MultimodalImageProcessorFast._preprocess`).
    #[must_use]
    pub fn n_tokens(&self) -> usize {
        let [rows, columns, whole] =
            [self.patch_rows, self.patch_columns, self.patches_per_crop].map(|n| n.div_ceil(2));
        rows * (columns + 1) + 1 + whole * (whole + 1)
    }
}

/// A record after its processor.
///
/// | name | dtype | shape | meaning |
/// |---|---|---|---|
/// | `token_ids` | `i64` | `[S]` | the prompt, one placeholder per media feature; empty for a model that reads no text |
/// | `pixel_values` | `f32` | `[n_images, 3, H, W]`, `[n_tiles or n_crops, 3, S, S]` or `[n_patches, N]` | normalised pixels |
/// | `image_layouts` | | `[n_images]` | how each image lies in these |
/// | `input_features` | `f32` | `[n_clips, mels, frames]` or `[n_sounds, frames, mels]` | log-mel spectrogram; or of one sound `[1, n]`, samples as they are, or `[1, views, frames, mels]` |
/// | `sound_frames` | | `[n_sounds]` | the frames of each sound that are not silence behind it |
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The prompt as token ids.
    pub token_ids: Vec<i64>,
    /// The images, if there is one.
    pub pixel_values: Option<Tensor<f32>>,
    /// How the values of each image lie.
    pub image_layouts: Vec<ImageLayout>,
    /// The sounds, if there is one.
    pub input_features: Option<Tensor<f32>>,
    /// How many frames of each sound count, for a model that is told; else empty.
    pub sound_frames: Vec<usize>,
    /// Whether it is answered without beams, also where others have them.
    pub is_single: bool,
    /// What the answer is about, for a model that has to be told.
    pub subject: Option<Arc<Subject>>,
}

impl Sample {
    /// Returns the bytes held, for budgets.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let media = [&self.pixel_values, &self.input_features];
        let media_bytes: usize = media.into_iter().flatten().map(Tensor::size_bytes).sum();
        media_bytes + self.token_ids.len() * size_of::<i64>()
    }
}
