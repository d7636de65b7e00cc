//! A bundle that makes embeddings, loaded on a device.

use std::{fmt, sync::Arc};

use crate::{
    Bundle, EncodeError, Model, ModelError, ModelOptions, Processor, Record, RgbImage, Runtime,
    Sample, Waveform, family::EmbeddingEncoder, onnx::DeviceKind,
};

/// What is embedded: one of them in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingInput {
    /// Texts.
    Text,
    /// Images.
    Image,
    /// Sounds.
    Audio,
}

impl EmbeddingInput {
    /// Returns the name used in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Audio => "audio",
        }
    }
}

/// One text, image or sound as numbers.
#[derive(Clone, PartialEq)]
pub struct Embedding {
    /// `f32 [D]`, no unit.
    pub values: Vec<f32>,
    /// Tokens of the text, after it was cut; `None` of an image or a sound.
    pub n_tokens: Option<usize>,
}

/// Shows the size only.
impl fmt::Debug for Embedding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Embedding({} numbers, {:?} tokens)", self.values.len(), self.n_tokens)
    }
}

/// What was loaded, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbedderInfo {
    /// The bundle's name.
    pub name: String,
    /// The device chosen.
    pub device: DeviceKind,
    /// Why that device, if `auto` could not take the better one.
    pub device_note: Option<String>,
    /// How many numbers an embedding has.
    pub dimension: usize,
    /// The most rows of a batch.
    pub batch_rows: usize,
}

/// A loaded model that makes embeddings.
///
/// Rows are batched with others of like length. Padding is masked, so an embedding does not depend
/// on the rows beside it but for the last bits, where sums of another length are cut otherwise.
#[derive(Debug)]
pub struct Embedder {
    /// Prepares records; share it.
    pub processor: Arc<Processor>,
    /// What was loaded.
    pub info: EmbedderInfo,
    encoder: EmbeddingEncoder,
}

impl Embedder {
    /// Opens the graph of a bundle that embeds `input`, and embeds one sample to see that it can.
    ///
    /// `slots` of the options is the most rows of a batch; their generation is not looked at.
    ///
    /// # Errors
    ///
    /// [`ModelError`] if the bundle makes no embeddings, the graph does not keep its contract, or
    /// the device cannot be had.
    pub fn load(
        runtime: &Runtime,
        bundle: &Bundle,
        options: &ModelOptions,
        input: EmbeddingInput,
    ) -> Result<Self, ModelError> {
        if options.slots == Some(0) {
            return Err(ModelError::NoSlots);
        }
        bundle.embedding()?;
        let processor = Arc::new(Processor::open(bundle)?);
        let choice = runtime.choose_device(options.device)?;
        let mut encoder = EmbeddingEncoder::open(
            runtime,
            bundle,
            choice.kind,
            input,
            &options.embedding,
            options.slots,
            processor.pad_id(),
        )?;
        let info = EmbedderInfo {
            name: bundle.name().to_owned(),
            device: choice.kind,
            device_note: choice.note,
            dimension: dimension(&processor, &mut encoder, input)?,
            batch_rows: encoder.rows_max(),
        };
        Ok(Self { processor, info, encoder })
    }

    /// Embeds samples, each to its own result, in order.
    ///
    /// A batch that fails is split and repeated down to one row, so only the rows that fail alone
    /// come back as errors.
    pub fn embed(&mut self, samples: &[Sample]) -> Vec<Result<Embedding, EncodeError>> {
        self.encoder.embed(samples)
    }
}

/// Embeds something small: how many numbers come of it the configs do not always say.
fn dimension(
    processor: &Processor,
    encoder: &mut EmbeddingEncoder,
    input: EmbeddingInput,
) -> Result<usize, ModelError> {
    let failed = |message: String| ModelError::FirstEmbedding { input: input.as_str(), message };
    let record = match input {
        EmbeddingInput::Text => Record { text: Some("a".to_owned()), ..Record::default() },
        EmbeddingInput::Image => Record {
            images: vec![RgbImage { width: 8, height: 8, pixels: vec![128; 8 * 8 * 3] }],
            ..Record::default()
        },
        EmbeddingInput::Audio => Record {
            audios: vec![Waveform { sample_rate_hz: 48_000, samples: vec![0.0; 48] }],
            ..Record::default()
        },
    };
    let sample = processor.prepare(&record).map_err(|error| failed(error.to_string()))?;
    match encoder.embed(&[sample]).into_iter().next() {
        Some(Ok(embedding)) if !embedding.values.is_empty() => Ok(embedding.values.len()),
        Some(Err(error)) => Err(failed(error.to_string())),
        _ => Err(failed("it is empty".to_owned())),
    }
}

/// A loaded model of either kind.
#[derive(Debug)]
pub enum Loaded {
    /// It writes texts.
    Model(Box<Model>),
    /// It makes embeddings.
    Embedder(Box<Embedder>),
}

impl From<Model> for Loaded {
    fn from(model: Model) -> Self {
        Self::Model(Box::new(model))
    }
}

impl From<Embedder> for Loaded {
    fn from(embedder: Embedder) -> Self {
        Self::Embedder(Box::new(embedder))
    }
}
