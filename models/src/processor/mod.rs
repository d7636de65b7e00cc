//! A record turned into what the model reads, exactly as the bundle's processor configs say.
//!
//! Pure work on host memory, shared by any number of threads. Decoding media bytes is the
//! pipeline's; running encoders is `family`'s.

mod audio;
mod error;
mod image;
mod record;
mod resample;
mod resize;
mod samples;
mod text;
mod transcript;

pub use audio::LogMel;
pub use error::ProcessError;
pub use image::ImageProcessor;
pub use record::{Record, RgbImage, Sample, Waveform};
pub use resize::{Backend, Filter, resize};
pub use samples::RawSamples;
pub(crate) use text::TextProcessor;
pub(crate) use transcript::Transcript;

use std::{fmt, sync::Arc};

use crate::{
    bundle::{Bundle, BundleError, Modalities},
    tensors::Tensor,
};

/// Prepares records for one bundle.
pub struct Processor {
    text: Arc<TextProcessor>,
    image: Option<ImageProcessor>,
    audio: Option<LogMel>,
    samples: Option<RawSamples>,
    /// The one medium of a row that is the whole question; text is not read then.
    only: Option<&'static str>,
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processor")
            .field("image", &self.image)
            .field("audio", &self.audio)
            .field("samples", &self.samples)
            .finish_non_exhaustive()
    }
}

impl Processor {
    /// Reads the processor configs, the tokenizer and the chat template of a bundle.
    ///
    /// # Errors
    ///
    /// [`BundleError`] if a file is missing or asks for something that is not supported.
    pub fn open(bundle: &Bundle) -> Result<Self, BundleError> {
        let modalities = bundle.modalities();
        let config = &bundle.processor;
        let image = config.image_processor.as_ref().filter(|_| modalities.image);
        let audio = config.feature_extractor.as_ref().filter(|_| modalities.audio);
        Ok(Self {
            text: Arc::new(TextProcessor::open(bundle)?),
            image: image.map(ImageProcessor::open).transpose()?,
            audio: audio.map(LogMel::open).transpose()?,
            samples: config.samples.as_ref().map(RawSamples::open).transpose()?,
            only: match modalities {
                Modalities { text: false, image: true, .. } => Some("image"),
                Modalities { text: false, audio: true, .. } => Some("audio"),
                _ => None,
            },
        })
    }

    /// Turns a record into a sample: token ids with placeholders, pixel values, input features. A
    /// model that reads no text, such as a captioner or a transcriber, is given the one image or
    /// sound alone, whatever the record's text says.
    ///
    /// # Errors
    ///
    /// [`ProcessError`]; the row is rejected, other rows go on.
    pub fn prepare(&self, record: &Record) -> Result<Sample, ProcessError> {
        let token_ids = match self.only {
            None => self.text.token_ids(record)?,
            Some(modality) => {
                let is_image = modality == "image";
                let actual = if is_image { record.images.len() } else { record.audios.len() };
                if actual != 1 {
                    return Err(ProcessError::MediaCount { modality, actual });
                }
                Vec::new()
            }
        };
        Ok(Sample {
            token_ids,
            pixel_values: self.pixel_values(&record.images)?,
            input_features: self.input_features(&record.audios)?,
        })
    }

    /// Returns the prompt as the chat template renders it, one placeholder per image and sound.
    ///
    /// # Errors
    ///
    /// [`ProcessError::Template`] if the template refuses the record.
    pub fn prompt_text(&self, record: &Record) -> Result<String, ProcessError> {
        self.text.prompt_text(record)
    }

    /// Returns what turns generated ids back into text.
    pub(crate) fn text(&self) -> Arc<TextProcessor> {
        Arc::clone(&self.text)
    }

    /// Stacks the images of a record: `[n, 3, H, W]`, or `None` without an image.
    fn pixel_values(&self, images: &[RgbImage]) -> Result<Option<Tensor<f32>>, ProcessError> {
        if images.is_empty() {
            return Ok(None);
        }
        let Some(processor) = &self.image else {
            return Err(ProcessError::Modality { modality: "image" });
        };
        let mut shape = None;
        let mut values = Vec::new();
        for image in images {
            let one = processor.pixel_values(image)?;
            // With `shortest_edge` alone, images of one row may differ in size.
            if *shape.get_or_insert(one.shape().to_vec()) != one.shape() {
                return Err(ProcessError::ImageSizesDiffer);
            }
            values.extend(one.into_data());
        }
        let mut stacked = vec![images.len()];
        stacked.extend(shape.unwrap_or_default());
        Ok(Some(Tensor::new(stacked, values)?))
    }

    /// Stacks the sounds of a record: `[n, mels, frames]`, or `None` without a sound.
    fn input_features(&self, audios: &[Waveform]) -> Result<Option<Tensor<f32>>, ProcessError> {
        if audios.is_empty() {
            return Ok(None);
        }
        if let (Some(processor), [audio]) = (&self.samples, audios) {
            return processor.input_values(audio).map(Some);
        }
        let Some(processor) = &self.audio else {
            return Err(ProcessError::Modality { modality: "audio" });
        };
        let mut values = Vec::new();
        for audio in audios {
            values.extend(processor.input_features(audio)?.into_data());
        }
        let [n_mels, n_frames] = processor.feature_shape();
        Ok(Some(Tensor::new([audios.len(), n_mels, n_frames], values)?))
    }
}
